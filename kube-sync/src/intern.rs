//! Shared strings and label sets: in a cluster of 100,000 pods the same few names occur again and
//! again, and each is kept once.

use std::{collections::HashSet, sync::Arc};

use netpolc_policy::Labels;

/// Hands out one shared copy per distinct value.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
}

impl Interner {
    pub fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }

    /// Pods of one workload mostly share all their labels.
    pub fn labels<'t>(&mut self, pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Labels {
        let labels: Labels = pairs.into_iter().map(|(key, value)| (self.string(key), self.string(value))).collect();
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        self.labels.insert(labels.clone());
        labels
    }
}
