//! One namespace's side of the decision: its pods on this node, what its policies take at most,
//! and, where that may be too much, what they take exactly.
//!
//! The bound is a sum, kept up to date by one policy at a time; the ledger is made when it is
//! needed and kept until something of the namespace changes. What is too large to be measured is
//! decided by the bound alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_policy::{Cluster, Labels, ObjectKey, Pod, Policy};

use super::{
    limits::{Resource, Usage},
    measure::{Bound, Ledger},
};
use crate::content::fingerprint;

#[derive(Debug, Default)]
pub(super) struct Account {
    policies: BTreeMap<Arc<str>, Bound>,
    sum: Bound,
    /// Pods of this node: what selectors and port names see of them.
    pods: BTreeMap<Arc<str>, (Labels, u64)>,
    /// Of all policies but these.
    ledger: Option<(BTreeSet<Arc<str>>, Ledger)>,
}

impl Account {
    /// A pod of this node is there, changed, or is gone. True where its policies may take something
    /// else now.
    pub(super) fn set_pod(&mut self, key: &ObjectKey, pod: Option<&Pod>) -> bool {
        let changed = match pod {
            Some(pod) => {
                let now = (pod.labels.clone(), fingerprint(&pod.ports));
                let before = self.pods.insert(key.name.clone(), now);
                before.as_ref() != self.pods.get(&key.name)
            }
            None => self.pods.remove(&key.name).is_some(),
        };
        if changed {
            self.ledger = None;
        }
        changed
    }

    /// A policy is there, changed, or is gone.
    pub(super) fn set_policy(&mut self, name: &Arc<str>, policy: Option<&Policy>) {
        let before = match policy {
            Some(policy) => {
                let bound = Bound::of(policy);
                self.sum.add(&bound);
                self.policies.insert(name.clone(), bound)
            }
            None => self.policies.remove(name),
        };
        if let Some(before) = before {
            self.sum.subtract(&before);
        }
        self.ledger = None;
    }

    /// Has the node no pod of the namespace any more?
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// How many pods of the namespace are on this node.
    pub(super) fn pods(&self) -> u64 {
        self.pods.len() as u64
    }

    /// The names of all policies.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Arc<str>> {
        self.policies.keys()
    }

    /// At least what the policies take.
    pub(super) fn bound(&self) -> Usage {
        self.sum.usage(self.pods.len() as u64)
    }

    /// The parts of each policy.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Arc<str>, u64)> {
        self.policies.iter().map(|(name, bound)| (name.clone(), bound.parts))
    }

    /// Before [`Account::used`] and [`Account::reduce`]: looks at all policies but `largest`, with
    /// nothing set aside.
    pub(super) fn look(
        &mut self,
        namespace: &Arc<str>,
        cluster: &Cluster,
        largest: BTreeSet<Arc<str>>,
    ) {
        let mut known = self.ledger.take().filter(|(without, _)| *without == largest);
        let (_, ledger) = known.get_or_insert_with(|| {
            let key =
                |name: &Arc<str>| ObjectKey { namespace: namespace.clone(), name: name.clone() };
            let pods: Vec<&Pod> =
                self.pods.keys().filter_map(|name| cluster.pods.get(&key(name))).collect();
            let names = self.policies.keys().filter(|name| !largest.contains(*name));
            let ledger =
                Ledger::new(names.filter_map(|name| cluster.policies.get(&key(name))), &pods);
            (largest, ledger)
        });
        ledger.rewind();
        self.ledger = known;
    }

    /// What the policies take after what was set aside since [`Account::look`].
    pub(super) fn used(&self, resource: Resource) -> u64 {
        self.ledger.as_ref().map_or(0, |(_, ledger)| ledger.used(resource))
    }

    /// See [`Ledger::reduce`].
    pub(super) fn reduce(&mut self, resource: Resource, limit: u64) -> Vec<(Arc<str>, u64)> {
        self.ledger.as_mut().map_or(vec![], |(_, ledger)| ledger.reduce(resource, limit))
    }
}
