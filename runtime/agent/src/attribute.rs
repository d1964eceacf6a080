//! Who and which rule is behind a record: from ids and bytes to a [`Flow`] (S88).
//!
//! A record names sets and classes by ids, which mean something by the program of its moment. What
//! an update has changed meanwhile is looked up as it was before ([`Before`]). Not here: when
//! records are read ([`crate::observe`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use netpolc_flow::{Decider, Flow, Kind, Peer, Verdict};
use netpolc_policy::{AddressBook, Cluster, Direction, ObjectKey};
use netpolc_table::{
    Class, EndpointId, Entry, Key, Origin, Origins, PortClassId, Program, SetId, TableId,
    TierAction,
    delta::Changes,
    eval,
    schema::{
        Answer, Family, Leaf, PortKey, SetPortClass, Word, base_key, endpoint_key, remote_key,
        row_key, tried_key, verdict_key,
    },
};
use netpolc_target::{Hook, Judged, Noted, Record};

/// What an update has changed, as it was before.
#[derive(Debug, Default)]
pub(crate) struct Before(BTreeMap<(TableId, Key), Option<Entry>>);

impl Before {
    /// Takes what these changes have replaced.
    pub fn of(changes: &Changes) -> Self {
        let all = changes.entries.iter().map(|(at, (before, _))| (at.clone(), before.clone()));
        Self(all.collect())
    }
}

/// Everything that a record is seen by.
pub(crate) struct Sight<'a> {
    pub node: &'a Arc<str>,
    pub program: &'a Program,
    /// What the last update has replaced, for records that are older than its end.
    pub before: &'a Before,
    /// The number of updates that have ended.
    pub epoch: u32,
    pub cluster: &'a Cluster,
    pub book: &'a AddressBook,
    /// The Services by their addresses.
    pub services: &'a BTreeMap<IpAddr, ObjectKey>,
    pub nodes: &'a BTreeMap<IpAddr, Arc<str>>,
    /// The pods by their endpoints.
    pub pods: &'a BTreeMap<EndpointId, &'a ObjectKey>,
}

/// What a packet says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packet {
    ends: Option<(IpAddr, IpAddr)>,
    protocol: Option<u8>,
    ports: Option<(u16, u16)>,
    tcp_flags: Option<u8>,
    icmp: Option<[u8; 2]>,
}

impl Packet {
    /// Reads as much as there is.
    fn read(frame: &[u8]) -> Self {
        let mut packet = Packet::default();
        let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else { return packet };
        match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                packet.ends = Some((header.source_addr().into(), header.destination_addr().into()));
                packet.protocol = Some(ip.payload().ip_number.0);
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                packet.ends = Some((header.source_addr().into(), header.destination_addr().into()));
                packet.protocol = Some(ip.payload().ip_number.0);
            }
            _ => {}
        }
        match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                packet.ports = Some((tcp.source_port(), tcp.destination_port()));
                packet.tcp_flags = tcp.slice().get(13).copied();
            }
            Some(TransportSlice::Udp(udp)) => {
                packet.ports = Some((udp.source_port(), udp.destination_port()));
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                packet.icmp = Some([icmp.type_u8(), icmp.code_u8()]);
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                packet.icmp = Some([icmp.type_u8(), icmp.code_u8()]);
            }
            Some(TransportSlice::Igmp(_)) => {}
            None => packet.read_on(sliced.net.as_ref()),
        }
        packet
    }

    /// What the library does not read: SCTP, and headers that are cut off behind the ports.
    fn read_on(&mut self, net: Option<&LaxNetSlice<'_>>) {
        let payload = match net {
            Some(LaxNetSlice::Ipv4(ip)) if !ip.payload().fragmented => ip.payload().payload,
            Some(LaxNetSlice::Ipv6(ip)) if !ip.payload().fragmented => ip.payload().payload,
            _ => return,
        };
        if let (Some(6 | 17 | 132), Some(&[a, b, c, d])) = (self.protocol, payload.first_chunk()) {
            self.ports = Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
        }
    }

    /// What the table `port` is asked about it.
    fn asked(&self) -> Option<u16> {
        let icmp = || self.icmp.map(|[kind, code]| u16::from(kind) << 8 | u16::from(code));
        self.ports.map(|(_, port)| port).or_else(icmp)
    }
}

/// The direction in which a hook judges, seen from the pod.
pub(crate) fn direction(hook: Hook) -> Direction {
    match hook {
        Hook::ToPod => Direction::Ingress,
        Hook::FromPod | Hook::Translated => Direction::Egress,
    }
}

/// Turns a record into a flow.
pub(crate) fn flow(record: &Record, sight: &Sight<'_>) -> Flow {
    let packet = Packet::read(&record.frame);
    let direction = direction(record.hook);
    let verdict = match record.noted {
        Noted::Dropped(_) => Verdict::Denied,
        Noted::Opened => Verdict::Allowed,
        Noted::Differs => Verdict::Audit,
    };
    let reason = match record.noted {
        Noted::Dropped(reason) => Some(reason.name().into()),
        Noted::Opened | Noted::Differs => None,
    };
    let pod = sight.pods.get(&record.endpoint).copied();
    let (ports, ends) = (packet.ports, packet.ends);
    let end =
        |address: Option<IpAddr>, port, own: bool| sight.peer(address, port, pod.filter(|_| own));
    let sends = direction == Direction::Egress;
    let origins = record.judged.map(|judged| sight.origins(record, judged, &packet, direction));
    let origins = origins.unwrap_or_default();
    let by: BTreeSet<Decider> =
        origins.as_slice().iter().filter_map(|origin| decider(origin, direction)).collect();
    Flow {
        time: Flow::nanos(record.at),
        node: sight.node.clone(),
        verdict,
        reason,
        direction,
        source: end(ends.map(|e| e.0), ports.map(|p| p.0), sends),
        destination: end(ends.map(|e| e.1), ports.map(|p| p.1), !sends),
        pod: pod.map(|key| key.to_string().into()),
        protocol: protocol(packet.protocol).into(),
        tcp_flags: packet.tcp_flags.map(|flags| tcp_flags(flags).into()),
        icmp: packet.icmp,
        by: by.into_iter().collect(),
        bytes: record.length,
    }
}

/// By which program a record is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// The one before the last update.
    Before,
    /// The present one.
    Now,
}

/// What the tables were asked about one packet, by ids.
struct Question {
    noted: Noted,
    /// The set that judged it; None where the direction is not isolated.
    set: Option<SetId>,
    tried: SetId,
    class: Class,
    protocol: u8,
    /// What the table `port` is asked about.
    port: Option<u16>,
}

impl Sight<'_> {
    fn entry(&self, view: View, table: TableId, key: &Key) -> Option<&Entry> {
        let before = || self.before.0.get(&(table, key.clone()));
        match view {
            View::Before => match before() {
                Some(entry) => entry.as_ref(),
                None => self.program.get(table, key),
            },
            View::Now => self.program.get(table, key),
        }
    }

    /// The port class by this view. An update may cut intervals of ports anew.
    fn port_class(&self, view: View, protocol: u8, port: Option<u16>) -> PortClassId {
        let now = || eval::port_class(self.program, protocol, port);
        let (View::Before, Some(number)) = (view, port.map(u32::from)) else { return now() };
        let first = (TableId::Port, Key::new([]));
        let ports =
            self.before.0.range(first..).take_while(|((table, _), _)| *table == TableId::Port);
        let mut cut = ports.filter(|((_, key), _)| {
            let PortKey { protocol: of, port: range } = PortKey::of(key);
            of == protocol && (range.low..=range.high).contains(&number)
        });
        match cut.find_map(|(_, entry)| entry.as_ref()) {
            Some(entry) => SetPortClass::of(entry).port_class,
            None => now(),
        }
    }

    /// What decided, by the ids in the record.
    fn origins(
        &self,
        record: &Record,
        Judged { word, remote }: Judged,
        packet: &Packet,
        direction: Direction,
    ) -> Origins {
        let number = packet.protocol.unwrap_or_default();
        let judging = |word: Word| match direction {
            Direction::Ingress => (Word::INGRESS, word.ingress_set),
            Direction::Egress => (Word::EGRESS, word.egress_set),
        };
        if record.noted != Noted::Differs && word.flags & judging(word).0 == 0 {
            // Nothing isolated the pod then, whatever does now.
            return Origins::default();
        }
        let ask = |view, word: Word, class: Class| {
            let (flag, set) = judging(word);
            let port = eval::asked(class.family(), number, packet.asked());
            let question = Question {
                noted: record.noted,
                set: (word.flags & flag != 0).then_some(set),
                tried: set,
                class,
                protocol: number,
                port,
            };
            self.explained(&question, view)
        };
        let recorded = |view| ask(view, word, remote.class);
        if record.epoch == self.epoch {
            return recorded(View::Now).unwrap_or_default();
        }
        let far = packet.ends.map(|(from, to)| match direction {
            Direction::Ingress => from,
            Direction::Egress => to,
        });
        // A packet that came while an update was under way may have met some tables as they were
        // before and some as they are now, and has got the answer of either.
        let is_born = word.born_set != SetId::default() && word.ingress_set == word.born_set;
        let at = |view| {
            let mut now = self.word(view, record.endpoint);
            if is_born {
                now.ingress_set = now.born_set;
            }
            (now, far.map_or(remote.class, |address| self.class(view, address)))
        };
        let before = at(View::Before);
        let whole = (before == (word, remote.class)).then(|| recorded(View::Before)).flatten();
        let (now, class) = at(View::Now);
        whole
            .or_else(|| ask(View::Now, now, class))
            .or_else(|| ask(View::Before, before.0, before.1))
            .or_else(|| recorded(View::Before))
            .or_else(|| recorded(View::Now))
            .unwrap_or_default()
    }

    /// The endpoint's word by this view.
    fn word(&self, view: View, endpoint: EndpointId) -> Word {
        self.entry(view, TableId::Endpoint, &endpoint_key(endpoint))
            .map(Word::of)
            .unwrap_or_default()
    }

    /// The class of an address by this view. Of what an update changes, whole addresses are seen as
    /// they were before, and blocks as they are.
    fn class(&self, view: View, address: IpAddr) -> Class {
        let family = Family::of(address);
        let key = remote_key(address, family.bits());
        let known = self.entry(view, TableId::remote(family), &key);
        match known {
            Some(entry) => Leaf::of(family, entry).class,
            None => eval::remote(self.program, address).class,
        }
    }

    /// What decided by this view; None where it decides otherwise.
    fn explained(&self, question: &Question, view: View) -> Option<Origins> {
        let Question { noted, set, tried, class, protocol, port } = *question;
        let port_class = self.port_class(view, protocol, port);
        let base = |set| self.entry(view, TableId::Base, &base_key(set, class.family()));
        let found = |set| self.entry(view, TableId::Row, &row_key(set, class)).or(base(set));
        let of = |entry: Option<&Entry>, wanted: &dyn Fn(&Origin) -> bool| -> Vec<Origin> {
            let origins = entry.map(|entry| entry.origins.as_slice()).unwrap_or_default();
            origins.iter().filter(|origin| wanted(origin)).cloned().collect()
        };
        if noted == Noted::Differs {
            let row = Answer::of(found(tried)).row()?;
            let entry = self.entry(view, TableId::Tried, &tried_key(row, port_class))?;
            return Some(entry.origins.clone());
        }
        let set = set?;
        let found = found(set);
        let ports = match Answer::of(found) {
            Answer::Row(row) => {
                let key = verdict_key(row, port_class);
                Some(self.entry(view, TableId::Verdict, &key))
            }
            Answer::Permit | Answer::Deny => None,
        };
        let permits = match ports {
            Some(verdict) => verdict.is_some(),
            None => Answer::of(found) == Answer::Permit,
        };
        match (noted, permits) {
            (Noted::Opened, true) => Some(joined(found, ports.flatten())),
            (Noted::Dropped(_), false) => {
                // What isolates, and the rules of tiers that deny.
                let denies =
                    |o: &Origin| matches!(o, Origin::Tier { action: TierAction::Deny, .. });
                let all = of(base(set), &isolates).into_iter().chain(of(found, &denies));
                Some(all.collect())
            }
            _ => None,
        }
    }

    /// Who is at an address.
    fn peer(&self, address: Option<IpAddr>, port: Option<u16>, own: Option<&ObjectKey>) -> Peer {
        let mut peer = Peer { address, port, ..Peer::default() };
        let Some(address) = address else { return peer };
        // The endpoint is known by itself, whoever else claims its address.
        let holder = || self.book.holders(address).find(|key| self.is_active(key));
        if let Some(pod) = own.or_else(holder).and_then(|key| self.cluster.pods.get(key)) {
            peer.pod = Some(pod.key.to_string().into());
            peer.labels = pod.labels.clone();
            peer.node = pod.node.clone();
            if let Some(owner) = &pod.owner {
                peer.owned_by(owner);
            }
        } else if let Some(service) = self.services.get(&address) {
            peer.service = Some(service.to_string().into());
        } else {
            peer.node = self.nodes.get(&address).cloned();
        }
        peer
    }

    fn is_active(&self, key: &ObjectKey) -> bool {
        self.cluster.pods.get(key).is_some_and(|pod| pod.is_policed())
    }
}

/// The rules that permit: an entry of a class names their peers, and that of a port class their
/// ports. None of them is about ports where the whole row permits.
fn joined(peers: Option<&Entry>, ports: Option<&Entry>) -> Origins {
    let of = |entry: Option<&'_ Entry>| -> Vec<Origin> {
        let origins = entry.map(|entry| entry.origins.as_slice()).unwrap_or_default();
        origins.iter().filter(|origin| !isolates(origin)).cloned().collect()
    };
    let peers = of(peers);
    let Some(ports) = ports.map(|ports| of(Some(ports))) else {
        return peers.into_iter().collect();
    };
    let each = ports.into_iter().flat_map(|port| {
        let same = peers.iter().filter(|peer| rule(peer).is_some() && rule(peer) == rule(&port));
        let both: Vec<Origin> = same.map(|peer| with_port(peer, &port)).collect();
        if both.is_empty() { vec![port] } else { both }
    });
    each.collect()
}

/// The peer of a rule with the port of the same one.
fn with_port(peer: &Origin, port: &Origin) -> Origin {
    match (peer, port) {
        (Origin::Rule { policy, rule, peer, .. }, Origin::Rule { port, .. }) => {
            Origin::Rule { policy: policy.clone(), rule: *rule, peer: *peer, port: *port }
        }
        _ => peer.clone(),
    }
}

/// Does it name what isolates, and no rule?
fn isolates(origin: &Origin) -> bool {
    matches!(origin, Origin::Isolates { .. } | Origin::ByDefault | Origin::Group { rule: None, .. })
}

/// The policy and the number of a rule; None for what is no rule of a policy.
fn rule(origin: &Origin) -> Option<(&str, String)> {
    match origin {
        Origin::Rule { policy, rule, .. } => Some((policy, rule.to_string())),
        Origin::Tier { policy, rule, .. } => Some((policy, rule.to_string())),
        Origin::Group { group, rule } => {
            Some((group, rule.as_ref().map(|rule| rule.to_string()).unwrap_or_default()))
        }
        _ => None,
    }
}

/// What an origin says of who decided; None for what decides nothing.
fn decider(origin: &Origin, direction: Direction) -> Option<Decider> {
    let numbered = |rule: u32| Some(format!("{direction}[{rule}]").into());
    Some(match origin {
        Origin::Rule { policy, rule, peer, port } => Decider {
            rule: numbered(*rule),
            peer: *peer,
            port: *port,
            ..Decider::whole(Kind::NetworkPolicy, policy)
        },
        Origin::Isolates { policy } => Decider::whole(Kind::NetworkPolicy, policy),
        Origin::Tier { tier, policy, rule, action } => Decider {
            rule: numbered(*rule),
            tier: Some(tier.to_string().into()),
            action: Some(action.to_string().into()),
            ..Decider::whole(Kind::ClusterNetworkPolicy, policy)
        },
        Origin::Group { group, rule } => {
            Decider { rule: rule.clone(), ..Decider::whole(Kind::SecurityGroup, group) }
        }
        Origin::Tried { policy } => tried(policy),
        Origin::ByDefault => Decider::whole(Kind::IsolatedByDefault, ""),
        Origin::Implied { reason } => Decider::whole(Kind::Implied, reason),
        Origin::Pod { .. } | Origin::Node { .. } => return None,
    })
}

/// A policy that is only tried has its kind in front of its name, unless it is a NetworkPolicy.
fn tried(policy: &str) -> Decider {
    let kinds = [Kind::StagedKubernetesNetworkPolicy, Kind::ClusterNetworkPolicy];
    let of_kind = |kind: Kind| {
        let name = policy.strip_prefix(kind.name())?.strip_prefix(' ')?;
        Some(Decider::whole(kind, name))
    };
    let found = kinds.into_iter().find_map(of_kind);
    found.unwrap_or_else(|| Decider::whole(Kind::NetworkPolicy, policy))
}

fn protocol(number: Option<u8>) -> String {
    match number {
        Some(1) => "ICMP".into(),
        Some(6) => "TCP".into(),
        Some(17) => "UDP".into(),
        Some(58) => "ICMPv6".into(),
        Some(132) => "SCTP".into(),
        Some(number) => format!("protocol-{number}"),
        None => "unknown".into(),
    }
}

fn tcp_flags(flags: u8) -> String {
    const NAMES: [(u8, &str); 6] =
        [(2, "SYN"), (16, "ACK"), (1, "FIN"), (4, "RST"), (8, "PSH"), (32, "URG")];
    let set = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
    set.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use netpolc_target::frame;

    use super::*;

    fn read(packet: frame::Packet) -> Packet {
        Packet::read(&packet.build())
    }

    #[test]
    fn packets_are_read_as_far_as_they_go() {
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse::<IpAddr>().unwrap());
        let [c, d] = ["fd00::1", "fd00::2"].map(|a| a.parse::<IpAddr>().unwrap());
        let tcp = read(frame::Packet::new(a, b).tcp(4000, 80, 2));
        assert_eq!((tcp.ends, tcp.protocol), (Some((a, b)), Some(6)));
        assert_eq!((tcp.ports, tcp.tcp_flags), (Some((4000, 80)), Some(2)));
        let sctp = read(frame::Packet::new(c, d).sctp(4000, 3868, 1).payload(&[0; 16]));
        assert_eq!((sctp.ports, sctp.protocol), (Some((4000, 3868)), Some(132)));
        let ping = read(frame::Packet::new(c, d).icmp(128, 7).payload(b"ping"));
        assert_eq!(ping.asked(), Some(128 << 8));
        // Cut off behind the ports.
        let whole = frame::Packet::new(a, b).udp(4000, 53).payload(b"question").build();
        assert_eq!(Packet::read(&whole[..38]).ports, Some((4000, 53)));
        assert_eq!(Packet::read(&whole[..10]), Packet::default());
    }
}
