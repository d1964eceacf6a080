//! Questions that people ask about a cluster, in the words in which they ask them.
//!
//! Here: the ends of a connection as they are written ([`end`]), ports ([`port`]), answers with the
//! way to them ([`story`]), what this node's kernel makes of a packet ([`installed`]), names, and
//! what `list` and `diff` print. Not here: the answers themselves (`netpolc-analyze`, the oracle).

pub mod end;
pub mod graph;
pub mod installed;
pub mod page;
pub mod port;
pub mod rows;
pub mod story;
pub mod tell;

use std::sync::Arc;

use netpolc_kube_sync::{ObjectId, ObjectKind};
use netpolc_policy::{ObjectKey, Pod, TierKey};

/// How pods are put together in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The pods of a workload
    Workload,
    /// The pods of a namespace
    Namespace,
    /// Each pod by itself
    Pod,
}

impl By {
    /// The name of the unit that a pod belongs to.
    pub fn name(self, pod: &Pod) -> Arc<str> {
        let namespace = &pod.key.namespace;
        match (self, &pod.owner) {
            (By::Namespace, _) => namespace.clone(),
            (By::Workload, Some(owner)) => format!("{namespace}/{}", owner.name).into(),
            (By::Workload, None) | (By::Pod, _) => pod.key.to_string().into(),
        }
    }
}

/// The NetworkPolicy of this key, as an object of the input.
pub fn policy_object(key: &ObjectKey) -> ObjectId {
    ObjectId { kind: ObjectKind::Policy, key: key.clone() }
}

/// The ClusterNetworkPolicy of this key, as an object of the input.
pub fn tier_object(key: &TierKey) -> ObjectId {
    let name = ObjectKey::new("", key.name.clone());
    ObjectId { kind: ObjectKind::Tier(key.api), key: name }
}

/// The security group of this id, as an object of the input.
pub fn group_object(id: &str) -> ObjectId {
    ObjectId { kind: ObjectKind::Group, key: ObjectKey::new("", id) }
}
