//! Publishes a node's state in its NodePolicyStatus: only the latest value, rate-limited, and off
//! the hot path.
//!
//! The API server gets at most one small write for each node in every [`MIN_INTERVAL`], however
//! much happens. Where the resource is not installed, or RBAC denies the write, that is logged once
//! and retried after a long pause. Not here: what the state contains ([`super::status`]).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Error,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    backoff::jitter,
    condition::chain,
    link::{Joined, Link},
    raw::Raw,
    status::{NodeStatus, resource},
};
use crate::Resource;

/// The shortest interval between two writes.
pub const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// The random time that is added to every pause, so that nodes do not write together.
const JITTER: Duration = Duration::from_secs(4);
/// How often an unchanged state is written, to show that the agent is alive.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// The pause after the first failure; it is doubled each time.
const INITIAL_BACKOFF: Duration = Duration::from_secs(5);
/// The longest pause while the API server fails.
const MAX_BACKOFF: Duration = Duration::from_secs(40);
/// The longest pause where the resource does not exist, or RBAC denies the write.
const MAX_BACKOFF_UNAVAILABLE: Duration = Duration::from_secs(600);
/// How long one write may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes each new state, until the sender is dropped.
pub(crate) async fn publish(
    mut newest: watch::Receiver<Option<NodeStatus>>,
    link: Arc<Link>,
    node: Arc<str>,
) {
    let mut writer = Writer { link, node, since: BTreeMap::new(), logged: None, failures: 0 };
    let (mut written, mut heartbeat) = (None, Instant::now());
    let mut due = false;
    loop {
        if !due {
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return },
                () = sleep_until(heartbeat), if written.is_some() => due = true,
            }
        }
        if written.is_none() {
            // The agents of a DaemonSet start together, so their first writes are spread.
            sleep(jitter(JITTER)).await;
        }
        let Some(status) = newest.borrow_and_update().clone() else { continue };
        if !due && written.as_ref() == Some(&status) {
            continue;
        }
        match writer.write(&status).await {
            Ok(()) => {
                (written, heartbeat) = (Some(status), Instant::now() + HEARTBEAT + jitter(JITTER));
                due = false;
                sleep(MIN_INTERVAL + jitter(JITTER)).await;
            }
            Err(pause) => {
                due = true;
                sleep(pause + jitter(JITTER)).await;
            }
        }
    }
}

struct Writer {
    link: Arc<Link>,
    node: Arc<str>,
    /// Whether each condition was True at the last write, and since when.
    since: BTreeMap<&'static str, (bool, Timestamp)>,
    /// The failure that was logged last; None after a success.
    logged: Option<String>,
    /// How many attempts have failed since the last success.
    failures: u32,
}

impl Writer {
    /// Writes the state. The error is the pause after a failure.
    async fn write(&mut self, status: &NodeStatus) -> Result<(), Duration> {
        let now = Timestamp::now();
        let since = status.states().map(|state| {
            let fine = state.wrong.is_none();
            let before = self.since.get(state.kind).filter(|(was, _)| *was == fine);
            (state.kind, (fine, before.map_or(now, |(_, since)| *since)))
        });
        let since = BTreeMap::from(since);
        let value =
            status.value(|state| since.get(state.kind).map_or(now, |(_, since)| *since), now);
        let (longest, why) = match timeout(REQUEST_TIMEOUT, self.send(&value)).await {
            Ok(Ok(())) => {
                (self.since, self.logged, self.failures) = (since, None, 0);
                return Ok(());
            }
            Ok(Err(failure)) => failure,
            Err(_) => (
                MAX_BACKOFF,
                format!("the API server did not answer within {} s", REQUEST_TIMEOUT.as_secs()),
            ),
        };
        let pause = INITIAL_BACKOFF.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        if self.logged.as_ref() != Some(&why) {
            tracing::info!("the NodePolicyStatus of this node could not be written: {why}");
            self.logged = Some(why);
        }
        Err(pause)
    }

    /// Sends the state. The error holds the longest sensible pause and the reason.
    async fn send(&mut self, status: &Value) -> Result<(), (Duration, String)> {
        let Joined { client, .. } =
            self.link.join().await.map_err(|e| (MAX_BACKOFF, e.to_string()))?;
        let all = Api::<DynamicObject>::all_with(client.clone(), &resource());
        let patch = Patch::Merge(json!({"status": status}));
        let patched = async || all.patch_status(&self.node, &PatchParams::default(), &patch).await;
        match patched().await {
            Err(Error::Api(answer)) if answer.code == 404 => {}
            other => return other.map(drop).map_err(explain),
        }
        // Either the object or the whole resource is missing; creating the object tells which.
        let mut object = DynamicObject::new(&self.node, &resource());
        object.metadata.owner_references = owner(client, &self.node).await;
        match all.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return Err(explain(error)),
        }
        patched().await.map(drop).map_err(explain)
    }
}

fn explain(error: Error) -> (Duration, String) {
    match error {
        Error::Api(answer) if answer.code == 404 => (
            MAX_BACKOFF_UNAVAILABLE,
            "the API server has no such resource; to have it, install its CustomResourceDefinition"
                .into(),
        ),
        Error::Api(answer) if answer.code == 403 => {
            (MAX_BACKOFF_UNAVAILABLE, format!("RBAC denies it: {}", answer.message))
        }
        error => (MAX_BACKOFF, chain(&error)),
    }
}

/// The owner reference to the node, so that the object is deleted with it; None where the node
/// cannot be read.
async fn owner(
    client: Client,
    node: &str,
) -> Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>> {
    let kind = Resource::Node.api("v1");
    let found = Api::<Raw>::all_with(client, &kind).get(node).await.ok()?;
    Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        api_version: kind.api_version,
        kind: kind.kind,
        name: node.into(),
        uid: found.meta.uid?,
        ..Default::default()
    }])
}
