//! The part of a cluster on which the answer to one question depends, so that answering costs as
//! much in a cluster of 100,000 pods as in a small one.
//!
//! Not here: the answer (the oracle).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use netpolc_policy::{
    AddressBook, Cluster, Pod,
    oracle::{Party, Question},
};

/// The cluster without whatever has no influence on this question: the oracle gives the same answer
/// for both. The address book is the cluster's.
pub fn around(cluster: &Cluster, book: &AddressBook, question: &Question) -> Cluster {
    let mut addresses = vec![question.source.address(), question.destination.address()];
    addresses.extend(question.via.map(|(address, _)| address));
    let has = |list: &[IpAddr]| list.iter().any(|address| addresses.contains(address));
    let named = [&question.source, &question.destination].into_iter().filter_map(|party| {
        let Party::Pod(key, _) = party else { return None };
        cluster.pods.get(key)
    });
    let holders = addresses.iter().flat_map(|address| book.holders(*address));
    let mut ends: Vec<&Pod> = holders.filter_map(|key| cluster.pods.get(key)).collect();
    ends.extend(named);
    let nodes: BTreeSet<&Arc<str>> = ends.iter().filter_map(|pod| pod.node.as_ref()).collect();
    let namespaces: BTreeSet<&Arc<str>> = ends.iter().map(|pod| &pod.key.namespace).collect();
    // What a pod's own node does for Services depends on the ports of other pods there (S48).
    if cluster.nodes.values().any(|node| has(&node.addresses)) {
        let keys = nodes.iter().flat_map(|node| book.with_host_ports(node));
        ends.extend(keys.filter_map(|key| cluster.pods.get(key)));
    }
    let pods = ends.iter().map(|pod| (pod.key.clone(), Pod::clone(pod)));
    let of_namespaces = |key: &netpolc_policy::ObjectKey| namespaces.contains(&key.namespace);
    let security = &cluster.security;
    let mut around = Cluster {
        pods: pods.collect(),
        tiers: cluster.tiers.clone(),
        by_default: cluster.by_default.clone(),
        ..Cluster::default()
    };
    around
        .namespaces
        .extend(cluster.namespaces.iter().filter(|(name, _)| namespaces.contains(name)).map(owned));
    around
        .policies
        .extend(cluster.policies.iter().filter(|(key, _)| of_namespaces(key)).map(owned));
    around.staged.extend(cluster.staged.iter().filter(|(key, _)| of_namespaces(key)).map(owned));
    let matters =
        |name: &Arc<str>, node: &netpolc_policy::Node| nodes.contains(name) || has(&node.addresses);
    around.nodes.extend(cluster.nodes.iter().filter(|(name, node)| matters(name, node)).map(owned));
    let is_asked = |service: &netpolc_policy::Service| {
        let has_node_port = service.ports.iter().any(|port| port.node_port.is_some());
        has(&service.addresses)
            || has(&service.closed.addresses)
            || has_node_port
            || service.health_check.is_some()
    };
    around
        .services
        .extend(cluster.services.iter().filter(|(_, service)| is_asked(service)).map(owned));
    around.security.groups.clone_from(&security.groups);
    around.security.prefix_lists.clone_from(&security.prefix_lists);
    around.security.interfaces.clone_from(&security.interfaces);
    around.security.resolvers.clone_from(&security.resolvers);
    around.security.enforcement = security.enforcement;
    let policies = security.policies.iter().filter(|(key, _)| of_namespaces(key));
    around.security.policies.extend(policies.map(owned));
    let accounts = security.accounts.iter().filter(|(key, _)| of_namespaces(key));
    around.security.accounts.extend(accounts.map(owned));
    around
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}
