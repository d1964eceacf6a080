//! An index of a cluster's pods by what questions ask for, so that a question costs as much in a
//! large cluster as in a small one. Not here: whom an address that several pods hold belongs to
//! (`Cluster::claimants`).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{Cluster, ObjectKey};

/// Which pods hold an address, and which hold ports of their nodes, in the cluster of which it was
/// made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressBook {
    /// Each address with each pod that holds it, sorted.
    pods: Vec<(IpAddr, ObjectKey)>,
    /// The pods with host ports, by node.
    host_ports: BTreeMap<Arc<str>, Vec<ObjectKey>>,
}

impl AddressBook {
    /// The index of this cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let of_pod = |pod: &crate::Pod| {
            let key = pod.key.clone();
            pod.addresses.clone().into_iter().map(move |address| (address, key.clone()))
        };
        let mut pods: Vec<_> = cluster.pods.values().flat_map(of_pod).collect();
        pods.sort_unstable();
        let mut host_ports: BTreeMap<Arc<str>, Vec<ObjectKey>> = BTreeMap::new();
        for pod in cluster.pods.values() {
            if let (Some(node), true) =
                (&pod.node, pod.ports.iter().any(|port| port.host_port.is_some()))
            {
                host_ports.entry(node.clone()).or_default().push(pod.key.clone());
            }
        }
        Self { pods, host_ports }
    }

    /// The pods that hold this address.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        let first = self.pods.partition_point(|(known, _)| *known < address);
        let here = self.pods[first..].iter().take_while(move |(known, _)| *known == address);
        here.map(|(_, key)| key)
    }

    /// The pods of this node that have host ports.
    pub fn with_host_ports(&self, node: &str) -> &[ObjectKey] {
        self.host_ports.get(node).map_or(&[], |pods| pods)
    }
}
