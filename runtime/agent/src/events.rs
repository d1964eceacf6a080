//! Turns changes of the cluster into events for the compiler: the difference between two states, or
//! one watched change. Not here: interfaces and devices ([`crate::pod_interfaces`]).

use std::collections::BTreeMap;

use netpolc_kube_sync::{Change, Object, Resource};
use netpolc_lower::Event;
use netpolc_policy::Cluster;

/// The events that lead from `old` to `new`, in a fixed order. They belong to one update: apply
/// them together.
pub fn between(old: &Cluster, new: &Cluster) -> Vec<Event> {
    // Without `..`, so that a new kind of object cannot be forgotten.
    let Cluster { namespaces, pods, policies, nodes, services, tiers, security: _, staged: _ } =
        old;
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
        // The compiler does not take these yet.
        Some(
            Object::Tier(_)
            | Object::Staged(..)
            | Object::GroupPolicy(_)
            | Object::Account(..)
            | Object::Group(..)
            | Object::GroupRule { .. }
            | Object::PrefixList(..)
            | Object::Interface(..),
        ) => return None,
        None => match change.resource {
            Resource::Namespace => Event::Namespace { name: key.name.clone(), labels: None },
            Resource::Node => Event::Node { name: key.name.clone(), node: None },
            Resource::Pod => Event::Pod { key: key.clone(), pod: None },
            Resource::Policy => Event::Policy { key: key.clone(), policy: None },
            Resource::Service => Event::Service { key: key.clone(), service: None },
            Resource::EndpointSlice
            | Resource::Tier
            | Resource::AwsTier
            | Resource::Staged
            | Resource::GroupPolicy
            | Resource::Account
            | Resource::Group => return None,
        },
    })
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
    use netpolc_policy::{Isolation, Labels, Mode, ObjectKey, Policy, Selector};

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
