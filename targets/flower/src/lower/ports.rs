//! Sets of ports as sorted, disjoint, closed intervals; and as what filters can match.
//!
//! Not here: which ports a policy allows ([`super::region`]).

use crate::filter::{Masked, Ports};

/// A set of port numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// The set without ports.
    pub fn none() -> Self {
        Self::default()
    }

    /// The set of every port.
    pub fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    /// The union of closed intervals, in any order.
    pub fn of(intervals: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut list: Vec<(u16, u16)> =
            intervals.into_iter().filter(|(low, high)| low <= high).collect();
        list.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(list.len());
        for (low, high) in list {
            match merged.last_mut() {
                Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }

    /// Closed intervals, sorted, with a gap between neighbours.
    pub fn intervals(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Is there no port in it?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is every port in it?
    pub fn is_all(&self) -> bool {
        self.0 == [(0, u16::MAX)]
    }

    /// Is `port` one of them?
    pub fn holds(&self, port: u16) -> bool {
        self.holds_all((port, port))
    }

    /// Are all ports of this closed interval among them?
    pub fn holds_all(&self, (low, high): (u16, u16)) -> bool {
        // The last interval that begins at or before it.
        let at = self.0.partition_point(|(first, _)| *first <= low);
        at.checked_sub(1).is_some_and(|at| high <= self.0[at].1)
    }

    /// The ports that are not in it.
    pub fn complement(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut next = 0u32;
        for &(low, high) in &self.0 {
            if u32::from(low) > next {
                gaps.push((next as u16, low - 1));
            }
            next = u32::from(high) + 1;
        }
        if next <= u32::from(u16::MAX) {
            gaps.push((next as u16, u16::MAX));
        }
        Self(gaps)
    }

    /// The ports that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&(low, high)), Some(&&(l, h))) = (ours.peek(), theirs.peek()) {
            if low.max(l) <= high.min(h) {
                both.push((low.max(l), high.min(h)));
            }
            if high < h {
                ours.next()
            } else {
                theirs.next()
            };
        }
        Self(both)
    }

    /// The ports that are in one of the sets or in both.
    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    /// The ports that are in this set only.
    pub fn without(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    /// One filter for each interval: ranges as the kernel's software can match them. An interval of
    /// one port, and port 0 (which a range cannot begin with), are exact.
    pub fn as_ranges(&self) -> Vec<Ports> {
        let mut list = Vec::new();
        for &(low, high) in &self.0 {
            let low = if low == 0 && high > 0 {
                list.push(Ports::one(0));
                1
            } else {
                low
            };
            list.push(if low == high { Ports::one(low) } else { Ports::Range { low, high } });
        }
        list
    }

    /// The fewest aligned blocks (value/mask); the whole set of ports is one block with mask 0,
    /// which the caller writes as no key.
    pub fn as_blocks(&self) -> Vec<(u16, u16)> {
        let mut list = Vec::new();
        for &(low, high) in &self.0 {
            let mut next = u32::from(low);
            while next <= u32::from(high) {
                let aligned = if next == 0 { 16 } else { next.trailing_zeros().min(16) };
                let room = (u32::from(high) - next + 1).ilog2();
                let bits = aligned.min(room);
                list.push((next as u16, !((1u32 << bits) - 1) as u16));
                next += 1 << bits;
            }
        }
        list
    }

    /// [`PortSet::as_blocks`] as filter keys; None is every port, which needs no key.
    pub fn as_masked(&self) -> Vec<Option<Ports>> {
        let key = |(value, mask)| (mask != 0).then_some(Ports::Masked(Masked { value, mask }));
        self.as_blocks().into_iter().map(key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_the_fewest_blocks_s28() {
        assert_eq!(PortSet::all().as_blocks(), [(0, 0)]);
        assert_eq!(PortSet::of([(80, 80)]).as_blocks(), [(80, 0xffff)]);
        assert_eq!(PortSet::of([(1, 65535)]).as_blocks().len(), 16);
        assert_eq!(
            PortSet::of([(8000, 8010)]).as_blocks(),
            [(8000, 0xfff8), (8008, 0xfffe), (8010, 0xffff)]
        );
    }

    #[test]
    fn blocks_and_ranges_hold_the_same_ports() {
        for set in [
            PortSet::none(),
            PortSet::of([(0, 0)]),
            PortSet::of([(0, 12), (80, 80), (32768, 65535)]),
            PortSet::of([(1, 2), (3, 9), (65535, 65535)]),
        ] {
            let (blocks, ranges, other) = (set.as_blocks(), set.as_ranges(), set.complement());
            let some = PortSet::of([(0, 1), (5, 85), (90, 90), (40_000, 65535)]);
            let both = set.intersection(&some);
            assert_eq!(both, some.intersection(&set));
            assert!(set.holds_all((2, 3)) == (2..=3).all(|port| set.holds(port)));
            assert!(set.holds_all((80, 81)) == (80..=81).all(|port| set.holds(port)));
            for port in 0..=u16::MAX {
                let held = set.holds(port);
                assert_eq!(
                    blocks.iter().filter(|(v, m)| port & m == *v).count(),
                    usize::from(held)
                );
                assert_eq!(ranges.iter().filter(|p| p.holds(port)).count(), usize::from(held));
                assert_eq!(other.holds(port), !held);
                assert_eq!(both.holds(port), held && some.holds(port));
                assert_eq!(
                    held,
                    set.intervals().iter().any(|(low, high)| (*low..=*high).contains(&port))
                );
            }
            assert!(set.intersection(&other).is_empty());
        }
    }
}
