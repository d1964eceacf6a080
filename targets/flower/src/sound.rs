//! The proof that hardware copies are sound: they drop only openings that the tables deny, and forward only what the
//! tables permit, to where it belongs; and no packet misses in a chain that another filter led it to.
//!
//! It runs every hardware filter of every port over packets at all boundaries that tables and filters have (first and
//! last address of each prefix and their neighbours, ends of port intervals, each kind of packet), as the NIC would
//! read them ([`crate::eval`]), and asks `netpolc_table::eval` about each. It shares no code with the lowering.
//! Not here: whether filters do enough (the lab).

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
    /// Where it comes in.
    pub port: Port,
    /// The packet.
    pub packet: Packet,
    /// What the NIC may do with it.
    pub outcome: Outcome,
    /// Why it must not.
    pub why: &'static str,
    /// The filter that does it; its cookie names the entry. For a miss in a chain, the place of the one that is missing.
    pub filter: Filter,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counterexample { port, packet: p, outcome, why, filter } = self;
        let port_of = |p: Option<u16>| p.map_or_else(|| "-".into(), |p| p.to_string());
        write!(
            f,
            "port {}: {outcome:?} of {} {} -> {} {} protocol {} flags {:#x} ct {:#x} {:?}: {why}; {filter:?}",
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

/// Up to `limit` packets that hardware would treat wrongly; none: it is sound.
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
        // Packets of the same two ends come together; filters for others cannot match.
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
                    found.push(Counterexample { port: port.clone(), packet: packet.clone(), outcome, why, filter });
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

/// A last filter for every chain above 0: what it gets has missed, and a packet that left hardware there goes on in
/// software in the middle of that chain. A NIC that ignores priority would ask it first, so it has none.
fn misses(filters: &[Filter], can: &Capabilities) -> Vec<Filter> {
    if !can.priority {
        return vec![];
    }
    let led_to = filters.iter().filter_map(|f| match f.action {
        Action::Goto(chain) | Action::Track(chain) => Some(chain),
        _ => None,
    });
    let chains: BTreeSet<u32> = led_to.chain(filters.iter().map(|f| f.chain)).filter(|c| *c > 0).collect();
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
        let missing = !run(&fewer, Side::Ingress, packet, Semantics::hardware(can)).contains(&outcome);
        fewer.insert(*at, one);
        missing
    });
    let any = filters.iter().position(does).unwrap_or_default();
    filters[needed.unwrap_or(any)].clone()
}

/// Whose packets come in by a port.
enum Place {
    /// One pod's.
    Pod(EndpointId),
    /// Anybody's.
    Outside,
}

/// What the tables and the node say.
struct Tables<'a> {
    program: &'a Program,
    topology: &'a Topology,
    /// Who has an address.
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
            let near = owners.keys().chain(&topology.node_addresses).filter(|a| Family::of(**a) == family);
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
        self.program.get(table, &own_key(endpoint, address)).is_some_and(|e| e.action == ActionId::Own)
    }

    /// What is wrong with this outcome?
    fn wrong(&self, place: &Place, packet: &Packet, outcome: Outcome) -> Option<&'static str> {
        match outcome {
            Outcome::Next | Outcome::Pass => None,
            Outcome::Drop => self.wrongly_dropped(place, packet),
            Outcome::Redirect(port) => self.wrongly_forwarded(place, packet, port),
        }
    }

    fn wrongly_dropped(&self, place: &Place, p: &Packet) -> Option<&'static str> {
        if !matches!(p.ethertype, 0x0800 | 0x86dd) || p.protocol != 6 || p.fragment == Fragment::Later {
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
            let guarded = eval::word(self.program, endpoint).flags & (Word::GUARD | Word::EGRESS) != 0;
            let spoofed = guarded && !self.is_own(endpoint, p.source);
            if spoofed || !self.permits(Pipeline::FromPod, endpoint, p.destination, 6, p.destination_port) {
                return None;
            }
        }
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

    fn wrongly_forwarded(&self, place: &Place, p: &Packet, to: IfIndex) -> Option<&'static str> {
        if to == MISSED {
            return Some("it misses in a chain above 0; the filter is the one that is not there");
        }
        match self.topology.forwarding {
            Forwarding::Routed => return Some("the host routes"),
            Forwarding::Translating if p.ct & ct::REPLY != 0 => return Some("the host may have to translate it back"),
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
