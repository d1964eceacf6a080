//! The matrix of policy sets and classes: what each set says of each class.
//!
//! Sets come from policies and classes from addresses, and neither knows of the other. A pair is
//! looked at when the later of both comes: a new set looks at the classes that are there and have a
//! member that makes a difference to it, a new class at the sets. So the work for a pod that comes
//! is what its class means to sets that name it, and most often its class is there already.
//!
//! Not here: which sets and leaves are needed (the compiler), and what an entry says
//! ([`crate::rows`]).

use std::{collections::BTreeMap, sync::Arc};

use netpolc_table::{Class, Program, SetId, schema::Family};

use crate::{
    classes::Classes,
    content::distinct,
    deciding::{Deciding, SetKey},
    grants::Conflict,
    ids::Acquired,
    index::AtomId,
    membership::{Atoms, Membership},
    output::Output,
    overflow::{Numbered, Overflow},
    rows::Rows,
    sets::Sets,
    shares::Room,
    usage,
    worklist::Worklist,
};

/// Sets, classes, and the rows of each for the other.
#[derive(Debug)]
pub(crate) struct Matrix {
    sets: Sets,
    classes: Classes,
    rows: Rows,
}

impl Matrix {
    pub(crate) fn new() -> Self {
        Self { sets: Sets::new(), classes: Classes::new(), rows: Rows::new() }
    }

    /// Gives out no ids beyond what a target has room for.
    pub(crate) fn limit(&mut self, room: &Room) {
        self.sets.limit(room.sets);
        self.rows.limit(room.rows, room.port_classes);
        self.classes.limit(room.classes);
    }

    /// Each namespace may take so many verdicts.
    pub(crate) fn bound(&mut self, cells: u64) {
        self.rows.bound(cells);
    }

    /// Before anything else: the tables always cover every port.
    pub(crate) fn cover_ports(&mut self, out: &mut Output) -> Result<(), Overflow> {
        self.rows.cover_ports(out)
    }

    /// The set for these policies (those that isolate in the key's direction), counted once more.
    /// A new one gets its base, and a row for each class that it has to look at.
    pub(crate) fn acquire_set(
        &mut self,
        key: SetKey,
        deciding: &Deciding,
        membership: &mut Membership,
        out: &mut Output,
        work: &mut Worklist,
    ) -> Result<SetId, Overflow> {
        let id = match self.sets.acquire(key, deciding, membership, out, work)? {
            Acquired::Known(id) => return Ok(id),
            Acquired::New(id) => id,
        };
        let (set, atoms) = (self.sets.get(id), membership.atoms());
        self.rows.open(set, atoms, out)?;
        // The classes of before this update's leaves: a new atom has none yet, and a few go with
        // the leaves, whose rows were made in vain.
        let looked_at = set.looks_at(membership).flat_map(|atom| self.classes.with(atom));
        for class in distinct(looked_at) {
            self.rows.put(set, (class, self.classes.members(class)), atoms, out)?;
        }
        Ok(id)
    }

    /// Counts one endpoint less that uses a set. The last one takes it away, with its rows.
    pub(crate) fn release_set(
        &mut self,
        id: SetId,
        membership: &mut Membership,
        out: &mut Output,
        work: &mut Worklist,
    ) {
        if self.sets.release(id, membership, out, work) {
            self.rows.close(id, out);
        }
    }

    /// The class with these members, which are sorted, counted once more. A new one gets a row of
    /// each set to which one of its atoms makes a difference.
    pub(crate) fn acquire_class(
        &mut self,
        family: Family,
        members: &[AtomId],
        atoms: &Atoms,
        out: &mut Output,
    ) -> Result<Class, Overflow> {
        let class = match self.classes.acquire(family, members, atoms, out)? {
            Acquired::Known(class) => return Ok(class),
            Acquired::New(class) => class,
        };
        for set in self.sets.looking_at(members, atoms) {
            self.rows.put(self.sets.get(set), (class, members), atoms, out)?;
        }
        Ok(class)
    }

    /// Counts one leaf less of a class. The last one takes it away, with its rows.
    pub(crate) fn release_class(&mut self, class: Class, out: &mut Output) {
        if self.classes.release(class, out) {
            self.rows.drop_class(class, out);
        }
    }

    /// An update is over, and its atoms may change.
    pub(crate) fn end_update(&mut self) {
        self.rows.end_update();
    }

    /// Where rules of one priority answer differently in a set: for which class, or for addresses
    /// that no peer names.
    pub(crate) fn conflicts(&self, set: SetId) -> impl Iterator<Item = (&Conflict, Option<Class>)> {
        self.rows.conflicts(set)
    }

    /// Is some of what is only tried left out of what a set says, for want of room? Returns all
    /// policies that are tried about its endpoints.
    pub(crate) fn left_out(&self, set: SetId) -> &[Arc<str>] {
        match &self.sets.get(set).tried {
            Some(tried) if self.rows.is_partial(set) => &tried.1.all,
            _ => &[],
        }
    }

    /// The namespaces whose rows take more verdicts than they may.
    pub(crate) fn take_excess(&mut self) -> BTreeMap<Arc<str>, u64> {
        self.rows.take_excess()
    }

    /// How many ids of a kind the policies of each namespace need; none of endpoints.
    pub(crate) fn usage(&self, what: Numbered) -> BTreeMap<Arc<str>, u64> {
        match what {
            Numbered::Endpoints => BTreeMap::new(),
            Numbered::Sets => usage::count(self.sets.iter().map(|set| set.namespace.clone())),
            Numbered::ClassesV4 => usage::classes(&self.sets, &self.classes, Family::V4),
            Numbered::ClassesV6 => usage::classes(&self.sets, &self.classes, Family::V6),
            Numbered::Rows => self.rows.usage(),
            Numbered::PortClasses => self.rows.edge_usage(),
        }
    }

    /// A new update begins. These atoms went in the last one, and with their leaves their classes.
    pub(crate) fn end_quarantine(&mut self, retired: impl Iterator<Item = AtomId>) {
        for atom in retired {
            let mut classes = self.classes.with(atom);
            debug_assert!(classes.next().is_none(), "a class names atom {atom}, which is gone");
        }
        self.sets.end_quarantine();
        self.classes.end_quarantine();
        self.rows.end_quarantine();
    }

    /// Uses none of the installed program's ids.
    pub(crate) fn avoid(&mut self, installed: &Program) {
        self.sets.avoid(installed);
        self.classes.avoid(installed);
        self.rows.avoid(installed);
    }

    /// Keeps them for what they mean there.
    pub(crate) fn seed(&mut self, installed: &Program) {
        self.sets.seed(installed);
        self.classes.seed(installed);
        self.rows.seed(installed);
    }

    pub(crate) fn forget_installed(&mut self) {
        self.sets.forget_installed();
        self.classes.forget_installed();
        self.rows.forget_installed();
    }
}
