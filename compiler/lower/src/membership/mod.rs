//! Who is a member of which atom.
//!
//! ```text
//! namespaces   labels of namespaces, and which groups of pods are there
//! pods         pods by address and by group: what selectors cannot tell apart
//! blocks       prefixes of ipBlocks, and which blocks cover what
//! atoms        the distinct peers of live sets, interned and counted
//! ```
//!
//! A membership of pods is kept at both ends (a group knows its atoms, an atom its groups), which
//! is why these four have one owner: [`Membership`] alone changes either end. It marks whose leaves
//! may differ then, and changes no table.
//!
//! Not here: addresses of nodes ([`crate::nodes`]) and of Services ([`crate::services`]), whose
//! atoms are found by address, and what sets grant their members ([`crate::grants`]).

mod atoms;
mod blocks;
mod namespaces;
mod pods;

use std::{
    collections::{BTreeSet, HashMap},
    mem::take,
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use netpolc_policy::{Labels, ObjectKey, Pod, SecurityGroupId};

pub(crate) use self::{
    atoms::{Among, Atom, Atoms, NamespaceScope, PortName},
    pods::PodSlot,
};
use self::{blocks::Blocks, namespaces::Namespaces, pods::Pods};
use crate::{
    index::{AtomId, GroupId, PodId},
    prefix::Prefix,
    security::Grouped,
    worklist::Worklist,
};

/// A port name that some live egress set asks for.
#[derive(Debug, Default)]
struct Name {
    /// Sets that ask for it.
    users: usize,
    /// One for each number that it has on some pod.
    atoms: BTreeSet<AtomId>,
}

#[derive(Debug, Default)]
pub(crate) struct Membership {
    namespaces: Namespaces,
    pods: Pods,
    blocks: Blocks,
    atoms: Atoms,
    names: HashMap<PortName, Name>,
    /// The addresses of network interfaces by the security groups that they have.
    networks: HashMap<SecurityGroupId, Vec<IpNetwork>>,
}

/// What others ask: who has an address, and what it is a member of.
impl Membership {
    pub(crate) fn atoms(&self) -> &Atoms {
        &self.atoms
    }

    /// The labels of a namespace; none where it is not known.
    pub(crate) fn labels(&self, namespace: &Arc<str>) -> Labels {
        self.namespaces.get(namespace).map(|n| n.labels().clone()).unwrap_or_default()
    }

    /// A policed pod.
    pub(crate) fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.find(key).map(|(_, pod)| pod)
    }

    /// A policed pod, for [`Membership::set_pod`].
    pub(crate) fn find(&self, key: &ObjectKey) -> Option<(PodId, &Pod)> {
        self.pods.find(key).map(|id| (id, &self.pods.slot(id).pod))
    }

    /// The security groups of a policed pod.
    pub(crate) fn security(&self, key: &ObjectKey) -> Option<&Grouped> {
        self.pods.find(key).map(|id| self.pods.security(id))
    }

    /// Every policed pod, in no order.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(|(_, pod)| pod)
    }

    /// Addresses that several pods claim, in order.
    pub(crate) fn conflicts(&self) -> Vec<(IpAddr, Vec<Arc<str>>)> {
        self.pods.conflicts()
    }

    /// The addresses of a group's pods; none where the group is gone.
    pub(crate) fn group_addresses(&self, group: GroupId) -> impl Iterator<Item = IpAddr> {
        self.pods.addresses(group)
    }

    /// The pods that have an address; more than one is a conflict.
    pub(crate) fn owners(&self, address: IpAddr) -> impl Iterator<Item = &PodSlot> {
        self.pods.owners(address).iter().map(|pod| self.pods.slot(*pod))
    }

    /// The atoms that an address is a member of because pods have it. One that several pods claim
    /// is a member of what permits only where that selects all of them, and of what denies where
    /// that selects any ([`Among`]): nobody can tell whose packets these are, so the address gets
    /// what each of the pods would get.
    pub(crate) fn atoms_of_pods(&self, address: IpAddr) -> BTreeSet<AtomId> {
        let group = |pod: &PodId| &self.pods.group(self.pods.slot(*pod).group).atoms;
        let owners = self.pods.owners(address);
        let is_member = |atom: &AtomId| {
            let claimed = || owners.iter().all(|pod| group(pod).contains(atom));
            owners.len() == 1 || self.atoms.is_among_any(*atom) || claimed()
        };
        owners.iter().flat_map(group).copied().filter(is_member).collect()
    }

    /// The atom of the pods on one node, where all pods that have this address are there and a live
    /// set asks for it.
    pub(crate) fn atom_of_node(&self, address: IpAddr) -> Option<AtomId> {
        let mut nodes = self.owners(address).map(|owner| owner.pod.node.as_ref());
        let node = nodes.next()??;
        let is_sole = nodes.all(|other| other == Some(node));
        self.atoms.find(&Atom::PodsOn(node.clone())).filter(|_| is_sole)
    }

    /// Does some live block or except begin at this prefix?
    pub(crate) fn is_boundary(&self, prefix: Prefix) -> bool {
        self.blocks.is_boundary(prefix)
    }

    /// The blocks that contain all of a prefix.
    pub(crate) fn blocks_over(&self, prefix: Prefix) -> Vec<AtomId> {
        let mut atoms = Vec::new();
        self.blocks.cover(prefix, &mut atoms);
        atoms
    }

    /// The atoms of a port name that a live set asks for: one for each number.
    pub(crate) fn port_atoms(&self, name: &PortName) -> impl Iterator<Item = AtomId> {
        self.names.get(name).into_iter().flat_map(|name| &name.atoms).copied()
    }
}

/// Objects that come and go, and the port names that sets ask for.
impl Membership {
    /// A namespace has these labels.
    pub(crate) fn set_labels(&mut self, name: &Arc<str>, labels: Labels, work: &mut Worklist) {
        let Some(before) = self.namespaces.set_labels(name, labels) else { return };
        let Some(here) = self.namespaces.get(name) else { return };
        // Only selectors of namespaces see labels, and only where their answer changes does any pod
        // of the namespace come to an atom or leave it.
        let (mut joining, mut leaving) = (Vec::new(), Vec::new());
        for atom in self.atoms.matching() {
            let selects = |labels| self.atoms.selects_namespace(atom, name, labels);
            match (selects(&before), selects(here.labels())) {
                (false, true) => {
                    let selected = here.groups().filter(|group| self.selects(atom, *group));
                    joining.extend(selected.map(|group| (group, atom)));
                }
                (true, false) => {
                    let members =
                        here.groups().filter(|g| self.pods.group(*g).atoms.contains(&atom));
                    leaving.extend(members.map(|group| (group, atom)));
                }
                _ => {}
            }
        }
        joining.into_iter().for_each(|(group, atom)| self.join(group, atom, work));
        leaving.into_iter().for_each(|(group, atom)| self.leave(group, atom, work));
    }

    /// A policed pod is there instead of the one with this index, or instead of none.
    pub(crate) fn set_pod(
        &mut self,
        before: Option<PodId>,
        pod: Option<(Pod, Grouped)>,
        work: &mut Worklist,
    ) {
        // The new one comes first, so that a group and the atoms of its ports stay where both need
        // them.
        if let Some((pod, security)) = pod {
            pod.addresses.iter().for_each(|address| work.touch_address(*address));
            if let Some(group) = self.pods.insert(pod, security) {
                self.place(group, work);
            }
        }
        if let Some(id) = before {
            let (slot, group) = self.pods.remove(id);
            slot.pod.addresses.iter().for_each(|address| work.touch_address(*address));
            if let Some(group) = group {
                self.namespaces.remove_group(&group.key.namespace, slot.group);
                group.atoms.into_iter().for_each(|atom| self.abandon(slot.group, atom, work));
            }
        }
    }

    /// Network interfaces with these addresses have a security group.
    pub(crate) fn set_networks(
        &mut self,
        group: &SecurityGroupId,
        networks: Vec<IpNetwork>,
        work: &mut Worklist,
    ) {
        let before = match networks.is_empty() {
            true => self.networks.remove(group),
            false => self.networks.insert(group.clone(), networks.clone()),
        };
        let before = before.unwrap_or_default();
        let Some(atom) = self.atoms.find(&Atom::Group(group.clone())) else { return };
        if before == networks {
            return;
        }
        self.blocks.remove_all(atom, &before);
        self.blocks.insert_all(atom, &networks);
        before.iter().chain(&networks).for_each(|network| touch_network(*network, work));
    }

    /// A set asks for a port name: the groups that have it become members by number.
    pub(crate) fn subscribe(&mut self, name: &PortName, work: &mut Worklist) {
        let live = self.names.entry(name.clone()).or_default();
        live.users += 1;
        if live.users == 1 {
            let groups: Vec<GroupId> = self.pods.with_port(name).collect();
            groups.into_iter().for_each(|group| self.join_port(group, name, work));
        }
    }

    /// A set asks for it no longer. The last one takes the name's atoms away.
    pub(crate) fn unsubscribe(&mut self, name: &PortName, work: &mut Worklist) {
        let Some(live) = self.names.get_mut(name) else { return };
        live.users -= 1;
        if live.users > 0 {
            return;
        }
        for atom in take(&mut live.atoms) {
            for group in self.atoms.groups(atom).clone() {
                self.leave(group, atom, work);
                self.release(atom, work);
            }
        }
        self.names.remove(name);
    }

    /// A new update begins: nothing names the atoms any more that went in the last one.
    pub(crate) fn end_quarantine(&mut self) {
        self.atoms.end_quarantine();
    }
}

/// Atoms that come and go, and who joins them.
impl Membership {
    /// Counts one more user of an atom; finds its members where it is new.
    pub(crate) fn acquire(&mut self, atom: Atom, work: &mut Worklist) -> AtomId {
        if let Some(id) = self.atoms.acquire_known(&atom) {
            return id;
        }
        let id = self.atoms.insert(atom);
        match self.atoms.get(id) {
            Atom::Pods { namespaces, .. } => {
                let selected = self.selected(id, namespaces);
                selected.into_iter().for_each(|group| self.join(group, id, work));
            }
            Atom::Block(block) => touch_block(&self.blocks.insert(id, block), work),
            Atom::Networks(networks) => {
                self.blocks.insert_all(id, networks);
                networks.iter().for_each(|network| touch_network(*network, work));
            }
            Atom::Group(group) => {
                let networks = self.networks.get(group).map_or(&[][..], Vec::as_slice);
                self.blocks.insert_all(id, networks);
                networks.iter().for_each(|network| touch_network(*network, work));
                let groups: Vec<GroupId> = self.pods.with_security(group).collect();
                groups.into_iter().for_each(|group| self.join(group, id, work));
            }
            Atom::Node(node) => work.touch_node(node),
            Atom::Nodes(_) => work.touch_nodes(),
            Atom::PodsOn(node) => self.touch_pods_on(node, work),
            // Its groups join one by one.
            Atom::Port { .. } => {}
            // Who makes it knows its address.
            Atom::Service { .. } => {}
        }
        id
    }

    /// Counts one user less. The last one takes the atom away, and with it its members.
    pub(crate) fn release(&mut self, id: AtomId, work: &mut Worklist) {
        if !self.atoms.release(id) {
            return;
        }
        match self.atoms.get(id) {
            Atom::Pods { .. } | Atom::Port { .. } => {
                let groups = self.atoms.groups(id).clone();
                groups.into_iter().for_each(|group| self.leave(group, id, work));
            }
            Atom::Block(block) => touch_block(&self.blocks.remove(id, block), work),
            Atom::Networks(networks) => {
                self.blocks.remove_all(id, networks);
                networks.iter().for_each(|network| touch_network(*network, work));
            }
            Atom::Group(group) => {
                let networks = self.networks.get(group).map_or(&[][..], Vec::as_slice);
                self.blocks.remove_all(id, networks);
                networks.iter().for_each(|network| touch_network(*network, work));
                let groups = self.atoms.groups(id).clone();
                groups.into_iter().for_each(|group| self.leave(group, id, work));
            }
            Atom::Node(node) => work.touch_node(node),
            Atom::Nodes(_) => work.touch_nodes(),
            Atom::PodsOn(node) => self.touch_pods_on(node, work),
            Atom::Service { .. } => {}
        }
        self.atoms.retire(id);
    }

    /// The addresses of a node's pods may be members of another atom.
    fn touch_pods_on(&self, node: &Arc<str>, work: &mut Worklist) {
        let here = self.pods.iter().filter(|(_, pod)| pod.node.as_ref() == Some(node));
        here.flat_map(|(_, pod)| &pod.addresses).for_each(|address| work.touch_address(*address));
    }

    fn selects(&self, atom: AtomId, group: GroupId) -> bool {
        self.atoms.selects_pod(atom, &self.pods.group(group).key.labels)
    }

    /// The groups that a `Pods` atom selects.
    fn selected(&self, atom: AtomId, scope: &NamespaceScope) -> Vec<GroupId> {
        let mut groups = Vec::new();
        match scope {
            NamespaceScope::Named(name) => {
                let here = self.namespaces.get(name).into_iter().flat_map(|n| n.groups());
                groups.extend(here.filter(|group| self.selects(atom, *group)));
            }
            NamespaceScope::Matching(_) => {
                for (name, namespace) in self.namespaces.iter() {
                    if self.atoms.selects_namespace(atom, name, namespace.labels()) {
                        let here = namespace.groups();
                        groups.extend(here.filter(|group| self.selects(atom, *group)));
                    }
                }
            }
        }
        groups
    }

    /// Finds the atoms of a new group.
    fn place(&mut self, id: GroupId, work: &mut Worklist) {
        let key = &self.pods.group(id).key;
        let namespace = self.namespaces.add_group(&key.namespace, id);
        let selecting = self.atoms.candidates(&key.namespace).filter(|atom| {
            self.atoms.selects_namespace(*atom, &key.namespace, namespace.labels())
                && self.atoms.selects_pod(*atom, &key.labels)
        });
        let security = key.security.iter().flatten();
        let having = security.filter_map(|group| self.atoms.find(&Atom::Group(group.clone())));
        let selecting: Vec<AtomId> = selecting.chain(having).collect();
        let named = |among| {
            let ports = key.ports.iter();
            ports.map(move |(p, n, _)| PortName { protocol: *p, name: n.clone(), among })
        };
        let names: BTreeSet<PortName> =
            [Among::All, Among::Any].into_iter().flat_map(named).collect();
        selecting.into_iter().for_each(|atom| self.join(id, atom, work));
        for name in names {
            if self.names.contains_key(&name) {
                self.join_port(id, &name, work);
            }
        }
    }

    /// A group that has a live port name joins an atom for each of its numbers, and is a user of
    /// it: such an atom lives as long as a group is in it and a set asks for the name.
    fn join_port(&mut self, group: GroupId, name: &PortName, work: &mut Worklist) {
        let ports = self.pods.group(group).key.ports.clone();
        for (.., number) in
            ports.into_iter().filter(|(p, n, _)| (p, n) == (&name.protocol, &name.name))
        {
            let atom = self.acquire(Atom::Port { name: name.clone(), number }, work);
            if let Some(name) = self.names.get_mut(name) {
                name.atoms.insert(atom);
            }
            self.join(group, atom, work);
        }
    }

    fn join(&mut self, group: GroupId, atom: AtomId, work: &mut Worklist) {
        self.atoms.add_group(atom, group);
        self.pods.add_atom(group, atom);
        work.touch_group(group);
    }

    fn leave(&mut self, group: GroupId, atom: AtomId, work: &mut Worklist) {
        self.atoms.remove_group(atom, group);
        self.pods.remove_atom(group, atom);
        work.touch_group(group);
    }

    /// A group that is gone leaves an atom. Nothing to touch: its pods' addresses are.
    fn abandon(&mut self, group: GroupId, atom: AtomId, work: &mut Worklist) {
        self.atoms.remove_group(atom, group);
        if let Atom::Port { name, .. } = self.atoms.get(atom) {
            let name = name.clone();
            if self.atoms.groups(atom).is_empty()
                && let Some(name) = self.names.get_mut(&name)
            {
                name.atoms.remove(&atom);
            }
            self.release(atom, work);
        }
    }
}

/// A network of a union came or went.
fn touch_network(network: IpNetwork, work: &mut Worklist) {
    work.touch_prefix(Prefix::of(network));
    work.touch_under(Prefix::of(network));
}

/// A block came or went: its boundaries may need a leaf now, and all leaves under its cidr (the
/// first prefix) are members of it or not.
fn touch_block(prefixes: &[Prefix], work: &mut Worklist) {
    prefixes.iter().for_each(|prefix| work.touch_prefix(*prefix));
    prefixes.first().into_iter().for_each(|cidr| work.touch_under(*cidr));
}
