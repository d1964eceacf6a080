//! Classes: interned sets of atoms. Class 0 is the empty one and needs no entry anywhere.

use std::collections::{BTreeSet, HashMap};

use netpolc_table::{
    Class, ClassId, SetId,
    id::{Ip, V4, V6},
    schema::Family,
};

use crate::{Overflow, atoms::AtomId, compiler::Numbered, ids::Ids};

/// Sorted atoms.
pub(crate) type Members = Box<[AtomId]>;

#[derive(Debug)]
pub(crate) struct ClassSlot {
    pub(crate) members: Members,
    refs: usize,
    /// Sets with a row entry for it.
    pub(crate) sets: BTreeSet<SetId>,
}

/// The classes of both families.
#[derive(Debug)]
pub(crate) struct Classes {
    pub(crate) v4: Interned<V4>,
    pub(crate) v6: Interned<V6>,
}

/// The classes of one family.
#[derive(Debug)]
pub(crate) struct Interned<F> {
    pub(crate) ids: Ids<ClassId<F>>,
    by_members: HashMap<Members, ClassId<F>>,
    classes: HashMap<ClassId<F>, ClassSlot>,
}

impl Classes {
    pub(crate) fn new() -> Self {
        Self { v4: Interned::new(Numbered::ClassesV4), v6: Interned::new(Numbered::ClassesV6) }
    }

    pub(crate) fn get(&self, class: Class) -> &ClassSlot {
        match class {
            Class::V4(id) => &self.v4.classes[&id],
            Class::V6(id) => &self.v6.classes[&id],
        }
    }

    pub(crate) fn get_mut(&mut self, class: Class) -> &mut ClassSlot {
        match class {
            Class::V4(id) => self.v4.get_mut(id),
            Class::V6(id) => self.v6.get_mut(id),
        }
    }

    /// The members of all classes of a family.
    pub(crate) fn members(&self, family: Family) -> impl Iterator<Item = &Members> {
        let (v4, v6) = match family {
            Family::V4 => (Some(self.v4.members()), None),
            Family::V6 => (None, Some(self.v6.members())),
        };
        v4.into_iter().flatten().chain(v6.into_iter().flatten())
    }

    /// Counts one more leaf. True: the class is new. Class 0 is not counted.
    pub(crate) fn acquire(
        &mut self,
        family: Family,
        members: &[AtomId],
        fingerprint: impl FnOnce() -> u64,
    ) -> Result<(Class, bool), Overflow> {
        match family {
            Family::V4 => self.v4.acquire(members, fingerprint).map(|(id, fresh)| (id.into(), fresh)),
            Family::V6 => self.v6.acquire(members, fingerprint).map(|(id, fresh)| (id.into(), fresh)),
        }
    }

    /// Counts one leaf less. Some: it was the last one, and the class is gone.
    pub(crate) fn release(&mut self, class: Class) -> Option<ClassSlot> {
        match class {
            Class::V4(id) => self.v4.release(id),
            Class::V6(id) => self.v6.release(id),
        }
    }
}

impl<F: Ip> Interned<F> {
    fn new(what: Numbered) -> Self {
        Self { ids: Ids::new(what), by_members: HashMap::new(), classes: HashMap::new() }
    }

    fn members(&self) -> impl Iterator<Item = &Members> {
        self.classes.values().map(|class| &class.members)
    }

    fn get_mut(&mut self, id: ClassId<F>) -> &mut ClassSlot {
        self.classes.get_mut(&id).expect("a live class")
    }

    fn acquire(
        &mut self,
        members: &[AtomId],
        fingerprint: impl FnOnce() -> u64,
    ) -> Result<(ClassId<F>, bool), Overflow> {
        if members.is_empty() {
            return Ok((ClassId::default(), false));
        }
        if let Some(&id) = self.by_members.get(members) {
            self.get_mut(id).refs += 1;
            return Ok((id, false));
        }
        let id = self.ids.take(Some(fingerprint()))?;
        self.by_members.insert(members.into(), id);
        self.classes.insert(id, ClassSlot { members: members.into(), refs: 1, sets: BTreeSet::new() });
        Ok((id, true))
    }

    fn release(&mut self, id: ClassId<F>) -> Option<ClassSlot> {
        if id == ClassId::default() {
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
