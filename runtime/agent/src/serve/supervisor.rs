//! Supervises an agent, for both loops: runs updates and records whether they worked, checks that
//! what was installed is still there, and writes the record for `netpolc status`. Also here:
//! notifications about links.
//!
//! Not here: where updates come from ([`super::file_loop`], [`super::cluster_loop`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use netpolc_host::{links, netlink};
use netpolc_kube_sync::PolicyState;
use netpolc_lower::{Aside, Diagnostic, Kind};
use netpolc_policy::ObjectKey;
use netpolc_target::NodeTarget;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Pass,
    flows::Flows,
    metrics::{Metrics, rules},
    policy_status::policy_status,
    record::{Alive, Record, TriedRecord},
};
use crate::{Agent, Error, Report, Standing, network::Network, trials::Would};

/// How long to wait after a change of links, since the kernel announces each link several times
/// while it is set up.
const LINK_DEBOUNCE: Duration = Duration::from_millis(2);
/// The shortest interval between two records: writing one costs more than handling an event.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two iterations of the loop, by which monitoring sees that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The same while the target is preparing something that a check completes.
const SHORT_HEARTBEAT: Duration = Duration::from_millis(500);
/// How long the record shows a repair.
const REPAIR_SHOWN_FOR: Duration = Duration::from_secs(600);

/// How long a pod's interface may take to appear after its address before it is reported as
/// missing.
const UNFOUND_GRACE: Duration = Duration::from_secs(2);

/// Whether something has been reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Due,
    Sent,
}

/// Two ClusterNetworkPolicies of one priority that answer differently for some packet (S64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The policy whose answer counts, as users name it.
    pub wins: Arc<str>,
    /// The policy whose answer is lost.
    pub loses: Arc<str>,
    /// What users are told, with a packet as an example.
    pub why: String,
}

/// An agent, and the state that the record and monitoring show.
pub struct Supervisor<H, N> {
    /// The agent itself. [`Supervisor::follow`] has it make an update, and notes whether it worked.
    pub agent: Agent<H, N>,
    /// What is wrong with the input, one line each.
    pub problems: Vec<String>,
    /// The objects that stay enforced although the input no longer shows them, one line each.
    pub retained: Vec<String>,
    /// The files from which the enforced objects came; None where they came from an API server.
    pub files: Option<BTreeSet<String>>,
    /// Why the kernel does not enforce the newest policies; None where it does.
    pub behind: Option<String>,
    /// Why the cluster's changes are not seen; None where they are. Until they are again, the last
    /// state that was seen is enforced.
    pub blind: Option<String>,
    /// The pods that a policy selects and whose interface is missing, each with when that began and
    /// whether it was reported.
    unfound: BTreeMap<ObjectKey, (Instant, Notice)>,
    /// Whether changes are held off: the target held tables before this agent's first update, and
    /// the input has not been seen completely yet.
    pub on_hold: bool,
    /// What monitoring reads, where the loops note what only they know.
    pub metrics: Arc<Metrics>,
    /// When flows are to be taken, and what becomes of them.
    pub flows: Flows,
    /// The objects that are set aside, as they were last logged.
    aside: BTreeMap<(Kind, ObjectKey), Aside>,
    /// What policies that are only tried would have done to packets since the agent started.
    trials: BTreeMap<Arc<str>, TriedRecord>,
    /// Objects that were set aside since [`Supervisor::take_aside`].
    unreported: Vec<Aside>,
    /// The pairs of policies that contradict each other, the one that counts first, as they were
    /// last logged.
    conflicts: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Those that were found since [`Supervisor::take_conflicts`].
    unreported_conflicts: Vec<Conflict>,
    node: Arc<str>,
    pin_dir: PathBuf,
    /// When the record was last written; None where it never was.
    recorded: Option<Instant>,
    /// Whether the record is out of date.
    stale: bool,
    /// When the installed objects were last checked.
    checked: Option<Instant>,
    /// Which of them are missing and could not be restored.
    broken: Option<String>,
    /// Which of them were restored, and when.
    repaired: Vec<(Instant, String)>,
    /// What audits have found since [`Supervisor::take_found`].
    unreported_found: Vec<String>,
    _alive: Option<Alive>,
}

impl<H: NodeTarget, N: Network> Supervisor<H, N> {
    /// Starts to supervise an agent of its own, and changes no tables yet.
    ///
    /// # Errors
    /// The installed tables cannot be read, or the target cannot be prepared.
    pub fn new(
        node: Arc<str>,
        pin_dir: PathBuf,
        metrics: Arc<Metrics>,
        host: H,
        network: N,
    ) -> Result<Self, Error> {
        let alive = Alive::show(&pin_dir);
        if let Err(error) = &alive {
            tracing::warn!(%error, "the liveness lock could not be taken; `netpolc status` will \
                not see that this agent runs");
        }
        let on_hold = host.holds()?;
        let mut agent = Agent::new(node.clone(), host, network)?;
        match agent.found() {
            0 => tracing::info!(%node, "no tables of an earlier agent are installed"),
            pods => tracing::info!(%node, pods, "the tables of an earlier agent judge the packets \
                of {pods} pods, and go on doing so until the cluster is known"),
        }
        let pulse = metrics.clone();
        agent.set_pulse(move || pulse.turned());
        let mut supervisor = Self {
            metrics,
            flows: Flows::default(),
            on_hold,
            agent,
            problems: vec![],
            retained: vec![],
            files: Record::read(&pin_dir).and_then(|record| record.files),
            behind: None,
            blind: None,
            unfound: BTreeMap::new(),
            aside: BTreeMap::new(),
            trials: BTreeMap::new(),
            unreported: vec![],
            conflicts: BTreeSet::new(),
            unreported_conflicts: vec![],
            node,
            pin_dir,
            recorded: None,
            stale: false,
            checked: None,
            broken: None,
            repaired: vec![],
            unreported_found: vec![],
            _alive: alive.ok(),
        };
        if supervisor.on_hold {
            // Interfaces may have appeared while no agent was running.
            supervisor.cover();
        }
        Ok(supervisor)
    }

    /// Runs an update and records its result. Where it fails, what was enforced stays. While
    /// changes are held off, nothing is done.
    pub fn follow(&mut self, act: impl FnOnce(&mut Agent<H, N>) -> Result<Report, Error>) {
        if self.on_hold {
            return;
        }
        self.metrics.begins();
        let done = act(&mut self.agent);
        self.log_aside();
        match done {
            Ok(report) => {
                let was_behind = self.behind.take().is_some();
                self.metrics.enforced(report.writes, (report.writes > 0).then_some(report.took));
                if report.writes == 0 && !was_behind && self.recorded.is_some() {
                    return;
                }
                let (writes, took) = (report.writes, report.took);
                let endpoints = self.agent.compiler().endpoints().count();
                let took_ms = took.as_secs_f64() * 1000.0;
                if self.recorded.is_none() {
                    let (isolated, policies) = (self.agent.isolated_pods(), self.agent.policies());
                    tracing::info!(
                        pods = endpoints,
                        isolated,
                        policies,
                        writes,
                        took_ms,
                        "the kernel is in step: \
                        {isolated} of the node's {endpoints} pods are isolated; {writes} entries \
                        were written"
                    );
                } else if was_behind {
                    tracing::info!(writes, took_ms, "the kernel is in step again");
                } else {
                    tracing::debug!(writes, took_ms, endpoints, "the kernel is in step");
                }
            }
            Err(error) => {
                tracing::error!("the kernel is not in step, and what was enforced stays: {error}");
                self.metrics.failed(&error.to_string());
                self.behind = Some(error.to_string());
            }
        }
        self.stale = true;
        self.flows.begin(&mut self.agent, &self.pin_dir);
    }

    /// Takes what was observed since the last time, and hands it on. Returns whether the loop has
    /// nothing else to do.
    pub fn take_flows(&mut self) -> bool {
        self.flows.take(&mut self.agent, &self.metrics);
        self.stale |= self.metrics.flows.take_new();
        !self.is_check_due()
    }

    /// Covers interfaces that have appeared, even while changes are held off.
    pub fn cover(&mut self) {
        if let Err(error) = self.agent.cover() {
            tracing::error!(%error, "an interface could not be covered; no new packet to a \
                Service passes until it is");
            self.set_behind(error.to_string());
        }
    }

    /// Once per heartbeat, checks whether everything that was installed in the kernel is still
    /// there, and lets the target prepare for later updates.
    pub fn heartbeat(&mut self) {
        if self.is_check_due() {
            self.check();
            self.count_trials();
            if let Err(error) = self.agent.look_ahead() {
                tracing::warn!(%error, "preparing for later updates has failed and is retried");
            }
        }
    }

    fn is_check_due(&self) -> bool {
        self.checked.is_none_or(|last| last.elapsed() >= self.pause())
    }

    /// Takes over what was counted of packets that policies which are only tried would treat
    /// otherwise.
    fn count_trials(&mut self) {
        let trials = self.agent.take_trials();
        self.metrics.tried(&trials);
        self.stale |= !trials.is_empty();
        for ((policy, would), packets) in trials {
            let record = self.trials.entry(policy.clone()).or_insert_with(|| TriedRecord {
                policy: policy.to_string(),
                ..TriedRecord::default()
            });
            *match would {
                Would::Deny => &mut record.would_deny,
                Would::Permit => &mut record.would_permit,
            } += packets;
        }
    }

    /// How long the loop may wait until its next iteration.
    pub fn pause(&self) -> Duration {
        if self.agent.host().under_way() { SHORT_HEARTBEAT } else { HEARTBEAT }
    }

    /// Checks at once whether everything that was installed in the kernel is still there. What is
    /// missing is restored and logged, and stays in the record for a while.
    pub fn check(&mut self) {
        self.checked = Some(Instant::now());
        let before = self.broken.take();
        match self.agent.host_mut().check() {
            Ok(repaired) => {
                self.metrics.differences(repaired.len());
                for what in repaired {
                    tracing::error!("{what}");
                    self.metrics.error("tampering");
                    self.unreported_found.push(what.clone());
                    self.repaired.push((Instant::now(), what));
                }
            }
            Err(error) => {
                let what = format!(
                    "a part of what enforces policies is missing and could not be restored: {error}"
                );
                if before.as_ref() != Some(&what) {
                    tracing::error!("{what}");
                }
                self.metrics.failed(&what);
                self.broken = Some(what);
            }
        }
        let shown = self.repaired.len();
        self.repaired.retain(|(when, _)| when.elapsed() < REPAIR_SHOWN_FOR);
        self.stale |= before != self.broken || shown > 0;
    }

    /// Logs what an audit has found, which stays in the record for a while.
    pub fn found(&mut self, what: &str) {
        tracing::warn!("{what}; it is repaired");
        self.metrics.error("tampering");
        self.unreported_found.push(what.to_owned());
        self.repaired.push((Instant::now(), format!("{what}; it was repaired")));
        self.stale = true;
    }

    /// What audits and checks have found and repaired since the last call.
    pub fn take_found(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unreported_found)
    }

    /// Logs objects that are newly set aside or no longer are, and counts them.
    fn log_aside(&mut self) {
        let now: BTreeMap<(Kind, ObjectKey), Aside> = self
            .agent
            .aside()
            .map(|aside| ((aside.kind, aside.object.clone()), aside.clone()))
            .collect();
        for (_, aside) in now.iter().filter(|(key, _)| !self.aside.contains_key(key)) {
            tracing::warn!("{aside}");
            self.unreported.push(aside.clone());
        }
        for ((kind, object), _) in self.aside.iter().filter(|(key, _)| !now.contains_key(key)) {
            tracing::info!(%kind, %object, "the object is no longer set aside");
        }
        self.stale |= now != self.aside;
        self.metrics.aside(now.len());
        self.aside = now;
    }

    /// The objects that were set aside since the last call.
    pub fn take_aside(&mut self) -> Vec<Aside> {
        std::mem::take(&mut self.unreported)
    }

    /// Logs pairs of ClusterNetworkPolicies that newly contradict each other (S64).
    fn log_conflicts(&mut self, diagnostics: &[Diagnostic]) {
        let mut now = BTreeSet::new();
        for diagnostic in diagnostics {
            let Diagnostic::TierConflict { wins, loses, .. } = diagnostic else { continue };
            let pair = (wins.clone(), loses.clone());
            if !self.conflicts.contains(&pair) {
                tracing::warn!("{diagnostic}");
                let (wins, loses) = pair.clone();
                let why = diagnostic.to_string();
                self.unreported_conflicts.push(Conflict { wins, loses, why });
            }
            now.insert(pair);
        }
        self.conflicts = now;
    }

    /// The contradictions that were found since the last call.
    pub fn take_conflicts(&mut self) -> Vec<Conflict> {
        std::mem::take(&mut self.unreported_conflicts)
    }

    /// Replaces the problems, and logs the new ones.
    pub fn set_problems(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|p| !self.problems.contains(p)) {
            tracing::warn!("{problem}");
        }
        self.stale |= self.problems != problems;
        self.metrics.problems(problems.len());
        self.problems = problems;
    }

    /// Replaces the retained objects, and logs the new ones, at most a certain number of them.
    pub fn set_retained(&mut self, retained: Vec<String>) {
        const LOGGED: usize = 50;
        let before: BTreeSet<&String> = self.retained.iter().collect();
        let new: Vec<&String> = retained.iter().filter(|k| !before.contains(k)).collect();
        for object in new.iter().take(LOGGED) {
            tracing::warn!("{object}");
        }
        if new.len() > LOGGED {
            tracing::warn!(
                objects = new.len(),
                "this many objects stay enforced as they were; `netpolc status` lists all"
            );
        }
        self.stale |= self.retained != retained;
        self.retained = retained;
    }

    /// Records and logs why the kernel cannot be brought in step at the moment.
    pub fn set_behind(&mut self, why: String) {
        if self.behind.as_ref() != Some(&why) {
            tracing::error!("{why}");
            self.wait_for(why);
        }
    }

    /// Records and logs what the agent waits for, as it does for a while at every start.
    pub fn set_waiting(&mut self, why: String) {
        if self.behind.as_ref() != Some(&why) {
            tracing::info!("{why}");
            self.wait_for(why);
        }
    }

    fn wait_for(&mut self, why: String) {
        self.metrics.waits_for(&why);
        self.behind = Some(why);
        self.stale = true;
    }

    /// Records and logs whether the cluster's changes are seen.
    pub fn set_blind(&mut self, why: Option<String>) {
        if self.blind == why {
            return;
        }
        match (&self.blind, &why) {
            (None, Some(why)) => tracing::error!("{why}"),
            // The kinds that are not watched have changed, as happens one by one when a server goes
            // away or comes back.
            (Some(_), Some(why)) => tracing::debug!("{why}"),
            (_, None) => tracing::info!("the cluster's changes are seen again"),
        }
        self.metrics.blind(why.as_deref());
        self.blind = why;
        self.stale = true;
    }

    /// Updates the pods that a policy selects and that have no interface here. Returns those that
    /// are now reported as missing.
    pub fn note_unfound(&mut self) -> Vec<ObjectKey> {
        let missing = self.agent.missing().into_iter();
        let now: BTreeSet<ObjectKey> =
            missing.filter(|key| self.agent.standing(key) == Standing::Unfound).cloned().collect();
        let before = self.unfound_pods().count();
        self.unfound.retain(|key, _| now.contains(key));
        let began = Instant::now();
        let mut new = Vec::new();
        for key in now {
            let since = self.unfound.entry(key.clone()).or_insert((began, Notice::Due));
            if since.1 == Notice::Due && since.0.elapsed() >= UNFOUND_GRACE {
                since.1 = Notice::Sent;
                let why = "a policy selects the pod, but no interface of this node leads to its \
                    addresses: it is not isolated";
                tracing::error!(pod = %key, "{why}");
                new.push(key);
            }
        }
        if !new.is_empty() || self.unfound_pods().count() != before {
            self.stale = true;
            self.metrics.unfound(self.unfound_pods().count());
        }
        new
    }

    /// When the next pod without an interface is to be reported; None where there is none.
    pub fn unfound_due(&self) -> Option<Instant> {
        let unreported = self.unfound.values().filter(|(_, notice)| *notice == Notice::Due);
        unreported.map(|(since, _)| *since + UNFOUND_GRACE).min()
    }

    fn unfound_pods(&self) -> impl Iterator<Item = &ObjectKey> {
        self.unfound.iter().filter(|(_, (_, notice))| *notice == Notice::Sent).map(|(key, _)| key)
    }

    /// Whether a failed update has to be retried, or an interface is missing.
    pub fn waits(&self) -> bool {
        !self.on_hold && (self.behind.is_some() || !self.agent.missing().is_empty())
    }

    /// When the record has to be written next; None where it is up to date.
    pub fn record_due(&self) -> Option<Instant> {
        self.stale.then(|| self.recorded.map_or_else(Instant::now, |last| last + RECORD_INTERVAL))
    }

    /// The result of one pass whose input had this number of errors.
    pub fn pass(self, errors: usize) -> Pass {
        let missing = self.agent.missing();
        let unfound = missing.iter().map(|pod| {
            format!(
                "pod {pod}: no interface leads to its address, so its policies are not enforced"
            )
        });
        let notices = unfound.chain(self.problems).collect();
        Pass { notices, errors: errors + missing.len(), failure: self.behind }
    }

    /// Marks the record as out of date.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// Writes the record where it is out of date, and returns it; None where it is up to date.
    /// `about` adds to each policy what the tables do not show.
    pub fn record(&mut self, about: impl Fn(&mut PolicyState)) -> Option<Record> {
        if !std::mem::take(&mut self.stale) {
            return None;
        }
        self.recorded = Some(Instant::now());
        let mut policies = policy_status(self.agent.compiler());
        let cluster = self.agent.cluster();
        let here = rules::of(cluster, &policies);
        self.metrics.flows.follow(|rule| rules::exists(cluster, rule), here);
        policies.iter_mut().for_each(about);
        let diagnostics = self.agent.compiler().diagnostics();
        self.log_conflicts(&diagnostics);
        let aside: Vec<String> = self.agent.aside().map(ToString::to_string).collect();
        for aside in self.agent.aside().filter(|aside| aside.kind == Kind::Policy) {
            let name = aside.object.to_string();
            policies
                .iter_mut()
                .filter(|state| state.policy == name)
                .for_each(|state| state.errors += 1);
        }
        let record = Record {
            node: self.node.to_string(),
            pid: std::process::id(),
            written: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            pods: self.agent.pods(),
            policies,
            // Objects that are set aside come first: of many problems only some are published in
            // the cluster.
            tried: self.trials.values().cloned().collect(),
            problems: {
                let problems = aside
                    .into_iter()
                    .chain(self.problems.iter().cloned())
                    .chain(self.agent.doubts());
                let problems = problems.chain(self.repaired.iter().map(|(_, what)| what.clone()));
                let diagnostics = diagnostics.into_iter().chain(self.agent.not_compared());
                problems.chain(diagnostics.map(|d| d.to_string())).collect()
            },
            kept: self.retained.clone(),
            files: self.files.clone(),
            behind: self.behind.clone().or_else(|| self.broken.clone()),
            blind: self.blind.clone(),
            unfound: self.unfound_pods().map(ToString::to_string).collect(),
            offload: self.agent.host().offload(),
        };
        if let Err(error) = record.write(&self.pin_dir) {
            tracing::warn!(%error, "the record for `netpolc status` could not be written");
        }
        Some(record)
    }
}

/// Notifications about changes of links and routes, and about filters that somebody removes. Never
/// ready where the kernel sends none.
pub struct Links(Option<AsyncFd<netlink::Socket>>);

impl Links {
    /// Subscribes to changes from now on.
    pub fn open() -> Self {
        let open = || -> io::Result<_> {
            let monitor = links::monitor()?;
            // SAFETY: the socket owns its descriptor and never exchanges it.
            unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) }
                .map_err(Into::into)
        };
        let links = open();
        if let Err(error) = &links {
            tracing::warn!(%error, "notifications about links are not available; missing \
                interfaces are searched for repeatedly");
        }
        Links(links.ok())
    }

    /// Returns when something has changed. Cancel safe.
    pub async fn changed(&mut self) {
        let Some(links) = &mut self.0 else { return std::future::pending().await };
        loop {
            let Ok(mut guard) = links.readable_mut().await else {
                return std::future::pending().await;
            };
            let any = guard.get_inner_mut().drain(links::concerns);
            guard.clear_ready();
            if any {
                return;
            }
        }
    }

    /// Waits until the burst of changes is probably over, and discards those that have arrived so
    /// far.
    pub async fn debounce(&mut self) {
        tokio::time::sleep(LINK_DEBOUNCE).await;
        if let Some(links) = &mut self.0 {
            links.get_mut().drain(links::concerns);
        }
    }
}
