//! A change to a cluster, of one object, and access to a cluster's objects by kind and key. Not
//! here: where changes come from (`watch`).

use std::{collections::btree_map::Entry, sync::Arc};

use netpolc_policy::{
    Cluster, Direction, GroupRule, ObjectKey, SecurityGroup, SecurityGroupId, TierApi, TierKey,
};

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

impl Object {
    /// Adds the object to `cluster`, in place of one of its name.
    pub fn put_into(self, cluster: &mut Cluster) {
        put(cluster, self);
    }

    /// Removes the object of this kind and name from `cluster`.
    pub fn remove_from(&self, cluster: &mut Cluster) {
        let (key, security) = (key(self), &mut cluster.security);
        let resource = match self {
            Object::Namespace(..) => Resource::Namespace,
            Object::Pod(_) => Resource::Pod,
            Object::Policy(_) => Resource::Policy,
            Object::Node(..) => Resource::Node,
            Object::Service(..) => Resource::Service,
            Object::Tier(policy) if policy.key.api == TierApi::Aws => Resource::AwsTier,
            Object::Tier(_) => Resource::Tier,
            Object::Staged(..) => Resource::Staged,
            Object::GroupPolicy(_) => Resource::GroupPolicy,
            Object::Account(..) => Resource::Account,
            Object::Group(..) => Resource::Group,
            Object::GroupRule { group, rule, .. } => {
                if let Some(group) = security.groups.get_mut(group) {
                    group.ingress.retain(|known| known.id != rule.id);
                    group.egress.retain(|known| known.id != rule.id);
                }
                return;
            }
            Object::PrefixList(id, _) => return drop(security.prefix_lists.remove(id)),
            Object::Interface(id, _) => return drop(security.interfaces.remove(id)),
        };
        remove(cluster, resource, &key);
    }
}

/// The key of an object, with an empty namespace where it is cluster-scoped.
pub(crate) fn key(object: &Object) -> ObjectKey {
    let unscoped = |name: Arc<str>| ObjectKey::new("", name);
    match object {
        Object::Namespace(name, _) | Object::Node(name, _) => unscoped(name.clone()),
        Object::Policy(policy) => policy.key.clone(),
        Object::Pod(pod) => pod.key.clone(),
        Object::Service(key, _) | Object::Staged(key, _) | Object::Account(key, _) => key.clone(),
        Object::Tier(policy) => unscoped(policy.key.name.clone()),
        Object::GroupPolicy(policy) => policy.key.clone(),
        Object::Group(id, _) => unscoped(id.as_str().into()),
        Object::GroupRule { group, rule, .. } => {
            ObjectKey::new(group.as_str(), rule.id.clone().unwrap_or_default())
        }
        Object::PrefixList(id, _) => unscoped(id.as_str().into()),
        Object::Interface(id, _) => unscoped(id.as_str().into()),
    }
}

pub(crate) fn put(cluster: &mut Cluster, object: Object) {
    let security = &mut cluster.security;
    match object {
        Object::Namespace(name, namespace) => drop(cluster.namespaces.insert(name, namespace)),
        Object::Node(name, node) => drop(cluster.nodes.insert(name, node)),
        Object::Policy(policy) => drop(cluster.policies.insert(policy.key.clone(), policy)),
        Object::Pod(pod) => drop(cluster.pods.insert(pod.key.clone(), pod)),
        Object::Service(key, service) => drop(cluster.services.insert(key, service)),
        Object::Tier(policy) => drop(cluster.tiers.insert(policy.key.clone(), policy)),
        Object::Staged(key, staged) => drop(cluster.staged.insert(key, staged)),
        Object::GroupPolicy(policy) => {
            drop(security.policies.insert(policy.key.clone(), policy));
        }
        Object::Account(key, labels) => drop(security.accounts.insert(key, labels)),
        Object::Group(id, group) => match security.groups.entry(id) {
            Entry::Occupied(mut known) if has_ids(known.get()) => {
                known.get_mut().name = group.name;
            }
            Entry::Occupied(mut known) => drop(known.insert(group)),
            Entry::Vacant(vacant) => drop(vacant.insert(group)),
        },
        Object::GroupRule { group, direction, rule } => {
            put_rule(security.groups.entry(group).or_default(), direction, rule);
        }
        Object::PrefixList(id, networks) => drop(security.prefix_lists.insert(id, networks)),
        Object::Interface(id, interface) => drop(security.interfaces.insert(id, interface)),
    }
}

/// Whether the group's rules are those that were given one by one, with their ids.
pub(crate) fn has_ids(group: &SecurityGroup) -> bool {
    group.ingress.iter().chain(&group.egress).any(|rule| rule.id.is_some())
}

/// Adds a rule that has an id, in the order of ids. The group's description may have the same rules
/// without ids, so these go.
pub(crate) fn put_rule(group: &mut SecurityGroup, direction: Direction, rule: GroupRule) {
    for rules in [&mut group.ingress, &mut group.egress] {
        rules.retain(|known| known.id.is_some() && known.id != rule.id);
    }
    let rules = match direction {
        Direction::Ingress => &mut group.ingress,
        Direction::Egress => &mut group.egress,
    };
    let at = rules.partition_point(|known| known.id < rule.id);
    rules.insert(at, rule);
}

pub(crate) fn remove(cluster: &mut Cluster, resource: Resource, key: &ObjectKey) {
    let security = &mut cluster.security;
    match resource {
        Resource::Namespace => drop(cluster.namespaces.remove(&key.name)),
        Resource::Node => drop(cluster.nodes.remove(&key.name)),
        Resource::Policy => drop(cluster.policies.remove(key)),
        Resource::Pod => drop(cluster.pods.remove(key)),
        Resource::Service => drop(cluster.services.remove(key)),
        Resource::Tier => drop(cluster.tiers.remove(&tier(TierApi::Upstream, key))),
        Resource::AwsTier => drop(cluster.tiers.remove(&tier(TierApi::Aws, key))),
        Resource::Staged => drop(cluster.staged.remove(key)),
        Resource::GroupPolicy => drop(security.policies.remove(key)),
        Resource::Account => drop(security.accounts.remove(key)),
        Resource::Group => drop(security.groups.remove(&SecurityGroupId::from(key.name.clone()))),
        Resource::EndpointSlice => {}
    }
}

fn tier(api: TierApi, key: &ObjectKey) -> TierKey {
    TierKey { api, name: key.name.clone() }
}

/// Whether `cluster` holds an object that equals this one.
pub(crate) fn knows(cluster: &Cluster, object: &Object) -> bool {
    let security = &cluster.security;
    match object {
        Object::Namespace(name, namespace) => cluster.namespaces.get(name) == Some(namespace),
        Object::Node(name, node) => cluster.nodes.get(name) == Some(node),
        Object::Policy(policy) => cluster.policies.get(&policy.key) == Some(policy),
        Object::Pod(pod) => cluster.pods.get(&pod.key) == Some(pod),
        Object::Service(key, service) => cluster.services.get(key) == Some(service),
        Object::Tier(policy) => cluster.tiers.get(&policy.key) == Some(policy),
        Object::Staged(key, staged) => cluster.staged.get(key) == Some(staged),
        Object::GroupPolicy(policy) => security.policies.get(&policy.key) == Some(policy),
        Object::Account(key, labels) => security.accounts.get(key) == Some(labels),
        Object::Group(id, group) => security
            .groups
            .get(id)
            .is_some_and(|known| known == group || has_ids(known) && known.name == group.name),
        Object::GroupRule { group, direction, rule } => {
            security.groups.get(group).is_some_and(|known| known.rules(*direction).contains(rule))
        }
        Object::PrefixList(id, networks) => security.prefix_lists.get(id) == Some(networks),
        Object::Interface(id, interface) => security.interfaces.get(id) == Some(interface),
    }
}

/// Whether `cluster` holds an object of this kind with this key.
pub(crate) fn has(cluster: &Cluster, resource: Resource, key: &ObjectKey) -> bool {
    let security = &cluster.security;
    match resource {
        Resource::Namespace => cluster.namespaces.contains_key(&key.name),
        Resource::Node => cluster.nodes.contains_key(&key.name),
        Resource::Policy => cluster.policies.contains_key(key),
        Resource::Pod => cluster.pods.contains_key(key),
        Resource::Service => cluster.services.contains_key(key),
        Resource::Tier => cluster.tiers.contains_key(&tier(TierApi::Upstream, key)),
        Resource::AwsTier => cluster.tiers.contains_key(&tier(TierApi::Aws, key)),
        Resource::Staged => cluster.staged.contains_key(key),
        Resource::GroupPolicy => security.policies.contains_key(key),
        Resource::Account => security.accounts.contains_key(key),
        Resource::Group => security.groups.contains_key(&SecurityGroupId::from(key.name.clone())),
        Resource::EndpointSlice => false,
    }
}

/// The keys of all objects of a kind, in order.
#[cfg(feature = "watch")]
pub(crate) fn keys(
    cluster: &Cluster,
    resource: Resource,
) -> Box<dyn Iterator<Item = ObjectKey> + '_> {
    let security = &cluster.security;
    let unscoped = |name: &Arc<str>| ObjectKey::new("", name.clone());
    let tiers = |api| {
        let of_group = cluster.tiers.keys().filter(move |key| key.api == api);
        of_group.map(|key| ObjectKey::new("", key.name.clone()))
    };
    match resource {
        Resource::Namespace => Box::new(cluster.namespaces.keys().map(unscoped)),
        Resource::Node => Box::new(cluster.nodes.keys().map(unscoped)),
        Resource::Policy => Box::new(cluster.policies.keys().cloned()),
        Resource::Pod => Box::new(cluster.pods.keys().cloned()),
        Resource::Service => Box::new(cluster.services.keys().cloned()),
        Resource::Tier => Box::new(tiers(TierApi::Upstream)),
        Resource::AwsTier => Box::new(tiers(TierApi::Aws)),
        Resource::Staged => Box::new(cluster.staged.keys().cloned()),
        Resource::GroupPolicy => Box::new(security.policies.keys().cloned()),
        Resource::Account => Box::new(security.accounts.keys().cloned()),
        Resource::Group => {
            Box::new(security.groups.keys().map(|id| ObjectKey::new("", id.as_str())))
        }
        Resource::EndpointSlice => Box::new(std::iter::empty()),
    }
}
