//! What a node says of one policy: in its agent's record, and in the resource NodePolicyStatus.

use serde::{Deserialize, Serialize};

/// One policy's state on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    /// `namespace/name`
    pub policy: String,
    /// metadata.generation of what is enforced, where the objects come from an API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Pods of this node that it selects.
    pub pods: usize,
    /// Entries of the tables that it has a part in.
    pub entries: usize,
    /// What is wrong with it: its broken parts allow nothing.
    pub errors: usize,
}
