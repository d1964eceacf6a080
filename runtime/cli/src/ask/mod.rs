//! Questions that people ask about a cluster, in the words in which they ask them.
//!
//! Here: the ends of a connection as they are written ([`end`]), ports ([`port`]), whole questions
//! ([`question`]), answers with the way to them ([`story`]), what this node's kernel makes of a
//! packet ([`installed`]), names of units ([`names`]), and what `list` and `diff` print. Not here:
//! the answers themselves (`netpolc-analyze`, the oracle).

pub mod end;
pub mod graph;
pub mod installed;
pub mod names;
pub mod page;
pub mod port;
pub mod question;
pub mod rows;
pub mod story;
pub mod tell;

use netpolc_kube_sync::{ObjectId, ObjectKind};
use netpolc_policy::{ObjectKey, TierKey};

pub use self::names::{By, Names};

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
