//! Removes the startup taint from the agent's node, once: new nodes that have it from the start get
//! no pods before the agent enforces policies.
//!
//! Not here: when the taint is removed, which the agent decides, and who sets it, which is whoever
//! creates nodes.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Error,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{backoff::jitter, condition::chain, link::Link};
use crate::Resource;

/// The shortest pause between attempts; up to as much again is added at random.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until a taint's key is given, and removes the taint from `node`; retried until it is gone.
pub(crate) async fn remove(
    mut key: watch::Receiver<Option<String>>,
    link: Arc<Link>,
    node: Arc<str>,
) {
    let Ok(key) = key.wait_for(Option::is_some).await.map(|key| key.clone().unwrap_or_default())
    else {
        return;
    };
    let mut logged = None;
    loop {
        let why = match timeout(ATTEMPT_TIMEOUT, attempt(&key, &link, &node)).await {
            Ok(Ok(found)) => {
                if found {
                    tracing::info!(
                        taint = key,
                        "the startup taint was removed from the node; pods may be scheduled"
                    );
                }
                return;
            }
            Ok(Err(why)) => why,
            Err(_) => {
                format!("the API server did not answer within {} s", ATTEMPT_TIMEOUT.as_secs())
            }
        };
        if logged.as_ref() != Some(&why) {
            tracing::warn!(
                taint = key,
                "the startup taint could not be removed from the node and is retried: {why}"
            );
            logged = Some(why);
        }
        sleep(RETRY_INTERVAL + jitter(RETRY_INTERVAL)).await;
    }
}

/// Makes one attempt; returns whether the taint was there.
async fn attempt(key: &str, link: &Link, node: &str) -> Result<bool, String> {
    let joined = link.join().await.map_err(|error| error.to_string())?;
    let nodes = Api::<DynamicObject>::all_with(joined.client, &Resource::Node.api("v1"));
    let found = nodes.get(node).await.map_err(explain)?;
    let Some(taints) = found.data["spec"]["taints"].as_array() else { return Ok(false) };
    let rest: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != key).collect();
    if rest.len() == taints.len() {
        return Ok(false);
    }
    // The patch names the version that was read, so that it fails if somebody else has changed the
    // taints meanwhile, and none of theirs is lost.
    let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": {"taints": rest}});
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(explain)?;
    Ok(true)
}

fn explain(error: Error) -> String {
    match error {
        Error::Api(answer) => answer.message,
        error => chain(&error),
    }
}
