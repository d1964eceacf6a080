//! Who takes how many ids, where they have run out: sizes alone do not tell how many classes a
//! policy's selectors make of the cluster's pods, or how many rows overlapping rules need.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use netpolc_table::schema::Family;

use crate::{classes::Classes, index::AtomId, overflow::Numbered, sets::Sets, shares::Resource};

impl Numbered {
    /// As shares know it; None for endpoints, which policies do not take.
    pub fn resource(self) -> Option<Resource> {
        match self {
            Numbered::Endpoints => None,
            Numbered::Sets => Some(Resource::Sets),
            Numbered::ClassesV4 | Numbered::ClassesV6 => Some(Resource::Classes),
            Numbered::Rows => Some(Resource::Rows),
            Numbered::PortClasses => Some(Resource::Ports),
        }
    }
}

/// How often each is there.
pub(crate) fn count(list: impl Iterator<Item = Arc<str>>) -> BTreeMap<Arc<str>, u64> {
    let mut usage = BTreeMap::new();
    list.for_each(|namespace| *usage.entry(namespace).or_default() += 1);
    usage
}

/// How many classes the policies of each namespace would make without those of others: the distinct
/// sets of its own atoms among all classes.
pub(crate) fn classes(sets: &Sets, classes: &Classes, family: Family) -> BTreeMap<Arc<str>, u64> {
    let mut owners: HashMap<AtomId, BTreeSet<Arc<str>>> = HashMap::new();
    for set in sets.iter() {
        for atom in set.peers() {
            owners.entry(atom).or_default().insert(set.namespace.clone());
        }
    }
    let mut distinct: BTreeMap<Arc<str>, HashSet<Vec<AtomId>>> = BTreeMap::new();
    for members in classes.of_family(family) {
        let mut parts: BTreeMap<&Arc<str>, Vec<AtomId>> = BTreeMap::new();
        for atom in members {
            for namespace in owners.get(atom).into_iter().flatten() {
                parts.entry(namespace).or_default().push(*atom);
            }
        }
        for (namespace, part) in parts {
            distinct.entry(namespace.clone()).or_default().insert(part);
        }
    }
    distinct.into_iter().map(|(namespace, parts)| (namespace, parts.len() as u64)).collect()
}
