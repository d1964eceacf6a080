//! Members of atoms, and the leaf of every address and prefix: its class and incarnation.

use std::{net::IpAddr, sync::Arc};

use netpolc_policy::Protocol;
use netpolc_table::{
    Class, Entry, Incarnation, Key, Origin, Program, SetId, TableId,
    schema::{Family, Leaf, Named, directory_key, fingerprint, remote_key, set_remote},
};

use crate::{
    Overflow,
    atoms::{Atom, AtomId, NamespaceScope},
    blocks::Prefix,
    compiler::{Compiler, NamespaceState},
    pods::GroupId,
};

fn leaf_key(prefix: Prefix) -> Key {
    remote_key(prefix.to_ip(), prefix.length)
}

/// Prefixes that have an entry and lie in `within`.
fn leaves_in(program: &Program, within: Prefix) -> impl Iterator<Item = Prefix> {
    let last = Prefix { bits: within.last(), length: within.family.bits(), ..within };
    let entries = &program.table(TableId::remote(within.family)).entries;
    entries.range(leaf_key(within)..=leaf_key(last)).map(move |(key, _)| {
        let (value, length) = key.prefix();
        Prefix { family: within.family, bits: value.get(), length }
    })
}

impl Compiler {
    pub(crate) fn acquire_atom(&mut self, atom: Atom) -> AtomId {
        let (id, fresh) = self.atoms.acquire(atom);
        if fresh {
            self.find_members(id);
        }
        id
    }

    fn find_members(&mut self, id: AtomId) {
        let slot = self.atoms.slot(id);
        match &slot.atom {
            Atom::Pods { namespaces, .. } => {
                let mut groups: Vec<GroupId> = Vec::new();
                let mut look = |name: &str, namespace: &NamespaceState| {
                    if slot.selects_namespace(name, &namespace.labels) {
                        let candidates = namespace.groups.iter();
                        groups.extend(candidates.filter(|g| slot.selects_pod(&self.pods.group(**g).key.labels)));
                    }
                };
                match namespaces {
                    NamespaceScope::Named(name) => {
                        self.namespaces.get(name).into_iter().for_each(|namespace| look(name, namespace));
                    }
                    NamespaceScope::Matching(_) => self.namespaces.iter().for_each(|(name, n)| look(name, n)),
                }
                for group in groups {
                    self.join(group, id);
                }
            }
            Atom::Block(block) => {
                let prefixes = self.blocks.insert(id, block);
                self.dirty_block(&prefixes);
            }
            Atom::Node(node) => {
                let node = node.clone();
                self.dirty_node(&node);
            }
            Atom::Port { .. } => {}    // its groups join one by one
            Atom::Service { .. } => {} // who makes it knows its address
        }
    }

    pub(crate) fn release_atom(&mut self, id: AtomId) {
        if !self.atoms.release(id) {
            return;
        }
        match self.atoms.slot(id).atom.clone() {
            Atom::Pods { .. } | Atom::Port { .. } => {
                for group in std::mem::take(&mut self.atoms.slot_mut(id).groups) {
                    self.pods.group_mut(group).atoms.remove(&id);
                    self.dirty_group(group);
                }
            }
            Atom::Block(block) => {
                let prefixes = self.blocks.remove(id, &block);
                self.dirty_block(&prefixes);
            }
            Atom::Node(node) => self.dirty_node(&node),
            Atom::Service { .. } => {}
        }
        self.atoms.retire(id);
    }

    pub(crate) fn join(&mut self, group: GroupId, atom: AtomId) {
        self.atoms.slot_mut(atom).groups.insert(group);
        self.pods.group_mut(group).atoms.insert(atom);
        self.dirty_group(group);
    }

    pub(crate) fn leave(&mut self, group: GroupId, atom: AtomId) {
        self.atoms.slot_mut(atom).groups.remove(&group);
        self.pods.group_mut(group).atoms.remove(&atom);
        self.dirty_group(group);
    }

    /// A set asks for a port name: the groups that have it become members by number.
    pub(crate) fn subscribe(&mut self, set: SetId, name: (Protocol, Arc<str>)) {
        let fresh = !self.atoms.names.contains_key(&name);
        self.atoms.names.entry(name.clone()).or_default().sets.insert(set);
        if fresh {
            for group in self.pods.groups_by_port.get(&name).cloned().unwrap_or_default() {
                self.join_port(group, &name);
            }
        }
    }

    /// A group that has a live port name joins an atom for each of its numbers.
    pub(crate) fn join_port(&mut self, group: GroupId, name: &(Protocol, Arc<str>)) {
        let ports = self.pods.group(group).key.ports.clone();
        for (protocol, port, number) in ports.into_iter().filter(|(p, n, _)| (p, n) == (&name.0, &name.1)) {
            let atom = self.acquire_atom(Atom::Port { protocol, name: port, number });
            self.atoms.names.get_mut(name).expect("a live name").atoms.insert(atom);
            self.join(group, atom);
        }
    }

    /// A group without pods leaves an atom. A `Port` atom lives as long as one group is in it.
    pub(crate) fn abandon(&mut self, group: GroupId, atom: AtomId) {
        let slot = self.atoms.slot_mut(atom);
        slot.groups.remove(&group);
        if let Atom::Port { protocol, name, .. } = &slot.atom {
            let (name, last) = ((*protocol, name.clone()), slot.groups.is_empty());
            if last && let Some(name) = self.atoms.names.get_mut(&name) {
                name.atoms.remove(&atom);
            }
            self.release_atom(atom);
        }
    }

    pub(crate) fn unsubscribe(&mut self, set: SetId, name: &(Protocol, Arc<str>)) {
        let live = self.atoms.names.get_mut(name).expect("a live name");
        live.sets.remove(&set);
        if !live.sets.is_empty() {
            return;
        }
        let gone = self.atoms.names.remove(name).expect("a live name");
        for atom in gone.atoms {
            for group in self.atoms.slot(atom).groups.clone() {
                self.leave(group, atom);
                self.release_atom(atom);
            }
        }
    }

    pub(crate) fn dirty_group(&mut self, group: GroupId) {
        if !self.is_loading() {
            self.dirty.extend(self.pods.addresses(group).map(Prefix::address));
        }
    }

    /// A block came or went: its boundaries, and all leaves under its cidr (the first prefix).
    fn dirty_block(&mut self, prefixes: &[Prefix]) {
        self.dirty.extend(prefixes);
        self.dirty.extend(leaves_in(&self.program, prefixes[0]));
    }

    pub(crate) fn dirty_node(&mut self, node: &str) {
        if let Some(addresses) = self.nodes.get(node) {
            self.dirty.extend(addresses.iter().copied().map(Prefix::address));
        }
    }

    /// The atoms that every address under `prefix`, and under no longer prefix, is a member of;
    /// None where the prefix needs no entry of its own.
    fn members(&self, prefix: Prefix) -> Option<(Vec<AtomId>, Incarnation, Vec<Origin>)> {
        let mut members = Vec::new();
        let mut origins = Vec::new();
        let mut incarnation = Incarnation::default();
        let mut needed = self.blocks.is_boundary(prefix);
        self.blocks.cover(prefix, &mut members);
        origins.extend(members.iter().map(|a| Origin::Implied { reason: self.atoms.slot(*a).label.clone() }));
        if prefix.is_address() {
            let address: IpAddr = prefix.to_ip();
            for node in self.node_addresses.get(&address).into_iter().flatten() {
                if let Some(atom) = self.atoms.find(&Atom::Node(node.clone())) {
                    members.push(atom);
                    origins.push(Origin::Node { node: node.clone() });
                    needed = true;
                }
            }
            for atom in self.services.atoms_of(address, self.node_addresses.get(&address).into_iter().flatten()) {
                members.push(atom);
                origins.push(Origin::Implied { reason: self.atoms.slot(atom).label.clone() });
                needed = true;
            }
            if let Some((&first, others)) = self.pods.owners(address).split_first() {
                needed = true;
                // An address that several pods claim is a member only of what selects all of them.
                let group = |pod| &self.pods.group(self.pods.slot(pod).group).atoms;
                let all = group(first).iter().filter(|a| others.iter().all(|p| group(*p).contains(*a)));
                members.extend(all);
                let mut mixed = 0;
                for pod in self.pods.owners(address).iter().map(|p| self.pods.slot(*p)) {
                    mixed ^= pod.incarnation.get();
                    origins.push(Origin::Pod { pod: pod.label.clone() });
                }
                incarnation = Incarnation::new(mixed.max(1));
            }
        }
        members.sort_unstable();
        needed.then_some((members, incarnation, origins))
    }

    /// Brings the leaf of one prefix up to date.
    pub(crate) fn refresh(&mut self, prefix: Prefix) -> Result<(), Overflow> {
        let (table, key) = (TableId::remote(prefix.family), leaf_key(prefix));
        let before = self.program.get(table, &key).map(|e| Leaf::of(prefix.family, e).class);
        match self.members(prefix) {
            Some((members, incarnation, origins)) => {
                let class = self.acquire_class(prefix.family, &members)?;
                let entry: Entry = set_remote(class, incarnation);
                self.put(table, key, entry.from(origins));
            }
            None => {
                self.take(table, key);
            }
        }
        if let Some(class) = before {
            self.release_class(class);
        }
        Ok(())
    }

    fn acquire_class(&mut self, family: Family, members: &[AtomId]) -> Result<Class, Overflow> {
        let atoms = &self.atoms;
        let mut meaning = 0;
        let (class, fresh) = self.classes.acquire(family, members, || {
            let mut parts: Vec<u64> = members.iter().map(|a| atoms.slot(*a).fingerprint).collect();
            parts.sort_unstable();
            meaning = crate::fingerprint(&parts);
            meaning
        })?;
        if fresh {
            self.put(TableId::Directory, directory_key(Named::Class(class)), fingerprint(meaning));
            let mut sets = std::collections::BTreeSet::new();
            for atom in members {
                self.atoms.slot_mut(*atom).classes.insert(class);
                sets.extend(self.atoms.sets_of(*atom));
            }
            for set in sets {
                self.put_row(set, class)?;
            }
        }
        Ok(class)
    }

    fn release_class(&mut self, class: Class) {
        if let Some(slot) = self.classes.release(class) {
            for atom in &slot.members {
                self.atoms.slot_mut(*atom).classes.remove(&class);
            }
            for set in slot.sets {
                self.take_row(set, class);
            }
            self.take(TableId::Directory, directory_key(Named::Class(class)));
        }
    }
}
