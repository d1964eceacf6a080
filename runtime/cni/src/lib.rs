//! A chained CNI plugin: on ADD it asks the node's agent to isolate and program the pod before its sandbox is handed on, so
//! that no packet of a pod passes before its policies hold (S56).
//!
//! - [`protocol`]: what plugin and agent say to each other, one JSON line each way over a unix socket
//! - [`config`]: the network configuration as the plugin reads it
//! - [`orphan`]: was the agent uninstalled?
//! - [`run`]: the CNI commands
//! - `server`, a feature: the agent's side of the socket
//! - `conflist`, a feature: puts the plugin into a node's CNI configuration
//!
//! Not here: any decision about packets.
//! Source: the CNI specification 1.1, sections 2 to 5.

pub mod ask;
pub mod config;
#[cfg(feature = "install")]
pub mod conflist;
pub mod orphan;
#[cfg(feature = "install")]
pub mod plugin_options;
pub mod protocol;
pub mod run;
#[cfg(feature = "server")]
pub mod server;
