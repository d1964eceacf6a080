//! The model back to Kubernetes objects, as `kubectl get -o json` would show them: for files that
//! tests and demonstrations give to `netpolc`. Not here: the other way (kube-sync).
//!
//! What the model holds for "could not be understood" is written as something that cannot be
//! understood either, so that decoding the output gives the model back.

mod groups;
mod tiers;

use netpolc_policy::{
    Block, Cluster, Isolation, Mode, Namespace, Namespaces, Node, ObjectKey, Operator, Peer, Peers,
    Phase, Pod, PodNetwork, Policy, Port, Ports, Rule, Selector, Service, Staged, Unselected,
};
use serde_json::{Value, json};

pub use self::{
    groups::{account, group_policy, security},
    tiers::tier,
};

/// All objects of a cluster as one List; what the cloud says of security groups stands in it as
/// `aws ec2` prints it.
pub fn cluster(cluster: &Cluster) -> Value {
    let Cluster {
        namespaces,
        pods,
        policies,
        nodes,
        services,
        tiers,
        security: groups,
        staged: would_be,
        // No object says this, but the options of whoever reads them.
        by_default: _,
    } = cluster;
    let mut items: Vec<Value> = namespaces.iter().map(|(name, n)| namespace(name, n)).collect();
    items.extend(nodes.iter().map(|(name, n)| node(name, n)));
    items.extend(services.iter().map(|(key, s)| service(key, s)));
    items.extend(pods.values().map(pod));
    items.extend(policies.values().map(policy));
    items.extend(tiers.values().map(tier));
    items.extend(would_be.iter().map(|(key, s)| staged(key, s)));
    items.extend(security(groups));
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// A Namespace as the API server takes it.
pub fn namespace(name: &str, namespace: &Namespace) -> Value {
    let metadata = json!({"name": name, "labels": namespace.labels});
    let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    if let Some(unselected) = namespace.unselected {
        let value = if unselected == Unselected::Isolated { "true" } else { "false" };
        object["metadata"]["annotations"]["netpolc.io/isolate-by-default"] = json!(value);
    }
    object
}

/// A Node as the API server takes it.
pub fn node(name: &str, node: &Node) -> Value {
    let addresses: Vec<Value> = node
        .addresses
        .iter()
        .map(|a| json!({"type": "InternalIP", "address": a.to_string()}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": node.labels},
        "status": {"addresses": addresses},
    })
}

/// A Service; all its addresses stand as cluster addresses.
pub fn service(key: &ObjectKey, service: &Service) -> Value {
    let ports = service.ports.iter().map(|p| {
        let mut port = json!({"port": p.number, "protocol": p.protocol});
        insert(&mut port, "nodePort", p.node_port);
        port
    });
    let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        "spec": {"type": "LoadBalancer", "clusterIPs": addresses, "ports": ports.collect::<Vec<Value>>()},
    });
    insert(&mut object["spec"], "healthCheckNodePort", service.health_check);
    object
}

/// A Pod with one container that declares all its ports.
pub fn pod(pod: &Pod) -> Value {
    let ports = pod.ports.iter().map(|p| {
        let mut port = json!({"containerPort": p.number, "protocol": p.protocol});
        insert(&mut port, "name", p.name.as_deref());
        insert(&mut port, "hostPort", p.host_port);
        port
    });
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "labels": pod.labels},
        "spec": {"containers": [{"name": "main", "image": "main", "ports": ports.collect::<Vec<Value>>()}]},
        "status": {"phase": if pod.phase == Phase::Active { "Running" } else { "Succeeded" }},
    });
    insert(&mut object["metadata"], "uid", pod.uid.as_deref());
    let grouping = &pod.grouping;
    if !grouping.interfaces.is_empty() {
        let list: Vec<Value> =
            grouping.interfaces.iter().map(|id| json!({"eniId": id, "vlanId": 1})).collect();
        object["metadata"]["annotations"]["vpc.amazonaws.com/pod-eni"] =
            json!(json!(list).to_string());
    }
    if !grouping.fargate.is_empty() {
        let list: Vec<&str> = grouping.fargate.iter().map(|id| id.as_str()).collect();
        object["metadata"]["annotations"]["fargate.amazonaws.com/pod-sg"] = json!(list.join(","));
    }
    object["spec"]["serviceAccountName"] = json!(&*grouping.account);
    insert(&mut object["spec"], "nodeName", pod.node.as_deref());
    insert(&mut object["spec"], "hostNetwork", (pod.network == PodNetwork::Host).then_some(true));
    if let Some(first) = pod.addresses.first() {
        object["status"]["podIP"] = json!(first.to_string());
        object["status"]["podIPs"] =
            pod.addresses.iter().map(|a| json!({"ip": a.to_string()})).collect();
    }
    object
}

/// A NetworkPolicy as the API server takes it.
pub fn policy(policy: &Policy) -> Value {
    let mut spec = json!({"podSelector": selector(&policy.selector)});
    let mut types = Vec::new();
    for (name, list, peers, isolation) in [
        ("Ingress", "ingress", "from", &policy.ingress),
        ("Egress", "egress", "to", &policy.egress),
    ] {
        if let Isolation::Isolated(rules) = isolation {
            types.push(name);
            spec[list] = rules.iter().map(|r| rule(r, peers)).collect();
        }
    }
    spec["policyTypes"] = json!(types);
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": &*policy.key.name, "namespace": &*policy.key.namespace},
        "spec": spec,
    });
    mode(&mut object, policy.mode == Mode::Audited);
    object
}

/// A StagedKubernetesNetworkPolicy as the API server takes it.
pub fn staged(key: &ObjectKey, staged: &Staged) -> Value {
    let spec = match staged {
        Staged::Set(would_be) => {
            let mut spec = policy(would_be)["spec"].take();
            spec["stagedAction"] = json!("Set");
            spec
        }
        Staged::Delete => json!({"stagedAction": "Delete", "podSelector": {}}),
    };
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "StagedKubernetesNetworkPolicy",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        "spec": spec,
    })
}

/// Writes whether a policy is only tried.
fn mode(object: &mut Value, audited: bool) {
    if audited {
        object["metadata"]["annotations"] = json!({"netpolc.io/mode": "audit"});
    }
}

fn rule(rule: &Rule, field: &str) -> Value {
    let mut object = json!({});
    if let Peers::Listed(peers) = &rule.peers {
        object[field] = peers.iter().map(peer).collect();
    }
    if let Ports::Listed(ports) = &rule.ports {
        object["ports"] = ports.iter().map(port).collect();
    }
    object
}

fn peer(peer: &Peer) -> Value {
    match peer {
        Peer::Pods { namespaces: Namespaces::Own, pods } => json!({"podSelector": selector(pods)}),
        Peer::Pods { namespaces: Namespaces::Matching(namespaces), pods } => {
            let mut object = json!({"namespaceSelector": selector(namespaces)});
            // Every pod: both ways of saying so mean the same, the shorter is the usual one.
            if !pods.requirements.is_empty() {
                object["podSelector"] = selector(pods);
            }
            object
        }
        Peer::Block(block) => json!({"ipBlock": ip_block(block)}),
        Peer::Nothing => json!({}),
    }
}

fn ip_block(block: &Block) -> Value {
    let mut object = json!({"cidr": block.cidr.to_string()});
    if !block.except.is_empty() {
        object["except"] = block.except.iter().map(|e| json!(e.to_string())).collect();
    }
    object
}

fn port(port: &Port) -> Value {
    match port {
        Port::Every(protocol) => json!({"protocol": protocol}),
        Port::Range { protocol, first, last } if first == last => {
            json!({"protocol": protocol, "port": first})
        }
        Port::Range { protocol, first, last } => {
            json!({"protocol": protocol, "port": first, "endPort": last})
        }
        Port::Named { protocol, name } => json!({"protocol": protocol, "port": &**name}),
        Port::Name(_) | Port::Nothing => json!({"port": 0}),
    }
}

fn selector(selector: &Selector) -> Value {
    if selector.requirements.is_empty() {
        return json!({});
    }
    let expressions = selector.requirements.iter().map(|r| match &r.operator {
        Operator::In(values) => json!({"key": &*r.key, "operator": "In", "values": values}),
        Operator::NotIn(values) => json!({"key": &*r.key, "operator": "NotIn", "values": values}),
        Operator::Exists => json!({"key": &*r.key, "operator": "Exists"}),
        Operator::DoesNotExist => json!({"key": &*r.key, "operator": "DoesNotExist"}),
    });
    json!({"matchExpressions": expressions.collect::<Vec<Value>>()})
}

fn insert(object: &mut Value, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[field] = value.into();
    }
}
