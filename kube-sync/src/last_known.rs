//! Objects that stay enforced although an input no longer shows them (S61). Where a file does not
//! yield all that it contains_file, the last known objects of that file stay; where an object is
//! damaged, its last known good version stays. An object that is gone from a sound file is gone.
//! Not here: reading the files (`load`).

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use netpolc_policy::{
    Cluster, Direction, ObjectKey, SecurityGroup, SecurityGroupId, SecurityGroups, TierApi,
    TierKey, TierPolicy,
};

use crate::{Loaded, ObjectId, ObjectKind, Places, change};

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
    let Cluster {
        namespaces,
        pods,
        policies,
        nodes,
        services,
        tiers,
        security,
        staged,
        by_default: _,
    } = &mut cluster;
    let SecurityGroups {
        groups,
        prefix_lists,
        interfaces,
        policies: group_policies,
        accounts,
        resolvers: _,
        enforcement: _,
    } = security;
    let known = &before.security;
    let unscoped = |name: &Arc<str>| ObjectKey::new("", name.clone());
    merge.part(ObjectKind::Namespace, namespaces, &before.namespaces, unscoped);
    merge.part(ObjectKind::Pod, pods, &before.pods, ObjectKey::clone);
    merge.part(ObjectKind::Policy, policies, &before.policies, ObjectKey::clone);
    merge.part(ObjectKind::Node, nodes, &before.nodes, unscoped);
    merge.part(ObjectKind::Service, services, &before.services, ObjectKey::clone);
    for api in TierApi::ALL {
        let of = |policies: &BTreeMap<TierKey, TierPolicy>| {
            let of_group = policies.iter().filter(|(key, _)| key.api == api);
            of_group.map(|(key, policy)| (key.clone(), policy.clone())).collect()
        };
        let mut now: BTreeMap<TierKey, TierPolicy> = of(tiers);
        let key = |key: &TierKey| ObjectKey::new("", key.name.clone());
        merge.part(ObjectKind::Tier(api), &mut now, &of(&before.tiers), key);
        tiers.extend(now);
    }
    merge.part(ObjectKind::Staged, staged, &before.staged, ObjectKey::clone);
    merge.part(ObjectKind::GroupPolicy, group_policies, &known.policies, ObjectKey::clone);
    merge.part(ObjectKind::Account, accounts, &known.accounts, ObjectKey::clone);
    let by_id = |id: &str| ObjectKey::new("", id);
    merge.part(ObjectKind::PrefixList, prefix_lists, &known.prefix_lists, |id| by_id(id.as_str()));
    merge.part(ObjectKind::Interface, interfaces, &known.interfaces, |id| by_id(id.as_str()));
    merge.groups(groups, &known.groups);
    // A namespace may exist only because pods are in it. Then no file is its place, and it comes
    // from the last known cluster.
    for key in pods.keys() {
        if let Some(namespace) = before.namespaces.get(&key.namespace) {
            namespaces.entry(key.namespace.clone()).or_insert_with(|| namespace.clone());
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
            if !self.places.contains_key(&object) {
                continue;
            }
            let stays = match now.get(key) {
                None => self.is_retained(&object),
                Some(new) => {
                    !closes_by_itself(kind)
                        && new != value
                        && self.found.get(&object).is_some_and(|place| place.damaged)
                }
            };
            if stays {
                now.insert(key.clone(), value.clone());
                self.retain(object);
            }
        }
    }

    /// A group's rules may come from several files, one by one. Those of a file that is incomplete
    /// stay, unless another file describes the group as a whole now.
    fn groups(
        &mut self,
        now: &mut BTreeMap<SecurityGroupId, SecurityGroup>,
        before: &BTreeMap<SecurityGroupId, SecurityGroup>,
    ) {
        for (id, was) in before {
            let object = ObjectId { kind: ObjectKind::Group, key: ObjectKey::new("", id.as_str()) };
            let described = self.found.contains_key(&object);
            let stays = !described && self.is_retained(&object);
            if !described || now.get(id).is_some_and(change::has_ids) {
                self.rules(id, now, was);
            }
            if !stays {
                continue;
            }
            match now.get_mut(id) {
                Some(group) => group.name = was.name.clone(),
                // Rules with ids have a place of their own, and stay or go by that.
                None if change::has_ids(was) => {
                    let name = was.name.clone();
                    now.insert(id.clone(), SecurityGroup { name, ..SecurityGroup::default() });
                }
                None => drop(now.insert(id.clone(), was.clone())),
            }
            self.retain(object);
        }
    }

    /// Keeps the rules of one group that have ids.
    fn rules(
        &mut self,
        id: &SecurityGroupId,
        now: &mut BTreeMap<SecurityGroupId, SecurityGroup>,
        was: &SecurityGroup,
    ) {
        for direction in Direction::BOTH {
            for rule in was.rules(direction) {
                let Some(name) = &rule.id else { continue };
                let key = ObjectKey::new(id.as_str(), name.clone());
                let object = ObjectId { kind: ObjectKind::GroupRule, key };
                if !self.found.contains_key(&object) && self.is_retained(&object) {
                    let group = now.entry(id.clone()).or_default();
                    change::put_rule(group, direction, rule.clone());
                    self.retain(object);
                }
            }
        }
    }

    /// Whether the object was found in a file that is incomplete now.
    fn is_retained(&self, object: &ObjectId) -> bool {
        let incomplete = |file: &str| self.incomplete.iter().any(|i| contains_file(i, file));
        self.places.get(object).is_some_and(|place| incomplete(&place.file))
    }

    fn retain(&mut self, object: ObjectId) {
        let Some(place) = self.places.get(&object) else { return };
        self.retained.push(Retained { object: object.clone(), file: place.file.clone() });
        self.found.insert(object, place.clone());
    }
}

/// Whether a broken object of this kind closes by itself. Of anything else a part that is left out
/// may open something, or close far more than was meant: a broken Deny of a ClusterNetworkPolicy
/// denies everything, and the version before it is what an API server would have kept.
fn closes_by_itself(kind: ObjectKind) -> bool {
    match kind {
        ObjectKind::Policy
        | ObjectKind::Staged
        | ObjectKind::GroupPolicy
        | ObjectKind::Group
        | ObjectKind::GroupRule
        | ObjectKind::PrefixList
        | ObjectKind::Interface => true,
        ObjectKind::Namespace
        | ObjectKind::Node
        | ObjectKind::Service
        | ObjectKind::Pod
        | ObjectKind::Tier(_)
        | ObjectKind::Account => false,
    }
}

/// Whether `file` is the input itself, or lies in the directory that the input is.
pub fn contains_file(input: &str, file: &str) -> bool {
    input == file || Path::new(file).starts_with(input)
}
