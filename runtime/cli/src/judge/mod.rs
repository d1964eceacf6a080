//! Judges: who answers "may this source talk to that destination?", each in its own way, so that they
//! can be held against each other.
//!
//! Here: the trait, answers, and the choice by name. [`oracle`] asks the policies, [`tables`] the compiled
//! tables, [`datapath`] sends made-up packets through a target: [`mem`] or [`ebpf`]; [`flower`] through filters.
//! Not here: reading questions from people (`crate::command::eval`).

pub mod datapath;
pub mod ebpf;
pub mod flower;
pub mod mem;
pub mod oracle;
pub mod tables;

use netpolc_policy::{Cluster, ObjectKey, oracle::Question};
use serde::Serialize;

/// Who answers questions.
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
    /// As users name it.
    fn name(&self) -> &'static str;

    /// Answers one question. What was asked before does not matter.
    ///
    /// # Errors
    /// Where the question cannot be put (two address families, a protocol without its port), or the target fails.
    fn judge(&mut self, question: &Question) -> Result<Answer, Error>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The question makes no packet.
    #[error("{0}")]
    Question(String),
    /// The cluster is too big for tables.
    #[error(transparent)]
    Overflow(#[from] netpolc_lower::Overflow),
    /// An update could not be planned.
    #[error(transparent)]
    Exhausted(#[from] netpolc_table::delta::Exhausted),
    /// The tables could not be installed.
    #[error(transparent)]
    Install(#[from] netpolc_target::Failed),
    /// Software flower cannot enforce it.
    #[error(transparent)]
    Refused(#[from] netpolc_target_flower::lowered::Refused),
    /// The target failed.
    #[error(transparent)]
    Target(#[from] netpolc_target::Error),
}

/// An answer: both sides must allow (S7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Both sides allow it.
    pub allowed: bool,
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
}

impl Answer {
    fn of(egress: Side, ingress: Side) -> Self {
        Answer { allowed: egress.allowed && ingress.allowed, egress, ingress }
    }
}

/// What one side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// It lets the packet through.
    pub allowed: bool,
    /// The pod that was asked, where the party is one with policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectKey>,
    /// Why.
    pub reason: Reason,
    /// The rules that allow it, or the policies that isolate where it is denied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Place>,
}

impl Side {
    /// A side without policies.
    pub fn not_policed() -> Self {
        Side { allowed: true, pod: None, reason: Reason::NotPoliced, by: vec![] }
    }

    /// The denial among several sides, else the first (S16: every claimant of an address must allow).
    fn strictest(sides: Vec<Side>) -> Side {
        let at = sides.iter().position(|s| !s.allowed).unwrap_or(0);
        sides.into_iter().nth(at).unwrap_or_else(Side::not_policed)
    }
}

/// Why a side allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Not an active pod with a network of its own (S13, S15).
    NotPoliced,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// The pod talks with itself (S47).
    OwnPod,
    /// The pod's own node (S44, S45).
    OwnNode,
    /// A rule allows it.
    Allowed,
    /// Isolated, and no rule allows it.
    Denied,
    /// A Service's address: its backend decides (S48), and the question names none.
    Service,
    /// A packet was dropped for another reason than policy; which one stands in `by`.
    Dropped,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// A part of a rule; indices are those of the API object.
    Rule {
        /// `namespace/name`
        policy: String,
        /// Of `ingress` or `egress`.
        rule: u32,
        /// Of `from` or `to`; absent where the rule lists none.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<u32>,
        /// Of `ports`; absent where the rule lists none.
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u32>,
    },
    /// A policy that isolates.
    Policy {
        /// `namespace/name`
        policy: String,
    },
    /// Something other than a policy, in words.
    Other {
        /// What.
        implied: String,
    },
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
            Place::Policy { policy } => f.write_str(policy),
            Place::Other { implied } => f.write_str(implied),
        }
    }
}

/// The judge of this name for a cluster.
///
/// # Errors
/// Tables that cannot be compiled or installed; for ebpf also a kernel or user that may not load programs.
pub fn open(name: JudgeName, cluster: &Cluster) -> Result<Box<dyn Judge + '_>, Error> {
    Ok(match name {
        JudgeName::Oracle => Box::new(oracle::Oracle::new(cluster)),
        JudgeName::Tables => Box::new(tables::Tables::new(cluster)?),
        JudgeName::Mem => Box::new(mem::open(cluster)?),
        JudgeName::Ebpf => Box::new(ebpf::open(cluster)?),
        JudgeName::Flower => Box::new(flower::open(cluster)?),
    })
}
