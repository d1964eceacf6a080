//! Classes: interned sets of atoms, one for each combination that some address is a member of.
//! Class 0 is the empty one and needs no entry anywhere.
//!
//! Interning is what refines and merges: where an atom comes, the leaves of its members count
//! another class from then on, with one atom more, which is made where no other address had that
//! combination; a class that no leaf counts any more is gone. No class is ever changed, so no entry
//! about one is.
//!
//! Not here: the leaves ([`crate::leaves`]), and the rows of a class ([`crate::rows`]).

use netpolc_table::{
    Class, ClassId, Program, TableId,
    id::{Ip, V4, V6},
    schema::{Family, Leaf, Named, RowKey, directory_key, fingerprint},
};

use crate::{
    content,
    ids::{Acquired, Ids},
    index::{AtomId, ByAtom, IdMap},
    installed::directory,
    membership::Atoms,
    output::Output,
    overflow::{Numbered, Overflow},
};

#[derive(Debug)]
struct Slot {
    /// Sorted.
    members: Box<[AtomId]>,
    /// Leaves.
    users: usize,
}

/// The classes of both families.
#[derive(Debug)]
pub(crate) struct Classes {
    v4: Interned<V4>,
    v6: Interned<V6>,
    by_atom: ByAtom<Class>,
}

/// The classes of one family.
#[derive(Debug)]
struct Interned<F> {
    ids: Ids<ClassId<F>>,
    by_members: IdMap<Box<[AtomId]>, ClassId<F>>,
    classes: IdMap<ClassId<F>, Slot>,
}

impl Classes {
    pub(crate) fn new() -> Self {
        let (v4, v6) = (Interned::new(Numbered::ClassesV4), Interned::new(Numbered::ClassesV6));
        Self { v4, v6, by_atom: ByAtom::default() }
    }

    /// Gives out no ids from these on, by family.
    pub(crate) fn limit(&mut self, [v4, v6]: [u32; 2]) {
        self.v4.ids.limit(v4);
        self.v6.ids.limit(v6);
    }

    /// The atoms of a live class, in order; of class 0 there are none.
    pub(crate) fn members(&self, class: Class) -> &[AtomId] {
        match class {
            Class::V4(id) => self.v4.members(id),
            Class::V6(id) => self.v6.members(id),
        }
    }

    /// The live classes that an atom is in, in order.
    pub(crate) fn with(&self, atom: AtomId) -> impl Iterator<Item = Class> {
        self.by_atom.of(atom)
    }

    /// The members of all classes of a family.
    pub(crate) fn of_family(&self, family: Family) -> Vec<&[AtomId]> {
        match family {
            Family::V4 => self.v4.classes.values().map(|class| &*class.members).collect(),
            Family::V6 => self.v6.classes.values().map(|class| &*class.members).collect(),
        }
    }

    /// Counts one more leaf of the class with these members, which are sorted. A new one has no
    /// rows yet.
    pub(crate) fn acquire(
        &mut self,
        family: Family,
        members: &[AtomId],
        atoms: &Atoms,
        out: &mut Output,
    ) -> Result<Acquired<Class>, Overflow> {
        let mut meaning = 0;
        // Of what the atoms are and not of their indices, which another process has in another
        // order.
        let fingerprint_of_members = || {
            let mut parts: Vec<u64> = members.iter().map(|atom| atoms.fingerprint(*atom)).collect();
            parts.sort_unstable();
            meaning = content::fingerprint(&parts);
            meaning
        };
        let acquired = match family {
            Family::V4 => self.v4.acquire(members, fingerprint_of_members)?.into(),
            Family::V6 => self.v6.acquire(members, fingerprint_of_members)?.into(),
        };
        if let Acquired::New(class) = acquired {
            out.put(TableId::Directory, directory_key(Named::Class(class)), fingerprint(meaning));
            members.iter().for_each(|atom| self.by_atom.add(*atom, class));
        }
        Ok(acquired)
    }

    /// Counts one leaf less. True: it was the last one, and the class is gone; its rows are still
    /// there.
    pub(crate) fn release(&mut self, class: Class, out: &mut Output) -> bool {
        let gone = match class {
            Class::V4(id) => self.v4.release(id),
            Class::V6(id) => self.v6.release(id),
        };
        let Some(members) = gone else { return false };
        members.iter().for_each(|atom| self.by_atom.remove(*atom, class));
        out.take(TableId::Directory, directory_key(Named::Class(class)));
        true
    }

    pub(crate) fn end_quarantine(&mut self) {
        self.v4.ids.end_quarantine();
        self.v6.ids.end_quarantine();
    }

    /// Uses none of the installed program's class ids.
    pub(crate) fn avoid(&mut self, installed: &Program) {
        for key in installed.table(TableId::Row).entries.keys() {
            self.reserve(RowKey::of(key).class);
        }
        for family in Family::BOTH {
            for entry in installed.table(TableId::remote(family)).entries.values() {
                self.reserve(Leaf::of(family, entry).class);
            }
        }
        for (named, _) in directory(installed) {
            if let Named::Class(class) = named {
                self.reserve(class);
            }
        }
    }

    fn reserve(&mut self, class: Class) {
        match class {
            Class::V4(id) => self.v4.ids.reserve(id),
            Class::V6(id) => self.v6.ids.reserve(id),
        }
    }

    /// Keeps the installed program's class ids for what they mean there.
    pub(crate) fn seed(&mut self, installed: &Program) {
        for (named, meaning) in directory(installed) {
            match named {
                Named::Class(Class::V4(id)) => self.v4.ids.seed(meaning, id),
                Named::Class(Class::V6(id)) => self.v6.ids.seed(meaning, id),
                _ => {}
            }
        }
    }

    pub(crate) fn forget_installed(&mut self) {
        self.v4.ids.forget_seed();
        self.v6.ids.forget_seed();
    }
}

impl<F: Ip> Interned<F> {
    fn new(what: Numbered) -> Self {
        Self { ids: Ids::new(what), by_members: IdMap::default(), classes: IdMap::default() }
    }

    fn members(&self, id: ClassId<F>) -> &[AtomId] {
        self.classes.get(&id).map_or(&[], |class| &class.members)
    }

    fn acquire(
        &mut self,
        members: &[AtomId],
        fingerprint: impl FnOnce() -> u64,
    ) -> Result<Acquired<ClassId<F>>, Overflow> {
        if members.is_empty() {
            return Ok(Acquired::Known(ClassId::default()));
        }
        if let Some(&id) = self.by_members.get(members) {
            if let Some(class) = self.classes.get_mut(&id) {
                class.users += 1;
            }
            return Ok(Acquired::Known(id));
        }
        let id = self.ids.take(Some(fingerprint()))?;
        self.by_members.insert(members.into(), id);
        self.classes.insert(id, Slot { members: members.into(), users: 1 });
        Ok(Acquired::New(id))
    }

    /// Some: that was the last leaf of a class with these members. Class 0 is not counted.
    fn release(&mut self, id: ClassId<F>) -> Option<Box<[AtomId]>> {
        let class = self.classes.get_mut(&id)?;
        class.users -= 1;
        if class.users > 0 {
            return None;
        }
        let class = self.classes.remove(&id)?;
        self.by_members.remove(&class.members);
        self.ids.free(id);
        Some(class.members)
    }
}

impl<F> From<Acquired<ClassId<F>>> for Acquired<Class>
where
    Class: From<ClassId<F>>,
{
    fn from(acquired: Acquired<ClassId<F>>) -> Self {
        match acquired {
            Acquired::Known(id) => Acquired::Known(id.into()),
            Acquired::New(id) => Acquired::New(id.into()),
        }
    }
}
