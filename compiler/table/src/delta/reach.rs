//! What packets can reach in a program, and ids that nothing uses.
//!
//! An id is reachable if it is named by what is reachable, beginning with words, leaves and port
//! intervals. Entries of unreachable ids may be rewritten at any time.

use std::{collections::BTreeSet, marker::PhantomData};

use super::{Changes, Exhausted};
use crate::{
    Class, ClassId, Entry, Id, Key, PortClassId, Program, RowId, SetId, TableId,
    eval::{Pipeline, under},
    id::Ip,
    schema::{
        Answer, BaseKey, DirectoryKey, Family, Leaf, Named, RowKey, SetPortClass, SetRemote,
        TriedKey, VerdictKey, Word,
    },
};

/// The ids that some packet can meet.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Sets that the word of an isolated direction names.
    pub(super) sets: BTreeSet<SetId>,
    /// Classes that addresses have; 0 of each family always.
    pub(super) classes: BTreeSet<Class>,
    /// Rows that a reachable set answers a reachable class with.
    pub(super) rows: BTreeSet<RowId>,
    /// Port classes that ports have; 0 always.
    pub(super) port_classes: BTreeSet<PortClassId>,
}

impl Reach {
    pub(super) fn of(program: &Program) -> Self {
        let entries = |table| program.table(table).entries.values();
        let mut reach = Reach {
            classes: Family::BOTH.map(Class::unnamed).into(),
            port_classes: entries(TableId::Port).map(|e| SetPortClass::of(e).port_class).collect(),
            ..Reach::default()
        };
        reach.port_classes.insert(PortClassId::default());
        for family in Family::BOTH {
            reach
                .classes
                .extend(entries(TableId::remote(family)).map(|e| Leaf::of(family, e).class));
        }
        for word in entries(TableId::Endpoint).map(Word::of) {
            reach.sets.extend(Pipeline::ALL.into_iter().filter_map(|p| p.set(word)));
        }
        for &set in &reach.sets {
            let bases = under(program.table(TableId::Base), set);
            let rows = under(program.table(TableId::Row), set);
            let rows = rows.filter(|(key, _)| reach.classes.contains(&RowKey::of(key).class));
            reach
                .rows
                .extend(bases.chain(rows).filter_map(|(_, entry)| Answer::of(Some(entry)).row()));
        }
        reach
    }
}

/// A kind of id of which an update may need a free one.
pub(super) trait Kind: Id {
    /// Calls `found` with each id of this kind in an entry, be it in the key or in the action.
    fn each(table: TableId, key: &Key, entry: Option<&Entry>, found: impl FnMut(Self));
}

impl Kind for SetId {
    fn each(table: TableId, key: &Key, entry: Option<&Entry>, mut found: impl FnMut(Self)) {
        match table {
            TableId::Directory => {
                if let Named::Set(set) = DirectoryKey::of(key).named {
                    found(set);
                }
            }
            TableId::Endpoint => {
                entry.map(Word::of).into_iter().flat_map(Word::sets).for_each(found);
            }
            TableId::Base => found(BaseKey::of(key).set),
            TableId::Row => found(RowKey::of(key).set),
            _ => (),
        }
    }
}

impl Kind for RowId {
    fn each(table: TableId, key: &Key, entry: Option<&Entry>, mut found: impl FnMut(Self)) {
        match table {
            TableId::Base | TableId::Row => Answer::of(entry).row().into_iter().for_each(found),
            TableId::Verdict => found(VerdictKey::of(key).row),
            TableId::Tried => found(TriedKey::of(key).row),
            _ => (),
        }
    }
}

impl<F: Ip> Kind for ClassId<F> {
    fn each(table: TableId, key: &Key, entry: Option<&Entry>, mut found: impl FnMut(Self)) {
        let named = match table {
            TableId::Directory => match DirectoryKey::of(key).named {
                Named::Class(class) => F::own(class),
                _ => None,
            },
            TableId::Row => F::own(RowKey::of(key).class),
            table if table == TableId::remote(F::FAMILY) => entry.map(|e| SetRemote::of(e).class),
            _ => None,
        };
        named.into_iter().for_each(&mut found);
    }
}

impl Kind for PortClassId {
    fn each(table: TableId, key: &Key, entry: Option<&Entry>, mut found: impl FnMut(Self)) {
        match table {
            TableId::Port => entry.into_iter().for_each(|e| found(SetPortClass::of(e).port_class)),
            TableId::Verdict => found(VerdictKey::of(key).port_class),
            TableId::Tried => found(TriedKey::of(key).port_class),
            _ => (),
        }
    }
}

/// Hands out ids of one kind that neither program uses, the smallest first.
pub(super) struct Free<I> {
    used: Vec<bool>,
    next: u16,
    kind: PhantomData<I>,
}

impl<I: Kind> Free<I> {
    /// Ids that are neither in `new` nor in the old entries that `changes` lists.
    pub(super) fn new(new: &Program, changes: &Changes) -> Self {
        let mut free = Free::among(&[new]);
        for ((table, key), (before, _)) in &changes.entries {
            I::each(*table, key, before.as_ref(), |id| free.take(id));
        }
        free
    }

    /// Ids that are in none of these programs.
    pub(super) fn among(programs: &[&Program]) -> Self {
        let mut free = Free { used: vec![false; 1 << 16], next: 1, kind: PhantomData };
        for table in programs.iter().flat_map(|p| p.tables()) {
            for (key, entry) in &table.entries {
                I::each(table.id, key, Some(entry), |id| free.take(id));
            }
        }
        free
    }

    /// Counts an id as used.
    fn take(&mut self, id: I) {
        self.used[usize::from(id.number())] = true;
    }

    /// The next free id, which will not be given again.
    pub(super) fn get(&mut self) -> Result<I, Exhausted> {
        // The last row id is left alone: targets may give it a meaning of their own.
        let last = u16::MAX - 1;
        let found = (self.next..=last)
            .find(|&id| !self.used[usize::from(id)])
            .ok_or(Exhausted { what: I::WHAT })?;
        self.next = found + 1;
        Ok(I::numbered(found))
    }
}
