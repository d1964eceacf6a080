//! Arithmetic of port ranges: merging, cutting, and the edges at which they begin and end.
//!
//! Not here: which id an interval has ([`crate::ports`]).

use netpolc_policy::Protocol;

/// The first and the last port of a range.
pub(crate) type PortRange = (Protocol, u16, u16);

/// A port, below 65536, before which something begins.
pub(crate) type Edge = (Protocol, u32);

/// Intervals of IP protocol numbers (0: protocols without ports), merged and in order: what a row
/// permits, whatever the ids.
pub(crate) type Permitted = Vec<(u8, u16, u16)>;

/// Where a range begins and has just ended, as far as that is within the protocol's ports and not
/// before all of them: there the first interval begins anyway.
pub(crate) fn edges((protocol, first, last): PortRange) -> impl Iterator<Item = Edge> + Clone {
    let edges = [u32::from(first), u32::from(last) + 1].into_iter();
    edges.filter(|edge| (1..=u32::from(u16::MAX)).contains(edge)).map(move |edge| (protocol, edge))
}

/// Into how many pieces a range is cut by these edges, which are in order.
pub(crate) fn pieces(edges: &[Edge], (protocol, first, last): PortRange) -> u64 {
    let before = |port: u16| edges.partition_point(|edge| *edge <= (protocol, port.into()));
    1 + (before(last) - before(first)) as u64
}

/// Merges intervals of one protocol that touch or overlap.
pub(crate) fn merged(mut intervals: Permitted) -> Permitted {
    intervals.sort_unstable();
    let mut list = Permitted::new();
    for (protocol, first, last) in intervals {
        match list.last_mut() {
            Some((p, _, end)) if *p == protocol && first.saturating_sub(1) <= *end => {
                *end = last.max(*end);
            }
            _ => list.push((protocol, first, last)),
        }
    }
    list
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

/// A part of a [`PortSet`]: an interval of one protocol's ports. `None` is every protocol that has
/// no ports, with the interval from 0 to 0.
pub(crate) type Piece = (Option<Protocol>, u16, u16);

/// Ports of all protocols, and whether protocols without ports are among them: disjoint intervals
/// that do not touch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortSet(Vec<Piece>);

impl PortSet {
    /// Every port of every protocol, and every protocol without ports.
    pub(crate) fn everything() -> Self {
        let ports = Protocol::ALL.into_iter().map(|protocol| (Some(protocol), 0, u16::MAX));
        Self::of([(None, 0, 0)].into_iter().chain(ports))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_ports_are_what_their_ports_are() {
        use netpolc_testbed::random::Rng;

        let mut rng = Rng::new(62);
        let protocols = [None, Some(Protocol::Tcp), Some(Protocol::Udp)];
        let set = |rng: &mut Rng| {
            let count = rng.below(6);
            PortSet::of(rng.list(count, |rng| match *rng.pick(&protocols) {
                None => (None, 0, 0),
                protocol => {
                    let (a, b) = (rng.below(12) as u16, rng.below(12) as u16);
                    (protocol, a.min(b), a.max(b))
                }
            }))
        };
        let all = || protocols.into_iter().flat_map(|p| (0..12).map(move |port| (p, port)));
        let has = |set: &PortSet, (protocol, port): (Option<Protocol>, u16)| {
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
        let permitted = vec![(17, 5, 9), (6, 10, 20), (6, 21, 30), (6, 25, 26), (6, 32, 32)];
        assert_eq!(merged(permitted), [(6, 10, 30), (6, 32, 32), (17, 5, 9)]);
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
