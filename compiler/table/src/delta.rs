//! What changed between two programs, and the order in which to change it.

use std::collections::BTreeMap;

use crate::{Entry, Key, Program, TableId};

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

    /// True where nothing changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
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
