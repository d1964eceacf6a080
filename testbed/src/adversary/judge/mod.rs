//! May this frame have arrived here, given who really sent it, the policies, and what was sent
//! before?
//!
//! Policies are asked by the oracle (`netpolc_policy::oracle`). What the oracle does not know
//! stands here, by the items of docs/semantics.md: replies (S37, S38, S41), errors (S35), discovery
//! and ARP (S36), the node (S44, S45), own traffic (S47), fragments (S50), truncation (S52), forged
//! sources (S55). Where a rule leaves room (how long a connection lives, in which order two packets
//! came) the judge says yes: what it calls a violation is one.
//!
//! - `errors`, `fragments`: of packets that are judged by another one
//! - `names`: in whose name somebody sends, and to whom
//!
//! Not here: reading frames ([`super::parse`]), telling who sent them ([`super::Campaign`]).

mod errors;
mod fragments;
mod names;

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
    /// The sender's egress policies deny it, and it is not a reply (S7, S38, S48).
    Egress,
    /// The receiver's ingress policies deny it, and it is not a reply (S7, S38).
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
    /// A pod sent an advertisement in another's name, a router's, or a redirect; or one that is not
    /// for the link (S36).
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
    /// An error about a connection that there is not, or that carries more than an error does
    /// (S35).
    IcmpError,
}

impl Kind {
    /// Every kind of finding.
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
    /// Where it was really sent.
    pub place: Place,
    /// The frames of one case have one number.
    pub case: u64,
    /// What kind of thing it is, for people.
    pub label: &'static str,
    /// All bytes of the frame.
    pub bytes: Vec<u8>,
}

/// An arrival that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which rule is broken.
    pub kind: Kind,
    /// Why, in words for people.
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
    /// The cluster without nodes: an address of a node is like any other, since what comes by an
    /// interface is not born there (S44).
    bare: Cluster,
    /// Ports at which some answer changes.
    edges: Vec<(Transport, Option<u16>)>,
    /// Packets of each pod, under its own address, that may open a connection.
    opened: HashSet<(usize, Flow)>,
    /// Packets to each pod that may open a connection, and did arrive.
    accepted: HashSet<(usize, Flow)>,
    /// The same of what the node has seen, whether it did arrive or not.
    tracked: HashSet<(usize, Flow)>,
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
            tracked: HashSet::new(),
            firsts: HashMap::new(),
            case_firsts: HashMap::new(),
        };
        judge.turn(cluster);
        judge
    }

    /// From now on other policies stand. Connections stay, and are judged anew (S40-S42); no packet
    /// is under way in pieces.
    pub fn turn(&mut self, cluster: Cluster) {
        let open = self.open_pods();
        self.edges = random::ports(&cluster);
        self.bare = Cluster { nodes: Default::default(), ..cluster.clone() };
        self.cluster = cluster;
        // Whoever is isolated now and was not takes over what runs.
        let adopting: Vec<usize> = open.difference(&self.open_pods()).copied().collect();
        let taken = self.tracked.iter().filter(|(n, _)| adopting.contains(n));
        self.accepted.extend(taken.copied());
        self.firsts.clear();
        self.case_firsts.clear();
    }

    /// The pods that no policy isolates, by number.
    fn open_pods(&self) -> HashSet<usize> {
        let isolated = |n: &usize| {
            let directions = [Direction::Ingress, Direction::Egress];
            directions.into_iter().any(|d| self.is_isolated(Place::Pod(*n), d))
        };
        (0..self.world.pods.len()).filter(|n| !isolated(n)).collect()
    }

    /// The cluster whose policies stand.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Hears what is sent. Before it arrives anywhere.
    pub fn hear(&mut self, sent: &Sent) {
        let Some(Frame { content: Content::Ip(packet), .. }) = parse::frame(&sent.bytes) else {
            return;
        };
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
        let receiver =
            self.world.pods.iter().position(|p| p.addresses.contains(&packet.destination));
        let Some(n) = receiver else { return };
        // What has no mark within its length arrives unseen: a short first fragment, or what
        // routers trim.
        let unseen = marks(&packet.body).next().is_none();
        if unseen {
            self.accepted.insert((n, flow));
        }
        if self.is_tracked(sent.place, &packet) {
            self.tracked.insert((n, flow));
        }
    }

    /// Does the node's connection tracking see it, and believe in it when the other end is isolated
    /// later (S40)? Of UDP that others opened it takes one packet each way, let in or not: ingress
    /// must permit it then, so the other side's next packet would open the same.
    fn is_tracked(&self, from: Place, packet: &Packet) -> bool {
        let own =
            self.world.owns(from, packet.source) && !self.is_isolated(from, Direction::Egress);
        packet.protocol == number::UDP && (from == Place::Outside || own)
    }

    /// Judges an arrival. What the receiver lets in may have opened a connection, also where the
    /// sender should have kept it.
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
            Content::Other(_) | Content::Short if from.is_none() => {
                return self.unread(sent.place, at);
            }
            Content::Other(kind) => {
                return wrong(Kind::NotIp, format_args!("type {kind:#06x} from a pod"));
            }
            Content::Short => return wrong(Kind::NotIp, "headers that end too early, from a pod"),
            Content::Arp { sender } => {
                let Some(pod) = from else { return Ok(()) };
                if !pod.addresses.contains(&(*sender).into()) && !sender.is_unspecified() {
                    return wrong(Kind::Arp, format_args!("{sender} is not the sender's"));
                }
                return if own_mac {
                    Ok(())
                } else {
                    wrong(Kind::ForgedMac, "ARP under a forged address")
                };
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
                return wrong(
                    Kind::ForgedMac,
                    format_args!("sent by hardware address {:x?}", &sent.bytes[6..12]),
                );
            }
        }
        if let Place::Pod(_) = at {
            self.receiver_is_meant(at, packet, sent)?;
        }
        // Nobody's kernel takes what says that it is longer than it is, or has options that are
        // none.
        if !packet.sound {
            return self.unread(sent.place, at);
        }
        if let Some(kind) = packet.discovery()
            && linked
        {
            return self.discovery(sent.place, packet, kind);
        }
        if from.is_some()
            && linked
            && matches!(packet.ports(), Some((67, 68) | (547, 546)))
            && packet.protocol == 17
        {
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
        match self.passes(sent.place, at, flow, packet.ports().map(|p| p.1), event) {
            // It left for an address of its own link as discovery, of which egress says nothing
            // (S36); the node has routed it back to that link.
            Err(Violation { kind: Kind::Egress, .. }) if linked && packet.was_discovery() => Ok(()),
            result => result,
        }
    }

    /// S44: an answer of the node itself. It has an address of the node that stands as a source
    /// nowhere in what was sent.
    fn is_born(&self, packet: &Packet, sent: &Sent) -> bool {
        let forged =
            |frame: &Frame| matches!(&frame.content, Content::Ip(p) if p.source == packet.source);
        let outer = parse::frame(&sent.bytes);
        let inner = outer
            .as_ref()
            .and_then(|f| if let Content::Ip(p) = &f.content { p.overlaid() } else { None });
        self.world.nodes_own.contains(&packet.source) && !outer.iter().chain(&inner).any(forged)
    }

    /// S52: what cannot be read.
    fn unread(&self, from: Place, at: Place) -> Judged {
        if self.is_isolated(from, Direction::Egress) || self.is_isolated(at, Direction::Ingress) {
            return wrong(Kind::Truncated, "headers that cannot be read, where policy has to");
        }
        Ok(())
    }

    /// Both sides' policies, and replies (S7, S37, S38, S41). `port` is the destination's where the
    /// protocol has ports.
    fn passes(
        &self,
        from: Place,
        at: Place,
        flow: Flow,
        port: Option<u16>,
        event: Event,
    ) -> Judged {
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
            let reason = self.ask(
                &self.cluster,
                from,
                Direction::Egress,
                source,
                destination,
                flow.protocol,
                port,
            );
            let reply = || {
                let open = self.ask(
                    &self.bare,
                    from,
                    Direction::Ingress,
                    source,
                    destination,
                    flow.protocol,
                    asked,
                );
                follows && self.accepted.contains(&(pod, flow.reverse())) && open.allows()
            };
            if !reason.allows() && !reply() {
                return wrong(
                    Kind::Egress,
                    format_args!("{from:?} to {destination} {port:?}: {reason}"),
                );
            }
        }
        if let Place::Pod(pod) = at {
            let own = self.world.pods[pod].addresses[usize::from(destination.is_ipv6())];
            let reason =
                self.ask(&self.bare, at, Direction::Ingress, own, source, flow.protocol, port);
            let reply = || {
                let open = self.ask(
                    &self.cluster,
                    at,
                    Direction::Egress,
                    own,
                    source,
                    flow.protocol,
                    asked,
                );
                follows && self.opened.contains(&(pod, flow.reverse())) && open.allows()
            };
            if !reason.allows() && !reply() {
                return wrong(Kind::Ingress, format_args!("{source} to {at:?} {port:?}: {reason}"));
            }
        }
        Ok(())
    }

    /// What the pod's policies say in one direction; `local` is its address, `port` the packet's
    /// destination port.
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
        let question = Question {
            source,
            destination,
            protocol: Transport::from_number(protocol),
            port,
            via: None,
        };
        let judgement = oracle::judge(cluster, &question);
        match direction {
            Direction::Egress => judgement.egress.reason,
            Direction::Ingress => judgement.ingress.reason,
        }
    }

    /// Does a policy isolate the pod in this direction?
    pub fn is_isolated(&self, place: Place, direction: Direction) -> bool {
        let Some(pod) = self.world.pod(place).and_then(|pod| self.cluster.pods.get(&pod.key))
        else {
            return false;
        };
        let selecting =
            self.cluster.policies.values().filter(|p| p.key.namespace == pod.key.namespace);
        let mut selecting = selecting.filter(|p| p.selector.matches(&pod.labels));
        selecting.any(|p| matches!(p.isolation(direction), Isolation::Isolated(_)))
    }

    /// May an honest packet of `from` to `at` open a connection? For frames that must arrive.
    pub fn allows(&self, from: Place, at: Place, flow: Flow, port: Option<u16>) -> bool {
        self.passes(from, at, flow, port, Event::Alone).is_ok()
    }
}
