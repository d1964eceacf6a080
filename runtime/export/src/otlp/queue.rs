//! The lines that wait for a collector: a bounded queue between whoever takes them from the agent
//! and whoever sends them.
//!
//! Not here: what becomes of a request that fails.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use netpolc_flow::line::Line;
use tokio::{sync::Notify, time::timeout};

use super::QUEUE;

/// At most [`QUEUE`] lines, and the request that is under way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
    sent: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Arc<Line>>,
    /// Whether lines were taken out and are being sent.
    is_sending: bool,
}

impl Queue {
    /// Adds what there is a place for, and returns how many lines found none.
    pub fn push(&self, batch: Vec<Arc<Line>>) -> u64 {
        let mut waiting = self.lock();
        let wanted = batch.into_iter().filter(|line| says(line));
        let mut dropped = 0;
        for line in wanted {
            if waiting.lines.len() < QUEUE {
                waiting.lines.push_back(line);
            } else {
                dropped += 1;
            }
        }
        drop(waiting);
        self.changed.notify_one();
        dropped
    }

    pub fn len(&self) -> usize {
        self.lock().lines.len()
    }

    /// Waits for lines, and a moment for more of them.
    pub async fn next(&self, most: usize, linger: Duration) -> Vec<Arc<Line>> {
        while self.len() == 0 {
            self.changed.notified().await;
        }
        let enough = async {
            while self.len() < most {
                self.changed.notified().await;
            }
        };
        // Fewer will do.
        let _ = timeout(linger, enough).await;
        let mut waiting = self.lock();
        waiting.is_sending = true;
        let count = most.min(waiting.lines.len());
        waiting.lines.drain(..count).collect()
    }

    /// What was taken out has been sent or dropped.
    pub fn done(&self) {
        self.lock().is_sending = false;
        self.sent.notify_one();
    }

    /// Waits until nothing waits.
    pub async fn drained(&self) {
        while self.is_busy() {
            self.sent.notified().await;
        }
    }

    fn is_busy(&self) -> bool {
        let waiting = self.lock();
        waiting.is_sending || !waiting.lines.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a line is about traffic.
fn says(line: &Line) -> bool {
    !matches!(line, Line::Live(_) | Line::Error(_))
}
