//! Random security groups, with everything that says who has them and what may happen to them, and
//! random staged policies. They are added to a cluster that is there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Cluster, Enforcement, GroupPeer, GroupRule, Grouping, IcmpVersion, InterfaceId, Mode,
    NetworkInterface, ObjectKey, Policy, Protocol, SecurityGroup, SecurityGroupId,
    SecurityGroupPolicy, Staged, Traffic,
};

use super::{
    Change, Rng,
    objects::{CIDRS, NUMBERS, labels, policy, selector},
};

/// One of the few groups that there may be; some are named and do not exist.
fn group_id(rng: &mut Rng) -> SecurityGroupId {
    format!("sg-{}", rng.below(6)).into()
}

fn group_ids(rng: &mut Rng) -> Vec<SecurityGroupId> {
    let count = rng.within(1, 3);
    let mut ids: Vec<SecurityGroupId> = rng.list(count, group_id);
    ids.sort();
    ids.dedup();
    ids
}

fn network(rng: &mut Rng) -> IpNetwork {
    rng.pick(&CIDRS).parse().expect("the list holds prefixes")
}

/// Adds groups, prefix lists, interfaces, SecurityGroupPolicies and ServiceAccounts to `cluster`,
/// and what pods say of theirs.
pub fn security(rng: &mut Rng, cluster: &mut Cluster) {
    for n in 0..5 {
        if rng.chance(80) {
            let id: SecurityGroupId = format!("sg-{n}").into();
            let group = group(rng, id.as_str());
            cluster.security.groups.insert(id, group);
        }
    }
    for n in 0..2 {
        let count = rng.below(4);
        let entries = rng.list(count, network);
        cluster.security.prefix_lists.insert(format!("pl-{n}").into(), entries);
    }
    for n in 0..4 {
        let interface = interface(rng, n);
        cluster.security.interfaces.insert(format!("eni-{n}").into(), interface);
    }
    let namespaces: Vec<_> = cluster.pods.keys().map(|key| key.namespace.clone()).collect();
    for namespace in namespaces {
        let account = format!("account{}", rng.below(3));
        let labels = labels(rng);
        cluster.security.accounts.insert(ObjectKey::new(namespace.clone(), account), labels);
        if rng.chance(30) {
            let key = ObjectKey::new(namespace, format!("groups{}", rng.below(2)));
            let policy = group_policy(rng, key.clone());
            cluster.security.policies.insert(key, policy);
        }
    }
    for pod in cluster.pods.values_mut() {
        pod.grouping = grouping(rng);
    }
}

/// What a pod says of its groups.
pub fn grouping(rng: &mut Rng) -> Grouping {
    Grouping {
        account: account(rng),
        interfaces: match rng.chance(15) {
            true => vec![InterfaceId::from(format!("eni-{}", rng.below(6)))],
            false => Vec::new(),
        },
        fargate: if rng.chance(5) { group_ids(rng) } else { Vec::new() },
    }
}

fn account(rng: &mut Rng) -> Arc<str> {
    match rng.below(4) {
        0 => "default".into(),
        n => format!("account{}", n - 1).into(),
    }
}

/// Which packets groups judge.
pub(super) fn enforcement(rng: &mut Rng) -> Enforcement {
    if rng.chance(50) { Enforcement::Strict } else { Enforcement::Standard }
}

/// Something that may happen to groups or to who has them.
pub fn change(rng: &mut Rng) -> Change {
    let stays = !rng.chance(20);
    match rng.below(11) {
        0..3 => {
            let id: SecurityGroupId = format!("sg-{}", rng.below(5)).into();
            let group = stays.then(|| group(rng, id.as_str()));
            Change::SecurityGroup { id, group }
        }
        3..5 => {
            let count = rng.below(4);
            let entries = stays.then(|| rng.list(count, network));
            Change::PrefixList { id: format!("pl-{}", rng.below(2)).into(), entries }
        }
        5..7 => {
            let n = rng.below(4) as u8;
            let interface = stays.then(|| interface(rng, n));
            Change::CloudInterface { id: format!("eni-{n}").into(), interface }
        }
        7..9 => {
            let namespace = format!("n{}", rng.below(3));
            let key = ObjectKey::new(namespace, format!("groups{}", rng.below(2)));
            let policy = stays.then(|| group_policy(rng, key.clone()));
            Change::SecurityGroupPolicy { key, policy }
        }
        9 => Change::Enforcement(enforcement(rng)),
        _ => {
            let key = ObjectKey::new(format!("n{}", rng.below(3)), account(rng));
            Change::Account { key, labels: stays.then(|| labels(rng)) }
        }
    }
}

/// Adds staged policies to `cluster`, for policies that are there and for others.
pub fn staged(rng: &mut Rng, cluster: &mut Cluster) {
    let mut keys: Vec<ObjectKey> = cluster.policies.keys().cloned().collect();
    keys.push(ObjectKey::new("n0", "staged"));
    for key in keys {
        if rng.chance(30) {
            let staged = match rng.chance(30) {
                true => Staged::Delete,
                false => Staged::Set(enforced(policy(rng, key.clone()))),
            };
            cluster.staged.insert(key, staged);
        }
    }
}

/// A staged policy says itself what it is, and no annotation.
pub(super) fn enforced(policy: Policy) -> Policy {
    Policy { mode: Mode::Enforced, ..policy }
}

fn group_policy(rng: &mut Rng, key: ObjectKey) -> SecurityGroupPolicy {
    let (pods, accounts) = *rng.pick(&[(true, false), (true, false), (false, true), (true, true)]);
    SecurityGroupPolicy {
        key,
        pods: pods.then(|| selector(rng)),
        accounts: accounts.then(|| selector(rng)),
        groups: group_ids(rng),
    }
}

/// A group whose rules all have ids, or none has one.
fn group(rng: &mut Rng, id: &str) -> SecurityGroup {
    let with_ids = rng.chance(50);
    let mut number = 0;
    let mut rules = |rng: &mut Rng| {
        let count = rng.below(4);
        rng.list(count, |rng| {
            number += 1;
            rule(rng, with_ids.then(|| format!("sgr-{}-{number}", &id[3..])))
        })
    };
    let (ingress, egress) = (rules(rng), rules(rng));
    let named = rng.chance(50) || ingress.is_empty() && egress.is_empty();
    SecurityGroup { name: named.then(|| format!("group {id}").into()), ingress, egress }
}

/// A rule; one that has an id has one peer.
fn rule(rng: &mut Rng, id: Option<String>) -> GroupRule {
    let count = if id.is_some() { 1 } else { rng.within(1, 3) };
    // In the order in which the API lists them.
    let mut peers = rng.list(count, peer);
    peers.sort();
    peers.dedup();
    GroupRule { id: id.map(Into::into), traffic: traffic(rng), peers }
}

fn peer(rng: &mut Rng) -> GroupPeer {
    match rng.below(100) {
        0..40 => GroupPeer::Network(network(rng)),
        40..60 => GroupPeer::PrefixList(format!("pl-{}", rng.below(3)).into()),
        _ => GroupPeer::Group(group_id(rng)),
    }
}

fn traffic(rng: &mut Rng) -> Traffic {
    match rng.below(100) {
        0..20 => Traffic::Everything,
        20..70 => {
            let (a, b) = (*rng.pick(&NUMBERS), *rng.pick(&NUMBERS));
            let protocol = *rng.pick(&[Protocol::Tcp, Protocol::Udp]);
            Traffic::Ports { protocol, first: a.min(b), last: a.max(b) }
        }
        70..90 => {
            let version = *rng.pick(&[IcmpVersion::V4, IcmpVersion::V6]);
            let kind = rng.chance(70).then(|| *rng.pick(&[0, 3, 8, 128]));
            let code = kind.and_then(|_| rng.chance(50).then(|| *rng.pick(&[0, 4])));
            Traffic::Icmp { version, kind, code }
        }
        _ => Traffic::Protocol(*rng.pick(&[132, 47, 50, 0])),
    }
}

fn interface(rng: &mut Rng, n: u8) -> NetworkInterface {
    let v4 = IpAddr::from(Ipv4Addr::new(10, 0, 3, n));
    let mut addresses = vec![IpNetwork::from(v4)];
    if rng.chance(50) {
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 3, n.into()));
        addresses.push(v6.into());
    }
    if rng.chance(30) {
        addresses.push("10.0.1.0/28".parse().expect("a prefix"));
    }
    NetworkInterface { addresses, groups: group_ids(rng) }
}
