//! Finds out whether this node's view is current: whether the messages of the feeds reflect at
//! least the API server's state at some moment. The CNI gate asks before it reports that a new
//! pod's policies are enforced: a policy that was created before the pod must count, even right
//! after an outage.
//!
//! The server answers a list of one policy without a resource version from its newest state, and
//! names that state's version, which applies to all kinds. The feed of a kind is current in either
//! of two cases:
//!
//! - The feed has reached that version.
//! - The feed's watch has shown a sign of life since the question, and has then had time to deliver
//!   what the server knew before. This case is needed because versions advance with writes to any
//!   kind, so a kind that does not change never reaches the version. Signs of life are any event,
//!   an answer on the same connection, and the beginning of a new watch that is opened beside the
//!   old one.
//!
//! The feeds of namespaces, pods and every kind of policy must all be current. For policies the
//! server also says how many there are; where the feed has another number, it lists again.
//!
//! The answer takes the same channel as the changes, after all those that it vouches for. Not here:
//! who asks, and what waits for the answer.

use std::{sync::Arc, time::Instant as StdInstant};

use kube::core::{Request, Resource as _};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep, timeout_at},
};

use super::{
    collect::Message,
    condition::{Reason, diagnose},
    count::{self, Count},
    feed_state::FeedStates,
    link::{Joined, Link},
    raw::Raw,
    stream::Trouble,
};
use crate::Resource;

/// The kinds on which a pod's policies depend, as far as the server has them.
const KINDS: [Resource; 8] = [
    Resource::Namespace,
    Resource::Policy,
    Resource::Tier,
    Resource::AwsTier,
    Resource::GroupPolicy,
    Resource::Account,
    Resource::Group,
    Resource::Pod,
];
/// How long one request may take before its connection is suspected.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The pause after a failed attempt.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// How long a live watch may take to deliver what the server knew before.
const DELIVERY_TIME: Duration = Duration::from_millis(30);
/// How long a feed's number of policies may differ from the server's before it lists again.
const COUNT_GRACE: Duration = Duration::from_millis(300);
/// The longest interval between two checks of the feeds.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A request of the CNI gate for a current view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// The view must be as new as the server's state at this moment.
    pub at: StdInstant,
    /// The moment after which nobody waits for the answer.
    pub deadline: StdInstant,
}

/// Answers requests until nobody can ask any more; one answer serves everybody who has asked.
pub(crate) async fn answer(
    mut asks: mpsc::Receiver<Ask>,
    link: Arc<Link>,
    states: Arc<FeedStates>,
    messages: mpsc::Sender<Message>,
) {
    while let Some(mut ask) = asks.recv().await {
        loop {
            // Requests that arrived meanwhile are answered together: the view must be current as of
            // the latest, and attempts go on until the last deadline.
            while let Ok(more) = asks.try_recv() {
                ask = Ask { at: ask.at.max(more.at), deadline: ask.deadline.max(more.deadline) };
            }
            // The answer is about the moment before the server is asked: what it sends later is at
            // least as new.
            let began = StdInstant::now();
            let deadline = Instant::from_std(ask.deadline);
            let message = match attempt(&link, &states, began, deadline).await {
                Ok(()) => Message::Current(began),
                Err(why) => Message::NotCurrent(why),
            };
            let done = matches!(message, Message::Current(_));
            if messages.send(message).await.is_err() {
                return;
            }
            if done || Instant::now() + RETRY_INTERVAL >= deadline {
                break;
            }
            sleep(RETRY_INTERVAL).await;
        }
    }
}

/// Asks the server for its newest version, and waits until every feed is known to have reached it.
/// Returns the reason where that fails.
async fn attempt(
    link: &Link,
    states: &FeedStates,
    began: StdInstant,
    deadline: Instant,
) -> Result<(), String> {
    let joined = link.join().await.map_err(|error| error.to_string())?;
    let present = match timeout_at(deadline, present(&joined)).await {
        Ok(Ok(present)) => present,
        Ok(Err(trouble)) => {
            match &trouble {
                Trouble::Silent(_) => link.suspect(&joined),
                Trouble::Status(status) if status.code == 401 => link.give_up(&joined),
                _ => {}
            }
            let condition = diagnose(Resource::Policy, &trouble).0;
            if condition.is_some_and(|c| c.reason == Reason::Unreachable) {
                link.failed();
            }
            return Err(format!(
                "asking the API server how recent this node's view is has failed: {trouble}"
            ));
        }
        Err(_) => {
            return Err("the API server did not say in time how recent this node's view is".into());
        }
    };
    link.answered();
    let answered = Instant::now();
    let mut nudged = false;
    loop {
        // Taken before the feeds are checked, so that a change in between is not missed.
        let moved = states.moved.notified();
        let behind: Vec<Resource> = KINDS
            .into_iter()
            .filter(|kind| {
                let served = states.of(*kind).progress().served;
                !kind.is_optional() || states.families.has(*kind) && served != Some(false)
            })
            .filter(|kind| !is_current(*kind, states, &present, &joined, began, answered))
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        // A feed without a sign of life opens a new watch, whose beginning is one. Asking once is
        // enough.
        if !std::mem::replace(&mut nudged, true) {
            for kind in &behind {
                let seen = states.of(*kind).progress();
                if !lives(&seen, &present, &joined, began) {
                    states.of(*kind).nudge.notify_one();
                }
            }
        }
        // A number that goes on differing means that an event was lost, which only a new list
        // repairs.
        if answered.elapsed() > COUNT_GRACE && behind.contains(&Resource::Policy) {
            let seen = states.of(Resource::Policy).progress();
            if seen.up && !counts(&seen, &present) {
                states.of(Resource::Policy).relist.notify_one();
            }
        }
        if Instant::now() >= deadline {
            let kinds: Vec<String> = behind.iter().map(ToString::to_string).collect();
            return Err(format!("this node's view of {} may be stale", kinds.join(", ")));
        }
        let _ = timeout_at(deadline.min(Instant::now() + POLL_INTERVAL), moved).await;
    }
}

/// The server's answer about its newest state.
struct Present {
    /// The resource version; None where it is not a number.
    version: Option<u64>,
    /// How many policies there are; None where the server does not say.
    policies: Option<usize>,
    /// Whether the answer came on a connection that all requests share.
    shared: bool,
}

async fn present(joined: &Joined) -> Result<Present, Trouble> {
    let kind = Resource::Policy.api("v1");
    // One item suffices: the list's metadata carries the version and the number of the rest.
    let parameters = kube::api::ListParams::default().limit(1);
    let request = Request::new(Raw::url_path(&kind, None)).list(&parameters);
    let request = request.map_err(|error| Trouble::from(kube::Error::BuildRequest(error)))?;
    let (protocol, part) = count::ask(&joined.client, request, REQUEST_TIMEOUT).await?;
    let policies = match part.count {
        Count::Exactly(count) => Some(count),
        Count::AtLeast(_) => None,
    };
    Ok(Present { version: part.version, policies, shared: protocol == http::Version::HTTP_2 })
}

fn is_current(
    kind: Resource,
    states: &FeedStates,
    present: &Present,
    joined: &Joined,
    began: StdInstant,
    answered: Instant,
) -> bool {
    let seen = states.of(kind).progress();
    if let (Some(seen), Some(present)) = (seen.version, present.version)
        && seen >= present
    {
        return true;
    }
    // The feed is quiet: had there been anything to deliver from before the question, it would have
    // arrived by now.
    let told = answered.elapsed() >= DELIVERY_TIME
        && seen.heard.is_none_or(|heard| heard.elapsed() >= DELIVERY_TIME);
    let counted = kind != Resource::Policy || counts(&seen, present);
    seen.up && lives(&seen, present, joined, began) && told && counted
}

/// Whether the feed's watch has shown a sign of life since `began`.
fn lives(
    seen: &super::feed_state::Progress,
    present: &Present,
    joined: &Joined,
    began: StdInstant,
) -> bool {
    let heard = seen.heard.is_some_and(|heard| heard >= began);
    heard || present.shared && seen.shares == Some(joined.number)
}

/// Whether the feed has as many policies as the server; true where either number is not known.
fn counts(seen: &super::feed_state::Progress, present: &Present) -> bool {
    match (seen.count, present.policies) {
        (Some(seen), Some(present)) => seen == present,
        _ => true,
    }
}
