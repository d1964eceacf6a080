//! Writes the condition of ClusterNetworkPolicies ([`super::acceptance`]) into their status: one
//! write for each generation of an object, however many agents there are.
//!
//! All agents see the same object and come to the same result, so any of them may write it, and no
//! leader has to be elected. Two things keep it at one write:
//!
//! - Each agent waits for a random time, and drops its turn as soon as its watch shows the
//!   condition that another one has written. The times are drawn as multicast protocols do it to
//!   suppress repeated answers: exponentially more agents wait long than short. So few have their
//!   turn before the first write has reached all others, whether there are 3 nodes or 10,000, and
//!   no agent has to know how many there are. A Lease would cost a write every few seconds for
//!   ever.
//! - Whoever has its turn reads the object again, and the patch names the resource version that was
//!   read. Of two agents that write at once the API server refuses the second.
//!
//! The patch is a JSON merge patch of the whole list of conditions, as it was read, with the own
//! one replaced. Server-side apply would keep the conditions of other writers only where the
//! definition calls the list a map, which is up to whoever has installed it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Error,
    api::{Patch, PatchParams},
    core::ApiResource,
};
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    acceptance::{Acceptance, Care, Conditions},
    backoff::jitter,
    condition::chain,
    convert::Item,
    link::Link,
    raw::Raw,
};
use crate::Resource;

/// The longest time that an agent waits for its turn.
const WINDOW: Duration = Duration::from_secs(10);
/// How steeply the density of turns grows over the window: its logarithm. With e^10 as many turns
/// at the end as at the beginning, 10,000 agents have about one turn in the first tenth.
const STEEPNESS: f64 = 10.0;
/// How many objects may wait until the window grows with them: where somebody applies hundreds at
/// once, the writes are spread.
const WINDOW_HOLDS: u32 = 50;
/// The shortest interval between two turns of one agent.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long one turn may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failure, before the next turn is drawn.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// By which name the API server records who wrote the condition.
const MANAGER: &str = "netpolc";

/// The kinds whose objects have conditions.
pub(crate) fn concerns(resource: Resource) -> bool {
    matches!(resource, Resource::Tier | Resource::AwsTier)
}

/// A kind, and an object's name.
type Key = (Resource, String);

/// A condition that this agent would write.
#[derive(Clone, Debug)]
struct Turn {
    at: Instant,
    api: ApiResource,
    uid: Option<String>,
    generation: i64,
    wanted: Acceptance,
    care: Care,
}

/// The conditions that are missing, as far as this agent has seen.
#[derive(Debug, Default)]
pub(crate) struct Acceptances {
    turns: Mutex<BTreeMap<Key, Turn>>,
    changed: Notify,
}

/// What has become of a turn.
enum Outcome {
    /// The condition is there, or nobody needs it any more.
    Done,
    /// Somebody else has changed the object meanwhile.
    Again,
    /// The API server does not let agents write conditions of this kind.
    Refused(String),
}

impl Acceptances {
    /// Notes an object as it was received, with what was found in it.
    pub fn note(&self, resource: Resource, api_version: &str, raw: &Raw, item: &Item, care: Care) {
        let (Some(name), Some(generation)) = (&raw.meta.name, raw.meta.generation) else { return };
        let key = (resource, name.clone());
        let wanted = Acceptance::of(item);
        let mut turns = self.lock();
        let before = turns.remove(&key);
        // Until the turn, the content matters if it did once.
        let care = before.as_ref().map_or(care, |turn| match turn.care {
            Care::Content => Care::Content,
            Care::Generation => care,
        });
        if !Conditions::of(raw).lack(&wanted, generation, care) {
            return;
        }
        let (_, version) = api_version.rsplit_once('/').unwrap_or_default();
        let window = WINDOW + WINDOW * turns.len() as u32 / WINDOW_HOLDS;
        let at = before.map_or_else(|| Instant::now() + draw(window), |turn| turn.at);
        let (api, uid) = (resource.api(version), raw.meta.uid.clone());
        turns.insert(key, Turn { at, api, uid, generation, wanted, care });
        self.changed.notify_one();
    }

    /// Gives a turn another time, unless the object has changed since.
    fn postpone(&self, key: Key, turn: Turn, pause: Duration) {
        let at = Instant::now() + pause + draw(WINDOW);
        self.lock().entry(key).or_insert(Turn { at, ..turn });
    }

    /// When the next turn is; None where there is none.
    fn due(&self) -> Option<Instant> {
        self.lock().values().map(|turn| turn.at).min()
    }

    fn take_due(&self) -> Option<(Key, Turn)> {
        let mut turns = self.lock();
        let now = Instant::now();
        let due = turns.iter().filter(|(_, turn)| turn.at <= now);
        let key = due.min_by_key(|(_, turn)| turn.at)?.0.clone();
        turns.remove_entry(&key)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Turn>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Draws a time within the window, whose density grows exponentially.
fn draw(window: Duration) -> Duration {
    let uniform = jitter(Duration::from_secs(1)).as_secs_f64();
    window.mul_f64((uniform * STEEPNESS.exp_m1()).ln_1p() / STEEPNESS)
}

/// Writes conditions in turn, for ever. A kind of which that is denied is left alone.
pub(crate) async fn write(waiting: Arc<Acceptances>, link: Arc<Link>) {
    let mut refused = BTreeSet::new();
    loop {
        match waiting.due() {
            None => waiting.changed.notified().await,
            Some(due) => tokio::select! {
                () = sleep_until(due) => {}
                // What has changed may be due earlier, or no longer needed.
                () = waiting.changed.notified() => continue,
            },
        }
        let Some((key, turn)) = waiting.take_due() else { continue };
        if refused.contains(&key.0) {
            continue;
        }
        match timeout(REQUEST_TIMEOUT, turn.make(&link, &key.1)).await {
            Ok(Ok(Outcome::Done)) => {}
            Ok(Ok(Outcome::Again)) => waiting.postpone(key, turn, Duration::ZERO),
            Ok(Ok(Outcome::Refused(why))) => {
                tracing::info!(
                    "the status of {} is not written: {why}; problems of these policies are in \
                    the NodePolicyStatus of each node and in Events",
                    key.0
                );
                refused.insert(key.0);
            }
            Ok(Err(why)) => {
                tracing::debug!(policy = key.1, why, "the status of a policy was not written");
                waiting.postpone(key, turn, RETRY_INTERVAL);
            }
            Err(_) => waiting.postpone(key, turn, RETRY_INTERVAL),
        }
        sleep(INTERVAL).await;
    }
}

impl Turn {
    /// Reads the object again, and writes the condition where it is still missing.
    async fn make(&self, link: &Link, name: &str) -> Result<Outcome, String> {
        let joined = link.join().await.map_err(|error| error.to_string())?;
        let objects = Api::<Raw>::all_with(joined.client, &self.api);
        let found = match objects.get(name).await {
            Ok(found) => found,
            Err(Error::Api(answer)) if answer.code == 404 => return Ok(Outcome::Done),
            Err(error) => return refused(error),
        };
        // The watch shows whatever has changed since, and the object gets another turn.
        let same = found.meta.uid == self.uid && found.meta.generation == Some(self.generation);
        let conditions = Conditions::of(&found);
        if !same || !conditions.lack(&self.wanted, self.generation, self.care) {
            return Ok(Outcome::Done);
        }
        let conditions = conditions.with(&self.wanted, self.generation, Timestamp::now());
        let patch = json!({"metadata": {"resourceVersion": found.meta.resource_version},
            "status": {"conditions": conditions}});
        let by = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match objects.patch_status(name, &by, &Patch::Merge(patch)).await {
            Ok(_) => Ok(Outcome::Done),
            Err(Error::Api(answer)) if answer.code == 409 => Ok(Outcome::Again),
            // Either the object is gone since, or its status cannot be written by itself.
            Err(Error::Api(answer)) if answer.code == 404 => Ok(match objects.get(name).await {
                Ok(_) => Outcome::Refused(
                    "their CustomResourceDefinition has no status subresource".into(),
                ),
                Err(_) => Outcome::Again,
            }),
            Err(error) => refused(error),
        }
    }
}

/// Tells the lack of rights, which stays, from failures that pass.
fn refused(error: Error) -> Result<Outcome, String> {
    match error {
        Error::Api(answer) if answer.code == 403 => {
            Ok(Outcome::Refused(format!("RBAC denies it: {}", answer.message)))
        }
        error => Err(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many agents there are, few have their turn before the first write is seen by all.
    #[test]
    fn few_turns_come_before_the_first_one_is_known() {
        let seen_after = Duration::from_millis(500);
        for agents in [1, 10, 100, 1_000, 10_000] {
            let mut early = 0;
            for _ in 0..20 {
                let turns: Vec<Duration> = (0..agents).map(|_| draw(WINDOW)).collect();
                assert!(turns.iter().all(|turn| *turn <= WINDOW));
                let first = *turns.iter().min().unwrap();
                early += turns.iter().filter(|turn| **turn < first + seen_after).count();
            }
            assert!(early <= 20 * 4, "{agents} agents: {early} turns for 20 objects");
        }
    }
}
