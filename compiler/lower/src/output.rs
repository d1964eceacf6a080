//! What comes out: the program, and the entries that the update under way changes in it.

use netpolc_table::{Entry, Key, Program, TableId, delta::Changes};

/// The program with a note of each change. Whoever has it may write any table; each table has one
/// owner among the modules, which alone does.
#[derive(Debug, Default)]
pub(crate) struct Output {
    program: Program,
    /// None while loading: the whole program is new then, and nobody asks what changed in it.
    changes: Option<Changes>,
}

impl Output {
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// From here on everything is new, until [`Output::begin_update`].
    pub(crate) fn begin_load(&mut self) {
        self.changes = None;
    }

    /// Before the first update, and while a whole cluster is taken in.
    pub(crate) fn is_loading(&self) -> bool {
        self.changes.is_none()
    }

    /// From here on changes are noted.
    pub(crate) fn begin_update(&mut self) {
        self.changes = Some(Changes::default());
    }

    /// What changed since [`Output::begin_update`].
    pub(crate) fn end_update(&mut self) -> Changes {
        self.changes.replace(Changes::default()).unwrap_or_default()
    }

    pub(crate) fn put(&mut self, table: TableId, key: Key, entry: Entry) {
        match &mut self.changes {
            Some(changes) => self.program.set(changes, table, key, Some(entry)),
            None => {
                self.program.table_mut(table).entries.insert(key, entry);
            }
        }
    }

    /// Removes an entry and returns it, where there is one.
    pub(crate) fn take(&mut self, table: TableId, key: Key) -> Option<Entry> {
        let before = self.program.table_mut(table).entries.remove(&key);
        if let (Some(changes), Some(entry)) = (&mut self.changes, &before) {
            changes.note(table, key, Some(entry.clone()), None);
        }
        before
    }
}
