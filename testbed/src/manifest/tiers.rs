//! ClusterNetworkPolicies, in the form of either group.

use netpolc_policy::{Mode, Port, Ports, Selector, TierApi, TierPeer, TierPolicy, TierRule};
use serde_json::{Value, json};

use super::{insert, mode, selector};

/// A ClusterNetworkPolicy as the API server takes it.
pub fn tier(policy: &TierPolicy) -> Value {
    let api = policy.key.api;
    let version = match api {
        TierApi::Upstream => "v1alpha2",
        TierApi::Aws => "v1alpha1",
    };
    let rules = |rules: &[TierRule], field: &str| -> Vec<Value> {
        rules.iter().map(|r| rule(r, field, api)).collect()
    };
    let subject = &policy.subject;
    let mut object = json!({
        "apiVersion": format!("{}/{version}", api.group()),
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": &*policy.key.name},
        "spec": {
            "tier": policy.tier,
            "priority": policy.priority,
            "subject": pods(&subject.namespaces, &subject.pods),
            "ingress": rules(&policy.ingress, "from"),
            "egress": rules(&policy.egress, "to"),
        },
    });
    mode(&mut object, policy.mode == Mode::Audited);
    object
}

/// The pods in some namespaces: all of them, or those that are selected.
fn pods(namespaces: &Selector, pods: &Selector) -> Value {
    if pods.requirements.is_empty() {
        return json!({"namespaces": selector(namespaces)});
    }
    json!({"pods": {"namespaceSelector": selector(namespaces), "podSelector": selector(pods)}})
}

fn rule(rule: &TierRule, field: &str, api: TierApi) -> Value {
    let peers: Vec<Value> = rule.peers.iter().map(peer).collect();
    let mut object = json!({"action": rule.action, field: peers});
    insert(&mut object, "name", rule.name.as_deref());
    if let Ports::Listed(ports) = &rule.ports {
        let (field, each) = match api {
            TierApi::Upstream => ("protocols", protocol as fn(&Port) -> Value),
            TierApi::Aws => ("ports", port as fn(&Port) -> Value),
        };
        object[field] = ports.iter().map(each).collect();
    }
    object
}

fn peer(peer: &TierPeer) -> Value {
    match peer {
        TierPeer::Pods { namespaces, pods: selected } => pods(namespaces, selected),
        TierPeer::Networks(networks) => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            json!({"networks": networks})
        }
        TierPeer::Nodes(nodes) => json!({"nodes": selector(nodes)}),
        // What a peer becomes that says nothing depends on the rule's action.
        TierPeer::Anybody | TierPeer::Nobody => json!({}),
    }
}

/// An item of `protocols`.
fn protocol(port: &Port) -> Value {
    match port {
        Port::Range { protocol, first, last } => {
            let numbers = match first == last {
                true => json!({"number": first}),
                false => json!({"range": {"start": first, "end": last}}),
            };
            json!({protocol.to_string().to_lowercase(): {"destinationPort": numbers}})
        }
        Port::Name(name) => json!({"destinationNamedPort": &**name}),
        Port::Every(_) | Port::Named { .. } | Port::Nothing => json!({}),
    }
}

/// An item of `ports`.
fn port(port: &Port) -> Value {
    match port {
        Port::Range { protocol, first, last } if first == last => {
            json!({"portNumber": {"protocol": protocol, "port": first}})
        }
        Port::Range { protocol, first, last } => {
            json!({"portRange": {"protocol": protocol, "start": first, "end": last}})
        }
        Port::Name(name) => json!({"namedPort": &**name}),
        Port::Every(_) | Port::Named { .. } | Port::Nothing => json!({}),
    }
}
