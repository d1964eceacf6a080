//! One kind's list and watch, for ever: objects converted as they come, errors turned into conditions,
//! pauses between attempts. The list-and-watch protocol itself (resource versions, bookmarks, resuming) is kube's.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use kube::{
    Api, Client,
    runtime::watcher::{self, DefaultBackoff, Event, watcher},
};
use tokio::sync::mpsc;

use super::{
    Lists,
    access::Access,
    collect::Message,
    condition::{Condition, Reason, Remedy, diagnose},
    convert::Converter,
    raw::Raw,
    report::Reports,
    resource::Resource,
};

/// A feed that had an error and then none for so long works again. Only a new error tells otherwise.
const CALM: Duration = Duration::from_secs(8);
/// Objects in a page of a list: some megabytes. For each page etcd counts all that remain, so a fifth of the pages costs it a third of the work.
const PAGE: u32 = 2_500;
/// Servers from this minor version of Kubernetes 1 on have streaming lists unless told otherwise.
const STREAMING_SINCE: u32 = 34;

#[derive(Clone)]
pub(crate) struct Feed {
    pub resource: Resource,
    /// A field selector, where not all objects are wanted.
    pub fields: Option<String>,
    pub access: Access,
    pub lists: Lists,
    pub converter: Arc<Mutex<Converter>>,
    pub messages: mpsc::Sender<Message>,
    pub reports: Reports,
}

/// Nobody listens any more.
struct Ended;

impl Feed {
    /// Runs until nobody listens.
    pub async fn run(self) {
        let mut pauses = DefaultBackoff::default();
        let mut version = 0;
        let mut lists = self.lists;
        loop {
            let outcome = match self.access.client().await {
                Ok(client) => {
                    lists = settle_lists(lists, &client).await;
                    self.follow(client, version, lists, &mut pauses).await
                }
                Err(error) => {
                    let detail = error.to_string();
                    let condition = Condition { resource: self.resource, reason: Reason::Unauthorized, detail };
                    self.pause(Some(condition), &mut pauses).await.map(|()| Remedy::Reconnect)
                }
            };
            match outcome {
                Err(Ended) => return,
                Ok(Remedy::Other) if lists == Lists::Streams => lists = Lists::Pages,
                Ok(Remedy::Other) => version += 1,
                // The server may have become another one.
                Ok(_) => version = 0,
            }
        }
    }

    /// Lists and watches until that does not help any more; says what may.
    async fn follow(
        &self,
        client: Client,
        version: usize,
        lists: Lists,
        pauses: &mut DefaultBackoff,
    ) -> Result<Remedy, Ended> {
        let versions = self.resource.versions();
        let kind = self.resource.api(versions[version]);
        let mut config = watcher::Config::default().page_size(PAGE);
        config.field_selector = self.fields.clone();
        if lists == Lists::Streams {
            config = config.streaming_lists();
        }
        let mut stream = pin!(watcher(Api::<Raw>::all_with(client, &kind), config));
        let mut trouble = Trouble::Listing;
        loop {
            let next = match trouble {
                // While a list is under way silence is no good sign.
                Trouble::Past => match tokio::time::timeout(CALM, stream.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        trouble = Trouble::None;
                        self.send(Message::State(self.resource, None)).await?;
                        continue;
                    }
                },
                Trouble::None | Trouble::Listing => stream.next().await,
            };
            let event = match next {
                Some(Ok(event)) => {
                    if trouble == Trouble::Past {
                        trouble = Trouble::None;
                        self.send(Message::State(self.resource, None)).await?;
                    }
                    event
                }
                Some(Err(error)) => {
                    let (condition, remedy) = diagnose(self.resource, &error);
                    tracing::debug!(resource = %self.resource, %error, ?remedy, "watch");
                    if trouble == Trouble::None {
                        trouble = Trouble::Past;
                    }
                    if remedy == Remedy::Other && (lists == Lists::Streams || version + 1 < versions.len()) {
                        return Ok(remedy);
                    }
                    self.pause(condition, pauses).await?;
                    match remedy {
                        Remedy::Continue => continue,
                        Remedy::Relist | Remedy::Reconnect | Remedy::Other => return Ok(Remedy::Relist),
                    }
                }
                None => return Ok(Remedy::Relist),
            };
            match event {
                Event::Init => {
                    trouble = Trouble::Listing;
                    self.send(Message::Begin(self.resource)).await?;
                }
                Event::InitApply(raw) | Event::Apply(raw) => self.put(&raw, &kind.api_version).await?,
                Event::Delete(raw) => {
                    let key = self.converter.lock().unwrap_or_else(PoisonError::into_inner).key(&raw);
                    self.send(Message::Gone(self.resource, key)).await?;
                }
                Event::InitDone => {
                    trouble = Trouble::None;
                    self.send(Message::Complete(self.resource)).await?;
                    self.send(Message::State(self.resource, None)).await?;
                }
            }
        }
    }

    async fn put(&self, raw: &Raw, api_version: &str) -> Result<(), Ended> {
        let item = {
            let mut converter = self.converter.lock().unwrap_or_else(PoisonError::into_inner);
            converter.convert(self.resource, api_version, raw)
        };
        self.reports.about(self.resource, api_version, raw, &item.problems);
        self.send(Message::Put(self.resource, item)).await
    }

    async fn pause(&self, condition: Option<Condition>, pauses: &mut DefaultBackoff) -> Result<(), Ended> {
        if condition.is_some() {
            self.send(Message::State(self.resource, condition)).await?;
        }
        tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(30))).await;
        Ok(())
    }

    async fn send(&self, message: Message) -> Result<(), Ended> {
        self.messages.send(message).await.map_err(|_| Ended)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// A list is under way; its end tells.
    Listing,
    /// An error was seen while watching.
    Past,
}

/// How to list on this server.
async fn settle_lists(lists: Lists, client: &Client) -> Lists {
    if lists != Lists::Automatic {
        return lists;
    }
    let minor = match client.apiserver_version().await {
        Ok(info) => info.minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0),
        // Unknown for now: pages work with every server.
        Err(_) => 0_u32,
    };
    if minor >= STREAMING_SINCE { Lists::Streams } else { Lists::Pages }
}
