//! Tells what is written.

use netpolc_table::{Program, Write};

use crate::{Capabilities, Error, Target};

/// One `tracing` event for each write (debug; with keys at trace) and each failure (warn), inside a span that names the target.
#[derive(Clone, Debug)]
pub struct Traced<T> {
    pub(super) inner: T,
}

impl<T: Target> Traced<T> {
    /// Around `inner`.
    pub fn new(inner: T) -> Self {
        Traced { inner }
    }
}

super::packets_of_inner!(Traced);

impl<T: Target> Target for Traced<T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn read(&self) -> Result<Program, Error> {
        let _span = tracing::debug_span!("read", target = self.name()).entered();
        self.inner
            .read()
            .inspect(|program| tracing::debug!(entries = program.len(), "read"))
            .inspect_err(|error| tracing::warn!(%error, "cannot read"))
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        let table = write.table.spec().name;
        let _span = tracing::debug_span!("write", target = self.name(), table).entered();
        let (remove, put) = (write.remove.len(), write.put.len());
        match self.inner.write(write) {
            Ok(()) => tracing::debug!(remove, put, "written"),
            Err(error) => {
                tracing::warn!(remove, put, %error, "not written");
                return Err(error);
            }
        }
        for key in &write.remove {
            tracing::trace!(?key, "removed");
        }
        for (key, entry) in &write.put {
            tracing::trace!(?key, action = entry.action.spec().name, params = ?entry.params, "put");
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Error> {
        let _span = tracing::debug_span!("settle", target = self.name()).entered();
        self.inner
            .settle()
            .inspect(|()| tracing::debug!("settled"))
            .inspect_err(|error| tracing::warn!(%error, "cannot wait for packets under way"))
    }
}
