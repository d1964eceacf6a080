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

#[cfg(test)]
mod tests {
    use super::*;

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
