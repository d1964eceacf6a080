//! How far each kind's feed sees, for whoever asks beside the feeds: the CNI gate
//! ([`super::current`]) and monitoring.
//!
//! A feed notes a resource version here only after everything up to it went into the channel to the
//! agent, so what is said into that channel later is heard after it.
//! Not here: the feeds themselves ([`super::feed`]).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::Resource;

/// All kinds' sights.
#[derive(Debug)]
pub(crate) struct Sights {
    of: [Sight; Resource::ALL.len()],
    /// Some sight has changed.
    pub moved: Notify,
}

/// One kind's.
#[derive(Debug)]
pub(crate) struct Sight {
    seen: Mutex<Seen>,
    /// The feed is to open its watch anew, or to end its pause.
    pub nudge: Notify,
    /// The feed is to list.
    pub relist: Notify,
}

/// How far a feed sees.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// The newest resource version, where it is a number.
    pub version: Option<u64>,
    /// How many objects there are, where the feed counts them.
    pub count: Option<usize>,
    /// The kind is watched, as far as anybody knows.
    pub up: bool,
    /// When anything came last.
    pub heard: Option<Instant>,
    /// The number of the client whose one connection carries the watch.
    pub shares: Option<u64>,
}

/// How one kind is watched at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its first list is complete, and it is watched.
    pub up: bool,
    /// Since anything came last; None before the first time.
    pub silent: Option<Duration>,
}

/// How each kind is watched, from any thread.
#[derive(Clone, Debug)]
pub struct Contacts(pub(crate) Arc<Sights>);

impl Contacts {
    /// In order of kinds.
    pub fn all(&self) -> impl Iterator<Item = (Resource, Contact)> {
        Resource::ALL.into_iter().map(|resource| {
            let seen = self.0.of(resource).seen();
            (resource, Contact { up: seen.up, silent: seen.heard.map(|heard| heard.elapsed()) })
        })
    }
}

impl Sights {
    pub fn new() -> Self {
        let of = Resource::ALL.map(|_| Sight { seen: Mutex::default(), nudge: Notify::new(), relist: Notify::new() });
        Self { of, moved: Notify::new() }
    }

    pub fn of(&self, resource: Resource) -> &Sight {
        &self.of[resource as usize]
    }

    /// Notes something of a kind.
    pub fn note(&self, resource: Resource, change: impl FnOnce(&mut Seen)) {
        change(&mut self.of(resource).lock());
        self.moved.notify_waiters();
    }
}

impl Sight {
    pub fn seen(&self) -> Seen {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
