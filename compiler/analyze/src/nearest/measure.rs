//! What keeps a peer from meaning an address, and a selector from selecting an object.

use std::{net::IpAddr, sync::Arc};

use netpolc_policy::{Cluster, GroupPeer, Labels, Namespaces, Peer, Pod, Selector, TierPeer};

use super::{Failure, Of};

/// The requirements of a selector that these labels do not meet.
pub(super) fn labels(selector: &Selector, labels: &Labels, of: Of) -> Vec<Failure> {
    let unmet = selector.requirements.iter().filter(|wanted| !wanted.matches(labels));
    unmet
        .map(|wanted| Failure::Label {
            of: of.clone(),
            wanted: wanted.clone(),
            has: labels.get(&wanted.key).map(Arc::from),
        })
        .collect()
}

/// The labels of a namespace; none where nobody declared it.
pub(super) fn namespace_of<'a>(cluster: &'a Cluster, name: &str) -> &'a Labels {
    static NONE: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);
    cluster.namespaces.get(name).map_or(&NONE, |namespace| &namespace.labels)
}

/// What keeps a peer of a NetworkPolicy of this namespace from meaning the address.
pub(super) fn peer_failures(
    cluster: &Cluster,
    own: &Arc<str>,
    peer: &Peer,
    remote: IpAddr,
) -> Vec<Failure> {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let claimants = cluster.claimants(remote);
            let Some(pod) = claimants
                .iter()
                .find(|pod| !pods_failures(cluster, own, namespaces, pods, pod).is_empty())
            else {
                return match claimants.is_empty() {
                    true => vec![Failure::NoPod { remote }],
                    false => Vec::new(),
                };
            };
            pods_failures(cluster, own, namespaces, pods, pod)
        }
        Peer::Block(block) => {
            if !block.cidr.contains(remote) {
                return vec![Failure::OutsideBlock { remote, cidr: block.cidr }];
            }
            let except = block.except.iter().find(|except| except.contains(remote));
            except.map(|except| Failure::Excepted { remote, except: *except }).into_iter().collect()
        }
        Peer::Nothing => vec![Failure::Broken],
    }
}

fn pods_failures(
    cluster: &Cluster,
    own: &Arc<str>,
    namespaces: &Namespaces,
    pods: &Selector,
    pod: &Pod,
) -> Vec<Failure> {
    let here = &pod.key.namespace;
    let mut failures = match namespaces {
        Namespaces::Own if here == own => Vec::new(),
        Namespaces::Own => {
            vec![Failure::OtherNamespace { has: here.clone(), wanted: own.clone() }]
        }
        Namespaces::Matching(selector) => {
            labels(selector, namespace_of(cluster, here), Of::Namespace(here.clone()))
        }
    };
    failures.extend(labels(pods, &pod.labels, Of::Pod(pod.key.clone())));
    failures
}

/// What keeps a peer of a ClusterNetworkPolicy from meaning the address.
pub(super) fn tier_peer_failures(
    cluster: &Cluster,
    peer: &TierPeer,
    remote: IpAddr,
) -> Vec<Failure> {
    match peer {
        TierPeer::Pods { namespaces, pods } => {
            let claimants = cluster.claimants(remote);
            let Some(pod) = claimants.first() else { return vec![Failure::NoPod { remote }] };
            let here = &pod.key.namespace;
            let of = Of::Namespace(here.clone());
            let mut failures = labels(namespaces, namespace_of(cluster, here), of);
            failures.extend(labels(pods, &pod.labels, Of::Pod(pod.key.clone())));
            failures
        }
        TierPeer::Networks(networks) => match networks.iter().any(|n| n.contains(remote)) {
            true => Vec::new(),
            false => {
                let outside = |cidr: &_| Failure::OutsideBlock { remote, cidr: *cidr };
                networks.first().map(outside).into_iter().collect()
            }
        },
        TierPeer::Nodes(selector) => {
            let mut nodes =
                cluster.nodes.iter().filter(|(_, node)| node.addresses.contains(&remote));
            match nodes.next() {
                Some((name, node)) => labels(selector, &node.labels, Of::Node(name.clone())),
                None => vec![Failure::NoNode { remote }],
            }
        }
        TierPeer::Anybody => Vec::new(),
        TierPeer::Nobody => vec![Failure::Broken],
    }
}

/// Whom a security group's rule means, in words.
pub(super) fn group_peer(peer: &GroupPeer) -> String {
    match peer {
        GroupPeer::Network(network) => network.to_string(),
        GroupPeer::PrefixList(id) => format!("prefix list {id}"),
        GroupPeer::Group(id) => format!("group {id}"),
    }
}
