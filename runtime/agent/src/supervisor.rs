//! What every loop around the agent does with it: act, note whether that worked, write the record; and hear of links.
//!
//! Not here: what there is to act upon ([`super::file_loop`], [`super::cluster_loop`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use netpolc_host::{links, netlink};
use netpolc_kube_sync::PolicyState;
use netpolc_lower::{Aside, Kind};
use netpolc_policy::ObjectKey;
use netpolc_target::NodeTarget;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Agent, Error, Report, Standing,
    network::Network,
    policy_status::policy_status,
    record::{Alive, Record},
};
use crate::{metrics::Metrics, options::Pass};

/// The first pause before something that failed, or was not found, is tried again; doubled each time.
pub const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
/// The longest pause.
pub const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// The kernel tells of each link several times while it is set up.
pub const LINKS_SETTLE: Duration = Duration::from_millis(2);
/// Records are written at most so often: one costs more than an event.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// The loop turns at least so often, which is how monitoring sees that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// The same while the target makes something that a check finishes.
const SHORT_BEAT: Duration = Duration::from_millis(500);
/// What was taken away and brought back is in the record for so long.
const SHOWN: Duration = Duration::from_secs(600);

/// A pod's interface may take so long to appear after its address before that is told of.
const UNFOUND: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    NotYet,
    All,
}

/// An agent, and how it is doing.
pub struct Supervisor<H, N> {
    /// The agent.
    pub agent: Agent<H, N>,
    /// What is wrong with the input, one line each.
    pub problems: Vec<String>,
    /// Objects that stay enforced although the input does not show them, one line each.
    pub kept: Vec<String>,
    /// The files that what is enforced came from, where it came from files.
    pub files: Option<BTreeSet<String>>,
    /// Why the kernel does not hold the newest policies, where it does not.
    pub behind: Option<String>,
    /// Why the cluster's changes are not seen, where they are not. What is enforced is what was seen last.
    pub blind: Option<String>,
    /// Pods that a policy selects and whose interface was looked for in vain for a while, each with when that began.
    unfound: BTreeMap<ObjectKey, (Instant, Told)>,
    /// The target held tables before this agent's first update, and the cluster was not seen as a whole yet: nothing is
    /// changed until then.
    pub holds: bool,
    /// What monitoring is told.
    pub metrics: Arc<Metrics>,
    /// What is set aside, as it was told last.
    aside: BTreeMap<(Kind, ObjectKey), Aside>,
    untold: Vec<Aside>,
    node: Arc<str>,
    pin_dir: PathBuf,
    /// The record's last time; None: it was never written.
    recorded: Option<Instant>,
    stale: bool,
    /// When the kernel was last looked at.
    checked: Option<Instant>,
    /// What is missing there and could not be brought back.
    broken: Option<String>,
    /// What was brought back.
    back: Vec<(Instant, String)>,
    _alive: Option<Alive>,
}

impl<H: NodeTarget, N: Network> Supervisor<H, N> {
    /// Changes nothing yet.
    ///
    /// # Errors
    /// What is installed cannot be read.
    pub fn new(node: Arc<str>, pin_dir: PathBuf, metrics: Arc<Metrics>, host: H, network: N) -> Result<Self, Error> {
        let alive = Alive::show(&pin_dir);
        if let Err(error) = &alive {
            tracing::warn!(%error, "`netpolc status` will not see that this agent runs");
        }
        let holds = host.holds()?;
        let mut agent = Agent::new(node.clone(), host, network)?;
        let pulse = metrics.clone();
        agent.set_pulse(move || pulse.turned());
        let mut supervisor = Self {
            metrics,
            holds,
            agent,
            problems: vec![],
            kept: vec![],
            files: Record::read(&pin_dir).and_then(|record| record.files),
            behind: None,
            blind: None,
            unfound: BTreeMap::new(),
            aside: BTreeMap::new(),
            untold: vec![],
            node,
            pin_dir,
            recorded: None,
            stale: false,
            checked: None,
            broken: None,
            back: vec![],
            _alive: alive.ok(),
        };
        if supervisor.holds {
            // Interfaces may have come while no agent ran.
            supervisor.cover();
        }
        Ok(supervisor)
    }

    /// Does something with the agent; what fails is noted, and what was enforced stays.
    pub fn follow(&mut self, act: impl FnOnce(&mut Agent<H, N>) -> Result<Report, Error>) {
        if self.holds {
            return;
        }
        self.metrics.begins();
        let done = act(&mut self.agent);
        self.tell_aside();
        match done {
            Ok(report) => {
                let was_behind = self.behind.take().is_some();
                self.metrics.enforced(report.writes, (report.writes > 0).then_some(report.took));
                if report.writes == 0 && !was_behind && self.recorded.is_some() {
                    return;
                }
                let (writes, took) = (report.writes, report.took);
                let endpoints = self.agent.compiler().endpoints().count();
                if was_behind || self.recorded.is_none() {
                    tracing::info!(writes, ?took, endpoints, "in step");
                } else {
                    tracing::debug!(writes, ?took, endpoints, "in step");
                }
            }
            Err(error) => {
                tracing::error!("not in step, what was enforced stays: {error}");
                self.metrics.failed(&error.to_string());
                self.behind = Some(error.to_string());
            }
        }
        self.stale = true;
    }

    /// Covers interfaces that have come, also while nothing else may be changed.
    pub fn cover(&mut self) {
        if let Err(error) = self.agent.cover() {
            tracing::error!(%error, "an interface is not covered; no new packet goes on to a Service until it is");
            self.set_behind(error.to_string());
        }
    }

    /// Once a beat: is everything that was put into the kernel still there? What was not is said, and stays in the record for a while.
    pub fn beat(&mut self) {
        if self.checked.is_none_or(|last| last.elapsed() >= self.pause()) {
            self.check();
            if let Err(error) = self.agent.look_ahead() {
                tracing::warn!(%error, "what later updates would need cannot be made ready; tried again");
            }
        }
    }

    /// How long the loop may wait for its next turn.
    pub fn pause(&self) -> Duration {
        if self.agent.host().under_way() { SHORT_BEAT } else { BEAT }
    }

    /// The same at once.
    pub fn check(&mut self) {
        self.checked = Some(Instant::now());
        let before = self.broken.take();
        match self.agent.host_mut().check() {
            Ok(back) => {
                for what in back {
                    tracing::error!("{what}");
                    self.metrics.error("tampering");
                    self.back.push((Instant::now(), what));
                }
            }
            Err(error) => {
                let what = format!("what enforces is not all there any more, and cannot be brought back: {error}");
                if before.as_ref() != Some(&what) {
                    tracing::error!("{what}");
                }
                self.metrics.failed(&what);
                self.broken = Some(what);
            }
        }
        let shown = self.back.len();
        self.back.retain(|(when, _)| when.elapsed() < SHOWN);
        self.stale |= before != self.broken || shown > 0;
    }

    /// Logs what is newly set aside, and notes how much is.
    fn tell_aside(&mut self) {
        let now: BTreeMap<(Kind, ObjectKey), Aside> =
            self.agent.aside().map(|aside| ((aside.kind, aside.object.clone()), aside.clone())).collect();
        for (_, aside) in now.iter().filter(|(key, _)| !self.aside.contains_key(key)) {
            tracing::warn!("{aside}");
            self.untold.push(aside.clone());
        }
        for ((kind, object), _) in self.aside.iter().filter(|(key, _)| !now.contains_key(key)) {
            tracing::info!(?kind, %object, "set aside no longer");
        }
        self.stale |= now != self.aside;
        self.metrics.aside(now.len());
        self.aside = now;
    }

    /// What was set aside since the last call.
    pub fn take_aside(&mut self) -> Vec<Aside> {
        std::mem::take(&mut self.untold)
    }

    /// Replaces the problems; new ones are logged.
    pub fn set_problems(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|p| !self.problems.contains(p)) {
            tracing::warn!("{problem}");
        }
        self.stale |= self.problems != problems;
        self.metrics.problems(problems.len());
        self.problems = problems;
    }

    /// Replaces what is kept; new ones are logged, of a large file the first.
    pub fn set_kept(&mut self, kept: Vec<String>) {
        const LOGGED: usize = 50;
        let before: BTreeSet<&String> = self.kept.iter().collect();
        let new: Vec<&String> = kept.iter().filter(|k| !before.contains(k)).collect();
        for object in new.iter().take(LOGGED) {
            tracing::warn!("{object}");
        }
        if new.len() > LOGGED {
            tracing::warn!(objects = new.len(), "that many stay as they were; `netpolc status` lists all");
        }
        self.stale |= self.kept != kept;
        self.kept = kept;
    }

    /// Notes that nothing can be done at the moment, and why.
    pub fn set_behind(&mut self, why: String) {
        if self.behind.as_ref() != Some(&why) {
            tracing::error!("{why}");
            self.wait_for(why);
        }
    }

    /// Notes what is waited for, as every start does for a while.
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

    /// Notes whether the cluster's changes are seen.
    pub fn set_blind(&mut self, why: Option<String>) {
        if self.blind == why {
            return;
        }
        match (&self.blind, &why) {
            (None, Some(why)) => tracing::error!("{why}"),
            // Kind by kind, on the way there or back.
            (Some(_), Some(why)) => tracing::debug!("{why}"),
            (_, None) => tracing::info!("the cluster's changes are seen again"),
        }
        self.metrics.blind(why.as_deref());
        self.blind = why;
        self.stale = true;
    }

    /// Notes the pods that a policy selects and that have no interface here; gives those that came to be so for good.
    pub fn note_unfound(&mut self) -> Vec<ObjectKey> {
        let missing = self.agent.missing().into_iter();
        let now: BTreeSet<ObjectKey> =
            missing.filter(|key| self.agent.standing(key) == Standing::Unfound).cloned().collect();
        let before = self.unfound_pods().count();
        self.unfound.retain(|key, _| now.contains(key));
        let began = Instant::now();
        let mut new = Vec::new();
        for key in now {
            let since = self.unfound.entry(key.clone()).or_insert((began, Told::NotYet));
            if since.1 == Told::NotYet && since.0.elapsed() >= UNFOUND {
                since.1 = Told::All;
                let why =
                    "a policy selects it, and no interface of this node leads to its addresses: it is not isolated";
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

    /// When the next pod without an interface is to be told of.
    pub fn unfound_due(&self) -> Option<Instant> {
        let untold = self.unfound.values().filter(|(_, told)| *told == Told::NotYet);
        untold.map(|(since, _)| *since + UNFOUND).min()
    }

    fn unfound_pods(&self) -> impl Iterator<Item = &ObjectKey> {
        self.unfound.iter().filter(|(_, (_, told))| *told == Told::All).map(|(key, _)| key)
    }

    /// Is there something to look for, or to try again?
    pub fn waits(&self) -> bool {
        !self.holds && (self.behind.is_some() || !self.agent.missing().is_empty())
    }

    /// When the record is to be written next; None where it is up to date.
    pub fn record_due(&self) -> Option<Instant> {
        self.stale.then(|| self.recorded.map_or_else(Instant::now, |last| last + RECORD_INTERVAL))
    }

    /// How one pass went, where the input had so many errors.
    pub fn pass(self, errors: usize) -> Pass {
        let missing = self.agent.missing();
        let unfound = missing.iter().map(|pod| format!("pod {pod}: no interface leads to its address; not enforced"));
        let notices = unfound.chain(self.problems).collect();
        Pass { notices, errors: errors + missing.len(), failure: self.behind }
    }

    /// The record is not up to date any more.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// Writes the record where it is not up to date, and gives it. `about` adds to a policy what the tables do not know.
    pub fn record(&mut self, about: impl Fn(&mut PolicyState)) -> Option<Record> {
        if !std::mem::take(&mut self.stale) {
            return None;
        }
        self.recorded = Some(Instant::now());
        let mut policies = policy_status(self.agent.compiler());
        policies.iter_mut().for_each(about);
        let diagnostics = self.agent.compiler().diagnostics();
        let aside: Vec<String> = self.agent.aside().map(ToString::to_string).collect();
        for aside in self.agent.aside().filter(|aside| aside.kind == Kind::Policy) {
            let name = aside.object.to_string();
            policies.iter_mut().filter(|state| state.policy == name).for_each(|state| state.errors += 1);
        }
        let record = Record {
            node: self.node.to_string(),
            pid: std::process::id(),
            written: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            pods: self.agent.pods(),
            policies,
            // What is set aside comes first: of many problems only some are told to the cluster.
            problems: {
                let problems = aside.into_iter().chain(self.problems.iter().cloned()).chain(self.agent.doubts());
                let problems = problems.chain(self.back.iter().map(|(_, what)| what.clone()));
                problems.chain(diagnostics.iter().map(ToString::to_string)).collect()
            },
            kept: self.kept.clone(),
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

/// Link and route changes, and filters that somebody removes; never ready where the kernel tells of none.
pub struct Links(Option<AsyncFd<netlink::Socket>>);

impl Links {
    /// From now on.
    pub fn open() -> Self {
        let open = || -> io::Result<_> {
            let monitor = links::monitor()?;
            // SAFETY: the socket owns its descriptor and never exchanges it.
            unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) }.map_err(Into::into)
        };
        let links = open();
        if let Err(error) = &links {
            tracing::warn!(%error, "no notifications about links; missing ones are looked for again and again");
        }
        Links(links.ok())
    }

    /// Returns when some changed. Cancel safe.
    pub async fn changed(&mut self) {
        let Some(links) = &mut self.0 else { return std::future::pending().await };
        loop {
            let Ok(mut guard) = links.readable_mut().await else { return std::future::pending().await };
            let any = guard.get_inner_mut().drain(links::concerns);
            guard.clear_ready();
            if any {
                return;
            }
        }
    }

    /// Forgets the changes so far.
    pub fn drain(&mut self) {
        if let Some(links) = &mut self.0 {
            links.get_mut().drain(links::concerns);
        }
    }
}
