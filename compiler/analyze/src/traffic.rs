//! Sets of traffic: which protocols, and which destination ports of them.
//!
//! Here: the set with its algebra, how it reads to a person, and one place for each set that is
//! met often ([`Interner`]). Not here: who is permitted what.

use std::{collections::HashMap, fmt};

use netpolc_policy::{IcmpVersion, Protocol};
use serde::{Serialize, Serializer};

/// A set of packets by what stands above IP: intervals of `protocol << 16 | port`, where a port is
/// the destination port, of the two ICMPs type << 8 | code, and of any other protocol every number
/// at once. Intervals are sorted, do not touch, and are closed at both ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrafficSet(Vec<(u32, u32)>);

/// The last number that stands for a packet.
const LAST: u32 = 0x00ff_ffff;

impl TrafficSet {
    /// No traffic at all.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Every protocol, on every port.
    pub fn everything() -> Self {
        Self(vec![(0, LAST)])
    }

    /// All of the protocol with this IP protocol number.
    pub fn protocol(number: u8) -> Self {
        Self::numbered(number, 0, u16::MAX)
    }

    /// The destination ports from `first` to `last`; nothing where they are the wrong way round.
    pub fn ports(protocol: Protocol, first: u16, last: u16) -> Self {
        Self::numbered(protocol.number(), first, last)
    }

    /// Messages of ICMP: of every type where `kind` is None, of every code of the type where `code`
    /// is. A code without a type is none of any (S83).
    pub fn icmp(version: IcmpVersion, kind: Option<u8>, code: Option<u8>) -> Self {
        let number = version.number();
        let of = |kind: u8, code: u8| u16::from_be_bytes([kind, code]);
        match (kind, code) {
            (None, None) => Self::protocol(number),
            (None, Some(_)) => Self::nothing(),
            (Some(kind), None) => Self::numbered(number, of(kind, 0), of(kind, u8::MAX)),
            (Some(kind), Some(code)) => Self::numbered(number, of(kind, code), of(kind, code)),
        }
    }

    pub(crate) fn numbered(number: u8, first: u16, last: u16) -> Self {
        let base = u32::from(number) << 16;
        match first <= last {
            true => Self(vec![(base | u32::from(first), base | u32::from(last))]),
            false => Self::nothing(),
        }
    }

    /// Is there nothing in it?
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Is everything in it?
    pub fn is_everything(&self) -> bool {
        self.0 == [(0, LAST)]
    }

    /// Is this packet in it? `port` is as in the intervals; any number of a protocol without ports.
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        let number = u32::from(protocol) << 16 | u32::from(port);
        let at = self.0.partition_point(|(_, last)| *last < number);
        self.0.get(at).is_some_and(|(first, _)| *first <= number)
    }

    /// Is all of `other` in it?
    pub fn covers(&self, other: &Self) -> bool {
        other.minus(self).is_nothing()
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<(u32, u32)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut out: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match out.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut out, mut a, mut b) = (Vec::new(), 0, 0);
        while let (Some(x), Some(y)) = (self.0.get(a), other.0.get(b)) {
            let (first, last) = (x.0.max(y.0), x.1.min(y.1));
            if first <= last {
                out.push((first, last));
            }
            if x.1 < y.1 {
                a += 1;
            } else {
                b += 1;
            }
        }
        Self(out)
    }

    /// What is in this one and not in `other`.
    pub fn minus(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    fn complement(&self) -> Self {
        let mut out = Vec::with_capacity(self.0.len() + 1);
        let mut next = 0;
        for (first, last) in &self.0 {
            if *first > next {
                out.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= LAST {
            out.push((next, LAST));
        }
        Self(out)
    }

    /// A packet of the set, as protocol number and port: one of TCP where it has any; None where
    /// the set is empty.
    pub fn example(&self) -> Option<(u8, u16)> {
        let tcp = self.intersection(&Self::protocol(Protocol::Tcp.number()));
        let number = tcp.0.first().or(self.0.first())?.0;
        Some(((number >> 16) as u8, number as u16))
    }

    /// The packets of the set, where they are at most so many. All of a protocol without ports are
    /// one packet.
    pub fn singles(&self, limit: usize) -> Option<Vec<(u8, u16)>> {
        let mut found = Vec::new();
        for &(first, last) in &self.0 {
            let protocol = (first >> 16) as u8;
            let has_ports = Protocol::from_number(protocol).is_some();
            let count = match has_ports || first >> 16 != last >> 16 {
                true => last - first + 1,
                false => 1,
            };
            if found.len() + count as usize > limit {
                return None;
            }
            found.extend((first..first + count).map(|n| (protocol, n as u16)));
        }
        Some(found)
    }

    /// The parts of the set as people write them, such as `TCP 80` or `UDP 1000-2000`.
    pub fn parts(&self) -> Vec<String> {
        let mut parts = Vec::new();
        for &(first, last) in &self.0 {
            let (mut from, end) = (first, last);
            while from <= end {
                let whole = (from | 0xffff).min(end);
                let number = from >> 16;
                let begins = from & 0xffff == 0;
                // Protocols in a row that are whole are named by their numbers at once.
                let mut to = whole;
                let is_plain = |n: u32| name(n as u8).is_none();
                if begins && whole & 0xffff == 0xffff && is_plain(number) {
                    while to < end && is_plain((to + 1) >> 16) && (to + 1) | 0xffff <= end {
                        to = (to + 1) | 0xffff;
                    }
                }
                parts.push(part(from, to));
                from = to + 1;
            }
        }
        // Those with names come first, in the order in which people think of them.
        let rank = |text: &String| {
            ["TCP", "UDP", "SCTP", "ICMP ", "ICMP", "ICMPv6"]
                .iter()
                .position(|name| text.starts_with(name))
                .unwrap_or(usize::MAX)
        };
        parts.sort_by_key(rank);
        parts
    }
}

/// The name of a protocol that people call by one, by its IP protocol number.
pub fn name(protocol: u8) -> Option<&'static str> {
    Some(match protocol {
        1 => "ICMP",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPv6",
        132 => "SCTP",
        _ => return None,
    })
}

fn part(first: u32, last: u32) -> String {
    let (protocol, end) = ((first >> 16) as u8, (last >> 16) as u8);
    let (low, high) = (first as u16, last as u16);
    let Some(name) = name(protocol) else {
        return match protocol == end {
            true => format!("protocol {protocol}"),
            false => format!("protocols {protocol}-{end}"),
        };
    };
    if (low, high) == (0, u16::MAX) {
        return name.to_string();
    }
    if matches!(protocol, 1 | 58) {
        let [[kind, code], [last_kind, last_code]] = [low, high].map(u16::to_be_bytes);
        return match (kind == last_kind, code, last_code) {
            (true, 0, u8::MAX) => format!("{name} type {kind}"),
            (true, ..) if code == last_code => format!("{name} type {kind} code {code}"),
            (true, ..) => format!("{name} type {kind} codes {code}-{last_code}"),
            (false, 0, u8::MAX) => format!("{name} types {kind}-{last_kind}"),
            (false, ..) => format!("{name} {kind}/{code}-{last_kind}/{last_code}"),
        };
    }
    match low == high {
        true => format!("{name} {low}"),
        false => format!("{name} {low}-{high}"),
    }
}

impl fmt::Display for TrafficSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing");
        }
        if self.is_everything() {
            return f.write_str("everything");
        }
        let (here, not_here) = (self.parts(), self.complement().parts());
        if not_here.len() < here.len() {
            return write!(f, "everything but {}", joined(&not_here));
        }
        f.write_str(&joined(&here))
    }
}

/// `TCP 80, 443; UDP 53` from `TCP 80`, `TCP 443` and `UDP 53`.
fn joined(parts: &[String]) -> String {
    let mut text = String::new();
    let mut before = None;
    for part in parts {
        let (head, rest) = part.split_once(' ').unwrap_or((part, ""));
        if before == Some(head) && !rest.is_empty() && !head.starts_with("ICMP") {
            text.push_str(&format!(", {rest}"));
        } else {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(part);
        }
        before = Some(head);
    }
    text
}

impl Serialize for TrafficSet {
    /// A list of its parts; one part, `everything`, for the whole set.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.is_everything() {
            true => to.collect_seq(["everything"]),
            false => to.collect_seq(self.parts()),
        }
    }
}

/// A set in an [`Interner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrafficId(u32);

impl TrafficId {
    /// [`TrafficSet::nothing`]
    pub const NOTHING: TrafficId = TrafficId(0);
    /// [`TrafficSet::everything`]
    pub const EVERYTHING: TrafficId = TrafficId(1);
}

/// Keeps each set once, and remembers what was worked out from two of them: a cluster has far fewer
/// sets than pairs of pods.
#[derive(Clone, Debug)]
pub struct Interner {
    sets: Vec<TrafficSet>,
    ids: HashMap<TrafficSet, TrafficId>,
    known: HashMap<(Operation, TrafficId, TrafficId), TrafficId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Union,
    Intersection,
    Minus,
}

impl Default for Interner {
    fn default() -> Self {
        let mut interner = Self { sets: vec![], ids: HashMap::new(), known: HashMap::new() };
        interner.intern(TrafficSet::nothing());
        interner.intern(TrafficSet::everything());
        interner
    }
}

impl Interner {
    /// The id of a set, which gets one where it is new.
    pub fn intern(&mut self, set: TrafficSet) -> TrafficId {
        if let Some(id) = self.ids.get(&set) {
            return *id;
        }
        let id = TrafficId(self.sets.len() as u32);
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        id
    }

    /// The set with this id.
    pub fn get(&self, id: TrafficId) -> &TrafficSet {
        &self.sets[id.0 as usize]
    }

    /// See [`TrafficSet::union`].
    pub fn union(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        if a == b || b == TrafficId::NOTHING || a == TrafficId::EVERYTHING {
            return a;
        }
        if a == TrafficId::NOTHING || b == TrafficId::EVERYTHING {
            return b;
        }
        self.remember(Operation::Union, a.min(b), a.max(b), TrafficSet::union)
    }

    /// See [`TrafficSet::intersection`].
    pub fn intersection(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        if a == b || a == TrafficId::NOTHING || b == TrafficId::EVERYTHING {
            return a;
        }
        if b == TrafficId::NOTHING || a == TrafficId::EVERYTHING {
            return b;
        }
        self.remember(Operation::Intersection, a.min(b), a.max(b), TrafficSet::intersection)
    }

    /// See [`TrafficSet::minus`].
    pub fn minus(&mut self, a: TrafficId, b: TrafficId) -> TrafficId {
        if a == TrafficId::NOTHING || b == TrafficId::NOTHING {
            return a;
        }
        if a == b || b == TrafficId::EVERYTHING {
            return TrafficId::NOTHING;
        }
        self.remember(Operation::Minus, a, b, TrafficSet::minus)
    }

    fn remember(
        &mut self,
        operation: Operation,
        a: TrafficId,
        b: TrafficId,
        work: impl FnOnce(&TrafficSet, &TrafficSet) -> TrafficSet,
    ) -> TrafficId {
        if let Some(known) = self.known.get(&(operation, a, b)) {
            return *known;
        }
        let result = work(self.get(a), self.get(b));
        let id = self.intern(result);
        self.known.insert((operation, a, b), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(first: u16, last: u16) -> TrafficSet {
        TrafficSet::ports(Protocol::Tcp, first, last)
    }

    #[test]
    fn the_algebra_is_that_of_sets() {
        let samples = [
            TrafficSet::nothing(),
            TrafficSet::everything(),
            tcp(80, 80),
            tcp(0, 79).union(&tcp(81, 65535)),
            tcp(80, 90).union(&TrafficSet::ports(Protocol::Udp, 53, 53)),
            TrafficSet::protocol(47),
            TrafficSet::icmp(IcmpVersion::V4, Some(8), None),
            TrafficSet::everything().minus(&tcp(22, 22)),
        ];
        let packets = [
            (6, 0),
            (6, 22),
            (6, 79),
            (6, 80),
            (6, 81),
            (6, 65535),
            (17, 53),
            (17, 54),
            (47, 0),
            (47, 9),
            (1, 0x0800),
            (1, 0x08ff),
            (1, 0x0900),
            (255, 65535),
            (0, 0),
        ];
        for a in &samples {
            for b in &samples {
                let (union, both, minus) = (a.union(b), a.intersection(b), a.minus(b));
                for (protocol, port) in packets {
                    let [x, y] = [a, b].map(|set| set.contains(protocol, port));
                    assert_eq!(union.contains(protocol, port), x || y, "{a} or {b}");
                    assert_eq!(both.contains(protocol, port), x && y, "{a} and {b}");
                    assert_eq!(minus.contains(protocol, port), x && !y, "{a} without {b}");
                }
                assert_eq!(a.covers(b), minus_is_nothing(b, a));
            }
        }
    }

    fn minus_is_nothing(a: &TrafficSet, b: &TrafficSet) -> bool {
        a.minus(b) == TrafficSet::nothing()
    }

    #[test]
    fn a_set_reads_as_people_write_it() {
        let dns = TrafficSet::ports(Protocol::Udp, 53, 53);
        for (set, text) in [
            (TrafficSet::nothing(), "nothing"),
            (TrafficSet::everything(), "everything"),
            (tcp(80, 80).union(&tcp(443, 443)).union(&dns), "TCP 80, 443; UDP 53"),
            (tcp(8000, 8999), "TCP 8000-8999"),
            (TrafficSet::protocol(6).union(&TrafficSet::protocol(17)), "TCP; UDP"),
            (TrafficSet::everything().minus(&tcp(22, 22)), "everything but TCP 22"),
            (TrafficSet::icmp(IcmpVersion::V4, Some(8), None), "ICMP type 8"),
            (TrafficSet::icmp(IcmpVersion::V6, Some(1), Some(4)), "ICMPv6 type 1 code 4"),
            (TrafficSet::protocol(47).union(&TrafficSet::protocol(50)), "protocol 47, 50"),
        ] {
            assert_eq!(set.to_string(), text);
        }
    }
}
