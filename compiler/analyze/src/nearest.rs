//! What nearly allows a packet that is denied, and what to change for it.
//!
//! Here: the rules of a pod's policies, each with what keeps it from allowing the packet
//! ([`misses`]), the nearest first. Not here: who denies it (the oracle), and where a rule stands
//! in a file.

mod failure;
mod label;
mod measure;

use std::net::IpAddr;

use netpolc_policy::{
    Action, Cluster, Direction, Isolation, Mode, ObjectKey, Peers, Pod, Ports, SecurityGroupId,
    Tier, TierKey, TierPeer, oracle,
};
use serde::Serialize;

pub(crate) use self::label::{nearest_labels, requirement};
use self::measure::{labels, namespace_of, peer_failures, tier_peer_failures};
pub use self::{
    failure::{Failure, Of, asked},
    label::closest,
};
use crate::ports::{Listed, of_group, resolved};
use crate::traffic::TrafficSet;

/// The packet that is asked about, seen from one end.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The end whose policies are asked.
    pub pod: &'a Pod,
    /// Whether the packet goes to it or comes from it.
    pub direction: Direction,
    /// The address at the other end.
    pub remote: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    /// The destination port, or what stands in its place; None where there is none.
    pub port: Option<u16>,
}

/// A rule that does not allow the packet, with everything that keeps it from doing so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// Which rule it is; where it stands in a file is for whoever has read the file.
    pub rule: RuleName,
    /// Joined by AND: without all of these the rule would allow the packet.
    pub failures: Vec<Failure>,
    /// How far the rule is from allowing it; comparable only with other misses.
    #[serde(skip)]
    pub distance: u32,
}

/// Which rule of which object is meant. Indices count from 0 as in the API object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind")]
pub enum RuleName {
    /// A rule of a NetworkPolicy.
    NetworkPolicy {
        /// Its namespace and name.
        policy: ObjectKey,
        /// The list in which the rule stands.
        direction: Direction,
        /// Its place there.
        rule: usize,
        /// The place of the peer in the rule; None where it lists none.
        peer: Option<usize>,
    },
    /// A rule of a ClusterNetworkPolicy.
    ClusterNetworkPolicy {
        /// Its group and name.
        policy: TierKey,
        /// The tier that it is in.
        tier: Tier,
        /// The list in which the rule stands.
        direction: Direction,
        /// Its place there.
        rule: usize,
        /// The place of the peer in the rule.
        peer: Option<usize>,
    },
    /// A rule of a security group.
    SecurityGroup {
        /// The group.
        group: SecurityGroupId,
        /// The list in which the rule stands.
        direction: Direction,
        /// The rule's id where it has one, and else its place there.
        rule: String,
    },
}

impl RuleName {
    /// The field of the object in which the rule stands, such as `spec.ingress[0].from[1]`.
    pub fn field(&self) -> String {
        let of = |direction: &Direction, rule: usize, peer: &Option<usize>| {
            let peers = match direction {
                Direction::Ingress => "from",
                Direction::Egress => "to",
            };
            let peer = peer.map(|peer| format!(".{peers}[{peer}]")).unwrap_or_default();
            format!("spec.{direction}[{rule}]{peer}")
        };
        match self {
            RuleName::NetworkPolicy { direction, rule, peer, .. }
            | RuleName::ClusterNetworkPolicy { direction, rule, peer, .. } => {
                of(direction, *rule, peer)
            }
            RuleName::SecurityGroup { rule, .. } => rule.clone(),
        }
    }
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RuleName::NetworkPolicy { policy, direction, rule, .. } => {
                write!(f, "NetworkPolicy {policy}, {direction} rule {rule}")
            }
            RuleName::ClusterNetworkPolicy { policy, direction, rule, .. } => {
                write!(f, "ClusterNetworkPolicy {policy}, {direction} rule {rule}")
            }
            RuleName::SecurityGroup { group, direction, rule } => {
                write!(f, "security group {group}, {direction} rule {rule}")
            }
        }
    }
}

/// Beyond this many failures a rule has nothing to do with the packet.
const MOST_FAILURES: usize = 3;

/// The rules that come nearest to allowing a packet which `reason` denies, at most `limit`.
pub fn misses(
    cluster: &Cluster,
    packet: &Packet<'_>,
    reason: &oracle::Reason,
    limit: usize,
) -> Vec<Miss> {
    let mut found = match reason {
        oracle::Reason::Denied(_) | oracle::Reason::ByDefault => of_policies(cluster, packet),
        oracle::Reason::Refused(places) => {
            let last = places.iter().map(|place| place.tier).max();
            last.map(|tier| of_tier(cluster, packet, tier)).unwrap_or_default()
        }
        oracle::Reason::Gated(groups) => of_groups(cluster, packet, groups),
        _ => Vec::new(),
    };
    // A policy that does not even select the pod is near only where nothing else is in the way.
    let selects = |miss: &Miss| {
        let mut failures = miss.failures.iter();
        !failures.any(|failure| matches!(failure, Failure::Label { of: Of::Subject(_), .. }))
    };
    found.retain(|miss| match miss.failures.len() {
        0 => false,
        1 => true,
        count => count <= MOST_FAILURES && selects(miss),
    });
    // A block that should have a pod's address is no way out while there are others.
    let is_pod = !cluster.claimants(packet.remote).is_empty();
    let is_by_address = |miss: &Miss| {
        miss.failures.iter().any(|failure| matches!(failure, Failure::OutsideBlock { .. }))
    };
    if is_pod && found.iter().any(|miss| !is_by_address(miss)) {
        found.retain(|miss| !is_by_address(miss));
    }
    found.sort_by(|a, b| (a.distance, &a.rule).cmp(&(b.distance, &b.rule)));
    // Of the peers of one rule the nearest is enough.
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|miss| {
        seen.insert(match &miss.rule {
            RuleName::NetworkPolicy { policy, rule, .. } => (policy.to_string(), rule.to_string()),
            RuleName::ClusterNetworkPolicy { policy, rule, .. } => {
                (policy.to_string(), rule.to_string())
            }
            RuleName::SecurityGroup { group, rule, .. } => (group.to_string(), rule.clone()),
        })
    });
    found.truncate(limit);
    found
}

fn miss(rule: RuleName, failures: Vec<Failure>) -> Miss {
    let distance = failures.iter().map(Failure::distance).sum();
    Miss { rule, failures, distance }
}

fn of_policies(cluster: &Cluster, packet: &Packet<'_>) -> Vec<Miss> {
    let mut found = Vec::new();
    let here = cluster.policies.values().filter(|policy| {
        policy.key.namespace == packet.pod.key.namespace && policy.mode == Mode::Enforced
    });
    for policy in here {
        let Isolation::Isolated(rules) = policy.isolation(packet.direction) else { continue };
        let subject =
            labels(&policy.selector, &packet.pod.labels, Of::Subject(packet.pod.key.clone()));
        if subject.len() > 1 {
            continue;
        }
        for (index, rule) in rules.iter().enumerate() {
            let name = |peer| RuleName::NetworkPolicy {
                policy: policy.key.clone(),
                direction: packet.direction,
                rule: index,
                peer,
            };
            let is_block =
                |peer: &netpolc_policy::Peer| matches!(peer, netpolc_policy::Peer::Block(_));
            let with = |peer: Option<usize>, of_peer: Vec<Failure>, by_block: ByBlock| {
                let mut failures = subject.clone();
                failures.extend(of_peer);
                failures.extend(port_failure(cluster, packet, &rule.ports, by_block));
                miss(name(peer), failures)
            };
            match &rule.peers {
                Peers::Any => found.push(with(None, Vec::new(), ByBlock::No)),
                Peers::Listed(peers) => found.extend(peers.iter().enumerate().map(|(i, peer)| {
                    let failures =
                        peer_failures(cluster, &policy.key.namespace, peer, packet.remote);
                    let by_block = if is_block(peer) { ByBlock::Yes } else { ByBlock::No };
                    with(Some(i), failures, by_block)
                })),
            }
        }
    }
    found
}

fn of_tier(cluster: &Cluster, packet: &Packet<'_>, tier: Tier) -> Vec<Miss> {
    let mut found = Vec::new();
    let of_tier = cluster
        .tiers
        .values()
        .filter(|policy| policy.tier == tier && policy.mode == Mode::Enforced);
    for policy in of_tier {
        let namespace = namespace_of(cluster, &packet.pod.key.namespace);
        let mut subject = labels(
            &policy.subject.namespaces,
            namespace,
            Of::Namespace(packet.pod.key.namespace.clone()),
        );
        let pod = Of::Subject(packet.pod.key.clone());
        subject.extend(labels(&policy.subject.pods, &packet.pod.labels, pod));
        if subject.len() > 1 {
            continue;
        }
        for (index, rule) in policy.rules(packet.direction).iter().enumerate() {
            if rule.action == Action::Deny {
                continue;
            }
            let of = |peer: &TierPeer| tier_peer_failures(cluster, peer, packet.remote);
            found.extend(rule.peers.iter().enumerate().map(|(i, peer)| {
                let mut failures = subject.clone();
                failures.extend(of(peer));
                failures.extend(port_failure(cluster, packet, &rule.ports, ByBlock::No));
                let name = RuleName::ClusterNetworkPolicy {
                    policy: policy.key.clone(),
                    tier,
                    direction: packet.direction,
                    rule: index,
                    peer: Some(i),
                };
                miss(name, failures)
            }));
        }
    }
    found
}

fn of_groups(cluster: &Cluster, packet: &Packet<'_>, groups: &[SecurityGroupId]) -> Vec<Miss> {
    let mut found = Vec::new();
    for id in groups {
        let Some(group) = cluster.security.groups.get(id) else {
            let rule = RuleName::SecurityGroup {
                group: id.clone(),
                direction: packet.direction,
                rule: "none is known".into(),
            };
            found.push(miss(rule, vec![Failure::UnknownGroup { group: id.clone() }]));
            continue;
        };
        for (index, rule) in group.rules(packet.direction).iter().enumerate() {
            let listed = of_group(rule.traffic);
            let mut failures = Vec::new();
            let is_peer =
                rule.peers.iter().any(|peer| oracle::is_group_peer(cluster, peer, packet.remote));
            if !is_peer {
                let peers = rule.peers.iter().map(measure::group_peer).collect();
                failures.push(Failure::NoGroupPeer { remote: packet.remote, peers });
            }
            failures.extend(failure_of(packet, &listed));
            let rule = RuleName::SecurityGroup {
                group: id.clone(),
                direction: packet.direction,
                rule: rule.id.as_ref().map_or_else(|| index.to_string(), |id| id.to_string()),
            };
            found.push(miss(rule, failures));
        }
    }
    found
}

/// Whether the packet is meant by a block of addresses: names of ports mean nothing there (S31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByBlock {
    Yes,
    No,
}

/// Some where the rule does not list the packet's port.
fn port_failure(
    cluster: &Cluster,
    packet: &Packet<'_>,
    ports: &Ports,
    by_block: ByBlock,
) -> Option<Failure> {
    let Listed { known: mut listed, names } = Listed::of(ports);
    let destinations: Vec<&Pod> = match packet.direction {
        Direction::Ingress => vec![packet.pod],
        Direction::Egress if by_block == ByBlock::Yes => Vec::new(),
        Direction::Egress => cluster.claimants(packet.remote),
    };
    let mut unresolved = Vec::new();
    for (protocol, name) in names {
        let each = destinations.iter().map(|pod| resolved(pod, protocol, &name));
        let resolved = each.reduce(|a, b| a.intersection(&b)).unwrap_or_default();
        if resolved.is_nothing() {
            unresolved.push(name);
        }
        listed = listed.union(&resolved);
    }
    if let (true, Some(name)) = (listed.is_nothing(), unresolved.first()) {
        let on = destinations.first().map(|pod| pod.key.clone());
        return Some(Failure::NoPortNamed { name: name.clone(), on });
    }
    failure_of(packet, &listed)
}

fn failure_of(packet: &Packet<'_>, listed: &TrafficSet) -> Option<Failure> {
    let number = packet.port.unwrap_or(match packet.protocol {
        1 => 8 << 8,
        58 => 128 << 8,
        _ => 0,
    });
    if listed.contains(packet.protocol, number) {
        return None;
    }
    Some(Failure::Port { listed: listed.clone(), protocol: packet.protocol, port: packet.port })
}
