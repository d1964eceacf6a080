//! What decides about an endpoint in one direction, and the key under which endpoints that it is
//! the same for share a set.
//!
//! Not here: which policies those are (the compiler), and what they make of a packet
//! ([`crate::set`]).

use std::{collections::BTreeSet, sync::Arc};

use ipnetwork::IpNetwork;
use netpolc_policy::{Direction, Mode, Pod, Policy, Protocol, TierPolicy, Unselected};

use crate::{
    content::fingerprint, interval::PortRange, policies::PolicySlot, rules::Resolved,
    security::GroupSlot, tiers::TierSlot, wire::Wire,
};

/// The policies that decide about an endpoint in one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deciding {
    /// In the order in which they are asked.
    pub(crate) tiers: Vec<Arc<TierSlot>>,
    /// The NetworkPolicies that isolate it, in name order.
    pub(crate) policies: Vec<Arc<PolicySlot>>,
    /// Whether it is isolated because no policy does so (S90); with policies it is not.
    pub(crate) unselected: Unselected,
    /// The security groups that it has; None: they say nothing about it.
    pub(crate) groups: Option<Groups>,
    /// What would decide if everything that is only tried were enforced (S85); None: the same.
    pub(crate) tried: Option<Box<Tried>>,
}

/// What would decide about an endpoint in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Tried {
    pub(crate) deciding: Deciding,
    /// The staged policies that would take away one of those that decide now, as users name them.
    pub(crate) replacing: Vec<Arc<str>>,
}

/// Security groups of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Groups {
    /// In order of their ids.
    pub(crate) slots: Vec<Arc<GroupSlot>>,
    /// The resolver's addresses, which they never block (S81).
    pub(crate) resolvers: Arc<[IpNetwork]>,
    /// The node within which they do not judge packets (S82); None: they judge all.
    pub(crate) exempt: Option<Arc<str>>,
}

impl Deciding {
    /// Does nothing decide, whatever is tried?
    pub(crate) fn is_empty(&self) -> bool {
        self.tiers.is_empty() && !self.isolates() && self.groups.is_none()
    }

    /// Do NetworkPolicies isolate it, or the default in their place (S65, S90)?
    pub(crate) fn isolates(&self) -> bool {
        !self.policies.is_empty() || self.unselected == Unselected::Isolated
    }

    /// Do the same policies decide here as there, security groups aside?
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        versions(&self.policies) == versions(&other.policies)
            && tier_versions(&self.tiers) == tier_versions(&other.tiers)
            && self.unselected == other.unselected
    }
}

/// Everything that a set's meaning depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetKey {
    pub(crate) direction: Direction,
    /// Versions of the ClusterNetworkPolicies, in the order in which they are asked.
    tiers: Vec<u32>,
    groups: Option<Groups>,
    /// Versions of the isolating policies, in name order.
    policies: Vec<u32>,
    unselected: Unselected,
    /// Ingress: what the named ports are on the pod itself.
    pub(crate) resolved: Resolved,
    /// Egress: the pod's node (S45), and the TCP ports of its addresses that are not the node's
    /// own.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) health_checks: Vec<u16>,
    /// Egress: UDP ports of tunnels, which only a rule that names them opens (S45).
    pub(crate) tunnels: BTreeSet<PortRange>,
    /// Of what would decide if everything that is only tried were enforced.
    pub(crate) tried: Option<Box<SetKey>>,
}

impl SetKey {
    /// Of the policies that isolate a pod from what comes in. A port name in their rules is about
    /// this pod, so pods that have other numbers for it have other sets.
    pub(crate) fn ingress(pod: &Pod, deciding: &Deciding) -> Self {
        let names = deciding.policies.iter().flat_map(|slot| &slot.ingress_names);
        let of_tiers = deciding.tiers.iter().flat_map(|slot| &slot.ingress_names);
        let names: BTreeSet<(Protocol, Arc<str>)> = names.chain(of_tiers).cloned().collect();
        let resolve = |(protocol, name): (Protocol, Arc<str>)| {
            let numbers = pod.resolve_port(protocol, &name);
            (protocol, name, numbers)
        };
        Self {
            resolved: names.into_iter().map(resolve).collect(),
            tried: deciding.tried.as_ref().map(|t| Box::new(Self::ingress(pod, &t.deciding))),
            ..Self::of(Direction::Ingress, deciding)
        }
    }

    /// Of the policies that isolate a pod in what it sends.
    pub(crate) fn egress(
        pod: &Pod,
        deciding: &Deciding,
        health_checks: Vec<u16>,
        wire: &Wire,
    ) -> Self {
        let tried = deciding
            .tried
            .as_ref()
            .map(|tried| Box::new(Self::egress(pod, &tried.deciding, health_checks.clone(), wire)));
        Self {
            node: pod.node.clone(),
            health_checks,
            tunnels: wire.ports(),
            tried,
            ..Self::of(Direction::Egress, deciding)
        }
    }

    /// What both directions have.
    fn of(direction: Direction, deciding: &Deciding) -> Self {
        Self {
            direction,
            tiers: tier_versions(&deciding.tiers),
            groups: deciding.groups.clone(),
            policies: versions(&deciding.policies),
            unselected: deciding.unselected,
            resolved: Vec::new(),
            node: None,
            health_checks: Vec::new(),
            tunnels: BTreeSet::new(),
            tried: None,
        }
    }

    /// Of the content and not of versions, which another process counts otherwise. Tunnels are left
    /// out: where they change, everything is compiled anew.
    pub(crate) fn fingerprint(&self, deciding: &Deciding) -> u64 {
        let tiers: Vec<&TierPolicy> = deciding.tiers.iter().map(|slot| &slot.policy).collect();
        let policies: Vec<&Policy> = deciding.policies.iter().map(|slot| &slot.policy).collect();
        let content = (tiers, policies, self.unselected, &self.groups);
        let own = fingerprint(&(
            self.direction,
            content,
            &self.resolved,
            &self.node,
            &self.health_checks,
        ));
        match (&self.tried, &deciding.tried) {
            (Some(key), Some(tried)) => fingerprint(&(own, key.fingerprint(&tried.deciding))),
            _ => own,
        }
    }

    /// Do its rules not just add up, since tiers or security groups are among them, or nothing
    /// isolates?
    pub(crate) fn is_ordered(&self) -> bool {
        !self.tiers.is_empty() || self.is_grouped() || !self.is_isolated()
    }

    /// Do its pods have security groups (S76)?
    pub(crate) fn is_grouped(&self) -> bool {
        self.groups.is_some()
    }

    /// Do NetworkPolicies isolate its pods, or the default in their place (S65, S90)?
    pub(crate) fn is_isolated(&self) -> bool {
        !self.policies.is_empty() || self.is_by_default()
    }

    /// Are its pods isolated because no policy does so (S90)?
    pub(crate) fn is_by_default(&self) -> bool {
        self.unselected == Unselected::Isolated
    }
}

fn versions(policies: &[Arc<PolicySlot>]) -> Vec<u32> {
    policies.iter().map(|slot| slot.version).collect()
}

fn tier_versions(tiers: &[Arc<TierSlot>]) -> Vec<u32> {
    tiers.iter().map(|slot| slot.version).collect()
}

/// The policies that are only tried, as users name them.
#[derive(Debug)]
pub(crate) struct Blame {
    /// All that are about these endpoints.
    pub(crate) all: Vec<Arc<str>>,
    /// Those among them that isolate.
    pub(crate) isolating: Vec<Arc<str>>,
}

impl Blame {
    pub(crate) fn of(tried: &Tried) -> Self {
        let is_tried = |mode: Mode| mode == Mode::Audited;
        let policies = tried.deciding.policies.iter().filter(|slot| is_tried(slot.policy.mode));
        let isolating: Vec<Arc<str>> = policies.map(|slot| slot.label.clone()).collect();
        let tiers = tried.deciding.tiers.iter().filter(|slot| is_tried(slot.policy.mode));
        let mut all: Vec<Arc<str>> = tiers.map(|slot| slot.label.clone()).collect();
        all.extend(isolating.iter().chain(&tried.replacing).cloned());
        all.sort();
        all.dedup();
        Self { all, isolating }
    }
}
