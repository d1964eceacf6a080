//! Turns changes of the cluster into events for the compiler: the difference between two states, or
//! one watched change. Not here: interfaces and devices ([`crate::pod_interfaces`]).

use std::collections::BTreeMap;

use netpolc_kube_sync::{Change, Object, Resource};
use netpolc_lower::Event;
use netpolc_policy::{Cluster, ObjectKey, SecurityGroups, TierApi, TierKey};

/// The events that lead from `old` to `new`, in a fixed order. They belong to one update: apply
/// them together.
pub fn between(old: &Cluster, new: &Cluster) -> Vec<Event> {
    // Without `..`, so that a new kind of object cannot be forgotten.
    let Cluster { namespaces, pods, policies, nodes, services, tiers, security, staged: _ } = old;
    let SecurityGroups {
        groups,
        prefix_lists,
        interfaces,
        policies: group_policies,
        accounts,
        resolvers,
    } = security;
    let mut events = Vec::new();
    differing(nodes, &new.nodes, |name, node| {
        events.push(Event::Node { name: name.clone(), node: node.cloned() });
    });
    differing(namespaces, &new.namespaces, |name, labels| {
        events.push(Event::Namespace { name: name.clone(), labels: labels.cloned() });
    });
    differing(tiers, &new.tiers, |key, policy| {
        events.push(Event::Tier { key: key.clone(), policy: policy.cloned() });
    });
    differing(groups, &new.security.groups, |id, group| {
        events.push(Event::SecurityGroup { id: id.clone(), group: group.cloned() });
    });
    differing(prefix_lists, &new.security.prefix_lists, |id, entries| {
        events.push(Event::PrefixList { id: id.clone(), entries: entries.cloned() });
    });
    differing(interfaces, &new.security.interfaces, |id, interface| {
        events.push(Event::CloudInterface { id: id.clone(), interface: interface.cloned() });
    });
    differing(group_policies, &new.security.policies, |key, policy| {
        events.push(Event::SecurityGroupPolicy { key: key.clone(), policy: policy.cloned() });
    });
    differing(accounts, &new.security.accounts, |key, labels| {
        events.push(Event::Account { key: key.clone(), labels: labels.cloned() });
    });
    if *resolvers != new.security.resolvers {
        events.push(Event::Resolvers(new.security.resolvers.clone()));
    }
    differing(services, &new.services, |key, service| {
        events.push(Event::Service { key: key.clone(), service: service.cloned() });
    });
    differing(pods, &new.pods, |key, pod| {
        events.push(Event::Pod { key: key.clone(), pod: pod.cloned() });
    });
    differing(policies, &new.policies, |key, policy| {
        events.push(Event::Policy { key: key.clone(), policy: policy.cloned() });
    });
    events
}

/// The event for a watched change; None where policy does not depend on it.
pub fn of(change: &Change) -> Option<Event> {
    let key = &change.key;
    Some(match &change.object {
        Some(Object::Namespace(name, labels)) => {
            Event::Namespace { name: name.clone(), labels: Some(labels.clone()) }
        }
        Some(Object::Node(name, node)) => {
            Event::Node { name: name.clone(), node: Some(node.clone()) }
        }
        Some(Object::Pod(pod)) => Event::Pod { key: pod.key.clone(), pod: Some(pod.clone()) },
        Some(Object::Policy(policy)) => {
            Event::Policy { key: policy.key.clone(), policy: Some(policy.clone()) }
        }
        Some(Object::Service(key, service)) => {
            Event::Service { key: key.clone(), service: Some(service.clone()) }
        }
        Some(Object::Tier(policy)) => {
            Event::Tier { key: policy.key.clone(), policy: Some(policy.clone()) }
        }
        Some(Object::GroupPolicy(policy)) => {
            Event::SecurityGroupPolicy { key: policy.key.clone(), policy: Some(policy.clone()) }
        }
        Some(Object::Account(key, labels)) => {
            Event::Account { key: key.clone(), labels: Some(labels.clone()) }
        }
        Some(Object::Group(id, group)) => {
            Event::SecurityGroup { id: id.clone(), group: Some(group.clone()) }
        }
        Some(Object::PrefixList(id, entries)) => {
            Event::PrefixList { id: id.clone(), entries: Some(entries.clone()) }
        }
        Some(Object::Interface(id, interface)) => {
            Event::CloudInterface { id: id.clone(), interface: Some(interface.clone()) }
        }
        // Single rules come from files alone, where the difference between two states tells; what
        // is staged decides nothing (S84).
        Some(Object::GroupRule { .. } | Object::Staged(..)) => return None,
        None => match change.resource {
            Resource::Namespace => Event::Namespace { name: key.name.clone(), labels: None },
            Resource::Node => Event::Node { name: key.name.clone(), node: None },
            Resource::Pod => Event::Pod { key: key.clone(), pod: None },
            Resource::Policy => Event::Policy { key: key.clone(), policy: None },
            Resource::Service => Event::Service { key: key.clone(), service: None },
            Resource::Tier => Event::Tier { key: tier(TierApi::Upstream, key), policy: None },
            Resource::AwsTier => Event::Tier { key: tier(TierApi::Aws, key), policy: None },
            Resource::GroupPolicy => Event::SecurityGroupPolicy { key: key.clone(), policy: None },
            Resource::Account => Event::Account { key: key.clone(), labels: None },
            Resource::Group => Event::SecurityGroup { id: key.name.clone().into(), group: None },
            Resource::EndpointSlice | Resource::Staged => return None,
        },
    })
}

fn tier(api: TierApi, key: &ObjectKey) -> TierKey {
    TierKey { api, name: key.name.clone() }
}

fn differing<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    mut each: impl FnMut(&K, Option<&V>),
) {
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        each(key, None);
    }
    for (key, value) in new {
        if old.get(key) != Some(value) {
            each(key, Some(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use netpolc_policy::{Isolation, Labels, Mode, Policy, Selector};

    use super::*;

    #[test]
    fn only_what_differs_becomes_an_event_and_what_is_gone_is_none() {
        let policy = |name: &str, egress| Policy {
            key: ObjectKey::new("shop", name),
            selector: Selector::default(),
            ingress: Isolation::Open,
            egress,
            mode: Mode::Enforced,
        };
        let policies = |list: Vec<Policy>| list.into_iter().map(|p| (p.key.clone(), p)).collect();
        let old = Cluster {
            policies: policies(vec![
                policy("same", Isolation::Open),
                policy("gone", Isolation::Open),
            ]),
            ..Cluster::default()
        };
        let mut new = old.clone();
        new.policies = policies(vec![
            policy("same", Isolation::Open),
            policy("new", Isolation::Isolated(vec![])),
        ]);
        new.namespaces.insert("shop".into(), Labels::default());
        let events = between(&old, &new);
        assert_eq!(
            events,
            [
                Event::Namespace { name: "shop".into(), labels: Some(Labels::default()) },
                Event::Policy { key: ObjectKey::new("shop", "gone"), policy: None },
                Event::Policy {
                    key: ObjectKey::new("shop", "new"),
                    policy: Some(policy("new", Isolation::Isolated(vec![])))
                },
            ]
        );
        assert_eq!(between(&new, &new), []);
    }
}
