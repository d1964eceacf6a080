//! Policies as they are known, whether they select a pod of the node or not.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use netpolc_policy::{
    Direction, Index, Isolation, Labels, Mode, ObjectKey, Pod, Policy, Port, Ports, Protocol,
};

/// A known policy.
#[derive(Debug)]
pub(crate) struct PolicySlot {
    pub(crate) policy: Policy,
    /// Stands for its content in keys of sets: a changed policy gets another version, and so leads
    /// to other sets.
    pub(crate) version: u32,
    /// `namespace/name`
    pub(crate) label: Arc<str>,
    /// Port names in its ingress rules, which resolve on the selected pod itself (S29).
    pub(crate) ingress_names: Vec<(Protocol, Arc<str>)>,
    /// Of its selector, which is asked about each pod of the namespace.
    index: Index,
}

impl PolicySlot {
    /// Does it select pods of its namespace with these labels?
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.index.matches(&self.policy.selector, labels)
    }

    fn isolates(&self, pod: &Pod, direction: Direction) -> bool {
        matches!(self.policy.isolation(direction), Isolation::Isolated(_))
            && self.policy.mode == Mode::Enforced
            && self.selects(&pod.labels)
    }
}

/// All policies, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    namespaces: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<PolicySlot>>>,
    versions: u32,
}

impl Policies {
    /// A policy is there, changed or is gone (None). Returns what it was and what it is, as far as
    /// there is either; nothing where it did not change.
    pub(crate) fn set(&mut self, key: &ObjectKey, policy: Option<Policy>) -> Vec<Arc<PolicySlot>> {
        let here = self.namespaces.entry(key.namespace.clone()).or_default();
        let before = match policy {
            Some(policy) => {
                if here.get(&key.name).is_some_and(|slot| slot.policy == policy) {
                    return Vec::new();
                }
                self.versions += 1;
                let slot = PolicySlot {
                    label: key.to_string().into(),
                    ingress_names: ingress_names(&policy),
                    index: Index::new(&policy.selector),
                    policy,
                    version: self.versions,
                };
                here.insert(key.name.clone(), Arc::new(slot))
            }
            None => here.remove(&key.name),
        };
        before.into_iter().chain(here.get(&key.name).cloned()).collect()
    }

    /// The policies that isolate a pod in this direction, in name order.
    pub(crate) fn isolating(
        &self,
        pod: &Pod,
        direction: Direction,
    ) -> impl Iterator<Item = &Arc<PolicySlot>> {
        let here = self.namespaces.get(&pod.key.namespace);
        let here = here.into_iter().flat_map(BTreeMap::values);
        here.filter(move |slot| slot.isolates(pod, direction))
    }
}

fn ingress_names(policy: &Policy) -> Vec<(Protocol, Arc<str>)> {
    let Isolation::Isolated(rules) = &policy.ingress else { return Vec::new() };
    let ports = rules.iter().filter_map(|rule| match &rule.ports {
        Ports::Any => None,
        Ports::Listed(ports) => Some(ports),
    });
    let names = ports.flatten().filter_map(|port| match port {
        Port::Named { protocol, name } => Some((*protocol, name.clone())),
        _ => None,
    });
    names.collect()
}
