//! Denied openings as filters that only drop, in any order: for NICs without priority.
//!
//! No filter matches an allowed opening, so any subset of them is sound. Not here: which openings
//! are denied ([`super::openings`]), what is left out ([`super::budget`]).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netpolc_table::Origins;

use super::{
    openings::{Openings, covering},
    ports::PortSet,
    region::covers,
};
use crate::{
    capability::Capabilities,
    filter::{Masked, Ports},
};

/// Something to drop: openings of some ports to or from a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// The remote addresses.
    pub prefix: IpNetwork,
    /// The destination ports; None is every port.
    pub ports: Option<Ports>,
    /// The policies and rules behind it.
    pub origins: Origins,
}

/// All drops of a region, and how many more there would be if the NIC could tell keys of value 0
/// (`unread`) or masks on ports (`unmasked`).
#[derive(Clone, Debug, Default)]
pub struct Drops {
    /// What the NIC can drop.
    pub drops: Vec<Drop>,
    /// Filters that were left out for their keys of value 0.
    pub unread: u32,
    /// Filters that were left out since a set of ports would take one filter for each of too many.
    pub unmasked: u32,
}

/// The most filters that one set of ports may take where ports have no masks.
const SINGLE_PORTS: usize = 1024;
/// Where keys of value 0 are not read, prefixes at 0.0.0.0 and :: are split down to this length;
/// what remains below it is left out.
const ZERO: u8 = 8;
/// How deep prefixes may be nested for ports to be dropped for a prefix and all that is in it at
/// once.
const NESTED: usize = 4;

/// The denied openings of a region as drops that this NIC can do.
pub fn drops(openings: &Openings, can: &Capabilities) -> Drops {
    let prefixes: Vec<IpNetwork> = openings.parts().iter().map(|p| p.prefix).collect();
    let above = covering(&prefixes);
    let mut tree = Tree { openings, below: vec![vec![]; prefixes.len()], common: vec![] };
    for (at, cover) in above.iter().enumerate() {
        if let Some(cover) = cover {
            tree.below[*cover].push(at);
        }
    }
    // From the innermost parts outwards: children stand behind their parents.
    tree.common = openings.parts().iter().map(|p| p.allowed.complement()).collect();
    for at in (0..prefixes.len()).rev() {
        if let Some(cover) = above[at] {
            tree.common[cover] = tree.common[cover].intersection(&tree.common[at]);
        }
    }
    let mut all = Drops::default();
    for (prefix, ports, origins) in tree.denied(0, &PortSet::none(), 0) {
        all.add(prefix, &ports, &origins, can);
    }
    all
}

/// A region's parts with what is nested in each.
struct Tree<'a> {
    openings: &'a Openings,
    /// The parts directly inside each part.
    below: Vec<Vec<usize>>,
    /// Ports that are denied for all of a part, whatever is nested in it.
    common: Vec<PortSet>,
}

/// Ports to drop for a prefix, and why.
type Piece = (IpNetwork, PortSet, Origins);

impl Tree<'_> {
    /// What is denied in a part, apart from the ports that are `done`, which a filter for a prefix
    /// around it drops already. Of two ways the one that takes fewer filters: each part by itself,
    /// or first what is denied in all of it at once, holes included.
    fn denied(&self, at: usize, done: &PortSet, depth: usize) -> Vec<Piece> {
        let plain = self.pieces(at, done, depth);
        let more = self.common[at].without(done);
        if self.below[at].is_empty() || more.is_empty() || depth >= NESTED {
            return plain;
        }
        let part = &self.openings.parts()[at];
        let mut at_once = vec![(part.prefix, more.clone(), part.origins.clone())];
        at_once.extend(self.pieces(at, &done.union(&more), depth));
        let cost = |list: &[Piece]| {
            list.iter().map(|(_, ports, _)| ports.as_blocks().len()).sum::<usize>()
        };
        if cost(&at_once) < cost(&plain) { at_once } else { plain }
    }

    /// The denied ports of a part by itself, cut around the parts nested in it, and those of these.
    fn pieces(&self, at: usize, done: &PortSet, depth: usize) -> Vec<Piece> {
        let part = &self.openings.parts()[at];
        let denied = part.allowed.complement();
        let mut list = Vec::new();
        let own = denied.without(done);
        if !own.is_empty() {
            // Dropping once more what is dropped already may take fewer filters.
            let own = if denied.as_blocks().len() < own.as_blocks().len() { denied } else { own };
            let holes: Vec<IpNetwork> =
                self.below[at].iter().map(|b| self.openings.parts()[*b].prefix).collect();
            list.extend(
                minus(part.prefix, &holes)
                    .into_iter()
                    .map(|p| (p, own.clone(), part.origins.clone())),
            );
        }
        for below in &self.below[at] {
            list.extend(self.denied(*below, done, depth + 1));
        }
        list
    }
}

impl Drops {
    fn add(&mut self, prefix: IpNetwork, ports: &PortSet, origins: &Origins, can: &Capabilities) {
        let Some(ports) = blocks(ports, can) else {
            self.unmasked += 1;
            return;
        };
        let prefixes = if can.zero_keys { vec![prefix] } else { self.read(prefix) };
        for ports in &ports {
            let ports = match ports {
                Some(Ports::Masked(m)) if !can.zero_keys && m.value == 0 => {
                    // A block that begins with port 0 reads as no key, so it is written as the
                    // blocks without port 0, which itself is left out.
                    self.unread += 1;
                    let rest = PortSet::of([(1, !m.mask)]);
                    blocks(&rest, can).unwrap_or_default()
                }
                other => vec![*other],
            };
            for prefix in &prefixes {
                self.drops.extend(ports.iter().map(|p| Drop {
                    prefix: *prefix,
                    ports: *p,
                    origins: origins.clone(),
                }));
            }
        }
    }

    /// A prefix as prefixes that have a bit set, so that the NIC reads them as keys. What remains
    /// at 0.0.0.0 or :: is left out.
    fn read(&mut self, prefix: IpNetwork) -> Vec<IpNetwork> {
        if prefix.prefix() == 0 || !prefix.network().is_unspecified() {
            return vec![prefix];
        }
        self.unread += 1;
        let mut list = Vec::new();
        let mut rest = prefix;
        while rest.prefix() < ZERO {
            let [low, high] = halves(rest);
            list.push(high);
            rest = low;
        }
        list
    }
}

/// A set of ports as keys; None where it would take too many.
pub fn blocks(ports: &PortSet, can: &Capabilities) -> Option<Vec<Option<Ports>>> {
    if can.port_masks || ports.is_all() {
        return Some(ports.as_masked());
    }
    let count: usize =
        ports.intervals().iter().map(|(low, high)| usize::from(high - low) + 1).sum();
    (count <= SINGLE_PORTS).then(|| {
        let single = ports.intervals().iter().flat_map(|(low, high)| *low..=*high);
        single.map(|port| Some(Ports::Masked(Masked::exact(port)))).collect()
    })
}

/// How many keys [`blocks`] gives; None where it would be too many.
pub fn count(ports: &PortSet, can: &Capabilities) -> Option<usize> {
    if can.port_masks || ports.is_all() {
        return Some(ports.as_blocks().len());
    }
    let count = ports.intervals().iter().map(|(low, high)| usize::from(high - low) + 1).sum();
    (count <= SINGLE_PORTS).then_some(count)
}

/// `prefix` without `holes`, as the fewest disjoint prefixes, in order. Holes are in `prefix`,
/// sorted and disjoint.
pub fn minus(prefix: IpNetwork, holes: &[IpNetwork]) -> Vec<IpNetwork> {
    let mut list = Vec::new();
    cut(prefix, holes, &mut list);
    list
}

/// Halves the prefix until each half is a hole or has none.
fn cut(prefix: IpNetwork, holes: &[IpNetwork], list: &mut Vec<IpNetwork>) {
    match holes {
        [] => list.push(prefix),
        [hole] if *hole == prefix => {}
        _ => {
            let [low, high] = halves(prefix);
            let middle = holes.partition_point(|h| covers(low, *h));
            cut(low, &holes[..middle], list);
            cut(high, &holes[middle..], list);
        }
    }
}

fn halves(prefix: IpNetwork) -> [IpNetwork; 2] {
    let length = prefix.prefix() + 1;
    let high: IpAddr = match prefix.network() {
        IpAddr::V4(a) => std::net::Ipv4Addr::from_bits(a.to_bits() | 1 << (32 - length)).into(),
        IpAddr::V6(a) => std::net::Ipv6Addr::from_bits(a.to_bits() | 1 << (128 - length)).into(),
    };
    let half = |address: IpAddr| {
        IpNetwork::new(address, length).expect("a hole is inside, so the prefix can be halved")
    };
    [half(prefix.network()), half(high)]
}

#[cfg(test)]
mod tests {
    use netpolc_table::schema::Family;

    use super::*;
    use crate::{
        lower::{
            openings::Opening,
            region::{Answer, Part, Region, whole},
        },
        quirks::capabilities,
    };

    fn openings(parts: &[(&str, PortSet)]) -> Openings {
        let all =
            Part { prefix: whole(Family::V4), answer: Answer::Deny, origins: Origins::default() };
        let mut all = Openings::of(&Region { family: Family::V4, parts: vec![all] });
        let part = |(prefix, allowed): &(&str, PortSet)| Opening {
            prefix: prefix.parse().unwrap(),
            allowed: allowed.clone(),
            origins: Origins::default(),
        };
        all.set(parts.iter().map(part));
        all
    }

    fn dropped(drops: &Drops, address: IpAddr, port: u16) -> bool {
        drops
            .drops
            .iter()
            .any(|d| d.prefix.contains(address) && d.ports.is_none_or(|p| p.holds(port)))
    }

    #[test]
    fn the_union_of_drops_is_what_is_denied_s18_s22() {
        let web = PortSet::of([(80, 80), (8000, 8010)]);
        let all = openings(&[
            ("10.0.0.0/8", web.clone()),
            ("10.1.0.0/16", PortSet::none()),
            ("10.1.2.0/24", PortSet::all()),
            ("128.0.0.0/1", web),
        ]);
        for driver in ["simnic", "sfc"] {
            let drops = drops(&all, &capabilities(driver));
            for address in [
                [10, 0, 0, 1],
                [10, 1, 0, 1],
                [10, 1, 2, 1],
                [9, 0, 0, 1],
                [200, 0, 0, 1],
                [0, 0, 0, 0],
            ] {
                for port in [0, 79, 80, 81, 8000, 8010, 8011, 65535] {
                    let denied = !all.at(address.into()).allowed.holds(port);
                    let got = dropped(&drops, address.into(), port);
                    assert!(!got || denied, "{driver} {address:?} {port}");
                    assert!(got || !denied || drops.unmasked > 0, "{driver} {address:?} {port}");
                }
            }
        }
    }

    #[test]
    fn keys_of_value_zero_are_split_or_left_out() {
        let can = Capabilities { zero_keys: false, ..capabilities("simnic") };
        let drops = drops(
            &openings(&[
                ("128.0.0.0/1", PortSet::all()),
                ("64.0.0.0/2", PortSet::of([(443, 443)])),
            ]),
            &can,
        );
        assert!(drops.unread > 0);
        for drop in &drops.drops {
            assert!(drop.prefix.prefix() == 0 || !drop.prefix.network().is_unspecified());
            assert!(!matches!(drop.ports, Some(Ports::Masked(m)) if m.value == 0));
        }
        assert!(
            dropped(&drops, [1, 2, 3, 4].into(), 443) && dropped(&drops, [65, 2, 3, 4].into(), 1)
        );
    }

    #[test]
    fn a_prefix_without_holes_is_the_fewest_prefixes() {
        let prefix = |p: &str| p.parse::<IpNetwork>().unwrap();
        assert_eq!(minus(prefix("10.0.0.0/8"), &[]), [prefix("10.0.0.0/8")]);
        assert_eq!(minus(prefix("0.0.0.0/0"), &[prefix("10.0.0.0/8")]).len(), 8);
        assert!(minus(prefix("::1/128"), &[prefix("::1/128")]).is_empty());
    }
}
