//! Arithmetic of port ranges: merging, cutting, and the edges at which they begin and end.
//!
//! Not here: which id an interval has ([`crate::ports`]).

use std::collections::BTreeSet;

use netpolc_policy::Protocol;

/// The first and the last port of a range.
pub(crate) type PortRange = (Protocol, u16, u16);

/// A port, below 65536, before which something begins.
pub(crate) type Edge = (Protocol, u32);

/// An interval as the table `port` has it: IP protocol number, and the first and last of its ports,
/// or of what that table tells apart of a protocol without ports.
pub(crate) type Stretch = (u8, u16, u16);

/// What an interval is of. Protocols without ports are one, as NetworkPolicies and tiers say (S34),
/// but for those that the security groups of a set tell apart (S77).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Every protocol without ports that the set does not tell apart; the interval is 0 to 0.
    Others,
    /// The protocol without ports that has this number. Of ICMP the interval is one of types and
    /// codes; of all others it is 0 to 65535.
    Apart(u8),
    /// The ports of a protocol.
    Ports(Protocol),
}

impl Lane {
    /// The IP protocol number; None where it is several.
    pub(crate) fn number(self) -> Option<u8> {
        match self {
            Lane::Others => None,
            Lane::Apart(number) => Some(number),
            Lane::Ports(protocol) => Some(protocol.number()),
        }
    }
}

/// What a row permits, whatever the ids: merged and in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permitted(Vec<Piece>);

impl Permitted {
    /// What several intervals are together. What permits all protocols without ports permits each
    /// of them, whether or not the table tells it apart.
    pub(crate) fn of(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let mut merged = PortSet::of(pieces).0;
        if merged.first().is_some_and(|(lane, ..)| *lane == Lane::Others) {
            merged.retain(|(lane, ..)| !matches!(lane, Lane::Apart(_)));
        }
        Self(merged)
    }
}

/// Where a range begins and has just ended, as far as that is within the protocol's ports and not
/// before all of them: there the first interval begins anyway.
pub(crate) fn edges<P: Copy>(
    (protocol, first, last): (P, u16, u16),
) -> impl Iterator<Item = (P, u32)> + Clone {
    let edges = [u32::from(first), u32::from(last) + 1].into_iter();
    edges.filter(|edge| (1..=u32::from(u16::MAX)).contains(edge)).map(move |edge| (protocol, edge))
}

/// Into how many pieces a range is cut by these edges, which are in order.
pub(crate) fn pieces(edges: &[Edge], (protocol, first, last): PortRange) -> u64 {
    let before = |port: u16| edges.partition_point(|edge| *edge <= (protocol, port.into()));
    1 + (before(last) - before(first)) as u64
}

/// What is left of an interval without some ranges, which are in ascending order of where they
/// begin.
pub(crate) fn without(
    (first, last): (u16, u16),
    ranges: impl Iterator<Item = (u16, u16)>,
) -> impl Iterator<Item = (u16, u16)> {
    let (mut left, mut from) = (Vec::new(), u32::from(first));
    let end = u32::from(last) + 1;
    for (low, high) in ranges {
        if from < u32::from(low).min(end) {
            left.push((from as u16, (u32::from(low).min(end) - 1) as u16));
        }
        from = from.max(u32::from(high) + 1);
    }
    if from < end {
        left.push((from as u16, last));
    }
    left.into_iter()
}

/// A part of a [`PortSet`].
pub(crate) type Piece = (Lane, u16, u16);

/// Ports of all protocols, and what is in it of protocols without ports: disjoint intervals that do
/// not touch, in order. Sets of ports that meet must tell the same protocols apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortSet(Vec<Piece>);

impl PortSet {
    /// Every port of every protocol, and every protocol without ports, of which these are told
    /// apart.
    pub(crate) fn everything(apart: &BTreeSet<u8>) -> Self {
        let ports = Protocol::ALL.into_iter().map(|p| (Lane::Ports(p), 0, u16::MAX));
        Self::of(portless(apart).chain(ports))
    }

    /// These pieces, which may overlap and be in any order.
    pub(crate) fn of(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let mut pieces: Vec<Piece> = pieces.into_iter().collect();
        pieces.sort_unstable();
        let mut list: Vec<Piece> = Vec::with_capacity(pieces.len());
        for (protocol, first, last) in pieces {
            match list.last_mut() {
                Some((p, _, end)) if *p == protocol && first.saturating_sub(1) <= *end => {
                    *end = last.max(*end);
                }
                _ => list.push((protocol, first, last)),
            }
        }
        Self(list)
    }

    /// The intervals, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.0.iter().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in either.
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self::of(self.pieces().chain(other.pieces()))
    }

    /// What is in both. Linear in the pieces of both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let (mut list, mut a, mut b) = (Vec::new(), self.0.iter(), other.0.iter());
        let (mut x, mut y) = (a.next(), b.next());
        while let (Some(&(p, first, last)), Some(&(q, low, high))) = (x, y) {
            if p == q && first.max(low) <= last.min(high) {
                list.push((p, first.max(low), last.min(high)));
            }
            if (p, last) <= (q, high) { x = a.next() } else { y = b.next() }
        }
        Self(list)
    }

    /// What is in this one and not in the other. Linear in the pieces of both.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let (mut list, mut rest) = (Vec::new(), other.0.as_slice());
        for &(protocol, first, last) in &self.0 {
            while rest.first().is_some_and(|(p, _, high)| (*p, *high) < (protocol, first)) {
                rest = &rest[1..];
            }
            let here = rest.iter().take_while(|(p, low, _)| (*p, *low) <= (protocol, last));
            let here = here.map(|(_, low, high)| (*low, *high));
            list.extend(without((first, last), here).map(|(a, b)| (protocol, a, b)));
        }
        Self(list)
    }
}

/// Every protocol without ports, of which these are told apart.
pub(crate) fn portless(apart: &BTreeSet<u8>) -> impl Iterator<Item = Piece> {
    let apart = apart.iter().map(|number| (Lane::Apart(*number), 0, u16::MAX));
    [(Lane::Others, 0, 0)].into_iter().chain(apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_ports_are_what_their_ports_are() {
        use netpolc_testbed::random::Rng;

        let mut rng = Rng::new(62);
        let protocols = [Lane::Others, Lane::Apart(1), Lane::Ports(Protocol::Tcp)];
        let set = |rng: &mut Rng| {
            let count = rng.below(6);
            PortSet::of(rng.list(count, |rng| match *rng.pick(&protocols) {
                Lane::Others => (Lane::Others, 0, 0),
                protocol => {
                    let (a, b) = (rng.below(12) as u16, rng.below(12) as u16);
                    (protocol, a.min(b), a.max(b))
                }
            }))
        };
        let all = || protocols.into_iter().flat_map(|p| (0..12).map(move |port| (p, port)));
        let has = |set: &PortSet, (protocol, port): (Lane, u16)| {
            set.pieces().any(|(p, first, last)| p == protocol && (first..=last).contains(&port))
        };
        for _ in 0..2_000 {
            let (a, b) = (set(&mut rng), set(&mut rng));
            let (union, both, minus) = (a.union(&b), a.intersection(&b), a.minus(&b));
            for port in all() {
                assert_eq!(has(&union, port), has(&a, port) || has(&b, port), "{a:?} {b:?}");
                assert_eq!(has(&both, port), has(&a, port) && has(&b, port), "{a:?} {b:?}");
                assert_eq!(has(&minus, port), has(&a, port) && !has(&b, port), "{a:?} {b:?}");
            }
            for set in [union, both, minus] {
                assert_eq!(PortSet::of(set.pieces()), set, "merged and in order");
            }
        }
    }

    #[test]
    fn an_interval_without_ranges_is_what_they_leave() {
        let left = |interval, ranges: &[(u16, u16)]| {
            without(interval, ranges.iter().copied()).collect::<Vec<_>>()
        };
        assert_eq!(left((0, 65535), &[]), [(0, 65535)]);
        assert_eq!(left((0, 65535), &[(0, 0), (65535, 65535)]), [(1, 65534)]);
        let ranges = [(0, 5), (3, 12), (12, 11), (15, 15), (21, 30)];
        assert_eq!(left((10, 20), &ranges), [(13, 14), (16, 20)]);
        assert_eq!(left((10, 20), &[(8, 25)]), []);
        assert_eq!(left((10, 20), &[(30, 40)]), [(10, 20)]);
    }

    #[test]
    fn intervals_that_touch_or_overlap_are_one() {
        let (tcp, udp) = (Lane::Ports(Protocol::Tcp), Lane::Ports(Protocol::Udp));
        let permitted = [(udp, 5, 9), (tcp, 10, 20), (tcp, 21, 30), (tcp, 25, 26), (tcp, 32, 32)];
        assert_eq!(Permitted::of(permitted).0, [(tcp, 10, 30), (tcp, 32, 32), (udp, 5, 9)]);
    }

    #[test]
    fn s34_what_permits_all_protocols_without_ports_permits_each() {
        let (echo, esp) = ((Lane::Apart(1), 0x800, 0x8ff), (Lane::Apart(50), 0, 65535));
        let all = (Lane::Others, 0, 0);
        assert_eq!(Permitted::of([echo, all, esp]), Permitted::of([all]));
        assert_ne!(Permitted::of([echo]), Permitted::of([esp]));
        let everything = PortSet::everything(&BTreeSet::from([1, 50]));
        assert_eq!(everything.minus(&PortSet::of([echo])).pieces().count(), 7);
    }

    #[test]
    fn a_range_has_a_piece_more_than_edges_inside_it() {
        let range = (Protocol::Tcp, 0, 79);
        assert_eq!(edges(range).collect::<Vec<_>>(), [(Protocol::Tcp, 80)], "nothing is before 0");
        let cut = [(Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 53)];
        assert_eq!(pieces(&cut, (Protocol::Tcp, 80, 443)), 2);
        assert_eq!(pieces(&cut, (Protocol::Tcp, 0, u16::MAX)), 3);
        assert_eq!(pieces(&cut, (Protocol::Sctp, 0, u16::MAX)), 1);
    }
}
