//! Atoms: the distinct peers of live sets, interned and counted, and the ids of classes and sets
//! that involve them. Who is a member of an atom is decided in [`crate::pods`] and [`crate::blocks`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use netpolc_policy::{Block, Index, Labels, Protocol, Selector};
use netpolc_table::{Class, SetId, ids};

use crate::{fingerprint, pods::GroupId};

ids! {
    /// Index of an atom; dense, reused after a rest.
    pub(crate) struct AtomId(u32);
}

impl AtomId {
    fn index(self) -> usize {
        self.get() as usize
    }
}

/// One distinct peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Atom {
    /// Pods by labels, in namespaces.
    Pods { namespaces: NamespaceScope, pods: Selector },
    /// A CIDR with excepts.
    Block(Block),
    /// Pods on which a named port has this number (S29).
    Port { protocol: Protocol, name: Arc<str>, number: u16 },
    /// The addresses of a node (S45).
    Node(Arc<str>),
    /// Addresses with these ranges of ports of Services (S48), for everybody or for the pods of one node. No rule names it; what
    /// rules for egress grant leaves its ports out.
    Service { node: Option<Arc<str>>, ports: Box<[(Protocol, u16, u16)]> },
}

impl Atom {
    fn label(&self) -> Arc<str> {
        match self {
            Atom::Block(block) if block.except.is_empty() => format!("ipBlock {}", block.cidr).into(),
            Atom::Block(block) => {
                let except: Vec<String> = block.except.iter().map(|e| e.to_string()).collect();
                format!("ipBlock {} except {}", block.cidr, except.join(" ")).into()
            }
            Atom::Pods { .. } => "pods".into(),
            Atom::Port { name, number, .. } => format!("port {name}={number}").into(),
            Atom::Node(node) => node.clone(),
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
pub(crate) struct Slot {
    pub(crate) atom: Atom,
    pub(crate) fingerprint: u64,
    /// As origins name it.
    pub(crate) label: Arc<str>,
    refs: usize,
    /// Sets with a rule for it. For `Port`, see [`Atoms::sets_of`].
    pub(crate) sets: BTreeSet<SetId>,
    /// Classes it is in.
    pub(crate) classes: BTreeSet<Class>,
    /// Groups of pods that are members (`Pods` and `Port`).
    pub(crate) groups: BTreeSet<GroupId>,
    /// For the selectors of `Pods`: of namespaces, where it has one, and of pods.
    indices: Option<(Option<Index>, Index)>,
}

impl Slot {
    /// Do the pods that it selects live in this namespace? Never, where it is no `Pods` atom.
    pub(crate) fn selects_namespace(&self, name: &str, labels: &Labels) -> bool {
        let (Atom::Pods { namespaces, .. }, Some((index, _))) = (&self.atom, &self.indices) else { return false };
        match (namespaces, index) {
            (NamespaceScope::Named(n), _) => **n == *name,
            (NamespaceScope::Matching(selector), Some(index)) => index.matches(selector, labels),
            (NamespaceScope::Matching(selector), None) => selector.matches(labels),
        }
    }

    /// Does it select pods with these labels, in its namespaces? Never, where it is no `Pods` atom.
    pub(crate) fn selects_pod(&self, labels: &Labels) -> bool {
        let (Atom::Pods { pods, .. }, Some((_, index))) = (&self.atom, &self.indices) else { return false };
        index.matches(pods, labels)
    }
}

fn indices(atom: &Atom) -> Option<(Option<Index>, Index)> {
    let Atom::Pods { namespaces, pods } = atom else { return None };
    let index = match namespaces {
        NamespaceScope::Named(_) => None,
        NamespaceScope::Matching(selector) => Some(Index::new(selector)),
    };
    Some((index, Index::new(pods)))
}

/// A port name that some live egress set asks for.
#[derive(Debug, Default)]
pub(crate) struct Name {
    pub(crate) sets: BTreeSet<SetId>,
    pub(crate) atoms: BTreeSet<AtomId>,
}

#[derive(Debug, Default)]
pub(crate) struct Atoms {
    ids: HashMap<Atom, AtomId>,
    slots: Vec<Option<Slot>>,
    free: Vec<AtomId>,
    resting: Vec<AtomId>,
    /// Live port names.
    pub(crate) names: HashMap<(Protocol, Arc<str>), Name>,
    /// Live `Pods` atoms with a namespace of their own, and those that select namespaces.
    pub(crate) by_namespace: HashMap<Arc<str>, BTreeSet<AtomId>>,
    pub(crate) matching: BTreeSet<AtomId>,
    /// Live `Service` atoms, and the live sets of egress, which all have to look at them.
    pub(crate) services: BTreeSet<AtomId>,
    pub(crate) egress: BTreeSet<SetId>,
}

impl Atoms {
    pub(crate) fn slot(&self, id: AtomId) -> &Slot {
        self.slots[id.index()].as_ref().expect("a live atom")
    }

    pub(crate) fn slot_mut(&mut self, id: AtomId) -> &mut Slot {
        self.slots[id.index()].as_mut().expect("a live atom")
    }

    pub(crate) fn find(&self, atom: &Atom) -> Option<AtomId> {
        self.ids.get(atom).copied()
    }

    /// Counts one more user; true where the atom is new and its members must be found.
    pub(crate) fn acquire(&mut self, atom: Atom) -> (AtomId, bool) {
        if let Some(&id) = self.ids.get(&atom) {
            self.slot_mut(id).refs += 1;
            return (id, false);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            AtomId::new(self.slots.len() as u32 - 1)
        });
        if let Atom::Pods { namespaces, .. } = &atom {
            match namespaces {
                NamespaceScope::Named(n) => self.by_namespace.entry(n.clone()).or_default().insert(id),
                NamespaceScope::Matching(_) => self.matching.insert(id),
            };
        }
        if let Atom::Service { .. } = atom {
            self.services.insert(id);
        }
        self.ids.insert(atom.clone(), id);
        self.slots[id.index()] = Some(Slot {
            fingerprint: fingerprint(&atom),
            label: atom.label(),
            indices: indices(&atom),
            atom,
            refs: 1,
            sets: BTreeSet::new(),
            classes: BTreeSet::new(),
            groups: BTreeSet::new(),
        });
        (id, true)
    }

    /// Counts one user less. True: it was the last one; the caller removes the members and then
    /// calls [`Atoms::remove`].
    pub(crate) fn release(&mut self, id: AtomId) -> bool {
        let slot = self.slot_mut(id);
        slot.refs -= 1;
        slot.refs == 0
    }

    /// Forgets an atom without users. Its id rests: classes name it until their leaves are recomputed.
    pub(crate) fn retire(&mut self, id: AtomId) {
        let atom = self.slot(id).atom.clone();
        self.ids.remove(&atom);
        self.services.remove(&id);
        if let Atom::Pods { namespaces, .. } = &atom {
            match namespaces {
                NamespaceScope::Named(n) => {
                    let list = self.by_namespace.get_mut(n).expect("indexed when made");
                    list.remove(&id);
                    if list.is_empty() {
                        self.by_namespace.remove(n);
                    }
                }
                NamespaceScope::Matching(_) => {
                    self.matching.remove(&id);
                }
            }
        }
        self.resting.push(id);
    }

    /// The sets that have to look at a class because this atom is in it.
    pub(crate) fn sets_of(&self, id: AtomId) -> &BTreeSet<SetId> {
        let slot = self.slot(id);
        match &slot.atom {
            Atom::Port { protocol, name, .. } => match self.names.get(&(*protocol, name.clone())) {
                Some(name) => &name.sets,
                None => &slot.sets,
            },
            Atom::Service { .. } => &self.egress,
            _ => &slot.sets,
        }
    }

    /// A new update begins: nothing names the retired atoms any more.
    pub(crate) fn wake(&mut self) {
        for id in self.resting.drain(..) {
            let slot = self.slots[id.index()].take();
            debug_assert!(
                slot.as_ref().is_some_and(|s| s.classes.is_empty()),
                "a class names a retired atom: {slot:?}"
            );
            self.free.push(id);
        }
    }
}
