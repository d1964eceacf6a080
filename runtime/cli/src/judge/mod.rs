//! Judges, which answer "may this source talk to that destination?", each in its own way, so that
//! their answers can be compared.
//!
//! Here: the trait, answers, and the choice by name. [`oracle`] evaluates the policies, [`tables`]
//! the compiled tables, [`datapath`] sends packets through a target ([`mem`] or [`ebpf`]), and
//! [`flower`] through filters. Not here: reading questions (`crate::command::eval`).

pub mod datapath;
pub mod ebpf;
pub mod flower;
pub mod mem;
pub mod oracle;
pub mod tables;

use netpolc_policy::{Cluster, ObjectKey, oracle::Question};
use serde::Serialize;

/// The judges by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "command", derive(clap::ValueEnum))]
pub enum JudgeName {
    /// Straight from the policies
    Oracle,
    /// The compiled tables
    Tables,
    /// The reference datapath in user space
    Mem,
    /// The generated eBPF programs, in the kernel, without a network (needs root)
    Ebpf,
    /// The filters of software flower, interpreted
    Flower,
}

/// Answers questions about one cluster.
pub trait Judge {
    /// The name by which users choose the judge.
    fn name(&self) -> &'static str;

    /// Answers one question. Earlier questions have no influence.
    ///
    /// # Errors
    /// The question cannot be put as a packet (it has two address families, or no port where the
    /// protocol needs one), or the target fails.
    fn judge(&mut self, question: &Question) -> Result<Answer, Error>;
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question cannot be put as a packet.
    #[error("{0}")]
    Question(String),
    /// The cluster needs more ids than there are.
    #[error(transparent)]
    Overflow(#[from] netpolc_lower::Overflow),
    /// An update could not be planned.
    #[error(transparent)]
    Exhausted(#[from] netpolc_table::delta::Exhausted),
    /// The tables could not be installed.
    #[error(transparent)]
    Install(#[from] netpolc_target::Failed),
    /// Software flower cannot enforce the policies.
    #[error(transparent)]
    Refused(#[from] netpolc_target_flower::lowered::Refused),
    /// The target failed.
    #[error(transparent)]
    Target(#[from] netpolc_target::Error),
}

/// An answer: a packet passes if both sides allow it (S7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether both sides allow the packet.
    pub allowed: bool,
    /// The verdict of the source's egress policies.
    pub egress: Side,
    /// The verdict of the destination's ingress policies.
    pub ingress: Side,
}

impl Answer {
    fn of(egress: Side, ingress: Side) -> Self {
        Answer { allowed: egress.allowed && ingress.allowed, egress, ingress }
    }
}

/// The verdict of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Whether this side allows the packet.
    pub allowed: bool,
    /// The pod whose policies decide; None where the party is not a pod to which policies apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectKey>,
    /// The reason of the verdict.
    pub reason: Reason,
    /// The rules that allow the packet, or, where it is denied, the policies that isolate the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Place>,
}

impl Side {
    /// The verdict of a side without policies.
    pub fn not_policed() -> Self {
        Side { allowed: true, pod: None, reason: Reason::NotPoliced, by: vec![] }
    }

    /// The first denial among several sides, or else the first side (S16: every pod that claims an
    /// address must allow the packet).
    fn strictest(sides: Vec<Side>) -> Side {
        let at = sides.iter().position(|s| !s.allowed).unwrap_or(0);
        sides.into_iter().nth(at).unwrap_or_else(Side::not_policed)
    }
}

/// The reason why a side allows or denies a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The party is not an active pod with a network of its own (S13, S15).
    NotPoliced,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// The pod talks with itself (S47).
    OwnPod,
    /// The remote is the pod's own node (S44, S45).
    OwnNode,
    /// A rule allows the packet.
    Allowed,
    /// The pod is isolated, and no rule allows the packet.
    Denied,
    /// The destination is a Service's address. Its backend decides (S48), but the question names
    /// none.
    Service,
    /// The packet was dropped for a reason other than policy, which is in `by`.
    Dropped,
}

/// What has decided about a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// A part of a rule. The indices are those in the API object, from 0.
    Rule {
        /// The policy, as `namespace/name`.
        policy: String,
        /// The index in `ingress` or `egress`.
        rule: u32,
        /// The index in `from` or `to`; None where the rule lists no peers.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<u32>,
        /// The index in `ports`; None where the rule lists no ports.
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u32>,
    },
    /// A rule of a ClusterNetworkPolicy. Its index is that in the API object, from 0.
    Tier {
        /// Admin or Baseline.
        tier: String,
        /// The policy's name, with its group where that is not the upstream one.
        policy: String,
        /// The index in `ingress` or `egress`.
        rule: u32,
        /// Accept, Deny or Pass.
        action: String,
    },
    /// A security group that the pod has, or a rule of one.
    Group {
        /// The group's id.
        group: String,
        /// The rule's id, where a rule has decided and its id is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// A policy that isolates the pod.
    Policy {
        /// The policy, as `namespace/name`.
        policy: String,
    },
    /// Something other than a policy, in words.
    Other {
        /// The description of what has decided.
        implied: String,
    },
}

impl Place {
    /// What denies a protocol that leads into a tunnel, to every destination (S45).
    pub fn tunnel() -> Self {
        Place::Other { implied: "the protocol leads into a tunnel (S45)".into() }
    }

    /// The default that isolates pods which no policy selects (S90).
    pub fn by_default() -> Self {
        let implied = "isolated by default: no policy selects the pod for this direction (S90)";
        Place::Other { implied: implied.into() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Rule { policy, rule, peer, port } => {
                write!(f, "{policy} rule {rule}")?;
                for (name, index) in [("peer", peer), ("port", port)] {
                    if let Some(index) = index {
                        write!(f, " {name} {index}")?;
                    }
                }
                Ok(())
            }
            Place::Tier { tier, policy, rule, action } => {
                write!(f, "{tier} {policy} rule {rule} {action}")
            }
            Place::Group { group, rule: None } => f.write_str(group),
            Place::Group { group, rule: Some(rule) } => write!(f, "{group} {rule}"),
            Place::Policy { policy } => f.write_str(policy),
            Place::Other { implied } => f.write_str(implied),
        }
    }
}

/// Opens the judge of this name for a cluster.
///
/// # Errors
/// The tables cannot be compiled or installed. For ebpf also: the kernel has no eBPF, or this user
/// may not load programs.
pub fn open(name: JudgeName, cluster: &Cluster) -> Result<Box<dyn Judge + '_>, Error> {
    Ok(match name {
        JudgeName::Oracle => Box::new(oracle::Oracle::new(cluster)),
        JudgeName::Tables => Box::new(tables::Tables::new(cluster)?),
        JudgeName::Mem => Box::new(mem::open(cluster)?),
        JudgeName::Ebpf => Box::new(ebpf::open(cluster)?),
        JudgeName::Flower => Box::new(flower::open(cluster)?),
    })
}
