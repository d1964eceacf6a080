//! Nodes and their addresses, both ways round.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{Labels, Node};

use crate::worklist::Worklist;

#[derive(Debug, Default)]
pub(crate) struct Nodes {
    nodes: HashMap<Arc<str>, Node>,
    by_address: HashMap<IpAddr, BTreeSet<Arc<str>>>,
}

impl Nodes {
    /// A node is there, changed or is gone (None).
    pub(crate) fn set(&mut self, name: &Arc<str>, node: Option<&Node>, work: &mut Worklist) {
        let before = match node {
            Some(node) => self.nodes.insert(name.clone(), node.clone()),
            None => self.nodes.remove(name),
        };
        if before.as_ref() == node {
            return;
        }
        for address in before.into_iter().flat_map(|node| node.addresses) {
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
        self.nodes.keys()
    }

    /// The addresses of a node; none where it is not known.
    pub(crate) fn addresses(&self, node: &str) -> &[IpAddr] {
        self.nodes.get(node).map_or(&[], |node| &node.addresses)
    }

    /// The labels of a node that is known.
    pub(crate) fn labels(&self, node: &str) -> &Labels {
        &self.nodes[node].labels
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
