//! Packets at all boundaries that tables and filters have: one for each way in which they can tell
//! packets apart.
//!
//! Not here: what should become of them ([`super`]).

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use netpolc_table::{EndpointId, eval, schema::Family};

use super::{Place, Tables, address, bits};
use crate::{
    eval::{Born, Fragment, Packet},
    filter::{Action, Filter, Match, Ports, ct},
};

/// What came of judging a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    /// There are enough counterexamples: no more packets are wanted.
    Enough,
    /// Hardware may drop the packet.
    Dropped,
    /// Hardware does not drop the packet.
    Other,
}

/// The values that the keys of filters have.
struct Keys {
    prefixes: [BTreeSet<IpNetwork>; 2],
    ports: BTreeSet<Ports>,
    forwards: bool,
}

impl Keys {
    fn of(filters: &[Filter]) -> Self {
        let mut keys =
            Self { prefixes: Default::default(), ports: BTreeSet::new(), forwards: false };
        for filter in filters {
            keys.forwards |= matches!(filter.action, Action::Redirect(_));
            let Match::Flower(p) = &filter.matches else { continue };
            keys.ports.extend([p.source_port, p.destination_port].into_iter().flatten());
            keys.prefixes[0].extend(p.source);
            keys.prefixes[1].extend(p.destination);
        }
        keys
    }

    /// The edges of prefixes at one end (0: source), of one family.
    fn edges(&self, end: usize, family: Family) -> BTreeSet<IpAddr> {
        let mut all = BTreeSet::new();
        for prefix in self.prefixes[end].iter().filter(|p| Family::of(p.network()) == family) {
            edges(bits(prefix.network()), prefix.prefix(), family, &mut all);
        }
        all
    }
}

/// The first of each group of items that have the same signature: nothing can tell them apart, so
/// one stands for all.
fn distinct<T: Copy, S: Ord>(
    items: impl IntoIterator<Item = T>,
    signature: impl Fn(T) -> S,
) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(signature(*item))).collect()
}

impl Tables<'_> {
    /// Gives `judge` all packets that may make a difference on a port; false when it has seen
    /// enough.
    ///
    /// Pairs of addresses are what there is most of. So each end is first cut down to addresses
    /// that differ in what tables and filters know of them, and then to few where the other end
    /// decides alone.
    pub(super) fn packets(
        &self,
        place: &Place,
        filters: &[Filter],
        judge: &mut impl FnMut(Packet) -> Judged,
    ) -> bool {
        let keys = Keys::of(filters);
        let ports = self.distinct_ports(&keys);
        let macs: BTreeSet<[u8; 6]> = self.topology.pods.values().filter_map(|p| p.mac).collect();
        let other = [2, 0xff, 0xff, 0xff, 0xff, 0xff];
        for family in Family::BOTH {
            let at_end = |end: usize| {
                let both = self.addresses[&family].iter().copied().chain(keys.edges(end, family));
                distinct(both, |address| self.signature(address, &keys.prefixes[end]))
            };
            let (mut sources, mut destinations) = (at_end(0), at_end(1));
            match place {
                Place::Pod(endpoint) => {
                    let (own, others): (Vec<_>, Vec<_>) =
                        sources.into_iter().partition(|a| self.is_own(*endpoint, *a));
                    // All sources that are not the pod's own are alike to the guard: a few of them
                    // are enough.
                    sources = own.into_iter().chain(others.into_iter().take(4)).collect();
                }
                // From outside, hardware decides about addresses of this node's pods only.
                Place::Outside => {
                    let (here, others): (Vec<_>, Vec<_>) =
                        destinations.into_iter().partition(|a| self.owners.contains_key(a));
                    destinations = here.into_iter().chain(others.into_iter().take(8)).collect();
                }
            }
            let pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (*s, *d)));
            for (at, (source, destination)) in pairs.enumerate() {
                let mac = |e: &EndpointId| self.topology.pods.get(e).and_then(|p| p.mac);
                let theirs = self.owners.get(&destination).and_then(|o| o.iter().find_map(mac));
                let shape = Shape { source, destination, mac: theirs.unwrap_or(other) };
                // Packets other than openings are tried where openings are dropped: a filter that
                // drops too much is one that drops those. For every sixteenth pair they are tried
                // anyway.
                let extent = if at % 16 == 0 { Extent::All } else { Extent::WhereDropped };
                if !shape.stateless(&ports, extent, judge) {
                    return false;
                }
                // A frame for another pod's hardware address must not be redirected by the IP
                // address.
                let wrong = macs.iter().copied().find(|m| Some(*m) != theirs).unwrap_or(other);
                for mac in [shape.mac, wrong] {
                    if keys.forwards && !(Shape { mac, ..shape }).established(&ports, judge) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// All that tables and filters know of an address.
    fn signature(&self, address: IpAddr, prefixes: &BTreeSet<IpNetwork>) -> impl Ord + use<> {
        let class = eval::remote(self.program, address).class;
        let owners: Vec<EndpointId> =
            self.owners.get(&address).into_iter().flatten().copied().collect();
        let node = self.topology.node_addresses.contains(&address);
        let translated = self.topology.translated.iter().any(|p| p.contains(address));
        let within: Vec<bool> = prefixes.iter().map(|p| p.contains(address)).collect();
        (class, owners, node, translated, within)
    }

    /// The ports that tables or filters can tell apart, one of each kind.
    fn distinct_ports(&self, keys: &Keys) -> Vec<u16> {
        let mut all = self.ports.clone();
        for key in &keys.ports {
            let (low, high) = match *key {
                Ports::Masked(m) => (m.value, m.value | !m.mask),
                Ports::Range { low, high } => (low, high),
            };
            around(low, high, &mut all);
        }
        distinct(all, |port| {
            let classes =
                [6, 17, 132].map(|protocol| eval::port_class(self.program, protocol, Some(port)));
            let within: Vec<bool> = keys.ports.iter().map(|key| key.holds(port)).collect();
            (classes, within)
        })
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
    /// Those to ports to which openings are dropped.
    WhereDropped,
    /// Those to some other ports, too.
    All,
}

impl Shape {
    /// Tries openings to each port, and packets that must never be dropped.
    fn stateless(
        &self,
        ports: &[u16],
        extent: Extent,
        judge: &mut impl FnMut(Packet) -> Judged,
    ) -> bool {
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
            // None of these may be dropped: they may be replies, or are not what their ports say.
            let icmp = if self.source.is_ipv4() { 1 } else { 58 };
            let tcp =
                |flags: u16, state: u16| self.packet(6, Some(40000), Some(port), flags, state);
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

    /// Tries packets of connections that the NIC's tracker knows, in both directions, with the
    /// policed port at either end.
    fn established(&self, ports: &[u16], judge: &mut impl FnMut(Packet) -> Judged) -> bool {
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
                self.packet(6, Some(port), Some(40000), 0x10, opener),
            ]
        };
        let icmp = if self.source.is_ipv4() { 1 } else { 58 };
        let without =
            [self.packet(icmp, None, None, 0, opener), self.packet(icmp, None, None, 0, reply)];
        ports
            .iter()
            .flat_map(|p| some(*p))
            .chain(without)
            .all(|packet| judge(packet) != Judged::Enough)
    }

    fn packet(
        &self,
        protocol: u8,
        from: Option<u16>,
        to: Option<u16>,
        tcp_flags: u16,
        state: u16,
    ) -> Packet {
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

/// First and last address of a prefix, and the ones before and after it.
pub(super) fn edges(first: u128, length: u8, family: Family, into: &mut BTreeSet<IpAddr>) {
    let most = if family == Family::V4 { u32::MAX.into() } else { u128::MAX };
    let rest = most.checked_shr(length.into()).unwrap_or(0);
    let last = first | rest;
    let near =
        [Some(first), Some(last), first.checked_sub(1), last.checked_add(1).filter(|a| *a <= most)];
    into.extend(near.into_iter().flatten().map(|a| address(a, family)));
}

pub(super) fn around(low: u16, high: u16, into: &mut BTreeSet<u16>) {
    into.extend([low, high, low.saturating_sub(1), high.saturating_add(1)]);
}
