//! What packets can reach in a program, and ids that nothing uses.

use std::collections::BTreeSet;

use super::{Changes, Exhausted};
use crate::{
    ActionId, Entry, Key, Program, TableId,
    eval::{Pipeline, under},
    schema::{Family, IdKind, word_of},
};

/// Ids that some packet can meet.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Named by the word of an isolated direction.
    pub(super) sets: BTreeSet<u16>,
    /// Given to addresses, by family; 0 always.
    pub(super) classes: [BTreeSet<u16>; 2],
    /// Named by what a reachable set answers a reachable class with.
    pub(super) rows: BTreeSet<u16>,
    /// Given to ports; 0 always.
    pub(super) port_classes: BTreeSet<u16>,
}

impl Reach {
    pub(super) fn of(program: &Program) -> Self {
        let first = |table| program.table(table).entries.values().map(|e: &Entry| e.params[0] as u16);
        let with_zero = |table| first(table).chain([0]).collect::<BTreeSet<_>>();
        let mut reach = Reach {
            classes: Family::BOTH.map(|f| with_zero(TableId::remote(f))),
            port_classes: with_zero(TableId::Port),
            ..Reach::default()
        };
        for entry in program.table(TableId::Endpoint).entries.values() {
            reach.sets.extend(Pipeline::BOTH.into_iter().filter_map(|p| p.set(word_of(entry))));
        }
        for &set in &reach.sets {
            let bases = under(program.table(TableId::Base), set.into());
            let rows = under(program.table(TableId::Row), set.into()).filter(|(key, _)| {
                let family = usize::from(key.value(1).low() != 4);
                reach.classes[family].contains(&(key.value(2).low() as u16))
            });
            for (_, entry) in bases.chain(rows) {
                if entry.action == ActionId::SetRow {
                    reach.rows.insert(entry.params[0] as u16);
                }
            }
        }
        reach
    }
}

/// A kind of id that an update may need new ones of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Set,
    Row,
    Class(Family),
    PortClass,
}

impl Kind {
    /// The ids of this kind in one entry, wherever they stand.
    fn ids(self, table: TableId, key: &Key, entry: Option<&Entry>, mut found: impl FnMut(u64)) {
        let mut listed = |kind: IdKind| {
            if key.value(0).low() == kind as u64 {
                found(key.value(1).low());
            }
        };
        let row = entry.filter(|e| e.action == ActionId::SetRow).map(|e| e.params[0]);
        match (self, table) {
            (Kind::Set, TableId::Directory) => listed(IdKind::Set),
            (Kind::Class(Family::V4), TableId::Directory) => listed(IdKind::ClassV4),
            (Kind::Class(Family::V6), TableId::Directory) => listed(IdKind::ClassV6),
            (Kind::Set, TableId::Endpoint) => {
                entry.into_iter().for_each(|e| e.params[..2].iter().for_each(|s| found(*s)))
            }
            (Kind::Set, TableId::Base | TableId::Row) | (Kind::Row, TableId::Verdict) => found(key.value(0).low()),
            (Kind::Row, TableId::Base) => row.into_iter().for_each(found),
            (Kind::Row, TableId::Row) => row.into_iter().for_each(found),
            (Kind::Class(f), TableId::Row) if key.value(1).low() == u64::from(f.number()) => found(key.value(2).low()),
            (Kind::Class(f), t) if t == TableId::remote(f) => entry.into_iter().for_each(|e| found(e.params[0])),
            (Kind::PortClass, TableId::Port) => entry.into_iter().for_each(|e| found(e.params[0])),
            (Kind::PortClass, TableId::Verdict) => found(key.value(1).low()),
            _ => (),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Set => "set",
            Kind::Row => "row",
            Kind::Class(_) => "class",
            Kind::PortClass => "port class",
        }
    }
}

/// Hands out ids of one kind that neither program uses, the smallest first.
pub(super) struct Free {
    kind: Kind,
    used: Vec<bool>,
    next: usize,
}

impl Free {
    /// What is in `new`, and in what `changes` list of before.
    pub(super) fn new(kind: Kind, new: &Program, changes: &Changes) -> Self {
        let mut free = Free::among(kind, &[new]);
        for ((table, key), (before, _)) in &changes.entries {
            kind.ids(*table, key, before.as_ref(), |id| free.take(id));
        }
        free
    }

    /// What is in any of these programs.
    pub(super) fn among(kind: Kind, programs: &[&Program]) -> Self {
        let mut free = Free { kind, used: vec![false; 1 << 16], next: 1 };
        for table in programs.iter().flat_map(|p| p.tables()) {
            for (key, entry) in &table.entries {
                kind.ids(table.id, key, Some(entry), |id| free.take(id));
            }
        }
        free
    }

    fn take(&mut self, id: u64) {
        if let Some(used) = self.used.get_mut(id as usize) {
            *used = true;
        }
    }

    pub(super) fn get(&mut self) -> Result<u16, Exhausted> {
        // The last row id is left alone: targets may give it a meaning of their own.
        let last = usize::from(u16::MAX) - 1;
        let found = (self.next..=last).find(|&id| !self.used[id]).ok_or(Exhausted { what: self.kind.name() })?;
        self.next = found + 1;
        Ok(found as u16)
    }
}
