//! ClusterNetworkPolicies as they are known, whether they are about a pod of the node or not
//! (S62-S74).
//!
//! Not here: what their order makes of a packet ([`crate::order`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_policy::{
    Direction, Index, Labels, Mode, Pod, Port, Ports, Priority, Protocol, Tier, TierKey, TierPolicy,
};

use crate::policies::World;

/// A known ClusterNetworkPolicy.
#[derive(Debug)]
pub(crate) struct TierSlot {
    pub(crate) policy: TierPolicy,
    /// Stands for its content in keys of sets, as a policy's version does.
    pub(crate) version: u32,
    /// As users write its name.
    pub(crate) label: Arc<str>,
    /// Port names in its ingress rules, which resolve on the pod itself (S69).
    pub(crate) ingress_names: BTreeSet<(Protocol, Arc<str>)>,
    /// Of its subject's selectors, of namespaces and of pods.
    indices: (Index, Index),
}

impl TierSlot {
    /// Is it about pods with these labels, in a namespace with those (S67)?
    pub(crate) fn is_about(&self, namespace: &Labels, pod: &Labels) -> bool {
        let subject = &self.policy.subject;
        self.indices.0.matches(&subject.namespaces, namespace)
            && self.indices.1.matches(&subject.pods, pod)
    }

    fn place(&self) -> (Tier, Priority, &TierKey) {
        (self.policy.tier, self.policy.priority, &self.policy.key)
    }
}

/// All ClusterNetworkPolicies, also those that are only tried.
#[derive(Debug, Default)]
pub(crate) struct Tiers {
    policies: BTreeMap<TierKey, Arc<TierSlot>>,
    versions: u32,
}

impl Tiers {
    /// A policy is there, changed or is gone (None). Returns what it was and what it is, as far as
    /// there is either; nothing where it did not change.
    pub(crate) fn set(&mut self, key: &TierKey, policy: Option<TierPolicy>) -> Vec<Arc<TierSlot>> {
        let before = match policy {
            Some(policy) => {
                if self.policies.get(key).is_some_and(|slot| slot.policy == policy) {
                    return Vec::new();
                }
                self.versions += 1;
                let subject = &policy.subject;
                let slot = TierSlot {
                    label: key.to_string().into(),
                    ingress_names: ingress_names(&policy),
                    indices: (Index::new(&subject.namespaces), Index::new(&subject.pods)),
                    version: self.versions,
                    policy,
                };
                self.policies.insert(key.clone(), Arc::new(slot))
            }
            None => self.policies.remove(key),
        };
        before.into_iter().chain(self.policies.get(key).cloned()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Is any of them only tried?
    pub(crate) fn has_tried(&self) -> bool {
        self.policies.values().any(|slot| slot.policy.mode == Mode::Audited)
    }

    /// Those with a rule about this direction of a pod, in the order in which they are asked.
    pub(crate) fn about(
        &self,
        pod: &Pod,
        namespace: &Labels,
        direction: Direction,
        world: World,
    ) -> Vec<Arc<TierSlot>> {
        let about = self.policies.values().filter(|slot| {
            world.has(slot.policy.mode)
                && !slot.policy.rules(direction).is_empty()
                && slot.is_about(namespace, &pod.labels)
        });
        let mut about: Vec<Arc<TierSlot>> = about.cloned().collect();
        about.sort_by(|a, b| a.place().cmp(&b.place()));
        about
    }
}

fn ingress_names(policy: &TierPolicy) -> BTreeSet<(Protocol, Arc<str>)> {
    let mut names = BTreeSet::new();
    for rule in &policy.ingress {
        let Ports::Listed(ports) = &rule.ports else { continue };
        for port in ports {
            match port {
                Port::Named { protocol, name } => drop(names.insert((*protocol, name.clone()))),
                Port::Name(name) => names.extend(Protocol::ALL.map(|p| (p, name.clone()))),
                Port::Every(_) | Port::Range { .. } | Port::Nothing => {}
            }
        }
    }
    names
}
