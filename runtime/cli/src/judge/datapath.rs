//! A judge that sends packets through a target that holds the tables of the whole cluster. The
//! opening packet of each question passes the source's from_pod, for a Service also the hook that
//! judges it after translation, and the destination's to_pod. Not here: the targets
//! ([`super::mem`], [`super::ebpf`]).

use std::{net::IpAddr, time::Duration};

use netpolc_lower::Event;
use netpolc_policy::{
    Cluster, Direction,
    oracle::{Question, Transport},
};
use netpolc_table::{EndpointId, IfIndex, delta};
use netpolc_target::{
    Arrival, Datapath, Frame, Hook, Mark, Target, Verdict, execute,
    frame::Packet,
    semantics::{icmp, sctp, tcp},
};

use super::{Answer, Error, Judge, Place, Reason, Side, tables::Tables};

/// The time by which the clock advances between questions. It is longer than the lifetime of any
/// state that an opening packet creates, so that questions do not affect each other.
const STATE_LIFETIME: Duration = Duration::from_secs(3600);
/// The index of the interface of endpoint 0: endpoint 1 is on interface 10,001.
const FIRST_INTERFACE: u32 = 10_000;
/// The index of the interface by which packets arrive from outside the node; any index but 0 will
/// do.
const UPLINK: IfIndex = IfIndex::new(2);

/// A judge that sends packets through the target `T`.
pub struct OnDatapath<'a, T> {
    tables: Tables<'a>,
    target: T,
    source_port: u16,
}

/// The made-up interface of an endpoint.
fn interface_of(endpoint: EndpointId) -> IfIndex {
    IfIndex::new(FIRST_INTERFACE + u32::from(endpoint.get()))
}

impl<'a, T: Target + Datapath> OnDatapath<'a, T> {
    /// Brings a target from what it holds to the cluster's tables.
    ///
    /// # Errors
    /// The tables cannot be compiled, or the target cannot hold them.
    pub fn install(cluster: &'a Cluster, mut target: T) -> Result<Self, Error> {
        let mut tables = Tables::new(cluster)?;
        let endpoints: Vec<_> =
            tables.compiler().endpoints().map(|(key, id)| (key.clone(), id)).collect();
        let interfaces = endpoints
            .into_iter()
            .map(|(pod, id)| Event::Interface { pod, interface: Some(interface_of(id).into()) });
        tables.compiler().apply_all(interfaces)?;
        let (_, plan) = delta::plan(&target.read()?, tables.program())?;
        execute(&mut target, &plan)?;
        Ok(Self { tables, target, source_port: 0 })
    }

    /// Returns the target, for the next cluster: loading programs takes longer than changing
    /// tables.
    pub fn into_target(self) -> T {
        self.target
    }

    /// Judges the source's side: its from_pod, and for a packet to a Service the hook after
    /// translation.
    fn egress(&mut self, question: &Question, port: u16) -> Result<Side, Error> {
        let packet = |to, number| opening(question, port, to, number);
        let frame = match question.via {
            Some((address, number)) => packet(address, Some(number))?,
            None => packet(question.destination.address(), question.port)?,
        };
        let translated = packet(question.destination.address(), question.port)?;
        let mut sides = Vec::new();
        for (pod, endpoint) in self.tables.subjects(&question.source) {
            let interface = interface_of(endpoint);
            let (arrival, bytes) = (Arrival::At(interface), frame.clone());
            let frame = Frame { interface, arrival, mark: Mark::Clear, bytes };
            let mut verdict = self.target.packet(Hook::FromPod, &frame)?;
            let expected = self.tables.egress((pod, endpoint), question);
            if verdict == Verdict::Defer && question.via.is_some() {
                let bytes = translated.clone();
                let frame = Frame { interface: UPLINK, arrival, mark: Mark::Deferred, bytes };
                verdict = self.target.packet(Hook::Translated, &frame)?;
            }
            sides.push(self.side(verdict, expected));
        }
        Ok(Side::strictest(sides))
    }

    /// Judges the destination's side: its to_pod.
    fn ingress(&mut self, question: &Question, port: u16) -> Result<Side, Error> {
        let bytes = opening(question, port, question.destination.address(), question.port)?;
        let remote = question.source.address();
        let mut sides = Vec::new();
        for (pod, endpoint) in self.tables.subjects(&question.destination) {
            let interface = interface_of(endpoint);
            // Offline, an address of the pod's node stands for a packet from the node itself (S44),
            // and one of the pod's own addresses for its own traffic, which is known by its
            // interface (S47).
            let arrival = match remote {
                _ if self.tables.is_own_node(pod, remote) => Arrival::Born,
                _ if pod.addresses.contains(&remote) => Arrival::At(interface),
                _ => Arrival::At(UPLINK),
            };
            let frame = Frame { interface, arrival, mark: Mark::Clear, bytes: bytes.clone() };
            let verdict = self.target.packet(Hook::ToPod, &frame)?;
            let expected = self.tables.side(Direction::Ingress, (pod, endpoint), remote, question);
            sides.push(self.side(verdict, expected));
        }
        Ok(Side::strictest(sides))
    }

    /// Turns the verdict of a hook into a side, with the reasons from the tables where they agree
    /// with it.
    fn side(&self, verdict: Verdict, expected: Side) -> Side {
        match verdict {
            Verdict::Next if expected.allowed => expected,
            Verdict::Next => {
                Side { allowed: true, reason: Reason::Allowed, by: vec![], ..expected }
            }
            // Nothing has translated the packet, so no backend was judged.
            Verdict::Defer => {
                Side { allowed: false, reason: Reason::Service, by: vec![], ..expected }
            }
            Verdict::Drop if !expected.allowed => expected,
            Verdict::Drop => {
                let by =
                    self.target.explain_last().map(|r| Place::Other { implied: r.name().into() });
                Side {
                    allowed: false,
                    reason: Reason::Dropped,
                    by: by.into_iter().collect(),
                    ..expected
                }
            }
        }
    }
}

/// Builds the opening packet of a question, to the given address and port.
fn opening(
    question: &Question,
    source: u16,
    to: IpAddr,
    port: Option<u16>,
) -> Result<Vec<u8>, Error> {
    let from = question.source.address();
    if from.is_ipv4() != to.is_ipv4() {
        return Err(Error::Question(format!(
            "{from} and {to} belong to different address families"
        )));
    }
    let port = || {
        port.ok_or_else(|| {
            Error::Question("port is missing; a packet needs a destination port".into())
        })
    };
    // An echo request, unless the question says otherwise.
    let message = |echo: u8| question.port.map_or([echo, 0], u16::to_be_bytes);
    let packet = Packet::new(from, to);
    let packet = match (question.protocol, from.is_ipv4()) {
        (Transport::Tcp, _) => packet.tcp(source, port()?, tcp::SYN),
        (Transport::Udp, _) => packet.udp(source, port()?).payload(b"netpolc"),
        (Transport::Sctp, _) => packet.sctp(source, port()?, sctp::INIT),
        (Transport::Other(1), true) => packet.message(message(icmp::REQUESTS_V4[0]), source),
        (Transport::Other(58), false) => packet.message(message(icmp::REQUESTS_V6[0]), source),
        (Transport::Other(number), _) => packet.protocol(number).payload(&[0; 16]),
    };
    Ok(packet.build())
}

impl<T: Target + Datapath> Judge for OnDatapath<'_, T> {
    fn name(&self) -> &'static str {
        self.target.name()
    }

    fn judge(&mut self, question: &Question) -> Result<Answer, Error> {
        // Every question gets another source port, so that no earlier state matches.
        self.source_port = 32_768 + (self.source_port + 1) % 28_000;
        let egress = self.egress(question, self.source_port)?;
        let ingress = self.ingress(question, self.source_port)?;
        self.target.advance(STATE_LIFETIME)?;
        Ok(Answer::of(egress, ingress))
    }
}
