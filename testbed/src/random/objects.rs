//! Random objects of the model, using every feature it has.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Block, ByDefault, Cluster, ContainerPort, Grouping, Isolation, Labels, Mode, Namespace,
    Namespaces, Node, ObjectKey, Operator, Peer, Peers, Phase, Pod, PodNetwork, Policy, Port,
    Ports, Protocol, Requirement, Rule, Selector, Service, ServicePort, Unselected,
};

use super::{Claims, Rng, Shape, groups, tiers};

const KEYS: [&str; 3] = ["app", "tier", "env"];
const VALUES: [&str; 3] = ["a", "b", "c"];
pub(super) const NAMES: [&str; 3] = ["http", "dns", "metrics"];
/// Numbers at which something begins or ends.
pub(super) const NUMBERS: [u16; 14] =
    [1, 53, 79, 80, 81, 443, 1000, 1023, 1024, 8080, 32767, 32768, 65534, 65535];
/// They nest, touch and coincide with pods, nodes and outside addresses.
pub(super) const CIDRS: [&str; 18] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/22",
    "10.0.0.0/24",
    "10.0.1.0/24",
    "10.0.1.0/28",
    "10.0.1.8/29",
    "10.0.2.3/32",
    "192.168.0.0/24",
    "192.168.0.1/32",
    "203.0.113.0/24",
    "128.0.0.0/1",
    "::/0",
    "fd00::/16",
    "fd00::1:0/112",
    "fd00::1:8/125",
    "fd00::2:3/128",
    "2001:db8::/33",
];

/// A cluster of that shape.
pub fn cluster(rng: &mut Rng, shape: &Shape) -> Cluster {
    let mut cluster = Cluster::default();
    for n in 0..shape.namespaces {
        // Sometimes a namespace is known by its pods only.
        if !rng.chance(10) {
            cluster.namespaces.insert(format!("n{n}").into(), labels(rng).into());
        }
    }
    for n in 0..shape.nodes {
        cluster.nodes.insert(format!("node{n}").into(), node(rng, n));
    }
    for i in 0..shape.pods {
        let key = ObjectKey::new(format!("n{}", rng.below(shape.namespaces)), format!("pod{i}"));
        let pod = pod(rng, shape, key, &cluster);
        cluster.pods.insert(pod.key.clone(), pod);
    }
    for i in 0..shape.policies {
        let key = ObjectKey::new(format!("n{}", rng.below(shape.namespaces)), format!("policy{i}"));
        let policy = policy(rng, key);
        cluster.policies.insert(policy.key.clone(), policy);
    }
    for _ in 0..rng.below(5) {
        let key = service_key(rng);
        let service = service(rng, &cluster);
        cluster.services.insert(key, service);
    }
    let count = if rng.chance(50) { shape.tiers } else { 0 };
    for _ in 0..count {
        let key = tiers::key(rng);
        cluster.tiers.insert(key.clone(), tiers::policy(rng, key));
    }
    if shape.groups && rng.chance(33) {
        groups::security(rng, &mut cluster);
        cluster.security.enforcement = groups::enforcement(rng);
    }
    // Mostly as Kubernetes has it, so that other tests see pods that no policy isolates.
    if rng.chance(25) {
        cluster.by_default = by_default(rng);
        for namespace in cluster.namespaces.values_mut() {
            namespace.unselected = unselected(rng);
        }
    }
    cluster
}

/// A namespace with up to three labels, which seldom says what becomes of its pods by default.
pub fn namespace(rng: &mut Rng) -> Namespace {
    Namespace { labels: labels(rng), unselected: unselected(rng) }
}

fn unselected(rng: &mut Rng) -> Option<Unselected> {
    match rng.below(6) {
        0 => Some(Unselected::Isolated),
        1 => Some(Unselected::Open),
        _ => None,
    }
}

/// What may hold for pods that no policy isolates.
pub fn by_default(rng: &mut Rng) -> ByDefault {
    let unselected = if rng.chance(50) { Unselected::Isolated } else { Unselected::Open };
    let count = rng.below(3);
    let except = rng.list(count, |rng| format!("n{}", rng.below(4)).into());
    ByDefault { unselected, except: except.into_iter().collect() }
}

/// One of the few Services that there may be.
pub fn service_key(rng: &mut Rng) -> ObjectKey {
    ObjectKey::new("n0", format!("service{}", rng.below(6)))
}

fn add(to: &mut Vec<IpAddr>, address: IpAddr) {
    if !to.contains(&address) {
        to.push(address);
    }
}

/// A Service on addresses of its own, and sometimes on those of others: blocks, nodes, pods.
pub fn service(rng: &mut Rng, cluster: &Cluster) -> Service {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for _ in 0..rng.below(3) {
        let own: [&str; 5] =
            ["10.0.2.200", "10.96.0.1", "fd00::2:200", "203.0.113.9", "2001:db8::9"];
        add(&mut addresses, rng.pick(&own).parse().expect("an address"));
    }
    let others: Vec<IpAddr> = cluster.nodes.values().flat_map(|n| n.addresses.clone()).collect();
    if !others.is_empty() && rng.chance(10) {
        add(&mut addresses, *rng.pick(&others));
    }
    let others: Vec<IpAddr> = cluster.pods.values().flat_map(|p| p.addresses.clone()).collect();
    if !others.is_empty() && rng.chance(10) {
        add(&mut addresses, *rng.pick(&others));
    }
    let count = rng.below(4);
    let ports = rng.list(count, |rng| ServicePort {
        protocol: *rng.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
        number: *rng.pick(&NUMBERS),
        node_port: rng.chance(30).then(|| *rng.pick(&NUMBERS)),
    });
    Service {
        addresses,
        ports,
        health_check: rng.chance(10).then(|| *rng.pick(&NUMBERS)),
        ..Service::default()
    }
}

/// Up to three labels.
pub fn labels(rng: &mut Rng) -> Labels {
    let count = rng.below(4);
    rng.list(count, |rng| (*rng.pick(&KEYS), *rng.pick(&VALUES))).into_iter().collect()
}

/// The node numbered `n`, with one to three addresses.
pub fn node(rng: &mut Rng, n: usize) -> Node {
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::new(192, 168, 0, 1 + n as u8).into()];
    if rng.chance(70) {
        addresses.push(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1 + n as u16).into());
    }
    if rng.chance(20) {
        addresses.push(Ipv4Addr::new(192, 168, 1, 1 + n as u8).into());
    }
    Node { addresses, labels: labels(rng) }
}

/// A pod called `key`, on addresses that are free in `cluster` (or mostly so, by `shape`).
pub fn pod(rng: &mut Rng, shape: &Shape, key: ObjectKey, cluster: &Cluster) -> Pod {
    let node: Option<Arc<str>> =
        (!rng.chance(3)).then(|| format!("node{}", rng.below(shape.nodes)).into());
    let network = if rng.chance(6) { PodNetwork::Host } else { PodNetwork::Own };
    let phase = if rng.chance(6) { Phase::Finished } else { Phase::Active };
    let addresses = match (network, &node) {
        (PodNetwork::Host, Some(node)) => {
            cluster.nodes.get(node).map(|n| n.addresses.clone()).unwrap_or_default()
        }
        (PodNetwork::Host, None) => Vec::new(),
        (PodNetwork::Own, _) => pod_addresses(rng, shape.claims, &key, cluster),
    };
    Pod {
        uid: Some(format!("{:016x}", rng.draw()).into()),
        node,
        labels: labels(rng),
        addresses,
        network,
        phase,
        ports: container_ports(rng),
        grouping: if shape.groups { groups::grouping(rng) } else { Grouping::default() },
        owner: None,
        key,
    }
}

/// Up to three ports of a container.
pub fn container_ports(rng: &mut Rng) -> Vec<ContainerPort> {
    let count = rng.below(4);
    rng.list(count, container_port)
}

fn container_port(rng: &mut Rng) -> ContainerPort {
    ContainerPort {
        name: rng.chance(80).then(|| (*rng.pick(&NAMES)).into()),
        protocol: *rng.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
        number: *rng.pick(&NUMBERS),
        host_port: rng.chance(8).then(|| *rng.pick(&NUMBERS)),
    }
}

/// Of 64 IPv4 and 64 IPv6 addresses that are crossed by the blocks' borders. Sometimes none yet,
/// sometimes one family only, sometimes more than one of a family.
fn pod_addresses(rng: &mut Rng, claims: Claims, key: &ObjectKey, cluster: &Cluster) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let choice: [&[bool]; 6] =
        [&[true, false], &[true, false], &[true], &[false], &[true, true, false], &[]];
    let families = *rng.pick(&choice);
    for v4 in families {
        for _ in 0..20 {
            let (subnet, host) = (rng.below(4) as u16, rng.below(16) as u16);
            let address: IpAddr = if *v4 {
                Ipv4Addr::new(10, 0, subnet as u8, host as u8).into()
            } else {
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, subnet, host).into()
            };
            let taken = cluster
                .pods
                .values()
                .any(|p| p.key != *key && p.is_policed() && p.addresses.contains(&address));
            let contested = claims == Claims::Contested && rng.chance(10);
            if (!taken || contested) && !addresses.contains(&address) {
                addresses.push(address);
                break;
            }
        }
    }
    addresses
}

/// A random policy of this name.
pub fn policy(rng: &mut Rng, key: ObjectKey) -> Policy {
    let (mut ingress, egress) = (isolation(rng), isolation(rng));
    // The API has no policy that says nothing: empty policyTypes mean ingress (S2).
    if ingress == Isolation::Open && egress == Isolation::Open {
        ingress = Isolation::Isolated(Vec::new());
    }
    let mode = if rng.chance(8) { Mode::Audited } else { Mode::Enforced };
    Policy { key, selector: selector(rng), ingress, egress, mode }
}

fn isolation(rng: &mut Rng) -> Isolation {
    if rng.chance(35) {
        return Isolation::Open;
    }
    let count = *rng.pick(&[0, 1, 1, 2, 3]);
    Isolation::Isolated(rng.list(count, rule))
}

fn rule(rng: &mut Rng) -> Rule {
    let (peers, ports) = (rng.within(1, 3), rng.within(1, 4));
    Rule {
        peers: if rng.chance(15) { Peers::Any } else { Peers::Listed(rng.list(peers, peer)) },
        ports: if rng.chance(30) { Ports::Any } else { Ports::Listed(rng.list(ports, port)) },
    }
}

fn peer(rng: &mut Rng) -> Peer {
    match rng.below(100) {
        0..3 => Peer::Nothing,
        3..45 => Peer::Block(block(rng)),
        45..70 => Peer::Pods { namespaces: Namespaces::Own, pods: selector(rng) },
        _ => Peer::Pods { namespaces: Namespaces::Matching(selector(rng)), pods: selector(rng) },
    }
}

fn block(rng: &mut Rng) -> Block {
    let all: Vec<IpNetwork> =
        CIDRS.iter().map(|c| c.parse().expect("the list holds prefixes")).collect();
    let cidr = *rng.pick(&all);
    let inside: Vec<IpNetwork> = all.into_iter().filter(|e| covers(cidr, *e)).collect();
    let count = if inside.is_empty() { 0 } else { *rng.pick(&[0, 0, 1, 1, 2]) };
    Block { cidr, except: rng.list(count, |rng| *rng.pick(&inside)) }
}

/// Is `inner` a proper part of `outer`?
fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4()
        && outer.prefix() < inner.prefix()
        && outer.contains(inner.ip())
}

pub(super) fn port(rng: &mut Rng) -> Port {
    let protocol = *rng.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    match rng.below(100) {
        0..3 => Port::Nothing,
        3..12 => Port::Every(protocol),
        12..35 => Port::Named { protocol, name: (*rng.pick(&NAMES)).into() },
        35..70 => {
            let number = *rng.pick(&NUMBERS);
            Port::Range { protocol, first: number, last: number }
        }
        _ => {
            let (a, b) = (*rng.pick(&NUMBERS), *rng.pick(&NUMBERS));
            Port::Range { protocol, first: a.min(b), last: a.max(b) }
        }
    }
}

pub(super) fn selector(rng: &mut Rng) -> Selector {
    let count = *rng.pick(&[0, 1, 1, 1, 2]);
    Selector { requirements: rng.list(count, requirement) }
}

fn requirement(rng: &mut Rng) -> Requirement {
    let count = rng.within(1, 2);
    let mut values: Vec<Arc<str>> = rng.list(count, |rng| (*rng.pick(&VALUES)).into());
    values.dedup();
    let operator = match rng.below(10) {
        0..5 => Operator::In(values),
        5..7 => Operator::NotIn(values),
        7..9 => Operator::Exists,
        _ => Operator::DoesNotExist,
    };
    Requirement { key: (*rng.pick(&KEYS)).into(), operator }
}
