//! One update of a node: from events to a target that enforces what follows from them, with the
//! connections adopted of the pods that it isolates.
//!
//! Not here: what the agent knows ([`crate::Agent`]), compiling ([`crate::compile`]), which
//! connections are adopted ([`crate::adopt`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use netpolc_lower::{Event, Numbered};
use netpolc_policy::{Direction, ObjectKey};
use netpolc_table::{
    EndpointId, IfIndex, Origins, Program, TableId,
    delta::{self, Changes},
    schema::Word,
};
use netpolc_target::{Execution, NodeTarget, fill};

use crate::{
    Agent, Error, Report, SyncState,
    adopt::{self, Adoption, ConnectionSnapshot},
    network::Network,
    trials::Trials,
};

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// As [`Agent::enforce`]; where the target has no room for the program, the namespace that
    /// takes most of the full table is set aside, and the others are enforced.
    pub(super) fn apply(&mut self, events: Vec<Event>, began: Instant) -> Result<Report, Error> {
        let mut done = self.enforce(events, began);
        while let Err(Error::Failed(failed)) = &done
            && let netpolc_target::Error::Full { table, capacity, .. } = &failed.source
            && let Some(what) = numbered(*table)
        {
            let usage = self.compiler.usage(what);
            let resource =
                what.resource().filter(|r| self.shares.blame(&self.cluster, *r, &usage, *capacity));
            if resource.is_none() {
                break;
            }
            tracing::warn!(error = %failed, "a table is full; the namespace that takes most of it \
                is set aside");
            done = self.enforce(vec![], began);
        }
        done
    }

    /// Compiles the events and brings the target to the new program. Pods that may have running
    /// connections and become isolated go through a program that only records, so that their
    /// connections can be adopted in between.
    fn enforce(&mut self, events: Vec<Event>, began: Instant) -> Result<Report, Error> {
        // Whatever fails from here on leaves the target in an unknown state, so that the next
        // update has to read it.
        let was = std::mem::replace(&mut self.sync, SyncState::OutOfSync);
        let version = self.version;
        self.version = version.next();
        if was == SyncState::InSync {
            self.count_trials();
        }
        let before = match was {
            SyncState::InSync => adopt::words(self.compiler.program()),
            SyncState::OutOfSync => adopt::words(&self.host.read()?),
        };
        let changes = self.compile(events)?;
        self.observer.compiled(changes.as_ref());
        // Changes can be written without reading the target only if it held the program before
        // them.
        let mut known = if was == SyncState::InSync { changes } else { None };
        let mut report = Report::default();
        if known.as_ref().is_some_and(Changes::is_empty) {
            self.host.cover()?;
            (self.sync, self.version) = (SyncState::InSync, version);
            if !self.told.is_empty() {
                self.log_isolation(began.elapsed());
            }
            return Ok(report);
        }
        if self.first {
            // Covering all the node's interfaces may take long, so new packets to Services are held
            // back until that is done; isolating pods does not wait for it.
            self.host.hold()?;
        }
        // Programs are attached first: they let everything pass until their interface has an
        // endpoint.
        let attached = self.host.attached();
        let wanted: BTreeSet<IfIndex> =
            self.interfaces.all().map(|(_, interface)| interface.ifindex).collect();
        for ifindex in wanted.difference(&attached) {
            self.host.attach(*ifindex)?;
        }
        let candidates = self.newly_isolated(&before, &attached);
        let mut snapshot = None;
        if !candidates.is_empty() {
            let recording = adopt::recording(self.compiler.program(), &before, candidates.values());
            // The recording program comes first. From when it is in place, no connection can open
            // unnoticed, so the snapshot that follows and the records together are complete.
            let first = known.as_ref().map(|changes| adopt::while_recording(changes, &recording));
            tracing::debug!(after = ?began.elapsed(), "the program is compiled; endpoints record \
                first");
            let ids =
                converge((&mut self.host, &*self.pulse), &recording, first.as_ref(), &mut report)?;
            tracing::debug!(after = ?began.elapsed(), "the endpoints record");
            snapshot = Some(self.adopt(&candidates, &mut report)?);
            tracing::debug!(after = ?began.elapsed(), "running connections are adopted");
            // What is left to write is the difference to the recording program, unless the target
            // now has other ids than the compiler.
            known = (ids == Ids::Kept).then(|| delta::diff(&recording, self.compiler.program()));
        }
        let ids = converge(
            (&mut self.host, &*self.pulse),
            self.compiler.program(),
            known.as_ref(),
            &mut report,
        )?;
        if ids == Ids::Kept {
            self.sync = SyncState::InSync;
            self.observer.settled();
            self.compiler.forget_installed();
        }
        if let Some(snapshot) = &snapshot {
            // Entries that were recorded between the snapshot and the switch are corrected now.
            // After the grace period no packet can record any more.
            self.host.settle()?;
            self.amend(snapshot, &candidates)?;
        }
        self.first = false;
        self.host.follow(self.compiler.program())?;
        // Interfaces that are no pod's any more are detached last, when no entry refers to them.
        for ifindex in self.host.attached().difference(&wanted) {
            self.host.detach(*ifindex)?;
        }
        self.host.cover()?;
        self.log_isolation(began.elapsed());
        report.took = began.elapsed();
        Ok(report)
    }

    /// Adds up what the target has compared with what is only tried, while the compiler's ids are
    /// those of the tables.
    fn count_trials(&mut self) {
        if let Err(error) = self.tally.count(&self.host, self.compiler.program()) {
            tracing::warn!(%error, "packets that differ from what is only tried are not counted");
        }
    }

    /// The packets that would have another verdict if what is only tried were enforced (S85),
    /// counted since the last call.
    pub fn take_trials(&mut self) -> Trials {
        if self.sync == SyncState::InSync {
            self.count_trials();
        }
        self.tally.take()
    }

    /// Logs which policies the update was about, and each existing pod that is no longer isolated
    /// in a direction in which it was. That may be intended, or the result of a policy that was
    /// deleted by mistake, which somebody has to notice.
    fn log_isolation(&mut self, took: Duration) {
        let words = adopt::words(self.compiler.program());
        let endpoints = self.compiler.endpoints();
        let now = endpoints.filter_map(|(key, id)| {
            Some((key.clone(), *words.get(&id).filter(|w| adopt::isolates(**w))?))
        });
        let now: BTreeMap<ObjectKey, Word> = now.collect();
        self.told.log(&self.isolated, &now, took);
        for (key, before) in self.isolated.iter().filter(|(key, _)| self.local.contains(*key)) {
            let word = now.get(key).copied().unwrap_or_default();
            for direction in Direction::BOTH {
                let isolates = |word| adopt::isolates_in(word, direction);
                if isolates(*before) && !isolates(word) {
                    tracing::warn!(pod = %key, %direction, "no policy isolates the pod in this \
                        direction any more; it is open");
                }
            }
        }
        self.isolated = now;
    }

    /// Adopts the running connections of pods that are about to be isolated. Returns the snapshot
    /// they were taken from, with which recorded entries are corrected.
    fn adopt(
        &mut self,
        pods: &BTreeMap<ObjectKey, EndpointId>,
        report: &mut Report,
    ) -> Result<ConnectionSnapshot, Error> {
        let known = pods
            .keys()
            .filter_map(|key| Some((self.cluster.pods.get(key)?, self.interfaces.interface(key)?)));
        let snapshot = ConnectionSnapshot::take(&mut self.network, known);
        for (key, endpoint) in pods {
            let running =
                self.cluster.pods.get(key).map(|pod| snapshot.running(pod)).unwrap_or_default();
            let adoption =
                adopt::insert(&mut self.host, self.compiler.program(), *endpoint, running)?;
            let Adoption { connections, no_room } = adoption;
            tracing::info!(pod = %key, connections, no_room, "the pod becomes isolated; its running \
                connections were adopted");
            self.adopted.insert(key.clone(), adoption.connections);
            report.adopted.insert(key.clone(), adoption);
        }
        self.amend(&snapshot, pods)?;
        Ok(snapshot)
    }

    fn amend(
        &mut self,
        snapshot: &ConnectionSnapshot,
        pods: &BTreeMap<ObjectKey, EndpointId>,
    ) -> Result<(), Error> {
        for endpoint in pods.values() {
            self.host.amend(*endpoint, &|recorded| snapshot.amend(recorded))?;
        }
        Ok(())
    }
}

/// The kind of id that fills a table; None where policies are not the cause.
fn numbered(table: TableId) -> Option<Numbered> {
    match table {
        TableId::RemoteV4 => Some(Numbered::ClassesV4),
        TableId::RemoteV6 => Some(Numbered::ClassesV6),
        TableId::Row | TableId::Base | TableId::Verdict | TableId::Tried => Some(Numbered::Rows),
        TableId::Port => Some(Numbered::PortClasses),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    /// The target holds the program exactly, ids included.
    Kept,
    /// Some ids mean other things in the target than in the program.
    Renamed,
}

/// The number of steps beyond which a plan makes room in the target beforehand.
const BULK_STEPS: usize = 500;

/// Brings `host` to `program`: by `changes` where it holds the program without them, else from what
/// it holds. Calls `pulse` after each step.
fn converge(
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
            let program = strip_origins(program);
            let (renamed, plan) = delta::plan(&held, &program)?;
            (if renamed == program { Ids::Kept } else { Ids::Renamed }, plan)
        }
    };
    if plan.steps.len() > BULK_STEPS {
        host.make_room(program)?;
    }
    let mut execution = Execution::new(&plan);
    while execution.step(host)?.is_some() {
        pulse();
    }
    report.writes += plan.steps.len();
    Ok(ids)
}

/// The program without origins. Targets do not keep them, so with them every entry would seem to
/// differ.
fn strip_origins(program: &Program) -> Program {
    let mut stripped = program.clone();
    for &table in TableId::ALL {
        for entry in stripped.table_mut(table).entries.values_mut() {
            entry.origins = Origins::default();
        }
    }
    stripped
}
