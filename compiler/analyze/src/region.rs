//! Regions: the parts of the address space between which some rule tells apart.
//!
//! Here: which region an address is in, which regions a block has, and the addresses of a region as
//! prefixes. Not here: pods and nodes, which stand in regions like any other address.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Block, Cluster, Direction, GroupPeer, IpFamily, Isolation, Peer, Peers, TierPeer,
};

/// The addresses of a prefix that are in no longer prefix which a rule names. Regions of one family
/// follow each other as prefixes do, so those within a prefix stand in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(u32);

impl RegionId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// All regions of a cluster's rules.
#[derive(Clone, Debug)]
pub struct Regions {
    /// Each prefix, with the end of the regions within it. Sorted by family, address and length.
    prefixes: Vec<(IpNetwork, u32)>,
    at: HashMap<IpNetwork, u32>,
    /// The lengths that occur, the longest first.
    lengths: [Vec<u8>; 2],
}

impl Regions {
    /// The regions that the rules of any of these clusters tell apart.
    pub fn of_all(clusters: &[&Cluster]) -> Self {
        Self::of_prefixes(of_rules(clusters))
    }

    /// The regions of a cluster's rules, with one more prefix whose addresses are told apart.
    pub fn beside(cluster: &Cluster, prefix: &IpNetwork) -> Self {
        let masked = IpNetwork::new(prefix.network(), prefix.prefix()).ok();
        Self::of_prefixes(of_rules(&[cluster]).into_iter().chain(masked))
    }

    /// The regions that these prefixes tell apart; none may have bits behind its length.
    pub fn of_prefixes(prefixes: impl IntoIterator<Item = IpNetwork>) -> Self {
        let mut all = BTreeSet::from(IpFamily::BOTH.map(whole));
        all.extend(prefixes);
        let order = |n: &IpNetwork| (IpFamily::of((n).ip()), n.network(), n.prefix());
        let mut prefixes: Vec<(IpNetwork, u32)> = all.into_iter().map(|n| (n, 0)).collect();
        prefixes.sort_by_key(|(network, _)| order(network));
        let mut open: Vec<usize> = Vec::new();
        for at in 0..prefixes.len() {
            let address = prefixes[at].0.network();
            while open.last().is_some_and(|o| !prefixes[*o].0.contains(address)) {
                let ended = open.pop().expect("it was there");
                prefixes[ended].1 = at as u32;
            }
            open.push(at);
        }
        let count = prefixes.len() as u32;
        open.into_iter().for_each(|at| prefixes[at].1 = count);
        let at =
            prefixes.iter().enumerate().map(|(i, (network, _))| (*network, i as u32)).collect();
        let lengths = IpFamily::BOTH.map(|family| {
            let of_family = prefixes.iter().filter(|(n, _)| IpFamily::of((n).ip()) == family);
            let lengths: BTreeSet<u8> = of_family.map(|(n, _)| n.prefix()).collect();
            lengths.into_iter().rev().collect()
        });
        Self { prefixes, at, lengths }
    }

    /// All regions, in order.
    pub fn ids(&self) -> impl Iterator<Item = RegionId> {
        (0..self.prefixes.len() as u32).map(RegionId)
    }

    /// The region that has the address.
    pub fn containing(&self, address: IpAddr) -> RegionId {
        let lengths = &self.lengths[IpFamily::of(address) as usize];
        let prefix = |length: &u8| {
            let network = IpNetwork::new(address, *length).ok()?;
            let network = IpNetwork::new(network.network(), *length).ok()?;
            self.at.get(&network).copied()
        };
        RegionId(lengths.iter().find_map(prefix).expect("the whole family is a prefix"))
    }

    /// The family of its addresses.
    pub fn family(&self, region: RegionId) -> IpFamily {
        IpFamily::of(self.prefix(region).ip())
    }

    /// The prefix of which the region is what no longer prefix has.
    pub fn prefix(&self, region: RegionId) -> IpNetwork {
        self.prefixes[region.0 as usize].0
    }

    /// Is every address of the region in this prefix? It is one of those that a rule names.
    pub fn is_within(&self, region: RegionId, prefix: &IpNetwork) -> bool {
        match self.at.get(prefix) {
            Some(from) => (*from..self.prefixes[*from as usize].1).contains(&region.0),
            None => {
                let own = self.prefix(region);
                prefix.prefix() <= own.prefix() && prefix.contains(own.network())
            }
        }
    }

    /// Is every address of the region in the block? Otherwise none is.
    pub fn is_in_block(&self, region: RegionId, block: &Block) -> bool {
        self.is_within(region, &block.cidr)
            && !block.except.iter().any(|except| self.is_within(region, except))
    }

    /// The addresses of these regions, as few prefixes as there can be, in order.
    pub fn addresses(&self, regions: &BTreeSet<RegionId>) -> Vec<IpNetwork> {
        let mut ranges: Vec<(IpFamily, u128, u128)> = Vec::new();
        for region in regions {
            let (network, end) = self.prefixes[region.0 as usize];
            let family = IpFamily::of(network.ip());
            let (first, last) = bounds(&network);
            // The children, without what is inside of them.
            let (mut next, mut at) = (first, region.0 + 1);
            let mut is_at_end = false;
            while at < end {
                let (child, after) = self.prefixes[at as usize];
                let (from, to) = bounds(&child);
                if from > next {
                    ranges.push((family, next, from - 1));
                }
                match to.checked_add(1) {
                    Some(number) => next = number,
                    None => is_at_end = true,
                }
                at = after;
            }
            if !is_at_end && next <= last {
                ranges.push((family, next, last));
            }
        }
        ranges.sort_unstable();
        let mut merged: Vec<(IpFamily, u128, u128)> = Vec::new();
        for (family, first, last) in ranges {
            match merged.last_mut() {
                Some((f, _, end)) if *f == family && end.checked_add(1) == Some(first) => {
                    *end = last;
                }
                _ => merged.push((family, first, last)),
            }
        }
        merged.into_iter().flat_map(|(family, first, last)| cover(family, first, last)).collect()
    }
}

/// All addresses of a family.
fn whole(family: IpFamily) -> IpNetwork {
    let address: IpAddr = match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(address, 0).expect("every family has a prefix of length 0")
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn bounds(network: &IpNetwork) -> (u128, u128) {
    let bits: u32 = if network.is_ipv4() { 32 } else { 128 };
    let first = number(network.network());
    let hosts = u128::MAX.checked_shr(128 - (bits - u32::from(network.prefix()))).unwrap_or(0);
    (first, first | hosts)
}

/// The prefixes that make up an interval.
fn cover(family: IpFamily, mut first: u128, last: u128) -> Vec<IpNetwork> {
    let bits: u32 = if family == IpFamily::V4 { 32 } else { 128 };
    let mut out = Vec::new();
    loop {
        // The largest block that begins here and does not reach beyond the end.
        let mut host = first.trailing_zeros().min(bits);
        loop {
            let size = u128::MAX.checked_shr(128 - host).unwrap_or(0);
            if first.checked_add(size).is_some_and(|end| end <= last) {
                break;
            }
            host -= 1;
        }
        let address: IpAddr = match family {
            IpFamily::V4 => Ipv4Addr::from_bits(first as u32).into(),
            IpFamily::V6 => Ipv6Addr::from_bits(first).into(),
        };
        out.extend(IpNetwork::new(address, (bits - host) as u8));
        let end = first + u128::MAX.checked_shr(128 - host).unwrap_or(0);
        if end >= last {
            return out;
        }
        first = end + 1;
    }
}

/// What is left of a prefix without others that are within it, sorted and apart from each other.
pub(crate) fn without(wide: &IpNetwork, others: &[IpNetwork]) -> Vec<IpNetwork> {
    let family = IpFamily::of((wide).ip());
    let (mut next, last) = bounds(wide);
    let mut left = Vec::new();
    for other in others {
        let (first, end) = bounds(other);
        if first > next {
            left.extend(cover(family, next, first - 1));
        }
        if end >= last {
            return left;
        }
        next = end + 1;
    }
    left.extend(cover(family, next, last));
    left
}

/// Every prefix that a rule of these clusters names.
fn of_rules(clusters: &[&Cluster]) -> BTreeSet<IpNetwork> {
    let mut all = BTreeSet::new();
    for cluster in clusters {
        named(cluster, &mut |network| {
            all.insert(*network);
        });
    }
    all
}

/// Every prefix that a rule of the cluster names.
fn named(cluster: &Cluster, each: &mut impl FnMut(&IpNetwork)) {
    let staged = cluster.staged.values().filter_map(|staged| match staged {
        netpolc_policy::Staged::Set(policy) => Some(policy),
        netpolc_policy::Staged::Delete => None,
    });
    for policy in cluster.policies.values().chain(staged) {
        for direction in Direction::BOTH {
            let Isolation::Isolated(rules) = policy.isolation(direction) else { continue };
            for rule in rules {
                let Peers::Listed(peers) = &rule.peers else { continue };
                for peer in peers {
                    if let Peer::Block(block) = peer {
                        each(&block.cidr);
                        block.except.iter().for_each(&mut *each);
                    }
                }
            }
        }
    }
    for policy in cluster.tiers.values() {
        for rule in policy.ingress.iter().chain(&policy.egress) {
            for peer in &rule.peers {
                if let TierPeer::Networks(networks) = peer {
                    networks.iter().for_each(&mut *each);
                }
            }
        }
    }
    let security = &cluster.security;
    for group in security.groups.values() {
        for rule in group.ingress.iter().chain(&group.egress) {
            for peer in &rule.peers {
                if let GroupPeer::Network(network) = peer {
                    each(network);
                }
            }
        }
    }
    security.prefix_lists.values().flatten().for_each(&mut *each);
    security.interfaces.values().flat_map(|i| &i.addresses).for_each(&mut *each);
    let fixed = netpolc_policy::group::RESOLVERS.iter();
    for resolver in fixed.chain(&security.resolvers) {
        each(&IpNetwork::from(*resolver));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_covered_by_few_prefixes() {
        let texts = |first: &str, last: &str| {
            let [a, b]: [IpAddr; 2] = [first, last].map(|t| t.parse().expect("an address"));
            let prefixes = cover(IpFamily::of(a), number(a), number(b));
            prefixes.iter().map(IpNetwork::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts("0.0.0.0", "255.255.255.255"), "0.0.0.0/0");
        assert_eq!(texts("10.0.0.1", "10.0.0.4"), "10.0.0.1/32 10.0.0.2/31 10.0.0.4/32");
        assert_eq!(texts("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "::/0");
        assert_eq!(texts("255.255.255.255", "255.255.255.255"), "255.255.255.255/32");
    }
}
