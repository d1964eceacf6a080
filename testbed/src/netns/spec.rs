//! What a namespace cluster consists of. Not here: making it (`super::cluster`).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use netpolc_policy::{Cluster, ObjectKey, Phase, PodNetwork};

/// Nodes, pods and hosts outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// Each becomes a namespace that routes for its pods.
    pub nodes: Vec<NodeSpec>,
    /// Each becomes a namespace with one interface, eth0.
    pub pods: Vec<PodSpec>,
    /// Hosts that are neither nodes nor pods.
    pub outside: Vec<OutsideSpec>,
}

/// A node that a cluster shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name in the cluster.
    pub name: Arc<str>,
    /// Any of both families; they need not share a subnet.
    pub addresses: Vec<IpAddr>,
}

/// A pod that a cluster shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Namespace and name in the cluster.
    pub key: ObjectKey,
    /// The node it runs on.
    pub node: Arc<str>,
    /// Its own addresses; unused for [`PodNetwork::Host`].
    pub addresses: Vec<IpAddr>,
    /// A hostNetwork pod gets no namespace: it is its node's.
    pub network: PodNetwork,
}

/// A host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideSpec {
    /// The name to find it by.
    pub name: Arc<str>,
    /// Its addresses, of both families.
    pub addresses: Vec<IpAddr>,
}

impl Spec {
    /// The nodes of `cluster`, those that only its pods name, and all its active pods that have
    /// addresses and a node. Finished pods have no network any more.
    pub fn of(cluster: &Cluster) -> Self {
        let live =
            cluster.pods.values().filter(|p| p.phase == Phase::Active && !p.addresses.is_empty());
        let pods: Vec<PodSpec> = live
            .filter_map(|pod| {
                let node = pod.node.clone()?;
                Some(PodSpec {
                    key: pod.key.clone(),
                    node,
                    addresses: pod.addresses.clone(),
                    network: pod.network,
                })
            })
            .collect();
        let mut names: BTreeSet<Arc<str>> = cluster.nodes.keys().cloned().collect();
        names.extend(pods.iter().map(|p| p.node.clone()));
        let nodes = names.into_iter().map(|name| {
            let addresses =
                cluster.nodes.get(&name).map(|n| n.addresses.clone()).unwrap_or_default();
            NodeSpec { name, addresses }
        });
        Spec { nodes: nodes.collect(), pods, outside: Vec::new() }
    }

    /// The same cluster with one more host outside.
    pub fn with_outside(mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.outside
            .push(OutsideSpec { name: name.into(), addresses: addresses.into_iter().collect() });
        self
    }
}
