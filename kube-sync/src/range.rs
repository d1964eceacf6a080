//! Chooses the addresses of pods that have none: from a range that holds no address of the input,
//! and that no rule is about, so that made-up addresses change no answer.
//!
//! Rules about a whole family (`0.0.0.0/0`) are about every range. Where such a block has excepts,
//! these are mostly the networks of the cluster ("everything but what is private"), so a range
//! within an except is preferred. Not here: which pods have no address (`made_up`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use netpolc_policy::{
    Block, Cluster, Direction, Frontends, GroupPeer, IpFamily, Isolation, ObjectKey, Peer, Peers,
    Policy, Staged, TierPeer,
};

use crate::{ObjectId, ObjectKind};

/// Where IPv4 ranges are looked for, in this order and from the end of each: private networks, the
/// one of carriers, the one for benchmarks, and what is reserved.
const POOLS: [(Ipv4Addr, u8); 6] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(240, 0, 0, 0), 8),
];

/// Where IPv6 ranges are looked for, each a /64: unique local addresses, and documentation.
const POOLS_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd6e, 0x6574, 0x706f, 0x6c63, 0, 0, 0, 0),
    Ipv6Addr::new(0xfdff, 0x6574, 0x706f, 0x6c63, 0, 0, 0, 0),
    Ipv6Addr::new(0xfc00, 0x6574, 0x706f, 0x6c63, 0, 0, 0, 0),
    Ipv6Addr::new(0x2001, 0xdb8, 0x6e65, 0x7470, 0, 0, 0, 0),
    Ipv6Addr::new(0x3fff, 0xff, 0x6e65, 0x7470, 0, 0, 0, 0),
];

/// The lengths of the prefixes of IPv4 ranges: the smaller range where it holds all.
const LENGTHS: [u8; 2] = [16, 12];

/// A block up to this long stands for a whole family, or for a half or a quarter of it.
const WIDE: u8 = 2;

/// A range, with the object whose block holds it, where every range is in some block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub network: IpNetwork,
    pub inside: Option<(ObjectId, IpNetwork)>,
}

/// The ranges of both families, IPv4 first, each with room for `count` addresses; None of a family
/// where there is no such range.
pub(crate) fn choose(cluster: &Cluster, frontends: &Frontends, count: usize) -> [Option<Range>; 2] {
    let taken = Taken::of(cluster, frontends);
    let length = LENGTHS.into_iter().find(|length| count + 2 < 1 << (32 - length));
    let v4 = length.and_then(|length| taken.best(v4_candidates(length)));
    let v6 = POOLS_V6.into_iter().filter_map(|at| Ipv6Network::new(at, 64).ok());
    [v4, taken.best(v6.map(IpNetwork::V6))]
}

/// The address number `index` of a range, from 0.
pub(crate) fn address(range: IpNetwork, index: usize) -> IpAddr {
    match range {
        IpNetwork::V4(network) => {
            let index = u32::try_from(index + 1).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(network.network()).saturating_add(index)).into()
        }
        IpNetwork::V6(network) => {
            Ipv6Addr::from(u128::from(network.network()) + index as u128 + 1).into()
        }
    }
}

fn v4_candidates(length: u8) -> impl Iterator<Item = IpNetwork> {
    POOLS.into_iter().filter(move |(_, pool)| *pool <= length).flat_map(move |(from, pool)| {
        let size = 1u64 << (32 - length);
        let many = 1u64 << (length - pool);
        (0..many).rev().filter_map(move |index| {
            let at = u64::from(u32::from(from)) + index * size;
            let at = Ipv4Addr::from(u32::try_from(at).ok()?);
            Ipv4Network::new(at, length).ok().map(IpNetwork::V4)
        })
    })
}

/// What a range must not be in.
struct Taken {
    /// Addresses and networks that something has.
    used: Vec<IpNetwork>,
    /// Blocks that rules are about, with the objects that have the rules.
    blocks: Vec<(Block, ObjectId)>,
}

impl Taken {
    fn of(cluster: &Cluster, frontends: &Frontends) -> Self {
        let mut taken = Taken { used: Vec::new(), blocks: Vec::new() };
        taken.of_policies(cluster);
        for policy in cluster.tiers.values() {
            let key = ObjectKey::new("", policy.key.name.clone());
            let id = ObjectId { kind: ObjectKind::Tier(policy.key.api), key };
            for rule in Direction::BOTH.into_iter().flat_map(|d| policy.rules(d)) {
                for peer in &rule.peers {
                    let TierPeer::Networks(networks) = peer else { continue };
                    networks.iter().for_each(|network| taken.network(*network, &id));
                }
            }
        }
        let security = &cluster.security;
        for (group, described) in &security.groups {
            let key = ObjectKey::new("", group.as_str());
            let id = ObjectId { kind: ObjectKind::Group, key };
            for rule in described.ingress.iter().chain(&described.egress) {
                for peer in &rule.peers {
                    let GroupPeer::Network(network) = peer else { continue };
                    taken.network(*network, &id);
                }
            }
        }
        for (list, networks) in &security.prefix_lists {
            let key = ObjectKey::new("", list.as_str());
            let id = ObjectId { kind: ObjectKind::PrefixList, key };
            networks.iter().for_each(|network| taken.network(*network, &id));
        }
        let interfaces = security.interfaces.values().flat_map(|i| i.addresses.iter().copied());
        taken.used.extend(interfaces);
        let pods = cluster.pods.values().flat_map(|pod| &pod.addresses);
        let nodes = cluster.nodes.values().flat_map(|node| &node.addresses);
        let services = cluster.services.values().flat_map(|service| &service.addresses);
        let slices = frontends.values().flat_map(|frontend| &frontend.slices);
        let ends = slices.flat_map(|slice| slice.endpoints.iter().flat_map(|end| &end.addresses));
        let addresses = pods.chain(nodes).chain(services).chain(ends).copied();
        taken.used.extend(addresses.map(IpNetwork::from));
        taken
    }

    fn of_policies(&mut self, cluster: &Cluster) {
        let mut all: Vec<(&Policy, ObjectKind)> =
            cluster.policies.values().map(|policy| (policy, ObjectKind::Policy)).collect();
        for staged in cluster.staged.values() {
            if let Staged::Set(policy) = staged {
                all.push((policy, ObjectKind::Staged));
            }
        }
        for (policy, kind) in all {
            let id = ObjectId { kind, key: policy.key.clone() };
            for isolation in [&policy.ingress, &policy.egress] {
                let Isolation::Isolated(rules) = isolation else { continue };
                for rule in rules {
                    let Peers::Listed(peers) = &rule.peers else { continue };
                    for peer in peers {
                        if let Peer::Block(block) = peer {
                            self.blocks.push((block.clone(), id.clone()));
                        }
                    }
                }
            }
        }
    }

    fn network(&mut self, cidr: IpNetwork, whose: &ObjectId) {
        self.blocks.push((Block { cidr, except: Vec::new() }, whose.clone()));
    }

    /// The candidate that the fewest blocks are about, and of these the first.
    fn best(&self, candidates: impl Iterator<Item = IpNetwork>) -> Option<Range> {
        let mut best: Option<((usize, usize), Range)> = None;
        for network in candidates {
            if self.used.iter().any(|used| overlap(*used, network)) {
                continue;
            }
            let (mut narrow, mut open, mut inside) = (0, 0, None);
            for (block, whose) in &self.blocks {
                let sheltered = block.except.iter().any(|except| covers(*except, network));
                if !overlap(block.cidr, network) || sheltered {
                    continue;
                }
                if block.cidr.prefix() > WIDE {
                    narrow += 1;
                } else if !block.except.is_empty() {
                    open += 1;
                } else {
                    continue;
                }
                inside.get_or_insert_with(|| (whose.clone(), block.cidr));
            }
            let cost = (narrow, open);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, Range { network, inside }));
            }
            if cost == (0, 0) {
                break;
            }
        }
        best.map(|(_, range)| range)
    }
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    covers(a, b) || covers(b, a)
}

/// Is all of `inner` in `outer`?
fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    IpFamily::of(outer.ip()) == IpFamily::of(inner.ip())
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}

#[cfg(test)]
mod tests;
