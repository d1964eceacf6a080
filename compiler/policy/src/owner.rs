//! The workload that a pod belongs to, so that people can speak of `Deployment web` and not of its
//! pods. No verdict depends on it. Not here: how it is read from a pod's ownerReferences
//! (kube-sync).

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// A workload, by its kind and name; it is in the namespace of its pods. Prints as
/// `Deployment web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Owner {
    /// The workload's kind.
    pub kind: OwnerKind,
    /// The workload's metadata.name.
    pub name: Arc<str>,
}

/// The kind of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// `Deployment` of apps/v1.
    Deployment,
    /// `StatefulSet` of apps/v1.
    StatefulSet,
    /// `DaemonSet` of apps/v1, which has a pod on each node.
    DaemonSet,
    /// `ReplicaSet` of apps/v1 that belongs to no Deployment.
    ReplicaSet,
    /// `ReplicationController` of v1.
    ReplicationController,
    /// `Job` of batch/v1 that belongs to no CronJob.
    Job,
    /// `CronJob` of batch/v1.
    CronJob,
    /// Any other kind, by its name, such as one of another engine.
    Other(Arc<str>),
}

impl OwnerKind {
    /// The kinds whose template says what their pods are, in the order in which messages have them.
    pub const WORKLOADS: [OwnerKind; 7] = [
        OwnerKind::Deployment,
        OwnerKind::StatefulSet,
        OwnerKind::DaemonSet,
        OwnerKind::ReplicaSet,
        OwnerKind::ReplicationController,
        OwnerKind::Job,
        OwnerKind::CronJob,
    ];

    /// The kind's name, as objects carry it in `kind`.
    pub fn name(&self) -> &str {
        match self {
            OwnerKind::Deployment => "Deployment",
            OwnerKind::StatefulSet => "StatefulSet",
            OwnerKind::DaemonSet => "DaemonSet",
            OwnerKind::ReplicaSet => "ReplicaSet",
            OwnerKind::ReplicationController => "ReplicationController",
            OwnerKind::Job => "Job",
            OwnerKind::CronJob => "CronJob",
            OwnerKind::Other(name) => name,
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Self {
        let known = Self::WORKLOADS.into_iter().find(|kind| kind.name() == name);
        known.unwrap_or_else(|| OwnerKind::Other(name.into()))
    }
}

impl fmt::Display for OwnerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for OwnerKind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_what_its_name_says() {
        for kind in OwnerKind::WORKLOADS {
            assert_eq!(OwnerKind::named(kind.name()), kind);
        }
        let rollout = Owner { kind: OwnerKind::named("Rollout"), name: "web".into() };
        assert_eq!(rollout.to_string(), "Rollout web");
    }
}
