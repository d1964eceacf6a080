//! The state of each kind's feed, shared with those outside it: the CNI gate ([`super::freshness`])
//! and monitoring.
//!
//! A feed records a resource version here only after everything up to that version has been sent to
//! the agent, so a message that is sent later arrives after it. Not here: the feeds themselves
//! ([`super::feed`]).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{Families, Resource};

/// The states of all feeds.
#[derive(Debug)]
pub(crate) struct FeedStates {
    of: [FeedState; Resource::COUNT],
    /// Which kinds are watched.
    pub families: Families,
    /// Whether a ClusterNetworkPolicy has named nodes, so that all Nodes are watched from then on.
    all_nodes: AtomicBool,
    /// Notified whenever a state changes.
    pub moved: Notify,
}

/// The state of one kind's feed, and requests to it.
#[derive(Debug)]
pub(crate) struct FeedState {
    progress: Mutex<Progress>,
    /// Asks the feed to open a new watch beside the current one, or to end its pause.
    pub nudge: Notify,
    /// Asks the feed to list again.
    pub relist: Notify,
}

/// What a feed has received so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// The newest resource version; None where it is not a number.
    pub version: Option<u64>,
    /// How many objects there are; None where the feed does not count them.
    pub count: Option<usize>,
    /// Whether the first list is complete and no failure of the watch is known.
    pub up: bool,
    /// Whether the server has the kind at all; None while that is not known.
    pub served: Option<bool>,
    /// When anything was last received.
    pub heard: Option<Instant>,
    /// The number of the client whose shared connection carries the watch; None where the watch has
    /// a connection of its own.
    pub shares: Option<u64>,
}

/// The state of one kind's watch, for monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchState {
    /// Whether the kind's first list is complete and it is watched.
    pub up: bool,
    /// The time since anything was last received; None where nothing has been received.
    pub silent: Option<Duration>,
}

/// A handle to the state of each kind's watch, for any thread.
#[derive(Clone, Debug)]
pub struct WatchStates(pub(crate) Arc<FeedStates>);

impl WatchStates {
    /// The state of each kind's watch, in order of kinds.
    pub fn all(&self) -> impl Iterator<Item = (Resource, WatchState)> {
        self.0.families.watched().map(|resource| {
            let progress = self.0.of(resource).progress();
            (
                resource,
                WatchState { up: progress.up, silent: progress.heard.map(|heard| heard.elapsed()) },
            )
        })
    }
}

impl FeedStates {
    pub fn new(families: Families) -> Self {
        let of = [(); Resource::COUNT].map(|()| FeedState {
            progress: Mutex::default(),
            nudge: Notify::new(),
            relist: Notify::new(),
        });
        Self { of, families, all_nodes: AtomicBool::new(false), moved: Notify::new() }
    }

    /// Whether all Nodes are watched, and not only the own one.
    pub fn has_all_nodes(&self) -> bool {
        self.all_nodes.load(Ordering::Acquire)
    }

    /// Lets all Nodes be watched from now on.
    pub fn want_all_nodes(&self) {
        if !self.all_nodes.swap(true, Ordering::AcqRel) {
            self.of(Resource::Node).relist.notify_one();
        }
    }

    pub fn of(&self, resource: Resource) -> &FeedState {
        &self.of[resource as usize]
    }

    /// Changes the state of a kind's feed.
    pub fn note(&self, resource: Resource, change: impl FnOnce(&mut Progress)) {
        change(&mut self.of(resource).lock());
        self.moved.notify_waiters();
    }
}

impl FeedState {
    pub fn progress(&self) -> Progress {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
