//! Random security groups, and who has them: ids that nothing defines among them.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Cluster, GroupPeer, GroupRule, Grouping, IcmpVersion, InterfaceId, Labels, NetworkInterface,
    ObjectKey, PrefixListId, Protocol, SecurityGroup, SecurityGroupId, SecurityGroupPolicy,
    Traffic,
};

use super::{
    Change, Rng,
    objects::{self, CIDRS, NUMBERS, selector},
};

const ACCOUNTS: [&str; 2] = ["default", "web"];

/// One of the few groups; the last one is never defined.
fn group_id(rng: &mut Rng) -> SecurityGroupId {
    format!("sg-{}", rng.below(4)).into()
}

fn list_id(rng: &mut Rng) -> PrefixListId {
    format!("pl-{}", rng.below(3)).into()
}

fn interface_id(rng: &mut Rng) -> InterfaceId {
    format!("eni-{}", rng.below(4)).into()
}

/// What a pod says of its groups; mostly nothing beside its account.
pub fn grouping(rng: &mut Rng) -> Grouping {
    let mut grouping = Grouping { account: account_name(rng), ..Grouping::default() };
    match rng.below(100) {
        0..6 => grouping.interfaces = vec![interface_id(rng)],
        6..9 => grouping.fargate = vec![group_id(rng)],
        _ => {}
    }
    grouping
}

fn account_name(rng: &mut Rng) -> Arc<str> {
    (*rng.pick(&ACCOUNTS)).into()
}

/// Fills a cluster with what there is to know of groups.
pub fn fill(rng: &mut Rng, cluster: &mut Cluster) {
    for _ in 0..10 {
        change(rng).apply(cluster);
    }
}

/// Something that may happen to groups or to who has them.
pub fn change(rng: &mut Rng) -> Change {
    let stays = !rng.chance(20);
    match rng.below(10) {
        0..3 => {
            let id: SecurityGroupId = format!("sg-{}", rng.below(3)).into();
            Change::SecurityGroup { id, group: stays.then(|| group(rng)) }
        }
        3..5 => {
            let id: PrefixListId = format!("pl-{}", rng.below(2)).into();
            let count = rng.below(4);
            Change::PrefixList { id, entries: stays.then(|| rng.list(count, network)) }
        }
        5..7 => {
            let id: InterfaceId = format!("eni-{}", rng.below(3)).into();
            Change::CloudInterface { id, interface: stays.then(|| interface(rng)) }
        }
        7..9 => {
            let key = ObjectKey::new(format!("n{}", rng.below(3)), format!("p{}", rng.below(2)));
            let policy = stays.then(|| policy(rng, key.clone()));
            Change::SecurityGroupPolicy { key, policy }
        }
        _ => {
            let key = ObjectKey::new(format!("n{}", rng.below(3)), account_name(rng));
            Change::Account { key, labels: stays.then(|| labels(rng)) }
        }
    }
}

fn labels(rng: &mut Rng) -> Labels {
    objects::labels(rng)
}

fn network(rng: &mut Rng) -> IpNetwork {
    rng.pick(&CIDRS).parse().expect("the list holds prefixes")
}

fn group(rng: &mut Rng) -> SecurityGroup {
    let (ingress, egress) = (rng.below(4), rng.below(4));
    SecurityGroup { name: None, ingress: rng.list(ingress, rule), egress: rng.list(egress, rule) }
}

fn rule(rng: &mut Rng) -> GroupRule {
    let number = *rng.pick(&NUMBERS);
    let other = *rng.pick(&NUMBERS);
    let protocol = *rng.pick(&[Protocol::Tcp, Protocol::Udp]);
    let peers = rng.within(1, 2);
    GroupRule {
        id: rng.chance(50).then(|| format!("sgr-{}", rng.below(9)).into()),
        traffic: match rng.below(10) {
            0..3 => Traffic::Everything,
            3..8 => Traffic::Ports { protocol, first: number.min(other), last: number.max(other) },
            8 => Traffic::Protocol(*rng.pick(&[6, 17, 132, 50])),
            _ => Traffic::Icmp { version: IcmpVersion::V4, kind: Some(8), code: None },
        },
        peers: rng.list(peers, |rng| match rng.below(10) {
            0..4 => GroupPeer::Network(network(rng)),
            4..6 => GroupPeer::PrefixList(list_id(rng)),
            _ => GroupPeer::Group(group_id(rng)),
        }),
    }
}

fn interface(rng: &mut Rng) -> NetworkInterface {
    let (addresses, groups) = (rng.within(1, 2), rng.below(3));
    let mut groups = rng.list(groups, group_id);
    groups.sort();
    groups.dedup();
    NetworkInterface { addresses: rng.list(addresses, network), groups }
}

fn policy(rng: &mut Rng, key: ObjectKey) -> SecurityGroupPolicy {
    let count = rng.within(1, 2);
    let mut groups = rng.list(count, group_id);
    groups.sort();
    groups.dedup();
    SecurityGroupPolicy {
        key,
        pods: rng.chance(60).then(|| selector(rng)),
        accounts: rng.chance(40).then(|| selector(rng)),
        groups,
    }
}
