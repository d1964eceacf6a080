//! What the compiler is told, one change at a time.
//!
//! Not here: what follows from it ([`crate::Compiler::apply`]).

use std::sync::Arc;

use netpolc_policy::{Labels, Node, ObjectKey, Pod, Policy, Service};
use netpolc_table::{IfIndex, schema::Mac};

use crate::wire::Wire;

/// Something changed. None: it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A namespace's labels.
    Namespace {
        /// Its name.
        name: Arc<str>,
        /// Its labels.
        labels: Option<Labels>,
    },
    /// A pod.
    Pod {
        /// Its key.
        key: ObjectKey,
        /// The pod.
        pod: Option<Pod>,
    },
    /// A policy.
    Policy {
        /// Its key.
        key: ObjectKey,
        /// The policy.
        policy: Option<Policy>,
    },
    /// A node.
    Node {
        /// Its name.
        name: Arc<str>,
        /// The node.
        node: Option<Node>,
    },
    /// A Service.
    Service {
        /// Its key.
        key: ObjectKey,
        /// The Service.
        service: Option<Service>,
    },
    /// The host-side interface of a local pod.
    Interface {
        /// The pod; need not be known yet.
        pod: ObjectKey,
        /// The interface, where it has one.
        interface: Option<Interface>,
    },
    /// The node's own devices; their tunnels as they were ([`crate::Compiler::wired`]).
    Wire(Wire),
}

/// The host-side interface of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub ifindex: IfIndex,
    /// The pod's hardware address, where the interface hangs on a bridge and the address is known: no frame may
    /// come from there under another one (S55).
    pub mac: Option<Mac>,
}

impl From<IfIndex> for Interface {
    fn from(ifindex: IfIndex) -> Self {
        Self { ifindex, mac: None }
    }
}
