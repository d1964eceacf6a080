//! Clusters of network namespaces: nodes, their pods behind routed veth pairs, and the network
//! between the nodes, for tests and demonstrations with real packets.
//!
//! Here: single namespaces ([`Namespace`]), what a cluster consists of ([`Spec`]), the running
//! cluster ([`Net`]) and its clean-up ([`Guard`], [`sweep`]). Not here: traffic (`crate::probe`)
//! and any enforcement; a fresh cluster lets everything through.

mod cluster;
mod guard;
mod namespace;
mod spec;
mod wiring;

pub use cluster::{HostEnd, Net, Site};
pub use guard::{Guard, PREFIX, sweep};
pub use namespace::{Namespace, RUN_DIR, interface_index};
pub use spec::{NodeSpec, OutsideSpec, PodSpec, Spec};

/// Why a namespace cluster cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The effective user is not root.
    #[error(
        "network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN): run this as root, for \
         example with sudo"
    )]
    NotRoot,
    /// A system call or a program failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried, on what.
        what: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// `ip -batch` refused a line.
    #[error("ip in {namespace}: {message}")]
    Refused {
        /// The namespace it ran in.
        namespace: String,
        /// What it said, with the line.
        message: String,
    },
    /// The cluster has no such node, pod or outside host, or has it already.
    #[error("{0}")]
    Name(String),
}

impl Error {
    pub(crate) fn system(what: String, source: std::io::Error) -> Self {
        Error::System { what, source }
    }
}
