//! A chained CNI plugin: on ADD it asks the node's agent to isolate the pod before its sandbox is
//! passed on, so that no packet of a pod passes before its policies are enforced (S56).
//!
//! - [`protocol`]: the protocol between plugin and agent, one JSON line each way over a unix socket
//! - [`config`]: the network configuration, as the plugin reads it
//! - [`ask`]: the plugin's side of the socket
//! - [`orphan`]: finds out whether the agent was uninstalled
//! - [`run`]: the CNI commands
//! - `server` (feature `server`): the agent's side of the socket
//! - `conflist` and `plugin_options` (feature `install`): add the plugin to a node's CNI
//!   configuration
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
