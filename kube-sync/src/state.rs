//! What a node reports about one policy, in its agent's state file and in the resource
//! NodePolicyStatus.

use serde::{Deserialize, Serialize};

/// The state of one policy on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    /// The policy, as `namespace/name`.
    pub policy: String,
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
