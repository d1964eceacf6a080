//! Counts what is written.

use std::collections::BTreeMap;

use netpolc_table::{Program, TableId, Write};

use crate::{Capabilities, Error, Target};

/// Counts of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Writes done.
    pub writes: u64,
    /// Entries put by them.
    pub put: u64,
    /// Keys removed by them.
    pub removed: u64,
    /// Writes that failed.
    pub errors: u64,
}

/// Everything counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tables that were written to, or failed to be.
    pub tables: BTreeMap<TableId, TableCounts>,
    /// Grace periods.
    pub settles: u64,
    /// Failures other than of writes.
    pub errors: u64,
}

impl Counts {
    /// Writes done in all tables.
    pub fn writes(&self) -> u64 {
        self.tables.values().map(|t| t.writes).sum()
    }

    /// Entries put and removed in all tables.
    pub fn entries(&self) -> u64 {
        self.tables.values().map(|t| t.put + t.removed).sum()
    }
}

/// Counts writes, grace periods and failures.
#[derive(Clone, Debug)]
pub struct Counted<T> {
    pub(super) inner: T,
    counts: Counts,
}

impl<T: Target> Counted<T> {
    /// Around `inner`, from zero.
    pub fn new(inner: T) -> Self {
        Counted { inner, counts: Counts::default() }
    }

    /// A snapshot.
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

    fn settle(&mut self) -> Result<(), Error> {
        let result = self.inner.settle();
        match result {
            Ok(()) => self.counts.settles += 1,
            Err(_) => self.counts.errors += 1,
        }
        result
    }
}
