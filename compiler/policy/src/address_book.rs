//! An index of a cluster's pods by what questions ask for, so that a question costs as much in a
//! large cluster as in a small one. Not here: whom an address that several pods hold belongs to
//! (`Cluster::claimants`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;

use crate::{Cluster, ObjectKey, Pod};

/// Which pods hold an address, and which hold ports of their nodes, in the cluster of which it was
/// made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressBook {
    /// Each address with each pod that holds it.
    pods: BTreeSet<(IpAddr, ObjectKey)>,
    /// The pods with host ports, by node.
    host_ports: BTreeMap<Arc<str>, BTreeSet<ObjectKey>>,
}

impl AddressBook {
    /// The index of this cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let of_pod = |pod: &Pod| {
            let key = pod.key.clone();
            pod.addresses.clone().into_iter().map(move |address| (address, key.clone()))
        };
        let mut book = Self {
            pods: cluster.pods.values().flat_map(of_pod).collect(),
            host_ports: BTreeMap::new(),
        };
        cluster.pods.values().for_each(|pod| book.add_host_ports(pod));
        book
    }

    /// Takes in that a pod came, changed or went.
    pub fn set(&mut self, before: Option<&Pod>, now: Option<&Pod>) {
        if let Some(pod) = before {
            for address in &pod.addresses {
                self.pods.remove(&(*address, pod.key.clone()));
            }
            if let Some(here) = pod.node.as_ref().and_then(|node| self.host_ports.get_mut(node)) {
                here.remove(&pod.key);
            }
        }
        if let Some(pod) = now {
            self.pods.extend(pod.addresses.iter().map(|address| (*address, pod.key.clone())));
            self.add_host_ports(pod);
        }
    }

    fn add_host_ports(&mut self, pod: &Pod) {
        if let (Some(node), true) =
            (&pod.node, pod.ports.iter().any(|port| port.host_port.is_some()))
        {
            self.host_ports.entry(node.clone()).or_default().insert(pod.key.clone());
        }
    }

    /// The pods that hold this address.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        // No key sorts before the empty one.
        let here = self.pods.range((address, ObjectKey::new("", ""))..);
        let here = here.take_while(move |(known, _)| *known == address);
        here.map(|(_, key)| key)
    }

    /// Each address of this block that pods hold, with each pod that holds it, in order.
    pub fn within(&self, block: &IpNetwork) -> impl Iterator<Item = (IpAddr, &ObjectKey)> {
        let last = block.broadcast();
        let here = self.pods.range((block.network(), ObjectKey::new("", ""))..);
        let here = here.take_while(move |(address, _)| *address <= last);
        here.map(|(address, key)| (*address, key))
    }

    /// The pods of this node that have host ports.
    pub fn with_host_ports(&self, node: &str) -> impl Iterator<Item = &ObjectKey> {
        self.host_ports.get(node).into_iter().flatten()
    }
}
