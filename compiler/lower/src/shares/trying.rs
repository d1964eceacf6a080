//! Policies that are only tried (S84): they take ids and verdicts too, and give way before anything
//! that is enforced is set aside.
//!
//! A namespace whose tried policies may take more than half of its share is not compared with them,
//! and where ids run out in spite of all limits, nothing is compared on this node until a tried
//! policy changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_policy::{Isolation, Mode, ObjectKey, Policy, Staged, TierKey, TierPolicy};

use super::{
    limits::{Limits, RESOURCES, Usage},
    measure::Bound,
};

/// Where a tried policy is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Form {
    /// A NetworkPolicy with an annotation.
    Audited,
    /// A StagedKubernetesNetworkPolicy.
    Staged,
}

/// What the tried policies of one namespace take at most.
type Bounds = BTreeMap<(Form, Arc<str>), Bound>;

/// The tried policies of all namespaces, and which are left out.
#[derive(Debug, Default)]
pub(super) struct Trying {
    policies: BTreeMap<Arc<str>, Bounds>,
    tiers: BTreeSet<TierKey>,
    left_out: BTreeSet<Arc<str>>,
    exhausted: Exhausted,
}

/// Whether ids have run out while something was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Exhausted {
    #[default]
    No,
    Yes,
}

impl Trying {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A policy is there, changed, or is gone. True where it is or was a tried one.
    pub(super) fn set(&mut self, form: Form, key: &ObjectKey, policy: Option<&Policy>) -> bool {
        let here = self.policies.entry(key.namespace.clone()).or_default();
        let slot = (form, key.name.clone());
        let before = match policy.filter(|p| form == Form::Staged || p.mode == Mode::Audited) {
            Some(policy) => {
                here.insert(slot, Bound::of(policy));
                true
            }
            None => here.remove(&slot).is_some(),
        };
        if here.is_empty() {
            self.policies.remove(&key.namespace);
        }
        if before {
            self.exhausted = Exhausted::No;
        }
        before
    }

    /// The same for a staged policy.
    pub(super) fn stage(&mut self, key: &ObjectKey, staged: Option<&Staged>) -> bool {
        let policy = staged.and_then(|staged| match staged {
            Staged::Set(policy) => Some(policy),
            Staged::Delete => None,
        });
        self.set(Form::Staged, key, policy)
    }

    /// The same for a ClusterNetworkPolicy, which is no namespace's.
    pub(super) fn set_tier(&mut self, key: &TierKey, policy: Option<&TierPolicy>) -> bool {
        let is_tried = policy.is_some_and(|policy| policy.mode == Mode::Audited);
        let was = match is_tried {
            true => !self.tiers.insert(key.clone()),
            false => self.tiers.remove(key),
        };
        if is_tried || was {
            self.exhausted = Exhausted::No;
        }
        is_tried || was
    }

    /// The ClusterNetworkPolicies that are left out.
    pub(super) fn tiers_left_out(&self) -> BTreeSet<TierKey> {
        match self.exhausted {
            Exhausted::Yes => self.tiers.clone(),
            Exhausted::No => BTreeSet::new(),
        }
    }

    /// The ClusterNetworkPolicy as it is compiled.
    pub(super) fn tier(&self, policy: Option<TierPolicy>) -> Option<TierPolicy> {
        let is_out = self.exhausted == Exhausted::Yes;
        policy.filter(|policy| policy.mode == Mode::Enforced || !is_out)
    }

    /// Ids have run out. True: what is tried gives way, which it did not before.
    pub(super) fn give_way(&mut self) -> bool {
        let has_any = !self.policies.is_empty() || !self.tiers.is_empty();
        let gives = has_any && self.exhausted == Exhausted::No;
        if gives {
            self.exhausted = Exhausted::Yes;
        }
        gives
    }

    /// Decides what is left out; `pods` is how many pods of a namespace are on this node.
    pub(super) fn decide(&mut self, limits: &Limits, pods: impl Fn(&Arc<str>) -> u64) {
        let bounds: BTreeMap<&Arc<str>, Usage> = self
            .policies
            .iter()
            .map(|(namespace, policies)| {
                let mut sum = Bound::default();
                policies.values().for_each(|bound| sum.add(bound));
                (namespace, sum.usage(pods(namespace)))
            })
            .collect();
        let over = |usage: &Usage| {
            RESOURCES.into_iter().any(|r| usage[r as usize] > limits.namespace[r as usize] / 2)
        };
        let mut left_out: BTreeSet<Arc<str>> = bounds
            .iter()
            .filter(|(_, usage)| over(usage))
            .map(|(namespace, _)| (*namespace).clone())
            .collect();
        let total = |r: usize| {
            let admitted = bounds.iter().filter(|(namespace, _)| !left_out.contains(**namespace));
            admitted.map(|(_, usage)| usage[r]).sum::<u64>()
        };
        let is_too_much =
            RESOURCES.into_iter().any(|r| total(r as usize) > limits.node[r as usize] / 4);
        if is_too_much || self.exhausted == Exhausted::Yes {
            left_out.extend(self.policies.keys().cloned());
        }
        self.left_out = left_out;
    }

    /// The namespaces whose tried policies are left out.
    pub(super) fn left_out(&self) -> &BTreeSet<Arc<str>> {
        &self.left_out
    }

    /// The tried policies of a namespace.
    pub(super) fn of(&self, namespace: &Arc<str>) -> impl Iterator<Item = (Form, ObjectKey)> {
        let keys = self.policies.get(namespace).into_iter().flat_map(BTreeMap::keys);
        keys.map(|(form, name)| {
            (*form, ObjectKey { namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// The policy as it is compiled: one that is left out is about nothing.
    pub(super) fn policy(&self, policy: Policy) -> Policy {
        if policy.mode == Mode::Enforced || !self.left_out.contains(&policy.key.namespace) {
            return policy;
        }
        Policy { ingress: Isolation::Open, egress: Isolation::Open, ..policy }
    }

    /// The staged policy as it is compiled.
    pub(super) fn staged(&self, key: &ObjectKey, staged: Option<Staged>) -> Option<Staged> {
        staged.filter(|_| !self.left_out.contains(&key.namespace))
    }
}
