//! Watches a Kubernetes API server: reports the cluster as a whole once every first list is
//! complete, and then its changes, for ever, whatever happens to the server.
//!
//! ```text
//! feed (one for each kind)   lists, watches and backoff               on a thread of its own
//!   -> convert               one object at a time, as for files
//!   -> collect               first lists, differences, merging        on the caller's thread
//! ```
//!
//! Raw objects are held only until the page or event that they came in is converted, and the only
//! copy of the converted objects is the caller's [`Cluster`]. Not here: what changes mean.

mod acceptance;
mod acceptance_writer;
mod access;
mod backoff;
mod collect;
mod condition;
mod convert;
mod count;
mod feed;
mod feed_state;
mod fetch;
mod foreign;
mod freshness;
mod link;
mod list;
mod presence;
mod publish;
mod raw;
mod report;
mod status;
mod stream;
mod taint;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::events::v1::Event;
use netpolc_policy::{Cluster, ObjectKey, TierKey};
use tokio::sync::{mpsc, watch};

use self::{
    acceptance_writer::Acceptances,
    collect::{Collector, Message},
    convert::Converter,
    feed::Feed,
    feed_state::FeedStates,
    fetch::Question,
    freshness::Ask,
    link::Link,
    report::Reports,
};
pub use self::{
    access::{Access, AccessError, Kubeconfig},
    collect::Update,
    condition::{Condition, Reason},
    feed_state::{WatchState, WatchStates},
    fetch::{Busy, Fetched, Fetcher, Found},
    foreign::Foreign,
    list::{ListError, survey_cluster},
    status::{MAX_POLICIES, MAX_PROBLEMS, NodeStatus},
};
use crate::{Families, Problem, Resource};

/// How lists are requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lists {
    /// As a stream where the server's version has streaming lists by default, in pages otherwise.
    #[default]
    Automatic,
    /// In pages (`limit` and `continue`), which every server supports.
    Pages,
    /// As a stream of watch events (`sendInitialEvents`), since Kubernetes 1.34; in pages where the
    /// server rejects that.
    Streams,
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's address and credentials.
    pub access: Access,
    /// The node on which the agent runs: of all Nodes only this one is watched, until a
    /// ClusterNetworkPolicy names nodes. None watches all Nodes.
    pub node: Option<Arc<str>>,
    /// How lists are requested.
    pub lists: Lists,
    /// Which kinds are watched beyond those that every cluster has.
    pub families: Families,
}

/// The reason why watching cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No client for the API server can be made.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The thread or its runtime cannot be started.
    #[error("the watching thread could not be started: {0}")]
    Thread(#[source] io::Error),
}

/// How many messages may wait between the two threads. Beyond that the server's connection waits.
const MAX_QUEUED: usize = 8_192;
/// How many messages are merged into one update.
const MAX_BATCH: usize = 8_192;

/// The pause before a feed that panicked is restarted.
const RESTART_DELAY: Duration = Duration::from_secs(5);

/// A watch over everything on which policy depends. It ends, with its thread, when dropped.
#[derive(Debug)]
pub struct Watch {
    messages: mpsc::Receiver<Message>,
    questions: mpsc::Sender<Question>,
    asks: mpsc::Sender<Ask>,
    status: watch::Sender<Option<NodeStatus>>,
    taint: watch::Sender<Option<String>>,
    states: Arc<FeedStates>,
    reports: Reports,
    collector: Collector,
}

impl Watch {
    /// Starts watching on a thread of its own.
    ///
    /// # Errors
    /// The server's address or credentials are not valid, or the thread cannot be started. A server
    /// that does not answer is a condition and not an error.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let (access, families) = (options.access.clone(), options.families);
        let (ready, outcome) = std::sync::mpsc::channel();
        let (sender, messages) = mpsc::channel(MAX_QUEUED);
        let (questions, asked) = fetch::channel();
        let (asks, gate) = mpsc::channel(MAX_QUEUED);
        let states = Arc::new(FeedStates::new(options.families));
        let seen = states.clone();
        let (reports, reported) = Reports::channel();
        let reporting = reports.clone();
        let (status, newest) = watch::channel(None);
        let (taint, removed) = watch::channel(None);
        let work = move || {
            runtime.block_on(async {
                if let Err(error) = access.client().await {
                    // The caller waits for this message, so sending cannot fail.
                    let _ = ready.send(Err(error));
                    return;
                }
                let _ = ready.send(Ok(()));
                let channels =
                    Channels { messages: sender, asked, gate, newest, removed, reported };
                watch_all(options, channels, reporting, seen).await;
            });
            // Connections may hang, and nobody waits for them.
            runtime.shutdown_background();
        };
        thread::Builder::new()
            .name("netpolc-watch".into())
            .spawn(work)
            .map_err(StartError::Thread)?;
        outcome
            .recv()
            .map_err(|_| StartError::Thread(io::Error::other("the thread ended at once")))??;
        Ok(Self {
            messages,
            questions,
            asks,
            status,
            taint,
            states,
            reports,
            collector: Collector::new(families),
        })
    }

    /// Waits for the next update, which merges everything that has arrived. `known` is the cluster
    /// that results from the earlier updates. Cancel safe.
    pub async fn next(&mut self, known: &Cluster) -> Update {
        loop {
            let Some(message) = self.messages.recv().await else {
                return Update::Ended;
            };
            self.collector.take(message, known);
            for _ in 1..MAX_BATCH {
                let Ok(message) = self.messages.try_recv() else { break };
                self.collector.take(message, known);
            }
            if let Some(update) = self.collector.update(known) {
                return update;
            }
        }
    }

    /// A handle to fetch single pods, on the same thread and with the same credentials.
    pub fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.questions.clone(), self.asks.clone())
    }

    /// Removes the taint with this key from the agent's node; retried until that succeeds.
    pub fn remove_taint(&self, key: &str) {
        self.taint.send_replace(Some(key.into()));
    }

    /// The latest moment whose state the updates so far are known to reflect, after a request by
    /// [`Fetcher::freshen`]; None before the first answer.
    pub fn current(&self) -> Option<Instant> {
        self.collector.current()
    }

    /// Why the last such request failed; None where none has failed since the last call.
    pub fn take_not_current(&mut self) -> Option<String> {
        self.collector.take_not_current()
    }

    /// Creates an Event which says that a pod is not isolated although a policy selects it. The
    /// same Event is created once.
    pub fn not_isolated(&self, pod: &ObjectKey, uid: Option<&str>, why: String) {
        self.reports.not_isolated(pod, uid, why);
    }

    /// A handle to the state of each kind's watch, for monitoring.
    pub fn states(&self) -> WatchStates {
        WatchStates(self.states.clone())
    }

    /// Publishes this node's state in the cluster: the newest one is written about every ten
    /// seconds, and nothing waits for it. Without a node ([`Options::node`]) it is dropped.
    pub fn publish(&self, status: NodeStatus) {
        self.status.send_replace(Some(status));
    }

    /// Creates an Event about an object that is set aside, unless there is one already.
    pub fn report_aside(&self, resource: Resource, object: &ObjectKey, why: &str) {
        self.reports.aside(resource, object, why);
    }

    /// Creates an Event about a node on which somebody had changed what enforces policies.
    pub fn report_repaired(&self, node: &str, what: &str) {
        self.reports.repaired(node, what);
    }

    /// Creates an Event about a pod so many of whose packets were denied.
    pub fn report_denied(&self, pod: &ObjectKey, uid: Option<&str>, note: &str, packets: u64) {
        self.reports.denied(pod, uid, note, packets);
    }

    /// Creates an Event about a ClusterNetworkPolicy whose answer does not count beside another one
    /// of its priority (S64), unless there is one already.
    pub fn report_conflict(&self, loses: &TierKey, wins: &str, why: &str) {
        self.reports.conflict(loses, wins, why);
    }

    /// The metadata.generation of a NetworkPolicy or ClusterNetworkPolicy, as of the last update;
    /// None where it is not known.
    pub fn generation(&self, resource: Resource, policy: &ObjectKey) -> Option<i64> {
        self.collector.generation(resource, policy)
    }

    /// How many errors an object has, as of the last update.
    pub fn errors(&self, resource: Resource, object: &ObjectKey) -> usize {
        self.collector.errors(resource, object)
    }

    /// For each kind, how many lists after its first one were completed since the last call.
    pub fn take_resyncs(&mut self) -> BTreeMap<Resource, u64> {
        self.collector.take_resyncs()
    }

    /// The kinds whose first list is not complete.
    pub fn incomplete(&self) -> &BTreeSet<Resource> {
        self.collector.incomplete()
    }

    /// Whether conditions, problems, generations or the policies of other engines have changed
    /// since the last call.
    pub fn take_news(&mut self) -> bool {
        self.collector.take_news()
    }

    /// The reasons why some kinds cannot be watched at the moment, in order of kinds.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.collector.conditions().values()
    }

    /// The policies of other engines that the cluster has, which netpolc does not enforce.
    pub fn foreign(&self) -> &[Foreign] {
        self.collector.foreign()
    }

    /// What is wrong with the objects that exist, in order of kinds and keys.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.collector.problems()
    }
}

/// The watching thread's ends of the channels.
struct Channels {
    messages: mpsc::Sender<Message>,
    asked: mpsc::Receiver<Question>,
    gate: mpsc::Receiver<Ask>,
    newest: watch::Receiver<Option<NodeStatus>>,
    removed: watch::Receiver<Option<String>>,
    reported: mpsc::Receiver<Event>,
}

async fn watch_all(
    options: Options,
    channels: Channels,
    reports: Reports,
    states: Arc<FeedStates>,
) {
    let Channels { messages, asked, gate, newest, removed, reported } = channels;
    let converter = Arc::new(Mutex::new(Converter::default()));
    let link = Arc::new(Link::new(options.access.clone()));
    let events = tokio::spawn(report::send(reported, link.clone(), options.node.clone()));
    if let Some(node) = &options.node {
        // These tasks end when the senders are dropped.
        tokio::spawn(publish::publish(newest, link.clone(), node.clone()));
        tokio::spawn(taint::remove(removed, link.clone(), node.clone()));
    }
    let fetches = tokio::spawn(fetch::answer(asked, link.clone(), converter.clone()));
    let gate =
        tokio::spawn(freshness::answer(gate, link.clone(), states.clone(), messages.clone()));
    let acceptances = Arc::new(Acceptances::default());
    let statuses = tokio::spawn(acceptance_writer::write(acceptances.clone(), link.clone()));
    let others = tokio::spawn(foreign::look(messages.clone(), link.clone()));
    let feeds = options.families.watched().map(|resource| {
        let own = options.node.as_ref().filter(|_| resource == Resource::Node);
        Feed {
            resource,
            fields: own.map(|name| format!("metadata.name={name}")),
            link: link.clone(),
            lists: options.lists,
            converter: converter.clone(),
            messages: messages.clone(),
            reports: reports.clone(),
            acceptances: acceptances.clone(),
            states: states.clone(),
        }
    });
    let tasks: Vec<_> = feeds.map(|feed| tokio::spawn(supervise(feed))).collect();
    // A feed notices only when it sends that nobody listens any more. One that waits for its server
    // must not keep the thread alive.
    messages.closed().await;
    tasks
        .into_iter()
        .chain([events, fetches, gate, statuses, others])
        .for_each(|task| task.abort());
}

/// Runs a feed, and restarts it if it panics: the known objects stay, and the next list shows what
/// has changed.
async fn supervise(feed: Feed) {
    let mut task = Running(tokio::spawn(feed.clone().run()));
    while let Err(error) = (&mut task.0).await {
        tracing::error!(resource = %feed.resource, %error, "the watch of this kind ended through a \
            bug in netpolc and is restarted");
        tokio::time::sleep(RESTART_DELAY).await;
        task = Running(tokio::spawn(feed.clone().run()));
    }
}

/// A task that is aborted when the handle is dropped.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}
