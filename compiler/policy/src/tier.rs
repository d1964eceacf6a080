//! ClusterNetworkPolicy: ordered rules of administrators, in tiers before and behind the
//! NetworkPolicies (S62-S74).
//!
//! Here: what such a policy says, already defaulted and checked. A rule that could not be
//! understood has been replaced by what S72 makes of it: an Accept by nobody, and a Deny or a Pass
//! by a Deny of everything. Not here: what the order makes of a packet (the oracle, and the
//! lowering).

use std::{fmt, sync::Arc};

use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer};

use crate::{Direction, Ports, Selector};

/// The API group that a ClusterNetworkPolicy is of. Both have the same kind, so that two objects of
/// one name may exist side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierApi {
    /// `policy.networking.k8s.io`, of the Kubernetes network policy working group.
    Upstream,
    /// `networking.k8s.aws`, of Amazon EKS.
    Aws,
}

impl TierApi {
    /// Both groups.
    pub const ALL: [TierApi; 2] = [TierApi::Upstream, TierApi::Aws];

    /// The group as it stands in `apiVersion`.
    pub fn group(self) -> &'static str {
        match self {
            TierApi::Upstream => "policy.networking.k8s.io",
            TierApi::Aws => "networking.k8s.aws",
        }
    }
}

/// Which ClusterNetworkPolicy is meant; prints as its name, with the group where that is AWS's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierKey {
    /// The API group.
    pub api: TierApi,
    /// The object's metadata.name.
    pub name: Arc<str>,
}

impl fmt::Display for TierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.api {
            TierApi::Upstream => f.write_str(&self.name),
            TierApi::Aws => write!(f, "{}.{}", self.name, self.api.group()),
        }
    }
}

impl TierKey {
    /// The policy that is meant by this name, as it prints.
    pub fn named(text: &str) -> Self {
        let api = TierApi::Aws;
        match text.strip_suffix(api.group()).and_then(|name| name.strip_suffix('.')) {
            Some(name) => TierKey { api, name: name.into() },
            None => TierKey { api: TierApi::Upstream, name: text.into() },
        }
    }
}

impl Serialize for TierKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Where a ClusterNetworkPolicy stands towards the NetworkPolicies (S62).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Tier {
    /// It is asked before them.
    Admin,
    /// It is asked behind them, about pods that none of them isolates.
    Baseline,
}

impl Tier {
    /// Both tiers, in the order in which they are asked.
    pub const ALL: [Tier; 2] = [Tier::Admin, Tier::Baseline];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Admin => "Admin",
            Tier::Baseline => "Baseline",
        })
    }
}

/// The place of a policy within its tier: a lower number is asked first (S63). 0 to 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Priority(u16);

impl Priority {
    /// The highest number that the API takes.
    pub const MAX: u16 = 1000;

    /// None where the API does not take the number.
    pub fn new(number: u16) -> Option<Self> {
        (number <= Self::MAX).then_some(Self(number))
    }

    /// The number in `spec.priority`.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a policy decides, or is only tried (S84).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The policy decides.
    #[default]
    Enforced,
    /// The policy changes no verdict; what it would change is recorded.
    Audited,
}

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TierPolicy {
    /// Its group and name.
    pub key: TierKey,
    /// Whether it is asked before or behind the NetworkPolicies.
    pub tier: Tier,
    /// Its place within the tier.
    pub priority: Priority,
    /// The pods that it is about.
    pub subject: Subject,
    /// Rules about what comes to them, in order.
    pub ingress: Vec<TierRule>,
    /// Rules about what they send, in order.
    pub egress: Vec<TierRule>,
    /// Whether it decides.
    pub mode: Mode,
}

impl TierPolicy {
    /// The rules about `direction`, in order.
    pub fn rules(&self, direction: Direction) -> &[TierRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The pods that a ClusterNetworkPolicy is about: both selectors match (S67). A subject that cannot
/// be understood is every pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Selects namespaces by their labels.
    pub namespaces: Selector,
    /// Selects pods in them; everything where the subject is `namespaces`.
    pub pods: Selector,
}

/// What happens to a packet that a rule matches (S63).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Action {
    /// The packet is permitted for good.
    Accept,
    /// The packet is denied for good.
    Deny,
    /// The rest of the tier is not asked.
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Accept => "Accept",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
        })
    }
}

/// One rule: traffic with one of the peers AND on one of the ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TierRule {
    /// The rule's name, where it has one.
    pub name: Option<Arc<str>>,
    /// What happens to traffic that matches.
    pub action: Action,
    /// Joined by OR; indices are those of the API object.
    pub peers: Vec<TierPeer>,
    /// The rule's `protocols` (upstream) or `ports` (AWS).
    pub ports: Ports,
}

/// One entry of `from` or `to` of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierPeer {
    /// Pods with these labels in namespaces with these. Never hostNetwork or finished pods (S67).
    Pods {
        /// Selects namespaces by their labels.
        namespaces: Selector,
        /// Selects pods in them; everything where the peer is `namespaces`.
        pods: Selector,
    },
    /// Every address in one of these, those of pods and nodes included (S71). Host bits are 0.
    Networks(Vec<IpNetwork>),
    /// All addresses of the nodes with these labels (S71).
    Nodes(Selector),
    /// Everybody: what a Deny says of a peer that could not be understood (S72).
    Anybody,
    /// Nobody: what an Accept says of a peer that could not be understood (S72).
    Nobody,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S70: policies of both groups may have one name, and what is printed tells them apart.
    #[test]
    fn s70_a_printed_name_says_which_policy_it_is() {
        for api in TierApi::ALL {
            let key = TierKey { api, name: "a.b".into() };
            assert_eq!(TierKey::named(&key.to_string()), key);
        }
    }
}
