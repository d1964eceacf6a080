//! Those who get lines as they come, each from a queue of its own.
//!
//! What finds no place in a queue is counted, and its reader is told. One whose queue is full for
//! too long is cut off. Not here: lines that were there before ([`super`]).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use netpolc_flow::line::{Line, Owed};
use netpolc_hubble::source::Told;
use tokio::sync::{mpsc, oneshot};

/// How many lines may wait for a reader.
pub const QUEUE_LEN: usize = 1 << 12;
/// How long a reader's queue may be full before the reader is cut off.
pub const FULL_FOR: Duration = Duration::from_secs(5);

/// What waits in a queue.
pub trait Waiting: Clone {
    /// What a reader has missed, as this line says.
    fn missed(line: Line) -> Self;
}

impl Waiting for Arc<str> {
    fn missed(line: Line) -> Self {
        line.text().into()
    }
}

impl Waiting for Told {
    fn missed(line: Line) -> Self {
        Told::Missed(line)
    }
}

/// All readers of one kind.
#[derive(Debug)]
pub struct Followers<T> {
    all: BTreeMap<u64, Follower<T>>,
    next: u64,
}

impl<T> Default for Followers<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), next: 0 }
    }
}

/// The sending side.
#[derive(Debug)]
struct Follower<T> {
    since: u64,
    queue: mpsc::Sender<T>,
    owed: Owed,
    /// Since when its queue is full; None where it has room.
    full: Option<Instant>,
    /// Ends the reader's task when it is dropped.
    _cut: oneshot::Sender<()>,
}

/// The reader's side.
pub struct Followed<T> {
    pub id: u64,
    pub queue: mpsc::Receiver<T>,
    pub cut: oneshot::Receiver<()>,
}

impl<T: Waiting> Followers<T> {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A reader who gets flows from this time on, in nanoseconds since 1970.
    pub fn join(&mut self, since: u64) -> Followed<T> {
        let ((queue, lines), (_cut, cut)) = (mpsc::channel(QUEUE_LEN), oneshot::channel());
        let follower = Follower { since, queue, owed: Owed::default(), full: None, _cut };
        let id = self.next;
        self.next += 1;
        self.all.insert(id, follower);
        Followed { id, queue: lines, cut }
    }

    /// The reader is gone.
    pub fn leave(&mut self, id: u64) {
        self.all.remove(&id);
    }

    /// Queues a line for everybody, as `waiting`, and lets those go who do not read.
    pub fn offer(&mut self, line: &Line, waiting: &T, now: Instant) {
        self.all.retain(|_, follower| follower.offer(line, waiting, now));
    }
}

impl<T: Waiting> Follower<T> {
    /// Queues a line, and returns whether the reader is still served.
    fn offer(&mut self, line: &Line, waiting: &T, now: Instant) -> bool {
        if matches!(line, Line::Flow(flow) if flow.time < self.since) {
            return true;
        }
        for before in self.owed.settle() {
            if self.queue.try_send(T::missed(before.clone())).is_err() {
                self.owed.line(&before);
            }
        }
        match self.queue.try_send(waiting.clone()) {
            Ok(()) => {
                self.full = None;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.owed.line(line);
                let since = *self.full.get_or_insert(now);
                let cut = now.duration_since(since) >= FULL_FOR;
                if cut {
                    tracing::warn!("a reader of flows does not read, and is cut off");
                }
                !cut
            }
        }
    }
}
