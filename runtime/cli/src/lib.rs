//! What the `netpolc` command does: its arguments, its commands, the judges they ask, and what they
//! print. This is the only place that lists the targets.
//!
//! Without the feature `command` it is judges and output alone, for the testbed's programs.
//! Not here: the agent (`netpolc-agent`), the CNI plugin (`netpolc-cni`), what policies mean
//! (`netpolc-policy`), how tables come about (`netpolc-lower`) and how targets hold them.

#[cfg(feature = "command")]
pub mod cli;
#[cfg(feature = "command")]
pub mod command;
pub mod input;
pub mod judge;
#[cfg(feature = "command")]
pub mod log;
pub mod output;
#[cfg(feature = "command")]
pub mod status;
