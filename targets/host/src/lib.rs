//! What netpolc asks the kernel besides its tables, for every target, the agent and the testbed:
//! netlink, network namespaces, links, routes, neighbours, tracked connections, sockets, and files
//! that nobody else may read.
//!
//! Not here: what is done with the answers.

pub mod conntrack;
pub mod links;
pub mod netlink;
pub mod netns;
pub mod private;
pub mod routes;
pub mod sockets;
pub mod switch;

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
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's address.
    pub local: IpAddr,
    /// Or the ICMP identifier.
    pub local_port: u16,
    /// The other end, as the pod's interface sees it.
    pub remote: IpAddr,
    /// Or the ICMP identifier.
    pub remote_port: u16,
    /// Packets went both ways.
    pub answered: bool,
    /// The opener's address before any translation: tells what was born on the node (S44).
    pub origin: IpAddr,
}
