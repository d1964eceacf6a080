//! Nodes and their addresses, both ways round.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::Node;

use crate::worklist::Worklist;

#[derive(Debug, Default)]
pub(crate) struct Nodes {
    addresses: HashMap<Arc<str>, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, BTreeSet<Arc<str>>>,
}

impl Nodes {
    /// A node is there, changed or is gone (None).
    pub(crate) fn set(&mut self, name: &Arc<str>, node: Option<&Node>, work: &mut Worklist) {
        let before = match node {
            Some(node) => self.addresses.insert(name.clone(), node.addresses.clone()),
            None => self.addresses.remove(name),
        };
        for address in before.into_iter().flatten() {
            touch(address, work);
            if let Some(nodes) = self.by_address.get_mut(&address) {
                nodes.remove(name);
                if nodes.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        for address in node.into_iter().flat_map(|n| &n.addresses) {
            touch(*address, work);
            self.by_address.entry(*address).or_default().insert(name.clone());
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.addresses.keys()
    }

    /// The addresses of a node; none where it is not known.
    pub(crate) fn addresses(&self, node: &str) -> &[IpAddr] {
        self.addresses.get(node).map_or(&[], Vec::as_slice)
    }

    /// The nodes that have this address, in order.
    pub(crate) fn at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<str>> {
        self.by_address.get(&address).into_iter().flatten()
    }
}

/// An address that is or was a node's is a member of other atoms, and has other ports of Services.
fn touch(address: IpAddr, work: &mut Worklist) {
    work.touch_address(address);
    work.touch_service_address(address);
}
