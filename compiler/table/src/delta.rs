//! What changed between two programs, and the order in which to change it.
//!
//! Here: [`Changes`], [`diff`], and the two ways to a [`Plan`]: [`order`] for changes whose ids keep
//! their meaning (a compiler's own), [`plan`] for any two programs.

use std::{cmp::Ordering, collections::BTreeMap};

use self::{reach::Reach, view::View};
use crate::{Entry, Key, Plan, Program, TableId};

mod arrange;
mod ports;
mod reach;
mod remotes;
mod rename;
mod view;

/// Entries that differ: before and after. Nothing where both are equal in action and parameters
/// is listed, except where only origins differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// (before, after); never (None, None).
    pub entries: BTreeMap<(TableId, Key), (Option<Entry>, Option<Entry>)>,
}

impl Changes {
    /// Notes that the entry under `key` was `before` and is `after`. Notes on one key add up: the
    /// first `before` and the last `after` count.
    pub fn note(&mut self, table: TableId, key: Key, before: Option<Entry>, after: Option<Entry>) {
        use std::collections::btree_map::Entry as Slot;
        match self.entries.entry((table, key)) {
            Slot::Vacant(slot) => {
                if before != after {
                    slot.insert((before, after));
                }
            }
            Slot::Occupied(mut slot) => {
                slot.get_mut().1 = after;
                if slot.get().0 == slot.get().1 {
                    slot.remove();
                }
            }
        }
    }

    /// Adds what changed after these.
    pub fn add(&mut self, later: Changes) {
        for ((table, key), (before, after)) in later.entries {
            self.note(table, key, before, after);
        }
    }

    /// True where nothing changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// No id is left for what must carry packets from the old answers to the new ones. Nothing was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {what} id is left for the update: all 65535 are in use; apply the change in smaller parts")]
pub struct Exhausted {
    /// `set`, `row`, `class` or `port class`.
    pub what: &'static str,
}

/// The entries that differ between two programs, origins included; sizes do not count.
pub fn diff(old: &Program, new: &Program) -> Changes {
    let mut entries = Vec::with_capacity(old.len().abs_diff(new.len()));
    for &table in TableId::ALL {
        if std::ptr::eq(old.table(table), new.table(table)) {
            continue;
        }
        let mut before = old.table(table).entries.iter().peekable();
        let mut after = new.table(table).entries.iter().peekable();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let b = if order.is_le() { before.next() } else { None };
            let a = if order.is_ge() { after.next() } else { None };
            let (before, after) = (b.map(|(_, e)| e), a.map(|(_, e)| e));
            if before != after
                && let Some((key, _)) = b.or(a)
            {
                entries.push(((table, key.clone()), (before.cloned(), after.cloned())));
            }
        }
    }
    Changes { entries: entries.into_iter().collect() }
}

impl Program {
    /// Puts or removes one entry and notes it in `changes`.
    pub fn set(&mut self, changes: &mut Changes, table: TableId, key: Key, after: Option<Entry>) {
        let entries = &mut self.table_mut(table).entries;
        let before = match &after {
            Some(entry) => entries.insert(key.clone(), entry.clone()),
            None => entries.remove(&key),
        };
        changes.note(table, key, before, after);
    }
}

/// Orders the changes that led to `new` so that no packet sees a mix (S57): between any two writes each
/// endpoint gets, for each remote address and port, the old program's answer or the new one's, and never
/// the old one again after the new one.
///
/// Ids must keep their meaning: what an id of a set, row, class or port class stands for is the same in
/// both programs where it is in use in both; an id that comes free must not be given another meaning by the
/// same update. Words must name sets, leaves classes and port intervals port
/// classes whose entries are complete in `new`. Works in time proportional to the changes; only updates
/// that move endpoints between sets while addresses change class look further.
///
/// # Errors
/// [`Exhausted`] where the update needs an id for its own use and none is free.
pub fn order(new: &Program, changes: &Changes) -> Result<Plan, Exhausted> {
    arrange::arrange(&View::new(new, changes, None))
}

/// The way from any program to any other, in the order of [`order`]: also from one that an interrupted
/// update left behind. Returns `new` with those rows and sets renamed that mean something else in `old`,
/// and the plan that leads to it.
///
/// # Errors
/// [`Exhausted`] where no ids are free.
pub fn plan(old: &Program, new: &Program) -> Result<(Program, Plan), Exhausted> {
    let before = Reach::of(old);
    let renamed = rename::rename(old, new, (&before, &Reach::of(new)))?;
    let after = Reach::of(&renamed);
    let changes = diff(old, &renamed);
    let plan = arrange::arrange(&View::new(&renamed, &changes, Some((&before, &after))))?;
    Ok((renamed, plan))
}
