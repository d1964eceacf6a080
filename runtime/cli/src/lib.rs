//! The library of the `netpolc` command: its arguments and commands, the judges that they ask, and
//! the output that they print. This is the only place that lists the targets.
//!
//! Without the feature `command` it consists of judges and output alone, for the testbed's
//! programs.
//!
//! Not here: the agent (`netpolc-agent`), the CNI plugin (`netpolc-cni`), the meaning of policies
//! (`netpolc-policy`), the compiler (`netpolc-lower`), and the targets.

#[cfg(feature = "command")]
pub mod ask;
#[cfg(feature = "command")]
pub mod cli;
#[cfg(feature = "command")]
pub mod command;
#[cfg(feature = "command")]
pub mod input;
pub mod judge;
#[cfg(feature = "command")]
pub mod log;
pub mod output;
#[cfg(feature = "command")]
pub mod status;
