//! [`Faulty`]: fails on purpose, to prove that an error leaves the answers as they were and that a
//! retry completes (S59).
//!
//! Not here: faults of a kernel or device, which look different.

use std::io;

use netpolc_table::{Program, Write};

use crate::{Capabilities, Compared, Error, Target, random::Random};

/// Which calls of `write` and `settle` fail, counted together from 0. A failing call does not reach
/// the target inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Faults {
    /// No call fails.
    Never,
    /// The call with this number fails, as for a full table; a grace period fails as a refused
    /// call.
    Full(u64),
    /// The call with this number fails, as a call that the kernel refuses.
    Refused(u64),
    /// A random share of all calls fails, in one way or the other.
    Share {
        /// How many of 1,000 calls fail on average.
        per_mille: u32,
        /// The seed of the random numbers; equal seeds choose the same calls.
        seed: u64,
    },
}

/// A target of which calls fail as [`Faults`] says.
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
    /// Wraps `inner`.
    pub fn new(inner: T, faults: Faults) -> Self {
        Faulty { inner, faults, calls: 0, injected: 0 }
    }

    /// Sets which calls fail from now on, counted from 0 again.
    pub fn set(&mut self, faults: Faults) {
        self.faults = faults;
        self.calls = 0;
    }

    /// How many calls were made to fail.
    pub fn injected(&self) -> u64 {
        self.injected
    }

    /// Decides whether this call fails, and how.
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

    fn compared(&self) -> Result<Option<Compared>, Error> {
        self.inner.compared()
    }

    fn settle(&mut self) -> Result<(), Error> {
        match self.draw() {
            Some(_) => Err(refused("injected: settle".into())),
            None => self.inner.settle(),
        }
    }
}
