//! Fails on purpose, to prove that an error leaves the answers as they were and that a retry
//! completes (S59).

use std::io;

use netpolc_table::{Program, Write};

use crate::{Capabilities, Error, Target, random::Random};

/// Which calls of `write` and `settle` fail, counted together from 0. A failing call does not reach
/// the target inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Faults {
    /// None.
    Never,
    /// This one, once, as a full table (a grace period fails as a refused call).
    Full(u64),
    /// This one, once, as a refused call.
    Refused(u64),
    /// A share of all, as one or the other, drawn from a seed.
    Share {
        /// Of 1,000.
        per_mille: u32,
        /// Where the drawing starts; equal seeds draw alike.
        seed: u64,
    },
}

/// Fails calls as [`Faults`] says.
#[derive(Clone, Debug)]
pub struct Faulty<T> {
    pub(super) inner: T,
    faults: Faults,
    calls: u64,
    injected: u64,
}

#[derive(Clone, Copy)]
enum Fault {
    Full,
    Refused,
}

impl<T: Target> Faulty<T> {
    /// Around `inner`.
    pub fn new(inner: T, faults: Faults) -> Self {
        Faulty { inner, faults, calls: 0, injected: 0 }
    }

    /// From now on; counting starts again at 0.
    pub fn set(&mut self, faults: Faults) {
        self.faults = faults;
        self.calls = 0;
    }

    /// How many calls were made to fail.
    pub fn injected(&self) -> u64 {
        self.injected
    }

    /// The fault of this call.
    fn draw(&mut self) -> Option<Fault> {
        let call = self.calls;
        self.calls += 1;
        let fault = match self.faults {
            Faults::Full(n) if n == call => Some(Fault::Full),
            Faults::Refused(n) if n == call => Some(Fault::Refused),
            Faults::Share { per_mille, seed } => {
                let random = Random::new(seed.rotate_left(32) ^ call).bits();
                let kind = if random >> 63 == 0 { Fault::Full } else { Fault::Refused };
                ((random & 0xffff_ffff) % 1000 < u64::from(per_mille)).then_some(kind)
            }
            _ => None,
        };
        self.injected += u64::from(fault.is_some());
        fault
    }
}

fn refused(call: String) -> Error {
    Error::System { call, source: io::Error::from_raw_os_error(12) }
}

super::packets_of_inner!(Faulty);

impl<T: Target> Target for Faulty<T> {
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
        let table = write.table;
        match self.draw() {
            Some(Fault::Full) => {
                Err(Error::Full { table, capacity: 0, what: "injected; try again".into() })
            }
            Some(Fault::Refused) => {
                Err(refused(format!("injected: write to {}", table.spec().name)))
            }
            None => self.inner.write(write),
        }
    }

    fn settle(&mut self) -> Result<(), Error> {
        match self.draw() {
            Some(_) => Err(refused("injected: settle".into())),
            None => self.inner.settle(),
        }
    }
}
