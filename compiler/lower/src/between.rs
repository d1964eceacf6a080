//! The difference between two clusters, as events.

use std::collections::BTreeMap;

use netpolc_policy::{Cluster, SecurityGroups};

use crate::event::Event;

/// The events that lead from `old` to `new`, in a fixed order. They belong to one update: apply
/// them together.
pub fn between(old: &Cluster, new: &Cluster) -> Vec<Event> {
    // Without `..`, so that a new kind of object cannot be forgotten.
    let Cluster {
        namespaces,
        pods,
        policies,
        nodes,
        services,
        tiers,
        security,
        staged,
        by_default,
    } = old;
    let SecurityGroups {
        groups,
        prefix_lists,
        interfaces,
        policies: group_policies,
        accounts,
        resolvers,
        enforcement,
    } = security;
    let mut events = Vec::new();
    differing(nodes, &new.nodes, |name, node| {
        events.push(Event::Node { name: name.clone(), node: node.cloned() });
    });
    if *by_default != new.by_default {
        events.push(Event::ByDefault(new.by_default.clone()));
    }
    differing(namespaces, &new.namespaces, |name, namespace| {
        events.push(Event::Namespace { name: name.clone(), namespace: namespace.cloned() });
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
    if *enforcement != new.security.enforcement {
        events.push(Event::Enforcement(new.security.enforcement));
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
    differing(staged, &new.staged, |key, staged| {
        events.push(Event::Staged { key: key.clone(), staged: staged.cloned() });
    });
    events
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
    use netpolc_policy::{Isolation, Mode, Namespace, ObjectKey, Policy, Selector};

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
        new.namespaces.insert("shop".into(), Namespace::default());
        let events = between(&old, &new);
        assert_eq!(
            events,
            [
                Event::Namespace { name: "shop".into(), namespace: Some(Namespace::default()) },
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
