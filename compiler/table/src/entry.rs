//! Entries: an action with its parameters, and where the entry comes from.

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::schema::ActionId;

/// What a matching key does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One of the table's actions.
    pub action: ActionId,
    /// The action's parameters in its order; unused places are 0. Read by the views of
    /// [`crate::schema`].
    pub(crate) params: [u64; 4],
    /// Where it comes from; sorted, each once. Targets need not keep it: what is read back from a
    /// kernel has none.
    pub origins: Origins,
}

impl Entry {
    /// An entry without origins.
    pub fn new(action: ActionId, params: [u64; 4]) -> Self {
        Self { action, params, origins: Origins::default() }
    }

    /// The parameters as they stand in the table, for what is checked or shown whatever it means:
    /// what they mean is for the views of [`crate::schema`].
    pub fn params(&self) -> &[u64; 4] {
        &self.params
    }

    /// The same without origins, as a target gives it back.
    pub fn bare(&self) -> Self {
        Self::new(self.action, self.params)
    }

    /// The same with origins, which are sorted here.
    pub fn from(mut self, origins: impl IntoIterator<Item = Origin>) -> Self {
        self.origins = origins.into_iter().collect();
        self
    }

    /// The same with the origins of another entry.
    pub fn with(self, origins: Origins) -> Self {
        Self { origins, ..self }
    }

    /// Do both do the same, wherever they come from?
    pub fn same_action(&self, other: &Entry) -> bool {
        self.action == other.action && self.params == other.params
    }
}

/// A shared, sorted list of origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Option<Arc<[Origin]>>);

impl Origins {
    /// The origins, sorted, each once; empty where none is known.
    pub fn as_slice(&self) -> &[Origin] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl FromIterator<Origin> for Origins {
    fn from_iter<I: IntoIterator<Item = Origin>>(origins: I) -> Self {
        let mut list: Vec<Origin> = origins.into_iter().collect();
        list.sort();
        list.dedup();
        Origins(if list.is_empty() { None } else { Some(list.into()) })
    }
}

/// Where an entry comes from. `policy`, `pod` and `node` are names as users write them
/// (`namespace/name`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A policy isolates: the reason of a default deny.
    Isolates {
        /// The policy's `namespace/name`.
        policy: Arc<str>,
    },
    /// No policy isolates in the direction of the set, and the pod's namespace isolates by default
    /// (S90).
    ByDefault,
    /// A part of a policy's rule. Indices are those of the API object, from 0.
    Rule {
        /// The policy's `namespace/name`.
        policy: Arc<str>,
        /// `ingress[i]` or `egress[i]`, by the direction of the set it stands in.
        rule: u32,
        /// `from[i]` or `to[i]`; None where the rule has no peers (any).
        peer: Option<u32>,
        /// `ports[i]`; None where the rule has no ports (any), or where the entry speaks of peers
        /// only.
        port: Option<u32>,
    },
    /// A rule of a ClusterNetworkPolicy that decides.
    Tier {
        /// The policy's tier.
        tier: TierName,
        /// The policy's name, with its group where that is not the upstream one.
        policy: Arc<str>,
        /// `ingress[i]` or `egress[i]`, by the direction of the set it stands in.
        rule: u32,
        /// What the rule does.
        action: TierAction,
    },
    /// A security group.
    Group {
        /// The group's id.
        group: Arc<str>,
        /// The rule that permits, by its id where that is known; None: the pod has the group, which
        /// denies what none of its rules permits.
        rule: Option<Arc<str>>,
    },
    /// A policy that is only tried, and that would change the verdict (S85).
    Tried {
        /// The policy as users write its name, with its kind where it is no NetworkPolicy.
        policy: Arc<str>,
    },
    /// A pod's own address or interface.
    Pod {
        /// The pod's `namespace/name`.
        pod: Arc<str>,
    },
    /// A node's address.
    Node {
        /// The node's name.
        node: Arc<str>,
    },
    /// The API itself, or netpolc's semantics: names the reason, such as `own node (S45)`.
    Implied {
        /// The reason in words, mostly with an item of docs/semantics.md.
        reason: Arc<str>,
    },
}

/// The tier of a ClusterNetworkPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(missing_docs)] // The tiers have these names.
pub enum TierName {
    Admin,
    Baseline,
}

impl TierName {
    /// Both tiers.
    pub const ALL: [TierName; 2] = [TierName::Admin, TierName::Baseline];
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TierName::Admin => "Admin",
            TierName::Baseline => "Baseline",
        })
    }
}

/// What a rule of a ClusterNetworkPolicy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(missing_docs)] // The actions have these names.
pub enum TierAction {
    Accept,
    Deny,
    Pass,
}

impl TierAction {
    /// All actions.
    pub const ALL: [TierAction; 3] = [TierAction::Accept, TierAction::Deny, TierAction::Pass];
}

impl fmt::Display for TierAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TierAction::Accept => "Accept",
            TierAction::Deny => "Deny",
            TierAction::Pass => "Pass",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Isolates { policy } => write!(f, "isolates {policy}"),
            Origin::ByDefault => f.write_str("isolated by default"),
            Origin::Rule { policy, rule, peer, port } => {
                write!(f, "{policy} rule[{rule}]")?;
                if let Some(i) = peer {
                    write!(f, " peer[{i}]")?;
                }
                if let Some(i) = port {
                    write!(f, " port[{i}]")?;
                }
                Ok(())
            }
            Origin::Tier { tier, policy, rule, action } => {
                write!(f, "{tier} {policy} rule[{rule}] {action}")
            }
            Origin::Group { group, rule: None } => write!(f, "group {group}"),
            Origin::Group { group, rule: Some(rule) } => write!(f, "group {group} {rule}"),
            Origin::Tried { policy } => write!(f, "tried {policy}"),
            Origin::Pod { pod } => write!(f, "pod {pod}"),
            Origin::Node { node } => write!(f, "node {node}"),
            Origin::Implied { reason } => write!(f, "implied {reason}"),
        }
    }
}
