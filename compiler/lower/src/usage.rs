//! Who takes how many ids, where they have run out: sizes alone do not tell how many classes a policy's selectors
//! make of the cluster's pods, or how many rows overlapping rules need.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use netpolc_policy::Protocol;
use netpolc_table::{SetId, schema::Family};

use crate::{
    atoms::AtomId,
    compiler::{Compiler, Numbered},
    shares::Resource,
};

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

impl Compiler {
    /// How many ids of this kind the policies of each namespace need, as if there were no others. Also after an
    /// overflow, for what has been made until then.
    pub fn usage(&self, what: Numbered) -> BTreeMap<Arc<str>, u64> {
        match what {
            Numbered::Endpoints => count(self.endpoints.keys().map(|key| key.namespace.clone())),
            Numbered::Sets => count(self.namespaces_of_sets().into_values()),
            Numbered::ClassesV4 => self.class_usage(Family::V4),
            Numbered::ClassesV6 => self.class_usage(Family::V6),
            Numbered::Rows => {
                let mut usage = BTreeMap::new();
                for (set, namespace) in self.namespaces_of_sets() {
                    *usage.entry(namespace).or_default() += self.sets.sets[&set].rows.len() as u64;
                }
                usage
            }
            Numbered::PortClasses => {
                let mut edges: BTreeMap<Arc<str>, HashSet<(Protocol, u32)>> = BTreeMap::new();
                for (set, namespace) in self.namespaces_of_sets() {
                    let rows = self.sets.sets[&set].rows.keys().flatten();
                    edges.entry(namespace).or_default().extend(rows.flat_map(|grant| grant.edges()));
                }
                edges.into_iter().map(|(namespace, edges)| (namespace, edges.len() as u64)).collect()
            }
        }
    }

    /// The namespace of each live set: all its policies are of one.
    fn namespaces_of_sets(&self) -> BTreeMap<SetId, Arc<str>> {
        self.sets.sets.iter().map(|(id, set)| (*id, set.namespace.clone())).collect()
    }

    /// The distinct sets of a namespace's own atoms among all classes.
    fn class_usage(&self, family: Family) -> BTreeMap<Arc<str>, u64> {
        let mut owners: HashMap<AtomId, BTreeSet<Arc<str>>> = HashMap::new();
        for (set, namespace) in self.namespaces_of_sets() {
            for atom in self.sets.sets[&set].by_atom.keys() {
                owners.entry(*atom).or_default().insert(namespace.clone());
            }
        }
        let mut distinct: BTreeMap<Arc<str>, HashSet<Vec<AtomId>>> = BTreeMap::new();
        for members in self.classes.members(family) {
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
}

fn count(list: impl Iterator<Item = Arc<str>>) -> BTreeMap<Arc<str>, u64> {
    let mut usage = BTreeMap::new();
    list.for_each(|namespace| *usage.entry(namespace).or_default() += 1);
    usage
}
