//! Watching a Kubernetes API server: the cluster as a whole once every first list is complete, then its
//! changes, for ever, whatever becomes of the server.
//!
//! ```text
//! feed (one for each kind)     list and watch, pauses                        on a thread of its own
//!   -> convert                 one object at a time, by the conversion that files go through
//!   -> collect                 first lists, differences of later ones, merging  on the caller's
//! ```
//!
//! Nothing here holds raw objects longer than a page of them, and the only copy of the converted ones is the
//! caller's [`Cluster`]. Not here: what changes mean.

mod access;
mod collect;
mod condition;
mod convert;
mod current;
mod feed;
mod fetch;
mod link;
mod pauses;
mod publish;
mod raw;
mod report;
mod sight;
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
use netpolc_policy::{Cluster, ObjectKey};
use tokio::sync::{mpsc, watch};

pub use self::{
    access::{Access, AccessError},
    collect::Update,
    condition::{Condition, Reason},
    fetch::{Busy, Fetched, Fetcher, Found},
    sight::{Contact, Contacts},
    status::{MAX_POLICIES, MAX_PROBLEMS, NodeStatus},
};
use self::{
    collect::{Collector, Message},
    convert::Converter,
    current::Ask,
    feed::Feed,
    fetch::Question,
    link::Link,
    report::Reports,
    sight::Sights,
};
use crate::{Problem, Resource};

/// How lists are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lists {
    /// As the server's version allows.
    #[default]
    Automatic,
    /// In pages (`limit` and `continue`), which every server knows.
    Pages,
    /// As a stream of watch events (`sendInitialEvents`), since Kubernetes 1.34; pages where the server refuses.
    Streams,
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The way to the server.
    pub access: Access,
    /// The own node: of Nodes only this one is watched. None: all.
    pub node: Option<Arc<str>>,
    /// How lists are asked for.
    pub lists: Lists,
}

/// Why watching cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No client can be made.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No thread or runtime can be made.
    #[error("start the watching thread: {0}")]
    Thread(#[source] io::Error),
}

/// Messages between the two threads that may wait. Beyond that the server's connection waits.
const WAITING: usize = 8_192;
/// So many messages are merged at most before the caller hears of them.
const BATCH: usize = 8_192;

/// Pause before a feed that panicked begins again.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// A watch over everything policy depends on. Ends, with its thread, when dropped.
#[derive(Debug)]
pub struct Watch {
    messages: mpsc::Receiver<Message>,
    questions: mpsc::Sender<Question>,
    asks: mpsc::Sender<Ask>,
    status: watch::Sender<Option<NodeStatus>>,
    taint: watch::Sender<Option<String>>,
    sights: Arc<Sights>,
    reports: Reports,
    collector: Collector,
}

impl Watch {
    /// Starts watching on a thread of its own.
    ///
    /// # Errors
    /// The way to the server makes no sense. A server that does not answer is a condition and no error.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let access = options.access.clone();
        let (ready, outcome) = std::sync::mpsc::channel();
        let (sender, messages) = mpsc::channel(WAITING);
        let (questions, asked) = fetch::channel();
        let (asks, gate) = mpsc::channel(WAITING);
        let sights = Arc::new(Sights::new());
        let seen = sights.clone();
        let (reports, reported) = Reports::channel();
        let reporting = reports.clone();
        let (status, newest) = watch::channel(None);
        let (taint, removed) = watch::channel(None);
        let work = move || {
            runtime.block_on(async {
                if let Err(error) = access.client().await {
                    // The caller waits for it.
                    let _ = ready.send(Err(error));
                    return;
                }
                let _ = ready.send(Ok(()));
                let channels = Channels { messages: sender, asked, gate, newest, removed, reported };
                watch_all(options, channels, reporting, seen).await;
            });
            // Connections may hang; nobody waits for them.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("netpolc-watch".into()).spawn(work).map_err(StartError::Thread)?;
        outcome.recv().map_err(|_| StartError::Thread(io::Error::other("it ended at once")))??;
        Ok(Self { messages, questions, asks, status, taint, sights, reports, collector: Collector::new() })
    }

    /// What happened next: all that has arrived, merged. `known` is the cluster that earlier updates make. Cancel safe.
    pub async fn next(&mut self, known: &Cluster) -> Update {
        loop {
            let Some(message) = self.messages.recv().await else {
                return Update::Ended;
            };
            self.collector.take(message, known);
            for _ in 1..BATCH {
                let Ok(message) = self.messages.try_recv() else { break };
                self.collector.take(message, known);
            }
            if let Some(update) = self.collector.update(known) {
                return update;
            }
        }
    }

    /// Asks for single pods, on the same thread and with the same credentials.
    pub fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.questions.clone(), self.asks.clone())
    }

    /// Removes the taint with this key from the own node, tried until that is done.
    pub fn remove_taint(&self, key: &str) {
        self.taint.send_replace(Some(key.into()));
    }

    /// All that the server had at this moment is in the updates so far, as was asked for by [`Fetcher::freshen`].
    pub fn current(&self) -> Option<Instant> {
        self.collector.current()
    }

    /// Why the last such question was not answered, since the last call.
    pub fn take_not_current(&mut self) -> Option<String> {
        self.collector.take_not_current()
    }

    /// Tells the cluster, by an Event, that a pod is not isolated although a policy selects it; the same is told once.
    pub fn not_isolated(&self, pod: &ObjectKey, uid: Option<&str>, why: String) {
        self.reports.not_isolated(pod, uid, why);
    }

    /// How each kind is watched, for monitoring.
    pub fn contacts(&self) -> Contacts {
        Contacts(self.sights.clone())
    }

    /// Gives this node's state to the cluster, which sees the newest one every ten seconds or so; nothing waits for it. Without a
    /// node of one's own it goes nowhere.
    pub fn publish(&self, status: NodeStatus) {
        self.status.send_replace(Some(status));
    }

    /// Makes an Event about an object that is set aside, where there is none yet.
    pub fn report_aside(&self, resource: Resource, object: &ObjectKey, why: &str) {
        self.reports.aside(resource, object, why);
    }

    /// metadata.generation of a policy, as of the last update.
    pub fn generation(&self, policy: &ObjectKey) -> Option<i64> {
        self.collector.generation(policy)
    }

    /// Lists that were completed since the last call and were not their kind's first, by kind.
    pub fn take_resyncs(&mut self) -> BTreeMap<Resource, u64> {
        self.collector.take_resyncs()
    }

    /// Kinds whose first list is not complete.
    pub fn incomplete(&self) -> &BTreeSet<Resource> {
        self.collector.incomplete()
    }

    /// Did conditions or problems change since the last call?
    pub fn take_news(&mut self) -> bool {
        self.collector.take_news()
    }

    /// Why some kinds cannot be watched at the moment, in order of kinds.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.collector.conditions().values()
    }

    /// What is wrong with objects that are there, in order of kinds and keys.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.collector.problems()
    }
}

/// The watching thread's ends.
struct Channels {
    messages: mpsc::Sender<Message>,
    asked: mpsc::Receiver<Question>,
    gate: mpsc::Receiver<Ask>,
    newest: watch::Receiver<Option<NodeStatus>>,
    removed: watch::Receiver<Option<String>>,
    reported: mpsc::Receiver<Event>,
}

async fn watch_all(options: Options, channels: Channels, reports: Reports, sights: Arc<Sights>) {
    let Channels { messages, asked, gate, newest, removed, reported } = channels;
    let converter = Arc::new(Mutex::new(Converter::default()));
    let link = Arc::new(Link::new(options.access.clone()));
    let events = tokio::spawn(report::send(reported, link.clone(), options.node.clone()));
    if let Some(node) = &options.node {
        // Ends with the sender.
        tokio::spawn(publish::publish(newest, link.clone(), node.clone()));
        tokio::spawn(taint::remove(removed, link.clone(), node.clone()));
    }
    let fetches = tokio::spawn(fetch::answer(asked, link.clone(), converter.clone()));
    let gate = tokio::spawn(current::answer(gate, link.clone(), sights.clone(), messages.clone()));
    let feeds = Resource::ALL.map(|resource| {
        let own = options.node.as_ref().filter(|_| resource == Resource::Node);
        Feed {
            resource,
            fields: own.map(|name| format!("metadata.name={name}")),
            link: link.clone(),
            lists: options.lists,
            converter: converter.clone(),
            messages: messages.clone(),
            reports: reports.clone(),
            sights: sights.clone(),
        }
    });
    let tasks = feeds.map(|feed| tokio::spawn(supervise(feed)));
    // A feed only ends when nobody listens; one that waits for its server must not keep the thread.
    messages.closed().await;
    tasks.into_iter().chain([events, fetches, gate]).for_each(|task| task.abort());
}

/// Runs a feed, and again should it panic: what is known stays, and the next list tells the difference.
async fn supervise(feed: Feed) {
    let mut task = Running(tokio::spawn(feed.clone().run()));
    while let Err(error) = (&mut task.0).await {
        tracing::error!(resource = %feed.resource, %error, "watching it ended by a fault of netpolc's; it begins again");
        tokio::time::sleep(AFTER_FAULT).await;
        task = Running(tokio::spawn(feed.clone().run()));
    }
}

/// A task that ends with whoever waits for it.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}
