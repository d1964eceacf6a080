//! Shared strings, label sets and workloads: in a cluster of 100,000 pods the same few names occur
//! again and again, and each is stored once.

use std::{collections::HashSet, sync::Arc};

use netpolc_policy::{Labels, Owner, OwnerKind};

use crate::plain;

/// Hands out one shared copy per distinct value.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    owners: HashSet<Arc<Owner>>,
    /// The number of values after the last [`Interner::tidy`].
    #[cfg(any(feature = "watch", test))]
    tidied: usize,
}

/// Below this number of values nothing is dropped.
#[cfg(any(feature = "watch", test))]
const MIN_TIDY: usize = 10_000;

impl Interner {
    pub fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        // No name may control what it is shown on.
        let safe = plain(text);
        if let Some(known) = self.strings.get(&*safe) {
            return known.clone();
        }
        let new: Arc<str> = safe.into();
        self.strings.insert(new.clone());
        new
    }

    /// The shared copy of a label set: pods of one workload mostly share all their labels.
    pub fn labels<'t>(&mut self, pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Labels {
        let labels: Labels =
            pairs.into_iter().map(|(key, value)| (self.string(key), self.string(value))).collect();
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        self.labels.insert(labels.clone());
        labels
    }

    /// The shared copy of a workload's name and kind: its pods have it in common.
    pub fn owner(&mut self, kind: OwnerKind, name: &str) -> Arc<Owner> {
        let new = Owner { kind, name: self.string(name) };
        if let Some(known) = self.owners.get(&new) {
            return known.clone();
        }
        let new = Arc::new(new);
        self.owners.insert(new.clone());
        new
    }

    /// Drops the values that nobody else holds, whenever there are twice as many as after the last
    /// time: each job and each rollout has labels of its own, and a watch never ends.
    #[cfg(any(feature = "watch", test))]
    pub fn tidy(&mut self) {
        let now = self.strings.len() + self.labels.len() + self.owners.len();
        if now < MIN_TIDY.max(2 * self.tidied) {
            return;
        }
        self.labels.retain(|labels| labels.holders() > 1);
        self.owners.retain(|owner| Arc::strong_count(owner) > 1);
        self.strings.retain(|text| Arc::strong_count(text) > 1);
        self.tidied = self.strings.len() + self.labels.len() + self.owners.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_is_dropped_and_the_rest_stays_shared() {
        let mut interner = Interner::default();
        let kept = interner.labels([("app", "web")]);
        for i in 0..3 * MIN_TIDY {
            interner.labels([("job", i.to_string().as_str())]);
            interner.owner(OwnerKind::Job, &i.to_string());
            interner.tidy();
        }
        let held = interner.labels.len() + interner.strings.len() + interner.owners.len();
        assert!(held < MIN_TIDY + 10);
        assert_eq!(interner.labels([("app", "web")]).holders(), kept.holders());
    }
}
