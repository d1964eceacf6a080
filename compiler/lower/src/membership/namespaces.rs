//! What selectors of namespaces see: labels, and which groups of pods are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::replace,
    sync::Arc,
};

use netpolc_policy::Labels;

use crate::index::GroupId;

#[derive(Debug, Default)]
pub(super) struct Namespace {
    labels: Labels,
    groups: BTreeSet<GroupId>,
}

impl Namespace {
    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The groups of its pods, in order.
    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.iter().copied()
    }
}

/// Namespaces that were named, or in which there are pods.
#[derive(Debug, Default)]
pub(super) struct Namespaces(BTreeMap<Arc<str>, Namespace>);

impl Namespaces {
    /// Some: its labels are others now, and were these.
    pub(super) fn set_labels(&mut self, name: &Arc<str>, labels: Labels) -> Option<Labels> {
        let namespace = self.0.entry(name.clone()).or_default();
        let before = replace(&mut namespace.labels, labels);
        (before != namespace.labels).then_some(before)
    }

    /// Adds a group, and the namespace where it is not known yet.
    pub(super) fn add_group(&mut self, name: &Arc<str>, group: GroupId) -> &Namespace {
        let namespace = self.0.entry(name.clone()).or_default();
        namespace.groups.insert(group);
        namespace
    }

    pub(super) fn remove_group(&mut self, name: &str, group: GroupId) {
        if let Some(namespace) = self.0.get_mut(name) {
            namespace.groups.remove(&group);
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Namespace> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Namespace)> {
        self.0.iter()
    }
}
