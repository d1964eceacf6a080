//! What becomes of the agent's flows: they are taken from the agent at short intervals, and handed
//! to the [`hub`], which keeps and serves them, also to Hubble's clients ([`hubble`]), and where
//! these are wanted to the [`log`] and to a collector of OpenTelemetry. [`denials`] are what
//! becomes Events.
//!
//! Taking them is the only part that the agent's loop does itself; the rest is done by threads that
//! it never waits for. Not here: what a flow says and in which lines it leaves the agent
//! ([`netpolc_flow`]), and how `netpolc flows` shows it.

pub mod denials;
pub mod hub;
pub mod hubble;
pub mod log;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use netpolc_export::otlp;
use netpolc_flow::{
    Flow, Verdict,
    line::{Line, Owed, Unrecorded},
};
use netpolc_policy::Cluster;
use netpolc_target::{NodeTarget, Noted};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use self::{
    denials::{Denial, Denials},
    hub::Batch,
    hubble::Api,
};
use super::{Options, metrics::Metrics, state_dir};
use crate::{Agent, attribute::direction, network::Network, observe::Missing};

/// How often flows are taken. Each time lets the pods' budgets of records begin anew (S87).
const INTERVAL: Duration = Duration::from_millis(50);
/// How often packets that were not recorded are reported.
const MISSING_INTERVAL: Duration = Duration::from_secs(1);

/// The loop's side of what serves and logs flows.
#[derive(Debug, Default)]
pub struct Flows {
    observes: Observes,
    interval: Option<Interval>,
    /// When missing packets were last asked for; None where they never were.
    counted: Option<Instant>,
    readers: Option<Outlet>,
    log: Option<Outlet>,
    collector: Option<Outlet>,
    denials: Option<Denials>,
    /// Hubble's API, where it is wanted.
    hubble: Option<Api>,
}

/// Whether the agent observes packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Observes {
    /// It does not, and will not.
    #[default]
    Never,
    /// It will once it has made an update: before, ids in records mean nothing to it.
    FromFirstUpdate,
    /// It does.
    Now,
}

/// A thread that takes batches, and what it could not be told in time.
#[derive(Debug)]
struct Outlet {
    batches: mpsc::Sender<Batch>,
    owed: Owed,
}

impl Flows {
    /// Flows from the first update on, which go where the options say.
    ///
    /// # Errors
    /// The log cannot be opened, the collector's thread cannot be started, or Hubble's API cannot
    /// be served where it is to be.
    pub fn wanted(options: &Options, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let log = options.flow_log.as_ref().map(|to| {
            log::start(to).with_context(|| format!("--flow-log {}", to.place)).map(Outlet::new)
        });
        let collector = options.otlp.clone().map(|config| {
            let (source, counts) = (metrics.clone(), Arc::new(otlp::Counts::default()));
            metrics.exporting(counts.clone());
            otlp::start(config, &options.node, Box::new(move || source.text()), counts)
                .context("--otlp-endpoint cannot be used")
                .map(Outlet::new)
        });
        let hubble = options.hubble.as_ref().map(|of| Api::bind(of, options.node.clone()));
        Ok(Self {
            observes: Observes::FromFirstUpdate,
            log: log.transpose()?,
            collector: collector.transpose()?,
            denials: options.denial_events.map(Denials::new),
            hubble: hubble.transpose()?,
            ..Self::default()
        })
    }

    /// The nodes of the cluster may have changed.
    pub fn nodes(&self, cluster: &Cluster) {
        if let Some(hubble) = &self.hubble {
            hubble.nodes(cluster);
        }
    }

    /// The agent has made an update. Has packets observed from the first one on, where the target
    /// can, and flows served for the tables pinned in `pin_dir`. To be called within a runtime.
    pub fn begin<H: NodeTarget, N: Network>(&mut self, agent: &mut Agent<H, N>, pin_dir: &Path) {
        if self.observes != Observes::FromFirstUpdate {
            return;
        }
        self.observes = Observes::Never;
        match agent.observe() {
            Ok(true) => self.open(pin_dir),
            Ok(false) => tracing::info!(
                "this target does not record packets, so there are no \
                flows"
            ),
            Err(error) => tracing::warn!(%error, "packets cannot be observed, so there are no \
                flows; what is enforced does not depend on it"),
        }
        if self.observes == Observes::Never {
            // Nobody waits for what never comes.
            self.hubble = None;
        }
    }

    /// Where flows cannot be served, they are logged and counted all the same.
    fn open(&mut self, pin_dir: &Path) {
        let path = state_dir::flows(pin_dir);
        match hub::start(&path) {
            Ok((batches, hub)) => {
                self.readers = Some(Outlet::new(batches));
                if let Some(hubble) = &mut self.hubble {
                    hubble.serve(hub);
                }
            }
            Err(error) => {
                self.hubble = None;
                tracing::warn!(%error, path = %path.display(), "flows cannot be served; `netpolc \
                    flows` and Hubble will not find this agent");
            }
        }
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.interval = Some(interval);
        self.observes = Observes::Now;
    }

    /// Waits until flows are to be taken; for ever where there are none. Cancel safe.
    pub async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
    }

    /// Takes what the agent has observed since the last time, counts it and hands it on.
    pub fn take<H: NodeTarget, N: Network>(&mut self, agent: &mut Agent<H, N>, metrics: &Metrics) {
        if self.observes != Observes::Now {
            return;
        }
        let (flows, lost, now) = (agent.take_flows(), agent.take_dropped(), Instant::now());
        let since = |counted| now.duration_since(counted);
        let mut missing = Missing::new();
        if self.counted.is_none_or(|counted| since(counted) >= MISSING_INTERVAL) {
            self.counted = Some(now);
            missing = agent.take_unrecorded();
        }
        if !flows.is_empty() || lost > 0 || !missing.is_empty() {
            self.publish(flows, lost, missing, metrics);
        }
    }

    /// What there is to say of denied traffic, in Events.
    pub fn take_denials(&mut self, metrics: &Metrics) -> Vec<Denial> {
        let Some(denials) = &mut self.denials else { return Vec::new() };
        let due = denials.due(Instant::now());
        metrics.flows.events(due.len() as u64, denials.take_suppressed());
        due
    }

    fn publish(&mut self, flows: Vec<Flow>, lost: u64, missing: Missing, metrics: &Metrics) {
        metrics.flows.flows(&flows);
        metrics.flows.lost(lost);
        if let Some(denials) = &mut self.denials {
            denials.take(&flows, Instant::now());
        }
        let mut said = Owed::default();
        said.lost(lost);
        unrecorded(missing).for_each(|one| said.unrecorded(one));
        let said = said.settle();
        for line in &said {
            if let Line::Unrecorded(all) = line {
                metrics.flows.unrecorded(all);
            }
        }
        let flows = flows.into_iter().map(|flow| Line::Flow(Box::new(flow)));
        let batch: Batch = flows.chain(said).map(Arc::new).collect();
        let outlets = [&mut self.readers, &mut self.log, &mut self.collector];
        for outlet in outlets.into_iter().flatten() {
            outlet.send(&batch);
        }
    }
}

/// Packets that were not recorded, as they are told of.
fn unrecorded(missing: Missing) -> impl Iterator<Item = Unrecorded> {
    missing.into_iter().map(|((pod, hook, noted), packets)| {
        let reason = match noted {
            Noted::Dropped(reason) => reason.name(),
            Noted::Opened => Verdict::Allowed.name(),
            Noted::Differs => Verdict::Audit.name(),
        };
        let pod = pod.map(|key| key.to_string().into());
        Unrecorded { pod, direction: direction(hook), reason: reason.into(), packets }
    })
}

impl Outlet {
    fn new(batches: mpsc::Sender<Batch>) -> Self {
        Self { batches, owed: Owed::default() }
    }

    /// Never waits: what cannot be sent is owed.
    fn send(&mut self, batch: &[Arc<Line>]) {
        let before: Batch = self.owed.settle().into_iter().map(Arc::new).collect();
        let batch = [&before, batch].concat();
        if let Err(error) = self.batches.try_send(batch) {
            error.into_inner().iter().for_each(|line| self.owed.line(line));
        }
    }
}
