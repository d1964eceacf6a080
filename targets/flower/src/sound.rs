//! The proof that hardware copies are sound: they drop only openings that the tables deny, and forward only what the
//! tables permit, to where it belongs.
//!
//! It runs every hardware filter of every port over packets at all boundaries that tables and filters have (first and
//! last address of each prefix and their neighbours, ends of port intervals, each kind of packet), as the NIC would
//! read them ([`crate::eval`]), and asks `netpolc_table::eval` about each. It shares no code with the lowering.
//! Not here: whether filters do enough (the lab).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netpolc_table::{
    ActionId, Match as Key, Program, TableId,
    eval::{self, Pipeline, Verdict},
    schema::{Family, Word, own_key},
};

use crate::{
    capability::Capabilities,
    eval::{Born, Fragment, Outcome, Packet, Semantics, run},
    filter::{Action, Copies, Filter, Match, Ports, Side, ct},
    lowered::Lowered,
    topology::{Forwarding, PodPort, Port, Topology},
};

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
    /// The filter that does it; its cookie names the entry.
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
        filters.sort();
        let place = tables.place(port);
        let mut judge = |packet: Packet| {
            let outcomes = run(&filters, Side::Ingress, &packet, Semantics::hardware(can));
            let dropped = outcomes.contains(&Outcome::Drop);
            for outcome in outcomes {
                if let Some(why) = tables.wrong(&place, &packet, outcome) {
                    let filter = guilty(&filters, &packet, outcome, can);
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

/// The filter without which this would not happen, else one that does it.
fn guilty(filters: &[Filter], packet: &Packet, outcome: Outcome, can: &Capabilities) -> Filter {
    let does = |f: &Filter| match (outcome, &f.action) {
        (Outcome::Drop, Action::Drop) => true,
        (Outcome::Redirect(port), Action::Redirect(to)) => *to == port,
        _ => false,
    };
    let needed = (0..filters.len()).filter(|at| does(&filters[*at])).find(|at| {
        let mut fewer = filters.to_vec();
        fewer.remove(*at);
        !run(&fewer, Side::Ingress, packet, Semantics::hardware(can)).contains(&outcome)
    });
    let any = filters.iter().position(does).unwrap_or_default();
    filters[needed.unwrap_or(any)].clone()
}

/// What came of judging a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// There are enough counterexamples.
    Enough,
    /// It may be dropped.
    Dropped,
    /// It is not.
    Other,
}

/// Whose packets come in by a port.
enum Place {
    /// One pod's.
    Pod(u16),
    /// Anybody's.
    Outside,
}

/// What the tables and the node say.
struct Tables<'a> {
    program: &'a Program,
    topology: &'a Topology,
    /// Who has an address.
    owners: BTreeMap<IpAddr, BTreeSet<u16>>,
    addresses: BTreeMap<Family, BTreeSet<IpAddr>>,
    ports: BTreeSet<u16>,
}

impl<'a> Tables<'a> {
    fn new(program: &'a Program, topology: &'a Topology) -> Self {
        let mut owners = BTreeMap::<IpAddr, BTreeSet<u16>>::new();
        let mut addresses = BTreeMap::<Family, BTreeSet<IpAddr>>::new();
        for family in Family::BOTH {
            let all = addresses.entry(family).or_default();
            for (key, entry) in &program.table(TableId::own(family)).entries {
                if entry.action == ActionId::Own {
                    let endpoint = key.value(0).low() as u16;
                    owners.entry(address(key.value(1).get(), family)).or_default().insert(endpoint);
                }
            }
            for (key, _) in &program.table(TableId::remote(family)).entries {
                if let &Key::Lpm { value, length } = &key.fields()[0] {
                    edges(value.get(), length, family, all);
                }
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
        for (key, _) in &program.table(TableId::Port).entries {
            if let Key::Range { low, high } = key.fields()[1] {
                around(low as u16, high as u16, &mut ports);
            }
        }
        Self { program, topology, owners, addresses, ports }
    }

    fn place(&self, port: &Port) -> Place {
        let pod = self.topology.pods.iter().find(|(_, p)| p.port == *port);
        pod.map_or(Place::Outside, |(endpoint, _)| Place::Pod(*endpoint))
    }

    /// Does the direction's set permit it? What is judged later, after translation, is not denied.
    fn permits(&self, pipeline: Pipeline, endpoint: u16, remote: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        eval::verdict(self.program, pipeline, endpoint, remote, protocol, port) != Verdict::Deny
    }

    fn is_own(&self, endpoint: u16, address: IpAddr) -> bool {
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
        let denied = |owner: &u16| {
            self.topology.pods.contains_key(owner)
                && !self.permits(Pipeline::ToPod, *owner, p.source, 6, p.destination_port)
        };
        match owners {
            Some(owners) if owners.iter().all(denied) => None,
            _ => Some("the tables permit it"),
        }
    }

    fn wrongly_forwarded(&self, place: &Place, p: &Packet, to: u32) -> Option<&'static str> {
        if self.topology.forwarding != Forwarding::Switched {
            return Some("the host routes");
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
    fn opened(&self, from: u16, source: IpAddr, to: u16, destination: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        let both = |port: Option<u16>| {
            self.permits(Pipeline::FromPod, from, destination, protocol, port)
                && self.permits(Pipeline::ToPod, to, source, protocol, port)
        };
        match port {
            None if matches!(protocol, 6 | 17 | 132) => self.ports.iter().all(|p| both(Some(*p))),
            port => both(port),
        }
    }

    /// Packets that may make a difference; false when `judge` has seen enough.
    fn packets(&self, place: &Place, filters: &[Filter], judge: &mut impl FnMut(Packet) -> Judged) -> bool {
        let mut ports = self.ports.clone();
        let mut hooked: BTreeMap<Family, [BTreeSet<IpAddr>; 2]> = BTreeMap::new();
        for filter in filters {
            let Match::Flower(p) = &filter.matches else { continue };
            for key in [p.source_port, p.destination_port].into_iter().flatten() {
                let (low, high) = match key {
                    Ports::Masked(m) => (m.value, m.value | !m.mask),
                    Ports::Range { low, high } => (low, high),
                };
                around(low, high, &mut ports);
            }
            for (at, key) in [p.source, p.destination].into_iter().enumerate() {
                if let Some(key) = key {
                    let family = Family::of(key.network());
                    edges(bits(key.network()), key.prefix(), family, &mut hooked.entry(family).or_default()[at]);
                }
            }
        }
        let macs: BTreeSet<[u8; 6]> = self.topology.pods.values().filter_map(|p| p.mac).collect();
        let other = [2, 0xff, 0xff, 0xff, 0xff, 0xff];
        for family in Family::BOTH {
            let [from, to] = hooked.remove(&family).unwrap_or_default();
            let all = &self.addresses[&family];
            let local = |a: &&IpAddr| self.owners.contains_key(*a);
            let (sources, destinations): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = match place {
                Place::Pod(endpoint) => {
                    let own = all.iter().filter(|a| self.is_own(*endpoint, **a));
                    let others = all.iter().filter(|a| !self.is_own(*endpoint, **a)).take(3);
                    (own.chain(others).chain(&from).copied().collect(), all.iter().chain(&to).copied().collect())
                }
                Place::Outside => {
                    let near = all.iter().filter(local).chain(all.iter().take(2));
                    (all.iter().chain(&from).copied().collect(), near.chain(&to).copied().collect())
                }
            };
            let forwards = filters.iter().any(|f| matches!(f.action, Action::Redirect(_)));
            for (at, (source, destination)) in
                sources.iter().flat_map(|s| destinations.iter().map(move |d| (s, d))).enumerate()
            {
                let mac = |e: &u16| self.topology.pods.get(e).and_then(|p| p.mac);
                let theirs = self.owners.get(destination).and_then(|o| o.iter().find_map(mac));
                let shape = Shape { source: *source, destination: *destination, mac: theirs.unwrap_or(other) };
                // Now and then everything, also where no opening is dropped.
                let every = if at % 16 == 0 { Extent::All } else { Extent::WhereDropped };
                if !shape.stateless(&ports, every, judge) {
                    return false;
                }
                let wrong = macs.iter().copied().find(|m| Some(*m) != theirs).unwrap_or(other);
                for mac in [shape.mac, wrong] {
                    if forwards && !(Shape { mac, ..shape }).established(&ports, judge) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// The ends of a packet.
#[derive(Clone, Copy)]
struct Shape {
    source: IpAddr,
    destination: IpAddr,
    mac: [u8; 6],
}

/// Which packets other than openings to try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Those with ports whose openings are dropped.
    WhereDropped,
    /// Some others too.
    All,
}

impl Shape {
    /// Openings, and what must never be dropped.
    fn stateless(&self, ports: &BTreeSet<u16>, extent: Extent, judge: &mut impl FnMut(Packet) -> Judged) -> bool {
        let mut some: Vec<u16> = Vec::new();
        for (at, &port) in ports.iter().enumerate() {
            let opening = self.packet(6, Some(40000), Some(port), 0x02, ct::NEW);
            let first = Packet { fragment: Fragment::First, ..opening.clone() };
            match (judge(opening), judge(first)) {
                (Judged::Enough, _) | (_, Judged::Enough) => return false,
                (Judged::Dropped, _) if some.len() < 2 => some.push(port),
                _ if extent == Extent::All && at % 5 == 0 => some.push(port),
                _ => {}
            }
        }
        for port in some {
            let icmp = if self.source.is_ipv4() { 1 } else { 58 };
            let tcp = |flags: u16, state: u16| self.packet(6, Some(40000), Some(port), flags, state);
            let opening = tcp(0x02, ct::NEW);
            let kinds = [
                tcp(0x12, 0),
                tcp(0x10, 0),
                tcp(0x11, 0),
                tcp(0x04, 0),
                tcp(0x00, 0),
                tcp(0x10, ct::INVALID),
                self.packet(17, Some(port), Some(port), 0, ct::NEW),
                self.packet(132, Some(port), Some(port), 0, ct::NEW),
                self.packet(icmp, None, None, 0, ct::NEW),
                self.packet(icmp, None, None, 0, ct::RELATED),
                Packet { fragment: Fragment::Later, ..opening.clone() },
                Packet { ethertype: 0x8100, ..opening.clone() },
                Packet { ethertype: 0x0806, ..opening },
            ];
            if !kinds.into_iter().all(|packet| judge(packet) != Judged::Enough) {
                return false;
            }
        }
        true
    }

    /// Packets of connections that the tracker knows.
    fn established(&self, ports: &BTreeSet<u16>, judge: &mut impl FnMut(Packet) -> Judged) -> bool {
        let (opener, reply) = (ct::ESTABLISHED, ct::ESTABLISHED | ct::REPLY);
        let some = |port: u16| {
            let opened = self.packet(6, Some(40000), Some(port), 0x10, opener);
            [
                Packet { fragment: Fragment::Later, ..opened.clone() },
                opened,
                self.packet(17, Some(40000), Some(port), 0, opener),
                self.packet(132, Some(40000), Some(port), 0, opener),
                self.packet(6, Some(port), Some(40000), 0x10, reply),
                self.packet(17, Some(port), Some(40000), 0, reply),
                self.packet(6, Some(40000), Some(port), 0x10, reply),
            ]
        };
        let icmp = if self.source.is_ipv4() { 1 } else { 58 };
        let without = [self.packet(icmp, None, None, 0, opener), self.packet(icmp, None, None, 0, reply)];
        ports.iter().flat_map(|p| some(*p)).chain(without).all(|packet| judge(packet) != Judged::Enough)
    }

    fn packet(&self, protocol: u8, from: Option<u16>, to: Option<u16>, tcp_flags: u16, state: u16) -> Packet {
        Packet {
            ethertype: if self.source.is_ipv4() { 0x0800 } else { 0x86dd },
            source: self.source,
            destination: self.destination,
            protocol,
            source_port: from,
            destination_port: to,
            tcp_flags,
            icmp_type: matches!(protocol, 1 | 58).then_some(8),
            hop_limit: 64,
            mac: self.mac,
            fragment: Fragment::No,
            ct: state,
            born: Born::Elsewhere,
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

/// First and last address of a prefix, and the ones before and after it.
fn edges(first: u128, length: u8, family: Family, into: &mut BTreeSet<IpAddr>) {
    let most = if family == Family::V4 { u32::MAX.into() } else { u128::MAX };
    let rest = most.checked_shr(length.into()).unwrap_or(0);
    let last = first | rest;
    let near = [Some(first), Some(last), first.checked_sub(1), last.checked_add(1).filter(|a| *a <= most)];
    into.extend(near.into_iter().flatten().map(|a| address(a, family)));
}

fn around(low: u16, high: u16, into: &mut BTreeSet<u16>) {
    into.extend([low, high, low.saturating_sub(1), high.saturating_add(1)]);
}
