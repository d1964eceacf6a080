//! What to ask of a cluster: the addresses and ports at which some answer may change.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Cluster, Direction, Isolation, ObjectKey, Peer, Peers, Pod, Port, Ports, Protocol, Rule,
    oracle::{Party, Question, Transport},
};

use super::Rng;

/// Every address at which a verdict may change: of pods and nodes, first and last of every block
/// and except and their neighbours, and some that nobody names.
pub fn addresses(cluster: &Cluster) -> Vec<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> = [
        "203.0.113.5",
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "2001:db8::5",
        "2001:db8:8000::",
        "::ffff:10.0.0.1",
    ]
    .into_iter()
    .map(|a| a.parse().expect("the list holds addresses"))
    .collect();
    addresses.extend(cluster.pods.values().flat_map(|p| &p.addresses));
    addresses.extend(cluster.nodes.values().flat_map(|n| &n.addresses));
    addresses.extend(cluster.services.values().flat_map(|s| &s.addresses));
    for rule in rules(cluster) {
        let Peers::Listed(peers) = &rule.peers else { continue };
        for peer in peers {
            if let Peer::Block(block) = peer {
                std::iter::once(&block.cidr)
                    .chain(&block.except)
                    .for_each(|b| addresses.extend(borders(*b)));
            }
        }
    }
    addresses.into_iter().collect()
}

/// Every (protocol, port) at which a verdict may change: both ends of every range and of every
/// container port, their neighbours, types and codes of ICMP, and protocols without ports.
pub fn ports(cluster: &Cluster) -> Vec<(Transport, Option<u16>)> {
    let mut numbers: BTreeSet<u16> = BTreeSet::from([1, 65535]);
    let mut around =
        |number: u16| numbers.extend([number.saturating_sub(1), number, number.saturating_add(1)]);
    for rule in rules(cluster) {
        let Ports::Listed(ports) = &rule.ports else { continue };
        for port in ports {
            if let Port::Range { first, last, .. } = port {
                around(*first);
                around(*last);
            }
        }
    }
    cluster.pods.values().flat_map(|p| &p.ports).for_each(|p| {
        around(p.number);
        p.host_port.into_iter().for_each(&mut around);
    });
    cluster.services.values().for_each(|s| {
        s.ports.iter().for_each(|p| {
            around(p.number);
            p.node_port.into_iter().for_each(&mut around);
        });
        s.health_check.into_iter().for_each(&mut around);
    });
    let numbered = Protocol::ALL
        .into_iter()
        .flat_map(|p| numbers.iter().map(move |n| (Transport::from(p), Some(*n))));
    let others = [0, 1, 47, 50, 58, 253].map(|other| (Transport::Other(other), None));
    // Types and codes that rules of groups name, and their neighbours.
    let messages = [0, 3, 8, 128].into_iter().flat_map(|kind| [0, 4, 5].map(|code| (kind, code)));
    let messages = messages.flat_map(|(kind, code)| {
        [1, 58].map(|icmp| (Transport::Other(icmp), Some(u16::from_be_bytes([kind, code]))))
    });
    numbered.chain(others).chain(messages).collect()
}

/// `count` questions with both ends of one family, most of them about pods.
pub fn questions(rng: &mut Rng, cluster: &Cluster, count: usize) -> Vec<Question> {
    let (addresses, ports) = (addresses(cluster), ports(cluster));
    let pods: Vec<(&ObjectKey, IpAddr)> = cluster
        .pods
        .values()
        .filter(|p| Pod::is_policed(p))
        .flat_map(|p| p.addresses.iter().map(|a| (&p.key, *a)))
        .collect();
    let party = |rng: &mut Rng| match pods.is_empty() || rng.chance(30) {
        true => Party::Address(*rng.pick(&addresses)),
        false => {
            let (key, address) = rng.pick(&pods);
            Party::Pod((*key).clone(), *address)
        }
    };
    let mut questions = Vec::with_capacity(count);
    while questions.len() < count {
        let (source, destination) = (party(rng), party(rng));
        if source.address().is_ipv4() == destination.address().is_ipv4() {
            let (protocol, port) = *rng.pick(&ports);
            questions.push(Question { source, destination, protocol, port, via: None });
        }
    }
    questions
}

fn rules(cluster: &Cluster) -> impl Iterator<Item = &Rule> {
    let isolations =
        cluster.policies.values().flat_map(|p| Direction::BOTH.map(|d| p.isolation(d)));
    isolations.flat_map(|i| match i {
        Isolation::Open => &[][..],
        Isolation::Isolated(rules) => rules,
    })
}

/// First and last address, and those before and after.
fn borders(block: IpNetwork) -> Vec<IpAddr> {
    let (first, last, width): (u128, u128, u32) = match block {
        IpNetwork::V4(b) => (u32::from(b.network()).into(), u32::from(b.broadcast()).into(), 32),
        IpNetwork::V6(b) => (b.network().into(), b.broadcast().into(), 128),
    };
    let limit = u128::MAX >> (128 - width);
    let all = [
        Some(first),
        Some(last),
        first.checked_sub(1),
        last.checked_add(1).filter(|a| *a <= limit),
    ];
    let address = |bits: u128| match width {
        32 => IpAddr::V4(Ipv4Addr::from(bits as u32)),
        _ => IpAddr::V6(Ipv6Addr::from(bits)),
    };
    all.into_iter().flatten().map(address).collect()
}
