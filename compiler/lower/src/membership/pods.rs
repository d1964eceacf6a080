//! Pods by address and by group. Pods that no selector can tell apart (same namespace, labels and
//! named ports) form a group; selectors are evaluated once for each group.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{Labels, ObjectKey, Pod, Protocol, SecurityGroupId};
use netpolc_table::Incarnation;

use super::atoms::PortName;
use crate::{
    content::fingerprint,
    index::{AtomId, GroupId, PodId, Slab},
    security::Grouped,
};

/// What selectors and port names can see of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) namespace: Arc<str>,
    pub(super) labels: Labels,
    /// Named ports, sorted, each once.
    pub(super) ports: Vec<(Protocol, Arc<str>, u16)>,
    /// Its security groups.
    pub(super) security: Grouped,
}

/// Pods that no selector can tell apart.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: GroupKey,
    /// `Pods` and `Port` atoms that its pods are members of.
    pub(super) atoms: BTreeSet<AtomId>,
    members: BTreeSet<PodId>,
}

/// A policed pod.
#[derive(Debug)]
pub(crate) struct PodSlot {
    pub(crate) pod: Pod,
    pub(super) group: GroupId,
    /// `namespace/name`, shared by every origin that names the pod.
    pub(crate) label: Arc<str>,
    /// Tells this pod from another one that had its address (S43); never 0.
    pub(crate) incarnation: Incarnation,
}

/// The policed pods (S13, S15); others own no address here.
#[derive(Debug, Default)]
pub(super) struct Pods {
    ids: HashMap<ObjectKey, PodId>,
    slots: Slab<PodId, PodSlot>,
    groups_by_key: HashMap<GroupKey, GroupId>,
    groups: Slab<GroupId, Group>,
    owners: HashMap<IpAddr, Vec<PodId>>,
    /// Groups with a named port, whether a live set asks for it or not.
    groups_by_port: HashMap<(Protocol, Arc<str>), BTreeSet<GroupId>>,
    /// Groups of pods with a security group.
    groups_by_security: HashMap<SecurityGroupId, BTreeSet<GroupId>>,
}

impl Pods {
    pub(super) fn find(&self, key: &ObjectKey) -> Option<PodId> {
        self.ids.get(key).copied()
    }

    pub(super) fn slot(&self, id: PodId) -> &PodSlot {
        self.slots.get(id)
    }

    pub(super) fn group(&self, id: GroupId) -> &Group {
        self.groups.get(id)
    }

    pub(super) fn add_atom(&mut self, id: GroupId, atom: AtomId) {
        self.groups.get_mut(id).atoms.insert(atom);
    }

    pub(super) fn remove_atom(&mut self, id: GroupId, atom: AtomId) {
        self.groups.get_mut(id).atoms.remove(&atom);
    }

    /// The groups with this named port, in order, whether a live set asks for it or not.
    pub(super) fn with_port(&self, name: &PortName) -> impl Iterator<Item = GroupId> {
        let port = (name.protocol, name.name.clone());
        self.groups_by_port.get(&port).into_iter().flatten().copied()
    }

    /// The groups of pods that have this security group, in order.
    pub(super) fn with_security(&self, id: &SecurityGroupId) -> impl Iterator<Item = GroupId> {
        self.groups_by_security.get(id).into_iter().flatten().copied()
    }

    /// The security groups of a pod.
    pub(super) fn security(&self, id: PodId) -> &Grouped {
        &self.group(self.slot(id).group).key.security
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.ids.values().map(|id| (*id, &self.slot(*id).pod))
    }

    /// The pods that have an address; more than one is a conflict.
    pub(super) fn owners(&self, address: IpAddr) -> &[PodId] {
        self.owners.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Addresses that several pods claim, in order.
    pub(super) fn conflicts(&self) -> Vec<(IpAddr, Vec<Arc<str>>)> {
        let several = self.owners.iter().filter(|(_, pods)| pods.len() > 1);
        let mut list: Vec<_> = several
            .map(|(a, pods)| (*a, pods.iter().map(|p| self.slot(*p).label.clone()).collect()))
            .collect();
        list.sort();
        list
    }

    /// All addresses of a group's pods; none where the group is gone.
    pub(super) fn addresses(&self, group: GroupId) -> impl Iterator<Item = IpAddr> {
        let members = self.groups.find(group).into_iter().flat_map(|group| &group.members);
        members.flat_map(|pod| self.slot(*pod).pod.addresses.iter().copied())
    }

    /// Adds a policed pod. Some: its group is new, and its atoms must be found.
    pub(super) fn insert(&mut self, pod: Pod, security: Grouped) -> Option<GroupId> {
        let mut ports: Vec<_> = pod
            .ports
            .iter()
            .filter_map(|p| Some((p.protocol, p.name.clone()?, p.number)))
            .collect();
        ports.sort();
        ports.dedup();
        let (namespace, labels) = (pod.key.namespace.clone(), pod.labels.clone());
        let key = GroupKey { namespace, labels, ports, security };
        let (group, fresh) = match self.groups_by_key.get(&key) {
            Some(&group) => (group, false),
            None => (self.make_group(key), true),
        };
        let identity = fingerprint(&(&pod.key, &pod.uid));
        let folded = identity ^ identity >> 16 ^ identity >> 32 ^ identity >> 48;
        let incarnation = Incarnation::new((folded as u16).max(1));
        let (key, label) = (pod.key.clone(), pod.key.to_string().into());
        let id = self.slots.insert(PodSlot { pod, group, label, incarnation });
        self.groups.get_mut(group).members.insert(id);
        for &address in &self.slots.get(id).pod.addresses {
            let owners = self.owners.entry(address).or_default();
            if !owners.contains(&id) {
                owners.push(id);
            }
        }
        self.ids.insert(key, id);
        fresh.then_some(group)
    }

    fn make_group(&mut self, key: GroupKey) -> GroupId {
        let group = Group { key: key.clone(), atoms: BTreeSet::new(), members: BTreeSet::new() };
        let id = self.groups.insert(group);
        for (protocol, name, _) in &key.ports {
            self.groups_by_port.entry((*protocol, name.clone())).or_default().insert(id);
        }
        for group in key.security.iter().flatten() {
            self.groups_by_security.entry(group.clone()).or_default().insert(id);
        }
        self.groups_by_key.insert(key, id);
        id
    }

    /// Removes a pod; its successor under the same key may be there already. Some: its group has no
    /// other pod, and the caller takes it out of its atoms.
    pub(super) fn remove(&mut self, id: PodId) -> (PodSlot, Option<Group>) {
        let slot = self.slots.remove(id);
        if self.ids.get(&slot.pod.key) == Some(&id) {
            self.ids.remove(&slot.pod.key);
        }
        for address in &slot.pod.addresses {
            if let Some(owners) = self.owners.get_mut(address) {
                owners.retain(|p| *p != id);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
        }
        let group = self.groups.get_mut(slot.group);
        group.members.remove(&id);
        if !group.members.is_empty() {
            return (slot, None);
        }
        let group = self.groups.remove(slot.group);
        self.groups_by_key.remove(&group.key);
        for (protocol, name, _) in &group.key.ports {
            let port = (*protocol, name.clone());
            if let Some(groups) = self.groups_by_port.get_mut(&port) {
                groups.remove(&slot.group);
                if groups.is_empty() {
                    self.groups_by_port.remove(&port);
                }
            }
        }
        for id in group.key.security.iter().flatten() {
            if let Some(groups) = self.groups_by_security.get_mut(id) {
                groups.remove(&slot.group);
                if groups.is_empty() {
                    self.groups_by_security.remove(id);
                }
            }
        }
        (slot, Some(group))
    }
}
