//! May this frame have arrived here, given who really sent it, the policies, and what was sent before?
//!
//! Policies are asked by the oracle (`netpolc_policy::oracle`). What the oracle does not know stands here, by the items of
//! docs/semantics.md: replies (S37, S38, S41), errors (S35), discovery and ARP (S36), the node (S44, S45), own traffic (S47),
//! fragments (S50), truncation (S52), forged sources (S55). Where a rule leaves room (how long a connection lives, in which order
//! two packets came) the judge says yes: what it calls a violation is one.
//!
//! Not here: reading frames ([`super::parse`]), telling who sent them ([`super::Campaign`]).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use netpolc_policy::{
    Cluster, Direction, Isolation,
    oracle::{self, Party, Question, Reason, Transport},
};

use super::{
    Place, World,
    bytes::number,
    generate::marks,
    parse::{self, Content, Event, Flow, Frame, Packet},
};
use crate::random;

/// What is wrong about an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The sender's egress policies deny it, and it is no reply (S7, S38, S48).
    Egress,
    /// The receiver's ingress policies deny it, and it is no reply (S7, S38).
    Ingress,
    /// A pod sent it under an address that is not its own (S55).
    ForgedSource,
    /// A pod on a bridge sent it under another's hardware address (S55).
    ForgedMac,
    /// It came to a pod under the pod's own address, and the pod did not send it (S47).
    OwnSource,
    /// A pod sent what is neither IP nor ARP (S55).
    NotIp,
    /// A pod sent ARP in another's name (S36).
    Arp,
    /// A pod sent an advertisement in another's name, a router's, or a redirect; or one that is not for the link (S36).
    Discovery,
    /// A pod answered another as a DHCP server.
    Dhcp,
    /// A unicast packet came to a pod whose address it does not have.
    ForeignDestination,
    /// A pod sent into a tunnel of a node, and no rule names that (S45).
    Tunnel,
    /// Its headers cannot be read where policy has to (S52).
    Truncated,
    /// A later fragment without a first one that may pass (S50).
    Fragment,
    /// An error about a connection that there is not, or that carries more than an error does (S35).
    IcmpError,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 14] = [
        Kind::Egress,
        Kind::Ingress,
        Kind::ForgedSource,
        Kind::ForgedMac,
        Kind::OwnSource,
        Kind::NotIp,
        Kind::Arp,
        Kind::Discovery,
        Kind::Dhcp,
        Kind::ForeignDestination,
        Kind::Tunnel,
        Kind::Truncated,
        Kind::Fragment,
        Kind::IcmpError,
    ];
}

/// A frame that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Who really sent it.
    pub place: Place,
    /// The frames of one case have one number.
    pub case: u64,
    /// What kind of thing it is, for people.
    pub label: &'static str,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// An arrival that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong.
    pub kind: Kind,
    /// Why, in words.
    pub why: String,
}

type Judged = Result<(), Violation>;

fn wrong(kind: Kind, why: impl fmt::Display) -> Judged {
    Err(Violation { kind, why: why.to_string() })
}

/// Source, destination, protocol and identification of fragments of one packet.
type FragmentKey = (IpAddr, IpAddr, u8, u32);

/// Knows the policies, and what was said so far.
#[derive(Debug)]
pub struct Judge {
    world: World,
    cluster: Cluster,
    /// Without nodes: an address of a node is an address, since what comes by an interface is not born there (S44).
    bare: Cluster,
    /// Ports at which some answer changes.
    edges: Vec<(Transport, Option<u16>)>,
    /// By pod: packets under its own address that may open a connection.
    opened: HashSet<(usize, Flow)>,
    /// By pod: packets that may open a connection, and did arrive.
    accepted: HashSet<(usize, Flow)>,
    firsts: HashMap<FragmentKey, Vec<Packet>>,
    case_firsts: HashMap<u64, Vec<Packet>>,
}

impl Judge {
    /// Has heard nothing yet; `cluster` has the policies.
    pub fn new(world: World, cluster: Cluster) -> Self {
        let mut judge = Judge {
            world,
            cluster: Cluster::default(),
            bare: Cluster::default(),
            edges: vec![],
            opened: HashSet::new(),
            accepted: HashSet::new(),
            firsts: HashMap::new(),
            case_firsts: HashMap::new(),
        };
        judge.turn(cluster);
        judge
    }

    /// From now on other policies stand. Connections stay, and are judged anew (S40-S42); no packet is under way in pieces.
    pub fn turn(&mut self, cluster: Cluster) {
        self.edges = random::ports(&cluster);
        self.bare = Cluster { nodes: Default::default(), ..cluster.clone() };
        self.cluster = cluster;
        self.firsts.clear();
        self.case_firsts.clear();
    }

    /// The cluster whose policies stand.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Hears what is sent. Before it arrives anywhere.
    pub fn hear(&mut self, sent: &Sent) {
        let Some(Frame { content: Content::Ip(packet), .. }) = parse::frame(&sent.bytes) else { return };
        if let Some(fragment) = packet.fragment.filter(|f| f.offset == 0) {
            let key = (packet.source, packet.destination, fragment.protocol, fragment.id);
            self.firsts.entry(key).or_default().push(packet.clone());
            self.case_firsts.entry(sent.case).or_default().push(packet.clone());
        }
        let Some((flow, Event::Opens | Event::Either)) = packet.flow() else { return };
        if let Place::Pod(n) = sent.place
            && self.world.owns(sent.place, packet.source)
        {
            self.opened.insert((n, flow));
        }
        // What has no mark within its length arrives unseen: a short first fragment, or what routers trim.
        let unseen = marks(&packet.body).next().is_none();
        let receiver = self.world.pods.iter().position(|p| p.addresses.contains(&packet.destination));
        if let Some(n) = receiver.filter(|_| unseen) {
            self.accepted.insert((n, flow));
        }
    }

    /// Judges an arrival. What the receiver lets in may have opened a connection, also where the sender should have kept it.
    ///
    /// # Errors
    /// It must not have arrived.
    pub fn arrives(&mut self, at: Place, frame: &Frame, sent: &Sent) -> Judged {
        if at == sent.place || sent.place == Place::Node {
            return Ok(());
        }
        let result = self.judge(at, frame, sent);
        let let_in = !matches!(result, Err(Violation { kind: Kind::Ingress, .. }));
        if let (true, Place::Pod(n), Content::Ip(packet)) = (let_in, at, &frame.content)
            && let Some((flow, Event::Opens | Event::Either)) = packet.flow()
        {
            self.accepted.insert((n, flow));
        }
        result
    }

    fn judge(&self, at: Place, frame: &Frame, sent: &Sent) -> Judged {
        let from = self.world.pod(sent.place);
        let own_mac = from.is_none_or(|pod| sent.bytes[6..12] == pod.mac);
        let linked = self.world.same_link(sent.place, at);
        let packet = match &frame.content {
            Content::Ip(packet) => packet,
            Content::Other(_) | Content::Short if from.is_none() => return self.unread(sent.place, at),
            Content::Other(kind) => return wrong(Kind::NotIp, format_args!("type {kind:#06x} from a pod")),
            Content::Short => return wrong(Kind::NotIp, "headers that end too early, from a pod"),
            Content::Arp { sender } => {
                let Some(pod) = from else { return Ok(()) };
                if !pod.addresses.contains(&(*sender).into()) && !sender.is_unspecified() {
                    return wrong(Kind::Arp, format_args!("{sender} is not the sender's"));
                }
                return if own_mac { Ok(()) } else { wrong(Kind::ForgedMac, "ARP under a forged address") };
            }
        };
        // What the node has put into its overlay; behind it stands the packet that was sent.
        if at == Place::Outside
            && self.world.nodes_own.contains(&packet.source)
            && let Some(inner) = packet.overlaid()
        {
            return self.judge(at, &inner, sent);
        }
        if self.is_born(packet, sent) {
            return Ok(());
        }
        if from.is_some() {
            if self.is_named_tunnel(sent) {
                return Ok(());
            }
            self.sender_is_honest(sent.place, packet, linked)?;
            if linked && !own_mac {
                return wrong(Kind::ForgedMac, format_args!("sent by hardware address {:x?}", &sent.bytes[6..12]));
            }
        }
        if let Place::Pod(_) = at {
            self.receiver_is_meant(at, packet, sent)?;
        }
        if let Some(kind) = packet.discovery()
            && linked
        {
            return self.discovery(sent.place, packet, kind);
        }
        if from.is_some() && linked && matches!(packet.ports(), Some((67, 68) | (547, 546))) && packet.protocol == 17 {
            return wrong(Kind::Dhcp, "an answer of a DHCP server");
        }
        if !packet.is_complete() {
            return self.unread(sent.place, at);
        }
        if packet.is_error() {
            return self.error(at, packet, sent.place);
        }
        if packet.is_later() {
            return self.later(at, packet, sent);
        }
        let (flow, event) = packet.flow().expect("it is no later fragment");
        self.passes(sent.place, at, flow, packet.ports().map(|p| p.1), event)
    }

    /// S44: an answer of the node itself. It has an address of the node that stands as a source nowhere in what was sent.
    fn is_born(&self, packet: &Packet, sent: &Sent) -> bool {
        let forged = |frame: &Frame| matches!(&frame.content, Content::Ip(p) if p.source == packet.source);
        let outer = parse::frame(&sent.bytes);
        let inner = outer.as_ref().and_then(|f| if let Content::Ip(p) = &f.content { p.overlaid() } else { None });
        self.world.nodes_own.contains(&packet.source) && !outer.iter().chain(&inner).any(forged)
    }

    /// S45: a rule lets the pod send into the tunnel at this node, and whoever wrote it trusts the pod with it.
    fn is_named_tunnel(&self, sent: &Sent) -> bool {
        let Some(Frame { content: Content::Ip(packet), .. }) = parse::frame(&sent.bytes) else { return false };
        let to_node = self.world.nodes_own.contains(&packet.destination) && is_tunnel(&packet);
        to_node && self.is_named(sent.place, &packet)
    }

    /// Does a rule that names ports allow it, S45 aside?
    fn is_named(&self, from: Place, packet: &Packet) -> bool {
        let port = packet.ports().map(|p| p.1);
        let reason =
            self.ask(&self.bare, from, Direction::Egress, packet.source, packet.destination, packet.protocol, port);
        matches!(reason, Reason::Allowed(place) if place.port.is_some())
    }

    /// S55, and S45 where other nodes are concerned.
    fn sender_is_honest(&self, from: Place, packet: &Packet, linked: bool) -> Judged {
        let unproven = match packet.source {
            IpAddr::V4(a) => a.is_unspecified() && packet.protocol == number::UDP && packet.ports() == Some((68, 67)),
            IpAddr::V6(a) => {
                let listener =
                    || packet.is_icmp() && packet.body.first().is_some_and(|k| [130, 131, 132, 143].contains(k));
                let dhcp = || packet.protocol == number::UDP && packet.ports() == Some((546, 547));
                let free = packet.fragment.is_none() && (packet.discovery().is_some() || listener() || dhcp());
                (a.is_unspecified() || a.is_unicast_link_local()) && free
            }
        };
        let proven = self.world.owns(from, packet.source) || (unproven && linked);
        if !proven {
            return wrong(Kind::ForgedSource, format_args!("{} is not an address of {from:?}", packet.source));
        }
        if self.world.far_node.contains(&packet.destination) && is_tunnel(packet) && !self.is_named(from, packet) {
            return wrong(Kind::Tunnel, format_args!("into the tunnel of {}", packet.destination));
        }
        Ok(())
    }

    /// Is it for this pod, and from somebody else?
    fn receiver_is_meant(&self, at: Place, packet: &Packet, sent: &Sent) -> Judged {
        let many = match packet.destination {
            IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || a.octets() == [10, 0, 1, 255],
            IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
        };
        if !many && !self.world.owns(at, packet.destination) {
            return wrong(Kind::ForeignDestination, format_args!("{} is not an address of {at:?}", packet.destination));
        }
        let isolated = self.is_isolated(at, Direction::Ingress);
        if isolated && self.world.owns(at, packet.source) {
            return wrong(Kind::OwnSource, format_args!("the pod's own address as source, sent by {:?}", sent.place));
        }
        Ok(())
    }

    /// S36, between two pods on a link.
    fn discovery(&self, from: Place, packet: &Packet, kind: u8) -> Judged {
        let target = packet.body.get(8..24).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
        match kind {
            134 => wrong(Kind::Discovery, "a router advertisement of a pod"),
            137 => wrong(Kind::Discovery, "a redirect of a pod"),
            // Nobody knows all link-local addresses of pods, but the node's are known.
            136 if !target.is_some_and(|t| self.may_speak_for(from, t)) => {
                wrong(Kind::Discovery, format_args!("an advertisement for {target:?}"))
            }
            _ => Ok(()),
        }
    }

    /// One of its addresses, or a link-local one that is not the node's.
    fn may_speak_for(&self, place: Place, address: IpAddr) -> bool {
        let local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        self.world.owns(place, address) || (local && !self.world.nodes_own.contains(&address))
    }

    /// S52: what cannot be read.
    fn unread(&self, from: Place, at: Place) -> Judged {
        if self.is_isolated(from, Direction::Egress) || self.is_isolated(at, Direction::Ingress) {
            return wrong(Kind::Truncated, "headers that cannot be read, where policy has to");
        }
        Ok(())
    }

    /// S35: an error tells of a connection of the pod, to or from the other end of that connection, and no more than errors do.
    fn error(&self, at: Place, packet: &Packet, from: Place) -> Judged {
        let checks = [(from, Direction::Egress), (at, Direction::Ingress)];
        for (place, direction) in checks.into_iter().filter(|(p, d)| self.is_isolated(*p, *d)) {
            let Place::Pod(pod) = place else { continue };
            let Some(inner) = packet.quoted().filter(|p| p.body.len() >= 8 && !p.is_error() && !p.is_later()) else {
                return wrong(Kind::IcmpError, "an error about nothing that can be read");
            };
            let (flow, event) = inner.flow().expect("it is no later fragment");
            // As the pod sent it.
            let (sent, remote) = match direction {
                Direction::Egress => (flow.reverse(), inner.source),
                Direction::Ingress => (flow, inner.destination),
            };
            if !self.world.owns(place, sent.source.0) {
                return wrong(Kind::IcmpError, format_args!("about {}, which is not the pod's", sent.source.0));
            }
            if direction == Direction::Egress && packet.destination != remote {
                return wrong(
                    Kind::IcmpError,
                    format_args!("about a connection with {remote}, to {}", packet.destination),
                );
            }
            let most = if packet.is_v4() { 576 } else { 1280 };
            if direction == Direction::Egress && packet.body.len() - 8 > most {
                return wrong(Kind::IcmpError, format_args!("{} bytes of quotation", packet.body.len() - 8));
            }
            let ports = |flow: Flow| {
                [number::TCP, number::UDP, number::SCTP].contains(&flow.protocol).then_some(flow.destination.1)
            };
            let permits = |direction, flow: Flow| {
                let reason = match direction {
                    Direction::Egress => {
                        self.ask(&self.cluster, place, direction, flow.source.0, remote, flow.protocol, ports(flow))
                    }
                    Direction::Ingress => {
                        self.ask(&self.bare, place, direction, flow.destination.0, remote, flow.protocol, ports(flow))
                    }
                };
                reason.allows()
            };
            let opened = self.opened.contains(&(pod, sent)) && permits(Direction::Egress, sent);
            let accepted =
                self.accepted.contains(&(pod, sent.reverse())) && permits(Direction::Ingress, sent.reverse());
            // A packet of no connection: policy decides about it.
            let alone = event == Event::Alone
                && match direction {
                    Direction::Egress => permits(Direction::Ingress, sent.reverse()),
                    Direction::Ingress => permits(Direction::Egress, sent),
                };
            if !(opened || accepted || alone) {
                return wrong(
                    Kind::IcmpError,
                    format_args!("about a connection that {place:?} does not have: {sent:?}"),
                );
            }
        }
        Ok(())
    }

    /// S50: it follows a first one that may pass, or every port may.
    fn later(&self, at: Place, packet: &Packet, sent: &Sent) -> Judged {
        let policed = self.is_isolated(sent.place, Direction::Egress) || self.is_isolated(at, Direction::Ingress);
        if !policed {
            return Ok(());
        }
        let fragment = packet.fragment.expect("it is one");
        let has_flags = [number::TCP, number::SCTP].contains(&packet.protocol);
        if has_flags && fragment.offset == 8 {
            return wrong(Kind::Fragment, "it overwrites the first one's flags (RFC 3128)");
        }
        let key = (packet.source, packet.destination, fragment.protocol, fragment.id);
        let firsts = self.firsts.get(&key).into_iter().chain(self.case_firsts.get(&sent.case)).flatten();
        let same = |p: &&Packet| (p.source, p.destination) == (packet.source, packet.destination);
        let passes = |first: &Packet| {
            let error = first.is_error() && self.error(at, first, sent.place).is_ok();
            let (flow, event) = first.flow().expect("it is a first one");
            error || self.passes(sent.place, at, flow, first.ports().map(|p| p.1), event).is_ok()
        };
        if firsts.filter(same).any(passes) {
            return Ok(());
        }
        let transport = Transport::from_number(packet.protocol);
        let flow = |port| Flow {
            protocol: packet.protocol,
            source: (packet.source, 0),
            destination: (packet.destination, port),
        };
        let all = match transport {
            Transport::Other(p) if number::EXTENSIONS.contains(&p) => false,
            Transport::Other(_) => self.passes(sent.place, at, flow(0), None, Event::Alone).is_ok(),
            _ => self
                .edges
                .iter()
                .filter(|(t, _)| *t == transport)
                .filter_map(|(_, port)| *port)
                .chain([0])
                .all(|port| self.passes(sent.place, at, flow(port), Some(port), Event::Alone).is_ok()),
        };
        if all { Ok(()) } else { wrong(Kind::Fragment, "a later fragment, and no first one may pass") }
    }

    /// Both sides' policies, and replies (S7, S37, S38, S41). `port` is the destination's where the protocol has ports.
    fn passes(&self, from: Place, at: Place, flow: Flow, port: Option<u16>, event: Event) -> Judged {
        let (source, destination) = (flow.source.0, flow.destination.0);
        // The port of the packet that this one replies to.
        let asked = port.map(|_| flow.source.1);
        let follows = match (event, flow.protocol) {
            (Event::Continues | Event::Either, _) => true,
            // Crossing SYNs.
            (Event::Opens, number::TCP) => true,
            (Event::Opens | Event::Alone, _) => false,
        };
        if let Place::Pod(pod) = from {
            let reason = self.ask(&self.cluster, from, Direction::Egress, source, destination, flow.protocol, port);
            let reply = || {
                let open = self.ask(&self.bare, from, Direction::Ingress, source, destination, flow.protocol, asked);
                follows && self.accepted.contains(&(pod, flow.reverse())) && open.allows()
            };
            if !reason.allows() && !reply() {
                return wrong(Kind::Egress, format_args!("{from:?} to {destination} {port:?}: {reason}"));
            }
        }
        if let Place::Pod(pod) = at {
            let own = self.world.pods[pod].addresses[usize::from(destination.is_ipv6())];
            let reason = self.ask(&self.bare, at, Direction::Ingress, own, source, flow.protocol, port);
            let reply = || {
                let open = self.ask(&self.cluster, at, Direction::Egress, own, source, flow.protocol, asked);
                follows && self.opened.contains(&(pod, flow.reverse())) && open.allows()
            };
            if !reason.allows() && !reply() {
                return wrong(Kind::Ingress, format_args!("{source} to {at:?} {port:?}: {reason}"));
            }
        }
        Ok(())
    }

    /// What the pod's policies say in one direction; `local` is its address, `port` the packet's destination port.
    #[allow(clippy::too_many_arguments, reason = "a question has that many parts")]
    fn ask(
        &self,
        cluster: &Cluster,
        place: Place,
        direction: Direction,
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        port: Option<u16>,
    ) -> Reason {
        let Some(pod) = self.world.pod(place) else { return Reason::NotPoliced };
        let own = Party::Pod(pod.key.clone(), local);
        let (source, destination) = match direction {
            Direction::Egress => (own, Party::Address(remote)),
            Direction::Ingress => (Party::Address(remote), own),
        };
        let question = Question { source, destination, protocol: Transport::from_number(protocol), port, via: None };
        let judgement = oracle::judge(cluster, &question);
        match direction {
            Direction::Egress => judgement.egress.reason,
            Direction::Ingress => judgement.ingress.reason,
        }
    }

    /// Does a policy isolate the pod in this direction?
    pub fn is_isolated(&self, place: Place, direction: Direction) -> bool {
        let Some(pod) = self.world.pod(place).and_then(|pod| self.cluster.pods.get(&pod.key)) else { return false };
        let selecting = self.cluster.policies.values().filter(|p| p.key.namespace == pod.key.namespace);
        let mut selecting = selecting.filter(|p| p.selector.matches(&pod.labels));
        selecting.any(|p| matches!(p.isolation(direction), Isolation::Isolated(_)))
    }

    /// May an honest packet of `from` to `at` open a connection? For frames that must arrive.
    pub fn allows(&self, from: Place, at: Place, flow: Flow, port: Option<u16>) -> bool {
        self.passes(from, at, flow, port, Event::Alone).is_ok()
    }
}

/// Is it a packet that a node may take out of a tunnel?
fn is_tunnel(packet: &Packet) -> bool {
    packet.overlaid().is_some() || number::TUNNELS.contains(&packet.protocol)
}
