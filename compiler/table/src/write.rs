//! Writes: the atoms of an update.

use crate::{Entry, Key, TableId};

/// One step of an update, within one table. For each single packet it happens at once: a lookup sees
/// the table before it or after it. (Two packets with different keys may see it in any order.)
///
/// That is what makes a split of a port interval one step: remove `1-100`, put `1-49` and `50-100`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table.
    pub table: TableId,
    /// Keys that go, before `put`.
    pub remove: Vec<Key>,
    /// Entries that come, or replace the one under the same key.
    pub put: Vec<(Key, Entry)>,
}

impl Write {
    /// Puts one entry.
    pub fn put(table: TableId, key: Key, entry: Entry) -> Self {
        Self { table, remove: vec![], put: vec![(key, entry)] }
    }

    /// Removes one entry.
    pub fn remove(table: TableId, key: Key) -> Self {
        Self { table, remove: vec![key], put: vec![] }
    }
}

/// The three parts of an update, in this order (S57). Any prefix of the whole is a valid state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Makes what the new answers need; every packet still gets the old answer.
    Refine,
    /// Each write moves one endpoint, or one remote address, from the old answers to the new ones.
    Switch,
    /// Removes what nothing reaches any more; every packet keeps the new answer. Before it a target
    /// waits until packets that were under way have left (a grace period).
    Coarsen,
}

/// An ordered update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they must be done.
    pub steps: Vec<(Phase, Write)>,
}
