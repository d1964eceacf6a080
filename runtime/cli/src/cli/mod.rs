//! The command line in two stages: [`raw`] is what clap reads, and [`resolve`] makes of it what is
//! asked for, a [`request`], which is all that commands see.

pub mod raw;
pub mod request;
pub mod resolve;

/// Where the tables are pinned unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/netpolc";
