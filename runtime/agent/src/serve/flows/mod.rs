//! What becomes of the agent's flows: they are taken from the agent at short intervals, and handed
//! to the [`hub`], which keeps and serves them.
//!
//! Taking them is the only part that the agent's loop does itself; the rest is done by threads that
//! it never waits for. [`line`] is the form in which flows leave the agent. Not here: what a flow
//! says ([`crate::flow`]), and how `netpolc flows` shows it.

pub mod hub;
pub mod line;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use self::{
    hub::Batch,
    line::{Line, Missing, Owed},
};
use super::state_dir;
use crate::flow::Flow;

/// How often flows are taken. Each time lets the pods' budgets of records begin anew (S87).
const INTERVAL: Duration = Duration::from_millis(50);
/// How often packets that were not recorded are reported.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);

/// The loop's side of what serves flows.
#[derive(Debug, Default)]
pub struct Flows(Option<Open>);

#[derive(Debug)]
struct Open {
    interval: Interval,
    /// When missing packets were last asked for.
    counted: Instant,
    readers: Option<Outlet>,
}

/// A thread that takes batches, and what it could not be told in time.
#[derive(Debug)]
struct Outlet {
    batches: mpsc::Sender<Batch>,
    owed: Owed,
}

impl Flows {
    /// Serves flows for the tables pinned in `pin_dir`. Where that is not possible, it is logged,
    /// and flows are taken all the same. To be called within a runtime.
    pub fn open(pin_dir: &Path) -> Self {
        let path = state_dir::flows(pin_dir);
        let readers = match hub::start(&path) {
            Ok(batches) => Some(Outlet::new(batches)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "flows cannot be served; `netpolc \
                    flows` will not find this agent");
                None
            }
        };
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(Some(Open { interval, counted: Instant::now(), readers }))
    }

    /// Waits until flows are to be taken; for ever where there are none. Cancel safe.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(open) => drop(open.interval.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Are packets that were not recorded to be asked for? Then they are, and so not again soon.
    pub fn is_count_due(&mut self, now: Instant) -> bool {
        let Some(open) = &mut self.0 else { return false };
        let due = now.duration_since(open.counted) >= MISSING_INTERVAL;
        if due {
            open.counted = now;
        }
        due
    }

    /// Hands on what was taken: flows, how many more there were, and packets without a record.
    pub fn publish(&mut self, flows: Vec<Flow>, lost: u64, missing: Missing) {
        let Some(Open { readers: Some(readers), .. }) = &mut self.0 else { return };
        if flows.is_empty() && lost == 0 && missing.is_empty() {
            return;
        }
        let mut said = Owed::default();
        said.lost(lost);
        said.missing(missing);
        let flows = flows.into_iter().map(|flow| Line::Flow(Box::new(flow)));
        readers.send(flows.chain(said.settle()).map(Arc::new).collect());
    }
}

impl Outlet {
    fn new(batches: mpsc::Sender<Batch>) -> Self {
        Self { batches, owed: Owed::default() }
    }

    /// Never waits: what cannot be sent is owed.
    fn send(&mut self, batch: Batch) {
        let before: Batch = self.owed.settle().into_iter().map(Arc::new).collect();
        let batch = if before.is_empty() { batch } else { [before, batch].concat() };
        if let Err(error) = self.batches.try_send(batch) {
            error.into_inner().iter().for_each(|line| self.owed.line(line));
        }
    }
}
