//! Turns watched changes of the cluster into events for the compiler. Not here: interfaces and
//! devices ([`crate::pod_interfaces`]), the difference between two states
//! ([`netpolc_lower::between`]).

use netpolc_kube_sync::{Change, Object, Resource};
use netpolc_lower::Event;
use netpolc_policy::{ObjectKey, TierApi, TierKey};

/// The event for a watched change; None where policy does not depend on it.
pub fn of(change: &Change) -> Option<Event> {
    let key = &change.key;
    Some(match &change.object {
        Some(Object::Namespace(name, namespace)) => {
            Event::Namespace { name: name.clone(), namespace: Some(namespace.clone()) }
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
        Some(Object::Staged(key, staged)) => {
            Event::Staged { key: key.clone(), staged: Some(staged.clone()) }
        }
        // Single rules come from files alone, where the difference between two states tells.
        Some(Object::GroupRule { .. }) => return None,
        None => match change.resource {
            Resource::Namespace => Event::Namespace { name: key.name.clone(), namespace: None },
            Resource::Node => Event::Node { name: key.name.clone(), node: None },
            Resource::Pod => Event::Pod { key: key.clone(), pod: None },
            Resource::Policy => Event::Policy { key: key.clone(), policy: None },
            Resource::Service => Event::Service { key: key.clone(), service: None },
            Resource::Tier => Event::Tier { key: tier(TierApi::Upstream, key), policy: None },
            Resource::AwsTier => Event::Tier { key: tier(TierApi::Aws, key), policy: None },
            Resource::GroupPolicy => Event::SecurityGroupPolicy { key: key.clone(), policy: None },
            Resource::Account => Event::Account { key: key.clone(), labels: None },
            Resource::Group => Event::SecurityGroup { id: key.name.clone().into(), group: None },
            Resource::Staged => Event::Staged { key: key.clone(), staged: None },
            Resource::EndpointSlice => return None,
        },
    })
}

fn tier(api: TierApi, key: &ObjectKey) -> TierKey {
    TierKey { api, name: key.name.clone() }
}
