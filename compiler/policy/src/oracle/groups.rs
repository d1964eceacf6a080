//! The oracle's answer where a pod has security groups: a gate beside tiers and NetworkPolicies,
//! which a packet has to pass too (S62, S75-S82).

use std::{collections::BTreeSet, net::IpAddr};

use super::Case;
use crate::{
    Cluster, Direction, Enforcement, GroupPeer, GroupRule, IcmpVersion, Pod, SecurityGroupId,
    Selector, Traffic, group::RESOLVERS,
};

/// What groups say of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// The pod has none.
    Absent,
    /// One of them permits it.
    Permits,
    /// These are the pod's, and none permits it.
    Denies(Vec<SecurityGroupId>),
}

pub(super) fn gate(case: &Case) -> Gate {
    let Some(groups) = of_pod(case.cluster, case.pod) else { return Gate::Absent };
    if case.cluster.security.enforcement == Enforcement::Standard && stays_on_node(case) {
        return Gate::Permits;
    }
    let resolvers = RESOLVERS.iter().chain(&case.cluster.security.resolvers);
    if case.direction == Direction::Egress && resolvers.into_iter().any(|r| *r == case.remote) {
        return Gate::Permits;
    }
    let known = groups.iter().filter_map(|id| case.cluster.security.groups.get(id));
    let mut rules = known.flat_map(|group| group.rules(case.direction));
    match rules.any(|rule| permits(case, rule)) {
        true => Gate::Permits,
        false => Gate::Denies(groups.into_iter().collect()),
    }
}

/// S82: is the remote an address of the pod's own node, or of pods on it?
fn stays_on_node(case: &Case) -> bool {
    let remote = case.cluster.claimants(case.remote);
    let is_beside = |pod: &&Pod| pod.node.is_some() && pod.node == case.pod.node;
    super::with_own_node(case) || !remote.is_empty() && remote.iter().all(is_beside)
}

/// S75: None where the pod has no group, so that groups say nothing about it. An interface that is
/// not known, as well as no data at all, leaves a pod that names groups with none that permits.
pub fn of_pod(cluster: &Cluster, pod: &Pod) -> Option<BTreeSet<SecurityGroupId>> {
    let security = &cluster.security;
    if !pod.grouping.interfaces.is_empty() {
        let known = pod.grouping.interfaces.iter().filter_map(|id| security.interfaces.get(id));
        return Some(known.flat_map(|interface| interface.groups.iter().cloned()).collect());
    }
    if !pod.grouping.fargate.is_empty() {
        return Some(pod.grouping.fargate.iter().cloned().collect());
    }
    let account = crate::ObjectKey::new(pod.key.namespace.clone(), pod.grouping.account.clone());
    let nothing = crate::Labels::default();
    let account = security.accounts.get(&account).unwrap_or(&nothing);
    let mut groups = BTreeSet::new();
    for policy in security.policies.values().filter(|p| p.key.namespace == pod.key.namespace) {
        let matches = |selector: &Option<Selector>, labels| {
            selector.as_ref().is_none_or(|selector| selector.matches(labels))
        };
        let has_selector = policy.pods.is_some() || policy.accounts.is_some();
        if has_selector && matches(&policy.pods, &pod.labels) && matches(&policy.accounts, account)
        {
            groups.extend(policy.groups.iter().cloned());
        }
    }
    (!groups.is_empty()).then_some(groups)
}

fn permits(case: &Case, rule: &GroupRule) -> bool {
    let asked = case.protocol.protocol();
    let traffic = match rule.traffic {
        Traffic::Everything => true,
        Traffic::Ports { protocol, first, last } => {
            asked == Some(protocol) && case.port.is_some_and(|n| (first..=last).contains(&n))
        }
        Traffic::Protocol(number) => number == case.protocol.number() && is_at_home(case, number),
        Traffic::Icmp { version, kind, code } => {
            let number = version.number();
            number == case.protocol.number()
                && is_at_home(case, number)
                && is_message(case, version, kind, code)
        }
    };
    traffic && rule.peers.iter().any(|peer| is_peer(case.cluster, peer, case.remote))
}

/// S83: each of the two ICMPs belongs to a family, and rules about it to packets of that one.
fn is_at_home(case: &Case, number: u8) -> bool {
    match number {
        1 => case.remote.is_ipv4(),
        58 => case.remote.is_ipv6(),
        _ => true,
    }
}

/// Does the question ask about a message of this type and code? An echo request, unless it says
/// otherwise. A code without a type is none of any.
fn is_message(case: &Case, version: IcmpVersion, kind: Option<u8>, code: Option<u8>) -> bool {
    let echo = match version {
        IcmpVersion::V4 => 8,
        IcmpVersion::V6 => 128,
    };
    let [its_kind, its_code] = case.port.map_or([echo, 0], u16::to_be_bytes);
    match (kind, code) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some(kind), None) => kind == its_kind,
        (Some(kind), Some(code)) => (kind, code) == (its_kind, its_code),
    }
}

/// Is the address one of those whom a group's rule means?
pub fn is_peer(cluster: &Cluster, peer: &GroupPeer, address: IpAddr) -> bool {
    match peer {
        GroupPeer::Network(network) => network.contains(address),
        GroupPeer::PrefixList(id) => {
            let entries = cluster.security.prefix_lists.get(id);
            entries.is_some_and(|list| list.iter().any(|network| network.contains(address)))
        }
        GroupPeer::Group(id) => has(cluster, address, id),
    }
}

/// S78: is this a private address of something that has the group?
fn has(cluster: &Cluster, address: IpAddr, group: &SecurityGroupId) -> bool {
    let mut interfaces = cluster.security.interfaces.values();
    let by_interface = interfaces.any(|interface| {
        interface.groups.contains(group) && interface.addresses.iter().any(|a| a.contains(address))
    });
    let pods = cluster.claimants(address);
    let of_all =
        || pods.iter().all(|pod| of_pod(cluster, pod).is_some_and(|groups| groups.contains(group)));
    by_interface || !pods.is_empty() && of_all()
}
