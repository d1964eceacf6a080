//! Records where objects were found, and decides what is done with two objects of one name. Not
//! here: objects that an input no longer shows (`last_known`).

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
};

use netpolc_policy::{Cluster, Isolation, ObjectKey, Policy};

use crate::{
    Object,
    problem::{ObjectRef, Path},
    source::Reader,
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
        let (kind, key) = match object {
            Object::Namespace(name, _) => (ObjectKind::Namespace, ObjectKey::new("", name.clone())),
            Object::Pod(pod) => (ObjectKind::Pod, pod.key.clone()),
            Object::Policy(policy) => (ObjectKind::Policy, policy.key.clone()),
            Object::Node(name, _) => (ObjectKind::Node, ObjectKey::new("", name.clone())),
            Object::Service(key, _) => (ObjectKind::Service, key.clone()),
        };
        Self { kind, key }
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
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name())
    }
}

/// Puts `object` into the cluster. Of two objects of one name the first counts. A second policy
/// that differs isolates the pods that it selects too and allows nothing, since nobody knows which
/// of the two is intended.
pub(crate) fn put(
    cluster: &mut Cluster,
    places: &mut Places,
    reader: &mut Reader,
    object: Object,
    at: u32,
) {
    let id = ObjectId::of(&object);
    let place = || Place {
        file: reader.source.name.clone(),
        line: reader.source.line(at as usize),
        damaged: reader.damaged,
        copies: 0,
    };
    let mut before = match places.entry(id) {
        Entry::Vacant(vacant) => {
            vacant.insert(place());
            return insert(cluster, object);
        }
        Entry::Occupied(before) => before,
    };
    let same = match &object {
        Object::Namespace(name, labels) => cluster.namespaces.get(name) == Some(labels),
        Object::Pod(pod) => cluster.pods.get(&pod.key) == Some(pod),
        Object::Policy(policy) => cluster.policies.get(&policy.key) == Some(policy),
        Object::Node(name, node) => cluster.nodes.get(name) == Some(node),
        Object::Service(key, service) => cluster.services.get(key) == Some(service),
    };
    let id = before.key().clone();
    reader.object = Some(ObjectRef { kind: id.kind.name().into(), name: id.name().into() });
    let first = format!("{}:{}", before.get().file, before.get().line);
    if same {
        return reader.warning(
            at,
            &Path::Root,
            format!("this object is already given at {first}; remove one"),
        );
    }
    let Object::Policy(policy) = object else {
        let message =
            format!("this object contradicts the one at {first}, which is kept; remove one");
        return reader.error(at, &Path::Root, message);
    };
    let message = format!(
        "this policy contradicts the one at {first}, which is kept; the pods that it selects are \
        isolated too, and it allows nothing; remove or rename one"
    );
    reader.error(at, &Path::Root, message);
    before.get_mut().copies += 1;
    let name = format!("{}.given-{}", id.key.name, before.get().copies + 1);
    let twin = Object::Policy(isolating(policy, ObjectKey::new(id.key.namespace, name)));
    if let Entry::Vacant(vacant) = places.entry(ObjectId::of(&twin)) {
        vacant.insert(Place {
            file: reader.source.name.clone(),
            line: reader.source.line(at as usize),
            damaged: true,
            copies: 0,
        });
        insert(cluster, twin);
    }
}

/// A policy that isolates the same pods in the same directions as `policy` and allows nothing.
fn isolating(policy: Policy, key: ObjectKey) -> Policy {
    let nothing = |isolation| match isolation {
        Isolation::Isolated(_) => Isolation::Isolated(vec![]),
        Isolation::Open => Isolation::Open,
    };
    Policy { key, ingress: nothing(policy.ingress), egress: nothing(policy.egress), ..policy }
}

fn insert(cluster: &mut Cluster, object: Object) {
    match object {
        Object::Namespace(name, labels) => drop(cluster.namespaces.insert(name, labels)),
        Object::Pod(pod) => drop(cluster.pods.insert(pod.key.clone(), pod)),
        Object::Policy(policy) => drop(cluster.policies.insert(policy.key.clone(), policy)),
        Object::Node(name, node) => drop(cluster.nodes.insert(name, node)),
        Object::Service(key, service) => drop(cluster.services.insert(key, service)),
    }
}
