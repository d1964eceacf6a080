//! What the update under way still has to do.
//!
//! Events only mark what they touch. What follows is found once, at the end of the update, when all
//! its events are known: an address whose pod and node and Service changed gets one new leaf, and
//! an endpoint that three policies select chooses its sets once.
//!
//! Marks name what changed (a group of pods, a node, everything under a prefix) and not yet the
//! addresses, because those are looked up where all of them are known ([`crate::leaves`],
//! [`crate::services`]). An address that comes or goes meanwhile is marked by its own event, so no
//! address is missed that was there when the mark was made.

use std::{collections::BTreeSet, mem::take, net::IpAddr, sync::Arc};

use netpolc_policy::ObjectKey;
use netpolc_table::SetId;

use crate::{index::GroupId, prefix::Prefix};

/// Work of four kinds, which the compiler does in this order; see `Compiler::finish`.
#[derive(Debug, Default)]
pub(crate) struct Worklist {
    services: ServiceMarks,
    endpoints: BTreeSet<ObjectKey>,
    released: Vec<SetId>,
    leaves: LeafMarks,
    words: BTreeSet<ObjectKey>,
}

/// Whose leaves may have changed.
#[derive(Debug, Default)]
pub(crate) struct LeafMarks {
    /// These prefixes themselves.
    pub(crate) prefixes: BTreeSet<Prefix>,
    /// Everything that has a leaf under these.
    pub(crate) under: BTreeSet<Prefix>,
    /// Addresses of these pods. A list, since a load touches every group and then asks for none.
    pub(crate) groups: Vec<GroupId>,
    /// Addresses of these nodes.
    pub(crate) nodes: BTreeSet<Arc<str>>,
    /// Addresses of all nodes.
    pub(crate) every_node: bool,
}

/// Where the ports of Services may have changed.
#[derive(Debug, Default)]
pub(crate) struct ServiceMarks {
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// All addresses of these nodes.
    pub(crate) nodes: BTreeSet<Arc<str>>,
    /// All addresses of all nodes.
    pub(crate) every_node: bool,
}

impl Worklist {
    /// The policies of an endpoint, or what they mean for it, may have changed.
    pub(crate) fn choose_sets(&mut self, pod: ObjectKey) {
        self.endpoints.insert(pod);
    }

    /// An endpoint is gone and chooses nothing any more.
    pub(crate) fn forget_endpoint(&mut self, pod: &ObjectKey) {
        self.endpoints.remove(pod);
    }

    /// An endpoint does not use these sets any more: once for each use.
    pub(crate) fn release_sets(&mut self, sets: impl IntoIterator<Item = SetId>) {
        self.released.extend(sets);
    }

    /// The sets or the interface of an endpoint changed.
    pub(crate) fn put_word(&mut self, pod: ObjectKey) {
        self.words.insert(pod);
    }

    pub(crate) fn touch_prefix(&mut self, prefix: Prefix) {
        self.leaves.prefixes.insert(prefix);
    }

    pub(crate) fn touch_address(&mut self, address: IpAddr) {
        self.touch_prefix(Prefix::address(address));
    }

    pub(crate) fn touch_under(&mut self, prefix: Prefix) {
        self.leaves.under.insert(prefix);
    }

    pub(crate) fn touch_group(&mut self, group: GroupId) {
        self.leaves.groups.push(group);
    }

    pub(crate) fn touch_node(&mut self, node: &Arc<str>) {
        self.leaves.nodes.insert(node.clone());
    }

    /// A selector of nodes comes or goes.
    pub(crate) fn touch_nodes(&mut self) {
        self.leaves.every_node = true;
    }

    pub(crate) fn touch_service_address(&mut self, address: IpAddr) {
        self.services.addresses.insert(address);
    }

    pub(crate) fn touch_service_node(&mut self, node: &Arc<str>) {
        self.services.nodes.insert(node.clone());
    }

    pub(crate) fn touch_service_nodes(&mut self) {
        self.services.every_node = true;
    }

    pub(crate) fn take_services(&mut self) -> ServiceMarks {
        take(&mut self.services)
    }

    /// The endpoints that have to choose their sets.
    pub(crate) fn take_endpoints(&mut self) -> BTreeSet<ObjectKey> {
        take(&mut self.endpoints)
    }

    pub(crate) fn take_released(&mut self) -> Vec<SetId> {
        take(&mut self.released)
    }

    pub(crate) fn take_leaves(&mut self) -> LeafMarks {
        take(&mut self.leaves)
    }

    pub(crate) fn take_words(&mut self) -> BTreeSet<ObjectKey> {
        take(&mut self.words)
    }
}
