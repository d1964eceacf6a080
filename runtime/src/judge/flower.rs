//! The filters of software flower as a judge: the opening packet of each question goes through them by the
//! interpreter, so that it needs no kernel and no root.

use std::{collections::BTreeMap, net::IpAddr};

use netpolc_policy::{
    Cluster, Direction,
    oracle::{Party, Question, Transport},
};
use netpolc_target::semantics::{ether, icmp, tcp};
use netpolc_target_flower::{
    eval::{Born, Fragment, Outcome, Packet, Semantics, run},
    filter::{Filter, Side as Hook, ct},
    lower::software,
    topology::{PodPort, Port, Topology},
};

use super::{Answer, Error, Judge, Reason, Side, tables::Tables};

/// Any port that nobody names.
const SOURCE_PORT: u16 = 40_000;

/// Judges by filters.
pub struct Flower<'a> {
    tables: Tables<'a>,
    filters: BTreeMap<u16, Vec<Filter>>,
}

/// Lowers the cluster's tables, each node with its own addresses.
///
/// # Errors
/// Tables that cannot be compiled, or that software flower refuses.
pub fn open(cluster: &Cluster) -> Result<Flower<'_>, Error> {
    let mut tables = Tables::new(cluster)?;
    let mut nodes = BTreeMap::<_, Topology>::new();
    for (key, endpoint) in tables.compiler().endpoints() {
        let node = cluster.pods.get(key).and_then(|p| p.node.as_ref());
        let topology = nodes.entry(node).or_insert_with(|| Topology {
            node_addresses: node.and_then(|n| cluster.nodes.get(n)).map(|n| n.addresses.clone()).unwrap_or_default(),
            ..Topology::default()
        });
        let port = Port { ifindex: u32::from(endpoint), name: key.to_string() };
        topology.pods.insert(endpoint, PodPort { port, mac: None });
    }
    let mut filters = BTreeMap::new();
    for topology in nodes.values() {
        for (port, placed) in software::lower(tables.program(), topology)?.ports {
            filters.insert(port.ifindex as u16, placed.into_iter().map(|p| p.filter).collect());
        }
    }
    Ok(Flower { tables, filters })
}

impl Flower<'_> {
    fn hook(&self, direction: Direction, party: &Party, remote: IpAddr, question: &Question, packet: &Packet) -> Side {
        let mut sides = Vec::new();
        for (pod, endpoint) in self.tables.subjects(party) {
            let expected = self.tables.side(direction, (pod, endpoint), remote, question);
            let (hook, ct, born) = match direction {
                Direction::Egress => (Hook::Ingress, ct::NEW, Born::Elsewhere),
                // Offline, an address of the pod's node stands for a packet born there (S44).
                Direction::Ingress if self.tables.is_own_node(pod, remote) => {
                    (Hook::Egress, ct::NEW | ct::TRACKED, Born::Here)
                }
                Direction::Ingress => (Hook::Egress, ct::NEW | ct::TRACKED, Born::Elsewhere),
            };
            let packet = Packet { ct, born, ..packet.clone() };
            let filters = self.filters.get(&endpoint).map(Vec::as_slice).unwrap_or_default();
            // Filters that could decide either way are as bad as filters that drop.
            let outcomes = run(filters, hook, &packet, Semantics::SOFTWARE);
            let passes = outcomes.iter().all(|o| matches!(o, Outcome::Next | Outcome::Pass));
            sides.push(match (passes, expected.allowed) {
                (true, true) | (false, false) => expected,
                (true, false) => Side { allowed: true, reason: Reason::Allowed, by: vec![], ..expected },
                (false, true) => Side { allowed: false, reason: Reason::Dropped, by: vec![], ..expected },
            });
        }
        Side::strictest(sides)
    }
}

/// The packet that opens.
fn opening(question: &Question) -> Result<Packet, Error> {
    let (source, destination) = (question.source.address(), question.destination.address());
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(Error::Question(format!("{source} and {destination} are of two address families")));
    }
    let v4 = source.is_ipv4();
    let ports = question.protocol.protocol().is_some();
    let port =
        || question.port.ok_or_else(|| Error::Question("port is missing: a packet needs a destination port".into()));
    let icmp_type = match (question.protocol, v4) {
        (Transport::Other(1), true) => Some(icmp::REQUESTS_V4[0]),
        (Transport::Other(58), false) => Some(icmp::REQUESTS_V6[0]),
        _ => None,
    };
    Ok(Packet {
        ethertype: if v4 { ether::IPV4 } else { ether::IPV6 },
        source,
        destination,
        protocol: question.protocol.number(),
        source_port: ports.then_some(SOURCE_PORT),
        destination_port: if ports { Some(port()?) } else { None },
        tcp_flags: if question.protocol == Transport::Tcp { tcp::SYN.into() } else { 0 },
        icmp_type,
        hop_limit: 64,
        mac: [0; 6],
        fragment: Fragment::No,
        ct: ct::NEW,
        born: Born::Elsewhere,
    })
}

impl Judge for Flower<'_> {
    fn name(&self) -> &'static str {
        "flower"
    }

    fn judge(&mut self, question: &Question) -> Result<Answer, Error> {
        let packet = opening(question)?;
        let (source, destination) = (&question.source, &question.destination);
        Ok(Answer::of(
            self.hook(Direction::Egress, source, destination.address(), question, &packet),
            self.hook(Direction::Ingress, destination, source.address(), question, &packet),
        ))
    }
}
