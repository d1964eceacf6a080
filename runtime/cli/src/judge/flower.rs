//! A judge that interprets the filters of software flower for the opening packet of each question,
//! so that it needs neither a kernel nor root. These filters have no hook after translation, so a
//! packet to a Service is judged as it was sent, and denied where eBPF would judge again (S48). Not
//! here: lowering and the interpreter (`netpolc_target_flower`).

use netpolc_table::{EndpointId, IfIndex};
use std::{collections::BTreeMap, net::IpAddr};

use netpolc_policy::{
    Cluster, Direction,
    oracle::{Question, Transport},
};
use netpolc_target::semantics::{ether, icmp, tcp};
use netpolc_target_flower::{
    eval::{Born, Fragment, Outcome, Packet, Semantics, run},
    filter::{Filter, Side as Hook, ct},
    lower::software,
    topology::{PodPort, Port, Topology},
};

use super::{Answer, Error, Judge, Reason, Side, tables::Tables};

/// The source port of all packets, which no policy can name.
const SOURCE_PORT: u16 = 40_000;

/// A judge that interprets filters.
pub struct Flower<'a> {
    tables: Tables<'a>,
    filters: BTreeMap<EndpointId, Vec<Filter>>,
}

/// Lowers the cluster's tables, each node with its own addresses.
///
/// # Errors
/// The tables cannot be compiled, or software flower cannot enforce them.
pub fn open(cluster: &Cluster) -> Result<Flower<'_>, Error> {
    let mut tables = Tables::new(cluster)?;
    let mut nodes = BTreeMap::<_, Topology>::new();
    for (key, endpoint) in tables.compiler().endpoints() {
        let node = cluster.pods.get(key).and_then(|p| p.node.as_ref());
        let topology = nodes.entry(node).or_insert_with(|| Topology {
            node_addresses: node
                .and_then(|n| cluster.nodes.get(n))
                .map(|n| n.addresses.clone())
                .unwrap_or_default(),
            ..Topology::default()
        });
        let port = Port { ifindex: IfIndex::new(endpoint.get().into()), name: key.to_string() };
        topology.pods.insert(endpoint, PodPort { port, mac: None });
    }
    let mut filters = BTreeMap::new();
    for topology in nodes.values() {
        for (port, placed) in software::lower(tables.program(), topology)?.ports {
            filters.insert(
                EndpointId::new(port.ifindex.get() as u16),
                placed.into_iter().map(|p| p.filter).collect(),
            );
        }
    }
    Ok(Flower { tables, filters })
}

impl Flower<'_> {
    fn egress(&self, question: &Question) -> Result<Side, Error> {
        let packet = match question.via {
            Some((address, port)) => opening(question, address, Some(port))?,
            None => opening(question, question.destination.address(), question.port)?,
        };
        let packet = Packet { ct: ct::NEW, ..packet };
        let subjects = self.tables.subjects(&question.source).into_iter();
        let side = |(pod, endpoint)| {
            self.side(
                endpoint,
                Hook::Ingress,
                &packet,
                self.tables.egress((pod, endpoint), question),
            )
        };
        Ok(Side::strictest(subjects.map(side).collect()))
    }

    fn ingress(&self, question: &Question) -> Result<Side, Error> {
        let remote = question.source.address();
        let packet = opening(question, question.destination.address(), question.port)?;
        let subjects = self.tables.subjects(&question.destination).into_iter();
        let side = |(pod, endpoint)| {
            // Offline, an address of the pod's node stands for a packet from the node itself (S44).
            let born =
                if self.tables.is_own_node(pod, remote) { Born::Here } else { Born::Elsewhere };
            let packet = Packet { ct: ct::NEW | ct::TRACKED, born, ..packet.clone() };
            let expected = self.tables.side(Direction::Ingress, (pod, endpoint), remote, question);
            if pod.addresses.contains(&remote) {
                // A packet from a pod to itself never leaves the pod, so no filter sees it (S47).
                return expected;
            }
            self.side(endpoint, Hook::Egress, &packet, expected)
        };
        Ok(Side::strictest(subjects.map(side).collect()))
    }

    /// Turns the verdict of the filters into a side, with the reasons from the tables where they
    /// agree with it.
    fn side(&self, endpoint: EndpointId, hook: Hook, packet: &Packet, expected: Side) -> Side {
        let filters = self.filters.get(&endpoint).map(Vec::as_slice).unwrap_or_default();
        // Where the filters could decide either way, the packet counts as dropped.
        let outcomes = run(filters, hook, packet, Semantics::SOFTWARE);
        let passes = outcomes.iter().all(|o| matches!(o, Outcome::Next | Outcome::Pass));
        match (passes, expected.allowed) {
            (true, true) | (false, false) => expected,
            (true, false) => {
                Side { allowed: true, reason: Reason::Allowed, by: vec![], ..expected }
            }
            (false, true) => {
                Side { allowed: false, reason: Reason::Dropped, by: vec![], ..expected }
            }
        }
    }
}

/// Builds the opening packet of a question, to the given address and port; conntrack has not seen
/// it.
fn opening(question: &Question, destination: IpAddr, port: Option<u16>) -> Result<Packet, Error> {
    let source = question.source.address();
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(Error::Question(format!(
            "{source} and {destination} belong to different address families"
        )));
    }
    let v4 = source.is_ipv4();
    let ports = question.protocol.protocol().is_some();
    let port = || {
        port.ok_or_else(|| {
            Error::Question("port is missing; a packet needs a destination port".into())
        })
    };
    let message = |echo: u8| Some(question.port.map_or(echo, |message| (message >> 8) as u8));
    let icmp_type = match (question.protocol, v4) {
        (Transport::Other(1), true) => message(icmp::REQUESTS_V4[0]),
        (Transport::Other(58), false) => message(icmp::REQUESTS_V6[0]),
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
        ct: 0,
        born: Born::Elsewhere,
    })
}

impl Judge for Flower<'_> {
    fn name(&self) -> &'static str {
        "flower"
    }

    fn judge(&mut self, question: &Question) -> Result<Answer, Error> {
        Ok(Answer::of(self.egress(question)?, self.ingress(question)?))
    }
}
