//! A program: every table with its entries, in canonical (key) order.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Entry, Key, TableId, Write};

/// All tables of one node. Clones share those tables that none of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    tables: Vec<Arc<Table>>,
}

/// One table with its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which of the schema's tables it is.
    pub id: TableId,
    /// The most entries that it may have.
    pub size: u64,
    /// The entries by key, in key order.
    pub entries: BTreeMap<Key, Entry>,
}

impl Default for Program {
    /// No entries; sizes as the key widths allow them, at most 2^20.
    fn default() -> Self {
        let tables = TableId::ALL.iter().map(|&id| {
            let bits: u32 = id.spec().fields.iter().map(|f| u32::from(f.width)).sum();
            Arc::new(Table { id, size: 1 << bits.min(20), entries: BTreeMap::new() })
        });
        Self { tables: tables.collect() }
    }
}

impl Program {
    /// One of the tables.
    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id as usize]
    }

    /// One of the tables, to change it; a copy of its own where a clone shares it.
    pub fn table_mut(&mut self, id: TableId) -> &mut Table {
        Arc::make_mut(&mut self.tables[id as usize])
    }

    /// All tables in pipeline order.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().map(Arc::as_ref)
    }

    /// The entry under exactly this key (not a lookup: see `eval`).
    pub fn get(&self, id: TableId, key: &Key) -> Option<&Entry> {
        self.table(id).entries.get(key)
    }

    /// The number of entries in all tables together.
    pub fn len(&self) -> usize {
        self.tables.iter().map(|t| t.entries.len()).sum()
    }

    /// True where no table has an entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does what a target does with a write.
    pub fn apply(&mut self, write: &Write) {
        let entries = &mut self.table_mut(write.table).entries;
        for key in &write.remove {
            entries.remove(key);
        }
        for (key, entry) in &write.put {
            entries.insert(key.clone(), entry.clone());
        }
    }
}
