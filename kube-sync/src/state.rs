//! What a node reports about one policy, in its agent's state file and in the resource
//! NodePolicyStatus.

use serde::{Deserialize, Serialize};

/// What kind of object a policy is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum PolicyKind {
    /// A NetworkPolicy.
    #[default]
    NetworkPolicy,
    /// A ClusterNetworkPolicy of either group.
    ClusterNetworkPolicy,
    /// A security group.
    SecurityGroup,
}

/// The state of one policy on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    /// The policy: a NetworkPolicy as `namespace/name`, a ClusterNetworkPolicy by its name, a
    /// security group by its id.
    pub policy: String,
    /// What kind of object it is.
    #[serde(default)]
    pub kind: PolicyKind,
    /// The metadata.generation that is enforced; None where the objects come from files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// How many pods of this node the policy selects.
    pub pods: usize,
    /// How many table entries exist because of the policy, at least in part.
    pub entries: usize,
    /// How many errors the policy has: its broken parts allow nothing.
    pub errors: usize,
}
