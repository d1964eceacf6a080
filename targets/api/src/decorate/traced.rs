//! [`Traced`]: logs what is written. Not here: where logs go.

use netpolc_table::{Program, Write};

use crate::{Capabilities, Compared, Error, Target};

/// A target that emits a `tracing` event for each write (at debug level, with keys at trace level)
/// and each failure (at warn level), in a span that names the target.
#[derive(Clone, Debug)]
pub struct Traced<T> {
    pub(super) inner: T,
}

impl<T: Target> Traced<T> {
    /// Wraps `inner`.
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
            .inspect_err(|error| tracing::warn!(%error, "reading the tables failed"))
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
            tracing::trace!(?key, action = entry.action.spec().name, params = ?entry.params(), "put");
        }
        Ok(())
    }

    fn compared(&self) -> Result<Option<Compared>, Error> {
        self.inner.compared()
    }

    fn settle(&mut self) -> Result<(), Error> {
        let _span = tracing::debug_span!("settle", target = self.name()).entered();
        self.inner
            .settle()
            .inspect(|()| tracing::debug!("settled"))
            .inspect_err(|error| tracing::warn!(%error, "waiting for a grace period failed"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::{Debug, Write as _},
        sync::{Arc, Mutex},
    };

    use netpolc_table::{SetId, TableId, schema};
    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    use super::*;
    use crate::{Faults, Faulty};

    /// Holds nothing, takes everything.
    struct Nothing(Capabilities);

    impl Target for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }
        fn capabilities(&self) -> &Capabilities {
            &self.0
        }
        fn read(&self) -> Result<Program, Error> {
            Ok(Program::default())
        }
        fn write(&mut self, _: &Write) -> Result<(), Error> {
            Ok(())
        }
        fn settle(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }

    /// Spans and events as lines of text.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Fields<'a>(&'a mut String);

    impl Visit for Fields<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {}={value:?}", field.name()).expect("a string has room");
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            let mut line = format!("span {}", attributes.metadata().name());
            attributes.record(&mut Fields(&mut line));
            self.0.lock().expect("one thread").push(line);
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut line = event.metadata().level().to_string();
            event.record(&mut Fields(&mut line));
            self.0.lock().expect("one thread").push(line);
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn writes_and_failures_are_told_with_their_table() {
        let limits = Capabilities {
            endpoints: 1,
            sets: 1,
            classes_v4: 1,
            classes_v6: 1,
            rows: 1,
            port_classes: 1,
            connections: 1,
        };
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.clone(), || {
            let mut target = Traced::new(Faulty::new(Nothing(limits), Faults::Full(1)));
            let write =
                Write::remove(TableId::Base, schema::base_key(SetId::new(1), schema::Family::V4));
            target.write(&write).expect("no fault yet");
            target.write(&write).expect_err("the fault");
            target.settle().expect("no fault");
        });
        let lines = lines.0.lock().expect("one thread");
        let starts = |i: usize, text: &str| assert!(lines[i].starts_with(text), "{i}: {lines:#?}");
        starts(0, "span write target=\"nothing\" table=\"base\"");
        starts(1, "DEBUG message=written remove=1 put=0");
        starts(2, "TRACE message=removed key=");
        starts(4, "WARN message=not written remove=1 put=0 error=table base: full");
        starts(6, "DEBUG message=settled");
        assert_eq!(lines.len(), 7);
    }
}
