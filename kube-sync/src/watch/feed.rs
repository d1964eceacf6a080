//! Lists and watches one kind, for ever: converts objects as they arrive, turns errors into
//! conditions, and backoff between attempts.
//!
//! The protocol (resource versions, bookmarks, resuming) is implemented here and not left to kube's
//! watcher, which hides what the CNI gate must know: how far the watch has come, whether it is
//! alive, and when it was opened. A list always asks for the server's newest state and never for
//! what a server's cache may still hold, so the view never goes back in time. A watch on which
//! nothing arrives is replaced by a new one that is opened *beside* it, and a first failure of a
//! long-lived watch is repaired without a report.
//!
//! Not here: single requests ([`super::stream`]), clients ([`super::link`]).

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant as StdInstant},
};

use http::Request as HttpRequest;
use kube::core::{
    ApiResource, ObjectList, Request, Resource as _, WatchEvent,
    params::{ListParams, WatchParams},
};
use netpolc_policy::ObjectKey;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Lists,
    acceptance::Care,
    acceptance_writer::{self, Acceptances},
    backoff::{Backoff, jitter},
    collect::Message,
    condition::{Condition, Reason, Remedy, diagnose},
    convert::Converter,
    feed_state::{FeedStates, Progress},
    link::{Joined, Link},
    presence::{Known, Presence, is_missing, names_nodes},
    raw::Raw,
    report::Reports,
    stream::{self, Events, Trouble},
};
use crate::Resource;

/// The number of objects in a page of a list, which makes some megabytes. For each page etcd counts
/// all objects that remain, so five times the usual page size saves it two thirds of the work.
const PAGE_SIZE: u32 = 2_500;
/// The first minor version of Kubernetes 1 that has streaming lists by default.
const STREAMING_SINCE: u32 = 34;
/// The shortest time for which a watch is requested, in seconds.
const WATCH_SECONDS: u32 = 200;
/// The random time that is added, in seconds, so that the watches of a node, and of all nodes, do
/// not end together. kube rejects longer watches.
const WATCH_JITTER_SECONDS: u32 = 90;
/// How long the server may take to begin its answer to a watch.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);
/// How long each part of a list may take to arrive.
const LIST_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a watch may be silent before it is replaced. Servers send a bookmark each minute, but
/// not where nothing at all happens.
const IDLE_TIMEOUT: Duration = Duration::from_secs(100);
/// The same for a watch that has a connection of its own, on which there are no HTTP/2 pings.
const IDLE_TIMEOUT_DEDICATED: Duration = Duration::from_secs(20);
/// How long an old watch is read on after a new one has begun beside it, for the events that are
/// still in flight.
const DRAIN_TIME: Duration = Duration::from_millis(50);
/// How long a watch must last to count as one that worked.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// What all attempts at one kind share.
#[derive(Clone)]
pub(crate) struct Feed {
    pub resource: Resource,
    /// A field selector; None where all objects are wanted.
    pub fields: Option<String>,
    pub link: Arc<Link>,
    pub lists: Lists,
    pub converter: Arc<Mutex<Converter>>,
    pub messages: mpsc::Sender<Message>,
    pub reports: Reports,
    pub acceptances: Arc<Acceptances>,
    pub states: Arc<FeedStates>,
}

/// The reason why an attempt ends.
pub(super) enum Stop {
    /// The receiver of the messages is gone.
    Ended,
    /// The kind is to be listed again.
    Relist,
    Trouble(Trouble),
}

impl<T: Into<Trouble>> From<T> for Stop {
    fn from(trouble: T) -> Self {
        Stop::Trouble(trouble.into())
    }
}

/// The state of a running feed.
pub(super) struct Work {
    pub(super) feed: Feed,
    /// The resource version to watch from; None where a list must come first.
    at: Option<String>,
    /// The index of the API version among [`Resource::versions`].
    api: usize,
    lists: Lists,
    backoff: Backoff,
    /// When the current watch was opened.
    opened: Option<Instant>,
    /// How long the server has been silent, over all attempts since it last answered.
    silent: Option<Duration>,
    /// The policies that exist, whose number the gate compares with the server's. Empty for other
    /// kinds.
    keys: HashSet<ObjectKey>,
    /// The version up to which a watch repeats events that were delivered before, because it was
    /// opened beside another one.
    repeats: Option<u64>,
    /// What has been said about a kind that the server may lack.
    pub(super) presence: Presence,
}

type Opening =
    Pin<Box<dyn Future<Output = Result<(Events, Joined), (Trouble, Option<Joined>)>> + Send>>;

impl Feed {
    /// Runs until the receiver of the messages is gone.
    pub async fn run(self) {
        let mut work = Work {
            at: None,
            api: 0,
            lists: self.lists,
            backoff: Backoff::default(),
            opened: None,
            silent: None,
            keys: HashSet::new(),
            repeats: None,
            presence: Presence::default(),
            feed: self,
        };
        loop {
            work.feed.due().await;
            let known = work.at.is_some();
            if !known && !work.feed.matters() {
                if work.absent(Known::Never).await.is_err() {
                    return;
                }
                continue;
            }
            if work.attempt().await.is_err() {
                return;
            }
        }
    }

    fn kind(&self, api: usize) -> ApiResource {
        self.resource.api(self.resource.versions()[api])
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Progress)) {
        self.states.note(self.resource, change);
    }

    pub(super) async fn send(&self, message: Message) -> Result<(), Stop> {
        self.messages.send(message).await.map_err(|_| Stop::Ended)
    }

    async fn put(&self, raw: &Raw, api_version: &str) -> Result<ObjectKey, Stop> {
        let item = {
            let mut converter = self.converter.lock().unwrap_or_else(PoisonError::into_inner);
            converter.convert(self.resource, api_version, raw)
        };
        if item.object.as_ref().is_some_and(names_nodes) {
            self.states.want_all_nodes();
        }
        self.reports.about(self.resource, api_version, raw, &item.problems);
        if acceptance_writer::concerns(self.resource) {
            let listed = self.states.of(self.resource).progress().served == Some(true);
            let care = if listed { Care::Generation } else { Care::Content };
            self.acceptances.note(self.resource, api_version, raw, &item, care);
        }
        let key = item.key.clone();
        self.send(Message::Put(self.resource, Box::new(item))).await?;
        Ok(key)
    }

    /// The key of a raw object.
    fn key(&self, raw: &Raw) -> ObjectKey {
        let mut converter = self.converter.lock().unwrap_or_else(PoisonError::into_inner);
        converter.key(self.resource, raw)
    }

    fn watch_request(
        &self,
        kind: &ApiResource,
        parameters: WatchParams,
        at: &str,
    ) -> Result<HttpRequest<Vec<u8>>, Trouble> {
        let timeout = WATCH_SECONDS
            + jitter(Duration::from_secs(WATCH_JITTER_SECONDS.into())).as_secs() as u32;
        let parameters =
            WatchParams { field_selector: self.selected(), timeout: Some(timeout), ..parameters };
        let request = Request::new(Raw::url_path(kind, None)).watch(&parameters, at);
        request.map_err(|error| kube::Error::BuildRequest(error).into())
    }

    /// Opens a watch from `at` on, with the current client.
    fn open(&self, kind: ApiResource, at: String) -> Opening {
        let feed = self.clone();
        Box::pin(async move {
            let joined = feed.link.join().await.map_err(|error| (error.into(), None))?;
            let opened = async {
                let request = feed.watch_request(&kind, WatchParams::default(), &at)?;
                Events::open(&joined.client, request, OPEN_TIMEOUT).await
            };
            match opened.await {
                Ok(events) => Ok((events, joined)),
                Err(trouble) => Err((trouble, Some(joined))),
            }
        })
    }
}

/// Resolves when a client other than number `from` is to be used.
async fn moved_on(numbers: &mut watch::Receiver<u64>, from: u64) {
    // The sender lives as long as the link does.
    let _ = numbers.wait_for(|number| *number != from).await;
}

impl Work {
    /// Lists where that is needed, and watches until something ends the watch; then backoff,
    /// depending on how it ended.
    async fn attempt(&mut self) -> Result<(), Stop> {
        let mut joined = None;
        let outcome = self.follow(&mut joined).await;
        // There is no watch on the connection now, so an answer on it is no sign of life of this
        // kind.
        self.feed.note(|seen| seen.shares = None);
        let lasted = self.opened.take().is_some_and(|opened| opened.elapsed() >= STABLE_AFTER);
        if lasted {
            self.backoff.reset();
        }
        let mut trouble = match outcome {
            // The watch ended at its requested time.
            Ok(()) if lasted => return Ok(()),
            Ok(()) => return self.pause(None).await,
            Err(Stop::Ended) => return Err(Stop::Ended),
            Err(Stop::Relist) => {
                self.at = None;
                return if lasted { Ok(()) } else { self.pause(None).await };
            }
            Err(Stop::Trouble(trouble)) => trouble,
        };
        let first_silence = self.note_silence(&joined, &mut trouble);
        // The first silence may be the fault of one connection. The next attempt has another one,
        // so it follows at once and nothing is reported.
        let (condition, remedy) = diagnose(self.feed.resource, &trouble);
        tracing::debug!(resource = %self.feed.resource, %trouble, ?remedy, "a watch or a list has \
            failed");
        let away = condition
            .as_ref()
            .is_some_and(|c| matches!(c.reason, Reason::Unreachable | Reason::Silent));
        if away {
            self.feed.link.failed();
        }
        if let (Some(joined), Remedy::Reconnect) = (&joined, remedy) {
            self.feed.link.give_up(joined);
        }
        // Where the server rejects the request as such, simpler ones are tried: pages for streaming
        // lists, then an older API version.
        match remedy {
            Remedy::Continue | Remedy::Reconnect => {}
            Remedy::Relist => self.at = None,
            Remedy::Other if self.lists == Lists::Streams => {
                (self.lists, self.at) = (Lists::Pages, None);
                return Ok(());
            }
            Remedy::Other if self.api + 1 < self.feed.resource.versions().len() => {
                (self.api, self.at) = (self.api + 1, None);
                return Ok(());
            }
            Remedy::Other if self.feed.resource.is_optional() && is_missing(&condition) => {
                (self.api, self.lists, self.at) = (0, self.feed.lists, None);
                return self.absent(Known::Perhaps).await;
            }
            // Everything has been tried. The server may be upgraded, so the next attempt starts
            // over.
            Remedy::Other => (self.api, self.lists, self.at) = (0, self.feed.lists, None),
        }
        if first_silence || lasted && (away || condition.is_none()) {
            // Servers close connections now and then. One that is up accepts the next watch at
            // once, and nothing needs to be reported.
            sleep(jitter(Duration::from_millis(50))).await;
            return Ok(());
        }
        self.pause(condition).await
    }

    /// Adds up silence over attempts, and returns whether this is the first: another connection may
    /// work.
    fn note_silence(&mut self, joined: &Option<Joined>, trouble: &mut Trouble) -> bool {
        let Trouble::Silent(silent) = trouble else { return false };
        if let Some(joined) = joined {
            self.feed.link.suspect(joined);
        }
        let before = self.silent.replace(*silent + self.silent.unwrap_or_default());
        *silent += before.unwrap_or_default();
        before.is_none()
    }

    /// Lists where that is needed, and watches until the watch ends. `joined` is set to the client
    /// that was used last.
    async fn follow(&mut self, joined: &mut Option<Joined>) -> Result<(), Stop> {
        let with = self.feed.link.join().await?;
        *joined = Some(with.clone());
        if self.at.is_none() {
            if self.lists == Lists::Automatic {
                self.lists = if with.minor().await >= STREAMING_SINCE {
                    Lists::Streams
                } else {
                    Lists::Pages
                };
            }
            if self.lists == Lists::Streams {
                let events = self.list_stream(&with).await?;
                return self.watch(events, with).await;
            }
            self.list_pages(&with).await?;
        }
        let at = self.at.clone().unwrap_or_default();
        match self.feed.open(self.feed.kind(self.api), at).await {
            Ok((events, with)) => {
                *joined = Some(with.clone());
                self.watch(events, with).await
            }
            Err((trouble, with)) => {
                *joined = with;
                Err(trouble.into())
            }
        }
    }

    /// Receives a list as a stream of events, which then goes on as a watch.
    async fn list_stream(&mut self, with: &Joined) -> Result<Events, Stop> {
        let kind = self.feed.kind(self.api);
        // No version is given, so that the server answers from the newest state of its storage.
        let request =
            self.feed.watch_request(&kind, WatchParams::default().initial_events(), "")?;
        let mut events = Events::open(&with.client, request, OPEN_TIMEOUT).await?;
        self.begin().await?;
        loop {
            let next = timeout_at(Instant::now() + LIST_TIMEOUT, events.next())
                .await
                .map_err(|_| Trouble::Silent(LIST_TIMEOUT))?;
            match next?.ok_or(Trouble::Incomplete)? {
                WatchEvent::Added(raw) | WatchEvent::Modified(raw) => {
                    let key = self.feed.put(&raw, &kind.api_version).await?;
                    self.count(key);
                }
                WatchEvent::Deleted(_) => {}
                WatchEvent::Bookmark(mark)
                    if mark.metadata.annotations.contains_key("k8s.io/initial-events-end") =>
                {
                    self.listed(mark.metadata.resource_version).await?;
                    return Ok(events);
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(Trouble::Status(status).into()),
            }
        }
    }

    /// Receives a list in pages.
    async fn list_pages(&mut self, with: &Joined) -> Result<(), Stop> {
        let kind = self.feed.kind(self.api);
        let mut parameters =
            ListParams { field_selector: self.feed.selected(), ..ListParams::default() }
                .limit(PAGE_SIZE);
        let mut begun = false;
        loop {
            let request = Request::new(Raw::url_path(&kind, None)).list(&parameters);
            let request =
                request.map_err(|error| Trouble::from(kube::Error::BuildRequest(error)))?;
            let (_, text) = stream::get(&with.client, request, LIST_TIMEOUT).await?;
            let list: ObjectList<Raw> = serde_json::from_slice(&text).map_err(Trouble::from)?;
            // The objects own their text; a page of it need not stay in memory.
            drop(text);
            if !std::mem::replace(&mut begun, true) {
                self.begin().await?;
            }
            for raw in &list.items {
                let key = self.feed.put(raw, &kind.api_version).await?;
                self.count(key);
            }
            match (list.metadata.continue_, list.metadata.resource_version) {
                (Some(next), _) if !next.is_empty() => parameters.continue_token = Some(next),
                (_, Some(version)) if !version.is_empty() => return self.listed(version).await,
                _ => return Err(Trouble::NoVersion.into()),
            }
        }
    }

    /// Announces that a list begins.
    pub(super) async fn begin(&mut self) -> Result<(), Stop> {
        self.keys.clear();
        self.feed.note(|seen| {
            *seen = Progress { heard: seen.heard, served: seen.served, ..Progress::default() }
        });
        self.feed.send(Message::Begin(self.feed.resource)).await
    }

    fn count(&mut self, key: ObjectKey) {
        if self.feed.resource == Resource::Policy {
            self.keys.insert(key);
        }
    }

    /// Announces that a list is complete, as of `version`.
    async fn listed(&mut self, version: String) -> Result<(), Stop> {
        self.feed.send(Message::Complete(self.feed.resource)).await?;
        (self.at, self.repeats) = (Some(version), None);
        self.presence = Presence::There;
        self.feed.served();
        self.works().await?;
        self.advanced();
        Ok(())
    }

    /// Records which version the messages sent so far have reached.
    fn advanced(&self) {
        let version = self.at.as_ref().and_then(|at| at.parse().ok());
        let count = (self.feed.resource == Resource::Policy).then_some(self.keys.len());
        self.feed.note(|seen| {
            (seen.version, seen.count, seen.heard) = (version, count, Some(StdInstant::now()))
        });
    }

    /// Announces that the feed works.
    pub(super) async fn works(&mut self) -> Result<(), Stop> {
        self.feed.link.answered();
        self.silent = None;
        self.feed.note(|seen| (seen.up, seen.heard) = (true, Some(StdInstant::now())));
        self.feed.send(Message::State(self.feed.resource, None)).await
    }

    /// Follows a watch until its end.
    async fn watch(&mut self, mut events: Events, mut with: Joined) -> Result<(), Stop> {
        let feed = self.feed.clone();
        let state = feed.states.of(feed.resource);
        let mut numbers = feed.link.numbers();
        let share = |events: &Events, with: &Joined| {
            let shares = events.is_shared().then_some(with.number);
            feed.note(|seen| seen.shares = shares);
        };
        share(&events, &with);
        self.works().await?;
        // A new watch that is being opened beside the current one, which goes on delivering.
        let mut opening: Option<Opening> = None;
        let mut heard = Instant::now();
        self.opened = Some(heard);
        loop {
            let silence = if events.is_shared() { IDLE_TIMEOUT } else { IDLE_TIMEOUT_DEDICATED };
            let at = self.at.clone().unwrap_or_default();
            let another = || Some(feed.open(feed.kind(self.api), at));
            tokio::select! {
                biased;
                event = events.next() => {
                    heard = Instant::now();
                    let Some(event) = event? else {
                        // The next attempt resumes from `self.at`, so nothing is lost with a watch
                        // that is just being opened.
                        return Ok(());
                    };
                    self.take(event).await?;
                }
                () = state.relist.notified() => return Err(Stop::Relist),
                opened = async {
                    match &mut opening {
                        Some(opening) => opening.await,
                        None => std::future::pending().await,
                    }
                }, if opening.is_some() =>
                {
                    opening = None;
                    let (mut new, new_with) = match opened {
                        Ok(opened) => opened,
                        Err((Trouble::Silent(_), other)) => {
                            feed.link.suspect(other.as_ref().unwrap_or(&with));
                            return Err(Trouble::Silent(heard.elapsed()).into());
                        }
                        Err((trouble, _)) => return Err(trouble.into()),
                    };
                    // The new watch works. Events that are in flight on the old one are taken
                    // first, since the new one would only repeat them later.
                    let until = Instant::now() + DRAIN_TIME;
                    while let Ok(Ok(Some(event))) = timeout_at(until, events.next()).await {
                        self.take(event).await?;
                    }
                    std::mem::swap(&mut events, &mut new);
                    (with, heard) = (new_with, Instant::now());
                    // The new watch began at the version that was current when it was requested, so
                    // it repeats everything up to the version that has been reached since.
                    self.repeats = self.at.as_ref().and_then(|at| at.parse().ok());
                    share(&events, &with);
                    self.works().await?;
                }
                () = state.nudge.notified(), if opening.is_none() => opening = another(),
                () = moved_on(&mut numbers, with.number), if opening.is_none() => {
                    opening = another();
                }
                () = sleep_until(heard + silence), if opening.is_none() => opening = another(),
            }
        }
    }

    /// Passes on one event, unless it repeats an earlier one.
    async fn take(&mut self, event: WatchEvent<Raw>) -> Result<(), Stop> {
        let version = |raw: &Raw| {
            raw.meta.resource_version.clone().filter(|v| !v.is_empty()).ok_or(Trouble::NoVersion)
        };
        let at = match &event {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) | WatchEvent::Deleted(raw) => {
                version(raw)?
            }
            WatchEvent::Bookmark(mark) => mark.metadata.resource_version.clone(),
            WatchEvent::Error(status) => return Err(Trouble::Status(status.clone()).into()),
        };
        if let Some(told) = self.repeats {
            // A repeated event is a sign of life all the same.
            if at.parse().is_ok_and(|at: u64| at <= told) {
                self.feed.note(|seen| seen.heard = Some(StdInstant::now()));
                return Ok(());
            }
            self.repeats = None;
        }
        match event {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) => {
                let key = self.feed.put(&raw, &self.feed.kind(self.api).api_version).await?;
                self.count(key);
            }
            WatchEvent::Deleted(raw) => {
                let key = self.feed.key(&raw);
                self.keys.remove(&key);
                self.feed.send(Message::Gone(self.feed.resource, key)).await?;
            }
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
        self.at = Some(at);
        self.advanced();
        Ok(())
    }

    /// Reports why the kind is not watched, and waits until the next attempt is due, or until the
    /// server is known to answer again.
    async fn pause(&mut self, condition: Option<Condition>) -> Result<(), Stop> {
        let hopes = condition
            .as_ref()
            .is_none_or(|c| matches!(c.reason, Reason::Unreachable | Reason::Silent));
        let feed = self.feed.clone();
        // Taken before the condition is sent, so that a server that answers meanwhile is not
        // missed.
        let back = feed.link.back();
        if condition.is_some() {
            feed.note(|seen| (seen.up, seen.shares) = (false, None));
            feed.send(Message::State(feed.resource, condition)).await?;
        }
        let (pause, least) = self.backoff.next();
        let began = Instant::now();
        tokio::select! {
            () = sleep(pause) => {}
            () = feed.states.of(feed.resource).nudge.notified() => {
                self.backoff.woken();
                sleep_until(began + least).await;
            }
            () = back, if hopes => {
                self.backoff.woken();
                sleep_until(began + least).await;
            }
        }
        Ok(())
    }
}
