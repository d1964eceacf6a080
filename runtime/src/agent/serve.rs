//! The loop around the agent: files in, kernel in step, until a signal. Enforcement stays when it ends.
//!
//! One thread does everything, because interfaces are those of the calling thread's network namespace.

use std::{future::Future, path::PathBuf, sync::Arc};

use netpolc_kube_sync::{Loaded, Severity};
use netpolc_policy::Cluster;
use tokio::time::Instant;

use super::{
    host::{Enforcer, Network},
    keeper::{BEAT, Keeper, LINKS_SETTLE, Links, MAX_PATIENCE, PATIENCE},
    watch::Watch,
};
use crate::{
    cli::resolve::{Agent as Options, Passes},
    input,
    metrics::Metrics,
    output::Outcome,
};

/// Runs an agent until `stop` is ready, or for one pass.
///
/// # Errors
/// One pass: what failed. The loop itself reports failures, keeps what is enforced, and tries again.
pub async fn serve(
    options: &Options,
    files: &[PathBuf],
    metrics: Arc<Metrics>,
    host: impl Enforcer,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    // Before the first look, so that no change is missed.
    let mut watch = Watch::new(files);
    let mut links = Links::open();
    let mut keeper = Keeper::new(options.node.clone(), options.pin_dir.clone(), metrics, host, network)?;
    let outcome = reload(&mut keeper, files);
    keeper.record(|_| {});
    if options.passes == Passes::Once {
        return Ok(outcome.and(keeper.outcome()?));
    }
    tokio::pin!(stop);
    let mut patience = PATIENCE;
    loop {
        let again = Instant::now() + patience;
        keeper.metrics.turned();
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(BEAT) => {}
            () = watch.changed() => {
                watch.settle().await;
                patience = PATIENCE;
                reload(&mut keeper, files);
            }
            () = links.changed() => {
                keeper.cover();
                tokio::time::sleep(LINKS_SETTLE).await;
                links.drain();
                patience = PATIENCE;
                keeper.follow(|agent| agent.refresh());
                keeper.check();
            }
            () = tokio::time::sleep_until(again), if keeper.waits() => {
                patience = (patience * 2).min(MAX_PATIENCE);
                keeper.follow(|agent| agent.refresh());
            }
        }
        keeper.note_unfound();
        keeper.beat();
        keeper.record(|_| {});
    }
    tracing::info!("stopped; enforcement stays (netpolc detach removes it)");
    Ok(Outcome::Fine)
}

/// Loads the files and acts on them.
fn reload<H: Enforcer, N: Network>(keeper: &mut Keeper<H, N>, files: &[PathBuf]) -> Outcome {
    let loaded = input::load(files);
    keeper.set_problems(loaded.problems.iter().map(input::line).collect());
    let errors = loaded.problems.iter().filter(|p| p.severity == Severity::Error).count();
    let outcome = Outcome::of_problems(errors);
    if keeper.holds && !loaded.incomplete.is_empty() {
        // What is enforced came from objects that may be in the part that cannot be read.
        let what = format!("{} cannot be read; what is enforced stays as it is until then", loaded.incomplete[0]);
        keeper.set_behind(what);
        return outcome;
    }
    keeper.holds = false;
    let cluster = keeping(loaded, keeper.agent.cluster());
    keeper.follow(|agent| agent.update(cluster));
    outcome
}

/// The loaded objects; where a part of the input could not be read, also those objects that were there
/// before and are not now: they may be in that part (S61).
pub fn keeping(loaded: Loaded, before: &Cluster) -> Cluster {
    let mut cluster = loaded.cluster;
    if !loaded.incomplete.is_empty() {
        fn keep<K: Ord + Clone, V: Clone>(
            now: &mut std::collections::BTreeMap<K, V>,
            before: &std::collections::BTreeMap<K, V>,
        ) {
            for (key, value) in before {
                now.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        keep(&mut cluster.namespaces, &before.namespaces);
        keep(&mut cluster.pods, &before.pods);
        keep(&mut cluster.policies, &before.policies);
        keep(&mut cluster.nodes, &before.nodes);
    }
    cluster
}
