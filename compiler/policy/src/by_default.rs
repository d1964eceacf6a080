//! What becomes of a direction of a pod in which no NetworkPolicy isolates it (S90).
//!
//! Not here: what a namespace says about that itself ([`crate::Namespace`]), and who answers
//! ([`crate::oracle`]).

use std::{collections::BTreeSet, sync::Arc};

/// Whether a direction of a pod that no NetworkPolicy isolates is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unselected {
    /// It is not judged by NetworkPolicies, as Kubernetes has it.
    #[default]
    Open,
    /// It is isolated, as if a policy without rules selected the pod.
    Isolated,
}

/// What holds for the pods of namespaces that do not say so themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ByDefault {
    /// For the pods of all namespaces but the exempt ones.
    pub unselected: Unselected,
    /// Namespaces that are open where they do not say otherwise. They need not exist.
    pub except: BTreeSet<Arc<str>>,
}
