//! The proof that hardware copies are sound: they drop only openings that the tables deny, and
//! forward only what the tables permit, to where it belongs; and no packet misses in a chain that
//! another filter led it to.
//!
//! What is checked is an implication, for every packet and every outcome that the NIC may choose:
//!
//! - If it is dropped, the packet is a TCP opening whose real destination is known, and the
//!   sender's or the receiver's tables deny it.
//! - If it is redirected, the packet belongs to an established connection that its opener's tables
//!   and the other side's permit now, and leaves by the port of the pod that it is for.
//! - If it is passed or missed, nothing follows: the packet is the host's. But a miss must not
//!   happen in a chain above 0, because software goes on in the middle of that chain then.
//!
//! There are too many packets to try them all, and no need to. Tables and filters tell packets
//! apart by the boundaries of their keys only, so packets that lie between the same boundaries have
//! the same outcome and the same verdict. It is enough to try one of each kind: the first and the
//! last address of each prefix and their neighbours, the ends of each port interval, and each shape
//! of packet (`packets`). Filters are read as the NIC would read them ([`crate::eval`]), and the
//! verdict comes from `netpolc_table::eval`. No code is shared with the lowering. Not here: whether
//! filters do enough (the lab).

mod packets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netpolc_table::{
    ActionId, EndpointId, IfIndex, Program, TableId,
    eval::{self, Pipeline, Verdict},
    schema::{Family, OwnKey, PortKey, Word, own_key},
};

use crate::{
    capability::Capabilities,
    eval::{Fragment, Outcome, Packet, Semantics, run},
    filter::{Action, Cookie, Copies, Filter, Match, Pattern, Side, ct},
    lowered::Lowered,
    topology::{Forwarding, PodPort, Port, Topology},
};
use packets::{Judged, around, edges};

/// A packet that a NIC would treat wrongly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The port that the packet comes in by.
    pub port: Port,
    /// What filters can see of the packet.
    pub packet: Packet,
    /// What the NIC may do with it.
    pub outcome: Outcome,
    /// Why this is wrong, in words for people.
    pub why: &'static str,
    /// The filter that does it; its cookie names the entry. For a miss in a chain, the place of the
    /// one that is missing.
    pub filter: Filter,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counterexample { port, packet: p, outcome, why, filter } = self;
        let port_of = |p: Option<u16>| p.map_or_else(|| "-".into(), |p| p.to_string());
        write!(
            f,
            "port {}: {outcome:?} of {} {} -> {} {} protocol {} flags {:#x} ct {:#x} {:?}: {why}; \
             {filter:?}",
            port.name,
            p.source,
            port_of(p.source_port),
            p.destination,
            port_of(p.destination_port),
            p.protocol,
            p.tcp_flags,
            p.ct,
            p.fragment,
        )
    }
}

/// Looks for packets that hardware would treat wrongly, and gives up to about `limit` of them. An
/// empty list is the proof that the filters are sound.
pub fn check(
    program: &Program,
    topology: &Topology,
    lowered: &Lowered,
    can: &Capabilities,
    limit: usize,
) -> Vec<Counterexample> {
    let tables = Tables::new(program, topology);
    let mut found = Vec::new();
    for (port, placed) in &lowered.ports {
        let mut filters: Vec<Filter> = placed.iter().map(|p| p.filter.clone()).collect();
        filters.retain(|f| f.copies != Copies::Software);
        filters.extend(misses(&filters, can));
        filters.sort();
        let place = tables.place(port);
        // Packets of the same two ends come one after the other, and most filters are about other
        // ends: these are left out once for all packets of a pair.
        let mut near: (Option<(IpAddr, IpAddr)>, Vec<Filter>) = (None, vec![]);
        let mut judge = |packet: Packet| {
            let ends = Some((packet.source, packet.destination));
            if near.0 != ends {
                near = (ends, filters.iter().filter(|f| may_match(f, &packet)).cloned().collect());
            }
            let filters = &near.1;
            let outcomes = run(filters, Side::Ingress, &packet, Semantics::hardware(can));
            let dropped = outcomes.contains(&Outcome::Drop);
            for outcome in outcomes {
                if let Some(why) = tables.wrong(&place, &packet, outcome) {
                    let filter = guilty(filters, &packet, outcome, can);
                    found.push(Counterexample {
                        port: port.clone(),
                        packet: packet.clone(),
                        outcome,
                        why,
                        filter,
                    });
                }
            }
            match (found.len() < limit, dropped) {
                (false, _) => Judged::Enough,
                (true, true) => Judged::Dropped,
                (true, false) => Judged::Other,
            }
        };
        if !tables.packets(&place, &filters, &mut judge) {
            break;
        }
    }
    found
}

/// Where a packet that misses in a chain above 0 is led to, to see that it does.
const MISSED: IfIndex = IfIndex::new(u32::MAX);

/// A last filter for every chain above 0, which catches what has missed there: a packet that left
/// hardware in such a chain would go on in software in the middle of it. There are none for a NIC
/// that ignores priority, which might ask them first.
fn misses(filters: &[Filter], can: &Capabilities) -> Vec<Filter> {
    if !can.priority {
        return vec![];
    }
    let led_to = filters.iter().filter_map(|f| match f.action {
        Action::Goto(chain) | Action::Track(chain) => Some(chain),
        _ => None,
    });
    let chains: BTreeSet<u32> =
        led_to.chain(filters.iter().map(|f| f.chain)).filter(|c| *c > 0).collect();
    let last = |chain| Filter {
        side: Side::Ingress,
        chain,
        prio: u16::MAX,
        matches: Match::Flower(Pattern::default()),
        action: Action::Redirect(MISSED),
        copies: Copies::Hardware,
        cookie: Cookie([0; 16]),
    };
    chains.into_iter().map(last).collect()
}

/// May its address keys match, also where keys of value 0 are read as none?
fn may_match(filter: &Filter, packet: &Packet) -> bool {
    let Match::Flower(pattern) = &filter.matches else { return true };
    let within = |key: Option<IpNetwork>, address: IpAddr| {
        key.is_none_or(|k| k.network().is_unspecified() || k.contains(address))
    };
    within(pattern.source, packet.source) && within(pattern.destination, packet.destination)
}

/// The filter without which this would not happen, else one that does it.
fn guilty(filters: &[Filter], packet: &Packet, outcome: Outcome, can: &Capabilities) -> Filter {
    let does = |f: &Filter| match (outcome, &f.action) {
        (Outcome::Drop, Action::Drop) => true,
        (Outcome::Redirect(port), Action::Redirect(to)) => *to == port,
        _ => false,
    };
    let mut fewer = filters.to_vec();
    let needed = (0..filters.len()).filter(|at| does(&filters[*at])).find(|at| {
        let one = fewer.remove(*at);
        let missing =
            !run(&fewer, Side::Ingress, packet, Semantics::hardware(can)).contains(&outcome);
        fewer.insert(*at, one);
        missing
    });
    let any = filters.iter().position(does).unwrap_or_default();
    filters[needed.unwrap_or(any)].clone()
}

/// Whose packets come in by a port.
enum Place {
    /// A pod's port: what this endpoint sends comes in there.
    Pod(EndpointId),
    /// An uplink: what anybody outside sends comes in there.
    Outside,
}

/// The tables and the node, with the boundaries that they have.
struct Tables<'a> {
    program: &'a Program,
    topology: &'a Topology,
    /// For each address the endpoints that own it.
    owners: BTreeMap<IpAddr, BTreeSet<EndpointId>>,
    addresses: BTreeMap<Family, BTreeSet<IpAddr>>,
    ports: BTreeSet<u16>,
}

impl<'a> Tables<'a> {
    fn new(program: &'a Program, topology: &'a Topology) -> Self {
        let mut owners = BTreeMap::<IpAddr, BTreeSet<EndpointId>>::new();
        let mut addresses = BTreeMap::<Family, BTreeSet<IpAddr>>::new();
        for family in Family::BOTH {
            let all = addresses.entry(family).or_default();
            for (key, entry) in &program.table(TableId::own(family)).entries {
                if entry.action == ActionId::Own {
                    let OwnKey { endpoint, address } = OwnKey::of(family, key);
                    owners.entry(address).or_default().insert(endpoint);
                }
            }
            for key in program.table(TableId::remote(family)).entries.keys() {
                let (value, length) = key.prefix();
                edges(value.get(), length, family, all);
            }
            let near =
                owners.keys().chain(&topology.node_addresses).filter(|a| Family::of(**a) == family);
            for a in near {
                edges(bits(*a), family.bits(), family, all);
            }
            for prefix in topology.translated.iter().filter(|p| Family::of(p.network()) == family) {
                edges(bits(prefix.network()), prefix.prefix(), family, all);
            }
            edges(0, 0, family, all);
        }
        let mut ports = BTreeSet::from([0, 1, 65535]);
        for key in program.table(TableId::Port).entries.keys() {
            let range = PortKey::of(key).port;
            around(range.low as u16, range.high as u16, &mut ports);
        }
        Self { program, topology, owners, addresses, ports }
    }

    fn place(&self, port: &Port) -> Place {
        let pod = self.topology.pods.iter().find(|(_, p)| p.port == *port);
        pod.map_or(Place::Outside, |(endpoint, _)| Place::Pod(*endpoint))
    }

    /// Does the direction's set permit it? What is judged later, after translation, is not denied.
    fn permits(
        &self,
        pipeline: Pipeline,
        endpoint: EndpointId,
        remote: IpAddr,
        protocol: u8,
        port: Option<u16>,
    ) -> bool {
        eval::verdict(self.program, pipeline, endpoint, remote, protocol, port) != Verdict::Deny
    }

    fn is_own(&self, endpoint: EndpointId, address: IpAddr) -> bool {
        let table = TableId::own(Family::of(address));
        self.program
            .get(table, &own_key(endpoint, address))
            .is_some_and(|e| e.action == ActionId::Own)
    }

    /// What is wrong with this outcome; None where it is sound.
    fn wrong(&self, place: &Place, packet: &Packet, outcome: Outcome) -> Option<&'static str> {
        match outcome {
            Outcome::Next | Outcome::Pass => None,
            Outcome::Drop => self.wrongly_dropped(place, packet),
            Outcome::Redirect(port) => self.wrongly_forwarded(place, packet, port),
        }
    }

    /// Why hardware must not drop this packet. In order: what must never be dropped by its shape,
    /// what is not judged here by its destination, and what the tables permit.
    fn wrongly_dropped(&self, place: &Place, p: &Packet) -> Option<&'static str> {
        if !matches!(p.ethertype, 0x0800 | 0x86dd)
            || p.protocol != 6
            || p.fragment == Fragment::Later
        {
            return Some("only TCP openings may be dropped");
        }
        if p.tcp_flags & 0x12 != 0x02 {
            return Some("a TCP packet that opens nothing may be a reply");
        }
        if self.topology.translated.iter().any(|t| t.contains(p.destination)) {
            return Some("its destination is translated first");
        }
        if self.topology.node_addresses.contains(&p.destination) {
            return Some("its destination is the node");
        }
        if let Place::Pod(endpoint) = *place {
            if self.is_own(endpoint, p.destination) {
                return Some("its destination is the pod itself");
            }
            let guarded =
                eval::word(self.program, endpoint).flags & (Word::GUARD | Word::EGRESS) != 0;
            // Either is reason enough to drop: a source that the guard denies, or the egress set.
            let spoofed = guarded && !self.is_own(endpoint, p.source);
            if spoofed
                || !self.permits(Pipeline::FromPod, endpoint, p.destination, 6, p.destination_port)
            {
                return None;
            }
        }
        // The sender may send it, so it must be the receiver who denies it. Where several pods
        // claim the address, all of them have to, since it is not known who gets the packet.
        let owners = self.owners.get(&p.destination);
        let denied = |owner: &EndpointId| {
            self.topology.pods.contains_key(owner)
                && !self.permits(Pipeline::ToPod, *owner, p.source, 6, p.destination_port)
        };
        match owners {
            Some(owners) if owners.iter().all(denied) => None,
            _ => Some("the tables permit it"),
        }
    }

    /// Why hardware must not redirect this packet to that port.
    fn wrongly_forwarded(&self, place: &Place, p: &Packet, to: IfIndex) -> Option<&'static str> {
        if to == MISSED {
            return Some("it misses in a chain above 0; the filter is the one that is not there");
        }
        match self.topology.forwarding {
            Forwarding::Routed => return Some("the host routes"),
            Forwarding::Translating if p.ct & ct::REPLY != 0 => {
                return Some("the host may have to translate it back");
            }
            Forwarding::Translating | Forwarding::Switched => {}
        }
        if p.ct & ct::ESTABLISHED == 0 {
            return Some("it belongs to no established connection");
        }
        let Place::Pod(from) = *place else { return Some("only what pods send is forwarded") };
        if !self.is_own(from, p.source) {
            return Some("its source is not the pod's own");
        }
        let there = |pod: &PodPort| pod.port.ifindex == to && pod.mac == Some(p.mac);
        let Some((other, _)) = self.topology.pods.iter().find(|(_, pod)| there(pod)) else {
            return Some("its hardware address is not that of the pod there");
        };
        if !self.is_own(*other, p.destination) {
            return Some("its destination is not the pod there");
        }
        // A later fragment has no ports, so it may pass only if every port may.
        let whole = p.fragment != Fragment::Later;
        let permitted = if p.ct & ct::REPLY == 0 {
            let port = p.destination_port.filter(|_| whole);
            self.opened(from, p.source, *other, p.destination, p.protocol, port)
        } else {
            let port = p.source_port.filter(|_| whole);
            self.opened(*other, p.destination, from, p.source, p.protocol, port)
        };
        (!permitted).then_some("the opener's policy denies the connection")
    }

    /// May one pod open this to another? Without a port: whatever the port.
    fn opened(
        &self,
        from: EndpointId,
        source: IpAddr,
        to: EndpointId,
        destination: IpAddr,
        protocol: u8,
        port: Option<u16>,
    ) -> bool {
        let both = |port: Option<u16>| {
            self.permits(Pipeline::FromPod, from, destination, protocol, port)
                && self.permits(Pipeline::ToPod, to, source, protocol, port)
        };
        match port {
            None if matches!(protocol, 6 | 17 | 132) => self.ports.iter().all(|p| both(Some(*p))),
            port => both(port),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn address(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}
