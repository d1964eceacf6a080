//! The oracle's answer where ClusterNetworkPolicies are about a pod: the Admin tier, then the
//! NetworkPolicies, then the Baseline tier, then permission (S62-S74).
//!
//! An address that several pods claim must get no more than each of them would. So an Accept
//! matches it only where all of them match, and a Deny where any of them does; a Pass passes it on
//! where all of them match, and denies it where only some do.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use super::{Case, Reason, selected};
use crate::{
    Action, Cluster, Direction, Mode, Pod, Port, Ports, Priority, Selector, Tier, TierKey,
    TierPeer, TierPolicy, TierRule,
};

/// A rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TierPlace {
    /// The policy's tier.
    pub tier: Tier,
    /// The policy that holds the rule.
    pub policy: TierKey,
    /// The index of the rule in `ingress` or `egress`, from 0.
    pub rule: usize,
    /// What the rule does.
    pub action: Action,
}

impl fmt::Display for TierPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tier, policy, rule, action } = self;
        write!(f, "{tier} {policy} rule {rule} {action}")
    }
}

/// Is some rule of a tier about this side of the pod? None of the Baseline tier is about a pod that
/// NetworkPolicies isolate (S65).
pub(super) fn concern(case: &Case) -> bool {
    let has_rules = |tier| {
        of_tier(case, tier).into_iter().any(|policy| !policy.rules(case.direction).is_empty())
    };
    has_rules(Tier::Admin) || has_rules(Tier::Baseline) && super::by_policies(case).is_none()
}

/// The answer, and the rules that passed the packet on before it.
pub(super) fn decide(
    case: &Case,
    by_policies: impl FnOnce() -> Option<Reason>,
) -> (Reason, Vec<TierPlace>) {
    let mut passed = Vec::new();
    if let Some(reason) = in_tier(case, Tier::Admin, &mut passed) {
        return (reason, passed);
    }
    if let Some(reason) = by_policies() {
        return (reason, passed);
    }
    let reason = in_tier(case, Tier::Baseline, &mut passed);
    (reason.unwrap_or(Reason::NotIsolated), passed)
}

/// What a tier decides; None where nothing in it matches, or something passes the packet on.
fn in_tier(case: &Case, tier: Tier, passed: &mut Vec<TierPlace>) -> Option<Reason> {
    let policies = of_tier(case, tier);
    let priorities: BTreeSet<Priority> = policies.iter().map(|policy| policy.priority).collect();
    for priority in priorities {
        let here = policies.iter().filter(|policy| policy.priority == priority);
        let answers: Vec<TierPlace> = here.filter_map(|policy| first_match(case, policy)).collect();
        let with = |action| answers.iter().filter(move |place| place.action == action).cloned();
        let denials: Vec<TierPlace> = with(Action::Deny).collect();
        if !denials.is_empty() {
            return Some(Reason::Refused(denials));
        }
        if let Some(place) = with(Action::Accept).next() {
            return Some(Reason::Accepted(place));
        }
        if let Some(place) = with(Action::Pass).next() {
            passed.push(place);
            return None;
        }
    }
    None
}

/// The policies of a tier that are about the pod, in order.
fn of_tier<'a>(case: &Case<'a>, tier: Tier) -> Vec<&'a TierPolicy> {
    let policies = case.cluster.tiers.values();
    let of_tier = policies.filter(|p| p.tier == tier && p.mode == Mode::Enforced);
    of_tier.filter(|policy| policy.is_about(case.cluster, case.pod)).collect()
}

impl TierPolicy {
    /// Whether the policy is about the pod (S67), whatever it decides there.
    pub fn is_about(&self, cluster: &Cluster, pod: &Pod) -> bool {
        let subject = &self.subject;
        pod.is_policed() && selected(cluster, pod, &subject.namespaces, &subject.pods)
    }
}

/// The first rule of the policy that matches, with what it does here (S63).
fn first_match(case: &Case, policy: &TierPolicy) -> Option<TierPlace> {
    let place =
        |rule, action| TierPlace { tier: policy.tier, policy: policy.key.clone(), rule, action };
    for (index, rule) in policy.rules(case.direction).iter().enumerate() {
        match rule.action {
            Action::Accept if matches(case, rule, Claimants::All) => {
                return Some(place(index, Action::Accept));
            }
            Action::Deny if matches(case, rule, Claimants::Any) => {
                return Some(place(index, Action::Deny));
            }
            Action::Pass if matches(case, rule, Claimants::All) => {
                return Some(place(index, Action::Pass));
            }
            Action::Pass if matches(case, rule, Claimants::Any) => {
                return Some(place(index, Action::Deny));
            }
            Action::Accept | Action::Deny | Action::Pass => {}
        }
    }
    None
}

/// How many of the pods that claim an address have to match.
#[derive(Clone, Copy)]
enum Claimants {
    All,
    Any,
}

impl Claimants {
    fn hold(self, pods: &[&Pod], mut holds: impl FnMut(&Pod) -> bool) -> bool {
        match self {
            Claimants::All => !pods.is_empty() && pods.iter().all(|pod| holds(pod)),
            Claimants::Any => pods.iter().any(|pod| holds(pod)),
        }
    }
}

fn matches(case: &Case, rule: &TierRule, among: Claimants) -> bool {
    let remote = case.cluster.claimants(case.remote);
    let peer = |peer: &TierPeer| match peer {
        TierPeer::Pods { namespaces, pods } => {
            among.hold(&remote, |pod| selected(case.cluster, pod, namespaces, pods))
        }
        TierPeer::Networks(networks) => networks.iter().any(|n| n.contains(case.remote)),
        TierPeer::Nodes(selector) => has_node(case, selector),
        TierPeer::Anybody => true,
        TierPeer::Nobody => false,
    };
    rule.peers.iter().any(peer) && ports_match(case, &rule.ports, &remote, among)
}

/// S71: is the remote an address of a node with such labels?
fn has_node(case: &Case, selector: &Selector) -> bool {
    let mut nodes = case.cluster.nodes.values();
    nodes.any(|node| node.addresses.contains(&case.remote) && selector.matches(&node.labels))
}

/// S69
fn ports_match(case: &Case, ports: &Ports, remote: &[&Pod], among: Claimants) -> bool {
    let Ports::Listed(list) = ports else { return true };
    let Some(asked) = case.protocol.protocol() else { return false };
    let named = |name: &str| {
        let Some(number) = case.port else { return false };
        let stands_for = |pod: &Pod| pod.resolve_port(asked, name).contains(&number);
        match case.direction {
            Direction::Ingress => stands_for(case.pod),
            Direction::Egress => among.hold(remote, stands_for),
        }
    };
    list.iter().any(|port| match port {
        Port::Every(protocol) => *protocol == asked,
        Port::Range { protocol, first, last } => {
            *protocol == asked && case.port.is_some_and(|n| (*first..=*last).contains(&n))
        }
        Port::Named { protocol, name } => *protocol == asked && named(name),
        Port::Name(name) => named(name),
        Port::Nothing => false,
    })
}
