//! Atoms: the distinct peers of live sets, interned and counted.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use netpolc_policy::{Block, Index, Labels, Protocol, SecurityGroupId, Selector};

use crate::{
    content::fingerprint,
    index::{AtomId, GroupId, Slab},
    interval::PortRange,
};

/// Which of the pods that claim an address have to be members of an atom, so that the address is
/// one. With one claimant, as nearly always, both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Among {
    /// All of them: for what is permitted, so that a conflict never widens.
    All,
    /// Any of them: for what is denied.
    Any,
}

/// A name of a port, which has a number on each pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortName {
    pub(crate) protocol: Protocol,
    pub(crate) name: Arc<str>,
    pub(crate) among: Among,
}

/// One distinct peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Atom {
    /// Pods by labels, in namespaces.
    Pods { namespaces: NamespaceScope, pods: Selector, among: Among },
    /// A CIDR with excepts.
    Block(Block),
    /// Addresses in any of these: a prefix list.
    Networks(Arc<[IpNetwork]>),
    /// Everything that has a security group: pods, and network interfaces of the cloud (S78).
    Group(SecurityGroupId),
    /// Pods on which a named port has this number (S29).
    Port { name: PortName, number: u16 },
    /// The addresses of a node (S45).
    Node(Arc<str>),
    /// The addresses of the nodes with these labels (S71).
    Nodes(Selector),
    /// The addresses of the pods on a node (S82).
    PodsOn(Arc<str>),
    /// Addresses with these ranges of ports of Services (S48), for everybody or for the pods of one
    /// node. No rule names it; what rules for egress grant leaves its ports out.
    Service { node: Option<Arc<str>>, ports: Box<[PortRange]> },
}

impl Atom {
    /// As origins name it.
    fn label(&self) -> Arc<str> {
        match self {
            Atom::Block(block) if block.except.is_empty() => {
                format!("ipBlock {}", block.cidr).into()
            }
            Atom::Block(block) => {
                let except: Vec<String> = block.except.iter().map(|e| e.to_string()).collect();
                format!("ipBlock {} except {}", block.cidr, except.join(" ")).into()
            }
            Atom::Pods { .. } => "pods".into(),
            Atom::Port { name, number } => format!("port {}={number}", name.name).into(),
            Atom::Node(node) => node.clone(),
            Atom::Nodes(_) => "nodes".into(),
            Atom::PodsOn(node) => format!("pods on {node}").into(),
            Atom::Networks(_) => "prefix list".into(),
            Atom::Group(id) => format!("group {id}").into(),
            Atom::Service { .. } => "Service".into(),
        }
    }
}

/// Where the pods of a peer are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NamespaceScope {
    Named(Arc<str>),
    Matching(Selector),
}

/// A live atom.
#[derive(Debug)]
struct Slot {
    atom: Atom,
    fingerprint: u64,
    label: Arc<str>,
    users: usize,
    /// Groups of pods that are members (`Pods` and `Port`).
    groups: BTreeSet<GroupId>,
    /// For the selectors of `Pods`: of namespaces, where it has one, and of pods.
    indices: Option<(Option<Index>, Index)>,
}

fn indices(atom: &Atom) -> Option<(Option<Index>, Index)> {
    let Atom::Pods { namespaces, pods, .. } = atom else { return None };
    let index = match namespaces {
        NamespaceScope::Named(_) => None,
        NamespaceScope::Matching(selector) => Some(Index::new(selector)),
    };
    Some((index, Index::new(pods)))
}

#[derive(Debug, Default)]
pub(crate) struct Atoms {
    ids: HashMap<Atom, AtomId>,
    slots: Slab<AtomId, Slot>,
    /// Gone in this update; see [`Atoms::retire`].
    retired: Vec<AtomId>,
    /// Live `Pods` atoms with a namespace of their own, and those that select namespaces: where a
    /// pod comes, only these can select it.
    by_namespace: HashMap<Arc<str>, BTreeSet<AtomId>>,
    matching: BTreeSet<AtomId>,
    /// Live `Service` atoms.
    services: BTreeSet<AtomId>,
    /// Live `Nodes` atoms.
    nodes: BTreeSet<AtomId>,
}

impl Atoms {
    /// A live atom, or one that was retired in this update.
    pub(crate) fn get(&self, id: AtomId) -> &Atom {
        &self.slots.get(id).atom
    }

    pub(crate) fn find(&self, atom: &Atom) -> Option<AtomId> {
        self.ids.get(atom).copied()
    }

    /// As origins name it.
    pub(crate) fn label(&self, id: AtomId) -> &Arc<str> {
        &self.slots.get(id).label
    }

    /// Of its content: the same in every process of one build.
    pub(crate) fn fingerprint(&self, id: AtomId) -> u64 {
        self.slots.get(id).fingerprint
    }

    /// Live `Service` atoms, in order.
    pub(crate) fn services(&self) -> impl Iterator<Item = AtomId> {
        self.services.iter().copied()
    }

    /// Live `Nodes` atoms that select nodes with these labels, in order.
    pub(crate) fn of_nodes(&self, labels: &Labels) -> impl Iterator<Item = AtomId> {
        let selects = |id: &AtomId| match self.get(*id) {
            Atom::Nodes(selector) => selector.matches(labels),
            _ => false,
        };
        self.nodes.iter().copied().filter(selects)
    }

    /// Must any of the pods that claim an address be a member, and not all of them?
    pub(super) fn is_among_any(&self, id: AtomId) -> bool {
        match self.get(id) {
            Atom::Pods { among, .. } => *among == Among::Any,
            Atom::Port { name, .. } => name.among == Among::Any,
            Atom::Block(_)
            | Atom::Networks(_)
            | Atom::Group(_)
            | Atom::Node(_)
            | Atom::Nodes(_)
            | Atom::PodsOn(_)
            | Atom::Service { .. } => false,
        }
    }

    /// Atoms that went in this update.
    pub(crate) fn retired(&self) -> impl Iterator<Item = AtomId> {
        self.retired.iter().copied()
    }

    /// `Pods` atoms that may select pods of a namespace.
    pub(super) fn candidates(&self, namespace: &str) -> impl Iterator<Item = AtomId> {
        let own = self.by_namespace.get(namespace).into_iter().flatten();
        own.chain(&self.matching).copied()
    }

    /// `Pods` atoms that select namespaces by labels.
    pub(super) fn matching(&self) -> impl Iterator<Item = AtomId> {
        self.matching.iter().copied()
    }

    /// Do the pods that it selects live in this namespace? Never, where it is no `Pods` atom.
    pub(super) fn selects_namespace(&self, id: AtomId, name: &str, labels: &Labels) -> bool {
        let slot = self.slots.get(id);
        let (Atom::Pods { namespaces, .. }, Some((index, _))) = (&slot.atom, &slot.indices) else {
            return false;
        };
        match (namespaces, index) {
            (NamespaceScope::Named(n), _) => **n == *name,
            (NamespaceScope::Matching(selector), Some(index)) => index.matches(selector, labels),
            (NamespaceScope::Matching(selector), None) => selector.matches(labels),
        }
    }

    /// Does it select pods with these labels, in its namespaces? Never, where it is no `Pods` atom.
    pub(super) fn selects_pod(&self, id: AtomId, labels: &Labels) -> bool {
        let slot = self.slots.get(id);
        let (Atom::Pods { pods, .. }, Some((_, index))) = (&slot.atom, &slot.indices) else {
            return false;
        };
        index.matches(pods, labels)
    }

    /// The groups that are members, in order.
    pub(super) fn groups(&self, id: AtomId) -> &BTreeSet<GroupId> {
        &self.slots.get(id).groups
    }

    pub(super) fn add_group(&mut self, id: AtomId, group: GroupId) {
        self.slots.get_mut(id).groups.insert(group);
    }

    pub(super) fn remove_group(&mut self, id: AtomId, group: GroupId) {
        self.slots.get_mut(id).groups.remove(&group);
    }

    /// Counts one more user of a known atom. None: it is new.
    pub(super) fn acquire_known(&mut self, atom: &Atom) -> Option<AtomId> {
        let id = self.find(atom)?;
        self.slots.get_mut(id).users += 1;
        Some(id)
    }

    /// Adds an atom with one user; its members must be found.
    pub(super) fn insert(&mut self, atom: Atom) -> AtomId {
        let id = self.slots.insert(Slot {
            fingerprint: fingerprint(&atom),
            label: atom.label(),
            indices: indices(&atom),
            atom: atom.clone(),
            users: 1,
            groups: BTreeSet::new(),
        });
        match &atom {
            Atom::Pods { namespaces: NamespaceScope::Named(name), .. } => {
                self.by_namespace.entry(name.clone()).or_default().insert(id);
            }
            Atom::Pods { namespaces: NamespaceScope::Matching(_), .. } => {
                self.matching.insert(id);
            }
            Atom::Service { .. } => {
                self.services.insert(id);
            }
            Atom::Nodes(_) => {
                self.nodes.insert(id);
            }
            Atom::Block(_)
            | Atom::Networks(_)
            | Atom::Group(_)
            | Atom::Port { .. }
            | Atom::Node(_)
            | Atom::PodsOn(_) => {}
        }
        self.ids.insert(atom, id);
        id
    }

    /// Counts one user less. True: it was the last one; the caller removes the members and then
    /// calls [`Atoms::retire`].
    pub(super) fn release(&mut self, id: AtomId) -> bool {
        let slot = self.slots.get_mut(id);
        slot.users -= 1;
        slot.users == 0
    }

    /// Forgets an atom without users. Its index is in quarantine until the next update, because
    /// classes name it until their leaves are made anew at the end of this one: an atom that came
    /// meanwhile and had the same index would be taken for it.
    pub(super) fn retire(&mut self, id: AtomId) {
        let atom = self.slots.get(id).atom.clone();
        self.ids.remove(&atom);
        match &atom {
            Atom::Pods { namespaces: NamespaceScope::Named(name), .. } => {
                if let Some(list) = self.by_namespace.get_mut(name) {
                    list.remove(&id);
                    if list.is_empty() {
                        self.by_namespace.remove(name);
                    }
                }
            }
            Atom::Pods { namespaces: NamespaceScope::Matching(_), .. } => {
                self.matching.remove(&id);
            }
            Atom::Service { .. } => {
                self.services.remove(&id);
            }
            Atom::Nodes(_) => {
                self.nodes.remove(&id);
            }
            Atom::Block(_)
            | Atom::Networks(_)
            | Atom::Group(_)
            | Atom::Port { .. }
            | Atom::Node(_)
            | Atom::PodsOn(_) => {}
        }
        self.retired.push(id);
    }

    /// A new update begins: nothing names the retired atoms any more.
    pub(super) fn end_quarantine(&mut self) {
        for id in self.retired.drain(..) {
            self.slots.remove(id);
        }
    }
}
