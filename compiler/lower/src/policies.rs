//! Policies as they are known, whether they select a pod of the node or not.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use netpolc_policy::{
    Direction, Index, Isolation, Labels, Mode, ObjectKey, Pod, Policy, Port, Ports, Protocol,
    Staged,
};

/// Where policies are asked: on the wire as it is, or as it would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// Those that are enforced.
    Enforced,
    /// Those that would be if everything that is only tried were enforced (S85).
    Shadow,
}

impl World {
    /// Does a policy of this mode count?
    pub(crate) fn has(self, mode: Mode) -> bool {
        self == World::Shadow || mode == Mode::Enforced
    }
}

/// A known policy.
#[derive(Debug)]
pub(crate) struct PolicySlot {
    pub(crate) policy: Policy,
    /// Stands for its content in keys of sets: a changed policy gets another version, and so leads
    /// to other sets.
    pub(crate) version: u32,
    /// `namespace/name`, behind its kind where it is no NetworkPolicy.
    pub(crate) label: Arc<str>,
    /// Port names in its ingress rules, which resolve on the selected pod itself (S29).
    pub(crate) ingress_names: Vec<(Protocol, Arc<str>)>,
    /// Of its selector, which is asked about each pod of the namespace.
    index: Index,
}

impl PolicySlot {
    fn new(policy: Policy, version: u32, label: Arc<str>) -> Self {
        Self {
            label,
            ingress_names: ingress_names(&policy),
            index: Index::new(&policy.selector),
            policy,
            version,
        }
    }

    /// Does it select pods of its namespace with these labels?
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.index.matches(&self.policy.selector, labels)
    }

    fn isolates(&self, pod: &Pod, direction: Direction) -> bool {
        matches!(self.policy.isolation(direction), Isolation::Isolated(_))
            && self.selects(&pod.labels)
    }
}

/// A known StagedKubernetesNetworkPolicy.
#[derive(Debug)]
enum StagedSlot {
    /// It would take the place of the policy of its name.
    Set(Arc<PolicySlot>),
    /// The policy of its name would be gone; as users name the staged one.
    Delete(Arc<str>),
}

impl StagedSlot {
    fn label(&self) -> &Arc<str> {
        match self {
            StagedSlot::Set(slot) => &slot.label,
            StagedSlot::Delete(label) => label,
        }
    }
}

/// All policies, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    namespaces: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<PolicySlot>>>,
    staged: HashMap<Arc<str>, BTreeMap<Arc<str>, StagedSlot>>,
    /// How many NetworkPolicies are audited.
    audited: usize,
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
                let slot = PolicySlot::new(policy, self.versions, key.to_string().into());
                here.insert(key.name.clone(), Arc::new(slot))
            }
            None => here.remove(&key.name),
        };
        let after = here.get(&key.name).cloned();
        let audited = |slot: &Option<Arc<PolicySlot>>| {
            usize::from(slot.as_ref().is_some_and(|slot| slot.policy.mode == Mode::Audited))
        };
        self.audited = self.audited + audited(&after) - audited(&before);
        before.into_iter().chain(after).collect()
    }

    /// A staged policy is there, changed or is gone (None). Returns every policy that may count
    /// otherwise now; nothing where it did not change.
    pub(crate) fn stage(
        &mut self,
        key: &ObjectKey,
        staged: Option<Staged>,
    ) -> Vec<Arc<PolicySlot>> {
        let here = self.staged.entry(key.namespace.clone()).or_default();
        let label: Arc<str> = format!("StagedKubernetesNetworkPolicy {key}").into();
        let before = match staged {
            Some(Staged::Set(policy)) => {
                let policy = Policy { mode: Mode::Audited, ..policy };
                if let Some(StagedSlot::Set(slot)) = here.get(&key.name)
                    && slot.policy == policy
                {
                    return Vec::new();
                }
                self.versions += 1;
                let slot = PolicySlot::new(policy, self.versions, label);
                here.insert(key.name.clone(), StagedSlot::Set(Arc::new(slot)))
            }
            Some(Staged::Delete) => here.insert(key.name.clone(), StagedSlot::Delete(label)),
            None => here.remove(&key.name),
        };
        let slot_of = |staged: &StagedSlot| match staged {
            StagedSlot::Set(slot) => Some(slot.clone()),
            StagedSlot::Delete(_) => None,
        };
        let now = here.get(&key.name).and_then(slot_of);
        if here.is_empty() {
            self.staged.remove(&key.namespace);
        }
        let beneath = self.namespaces.get(&key.namespace).and_then(|here| here.get(&key.name));
        let before = before.as_ref().and_then(slot_of);
        before.into_iter().chain(now).chain(beneath.cloned()).collect()
    }

    /// Is anything only tried?
    pub(crate) fn has_tried(&self) -> bool {
        self.audited > 0 || !self.staged.is_empty()
    }

    /// The policies that isolate a pod in this direction, in name order, staged ones last.
    pub(crate) fn isolating(
        &self,
        pod: &Pod,
        direction: Direction,
        world: World,
    ) -> impl Iterator<Item = &Arc<PolicySlot>> {
        let staged = self.staged.get(&pod.key.namespace).filter(|_| world == World::Shadow);
        let is_there = move |name: &Arc<str>| !staged.is_some_and(|s| s.contains_key(name));
        let here = self.namespaces.get(&pod.key.namespace).into_iter().flatten();
        let here = here.filter(move |(name, _)| is_there(name)).map(|(_, slot)| slot);
        let set = staged.into_iter().flat_map(BTreeMap::values).filter_map(|staged| match staged {
            StagedSlot::Set(slot) => Some(slot),
            StagedSlot::Delete(_) => None,
        });
        let here = here.chain(set).filter(move |slot| world.has(slot.policy.mode));
        here.filter(move |slot| slot.isolates(pod, direction))
    }

    /// The staged policies that would take away a policy which isolates the pod in this direction,
    /// as users name them.
    pub(crate) fn replacing(
        &self,
        pod: &Pod,
        direction: Direction,
    ) -> impl Iterator<Item = Arc<str>> {
        let here = self.namespaces.get(&pod.key.namespace);
        let staged = self.staged.get(&pod.key.namespace).into_iter().flatten();
        let isolates = move |name: &Arc<str>| {
            here.and_then(|here| here.get(name)).is_some_and(|slot| slot.isolates(pod, direction))
        };
        staged.filter(move |(name, _)| isolates(name)).map(|(_, staged)| staged.label().clone())
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
