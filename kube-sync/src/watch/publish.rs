//! Writes a node's state into its NodePolicyStatus: the newest one, seldom, and never in anybody's way.
//!
//! The cost for the API server is one small write for each node and [`INTERVAL`] at most, however much happens. Where the resource is
//! not installed, or RBAC refuses, that is said once and tried again after a long while.

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
    condition::chain,
    link::{Joined, Link},
    pauses::jitter,
    raw::Raw,
    status::{NodeStatus, resource},
};
use crate::Resource;

/// Between two writes, at least.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// And up to so much more, so that nodes do not write together.
const JITTER: Duration = Duration::from_secs(4);
/// What does not change is written so often, which shows that the agent lives.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// The first pause after a failure; doubled each time.
const RETRY: Duration = Duration::from_secs(5);
/// The longest one while the API server fails.
const MAX_RETRY: Duration = Duration::from_secs(40);
/// The longest one where there is no such resource, or it is not ours to write.
const RARELY: Duration = Duration::from_secs(600);
/// One request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes what comes, until nothing can come any more.
pub(crate) async fn publish(mut newest: watch::Receiver<Option<NodeStatus>>, link: Arc<Link>, node: Arc<str>) {
    let mut writer = Writer { link, node, since: BTreeMap::new(), told: None, failures: 0 };
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
            // A DaemonSet's agents start together.
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
                sleep(INTERVAL + jitter(JITTER)).await;
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
    /// Whether each condition was fulfilled at the last write, and since when.
    since: BTreeMap<&'static str, (bool, Timestamp)>,
    /// What was said last of a failure.
    told: Option<String>,
    /// Since the last write.
    failures: u32,
}

impl Writer {
    /// Writes; a failure gives the pause after it.
    async fn write(&mut self, status: &NodeStatus) -> Result<(), Duration> {
        let now = Timestamp::now();
        let since = status.states().map(|state| {
            let fine = state.wrong.is_none();
            let before = self.since.get(state.kind).filter(|(was, _)| *was == fine);
            (state.kind, (fine, before.map_or(now, |(_, since)| *since)))
        });
        let since = BTreeMap::from(since);
        let value = status.value(|state| since.get(state.kind).map_or(now, |(_, since)| *since), now);
        let (longest, why) = match timeout(PATIENCE, self.send(&value)).await {
            Ok(Ok(())) => {
                (self.since, self.told, self.failures) = (since, None, 0);
                return Ok(());
            }
            Ok(Err(failure)) => failure,
            Err(_) => (MAX_RETRY, format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let pause = RETRY.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures += 1;
        if self.told.as_ref() != Some(&why) {
            tracing::info!("the NodePolicyStatus of this node is not written: {why}");
            self.told = Some(why);
        }
        Err(pause)
    }

    /// The error has the longest pause that makes sense after it.
    async fn send(&mut self, status: &Value) -> Result<(), (Duration, String)> {
        let Joined { client, .. } = self.link.join().await.map_err(|e| (MAX_RETRY, e.to_string()))?;
        let all = Api::<DynamicObject>::all_with(client.clone(), &resource());
        let patch = Patch::Merge(json!({"status": status}));
        let patched = async || all.patch_status(&self.node, &PatchParams::default(), &patch).await;
        match patched().await {
            Err(Error::Api(answer)) if answer.code == 404 => {}
            other => return other.map(drop).map_err(explain),
        }
        // Either the object or the whole resource is missing.
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
        Error::Api(answer) if answer.code == 404 => {
            (RARELY, "the API server has no such resource; install its CustomResourceDefinition if you want it".into())
        }
        Error::Api(answer) if answer.code == 403 => (RARELY, format!("RBAC refuses: {}", answer.message)),
        error => (MAX_RETRY, chain(&error)),
    }
}

/// The object goes with its node.
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
