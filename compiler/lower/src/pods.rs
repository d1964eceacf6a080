//! Pods by address and by group. Pods that no selector can tell apart (same namespace, labels and
//! named ports) form a group; selectors are evaluated once per group.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{Labels, ObjectKey, Pod, Protocol};
use netpolc_table::{Incarnation, ids};

use crate::{atoms::AtomId, fingerprint};

ids! {
    /// Index of a group; dense, reused.
    pub(crate) struct GroupId(u32);

    /// Index of a pod; dense, reused.
    pub(crate) struct PodId(u32);
}

/// What selectors and port names can see of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Labels,
    /// Named ports, sorted, each once.
    pub(crate) ports: Vec<(Protocol, Arc<str>, u16)>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    /// `Pods` and `Port` atoms that its pods are members of.
    pub(crate) atoms: BTreeSet<AtomId>,
    pub(crate) members: BTreeSet<PodId>,
}

#[derive(Debug)]
pub(crate) struct PodSlot {
    pub(crate) pod: Pod,
    pub(crate) group: GroupId,
    /// `namespace/name`, shared by every origin that names the pod.
    pub(crate) label: Arc<str>,
    /// Tells this pod from another one that had its address (S43); never 0.
    pub(crate) incarnation: Incarnation,
}

/// The policed pods (S13, S15); others own no address here.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    ids: HashMap<ObjectKey, PodId>,
    slots: Vec<Option<PodSlot>>,
    free: Vec<PodId>,
    groups_by_key: HashMap<GroupKey, GroupId>,
    groups: Vec<Option<Group>>,
    free_groups: Vec<GroupId>,
    owners: HashMap<IpAddr, Vec<PodId>>,
    /// Groups with a named port, whether a live set asks for it or not.
    pub(crate) groups_by_port: HashMap<(Protocol, Arc<str>), BTreeSet<GroupId>>,
}

impl Pods {
    pub(crate) fn find(&self, key: &ObjectKey) -> Option<PodId> {
        self.ids.get(key).copied()
    }

    pub(crate) fn slot(&self, id: PodId) -> &PodSlot {
        self.slots[id.get() as usize].as_ref().expect("a live pod")
    }

    pub(crate) fn group(&self, id: GroupId) -> &Group {
        self.groups[id.get() as usize].as_ref().expect("a live group")
    }

    pub(crate) fn group_mut(&mut self, id: GroupId) -> &mut Group {
        self.groups[id.get() as usize].as_mut().expect("a live group")
    }

    /// The pods that have an address; more than one is a conflict.
    pub(crate) fn owners(&self, address: IpAddr) -> &[PodId] {
        self.owners.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Addresses that several pods claim, in order.
    pub(crate) fn conflicts(&self) -> Vec<(IpAddr, Vec<Arc<str>>)> {
        let several = self.owners.iter().filter(|(_, pods)| pods.len() > 1);
        let mut list: Vec<_> =
            several.map(|(a, pods)| (*a, pods.iter().map(|p| self.slot(*p).label.clone()).collect())).collect();
        list.sort();
        list
    }

    /// All addresses of a group's pods.
    pub(crate) fn addresses(&self, group: GroupId) -> impl Iterator<Item = IpAddr> {
        self.group(group).members.iter().flat_map(|p| self.slot(*p).pod.addresses.iter().copied())
    }

    /// Adds a policed pod. True: its group is new and its atoms must be found.
    pub(crate) fn insert(&mut self, pod: Pod) -> (PodId, GroupId, bool) {
        let mut ports: Vec<_> =
            pod.ports.iter().filter_map(|p| Some((p.protocol, p.name.clone()?, p.number))).collect();
        ports.sort();
        ports.dedup();
        let key = GroupKey { namespace: pod.key.namespace.clone(), labels: pod.labels.clone(), ports };
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            PodId::new(self.slots.len() as u32 - 1)
        });
        let (group, fresh) = match self.groups_by_key.get(&key) {
            Some(&group) => (group, false),
            None => (self.make_group(key), true),
        };
        self.group_mut(group).members.insert(id);
        for &address in &pod.addresses {
            let owners = self.owners.entry(address).or_default();
            if !owners.contains(&id) {
                owners.push(id);
            }
        }
        let identity = fingerprint(&(&pod.key, &pod.uid));
        let folded = identity ^ identity >> 16 ^ identity >> 32 ^ identity >> 48;
        let incarnation = Incarnation::new((folded as u16).max(1));
        self.ids.insert(pod.key.clone(), id);
        let label = pod.key.to_string().into();
        self.slots[id.get() as usize] = Some(PodSlot { pod, group, label, incarnation });
        (id, group, fresh)
    }

    fn make_group(&mut self, key: GroupKey) -> GroupId {
        let id = self.free_groups.pop().unwrap_or_else(|| {
            self.groups.push(None);
            GroupId::new(self.groups.len() as u32 - 1)
        });
        for (protocol, name, _) in &key.ports {
            self.groups_by_port.entry((*protocol, name.clone())).or_default().insert(id);
        }
        self.groups_by_key.insert(key.clone(), id);
        self.groups[id.get() as usize] = Some(Group { key, atoms: BTreeSet::new(), members: BTreeSet::new() });
        id
    }

    /// Removes a pod (its successor under the same key may be there already). Some: its group has no other pod; the caller takes it out of its atoms.
    pub(crate) fn remove(&mut self, id: PodId) -> (PodSlot, Option<Group>) {
        let slot = self.slots[id.get() as usize].take().expect("a live pod");
        if self.ids.get(&slot.pod.key) == Some(&id) {
            self.ids.remove(&slot.pod.key);
        }
        self.free.push(id);
        for address in &slot.pod.addresses {
            if let Some(owners) = self.owners.get_mut(address) {
                owners.retain(|p| *p != id);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
        }
        let group = self.group_mut(slot.group);
        group.members.remove(&id);
        if !group.members.is_empty() {
            return (slot, None);
        }
        let group = self.groups[slot.group.get() as usize].take().expect("a live group");
        self.free_groups.push(slot.group);
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
        (slot, Some(group))
    }
}
