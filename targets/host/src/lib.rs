//! What netpolc asks the kernel besides its tables, for every target, the agent and the testbed:
//! netlink, network namespaces, links, routes, neighbours, tracked connections, sockets, files that
//! nobody else may read, and files that are written whole or not at all.
//!
//! All netlink sockets of netpolc are opened in [`netlink`], and threads enter network namespaces
//! in [`netns`] only; `runtime/tests/architecture.rs` holds this.
//!
//! Not here: what is done with the answers, and the calls of one target alone (bpf(2), ethtool).
#![warn(clippy::missing_errors_doc, clippy::undocumented_unsafe_blocks)]

pub mod conntrack;
pub mod files;
pub mod links;
pub mod netlink;
pub mod netns;
pub mod private;
pub mod routes;
pub mod sockets;
pub mod switch;
pub mod tc;

use std::net::IpAddr;

/// Who sent the opening packet, seen from a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opener {
    /// The pod: egress.
    Pod,
    /// The other end: ingress.
    Remote,
}

/// A running connection as the pod's interface sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// Who opened it.
    pub opener: Opener,
    /// The number of the IP protocol.
    pub protocol: u8,
    /// The pod's address.
    pub local: IpAddr,
    /// The pod's port; of ICMP the identifier.
    pub local_port: u16,
    /// The other end, as the pod's interface sees it.
    pub remote: IpAddr,
    /// The other end's port; of ICMP the identifier.
    pub remote_port: u16,
    /// Packets went both ways.
    pub answered: bool,
    /// The opener's address before any translation: tells what was born on the node (S44).
    pub origin: IpAddr,
}
