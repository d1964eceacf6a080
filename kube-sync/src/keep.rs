//! What stays enforced although an input does not show it any more (S61): objects of files that do
//! not yield all that they hold, and of objects that are damaged the sound ones from before. What
//! is gone from a sound file is gone.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use netpolc_policy::{Cluster, ObjectKey};

use crate::{Loaded, ObjectId, ObjectKind, Places};

/// What is to be enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Objects from files, and those that stay from before.
    pub cluster: Cluster,
    /// Where they were found; of what stays, where it was.
    pub places: Places,
    /// What stays, in order.
    pub kept: Vec<Kept>,
}

/// An object that stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// The object.
    pub object: ObjectId,
    /// Where it was found last.
    pub file: Arc<str>,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stays as it was in {}, which cannot be read as a whole", self.object, self.file)
    }
}

/// `loaded`, with what stays of `before` and its `places`.
pub fn keep(loaded: Loaded, before: &Cluster, places: &Places) -> Held {
    let Loaded { mut cluster, incomplete, places: found, problems: _ } = loaded;
    if incomplete.is_empty() && found.values().all(|place| !place.damaged) {
        return Held { cluster, places: found, kept: vec![] };
    }
    let mut keeper = Keeper { incomplete: &incomplete, places, found, kept: vec![] };
    // Without `..`, so that a new kind of object needs a decision.
    let Cluster { namespaces, pods, policies, nodes, services } = &mut cluster;
    let unscoped = |name: &Arc<str>| ObjectKey::new("", name.clone());
    keeper.part(ObjectKind::Namespace, namespaces, &before.namespaces, unscoped);
    keeper.part(ObjectKind::Pod, pods, &before.pods, ObjectKey::clone);
    keeper.part(ObjectKind::Policy, policies, &before.policies, ObjectKey::clone);
    keeper.part(ObjectKind::Node, nodes, &before.nodes, unscoped);
    keeper.part(ObjectKind::Service, services, &before.services, ObjectKey::clone);
    // Some exist only because pods are in them.
    for key in pods.keys() {
        if let Some(labels) = before.namespaces.get(&key.namespace) {
            namespaces.entry(key.namespace.clone()).or_insert_with(|| labels.clone());
        }
    }
    let Keeper { found, mut kept, .. } = keeper;
    kept.sort();
    Held { cluster, places: found, kept }
}

struct Keeper<'b> {
    incomplete: &'b [Arc<str>],
    places: &'b Places,
    found: Places,
    kept: Vec<Kept>,
}

impl Keeper<'_> {
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
                None => self.incomplete.iter().any(|input| holds(input, &place.file)),
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
                self.kept.push(Kept { object: object.clone(), file: place.file.clone() });
                self.found.insert(object, place.clone());
            }
        }
    }
}

/// Is `file` the input, or in the directory that it is?
pub fn holds(input: &str, file: &str) -> bool {
    input == file || Path::new(file).starts_with(input)
}
