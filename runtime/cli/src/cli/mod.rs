//! The command line, in two stages: [`raw`] is what clap parses, and [`resolve`] turns it into a
//! [`request`], which is all that commands see.

pub mod agent;
pub mod ask;
pub mod flows;
pub mod hubble;
pub mod lint;
pub mod raw;
pub mod recommend;
pub mod request;
pub mod resolve;

/// The default folder in which the tables are pinned.
pub const PIN_DIR: &str = "/sys/fs/bpf/netpolc";
