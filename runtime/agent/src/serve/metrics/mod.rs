//! The agent's metrics and health: counters that its loop keeps, and values that are read when they
//! are requested.
//!
//! [`Metrics`] is shared between the loop and [`server`]. [`collect`] reads the tables, and
//! [`watched`] the state of the watches and `exported` what a collector has taken; [`flows`] counts
//! flows, by the [`rules`] that there are.
//! Names follow Prometheus' conventions: base units, `_total` on counters, and the prefix
//! `netpolc_`. Not here: the loops themselves ([`crate`]).

pub mod collect;
mod exported;
pub mod flows;
pub mod rules;
pub mod server;
pub mod watched;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use collect::Tables;
use exported::Exported;
use flows::FlowCounters;
use netpolc_export::otlp::Counts;
use netpolc_kube_sync::watch::WatchStates;
use watched::Watched;

use super::sandboxes::Answer;
use crate::trials::Trials;

/// The longest time between two iterations of the agent's loop in which the agent counts as
/// healthy.
const LIVENESS_WINDOW: Duration = Duration::from_secs(30);
/// How long an event may wait until the kernel counts as out of step.
const OUT_OF_STEP_AFTER: Duration = Duration::from_secs(5);
/// How long an event may wait until the agent counts as not ready.
const UNREADY_AFTER: Duration = Duration::from_secs(60);
/// The upper bounds of histogram buckets in seconds: from a single store to an adoption with grace
/// periods.
const BUCKETS: [f64; 14] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResource {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTrial {
    policy: String,
    would: &'static str,
}

/// The metrics and the health of one agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Counters of flows.
    pub flows: FlowCounters,
    updates: Family<ByResult, Counter>,
    writes: Counter,
    latency: Histogram,
    pod_starts: Family<ByResult, Counter>,
    pod_start_wait: Histogram,
    events: Family<ByResource, Counter>,
    resyncs: Family<ByResource, Counter>,
    errors: Family<ByResource, Counter>,
    tried: Family<ByTrial, Counter>,
    audits: Family<ByResult, Counter>,
    audit_differences: Counter,
    audit_duration: Histogram,
    problems: Gauge,
    aside: Gauge,
    in_step: Gauge<i64, AtomicI64>,
    unfound: Gauge,
    watched: Watched,
    exported: Exported,
    oldest: Gauge<f64, AtomicU64>,
    health: Mutex<Health>,
}

#[derive(Debug)]
struct Health {
    /// When the loop last began an iteration.
    turned: Instant,
    /// Why the agent is not ready; None where it is.
    waits_for: Option<String>,
    /// Whether the last update succeeded.
    enforced: bool,
    /// Why the cluster's changes are not seen; None where they are.
    blind: Option<String>,
    /// How many isolated pods have no known interface.
    unfound: usize,
    /// When the oldest event arrived that is not enforced yet; None where all are.
    oldest: Option<Instant>,
}

impl Health {
    fn in_step(&self) -> bool {
        let late = self.oldest.is_some_and(|since| since.elapsed() > OUT_OF_STEP_AFTER);
        self.enforced && self.blind.is_none() && self.unfound == 0 && !late
    }
}

impl Metrics {
    /// Metrics with all counters at zero, for the tables pinned in `pin_dir`. The agent is not
    /// ready until [`Metrics::enforced`].
    pub fn new(pin_dir: PathBuf) -> Arc<Self> {
        let mut registry = Registry::with_prefix("netpolc");
        let (updates, events, resyncs, errors) =
            (Family::default(), Family::default(), Family::default(), Family::default());
        let (writes, problems, in_step) = (Counter::default(), Gauge::default(), Gauge::default());
        let latency = Histogram::new(BUCKETS);
        registry.register(
            "updates",
            "Updates of the kernel's tables, by how they ended",
            updates.clone(),
        );
        registry.register("table_writes", "Writes to the kernel's tables", writes.clone());
        registry.register(
            "enforcement_latency_seconds",
            "From an event's arrival at the agent until packets are judged by it",
            latency.clone(),
        );
        let (pod_starts, pod_start_wait) = (Family::default(), Histogram::new(BUCKETS));
        registry.register(
            "cni_requests",
            "Requests of the CNI plugin about pods, by how they ended",
            pod_starts.clone(),
        );
        registry.register(
            "cni_request_duration_seconds",
            "From a request of the CNI plugin until its answer",
            pod_start_wait.clone(),
        );
        registry.register("events", "Changes that arrived, by resource", events.clone());
        registry.register(
            "resyncs",
            "Full lists after the first one, by resource",
            resyncs.clone(),
        );
        registry.register("errors", "Failures, by what failed", errors.clone());
        let tried = Family::default();
        registry.register(
            "tried_packets",
            "Opening packets that a policy which is only tried would deny or permit",
            tried.clone(),
        );
        let (audits, audit_differences) = (Family::default(), Counter::default());
        let audit_duration = Histogram::new(BUCKETS);
        registry.register(
            "audits",
            "Comparisons of what the kernel holds with what was written to it, by how they ended",
            audits.clone(),
        );
        registry.register(
            "audit_differences",
            "Entries and attachments that were found changed by somebody else and repaired",
            audit_differences.clone(),
        );
        registry.register(
            "audit_duration_seconds",
            "How long an audit takes to read what the kernel holds",
            audit_duration.clone(),
        );
        registry.register("problems", "Problems in the objects as they are now", problems.clone());
        let aside = Gauge::default();
        registry.register(
            "objects_set_aside",
            "Policies and Services that take more than their namespace's share and are denied",
            aside.clone(),
        );
        registry.register(
            "in_step",
            "1 while the kernel holds what the cluster says, no event waits for long, changes are \
             seen, and every isolated pod is enforced; else 0",
            in_step.clone(),
        );
        let oldest = Gauge::default();
        registry.register(
            "oldest_event_seconds",
            "Since the oldest event arrived that is not enforced yet; 0 where all are",
            oldest.clone(),
        );
        let unfound = Gauge::default();
        registry.register(
            "unenforced_pods",
            "Pods that a policy selects and whose interface is not found on this node",
            unfound.clone(),
        );
        registry.register_collector(Box::new(Tables::new(pin_dir)));
        let flows = FlowCounters::default();
        flows.register(&mut registry);
        let watched = Watched::default();
        registry.register_collector(Box::new(watched.clone()));
        let exported = Exported::default();
        registry.register_collector(Box::new(exported.clone()));
        let waits_for = Some("the first complete view of the cluster".to_owned());
        let health = Health {
            turned: Instant::now(),
            waits_for,
            enforced: false,
            blind: None,
            unfound: 0,
            oldest: None,
        };
        let health = Mutex::new(health);
        Arc::new(Metrics {
            registry,
            flows,
            updates,
            writes,
            latency,
            pod_starts,
            pod_start_wait,
            events,
            resyncs,
            errors,
            tried,
            audits,
            audit_differences,
            audit_duration,
            problems,
            aside,
            in_step,
            unfound,
            watched,
            exported,
            oldest,
            health,
        })
    }

    /// Records that the loop began an iteration.
    pub fn turned(&self) {
        self.health().turned = Instant::now();
    }

    /// Records that an event has arrived and is about to be enforced. It counts as waiting until an
    /// update succeeds.
    pub fn begins(&self) {
        self.health().oldest.get_or_insert_with(Instant::now);
    }

    /// How long the oldest event that is not enforced has been waiting; None where all are.
    pub fn waiting(&self) -> Option<Duration> {
        self.health().oldest.map(|since| since.elapsed())
    }

    /// Records that changes of a resource have arrived.
    pub fn arrived(&self, resource: &str, count: u64) {
        self.events.get_or_create(&ByResource { resource: resource.into() }).inc_by(count);
    }

    /// Records that a resource was listed again, this number of times.
    pub fn resynced(&self, resource: &str, lists: u64) {
        self.resyncs.get_or_create(&ByResource { resource: resource.into() }).inc_by(lists);
    }

    /// Records an update that succeeded with this number of writes. `waited` is the time since the
    /// oldest event of the update arrived; None where the update did not come from events.
    pub fn enforced(&self, writes: usize, waited: Option<Duration>) {
        self.updates.get_or_create(&ByResult { result: "enforced" }).inc();
        self.writes.inc_by(writes as u64);
        if let Some(waited) = waited {
            self.latency.observe(waited.as_secs_f64());
        }
        self.note(|health| (health.enforced, health.waits_for, health.oldest) = (true, None, None));
    }

    /// Records an update that failed, after which what was enforced stays.
    pub fn failed(&self, why: &str) {
        self.updates.get_or_create(&ByResult { result: "failed" }).inc();
        self.error("update");
        self.note(|health| {
            health.enforced = false;
            if health.waits_for.is_some() {
                health.waits_for = Some(why.to_owned());
            }
        });
    }

    /// Shows the state of the watches from now on.
    pub fn watching(&self, states: WatchStates) {
        self.watched.set(states);
    }

    /// Shows what becomes of the flows that are sent to a collector from now on.
    pub fn exporting(&self, counts: Arc<Counts>) {
        self.exported.set(counts);
    }

    /// Records why the cluster's changes are not seen at the moment; None where they are.
    pub fn blind(&self, why: Option<&str>) {
        self.note(|health| health.blind = why.map(ToOwned::to_owned));
    }

    /// Records how many isolated pods have no known interface.
    pub fn unfound(&self, count: usize) {
        self.unfound.set(count as i64);
        self.note(|health| health.unfound = count);
    }

    fn note(&self, change: impl FnOnce(&mut Health)) {
        let mut health = self.health();
        change(&mut health);
        self.in_step.set(health.in_step().into());
    }

    /// Records that a request of the CNI plugin was answered after this time.
    pub fn pod_start(&self, answer: Answer, took: Duration) {
        let result = match answer {
            Answer::Enforced => "enforced",
            Answer::Refused => "refused",
        };
        self.pod_starts.get_or_create(&ByResult { result }).inc();
        self.pod_start_wait.observe(took.as_secs_f64());
    }

    /// Records another failure, by what failed (`tampering`).
    pub fn error(&self, what: &str) {
        self.errors.get_or_create(&ByResource { resource: what.into() }).inc();
    }

    /// Records an audit that ended this way (`sound`, `differs`, `unreadable`, `outdated`), found
    /// so many differences, and took so long to read.
    pub fn audited(&self, result: &'static str, differences: usize, took: Duration) {
        self.audits.get_or_create(&ByResult { result }).inc();
        self.audit_duration.observe(took.as_secs_f64());
        self.differences(differences);
    }

    /// Counts what was found changed by somebody else and repaired.
    pub fn differences(&self, count: usize) {
        self.audit_differences.inc_by(count as u64);
    }

    /// Counts packets that policies which are only tried would treat otherwise.
    pub fn tried(&self, trials: &Trials) {
        for ((policy, would), packets) in trials {
            let labels = ByTrial { policy: policy.to_string(), would: would.name() };
            self.tried.get_or_create(&labels).inc_by(*packets);
        }
    }

    /// Sets the number of problems in the current objects.
    pub fn problems(&self, count: usize) {
        self.problems.set(count as i64);
    }

    /// Sets the number of objects that are set aside.
    pub fn aside(&self, count: usize) {
        self.aside.set(count as i64);
    }

    /// Sets what the agent waits for, until its first update is enforced.
    pub fn waits_for(&self, what: &str) {
        let mut health = self.health();
        if health.waits_for.is_some() {
            health.waits_for = Some(what.to_owned());
        }
    }

    /// Why the agent is not healthy; None where it is.
    pub fn unhealthy(&self) -> Option<String> {
        let silent = self.health().turned.elapsed();
        (silent > LIVENESS_WINDOW)
            .then(|| format!("the agent's loop has been stuck for {} s", silent.as_secs()))
    }

    /// Why the agent is not ready; None where it is. It is not ready while it waits for its first
    /// update, does not see the cluster's changes, or has not enforced an event for long. A failed
    /// update alone does not make it unready; that shows in [`Metrics::is_in_step`].
    pub fn unready(&self) -> Option<String> {
        let health = self.health();
        let stuck =
            health.oldest.map(|since| since.elapsed()).filter(|waits| *waits > UNREADY_AFTER);
        let stuck = stuck.map(|waits| {
            format!("an event that arrived {} s ago is not enforced yet", waits.as_secs())
        });
        health
            .waits_for
            .as_ref()
            .map(|what| format!("waiting for {what}"))
            .or_else(|| health.blind.clone())
            .or(stuck)
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        self.oldest.set(self.waiting().unwrap_or_default().as_secs_f64());
        self.in_step.set(self.is_in_step().into());
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the kernel enforces the cluster's current policies.
    pub fn is_in_step(&self) -> bool {
        self.health().in_step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_after_the_first_update_while_it_sees_the_cluster() {
        let metrics = Metrics::new("/nowhere".into());
        metrics.failed("pods cannot be listed");
        assert_eq!(metrics.unready().unwrap(), "waiting for pods cannot be listed");
        metrics.enforced(3, Some(Duration::from_micros(700)));
        metrics.failed("the table is full");
        assert_eq!((metrics.unready(), metrics.unhealthy()), (None, None));
        assert!(!metrics.is_in_step());
        metrics.enforced(0, None);
        assert!(metrics.is_in_step());
        metrics.blind(Some("cannot watch pods"));
        assert_eq!(
            (metrics.unready().as_deref(), metrics.is_in_step()),
            (Some("cannot watch pods"), false)
        );
        metrics.enforced(1, None);
        assert!(!metrics.is_in_step(), "an update from what was known does not end it");
        metrics.blind(None);
        assert!(metrics.unready().is_none() && metrics.is_in_step());
        metrics.unfound(1);
        assert!(metrics.unready().is_none() && !metrics.is_in_step());
    }

    #[test]
    fn an_event_that_waits_long_is_out_of_step_and_then_not_ready() {
        let metrics = Metrics::new("/nowhere".into());
        metrics.enforced(1, None);
        metrics.begins();
        let waits = |metrics: &Metrics, seconds: u64| {
            metrics.health().oldest = Instant::now().checked_sub(Duration::from_secs(seconds));
            metrics.turned();
        };
        assert!(metrics.is_in_step() && metrics.unready().is_none(), "an update may take a moment");
        waits(&metrics, 10);
        assert!(
            !metrics.is_in_step() && metrics.unready().is_none() && metrics.unhealthy().is_none()
        );
        assert!(metrics.text().contains("netpolc_in_step 0"), "{}", metrics.text());
        assert!(metrics.text().contains("netpolc_oldest_event_seconds 10."), "{}", metrics.text());
        waits(&metrics, 100);
        assert_eq!(
            metrics.unready().unwrap(),
            "an event that arrived 100 s ago is not enforced yet"
        );
        metrics.enforced(1, None);
        assert!(metrics.is_in_step() && metrics.unready().is_none());
        assert!(metrics.text().contains("netpolc_oldest_event_seconds 0.0"), "{}", metrics.text());
    }

    #[test]
    fn names_and_units_are_the_customary_ones() {
        let metrics = Metrics::new("/nowhere".into());
        metrics.enforced(3, Some(Duration::from_micros(700)));
        metrics.pod_start(Answer::Refused, Duration::from_millis(2));
        metrics.arrived("pods", 2);
        metrics.resynced("pods", 1);
        let text = metrics.text();
        for line in [
            "netpolc_updates_total{result=\"enforced\"} 1",
            "netpolc_table_writes_total 3",
            "netpolc_enforcement_latency_seconds_bucket{le=\"0.001\"} 1",
            "netpolc_cni_requests_total{result=\"refused\"} 1",
            "netpolc_cni_request_duration_seconds_bucket{le=\"0.0025\"} 1",
            "netpolc_events_total{resource=\"pods\"} 2",
            "netpolc_resyncs_total{resource=\"pods\"} 1",
            "netpolc_in_step 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
