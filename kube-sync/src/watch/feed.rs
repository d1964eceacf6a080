//! One kind's list and watch, for ever: objects converted as they come, errors turned into
//! conditions, pauses between attempts.
//!
//! The protocol (resource versions, bookmarks, resuming) is spoken here and not by kube's watcher,
//! which hides what the CNI gate must know: how far the watch is, whether it lives, and when it was
//! opened. A list is always asked for as it is now and never from what a server's cache may still
//! hold, so no view goes back in time. A watch on which nothing comes is opened anew *beside* the
//! old one; a first break is mended without a word.
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
    collect::Message,
    condition::{Condition, Reason, Remedy, diagnose},
    convert::Converter,
    link::{Joined, Link},
    pauses::{Pauses, jitter},
    raw::Raw,
    report::Reports,
    sight::{Seen, Sights},
    stream::{self, Events, Trouble},
};
use crate::Resource;

/// Objects in a page of a list: some megabytes. For each page etcd counts all that remain, so a
/// fifth of the pages costs it a third of the work.
const PAGE: u32 = 2_500;
/// Servers from this minor version of Kubernetes 1 on have streaming lists unless told otherwise.
const STREAMING_SINCE: u32 = 34;
/// A watch lasts at least so long, in seconds,
const WATCH: u32 = 200;
/// and up to so much longer, so that a node's watches, and those of all nodes, do not end together.
/// kube refuses longer ones.
const WATCH_JITTER: u32 = 90;
/// The answer to a watch begins within so long, or it is none.
const OPENS: Duration = Duration::from_secs(8);
/// Each part of a list comes within so long.
const LISTS: Duration = Duration::from_secs(40);
/// Nothing on a watch for so long, and it is opened anew. Servers send a bookmark each minute, but
/// not where nothing at all happens.
const SILENCE: Duration = Duration::from_secs(100);
/// The same where the watch has a connection of its own, on which HTTP asks for no sign of life.
const SILENCE_ALONE: Duration = Duration::from_secs(20);
/// What an old watch had to say is under way for so long at most when a new one has begun beside
/// it.
const DRAINS: Duration = Duration::from_millis(50);
/// A watch that lasted so long was one.
const LASTED: Duration = Duration::from_secs(1);

/// What all of a kind's attempts share.
#[derive(Clone)]
pub(crate) struct Feed {
    pub resource: Resource,
    /// A field selector, where not all objects are wanted.
    pub fields: Option<String>,
    pub link: Arc<Link>,
    pub lists: Lists,
    pub converter: Arc<Mutex<Converter>>,
    pub messages: mpsc::Sender<Message>,
    pub reports: Reports,
    pub sights: Arc<Sights>,
}

/// Why an attempt ends.
enum Stop {
    /// Nobody listens any more.
    Ended,
    /// The view is to be listed anew.
    Relist,
    Trouble(Trouble),
}

impl<T: Into<Trouble>> From<T> for Stop {
    fn from(trouble: T) -> Self {
        Stop::Trouble(trouble.into())
    }
}

/// A feed at work.
struct Work {
    feed: Feed,
    /// The resource version to watch from; None: a list comes first.
    at: Option<String>,
    /// Which version of the API.
    api: usize,
    lists: Lists,
    pauses: Pauses,
    /// When the watch that is under way was opened.
    opened: Option<Instant>,
    /// Silence that was not told of yet.
    silent: Option<Duration>,
    /// Of policies, whose number the gate compares with the server's.
    keys: HashSet<ObjectKey>,
    /// A watch that was opened beside another one repeats what that one has told, up to this
    /// version.
    repeats: Option<u64>,
}

type Opening = Pin<Box<dyn Future<Output = Result<(Events, Joined), (Trouble, Option<Joined>)>> + Send>>;

impl Feed {
    /// Runs until nobody listens.
    pub async fn run(self) {
        let mut work = Work {
            at: None,
            api: 0,
            lists: self.lists,
            pauses: Pauses::default(),
            opened: None,
            silent: None,
            keys: HashSet::new(),
            repeats: None,
            feed: self,
        };
        while work.attempt().await.is_ok() {}
    }

    fn kind(&self, api: usize) -> ApiResource {
        self.resource.api(self.resource.versions()[api])
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        self.sights.note(self.resource, change);
    }

    async fn send(&self, message: Message) -> Result<(), Stop> {
        self.messages.send(message).await.map_err(|_| Stop::Ended)
    }

    async fn put(&self, raw: &Raw, api_version: &str) -> Result<ObjectKey, Stop> {
        let item = {
            let mut converter = self.converter.lock().unwrap_or_else(PoisonError::into_inner);
            converter.convert(self.resource, api_version, raw)
        };
        self.reports.about(self.resource, api_version, raw, &item.problems);
        let key = item.key.clone();
        self.send(Message::Put(self.resource, item)).await?;
        Ok(key)
    }

    fn watch_request(
        &self,
        kind: &ApiResource,
        parameters: WatchParams,
        at: &str,
    ) -> Result<HttpRequest<Vec<u8>>, Trouble> {
        let timeout = WATCH + jitter(Duration::from_secs(WATCH_JITTER.into())).as_secs() as u32;
        let parameters = WatchParams { field_selector: self.fields.clone(), timeout: Some(timeout), ..parameters };
        let request = Request::new(Raw::url_path(kind, None)).watch(&parameters, at);
        request.map_err(|error| kube::Error::BuildRequest(error).into())
    }

    /// A watch from `at` on, by the client of the moment.
    fn open(&self, kind: ApiResource, at: String) -> Opening {
        let feed = self.clone();
        Box::pin(async move {
            let joined = feed.link.join().await.map_err(|error| (error.into(), None))?;
            let opened = async {
                let request = feed.watch_request(&kind, WatchParams::default(), &at)?;
                Events::open(&joined.client, request, OPENS).await
            };
            match opened.await {
                Ok(events) => Ok((events, joined)),
                Err(trouble) => Err((trouble, Some(joined))),
            }
        })
    }
}

/// Ready when another client than this one is to be used.
async fn moved_on(numbers: &mut watch::Receiver<u64>, from: u64) {
    // The sender lives as long as the link does.
    let _ = numbers.wait_for(|number| *number != from).await;
}

impl Work {
    /// Lists where that is needed, and watches until something ends it; then pauses as befits it.
    async fn attempt(&mut self) -> Result<(), Stop> {
        let mut joined = None;
        let outcome = self.follow(&mut joined).await;
        // Whatever comes on the connection says nothing about this kind any more.
        self.feed.note(|seen| seen.shares = None);
        let lasted = self.opened.take().is_some_and(|opened| opened.elapsed() >= LASTED);
        if lasted {
            self.pauses.reset();
        }
        let mut trouble = match outcome {
            // The watch has had its time.
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
        let (condition, remedy) = diagnose(self.feed.resource, &trouble);
        tracing::debug!(resource = %self.feed.resource, %trouble, ?remedy, "watch");
        let away = condition.as_ref().is_some_and(|c| matches!(c.reason, Reason::Unreachable | Reason::Silent));
        if away {
            self.feed.link.failed();
        }
        if let (Some(joined), Remedy::Reconnect) = (&joined, remedy) {
            self.feed.link.give_up(joined);
        }
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
            // The server may have become another one.
            Remedy::Other => (self.api, self.lists, self.at) = (0, self.feed.lists, None),
        }
        if first_silence || lasted && (away || condition.is_none()) {
            // Servers end connections now and then. One that is there takes the next one at once,
            // and nothing needs to be said.
            sleep(jitter(Duration::from_millis(50))).await;
            return Ok(());
        }
        self.pause(condition).await
    }

    /// Adds up silence over attempts, and says whether this is the first: another connection may
    /// do.
    fn note_silence(&mut self, joined: &Option<Joined>, trouble: &mut Trouble) -> bool {
        let Trouble::Silent(silent) = trouble else { return false };
        if let Some(joined) = joined {
            self.feed.link.suspect(joined);
        }
        let before = self.silent.replace(*silent + self.silent.unwrap_or_default());
        *silent += before.unwrap_or_default();
        before.is_none()
    }

    async fn follow(&mut self, joined: &mut Option<Joined>) -> Result<(), Stop> {
        let with = self.feed.link.join().await?;
        *joined = Some(with.clone());
        if self.at.is_none() {
            if self.lists == Lists::Automatic {
                self.lists = if with.minor().await >= STREAMING_SINCE { Lists::Streams } else { Lists::Pages };
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

    /// A list as a stream of events, which then goes on as a watch.
    async fn list_stream(&mut self, with: &Joined) -> Result<Events, Stop> {
        let kind = self.feed.kind(self.api);
        // Without a version: what the server's storage has now.
        let request = self.feed.watch_request(&kind, WatchParams::default().initial_events(), "")?;
        let mut events = Events::open(&with.client, request, OPENS).await?;
        self.begin().await?;
        loop {
            let next = timeout_at(Instant::now() + LISTS, events.next()).await.map_err(|_| Trouble::Silent(LISTS))?;
            match next?.ok_or(Trouble::Incomplete)? {
                WatchEvent::Added(raw) | WatchEvent::Modified(raw) => {
                    let key = self.feed.put(&raw, &kind.api_version).await?;
                    self.count(key);
                }
                WatchEvent::Deleted(_) => {}
                WatchEvent::Bookmark(mark) if mark.metadata.annotations.contains_key("k8s.io/initial-events-end") => {
                    self.listed(mark.metadata.resource_version).await?;
                    return Ok(events);
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(Trouble::Status(status).into()),
            }
        }
    }

    /// A list in pages.
    async fn list_pages(&mut self, with: &Joined) -> Result<(), Stop> {
        let kind = self.feed.kind(self.api);
        let mut parameters =
            ListParams { field_selector: self.feed.fields.clone(), ..ListParams::default() }.limit(PAGE);
        self.begin().await?;
        loop {
            let request = Request::new(Raw::url_path(&kind, None)).list(&parameters);
            let request = request.map_err(|error| Trouble::from(kube::Error::BuildRequest(error)))?;
            let (_, text) = stream::get(&with.client, request, LISTS).await?;
            let list: ObjectList<Raw> = serde_json::from_slice(&text).map_err(Trouble::from)?;
            drop(text);
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

    async fn begin(&mut self) -> Result<(), Stop> {
        self.keys.clear();
        self.feed.note(|seen| *seen = Seen { heard: seen.heard, ..Seen::default() });
        self.feed.send(Message::Begin(self.feed.resource)).await
    }

    fn count(&mut self, key: ObjectKey) {
        if self.feed.resource == Resource::Policy {
            self.keys.insert(key);
        }
    }

    async fn listed(&mut self, version: String) -> Result<(), Stop> {
        self.feed.send(Message::Complete(self.feed.resource)).await?;
        (self.at, self.repeats) = (Some(version), None);
        self.works().await?;
        self.advanced();
        Ok(())
    }

    /// Notes how far everything that was sent reaches.
    fn advanced(&self) {
        let version = self.at.as_ref().and_then(|at| at.parse().ok());
        let count = (self.feed.resource == Resource::Policy).then_some(self.keys.len());
        self.feed.note(|seen| (seen.version, seen.count, seen.heard) = (version, count, Some(StdInstant::now())));
    }

    async fn works(&mut self) -> Result<(), Stop> {
        self.feed.link.answered();
        self.silent = None;
        self.feed.note(|seen| (seen.up, seen.heard) = (true, Some(StdInstant::now())));
        self.feed.send(Message::State(self.feed.resource, None)).await
    }

    /// Follows a watch until its end.
    async fn watch(&mut self, mut events: Events, mut with: Joined) -> Result<(), Stop> {
        let feed = self.feed.clone();
        let sight = feed.sights.of(feed.resource);
        let mut numbers = feed.link.numbers();
        let share = |events: &Events, with: &Joined| {
            let shares = events.is_shared().then_some(with.number);
            feed.note(|seen| seen.shares = shares);
        };
        share(&events, &with);
        self.works().await?;
        let mut opening: Option<Opening> = None;
        let mut heard = Instant::now();
        self.opened = Some(heard);
        loop {
            let silence = if events.is_shared() { SILENCE } else { SILENCE_ALONE };
            let at = self.at.clone().unwrap_or_default();
            let another = || Some(feed.open(feed.kind(self.api), at));
            tokio::select! {
                biased;
                event = events.next() => {
                    heard = Instant::now();
                    let Some(event) = event? else {
                        // What was to replace it may be there already.
                        return Ok(());
                    };
                    self.take(event).await?;
                }
                () = sight.relist.notified() => return Err(Stop::Relist),
                opened = async { match &mut opening { Some(opening) => opening.await, None => std::future::pending().await } },
                    if opening.is_some() =>
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
                    let until = Instant::now() + DRAINS;
                    while let Ok(Ok(Some(event))) = timeout_at(until, events.next()).await {
                        self.take(event).await?;
                    }
                    std::mem::swap(&mut events, &mut new);
                    (with, heard) = (new_with, Instant::now());
                    // It began where the old one stood when it was asked for.
                    self.repeats = self.at.as_ref().and_then(|at| at.parse().ok());
                    share(&events, &with);
                    self.works().await?;
                }
                () = sight.nudge.notified(), if opening.is_none() => opening = another(),
                () = moved_on(&mut numbers, with.number), if opening.is_none() => opening = another(),
                () = sleep_until(heard + silence), if opening.is_none() => opening = another(),
            }
        }
    }

    async fn take(&mut self, event: WatchEvent<Raw>) -> Result<(), Stop> {
        let version = |raw: &Raw| raw.meta.resource_version.clone().filter(|v| !v.is_empty()).ok_or(Trouble::NoVersion);
        let at = match &event {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) | WatchEvent::Deleted(raw) => version(raw)?,
            WatchEvent::Bookmark(mark) => mark.metadata.resource_version.clone(),
            WatchEvent::Error(status) => return Err(Trouble::Status(status.clone()).into()),
        };
        if let Some(told) = self.repeats {
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
                let key = self.feed.converter.lock().unwrap_or_else(PoisonError::into_inner).key(&raw);
                self.keys.remove(&key);
                self.feed.send(Message::Gone(self.feed.resource, key)).await?;
            }
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
        }
        self.at = Some(at);
        self.advanced();
        Ok(())
    }

    /// Says why the kind is not watched, and waits: until the next attempt is due, or there is
    /// reason to hope.
    async fn pause(&mut self, condition: Option<Condition>) -> Result<(), Stop> {
        let hopes = condition.as_ref().is_none_or(|c| matches!(c.reason, Reason::Unreachable | Reason::Silent));
        let feed = self.feed.clone();
        let back = feed.link.back();
        if condition.is_some() {
            feed.note(|seen| (seen.up, seen.shares) = (false, None));
            feed.send(Message::State(feed.resource, condition)).await?;
        }
        let (pause, least) = self.pauses.next();
        let began = Instant::now();
        tokio::select! {
            () = sleep(pause) => {}
            () = feed.sights.of(feed.resource).nudge.notified() => {
                self.pauses.woken();
                sleep_until(began + least).await;
            }
            () = back, if hopes => {
                self.pauses.woken();
                sleep_until(began + least).await;
            }
        }
        Ok(())
    }
}
