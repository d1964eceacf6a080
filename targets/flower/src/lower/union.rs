//! A region as a union of grants: for each set of ports the fewest prefixes that have it. Grants
//! only permit, so their order does not matter and no filter has to deny.
//!
//! Better than nesting ([`super::answers`]) where a longer prefix is granted less than the shorter
//! one around it. Not here: filters.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netpolc_table::{Origin, Origins};

use super::{
    ports::PortSet,
    region::{Answer, PORTED, Region, covers},
};

/// The most parts of a region for which the search is worth its time.
const PARTS: usize = 4096;

/// One filter that permits: something to the addresses of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The remote addresses.
    pub prefix: IpNetwork,
    /// What is permitted to them; None is everything.
    pub what: Option<What>,
    /// The policies and rules behind it.
    pub origins: Origins,
}

/// A protocol, and some of its ports (closed) or all.
pub type What = (u8, Option<(u16, u16)>);

/// How ranges of ports are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Ranges are as long as an address has them.
    Longest,
    /// Ranges are cut wherever the range of some address begins or ends.
    Elementary,
}

/// A region as grants, but for those of its parts that say "everything but": they have to be
/// decided before. None where other parts are inside of those, or the region is too big, or where
/// there are more than `most` grants.
pub fn union(region: &Region, cut: Cut, most: usize) -> Option<Vec<Grant>> {
    let children = children(region);
    let nested = |at: usize| region.parts[at].answer.is_inverse() && !children[at].is_empty();
    if region.parts.len() > PARTS || (0..region.parts.len()).any(nested) {
        return None;
    }
    let edges = match cut {
        Cut::Longest => BTreeMap::new(),
        Cut::Elementary => edges(region),
    };
    let own: Vec<BTreeSet<Option<What>>> =
        region.parts.iter().map(|p| pieces(&p.answer, &edges)).collect();
    let all: BTreeSet<Option<What>> = own.iter().flatten().copied().collect();
    // Each of these takes one grant at least.
    if all.len() > most {
        return None;
    }
    let mut grants: Vec<(IpNetwork, Option<What>, Vec<usize>)> = Vec::new();
    // For each thing that can be granted: a part *must* have it if its answer is made of this very
    // piece, and *may* have it if its answer permits it in whatever way. The fewest prefixes that
    // hold all who must and nobody who may not are found one by one.
    for what in all {
        let must: Vec<bool> = own.iter().map(|o| o.contains(&what)).collect();
        let may: Vec<bool> =
            region.parts.iter().map(|p| p.answer.is_inverse() || has(&p.answer, what)).collect();
        let (mut some_must, mut all_may) = (must.clone(), may.clone());
        // Children stand behind their parents.
        for at in (0..region.parts.len()).rev() {
            for child in &children[at] {
                some_must[at] |= some_must[*child];
                all_may[at] &= all_may[*child];
            }
        }
        let left = most - grants.len();
        let mut search = Search {
            region,
            children: &children,
            must,
            may,
            some_must,
            all_may,
            found: vec![],
            left,
        };
        search.cover(region.parts[0].prefix, 0, &children[0]);
        if search.found.len() > left {
            return None;
        }
        let found = std::mem::take(&mut search.found);
        grants.extend(found.into_iter().map(|(prefix, parts)| (prefix, what, parts)));
    }
    // Only now, since most searches are broken off: why, which is as long as the parts have ports.
    let origins = |parts: &[usize]| joined(parts.iter().map(|at| &region.parts[*at].origins));
    Some(
        grants
            .into_iter()
            .map(|(prefix, what, parts)| Grant { prefix, what, origins: origins(&parts) })
            .collect(),
    )
}

/// The origins of all, each once.
pub fn joined<'a>(lists: impl Iterator<Item = &'a Origins>) -> Origins {
    // Parts of one answer have most of their origins in common: they are not sorted before that is
    // known.
    let distinct: HashSet<&Origin> = lists.flat_map(|origins| origins.as_slice()).collect();
    distinct.into_iter().cloned().collect()
}

/// For each protocol the ports where ranges begin, and those behind their ends.
fn edges(region: &Region) -> BTreeMap<u8, BTreeSet<u16>> {
    let mut edges = BTreeMap::<u8, BTreeSet<u16>>::new();
    for part in &region.parts {
        for protocol in PORTED {
            let ports = part.answer.ports(protocol);
            if !ports.is_all() && !part.answer.is_inverse() {
                let of = ports
                    .intervals()
                    .iter()
                    .flat_map(|(low, high)| [Some(*low), high.checked_add(1)]);
                edges.entry(protocol).or_default().extend(of.flatten());
            }
        }
    }
    edges
}

/// What an answer grants. Port 0 only together with all others: it is how a port that cannot be
/// read looks.
fn pieces(answer: &Answer, edges: &BTreeMap<u8, BTreeSet<u16>>) -> BTreeSet<Option<What>> {
    if *answer == Answer::Permit {
        return BTreeSet::from([None]);
    }
    if answer.is_inverse() {
        return BTreeSet::new();
    }
    let mut list = BTreeSet::new();
    for protocol in PORTED {
        let ports = answer.ports(protocol);
        if ports.is_all() {
            list.insert(Some((protocol, None)));
            continue;
        }
        for &(low, high) in ports.intersection(&PortSet::of([(1, u16::MAX)])).intervals() {
            let mut from = low;
            let inside = edges
                .get(&protocol)
                .filter(|_| low < high)
                .map(|edges| edges.range(low + 1..=high));
            for &edge in inside.into_iter().flatten() {
                list.insert(Some((protocol, Some((from, edge - 1)))));
                from = edge;
            }
            list.insert(Some((protocol, Some((from, high)))));
        }
    }
    list
}

fn has(answer: &Answer, what: Option<What>) -> bool {
    match what {
        None => *answer == Answer::Permit,
        Some((protocol, None)) => answer.ports(protocol).is_all(),
        Some((protocol, Some((low, high)))) => answer.ports(protocol).holds_all((low, high)),
    }
}

/// The parts directly inside each part.
fn children(region: &Region) -> Vec<Vec<usize>> {
    let mut children = vec![Vec::new(); region.parts.len()];
    let mut open: Vec<usize> = Vec::new();
    for (at, part) in region.parts.iter().enumerate() {
        while open.last().is_some_and(|&o| !covers(region.parts[o].prefix, part.prefix)) {
            open.pop();
        }
        if let Some(&parent) = open.last() {
            children[parent].push(at);
        }
        open.push(at);
    }
    children
}

/// The search for the prefixes of one grant.
struct Search<'a> {
    region: &'a Region,
    children: &'a [Vec<usize>],
    /// For each part, whether its own addresses must have the grant and whether they may; and the
    /// same of it together with all parts inside: whether some must, and whether all may.
    must: Vec<bool>,
    may: Vec<bool>,
    some_must: Vec<bool>,
    all_may: Vec<bool>,
    /// The prefixes found so far, each with the parts that must have the grant.
    found: Vec<(IpNetwork, Vec<usize>)>,
    /// The most prefixes that are of any use: the search ends beyond.
    left: usize,
}

impl Search<'_> {
    /// Covers what must have the grant within `prefix`, which belongs to the part `label` but for
    /// the parts `inside`.
    fn cover(&mut self, prefix: IpNetwork, label: usize, inside: &[usize]) {
        if self.found.len() > self.left {
            return;
        }
        let wanted: Vec<usize> = inside.iter().copied().filter(|c| self.some_must[*c]).collect();
        if !self.must[label] && wanted.is_empty() {
            return;
        }
        // Everybody in here may have it: one grant for all.
        if self.may[label] && inside.iter().all(|c| self.all_may[*c]) {
            let mut parts = Vec::new();
            if self.must[label] {
                parts.push(label);
            }
            wanted.iter().for_each(|c| self.reasons(*c, &mut parts));
            self.found.push((prefix, parts));
            return;
        }
        // Somebody may not. If the label itself does not need the grant, go straight to the
        // shortest prefix around those who do; else halve, until the halves separate them.
        let narrow = match wanted.as_slice() {
            _ if self.must[label] => prefix,
            &[one] => self.region.parts[one].prefix,
            all => common(
                self.region.parts[all[0]].prefix,
                self.region.parts[all[all.len() - 1]].prefix,
            ),
        };
        if narrow != prefix {
            self.step(narrow, label, inside);
            return;
        }
        if let Some(halves) = halves(prefix) {
            halves.into_iter().for_each(|half| self.step(half, label, inside));
        }
    }

    /// Goes on with a longer prefix.
    fn step(&mut self, prefix: IpNetwork, label: usize, inside: &[usize]) {
        let children = self.children;
        match inside.iter().find(|c| self.region.parts[**c].prefix == prefix) {
            Some(&child) => self.cover(prefix, child, &children[child]),
            None => {
                let within = |c: &usize| covers(prefix, self.region.parts[*c].prefix);
                let inside: Vec<usize> = inside.iter().copied().filter(within).collect();
                // A half may lie inside a part of the list only where it is one, which the caller
                // halved on the way.
                self.cover(prefix, label, &inside);
            }
        }
    }

    /// The parts inside `at`, itself included, that need the grant.
    fn reasons(&self, at: usize, list: &mut Vec<usize>) {
        if self.must[at] {
            list.push(at);
        }
        self.children[at]
            .iter()
            .filter(|c| self.some_must[**c])
            .for_each(|c| self.reasons(*c, list));
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// A prefix of the same family as `like`; `bits` are left-aligned.
fn prefix(bits: u128, length: u8, like: IpNetwork) -> IpNetwork {
    let bits = if length == 0 { 0 } else { bits & (u128::MAX << (128 - length)) };
    let address: IpAddr = match like {
        IpNetwork::V4(_) => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
        IpNetwork::V6(_) => Ipv6Addr::from_bits(bits).into(),
    };
    IpNetwork::new(address, length).expect("no longer than an address")
}

/// The longest prefix that holds both.
fn common(a: IpNetwork, b: IpNetwork) -> IpNetwork {
    let same = (bits(a.network()) ^ bits(b.network())).leading_zeros() as u8;
    prefix(bits(a.network()), same.min(a.prefix()).min(b.prefix()), a)
}

/// Both halves; None of a single address.
fn halves(whole: IpNetwork) -> Option<[IpNetwork; 2]> {
    let length = whole.prefix() + 1;
    let most = if whole.is_ipv4() { 32 } else { 128 };
    let low = bits(whole.network());
    (length <= most)
        .then(|| [prefix(low, length, whole), prefix(low | 1 << (128 - length), length, whole)])
}

#[cfg(test)]
mod tests {
    use netpolc_table::schema::Family;

    use super::*;
    use crate::lower::region::Part;

    fn ports(list: &[(u8, (u16, u16))]) -> Answer {
        let mut ports = BTreeMap::<u8, Vec<(u16, u16)>>::new();
        list.iter().for_each(|(protocol, range)| ports.entry(*protocol).or_default().push(*range));
        Answer::Ports(ports.into_iter().map(|(p, list)| (p, PortSet::of(list))).collect())
    }

    fn region(parts: &[(&str, Answer)]) -> Region {
        let part = |(prefix, answer): &(&str, Answer)| Part {
            prefix: prefix.parse().unwrap(),
            answer: answer.clone(),
            origins: Origins::default(),
        };
        Region { family: Family::V4, parts: parts.iter().map(part).collect() }
    }

    fn listed(grants: Vec<Grant>) -> Vec<(String, Option<What>)> {
        grants.into_iter().map(|g| (g.prefix.to_string(), g.what)).collect()
    }

    #[test]
    fn a_hole_splits_only_what_it_is_denied() {
        let region = region(&[
            ("0.0.0.0/0", ports(&[(6, (80, 80))])),
            ("10.0.1.0/28", ports(&[(6, (80, 80)), (17, (53, 53))])),
            ("10.0.1.8/29", ports(&[(6, (80, 80))])),
        ]);
        let (web, dns) = (Some((6, Some((80, 80)))), Some((17, Some((53, 53)))));
        let expected = vec![("0.0.0.0/0".into(), web), ("10.0.1.0/29".into(), dns)];
        assert_eq!(listed(union(&region, Cut::Longest, 2).unwrap()), expected);
    }

    #[test]
    fn grants_give_exactly_the_region() {
        let region = region(&[
            ("0.0.0.0/0", Answer::Deny),
            ("10.0.0.0/8", ports(&[(6, (80, 90))])),
            ("10.1.0.0/16", Answer::Deny),
            ("10.1.2.0/24", ports(&[(6, (80, 100)), (132, (0, 65535))])),
            ("10.1.2.3/32", Answer::Permit),
            ("10.128.0.0/9", ports(&[(6, (85, 100))])),
        ]);
        for cut in [Cut::Longest, Cut::Elementary] {
            let grants = union(&region, cut, 100).unwrap();
            assert_eq!(union(&region, cut, grants.len()).as_ref(), Some(&grants));
            assert_eq!(union(&region, cut, grants.len() - 1), None, "more than wanted");
            for address in [
                "9.9.9.9",
                "10.0.0.1",
                "10.1.0.1",
                "10.1.2.1",
                "10.1.2.3",
                "10.127.0.1",
                "10.200.0.1",
            ] {
                let address: IpAddr = address.parse().unwrap();
                let answer = &region.part(address).answer;
                for protocol in [6, 17, 132, 47] {
                    for port in [1, 79, 80, 84, 85, 90, 91, 100, 101] {
                        let port = PORTED.contains(&protocol).then_some(port);
                        let granted = grants.iter().any(|g| {
                            g.prefix.contains(address)
                                && g.what.is_none_or(|(p, ports)| {
                                    p == protocol
                                        && ports.is_none_or(|(l, h)| {
                                            port.is_some_and(|n| (l..=h).contains(&n))
                                        })
                                })
                        });
                        assert_eq!(
                            granted,
                            answer.permits(protocol, port),
                            "{cut:?} {address} {protocol} {port:?}"
                        );
                    }
                }
            }
        }
    }
}
