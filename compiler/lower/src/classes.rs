//! Classes: interned sets of atoms. Class 0 is the empty one and needs no entry anywhere.

use std::collections::{BTreeSet, HashMap};

use netpolc_table::schema::Family;

use crate::{Overflow, atoms::AtomId, compiler::Numbered, ids::Ids};

/// Sorted atoms.
pub(crate) type Members = Box<[AtomId]>;

#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) members: Members,
    refs: usize,
    /// Sets with a row entry for it.
    pub(crate) sets: BTreeSet<u16>,
}

/// The classes of one family.
#[derive(Debug)]
pub(crate) struct Classes {
    pub(crate) ids: Ids,
    by_members: HashMap<Members, u16>,
    classes: HashMap<u16, Class>,
}

impl Classes {
    pub(crate) fn new(family: Family) -> Self {
        let what = match family {
            Family::V4 => Numbered::ClassesV4,
            Family::V6 => Numbered::ClassesV6,
        };
        Self { ids: Ids::new(what), by_members: HashMap::new(), classes: HashMap::new() }
    }

    pub(crate) fn get(&self, id: u16) -> &Class {
        &self.classes[&id]
    }

    /// The members of all classes.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Members> {
        self.classes.values().map(|class| &class.members)
    }

    pub(crate) fn get_mut(&mut self, id: u16) -> &mut Class {
        self.classes.get_mut(&id).expect("a live class")
    }

    /// Counts one more leaf. True: the class is new. Class 0 is not counted.
    pub(crate) fn acquire(
        &mut self,
        members: &[AtomId],
        fingerprint: impl FnOnce() -> u64,
    ) -> Result<(u16, bool), Overflow> {
        if members.is_empty() {
            return Ok((0, false));
        }
        if let Some(&id) = self.by_members.get(members) {
            self.get_mut(id).refs += 1;
            return Ok((id, false));
        }
        let id = self.ids.take(Some(fingerprint()))?;
        self.by_members.insert(members.into(), id);
        self.classes.insert(id, Class { members: members.into(), refs: 1, sets: BTreeSet::new() });
        Ok((id, true))
    }

    /// Counts one leaf less. Some: it was the last one, and the class is gone.
    pub(crate) fn release(&mut self, id: u16) -> Option<Class> {
        if id == 0 {
            return None;
        }
        let class = self.get_mut(id);
        class.refs -= 1;
        if class.refs > 0 {
            return None;
        }
        let class = self.classes.remove(&id).expect("a live class");
        self.by_members.remove(&class.members);
        self.ids.give_back(id);
        Some(class)
    }
}
