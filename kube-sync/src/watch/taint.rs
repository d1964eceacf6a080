//! Takes the startup taint off the own node, once: new nodes that carry it from the start take no
//! pods before the agent enforces.
//!
//! Not here: when that is (the agent says), who puts the taint there (whoever makes nodes).

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

use super::{condition::chain, link::Link, pauses::jitter};
use crate::Resource;

/// Pause between attempts, and up to as much more.
const RETRY: Duration = Duration::from_secs(2);
/// One attempt.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until a taint's key is given, and removes it from `node`; tried until it is not there.
pub(crate) async fn remove(mut key: watch::Receiver<Option<String>>, link: Arc<Link>, node: Arc<str>) {
    let Ok(key) = key.wait_for(Option::is_some).await.map(|key| key.clone().unwrap_or_default()) else { return };
    let mut told = None;
    loop {
        let why = match timeout(PATIENCE, attempt(&key, &link, &node)).await {
            Ok(Ok(found)) => {
                if found {
                    tracing::info!(taint = key, "removed from the node: pods may come");
                }
                return;
            }
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        if told.as_ref() != Some(&why) {
            tracing::warn!(taint = key, "could not be removed from the node, tried again: {why}");
            told = Some(why);
        }
        sleep(RETRY + jitter(RETRY)).await;
    }
}

/// Was it there?
async fn attempt(key: &str, link: &Link, node: &str) -> Result<bool, String> {
    let joined = link.join().await.map_err(|error| error.to_string())?;
    let nodes = Api::<DynamicObject>::all_with(joined.client, &Resource::Node.api("v1"));
    let found = nodes.get(node).await.map_err(explain)?;
    let Some(taints) = found.data["spec"]["taints"].as_array() else { return Ok(false) };
    let rest: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != key).collect();
    if rest.len() == taints.len() {
        return Ok(false);
    }
    // With the version that was read: others write taints too, and none of theirs may be lost.
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
