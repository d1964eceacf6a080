//! The clusters that packets are measured on: one pod, policies by the thousand, 65,536 remote
//! pods; also with tiers and security groups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Action, Cluster, GroupPeer, GroupRule, Isolation, Labels, Mode, Namespace, Namespaces,
    ObjectKey, Operator, Peer, Peers, Phase, Pod, PodNetwork, Policy, Port, Ports, Priority,
    Protocol, Requirement, Rule, SecurityGroup, SecurityGroupId, SecurityGroupPolicy, Selector,
    Subject, Tier, TierApi, TierKey, TierPeer, TierPolicy, TierRule, Traffic,
};
use netpolc_table::schema::Family;

/// Remote pods, by the last 16 bits of their addresses.
pub const REMOTES: u32 = 1 << 16;
/// The first of the ports that every policy allows; they end with [`LAST_PORT`].
pub const FIRST_PORT: u16 = 1024;
/// The last port that the generated policies name.
pub const LAST_PORT: u16 = 2047;
/// Ranges of ports in each policy that cover these; one more port is each policy's own.
const RANGES: usize = 72;
/// The node on which the measured pod is.
pub const NODE: &str = "bench";

/// The pod that is measured.
pub fn subject() -> ObjectKey {
    ObjectKey::new("bench", "subject")
}

/// The address of the pod that is judged.
pub fn local(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Remote `n`'s address. Numbers of [`REMOTES`] and more are nobody's.
pub fn remote(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + n).into(),
        Family::V6 => Ipv6Addr::from_bits(
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0).to_bits() + u128::from(n),
        )
        .into(),
    }
}

/// The policy that names remote `n`. Neighbours are of different groups, as pods of a real cluster
/// are.
pub fn group(n: u32, policies: usize) -> usize {
    ((n as usize).wrapping_mul(0x9e37_79b1) >> 3) % policies
}

/// `policies` policies that select the pod, in both directions; each names one group of the
/// remotes, and together they name all.
pub fn cluster(policies: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for namespace in ["bench", "peers"] {
        cluster.namespaces.insert(namespace.into(), Namespace::default());
    }
    let label =
        |g: usize| -> Labels { [("group".to_owned(), format!("g{g}"))].into_iter().collect() };
    let groups: Vec<Labels> = (0..policies).map(label).collect();
    let pod = |key: ObjectKey, node: &str, labels: Labels, addresses: [IpAddr; 2]| Pod {
        key,
        uid: None,
        node: Some(node.into()),
        labels,
        addresses: addresses.to_vec(),
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Default::default(),
        owner: None,
    };
    let mut add = |pod: Pod| drop(cluster.pods.insert(pod.key.clone(), pod));
    add(pod(subject(), NODE, Labels::default(), Family::BOTH.map(local)));
    for n in 0..REMOTES {
        let labels = groups[group(n, policies)].clone();
        add(pod(
            ObjectKey::new("peers", format!("p{n}")),
            "elsewhere",
            labels,
            Family::BOTH.map(|family| remote(family, n)),
        ));
    }
    for n in 0..policies {
        let key = ObjectKey::new("bench", format!("policy-{n}"));
        let rules =
            vec![Rule { peers: Peers::Listed(vec![peer(n)]), ports: Ports::Listed(ports(n)) }];
        let (ingress, egress) = (Isolation::Isolated(rules.clone()), Isolation::Isolated(rules));
        let policy = Policy {
            key: key.clone(),
            selector: Selector::default(),
            ingress,
            egress,
            mode: Mode::Enforced,
        };
        cluster.policies.insert(key, policy);
    }
    cluster
}

/// How many ClusterNetworkPolicies each tier of [`ordered`] has.
pub const TIER_POLICIES: u16 = 20;
/// How many security groups the pod of [`ordered`] has.
pub const GROUPS: u16 = 50;

/// The same with policies in both tiers and security groups, which let the same packets pass: each
/// policy of a tier decides about ports of its own, and only all groups together permit the ports
/// that the NetworkPolicies do.
pub fn ordered(policies: usize) -> Cluster {
    let mut cluster = cluster(policies);
    for number in 0..TIER_POLICIES {
        for tier in [Tier::Admin, Tier::Baseline] {
            let policy = tier_policy(tier, number);
            cluster.tiers.insert(policy.key.clone(), policy);
        }
    }
    let id = |number: u16| -> SecurityGroupId { format!("sg-{number}").into() };
    for number in 0..GROUPS {
        cluster.security.groups.insert(id(number), security_group(number));
    }
    let key = ObjectKey::new("bench", "groups");
    let groups = (0..GROUPS).map(id).collect();
    let pods = Some(Selector::default());
    let policy = SecurityGroupPolicy { key: key.clone(), pods, accounts: None, groups };
    cluster.security.policies.insert(key, policy);
    cluster
}

fn tier_policy(tier: Tier, number: u16) -> TierPolicy {
    let rules = |port: u16| {
        let rule = |action, port| TierRule {
            name: None,
            action,
            peers: vec![TierPeer::Pods {
                namespaces: Selector::default(),
                pods: of_group(number.into()),
            }],
            ports: Ports::Listed(vec![Port::Range {
                protocol: Protocol::Tcp,
                first: port,
                last: port,
            }]),
        };
        vec![rule(Action::Deny, port), rule(Action::Accept, port + 1), rule(Action::Pass, port + 2)]
    };
    TierPolicy {
        key: TierKey { api: TierApi::Upstream, name: format!("{tier:?}-{number}").into() },
        tier,
        priority: Priority::new(number).expect("the API takes it"),
        subject: Subject::default(),
        ingress: rules(50_000 + 3 * number),
        egress: rules(51_000 + 3 * number),
        mode: Mode::Enforced,
    }
}

/// Permits a part of the common ports, which overlaps with the next group's.
fn security_group(number: u16) -> SecurityGroup {
    let each = (LAST_PORT - FIRST_PORT + 1).div_ceil(GROUPS);
    let first = FIRST_PORT + number * each;
    let traffic = Traffic::Ports { protocol: Protocol::Tcp, first, last: first + each };
    let of = |network: &str| {
        let network: IpNetwork = network.parse().expect("a prefix");
        GroupRule { id: None, traffic, peers: vec![GroupPeer::Network(network)] }
    };
    let rules = vec![of("0.0.0.0/0"), of("::/0")];
    SecurityGroup { name: None, ingress: rules.clone(), egress: rules }
}

fn peer(group: usize) -> Peer {
    Peer::Pods { namespaces: Namespaces::Matching(Selector::default()), pods: of_group(group) }
}

fn of_group(group: usize) -> Selector {
    let operator = Operator::In(vec![format!("g{group}").into()]);
    Selector { requirements: vec![Requirement { key: "group".into(), operator }] }
}

/// Ranges that cover the common ports with boundaries of the policy's own (at multiples of 4), and
/// a port that no other policy has, so that no two policies have a row in common.
pub fn ports(policy: usize) -> Vec<Port> {
    let range = |first: u16, last: u16| Port::Range { protocol: Protocol::Tcp, first, last };
    let (mut ports, mut first) = (Vec::with_capacity(RANGES + 1), FIRST_PORT);
    let chunks = usize::from(LAST_PORT - FIRST_PORT + 1) / 4;
    for n in 1..RANGES {
        let even = n * chunks / RANGES;
        let shift = policy.wrapping_mul(2_654_435_761).wrapping_add(n * 40_503) >> 4 & 1;
        let next = FIRST_PORT + 4 * (even + shift) as u16;
        ports.push(range(first, next - 1));
        first = next;
    }
    ports.push(range(first, LAST_PORT));
    let own = 3000 + (policy % 60_000) as u16;
    ports.push(range(own, own));
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_over_64_ports_and_covers_the_common_ones() {
        for policy in [0, 1, 9, 999] {
            let ports = ports(policy);
            assert!(ports.len() > 64);
            let mut next = FIRST_PORT;
            for port in &ports[..RANGES] {
                let Port::Range { first, last, .. } = *port else { panic!("not a range") };
                assert!(first == next && last >= first, "{policy}: {port:?}");
                next = last + 1;
            }
            assert_eq!(next, LAST_PORT + 1);
        }
        assert_ne!(ports(1), ports(2));
    }
}
