//! Records where objects were found, and decides what is done with two objects of one name. Not
//! here: objects that an input no longer shows (`last_known`).

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
};

use netpolc_policy::{Cluster, Isolation, Mode, ObjectKey, Policy, TierApi, Unselected};

use crate::{
    Object, change, groups,
    problem::{ObjectRef, Path},
    source::Reader,
    tier,
};

/// The kinds of object on which policy depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `Namespace` of the core group.
    Namespace,
    /// `Node` of the core group.
    Node,
    /// `Service` of the core group.
    Service,
    /// `NetworkPolicy` of networking.k8s.io.
    Policy,
    /// `Pod` of the core group.
    Pod,
    /// `ClusterNetworkPolicy` of this group.
    Tier(TierApi),
    /// `StagedKubernetesNetworkPolicy` of projectcalico.org.
    Staged,
    /// `SecurityGroupPolicy` of vpcresources.k8s.aws.
    GroupPolicy,
    /// `ServiceAccount` of the core group.
    Account,
    /// A security group, as the cloud describes it.
    Group,
    /// One rule of a security group; the key's namespace is the group.
    GroupRule,
    /// The entries of a prefix list.
    PrefixList,
    /// A network interface of the cloud.
    Interface,
}

/// The kind and name of an object in a cluster. Prints as `NetworkPolicy shop/ui`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The kind of the object.
    pub kind: ObjectKind,
    /// The object's key; the namespace of a cluster-scoped object is empty.
    pub key: ObjectKey,
}

/// Where an object was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The input, or the file in a directory that was given.
    pub file: Arc<str>,
    /// The line in the file, from 1.
    pub line: u32,
    /// Whether a part of the object could not be understood and was left out.
    pub damaged: bool,
    /// How many differing policies of the same name came after this one.
    copies: u32,
}

/// Where each object of a cluster was found.
pub type Places = HashMap<ObjectId, Place>;

impl ObjectId {
    /// The kind and name of `object`.
    pub fn of(object: &Object) -> Self {
        let kind = match object {
            Object::Namespace(..) => ObjectKind::Namespace,
            Object::Pod(_) => ObjectKind::Pod,
            Object::Policy(_) => ObjectKind::Policy,
            Object::Node(..) => ObjectKind::Node,
            Object::Service(..) => ObjectKind::Service,
            Object::Tier(policy) => ObjectKind::Tier(policy.key.api),
            Object::Staged(..) => ObjectKind::Staged,
            Object::GroupPolicy(_) => ObjectKind::GroupPolicy,
            Object::Account(..) => ObjectKind::Account,
            Object::Group(..) => ObjectKind::Group,
            Object::GroupRule { .. } => ObjectKind::GroupRule,
            Object::PrefixList(..) => ObjectKind::PrefixList,
            Object::Interface(..) => ObjectKind::Interface,
        };
        Self { kind, key: change::key(object) }
    }

    /// `namespace/name`, or the name of a cluster-scoped object.
    fn name(&self) -> String {
        if self.key.namespace.is_empty() { self.key.name.to_string() } else { self.key.to_string() }
    }
}

impl ObjectKind {
    /// The kind's name, as objects carry it in `kind`.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Namespace => "Namespace",
            ObjectKind::Node => "Node",
            ObjectKind::Service => "Service",
            ObjectKind::Policy => "NetworkPolicy",
            ObjectKind::Pod => "Pod",
            ObjectKind::Tier(_) => "ClusterNetworkPolicy",
            ObjectKind::Staged => "StagedKubernetesNetworkPolicy",
            ObjectKind::GroupPolicy => "SecurityGroupPolicy",
            ObjectKind::Account => "ServiceAccount",
            ObjectKind::Group => "SecurityGroup",
            ObjectKind::GroupRule => "SecurityGroupRule",
            ObjectKind::PrefixList => "PrefixList",
            ObjectKind::Interface => "NetworkInterface",
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name())
    }
}

/// Puts `object` into the cluster. Of two objects of one name the first counts, since nobody knows
/// which of the two is intended. Where a second one that differs closes something, it does so all
/// the same: a policy isolates the pods that it selects too and allows nothing, a
/// ClusterNetworkPolicy denies what it denies or passes on, and a SecurityGroupPolicy gives a group
/// that permits nothing. It then stands beside the first one under a name of its own. Of what two
/// Namespaces say of pods that no policy isolates, the stricter counts.
pub(crate) fn put(
    cluster: &mut Cluster,
    places: &mut Places,
    reader: &mut Reader,
    object: Object,
    at: u32,
) {
    let id = ObjectId::of(&object);
    let pending = reader.pending();
    let place = |reader: &Reader, damaged| Place {
        file: reader.source.name.clone(),
        line: reader.source.line(at as usize),
        damaged,
        copies: 0,
    };
    let mut before = match places.entry(id) {
        Entry::Vacant(vacant) => {
            reader.keep(vacant.key(), pending);
            vacant.insert(place(reader, reader.damaged));
            return change::put(cluster, object);
        }
        Entry::Occupied(before) => before,
    };
    let id = before.key().clone();
    reader.object = Some(ObjectRef { kind: id.kind.name().into(), name: id.name().into() });
    let first = format!("{}:{}", before.get().file, before.get().line);
    if change::knows(cluster, &object) {
        return reader.warning(
            at,
            &Path::Root,
            format!("this object is already given at {first}; remove one"),
        );
    }
    if let Object::Namespace(name, second) = &object
        && let Some(kept) = cluster.namespaces.get_mut(name)
        && openness(second.unselected) < openness(kept.unselected)
    {
        kept.unselected = second.unselected;
    }
    let name = format!("{}.given-{}", id.key.name, before.get().copies + 2);
    let mode = mode_of_both(cluster, &object);
    let Some((twin, effect)) = twin(object, name, mode) else {
        let message =
            format!("this object contradicts the one at {first}, which is kept; remove one");
        return reader.error(at, &Path::Root, message);
    };
    let message = format!(
        "this policy contradicts the one at {first}, which is kept; {effect}; remove or rename one"
    );
    reader.error(at, &Path::Root, message);
    before.get_mut().copies += 1;
    if let Entry::Vacant(vacant) = places.entry(ObjectId::of(&twin)) {
        reader.keep(vacant.key(), pending);
        vacant.insert(place(reader, true));
        change::put(cluster, twin);
    }
}

/// The mode of a policy that contradicts the one that counts: it is only tried where both are
/// (S84), since one of them may be the one that is meant.
fn mode_of_both(cluster: &Cluster, object: &Object) -> Mode {
    let modes = match object {
        Object::Policy(policy) => {
            [Some(policy.mode), cluster.policies.get(&policy.key).map(|kept| kept.mode)]
        }
        Object::Tier(policy) => {
            [Some(policy.mode), cluster.tiers.get(&policy.key).map(|kept| kept.mode)]
        }
        _ => return Mode::Enforced,
    };
    match modes.iter().all(|mode| *mode == Some(Mode::Audited)) {
        true => Mode::Audited,
        false => Mode::Enforced,
    }
}

/// How open pods that no policy isolates are, by what their namespace says; where it says nothing,
/// they are as the node has it.
fn openness(says: Option<Unselected>) -> u8 {
    match says {
        Some(Unselected::Isolated) => 0,
        None => 1,
        Some(Unselected::Open) => 2,
    }
}

/// What an object closes where it contradicts another one of its name, as an object called `name`,
/// with a description of that; None where it closes nothing.
fn twin(object: Object, name: String, mode: Mode) -> Option<(Object, &'static str)> {
    match object {
        Object::Policy(policy) => {
            let key = ObjectKey::new(policy.key.namespace.clone(), name);
            let effect = "the pods that it selects are isolated too, and it allows nothing";
            Some((Object::Policy(isolating(policy, key, mode)), effect))
        }
        Object::Tier(policy) => {
            let effect = "what it denies or passes on is denied too, and it accepts nothing";
            Some((Object::Tier(tier::twin(policy, name.into(), mode)), effect))
        }
        Object::GroupPolicy(policy) => {
            let key = ObjectKey::new(policy.key.namespace.clone(), name);
            let effect = "the pods that it selects get a group that permits nothing";
            Some((Object::GroupPolicy(groups::policy::twin(policy, key)), effect))
        }
        Object::Namespace(..)
        | Object::Pod(_)
        | Object::Node(..)
        | Object::Service(..)
        | Object::Staged(..)
        | Object::Account(..)
        | Object::Group(..)
        | Object::GroupRule { .. }
        | Object::PrefixList(..)
        | Object::Interface(..) => None,
    }
}

/// A policy that isolates the same pods in the same directions as `policy` and allows nothing.
fn isolating(policy: Policy, key: ObjectKey, mode: Mode) -> Policy {
    let nothing = |isolation| match isolation {
        Isolation::Isolated(_) => Isolation::Isolated(vec![]),
        Isolation::Open => Isolation::Open,
    };
    Policy { key, ingress: nothing(policy.ingress), egress: nothing(policy.egress), mode, ..policy }
}
