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
    /// Something about security groups names what is not known: it matches nothing (S79).
    Unknown {
        /// The group, prefix list or network interface, with its kind.
        what: Arc<str>,
        /// The pod or the group that names it, with its kind.
        named_by: Arc<str>,
    },
    /// A pod's network interface has other groups than the SecurityGroupPolicies of today give it;
    /// those of the interface count (S75).
    GroupsDisagree {
        /// The pod, as `namespace/name`.
        pod: Arc<str>,
        /// The groups of its interface.
        has: Vec<Arc<str>>,
        /// The groups that the policies give it.
        given: Vec<Arc<str>>,
    },
    /// A policy that is only tried is not compared for all packets: the rows that tell the
    /// difference would exceed the share of its namespace.
    NotCompared {
        /// The policy as users name it.
        policy: Arc<str>,
    },
    /// Two ClusterNetworkPolicies of one tier and priority answer differently for some packet
    /// (S64).
    TierConflict {
        /// The policy whose answer counts.
        wins: Arc<str>,
        /// The policy whose answer is lost.
        loses: Arc<str>,
        /// The packet.
        example: Arc<str>,
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
            Diagnostic::Unknown { what, named_by } => {
                write!(
                    f,
                    "{named_by} names {what}, which is not known and therefore matches nothing"
                )
            }
            Diagnostic::GroupsDisagree { pod, has, given } => {
                let list = |ids: &[Arc<str>]| match ids.is_empty() {
                    true => "none".into(),
                    false => ids.join(", "),
                };
                write!(
                    f,
                    "the network interface of pod {pod} has the security groups {}, which count, \
                     but SecurityGroupPolicies give it {}; make the pod anew to change its groups",
                    list(has),
                    list(given)
                )
            }
            Diagnostic::TierConflict { wins, loses, example } => {
                write!(
                    f,
                    "{wins} and {loses} have one priority and answer differently for {example}: \
                     the answer of {wins} counts; give them different priorities"
                )
            }
            Diagnostic::NotCompared { policy } => {
                write!(
                    f,
                    "{policy} is only tried, and some packets are not compared with it: telling \
                     the difference exceeds the share of its namespace; try fewer policies at once"
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
