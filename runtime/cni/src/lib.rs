//! A chained CNI plugin: on ADD it asks the node's agent to isolate and program the pod before its sandbox is handed on, so
//! that no packet of a pod passes before its policies hold (S56).
//!
//! - [`protocol`]: what plugin and agent say to each other, one JSON line each way over a unix socket
//! - [`config`]: the network configuration as the plugin reads it
//! - [`orphan`]: was the agent uninstalled?
//! - [`run`]: the CNI commands
//!
//! Not here: the agent's side of the socket (runtime), and any decision about packets.
//! Source: the CNI specification 1.1, sections 2 to 5.

pub mod ask;
pub mod config;
pub mod orphan;
pub mod protocol;
pub mod run;
