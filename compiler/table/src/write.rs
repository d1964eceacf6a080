//! Writes: the atoms of an update.

use crate::{Entry, Key, TableId};

/// One step of an update, within one table. For each single packet it happens at once: a lookup
/// sees the table before it or after it. (Two packets with different keys may see it in any order.)
///
/// That is what makes a split of a port interval one step: remove `1-100`, put `1-49` and `50-100`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The table that the write changes.
    pub table: TableId,
    /// Keys that go, before `put`.
    pub remove: Vec<Key>,
    /// Entries that come, or replace the one under the same key.
    pub put: Vec<(Key, Entry)>,
}

impl Write {
    /// A write that puts one entry, in place of the one under the same key.
    pub fn put(table: TableId, key: Key, entry: Entry) -> Self {
        Self { table, remove: vec![], put: vec![(key, entry)] }
    }

    /// A write that removes one entry.
    pub fn remove(table: TableId, key: Key) -> Self {
        Self { table, remove: vec![key], put: vec![] }
    }
}

/// The parts of an update, in this order (S57). Any prefix of the whole is a valid state.
///
/// A packet reads several tables one after the other, so a write is safe only when no packet is
/// under way that could still combine it with something older: see [`Phase::settles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Makes what the new answers need; every packet still gets the old answer.
    Refine,
    /// Each write moves one endpoint, or one remote prefix, from the old answers to the new ones.
    Switch,
    /// Moves remote prefixes whose old class new words understand too, and off those classes that
    /// only carried them across the switch.
    Coarsen,
    /// Merges port intervals; every packet keeps the new answer.
    Merge,
    /// Removes what nothing reaches any more; every packet keeps the new answer.
    Remove,
}

impl Phase {
    /// Must a target wait, before the first write of this phase, until the packets that were under
    /// way have left (a grace period)? It must do so once more after the last write of a plan,
    /// before what was freed is used again, where the plan has any [`Phase::Remove`].
    pub fn settles(self) -> bool {
        self >= Phase::Coarsen
    }
}

/// An update as writes in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes with their phases, in the order in which they must be done; phases never go back.
    pub steps: Vec<(Phase, Write)>,
}

impl Plan {
    /// The steps by phase, each phase that has any. A target does the groups in order and settles
    /// before each one whose phase says so.
    pub fn phases(&self) -> impl Iterator<Item = (Phase, &[(Phase, Write)])> {
        self.steps.chunk_by(|a, b| a.0 == b.0).map(|group| (group[0].0, group))
    }
}
