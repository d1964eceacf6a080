//! What the agent learns of packets while it enforces (S87, S88): it reads the target's records and
//! says what they mean, before what they name means something else.
//!
//! Records are read before each update, and whenever whoever drives the agent asks. Each reading
//! lets the endpoints record some more packets. Not here: what a record means
//! ([`crate::attribute`]).

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use netpolc_flow::Flow;
use netpolc_lower::{Compiler, Event};
use netpolc_policy::{AddressBook, Cluster, ObjectKey, Pod};
use netpolc_table::{EndpointId, delta::Changes};
use netpolc_target::{Hook, NodeTarget, Noted, Record, Recorder};

use crate::{
    Agent,
    attribute::{self, Before, Sight},
    network::Network,
};

/// How many records an endpoint may make for one reason and direction from one reading to the next.
const BUDGET: u32 = 64;
/// How many records one reading takes at most, so that an update never waits long for it.
const LIMIT: usize = 4096;
/// How many flows wait for whoever asks for them; the oldest ones go first, and are counted.
const WAITING: usize = 1 << 14;

/// Packets by endpoint, direction and what is noted of them.
type Counts = BTreeMap<(EndpointId, Hook, Noted), u64>;

/// Packets that were not recorded, by pod, direction and why they should have been.
pub type Missing = BTreeMap<(Option<ObjectKey>, Hook, Noted), u64>;

/// What is observed, and what is needed to say whose it is.
#[derive(Default)]
pub(crate) struct Observer {
    recorder: Option<Box<dyn Recorder>>,
    /// How many updates have ended.
    epoch: u32,
    before: Before,
    book: AddressBook,
    places: Option<Places>,
    flows: VecDeque<Flow>,
    /// How many packets had been noticed before this agent came, with those whose records were
    /// read.
    known: Counts,
    /// How many packets without a record were told of.
    missed: Counts,
    /// Flows that nobody asked for in time.
    dropped: u64,
}

/// Addresses that are no pod's.
#[derive(Default)]
struct Places {
    services: BTreeMap<IpAddr, ObjectKey>,
    nodes: BTreeMap<IpAddr, Arc<str>>,
}

impl Places {
    fn of(cluster: &Cluster) -> Self {
        let mut places = Places::default();
        for (key, service) in &cluster.services {
            let all = service.addresses.iter().chain(&service.closed.addresses);
            places.services.extend(all.map(|address| (*address, key.clone())));
        }
        for (name, node) in &cluster.nodes {
            places.nodes.extend(node.addresses.iter().map(|address| (*address, name.clone())));
        }
        places
    }
}

impl Observer {
    /// How many packets were noticed.
    fn noticed(&self) -> Counts {
        let noticed = self.recorder.as_ref().map(|recorder| recorder.noticed());
        let noticed = noticed.into_iter().flatten();
        noticed.map(|(endpoint, hook, noted, count)| ((endpoint, hook, noted), count)).collect()
    }

    /// A pod is about to change.
    pub fn pod_changes(&mut self, before: Option<&Pod>, now: Option<&Pod>) {
        if self.recorder.is_some() {
            self.book.set(before, now);
        }
    }

    /// The cluster has changed by this.
    pub fn happened(&mut self, event: &Event) {
        if matches!(event, Event::Service { .. } | Event::Node { .. }) {
            self.places = None;
        }
    }

    /// The cluster is another one.
    pub fn replaced(&mut self, cluster: &Cluster) {
        if self.recorder.is_some() {
            self.book = AddressBook::of(cluster);
            self.places = None;
        }
    }

    /// The program has changed by this, and the target will follow.
    pub fn compiled(&mut self, changes: Option<&Changes>) {
        if self.recorder.is_some() {
            self.before = changes.map(Before::of).unwrap_or_default();
        }
    }

    /// The target holds the program.
    pub fn settled(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if let Some(recorder) = &mut self.recorder {
            recorder.set_epoch(self.epoch);
        }
    }
}

/// The pods by their endpoints.
fn pods(compiler: &Compiler) -> BTreeMap<EndpointId, &ObjectKey> {
    compiler.endpoints().map(|(key, endpoint)| (endpoint, key)).collect()
}

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// Observes packets from now on; false where the target does not record.
    ///
    /// # Errors
    /// The target's records cannot be opened.
    pub fn observe(&mut self) -> Result<bool, netpolc_target::Error> {
        let Some(mut recorder) = self.host.recorder()? else { return Ok(false) };
        // What was recorded for an agent before this one: its ids may be other ones by now.
        recorder.read(usize::MAX, &mut |_| {})?;
        recorder.refill(BUDGET);
        self.observer = Observer {
            recorder: Some(recorder),
            book: AddressBook::of(&self.cluster),
            ..Observer::default()
        };
        self.observer.known = self.observer.noticed();
        Ok(true)
    }

    /// Reads the records that there are, and lets the endpoints make some more.
    pub(crate) fn read_records(&mut self) {
        self.read_some();
    }

    /// The same; returns how many records there were.
    fn read_some(&mut self) -> usize {
        let Some(mut recorder) = self.observer.recorder.take() else { return 0 };
        let mut records: Vec<Record> = Vec::new();
        if let Err(error) = recorder.read(LIMIT, &mut |record| records.push(record)) {
            tracing::warn!(%error, "the records of packets cannot be read");
        }
        recorder.refill(BUDGET);
        self.observer.recorder = Some(recorder);
        if records.is_empty() {
            return 0;
        }
        let flows = self.attribute(&records);
        let observer = &mut self.observer;
        for record in &records {
            let hook = if record.hook == Hook::ToPod { Hook::ToPod } else { Hook::FromPod };
            *observer.known.entry((record.endpoint, hook, record.noted)).or_default() += 1;
        }
        observer.flows.extend(flows);
        while observer.flows.len() > WAITING {
            observer.flows.pop_front();
            observer.dropped += 1;
        }
        records.len()
    }

    /// What records of the agent's target say, which were made under the present tables or while
    /// the last update was made.
    pub fn attribute(&mut self, records: &[Record]) -> Vec<Flow> {
        let places = match self.observer.places.take() {
            Some(places) => places,
            None => Places::of(&self.cluster),
        };
        let pods = pods(&self.compiler);
        let sight = Sight {
            node: &self.node,
            program: self.compiler.program(),
            before: &self.observer.before,
            epoch: self.observer.epoch,
            cluster: &self.cluster,
            book: &self.observer.book,
            services: &places.services,
            nodes: &places.nodes,
            pods: &pods,
        };
        let flows = records.iter().map(|record| attribute::flow(record, &sight)).collect();
        self.observer.places = Some(places);
        flows
    }

    /// What was observed since the last call, in the order in which it happened.
    pub fn take_flows(&mut self) -> Vec<Flow> {
        self.read_records();
        self.observer.flows.drain(..).collect()
    }

    /// How many flows nobody has taken in time, since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.observer.dropped)
    }

    /// How many packets were noticed and not recorded since the last call, by pod, direction and
    /// why they should have been; exact once nothing happens any more.
    pub fn take_unrecorded(&mut self) -> Missing {
        let mut missing = Missing::new();
        // Whatever has been counted by now and is recorded is among the records that follow.
        let noticed = self.observer.noticed();
        while self.read_some() == LIMIT {}
        let now = self.observer.noticed();
        let pods = pods(&self.compiler);
        let Observer { known, missed, .. } = &mut self.observer;
        // Of an endpoint that has gone the counters begin anew.
        known.retain(|key, recorded| {
            let count = now.get(key).copied().unwrap_or_default();
            if *recorded > count {
                (*recorded, _) = (count, missed.remove(key));
            }
            count > 0
        });
        for (key, count) in noticed {
            let recorded = known.get(&key).copied().unwrap_or_default();
            let all = count.saturating_sub(recorded);
            let told = missed.entry(key).or_default();
            if all > *told {
                let (endpoint, hook, noted) = key;
                let pod = pods.get(&endpoint).map(|key| (*key).clone());
                *missing.entry((pod, hook, noted)).or_default() += all - *told;
                *told = all;
            }
        }
        missing
    }
}
