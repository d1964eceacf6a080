//! The command line in two stages: [`raw`] is what clap reads, [`resolve`] what it means; commands see
//! only the latter.

pub mod raw;
pub mod resolve;

/// Where the tables are pinned unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/netpolc";
