//! A change to a cluster, of one object, and access to a cluster's objects by kind and key. Not
//! here: where changes come from (`watch`).

use netpolc_policy::{Cluster, ObjectKey};

use crate::{Object, Resource};

/// One object was added, modified or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The kind of the object.
    pub resource: Resource,
    /// The object's key; the namespace of a cluster-scoped object is empty.
    pub key: ObjectKey,
    /// The object's new state; None where it was deleted.
    pub object: Option<Object>,
}

impl Change {
    /// Applies the change to `cluster`.
    pub fn apply(self, cluster: &mut Cluster) {
        match self.object {
            Some(object) => put(cluster, object),
            None => remove(cluster, self.resource, &self.key),
        }
    }

    /// Whether applying the change would leave `cluster` as it is.
    pub fn is_known(&self, cluster: &Cluster) -> bool {
        match &self.object {
            Some(object) => knows(cluster, object),
            None => !has(cluster, self.resource, &self.key),
        }
    }
}

#[cfg(feature = "watch")]
pub(crate) fn key(object: &Object) -> ObjectKey {
    match object {
        Object::Namespace(name, _) | Object::Node(name, _) => ObjectKey::new("", name.clone()),
        Object::Policy(policy) => policy.key.clone(),
        Object::Pod(pod) => pod.key.clone(),
        Object::Service(key, _) => key.clone(),
    }
}

pub(crate) fn put(cluster: &mut Cluster, object: Object) {
    match object {
        Object::Namespace(name, labels) => drop(cluster.namespaces.insert(name, labels)),
        Object::Node(name, node) => drop(cluster.nodes.insert(name, node)),
        Object::Policy(policy) => drop(cluster.policies.insert(policy.key.clone(), policy)),
        Object::Pod(pod) => drop(cluster.pods.insert(pod.key.clone(), pod)),
        Object::Service(key, service) => drop(cluster.services.insert(key, service)),
    }
}

pub(crate) fn remove(cluster: &mut Cluster, resource: Resource, key: &ObjectKey) {
    match resource {
        Resource::Namespace => drop(cluster.namespaces.remove(&key.name)),
        Resource::Node => drop(cluster.nodes.remove(&key.name)),
        Resource::Policy => drop(cluster.policies.remove(key)),
        Resource::Pod => drop(cluster.pods.remove(key)),
        Resource::Service => drop(cluster.services.remove(key)),
        Resource::EndpointSlice => {}
    }
}

/// Whether `cluster` holds an object that equals this one.
pub(crate) fn knows(cluster: &Cluster, object: &Object) -> bool {
    match object {
        Object::Namespace(name, labels) => cluster.namespaces.get(name) == Some(labels),
        Object::Node(name, node) => cluster.nodes.get(name) == Some(node),
        Object::Policy(policy) => cluster.policies.get(&policy.key) == Some(policy),
        Object::Pod(pod) => cluster.pods.get(&pod.key) == Some(pod),
        Object::Service(key, service) => cluster.services.get(key) == Some(service),
    }
}

/// Whether `cluster` holds an object of this kind with this key.
pub(crate) fn has(cluster: &Cluster, resource: Resource, key: &ObjectKey) -> bool {
    match resource {
        Resource::Namespace => cluster.namespaces.contains_key(&key.name),
        Resource::Node => cluster.nodes.contains_key(&key.name),
        Resource::Policy => cluster.policies.contains_key(key),
        Resource::Pod => cluster.pods.contains_key(key),
        Resource::Service => cluster.services.contains_key(key),
        Resource::EndpointSlice => false,
    }
}

/// The keys of all objects of a kind, in order.
#[cfg(feature = "watch")]
pub(crate) fn keys(
    cluster: &Cluster,
    resource: Resource,
) -> Box<dyn Iterator<Item = ObjectKey> + '_> {
    match resource {
        Resource::Namespace => {
            Box::new(cluster.namespaces.keys().map(|name| ObjectKey::new("", name.clone())))
        }
        Resource::Node => {
            Box::new(cluster.nodes.keys().map(|name| ObjectKey::new("", name.clone())))
        }
        Resource::Policy => Box::new(cluster.policies.keys().cloned()),
        Resource::Pod => Box::new(cluster.pods.keys().cloned()),
        Resource::Service => Box::new(cluster.services.keys().cloned()),
        Resource::EndpointSlice => Box::new(std::iter::empty()),
    }
}
