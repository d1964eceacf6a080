//! [`Counted`]: counts what is written. Not here: what the counts are for.

use std::collections::BTreeMap;

use netpolc_table::{Program, TableId, Write};

use crate::{Capabilities, Compared, Error, Target};

/// What was counted of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// How many writes were carried out.
    pub writes: u64,
    /// How many entries they put.
    pub put: u64,
    /// How many keys they removed.
    pub removed: u64,
    /// How many writes failed.
    pub errors: u64,
}

/// What was counted since the target was wrapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The tables that were written, or for which a write failed.
    pub tables: BTreeMap<TableId, TableCounts>,
    /// How many grace periods were waited for.
    pub settles: u64,
    /// How many grace periods failed.
    pub errors: u64,
}

impl Counts {
    /// How many writes were carried out in all tables.
    pub fn writes(&self) -> u64 {
        self.tables.values().map(|t| t.writes).sum()
    }

    /// How many entries were put and removed in all tables.
    pub fn entries(&self) -> u64 {
        self.tables.values().map(|t| t.put + t.removed).sum()
    }
}

/// A target that counts writes, grace periods and failures.
#[derive(Clone, Debug)]
pub struct Counted<T> {
    pub(super) inner: T,
    counts: Counts,
}

impl<T: Target> Counted<T> {
    /// Wraps `inner`, with all counts at zero.
    pub fn new(inner: T) -> Self {
        Counted { inner, counts: Counts::default() }
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

super::packets_of_inner!(Counted);

impl<T: Target> Target for Counted<T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn read(&self) -> Result<Program, Error> {
        self.inner.read()
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        let result = self.inner.write(write);
        let table = self.counts.tables.entry(write.table).or_default();
        match result {
            Ok(()) => {
                table.writes += 1;
                table.put += write.put.len() as u64;
                table.removed += write.remove.len() as u64;
            }
            Err(_) => table.errors += 1,
        }
        result
    }

    fn compared(&self) -> Result<Option<Compared>, Error> {
        self.inner.compared()
    }

    fn settle(&mut self) -> Result<(), Error> {
        let result = self.inner.settle();
        match result {
            Ok(()) => self.counts.settles += 1,
            Err(_) => self.counts.errors += 1,
        }
        result
    }
}
