//! The agent: keeps what one node enforces in step with the cluster.
//!
//! [`Agent`] takes clusters and changes of them, and makes a target enforce them, in the caller's
//! network namespace and on the caller's thread. It uses:
//!
//! - [`events`]: what has changed between two states of the cluster
//! - [`order`]: which of several changes may wait
//! - [`network`]: questions about the node's network, as a trait
//! - [`pod_interfaces`]: which interface belongs to which pod, found by [`discovery`]
//! - [`audit`]: whether the target still holds what was written
//! - [`adopt`]: connections that are running when a pod is first isolated
//! - [`trials`]: packets that policies which are only tried would treat otherwise
//!
//! Everything around the agent is in `serve`, which needs the feature of that name: the loops that
//! drive it, and what `netpolc agent` and `netpolc status` need besides. The agent itself uses none
//! of it.
//!
//! Not here: the meaning of policies, and the order of writes.

pub mod adopt;
mod attribute;
pub mod audit;
mod compile;
pub mod discovery;
mod enforce;
pub mod events;
mod macs;
pub mod network;
mod observe;
pub mod order;
pub mod pod_interfaces;
#[cfg(feature = "serve")]
pub mod serve;
mod told;
pub mod trials;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use netpolc_kube_sync::Change;
use netpolc_lower::{
    Aside, Compiler, Diagnostic, Event, Limits, Overflow, Room, Scope, Shares, Wire,
};
use netpolc_policy::{ByDefault, Cluster, Enforcement, ObjectKey, Pod};
use netpolc_table::{TableId, delta, eval, schema::Word};
use netpolc_target::{Capabilities, NodeTarget};

use self::{
    adopt::Adoption, discovery::Placement, network::Network, pod_interfaces::PodInterfaces,
    told::Told, trials::Tally,
};

/// The reason why the kernel is not in step. What was enforced before still is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster needs more ids than there are.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// There is no free id for a transitional entry of the update.
    #[error(transparent)]
    Exhausted(#[from] delta::Exhausted),
    /// A write failed.
    #[error(transparent)]
    Failed(#[from] netpolc_target::Failed),
    /// Another call on the target failed.
    #[error(transparent)]
    Target(#[from] netpolc_target::Error),
    /// Something about the node's network could not be read.
    #[error("{what} could not be read: {source}")]
    Network {
        /// What was to be read.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The result of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many writes to the tables were made.
    pub writes: usize,
    /// The running connections that were adopted, by pod.
    pub adopted: BTreeMap<ObjectKey, Adoption>,
    /// The time from the call to the last write.
    pub took: Duration,
}

impl Report {
    /// The result of this update and the next one together.
    fn and(mut self, next: Report) -> Self {
        self.adopted.extend(next.adopted);
        Self { writes: self.writes + next.writes, took: self.took.max(next.took), ..self }
    }
}

/// Whether a pod's policies are enforced, provided that the kernel is in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The pod is not on this node, or policies do not apply to it.
    Unknown,
    /// No policy selects the pod.
    Open,
    /// A policy selects the pod, but its interface was not found, so nothing is enforced.
    Unfound,
    /// A policy selects the pod, and its packets are judged.
    Enforced,
}

/// How the target's tables relate to the compiler's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncState {
    /// They are equal, ids included, so that changes can be written as they come.
    InSync,
    /// They may differ, or have other ids, so that the tables have to be read before they are
    /// changed.
    OutOfSync,
}

/// Keeps the tables of one node in step with the cluster.
pub struct Agent<H, N> {
    node: Arc<str>,
    compiler: Compiler,
    /// How many ids of each kind the target has.
    room: Room,
    /// Decides which objects of the cluster the compiler gets.
    shares: Shares,
    /// The whole cluster, including objects that are set aside.
    cluster: Cluster,
    /// What becomes of pods that no policy isolates; what `cluster` has as of the last update.
    by_default: ByDefault,
    enforcement: Enforcement,
    /// The pods of this node to which policies apply, whether any selects them or not.
    local: BTreeSet<ObjectKey>,
    /// The host-side interfaces of local pods, as the compiler knows them, and how they were found.
    interfaces: PodInterfaces,
    /// How many endpoints the tables had at the start.
    found: usize,
    /// The node's own devices, as the compiler knows them.
    wire: Wire,
    /// How many connections of each pod were adopted.
    adopted: BTreeMap<ObjectKey, usize>,
    /// The isolated pods with their words, as of the last update.
    isolated: BTreeMap<ObjectKey, Word>,
    tally: Tally,
    /// What is to be logged once it is enforced.
    told: Told,
    observer: observe::Observer,
    sync: SyncState,
    /// Of what the target holds, for audits.
    version: audit::Version,
    /// Whether the compiler has taken in a cluster, so that changes suffice.
    loaded: bool,
    /// Whether no update has been completed yet, so that pods may have been running without an
    /// agent.
    first: bool,
    host: H,
    network: N,
    /// Called between the steps of an update, so that a long update does not look like a stuck
    /// agent.
    pulse: Box<dyn Fn() + Send>,
}

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// Starts from what `host` already holds, and changes nothing yet.
    ///
    /// # Errors
    /// The installed tables cannot be read, or the target cannot be prepared.
    pub fn new(node: Arc<str>, mut host: H, network: N) -> Result<Self, Error> {
        let held = host.read()?;
        let found = held.table(TableId::Endpoint).entries.len();
        let interfaces = PodInterfaces::of(&held, &host.attached());
        host.prepare()?;
        let (scope, room) = (Scope::Node(node.clone()), room(host.capabilities()));
        Ok(Self {
            compiler: Compiler::within(scope.clone(), &room),
            shares: Shares::new(scope, Limits::of(&room)),
            room,
            node,
            cluster: Cluster::default(),
            by_default: ByDefault::default(),
            enforcement: Enforcement::default(),
            local: BTreeSet::new(),
            interfaces,
            found,
            wire: Wire::default(),
            adopted: BTreeMap::new(),
            isolated: BTreeMap::new(),
            tally: Tally::default(),
            told: Told::default(),
            observer: observe::Observer::default(),
            sync: SyncState::OutOfSync,
            version: audit::Version::default(),
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

    /// Sets what becomes of pods that no policy isolates, where their namespaces do not say so
    /// (S90). It counts from the next [`Agent::update`] on, whatever the cluster there says.
    pub fn set_default(&mut self, by_default: ByDefault) {
        self.by_default = by_default;
    }

    /// Sets which packets of pods with security groups they judge (S82). It counts as
    /// [`Agent::set_default`] does.
    pub fn set_enforcement(&mut self, enforcement: Enforcement) {
        self.enforcement = enforcement;
    }

    /// Makes the kernel enforce the policies of `cluster`. Where that fails, what was enforced
    /// stays (S59), and [`Agent::retry`] or the next update tries again.
    ///
    /// # Errors
    /// The cluster cannot be compiled for this node, the network cannot be read, or the target
    /// fails.
    pub fn update(&mut self, mut cluster: Cluster) -> Result<Report, Error> {
        let began = Instant::now();
        self.read_records();
        cluster.by_default = self.by_default.clone();
        cluster.security.enforcement = self.enforcement;
        let mut events =
            if self.loaded { netpolc_lower::between(&self.cluster, &cluster) } else { vec![] };
        events.iter().for_each(|event| self.tell(event));
        let rescan = !self.loaded || events.iter().any(|event| self.may_move(event, &cluster));
        self.cluster = cluster;
        self.observer.replaced(&self.cluster);
        let mine = self.cluster.pods.values().filter(|pod| is_local(&self.node, pod));
        self.local = mine.map(|pod| pod.key.clone()).collect();
        if rescan {
            events.extend(self.rescan());
        }
        self.apply(events, began)
    }

    /// Makes the kernel enforce `changes` of the last cluster. This does the same as
    /// [`Agent::update`], in time proportional to the changes, and changes of large policies come
    /// last.
    ///
    /// # Errors
    /// As for [`Agent::update`].
    pub fn advance(&mut self, changes: Vec<Change>) -> Result<Report, Error> {
        let began = Instant::now();
        if !self.loaded || self.first {
            return self.take(changes, began);
        }
        let mut done = Ok(Report::default());
        for step in order::steps(changes, &self.cluster) {
            // A step that fails does not hold back the next one, which also retries everything that
            // was to be enforced before it. So the last result counts.
            done = match (done, self.take(step, began)) {
                (Ok(before), Ok(after)) => Ok(before.and(after)),
                (_, last) => last,
            };
            (self.pulse)();
        }
        done
    }

    /// Has an event logged once it is enforced. What an agent finds when it starts has no lines of
    /// its own.
    fn tell(&mut self, event: &Event) {
        if self.loaded {
            self.told.note(event, &self.cluster, &self.local);
        }
    }

    /// Enforces changes as one update.
    fn take(&mut self, changes: Vec<Change>, began: Instant) -> Result<Report, Error> {
        let mut events = Vec::with_capacity(changes.len());
        let mut rescan = false;
        self.read_records();
        for change in changes {
            let event = events::of(&change);
            let Some(Event::Pod { key, pod }) = &event else {
                event.iter().for_each(|event| self.tell(event));
                change.apply(&mut self.cluster);
                event.iter().for_each(|event| self.observer.happened(event));
                events.extend(event);
                continue;
            };
            // A local pod's interface depends on its UID and addresses only; other changes of pods
            // need no search for interfaces.
            let facts = |pod: &Pod| (pod.uid.clone(), pod.addresses.clone());
            let here = |pod: Option<&Pod>| pod.filter(|pod| is_local(&self.node, pod)).map(facts);
            let (before, now) = (here(self.cluster.pods.get(key)), here(pod.as_ref()));
            self.observer.pod_changes(self.cluster.pods.get(key), pod.as_ref());
            if before != now {
                rescan = true;
                match now {
                    Some(_) => self.local.insert(key.clone()),
                    None => self.local.remove(key),
                };
            }
            change.apply(&mut self.cluster);
            events.extend(event);
        }
        if rescan {
            events.extend(self.rescan());
        }
        self.apply(events, began)
    }

    /// Looks for the interfaces of all local pods again, and follows those that have appeared,
    /// disappeared or moved.
    ///
    /// # Errors
    /// As for [`Agent::update`].
    pub fn refresh(&mut self) -> Result<Report, Error> {
        let began = Instant::now();
        self.read_records();
        // This comes first: packets to Services may leave by an interface as soon as it exists.
        self.host.cover()?;
        let mut events = self.interface_events()?;
        events.extend(self.device_event());
        if events.is_empty() && self.sync == SyncState::InSync {
            return Ok(Report::default());
        }
        self.apply(events, began)
    }

    /// Covers the interfaces that have appeared, whether or not anything else may be changed yet
    /// (S48).
    ///
    /// # Errors
    /// The target cannot attach to an interface.
    pub fn cover(&mut self) -> Result<(), Error> {
        Ok(self.host.cover()?)
    }

    /// Prepares what later updates would otherwise have to wait for, where the kernel is in step.
    ///
    /// # Errors
    /// The preparation fails; what is enforced stays.
    pub fn look_ahead(&mut self) -> Result<(), Error> {
        if self.sync == SyncState::InSync {
            self.host.look_ahead(self.compiler.program())?;
        }
        Ok(())
    }

    /// Sets where pods are according to CNI. It counts from the next search for interfaces on.
    pub fn set_placements(&mut self, placements: BTreeMap<ObjectKey, Placement>) {
        self.interfaces.set_placements(placements);
    }

    /// Why the interfaces of some pods are not certain, one line for each pod.
    pub fn doubts(&self) -> impl Iterator<Item = String> {
        self.interfaces.doubts()
    }

    /// How many pods the tables had endpoints of that an earlier agent left.
    pub fn found(&self) -> usize {
        self.found
    }

    /// How many pods of this node policies isolate, as of the last update.
    pub fn isolated_pods(&self) -> usize {
        self.isolated.len()
    }

    /// How many policies of all kinds the cluster has.
    pub fn policies(&self) -> usize {
        let Cluster { policies, tiers, security, .. } = &self.cluster;
        policies.len() + tiers.len() + security.policies.len()
    }

    /// Retries the last update if it failed.
    ///
    /// # Errors
    /// As for [`Agent::update`].
    pub fn retry(&mut self) -> Result<Report, Error> {
        if self.sync == SyncState::InSync {
            return Ok(Report::default());
        }
        self.refresh()
    }

    /// The local pods that have an address and whose interface was not found.
    pub fn missing(&self) -> Vec<&ObjectKey> {
        let addressed = self.local().filter(|pod| !pod.addresses.is_empty()).map(|pod| &pod.key);
        addressed.filter(|key| self.interfaces.interface(key).is_none()).collect()
    }

    /// The compiler, which holds the program of the last update.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// The whole cluster as of the last update, including objects that are set aside.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The policies that are only tried and with which nothing is compared, for want of room.
    pub fn not_compared(&self) -> impl Iterator<Item = Diagnostic> {
        self.shares.not_compared()
    }

    /// The objects that are set aside because they exceed their namespace's share, in order.
    pub fn aside(&self) -> impl Iterator<Item = &Aside> {
        self.shares.aside()
    }

    /// The target that enforces the program.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The target, for changes that the agent does not make itself.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// The pods of this node to which policies apply, whether any selects them or not.
    pub fn local_pods(&self) -> &BTreeSet<ObjectKey> {
        &self.local
    }

    /// Whether a pod's policies are enforced. This is only meaningful while updates succeed.
    pub fn standing(&self, key: &ObjectKey) -> Standing {
        let Some(endpoint) = self.compiler.endpoint(key) else {
            // A pod without an address has no endpoint, so there is nothing to attach its policies
            // to.
            let pod = self
                .cluster
                .pods
                .get(key)
                .filter(|pod| pod.addresses.is_empty() && self.local.contains(key));
            return match pod {
                Some(pod) if self.compiler.isolates(pod) => Standing::Unfound,
                Some(_) => Standing::Open,
                None => Standing::Unknown,
            };
        };
        match (
            adopt::isolates(eval::word(self.compiler.program(), endpoint)),
            self.interfaces.interface(key),
        ) {
            (false, _) => Standing::Open,
            (true, None) => Standing::Unfound,
            (true, Some(_)) => Standing::Enforced,
        }
    }

    /// Whether `event` may give a local pod another interface. `cluster` is the cluster after the
    /// event.
    fn may_move(&self, event: &Event, cluster: &Cluster) -> bool {
        let Event::Pod { key, .. } = event else { return false };
        let facts = |pod: &Pod| is_local(&self.node, pod).then(|| pod.addresses.clone());
        self.cluster.pods.get(key).and_then(facts) != cluster.pods.get(key).and_then(facts)
    }

    fn local(&self) -> impl Iterator<Item = &Pod> {
        self.local.iter().filter_map(|key| self.cluster.pods.get(key))
    }
}

/// How many ids of each kind a target with these capabilities has.
fn room(capabilities: &Capabilities) -> Room {
    let Capabilities {
        endpoints,
        sets,
        classes_v4,
        classes_v6,
        rows,
        port_classes,
        connections: _,
    } = *capabilities;
    Room { endpoints, sets, classes: [classes_v4, classes_v6], rows, port_classes }
}

/// Whether this is a pod of this node to which policies apply.
fn is_local(node: &Arc<str>, pod: &Pod) -> bool {
    pod.node.as_ref() == Some(node) && pod.is_policed()
}
