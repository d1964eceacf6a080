//! Writes a node's state into its NodePolicyStatus: the newest one, seldom, and never in anybody's way.
//!
//! The cost for the API server is one small write for each node and [`INTERVAL`] at most, however much happens. Where the resource is
//! not installed, or RBAC refuses, that is said once and tried again after a long while.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

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
    access::Access,
    condition::chain,
    raw::Raw,
    resource::Resource,
    status::{NodeStatus, resource},
};

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
pub(crate) async fn publish(mut newest: watch::Receiver<Option<NodeStatus>>, access: Access, node: Arc<str>) {
    let mut writer = Writer { access, node, client: None, since: None, told: None, failures: 0 };
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
    access: Access,
    node: Arc<str>,
    client: Option<Client>,
    /// Whether it was in step at the last write, and since when.
    since: Option<(bool, Timestamp)>,
    /// What was said last of a failure.
    told: Option<String>,
    /// Since the last write.
    failures: u32,
}

impl Writer {
    /// Writes; a failure gives the pause after it.
    async fn write(&mut self, status: &NodeStatus) -> Result<(), Duration> {
        let now = Timestamp::now();
        let in_step = status.behind.is_none();
        let since = self.since.filter(|(was, _)| *was == in_step).map_or(now, |(_, since)| since);
        let value = status.value(since, now);
        let (longest, why) = match timeout(PATIENCE, self.send(&value)).await {
            Ok(Ok(())) => {
                (self.since, self.told, self.failures) = (Some((in_step, since)), None, 0);
                return Ok(());
            }
            Ok(Err(failure)) => failure,
            Err(_) => (MAX_RETRY, format!("no answer within {} s", PATIENCE.as_secs())),
        };
        self.client = None;
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
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = self.access.client().await.map_err(|e| (MAX_RETRY, e.to_string()))?;
                self.client.insert(client).clone()
            }
        };
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

/// A random part of `most`.
fn jitter(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    most.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}
