//! The agent: keeps what one node enforces in step with the cluster.
//!
//! Here: [`Agent`], which takes clusters and does what follows from them, in the caller's network
//! namespace and on the caller's thread. [`events`] finds what changed, [`adopt`] what is running when a
//! pod is isolated first, [`order`] what of that may wait, [`network`] is what it asks about the node,
//! [`record`] is what it leaves for `netpolc status`, [`policy_status`] which policies stand behind the tables, [`sandboxes`] what CNI says of pods,
//! [`whereabouts`] which interface is which pod's.
//! Around it: [`file_loop`] follows [`files`] that [`file_watch`] watches, [`cluster_loop`] an API server; [`supervisor`] is what both
//! loops share.
//! Not here: the meaning of policies, the order of writes.

pub mod adopt;
#[cfg(feature = "serve")]
pub mod cluster_loop;
mod compile;
pub mod events;
#[cfg(feature = "serve")]
pub mod file_loop;
#[cfg(feature = "serve")]
pub mod file_watch;
#[cfg(feature = "serve")]
pub mod files;
mod macs;
#[cfg(feature = "serve")]
pub mod metrics;
pub mod network;
#[cfg(feature = "serve")]
pub mod options;
pub mod order;
#[cfg(feature = "serve")]
pub mod policy_status;
#[cfg(feature = "serve")]
pub mod record;
#[cfg(feature = "serve")]
pub mod sandbox_store;
#[cfg(feature = "serve")]
pub mod sandboxes;
#[cfg(feature = "serve")]
pub mod sole;
#[cfg(feature = "serve")]
pub mod supervisor;
pub mod ways;
pub mod whereabouts;
mod wire;

#[cfg(feature = "serve")]
pub use options::{Options, Pass, Passes};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use netpolc_kube_sync::Change;
use netpolc_lower::{Aside, Compiler, Event, Limits, Numbered, Overflow, Room, Scope, Shares, Wire};
use netpolc_policy::{Cluster, ObjectKey, Pod};
use netpolc_table::{
    EndpointId, IfIndex, Origins, Program, TableId,
    delta::{self, Changes},
    eval,
    schema::Word,
};
use netpolc_target::{Capabilities, Execution, NodeTarget, fill};

use self::{adopt::Adoption, network::Network, whereabouts::Whereabouts};
use crate::ways::Place;

/// Why the kernel is not in step. What was enforced before still is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More ids than there are.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// No ids for the way there.
    #[error(transparent)]
    Exhausted(#[from] delta::Exhausted),
    /// A write failed.
    #[error(transparent)]
    Failed(#[from] netpolc_target::Failed),
    /// Another call on the target failed.
    #[error(transparent)]
    Target(#[from] netpolc_target::Error),
    /// A question to the kernel failed.
    #[error("{what}: {source}")]
    Network {
        /// What was asked.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Writes to the tables.
    pub writes: usize,
    /// Running connections that were taken over, by pod.
    pub adopted: BTreeMap<ObjectKey, Adoption>,
    /// From the call to the last write.
    pub took: Duration,
}

impl Report {
    /// This update and the one after it.
    fn and(mut self, next: Report) -> Self {
        self.adopted.extend(next.adopted);
        Self { writes: self.writes + next.writes, took: self.took.max(next.took), ..self }
    }
}

/// How a local pod stands, while the kernel is in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No policed pod of this node.
    Unknown,
    /// No policy selects it.
    Open,
    /// Some policy selects it, and its interface was not found: it is not enforced.
    Unfound,
    /// Some policy selects it, and its packets are judged.
    Enforced,
}

/// How the compiler's program and the target's tables are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The same, ids included: changes can be written as they come.
    In,
    /// Unknown, or with other ids: the target is read and led from there.
    Out,
}

/// Keeps the tables of one node.
pub struct Agent<H, N> {
    node: Arc<str>,
    compiler: Compiler,
    /// How many ids the target has.
    room: Room,
    /// What of the cluster the compiler gets.
    shares: Shares,
    /// What there is, whether it is admitted or set aside.
    cluster: Cluster,
    /// The policed pods of this node.
    local: BTreeSet<ObjectKey>,
    /// Host-side interfaces of local pods, as the compiler knows them, and what they are known by.
    whereabouts: Whereabouts,
    /// The node's own devices, as the compiler knows them.
    wire: Wire,
    adopted: BTreeMap<ObjectKey, usize>,
    /// The isolated pods with their words, after the last update.
    isolated: BTreeMap<ObjectKey, Word>,
    step: Step,
    /// The compiler has taken in a cluster.
    loaded: bool,
    /// No update was completed yet: pods may have been running without an agent.
    first: bool,
    host: H,
    network: N,
    /// Called between the steps of an update: a long one is no silence.
    pulse: Box<dyn Fn() + Send>,
}

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// Starts from what `host` holds already. Changes nothing yet.
    ///
    /// # Errors
    /// What is installed cannot be read.
    pub fn new(node: Arc<str>, mut host: H, network: N) -> Result<Self, Error> {
        let whereabouts = Whereabouts::of(&host.read()?, &host.attached());
        host.prepare()?;
        let (scope, room) = (Scope::Node(node.clone()), room(host.capabilities()));
        Ok(Self {
            compiler: Compiler::within(scope.clone(), &room),
            shares: Shares::new(scope, Limits::of(&room)),
            room,
            node,
            cluster: Cluster::default(),
            local: BTreeSet::new(),
            whereabouts,
            wire: Wire::default(),
            adopted: BTreeMap::new(),
            isolated: BTreeMap::new(),
            step: Step::Out,
            loaded: false,
            first: true,
            host,
            network,
            pulse: Box::new(|| {}),
        })
    }

    /// Calls `pulse` between the steps of every update from now on.
    pub fn set_pulse(&mut self, pulse: impl Fn() + Send + 'static) {
        self.pulse = Box::new(pulse);
    }

    /// Makes the kernel enforce what `cluster` says. Where it fails, what was enforced stays (S59), and
    /// [`Agent::retry`] or the next update tries again.
    ///
    /// # Errors
    /// The first thing that failed.
    pub fn update(&mut self, cluster: Cluster) -> Result<Report, Error> {
        let began = Instant::now();
        let mut events = if self.loaded { events::between(&self.cluster, &cluster) } else { vec![] };
        let look = !self.loaded || events.iter().any(|event| self.moves(event, &cluster));
        self.cluster = cluster;
        let mine = self.cluster.pods.values().filter(|pod| is_local(&self.node, pod));
        self.local = mine.map(|pod| pod.key.clone()).collect();
        if look {
            events.extend(self.look());
        }
        self.apply(events, began)
    }

    /// Makes the kernel enforce `changes` of the cluster of the last update: as [`Agent::update`], in time
    /// proportional to them, and those of large policies last.
    ///
    /// # Errors
    /// As [`Agent::update`].
    pub fn advance(&mut self, changes: Vec<Change>) -> Result<Report, Error> {
        let began = Instant::now();
        if !self.loaded || self.first {
            return self.take(changes, began);
        }
        let mut done = Ok(Report::default());
        for step in order::steps(changes, &self.cluster) {
            // A step that fails keeps none back: each leads to all that was to be enforced before it.
            done = match (done, self.take(step, began)) {
                (Ok(before), Ok(after)) => Ok(before.and(after)),
                (_, last) => last,
            };
            (self.pulse)();
        }
        done
    }

    /// Takes in changes as one update.
    fn take(&mut self, changes: Vec<Change>, began: Instant) -> Result<Report, Error> {
        let mut events = Vec::with_capacity(changes.len());
        let mut look = false;
        for change in changes {
            let event = events::of(&change);
            let Some(Event::Pod { key, pod }) = &event else {
                change.apply(&mut self.cluster);
                events.extend(event);
                continue;
            };
            let facts = |pod: &Pod| (pod.uid.clone(), pod.addresses.clone());
            let here = |pod: Option<&Pod>| pod.filter(|pod| is_local(&self.node, pod)).map(facts);
            let (before, now) = (here(self.cluster.pods.get(key)), here(pod.as_ref()));
            if before != now {
                look = true;
                match now {
                    Some(_) => self.local.insert(key.clone()),
                    None => self.local.remove(key),
                };
            }
            change.apply(&mut self.cluster);
            events.extend(event);
        }
        if look {
            events.extend(self.look());
        }
        self.apply(events, began)
    }

    /// Looks for the interfaces of all local pods again, and follows those that came, went or moved.
    ///
    /// # Errors
    /// As [`Agent::update`].
    pub fn refresh(&mut self) -> Result<Report, Error> {
        let began = Instant::now();
        // Before anything is looked at: packets to Services may leave by an interface as soon as it is there.
        self.host.cover()?;
        let mut events = self.moved()?;
        events.extend(self.rewired());
        if events.is_empty() && self.step == Step::In {
            return Ok(Report::default());
        }
        self.apply(events, began)
    }

    /// Covers the interfaces that have come, whether or not anything else may be changed yet (S48).
    ///
    /// # Errors
    /// The target refuses.
    pub fn cover(&mut self) -> Result<(), Error> {
        Ok(self.host.cover()?)
    }

    /// Makes ready what later updates would have to wait for, where the kernel is in step.
    ///
    /// # Errors
    /// What comes next cannot be made; what judges now goes on judging.
    pub fn look_ahead(&mut self) -> Result<(), Error> {
        if self.step == Step::In {
            self.host.look_ahead(self.compiler.program())?;
        }
        Ok(())
    }

    /// What CNI says of where pods are. Counts from the next look at interfaces on.
    pub fn set_places(&mut self, places: BTreeMap<ObjectKey, Place>) {
        self.whereabouts.set_places(places);
    }

    /// Why interfaces of pods are not certain, a line for each pod.
    pub fn doubts(&self) -> impl Iterator<Item = String> {
        self.whereabouts.doubts()
    }

    /// Tries again what failed.
    ///
    /// # Errors
    /// As [`Agent::update`].
    pub fn retry(&mut self) -> Result<Report, Error> {
        if self.step == Step::In {
            return Ok(Report::default());
        }
        self.refresh()
    }

    /// Local pods with an address whose interface was not found yet.
    pub fn missing(&self) -> Vec<&ObjectKey> {
        let addressed = self.local().filter(|pod| !pod.addresses.is_empty()).map(|pod| &pod.key);
        addressed.filter(|key| self.whereabouts.interface(key).is_none()).collect()
    }

    /// The compiler.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// The cluster as of the last update.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Objects that are set aside because they take more than their namespace's share, in order.
    pub fn aside(&self) -> impl Iterator<Item = &Aside> {
        self.shares.aside()
    }

    /// The target.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The target, to change what the agent does not look after.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// The policed pods of this node.
    pub fn local_pods(&self) -> &BTreeSet<ObjectKey> {
        &self.local
    }

    /// How a pod stands. Only means something while updates succeed.
    pub fn standing(&self, key: &ObjectKey) -> Standing {
        let Some(endpoint) = self.compiler.endpoint(key) else {
            // Without an address it has no endpoint, and nothing that could be enforced.
            let pod = self.cluster.pods.get(key).filter(|pod| pod.addresses.is_empty() && self.local.contains(key));
            return match pod {
                Some(pod) if self.compiler.isolates(pod) => Standing::Unfound,
                Some(_) => Standing::Open,
                None => Standing::Unknown,
            };
        };
        match (adopt::isolates(eval::word(self.compiler.program(), endpoint)), self.whereabouts.interface(key)) {
            (false, _) => Standing::Open,
            (true, None) => Standing::Unfound,
            (true, Some(_)) => Standing::Enforced,
        }
    }

    /// The endpoints with interface and adopted connections, for the record.
    #[cfg(feature = "serve")]
    pub fn pods(&self) -> Vec<record::PodRecord> {
        let endpoints = self.compiler.endpoints();
        let pods = endpoints.map(|(key, endpoint)| record::PodRecord {
            pod: key.to_string(),
            endpoint,
            ifindex: self.whereabouts.interface(key),
            adopted: self.adopted.get(key).copied().unwrap_or(0),
        });
        pods.collect()
    }

    /// May `event` give a local pod another interface? `cluster` is the one after it.
    fn moves(&self, event: &Event, cluster: &Cluster) -> bool {
        let Event::Pod { key, .. } = event else { return false };
        let facts = |pod: &Pod| is_local(&self.node, pod).then(|| pod.addresses.clone());
        self.cluster.pods.get(key).and_then(facts) != cluster.pods.get(key).and_then(facts)
    }

    fn local(&self) -> impl Iterator<Item = &Pod> {
        self.local.iter().filter_map(|key| self.cluster.pods.get(key))
    }

    /// As [`Agent::enforce`]; where the target has no place for what the compiler made, the namespace that takes most
    /// of it is set aside, and the others go on.
    fn apply(&mut self, events: Vec<Event>, began: Instant) -> Result<Report, Error> {
        let mut done = self.enforce(events, began);
        while let Err(Error::Failed(failed)) = &done
            && let netpolc_target::Error::Full { table, capacity, .. } = &failed.source
            && let Some(what) = numbered(*table)
        {
            let usage = self.compiler.usage(what);
            let resource = what.resource().filter(|r| self.shares.blame(&self.cluster, *r, &usage, *capacity));
            if resource.is_none() {
                break;
            }
            tracing::warn!(error = %failed, "full; the namespace that takes most is set aside");
            done = self.enforce(vec![], began);
        }
        done
    }

    fn enforce(&mut self, events: Vec<Event>, began: Instant) -> Result<Report, Error> {
        let was = std::mem::replace(&mut self.step, Step::Out);
        let before = match was {
            Step::In => adopt::words(self.compiler.program()),
            Step::Out => adopt::words(&self.host.read()?),
        };
        let changes = self.compile(events)?;
        let mut known = if was == Step::In { changes } else { None };
        let mut report = Report::default();
        if known.as_ref().is_some_and(Changes::is_empty) {
            self.host.cover()?;
            self.step = Step::In;
            return Ok(report);
        }
        if self.first {
            // Isolating pods does not wait for a thousand interfaces; packets to Services do.
            self.host.hold()?;
        }
        // Programs come first: they let everything pass until their interface has an endpoint.
        let attached = self.host.attached();
        let wanted: BTreeSet<IfIndex> = self.whereabouts.all().map(|(_, interface)| interface.ifindex).collect();
        for ifindex in wanted.difference(&attached) {
            self.host.attach(*ifindex)?;
        }
        let candidates = self.newly_isolated(&before, &attached);
        let mut survey = None;
        if !candidates.is_empty() {
            let recording = adopt::recording(self.compiler.program(), &before, candidates.values());
            let first = known.as_ref().map(|changes| adopt::while_recording(changes, &recording));
            tracing::debug!(after = ?began.elapsed(), "compiled; recording first");
            let ids = lead((&mut self.host, &*self.pulse), &recording, first.as_ref(), &mut report)?;
            tracing::debug!(after = ?began.elapsed(), "recording");
            survey = Some(self.adopt(&candidates, &mut report)?);
            tracing::debug!(after = ?began.elapsed(), "adopted");
            known = (ids == Ids::Kept).then(|| delta::diff(&recording, self.compiler.program()));
        }
        let ids = lead((&mut self.host, &*self.pulse), self.compiler.program(), known.as_ref(), &mut report)?;
        if ids == Ids::Kept {
            self.step = Step::In;
            self.compiler.forget_installed();
        }
        if let Some(survey) = &survey {
            // What was recorded between the first look and the switch.
            self.host.settle()?;
            self.amend(survey, &candidates)?;
        }
        self.first = false;
        self.host.follow(self.compiler.program())?;
        for ifindex in self.host.attached().difference(&wanted) {
            self.host.detach(*ifindex)?;
        }
        self.host.cover()?;
        self.tell_withdrawn();
        report.took = began.elapsed();
        Ok(report)
    }

    /// Logs each pod that is still there and is open now in a direction in which it was isolated: right where policies
    /// say so, and what somebody has to see where a slip of the hand does.
    fn tell_withdrawn(&mut self) {
        let words = adopt::words(self.compiler.program());
        let endpoints = self.compiler.endpoints();
        let now =
            endpoints.filter_map(|(key, id)| Some((key.clone(), *words.get(&id).filter(|w| adopt::isolates(**w))?)));
        let now: BTreeMap<ObjectKey, Word> = now.collect();
        for (key, before) in self.isolated.iter().filter(|(key, _)| self.local.contains(*key)) {
            let flags = now.get(key).map_or(0, |word| word.flags);
            for (flag, direction) in [(Word::INGRESS, "ingress"), (Word::EGRESS, "egress")] {
                if before.flags & flag != 0 && flags & flag == 0 {
                    tracing::warn!(pod = %key, direction, "no policy isolates it any more; it is open");
                }
            }
        }
        self.isolated = now;
    }

    fn adopt(&mut self, pods: &BTreeMap<ObjectKey, EndpointId>, report: &mut Report) -> Result<adopt::Survey, Error> {
        let known = pods.keys().filter_map(|key| Some((self.cluster.pods.get(key)?, self.whereabouts.interface(key)?)));
        let survey = adopt::Survey::of(&mut self.network, known);
        for (key, endpoint) in pods {
            let running = self.cluster.pods.get(key).map(|pod| survey.running(pod)).unwrap_or_default();
            let adoption = adopt::insert(&mut self.host, self.compiler.program(), *endpoint, running)?;
            tracing::info!(pod = %key, ?adoption, "isolated; took over what was running");
            self.adopted.insert(key.clone(), adoption.connections);
            report.adopted.insert(key.clone(), adoption);
        }
        self.amend(&survey, pods)?;
        Ok(survey)
    }

    fn amend(&mut self, survey: &adopt::Survey, pods: &BTreeMap<ObjectKey, EndpointId>) -> Result<(), Error> {
        for endpoint in pods.values() {
            self.host.amend(*endpoint, &|recorded| survey.amend(recorded))?;
        }
        Ok(())
    }
}

/// What a table is full of, where policies are to blame.
fn numbered(table: TableId) -> Option<Numbered> {
    match table {
        TableId::RemoteV4 => Some(Numbered::ClassesV4),
        TableId::RemoteV6 => Some(Numbered::ClassesV6),
        TableId::Row | TableId::Base | TableId::Verdict => Some(Numbered::Rows),
        TableId::Port => Some(Numbered::PortClasses),
        _ => None,
    }
}

/// How many ids a target has.
fn room(capabilities: &Capabilities) -> Room {
    let Capabilities { endpoints, sets, classes_v4, classes_v6, rows, port_classes, connections: _ } = *capabilities;
    Room { endpoints, sets, classes: [classes_v4, classes_v6], rows, port_classes }
}

/// Is it a pod that this node polices?
fn is_local(node: &Arc<str>, pod: &Pod) -> bool {
    pod.node.as_ref() == Some(node) && pod.is_policed()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    /// The target holds the program as it is.
    Kept,
    /// Some ids stand for other things in the target.
    Renamed,
}

/// A plan of more steps than this looks for room beforehand.
const BULK: usize = 500;

/// Leads `host` to `program`: by `changes` where it holds the program without them, else from what it holds. Calls `pulse`
/// after each step.
fn lead(
    (host, pulse): (&mut impl NodeTarget, &dyn Fn()),
    program: &Program,
    changes: Option<&Changes>,
    report: &mut Report,
) -> Result<Ids, Error> {
    let (ids, plan) = match changes {
        Some(changes) => (Ids::Kept, delta::order(program, changes)?),
        None => {
            let held = host.read()?;
            if held.is_empty() {
                host.make_room(program)?;
                report.writes += fill(host, program)?;
                return Ok(Ids::Kept);
            }
            let program = bare(program);
            let (renamed, plan) = delta::plan(&held, &program)?;
            (if renamed == program { Ids::Kept } else { Ids::Renamed }, plan)
        }
    };
    if plan.steps.len() > BULK {
        host.make_room(program)?;
    }
    let mut execution = Execution::new(&plan);
    while execution.step(host)?.is_some() {
        pulse();
    }
    report.writes += plan.steps.len();
    Ok(ids)
}

/// The program without origins, which targets do not keep: else everything would seem to differ.
fn bare(program: &Program) -> Program {
    let mut bare = program.clone();
    for &table in TableId::ALL {
        for entry in bare.table_mut(table).entries.values_mut() {
            entry.origins = Origins::default();
        }
    }
    bare
}
