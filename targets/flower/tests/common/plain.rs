//! The plain expansion: one rule for each peer (address or block) and port (or block of ports whose
//! size is a power of two), straight from the policies.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Block, Cluster, Direction, Isolation, Namespaces, Peer, Peers, Pod, Policy, Port, Ports, Rule,
};
use netpolc_target_flower::lower::ports::PortSet;

/// A rule: whom, which protocol, which block of ports (value, mask).
pub type Plain = (IpNetwork, Option<u8>, Option<(u16, u16)>);

/// The rules of one pod's direction, each once. None where nothing isolates.
pub fn expand(cluster: &Cluster, pod: &Pod, direction: Direction) -> Option<BTreeSet<Plain>> {
    let mut isolated = false;
    let mut rules = BTreeSet::new();
    for policy in cluster.policies.values() {
        if policy.key.namespace != pod.key.namespace || !policy.selector.matches(&pod.labels) {
            continue;
        }
        let Isolation::Isolated(list) = policy.isolation(direction) else { continue };
        isolated = true;
        for rule in list {
            for (prefix, peer) in peers(cluster, policy, rule) {
                let named = if direction == Direction::Ingress { Some(pod) } else { peer };
                rules.extend(
                    ports(&rule.ports, named)
                        .into_iter()
                        .map(|(protocol, block)| (prefix, protocol, block)),
                );
            }
        }
    }
    isolated.then_some(rules)
}

fn peers<'a>(
    cluster: &'a Cluster,
    policy: &Policy,
    rule: &Rule,
) -> Vec<(IpNetwork, Option<&'a Pod>)> {
    let hosts = |pod: &'a Pod| pod.addresses.iter().map(move |a| (IpNetwork::from(*a), Some(pod)));
    let active = || cluster.pods.values().filter(|p| p.is_policed());
    let Peers::Listed(list) = &rule.peers else {
        let whole = ["0.0.0.0/0", "::/0"].map(|p| (p.parse().expect("a prefix"), None));
        // A name of a port means something on pods only.
        let has_name = |l: &[Port]| l.iter().any(|p| matches!(p, Port::Named { .. }));
        let named = matches!(&rule.ports, Ports::Listed(l) if has_name(l));
        return whole.into_iter().chain(active().filter(|_| named).flat_map(hosts)).collect();
    };
    let mut found = Vec::new();
    for peer in list {
        match peer {
            Peer::Pods { namespaces, pods } => {
                let matches = |pod: &&Pod| {
                    let namespace =
                        cluster.namespaces.get(&pod.key.namespace).cloned().unwrap_or_default();
                    pods.matches(&pod.labels)
                        && match namespaces {
                            Namespaces::Own => pod.key.namespace == policy.key.namespace,
                            Namespaces::Matching(selector) => selector.matches(&namespace.labels),
                        }
                };
                found.extend(active().filter(matches).flat_map(hosts));
            }
            Peer::Block(block) => found.extend(split(block).into_iter().map(|p| (p, None))),
            Peer::Nothing => {}
        }
    }
    found
}

/// A block without its excepts, as disjoint prefixes.
fn split(block: &Block) -> Vec<IpNetwork> {
    let covers = |a: &IpNetwork, b: &IpNetwork| {
        a.is_ipv4() == b.is_ipv4() && a.prefix() <= b.prefix() && a.contains(b.network())
    };
    let mut open = vec![network(block.cidr)];
    let mut done = Vec::new();
    while let Some(prefix) = open.pop() {
        if block.except.iter().any(|e| covers(&network(*e), &prefix)) {
            continue;
        }
        if !block.except.iter().any(|e| covers(&prefix, &network(*e))) {
            done.push(prefix);
            continue;
        }
        let length = prefix.prefix() + 1;
        let low = IpNetwork::new(prefix.network(), length)
            .expect("longer, and no longer than an address");
        let high = match prefix.network() {
            std::net::IpAddr::V4(a) => {
                std::net::Ipv4Addr::from_bits(a.to_bits() | 1 << (32 - length)).into()
            }
            std::net::IpAddr::V6(a) => {
                std::net::Ipv6Addr::from_bits(a.to_bits() | 1 << (128 - length)).into()
            }
        };
        open.extend([low, IpNetwork::new(high, length).expect("as long as the other")]);
    }
    done
}

fn network(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).expect("its own length")
}

/// A protocol and an interval of ports; None: any.
type Grant = (Option<u8>, Option<(u16, u16)>);

fn ports(ports: &Ports, named: Option<&Pod>) -> Vec<Grant> {
    let Ports::Listed(list) = ports else { return vec![(None, None)] };
    let mut found = Vec::new();
    for port in list {
        match port {
            Port::Every(protocol) => found.push((Some(protocol.number()), None)),
            Port::Range { protocol, first, last } => {
                let blocks = PortSet::of([(*first, *last)]).as_blocks();
                found.extend(blocks.into_iter().map(|b| (Some(protocol.number()), Some(b))));
            }
            Port::Named { protocol, name } => {
                let numbers =
                    named.map(|pod| pod.resolve_port(*protocol, name)).unwrap_or_default();
                found.extend(
                    numbers.into_iter().map(|n| (Some(protocol.number()), Some((n, u16::MAX)))),
                );
            }
            // NetworkPolicies have no port of the first kind.
            Port::Name(_) | Port::Nothing => {}
        }
    }
    found
}
