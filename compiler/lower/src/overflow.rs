//! What the compiler has to say besides tables: that ids ran out, and what users should know.
//!
//! Not here: which namespace needs how many of the ids (`usage`).

use std::{fmt, net::IpAddr, sync::Arc};

/// No id is left. What is enforced stays as it is; this compiler answers nothing but this from now
/// on, and a new one may be tried after objects went away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {capacity} {what} on one node: fewer distinct policies or peers are needed")]
pub struct Overflow {
    /// What there are too many of.
    pub what: Numbered,
    /// How many there may be.
    pub capacity: u32,
}

/// What gets ids, of which a target can hold only so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// Pods of the node.
    Endpoints,
    /// Policy sets.
    Sets,
    /// Classes of IPv4 addresses.
    ClassesV4,
    /// Classes of IPv6 addresses.
    ClassesV6,
    /// Rows.
    Rows,
    /// Port classes.
    PortClasses,
}

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Numbered::Endpoints => "endpoints",
            Numbered::Sets => "policy sets",
            Numbered::ClassesV4 => "IPv4 classes",
            Numbered::ClassesV6 => "IPv6 classes",
            Numbered::Rows => "rows",
            Numbered::PortClasses => "port classes",
        })
    }
}

/// Something that users should know; enforcement is exact all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Diagnostic {
    /// Several active pods have one address: it is a member only of peers that select all of them.
    AddressConflict {
        /// The address that they share.
        address: IpAddr,
        /// The pods, as `namespace/name`.
        pods: Vec<Arc<str>>,
    },
    /// The node has no endpoint for a pod: it is not enforced.
    NoEndpoint {
        /// The pod, as `namespace/name`.
        pod: Arc<str>,
        /// How many pods the target can hold.
        capacity: u32,
    },
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Diagnostic::AddressConflict { address, pods } => {
                write!(
                    f,
                    "pods {} share the address {address}: only peers that select all of them match \
                     it",
                    pods.join(", ")
                )
            }
            Diagnostic::NoEndpoint { pod, capacity } => {
                write!(
                    f,
                    "pod {pod} is not enforced: the tables hold {capacity} pods of this node; make \
                     them with room for more"
                )
            }
        }
    }
}
