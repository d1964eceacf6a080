//! Is what the feeds have told at least as new as the API server's state at some moment? The CNI
//! gate asks before it says that a new pod's policies hold: a policy that was made before the pod
//! must count, also right after an outage.
//!
//! A list of one policy without a resource version is answered from the newest state, and names its
//! version, which counts for all kinds. Namespaces, policies and pods must each be that far; or,
//! since versions move on with every kind's writes and a kind on which nothing happens stays
//! behind: its watch must have shown a sign of life after the question, and a moment must have
//! passed in which it would have told. Signs of life are anything that it says, an answer on the
//! same connection, and the beginning of a watch that is opened anew beside the old one. Of
//! policies the server counts how many there are, too; where the feed has another number it lists
//! again.
//!
//! The answer goes the way of the changes, behind those that it speaks of.

use std::{sync::Arc, time::Instant as StdInstant};

use kube::core::{Request, Resource as _};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep, timeout_at},
};

use super::{
    collect::Message,
    condition::{Reason, diagnose},
    link::{Joined, Link},
    raw::Raw,
    sight::Sights,
    stream::{self, Trouble},
};
use crate::Resource;

/// What a pod's policies depend on.
const KINDS: [Resource; 3] = [Resource::Namespace, Resource::Policy, Resource::Pod];
/// One question: longer, and another connection may do.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Pause after one that failed.
const RETRY: Duration = Duration::from_millis(200);
/// A watch that lives has told after so long what the server knew before.
const SETTLES: Duration = Duration::from_millis(30);
/// A feed whose number of objects is another one for so long has missed something.
const COUNTS: Duration = Duration::from_millis(300);
/// Waiting feeds are looked at so often at least.
const LOOK: Duration = Duration::from_millis(10);

/// A question of the gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// The view must be as new as the server's state at this moment.
    pub at: StdInstant,
    /// Nobody waits any longer.
    pub deadline: StdInstant,
}

/// Answers until nobody asks any more, each time for all who have asked.
pub(crate) async fn answer(
    mut asks: mpsc::Receiver<Ask>,
    link: Arc<Link>,
    sights: Arc<Sights>,
    messages: mpsc::Sender<Message>,
) {
    while let Some(mut ask) = asks.recv().await {
        loop {
            while let Ok(more) = asks.try_recv() {
                ask = Ask { at: ask.at.max(more.at), deadline: ask.deadline.max(more.deadline) };
            }
            let began = StdInstant::now();
            let deadline = Instant::from_std(ask.deadline);
            let message = match attempt(&link, &sights, began, deadline).await {
                Ok(()) => Message::Current(began),
                Err(why) => Message::NotCurrent(why),
            };
            let done = matches!(message, Message::Current(_));
            if messages.send(message).await.is_err() {
                return;
            }
            if done || Instant::now() + RETRY >= deadline {
                break;
            }
            sleep(RETRY).await;
        }
    }
}

async fn attempt(link: &Link, sights: &Sights, began: StdInstant, deadline: Instant) -> Result<(), String> {
    let joined = link.join().await.map_err(|error| error.to_string())?;
    let present = match timeout_at(deadline, present(&joined)).await {
        Ok(Ok(present)) => present,
        Ok(Err(trouble)) => {
            match &trouble {
                Trouble::Silent(_) => link.suspect(&joined),
                Trouble::Status(status) if status.code == 401 => link.give_up(&joined),
                _ => {}
            }
            if matches!(diagnose(Resource::Policy, &trouble).0, Some(c) if c.reason == Reason::Unreachable) {
                link.failed();
            }
            return Err(format!("the API server was asked how new the view of this node is: {trouble}"));
        }
        Err(_) => return Err("the API server has not said in time how new the view of this node is".into()),
    };
    link.answered();
    let answered = Instant::now();
    let mut nudged = false;
    loop {
        let moved = sights.moved.notified();
        let behind: Vec<Resource> =
            KINDS.into_iter().filter(|kind| !is_current(*kind, sights, &present, &joined, began, answered)).collect();
        if behind.is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut nudged, true) {
            for kind in &behind {
                let seen = sights.of(*kind).seen();
                if !lives(&seen, &present, &joined, began) {
                    sights.of(*kind).nudge.notify_one();
                }
            }
        }
        if answered.elapsed() > COUNTS && behind.contains(&Resource::Policy) {
            let seen = sights.of(Resource::Policy).seen();
            if seen.up && !counts(&seen, &present) {
                sights.of(Resource::Policy).relist.notify_one();
            }
        }
        if Instant::now() >= deadline {
            let kinds: Vec<String> = behind.iter().map(ToString::to_string).collect();
            return Err(format!("what this node knows of {} may be old", kinds.join(", ")));
        }
        let _ = timeout_at(deadline.min(Instant::now() + LOOK), moved).await;
    }
}

/// The server's state as it was just now.
struct Present {
    version: Option<u64>,
    policies: Option<usize>,
    /// The answer came on a connection that all requests share.
    shared: bool,
}

async fn present(joined: &Joined) -> Result<Present, Trouble> {
    #[derive(Deserialize)]
    struct List {
        metadata: Metadata,
        #[serde(default)]
        items: Vec<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        #[serde(default)]
        resource_version: String,
        #[serde(default, rename = "continue")]
        next: String,
        remaining_item_count: Option<usize>,
    }
    let kind = Resource::Policy.api("v1");
    let parameters = kube::api::ListParams::default().limit(1);
    let request = Request::new(Raw::url_path(&kind, None)).list(&parameters);
    let request = request.map_err(|error| Trouble::from(kube::Error::BuildRequest(error)))?;
    let (version, text) = stream::get(&joined.client, request, PATIENCE).await?;
    let List { metadata, items } = serde_json::from_slice(&text)?;
    let policies = match (metadata.next.is_empty(), metadata.remaining_item_count) {
        (true, _) => Some(items.len()),
        (false, more) => more.map(|more| items.len() + more),
    };
    Ok(Present { version: metadata.resource_version.parse().ok(), policies, shared: version == http::Version::HTTP_2 })
}

fn is_current(
    kind: Resource,
    sights: &Sights,
    present: &Present,
    joined: &Joined,
    began: StdInstant,
    answered: Instant,
) -> bool {
    let seen = sights.of(kind).seen();
    if let (Some(seen), Some(present)) = (seen.version, present.version)
        && seen >= present
    {
        return true;
    }
    let told = answered.elapsed() >= SETTLES && seen.heard.is_none_or(|heard| heard.elapsed() >= SETTLES);
    let counted = kind != Resource::Policy || counts(&seen, present);
    seen.up && lives(&seen, present, joined, began) && told && counted
}

/// Has its watch shown a sign of life since?
fn lives(seen: &super::sight::Seen, present: &Present, joined: &Joined, began: StdInstant) -> bool {
    let heard = seen.heard.is_some_and(|heard| heard >= began);
    heard || present.shared && seen.shares == Some(joined.number)
}

fn counts(seen: &super::sight::Seen, present: &Present) -> bool {
    match (seen.count, present.policies) {
        (Some(seen), Some(present)) => seen == present,
        _ => true,
    }
}
