//! Objects that stay enforced although an input no longer shows them (S61). Where a file does not
//! yield all that it contains_file, the last known objects of that file stay; where an object is
//! damaged, its last known good version stays. An object that is gone from a sound file is gone.
//! Not here: reading the files (`load`).

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use netpolc_policy::{Cluster, ObjectKey};

use crate::{Loaded, ObjectId, ObjectKind, Places};

/// The objects to enforce: what was loaded, and what is retained from before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The loaded objects, and those that are retained.
    pub cluster: Cluster,
    /// Where each object was found; for a retained one, where it was found last.
    pub places: Places,
    /// The objects that are retained, in order.
    pub retained: Vec<Retained>,
}

/// An object that stays enforced in its last known version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Retained {
    /// The kind and name of the object.
    pub object: ObjectId,
    /// The input in which the object was found last.
    pub file: Arc<str>,
}

impl fmt::Display for Retained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} stays enforced as it was last read from {}, because that file cannot be read \
            completely",
            self.object, self.file
        )
    }
}

/// Adds to `loaded` the objects of `before`, which were found at `places`, that are to stay.
pub fn merge_last_known(loaded: Loaded, before: &Cluster, places: &Places) -> Merged {
    let Loaded { mut cluster, incomplete, places: found, problems: _ } = loaded;
    if incomplete.is_empty() && found.values().all(|place| !place.damaged) {
        return Merged { cluster, places: found, retained: vec![] };
    }
    let mut merge = Merge { incomplete: &incomplete, places, found, retained: vec![] };
    // Without `..`, so that a new kind of object needs a decision.
    let Cluster { namespaces, pods, policies, nodes, services, tiers: _, security: _, staged: _ } =
        &mut cluster;
    let unscoped = |name: &Arc<str>| ObjectKey::new("", name.clone());
    merge.part(ObjectKind::Namespace, namespaces, &before.namespaces, unscoped);
    merge.part(ObjectKind::Pod, pods, &before.pods, ObjectKey::clone);
    merge.part(ObjectKind::Policy, policies, &before.policies, ObjectKey::clone);
    merge.part(ObjectKind::Node, nodes, &before.nodes, unscoped);
    merge.part(ObjectKind::Service, services, &before.services, ObjectKey::clone);
    // A namespace may exist only because pods are in it. Then no file is its place, and its labels
    // come from the last known cluster.
    for key in pods.keys() {
        if let Some(labels) = before.namespaces.get(&key.namespace) {
            namespaces.entry(key.namespace.clone()).or_insert_with(|| labels.clone());
        }
    }
    let Merge { found, mut retained, .. } = merge;
    retained.sort();
    Merged { cluster, places: found, retained }
}

struct Merge<'b> {
    incomplete: &'b [Arc<str>],
    places: &'b Places,
    found: Places,
    retained: Vec<Retained>,
}

impl Merge<'_> {
    fn part<K: Ord + Clone, V: Clone + PartialEq>(
        &mut self,
        kind: ObjectKind,
        now: &mut BTreeMap<K, V>,
        before: &BTreeMap<K, V>,
        key_of: impl Fn(&K) -> ObjectKey,
    ) {
        for (key, value) in before {
            let object = ObjectId { kind, key: key_of(key) };
            let Some(place) = self.places.get(&object) else { continue };
            let stays = match now.get(key) {
                None => self.incomplete.iter().any(|input| contains_file(input, &place.file)),
                // A broken policy isolates by itself; of anything else a part that is left out may
                // open something.
                Some(new) => {
                    kind != ObjectKind::Policy
                        && new != value
                        && self.found.get(&object).is_some_and(|place| place.damaged)
                }
            };
            if stays {
                now.insert(key.clone(), value.clone());
                self.retained.push(Retained { object: object.clone(), file: place.file.clone() });
                self.found.insert(object, place.clone());
            }
        }
    }
}

/// Whether `file` is the input itself, or lies in the directory that the input is.
pub fn contains_file(input: &str, file: &str) -> bool {
    input == file || Path::new(file).starts_with(input)
}
