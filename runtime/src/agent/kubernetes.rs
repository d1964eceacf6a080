//! The loop around the agent in a cluster: an API server's objects in, kernel in step, until a signal.
//!
//! The watch runs on a thread of its own; this loop's thread does everything else, because interfaces are those of the
//! calling thread's network namespace. What is enforced never depends on the server being there: until every first list is
//! complete nothing is changed at all, and later only by changes that the server tells of.

use std::{collections::BTreeSet, future::Future, sync::Arc};

use netpolc_kube_sync::watch::{self, Resource, Update, Watch};
use tokio::time::Instant;

use super::{
    host::{Enforcer, Network},
    keeper::{BEAT, Keeper, LINKS_SETTLE, Links, MAX_PATIENCE, PATIENCE},
};
use crate::{
    cli::resolve::{Agent as Options, Passes},
    metrics::Metrics,
    output::Outcome,
};

/// Runs an agent until `stop` is ready, or for one pass.
///
/// # Errors
/// The way to the server makes no sense, or the kernel's tables cannot be read; in one pass, what failed. The loop itself
/// reports failures, keeps what is enforced, and tries again.
pub async fn serve(
    options: &Options,
    source: watch::Options,
    metrics: Arc<Metrics>,
    host: impl Enforcer,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    let mut links = Links::open();
    let mut keeper = Keeper::new(options.node.clone(), options.pin_dir.clone(), metrics, host, network)?;
    // Also where the target holds nothing yet: a part of the cluster is not what policies speak of.
    keeper.holds = true;
    let mut watch = Watch::start(source)?;
    keeper.set_behind(waiting(watch.incomplete()));
    tokio::pin!(stop);
    let mut patience = PATIENCE;
    // Kept from turn to turn: what happens meanwhile may bring it closer, and never puts it off.
    let mut again = Instant::now() + patience;
    loop {
        let record = keeper.record_due().map(Instant::from_std);
        keeper.metrics.turned();
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(BEAT) => {}
            update = watch.next(keeper.agent.cluster()) => {
                (patience, again) = (PATIENCE, again.min(Instant::now() + PATIENCE));
                match update {
                    Update::First(cluster) => {
                        keeper.holds = false;
                        tracing::info!(pods = cluster.pods.len(), policies = cluster.policies.len(), "the cluster is known");
                        keeper.follow(|agent| agent.update(cluster));
                        if options.passes == Passes::Once {
                            keeper.set_problems(watch.problems().map(ToString::to_string).collect());
                            keeper.record();
                            return keeper.outcome();
                        }
                    }
                    Update::Changes(changes) => {
                        if !changes.is_empty() {
                            keeper.metrics.arrived("all", changes.len() as u64);
                            keeper.follow(|agent| agent.advance(changes));
                        }
                        if keeper.holds {
                            keeper.set_behind(waiting(watch.incomplete()));
                        }
                    }
                }
                if watch.take_news() {
                    let conditions = watch.conditions().map(ToString::to_string);
                    keeper.set_problems(conditions.chain(watch.problems().map(ToString::to_string)).collect());
                }
            }
            () = links.changed() => {
                tokio::time::sleep(LINKS_SETTLE).await;
                links.drain();
                (patience, again) = (PATIENCE, again.min(Instant::now() + PATIENCE));
                keeper.follow(|agent| agent.refresh());
            }
            () = tokio::time::sleep_until(again), if keeper.waits() => {
                keeper.follow(|agent| agent.refresh());
                patience = (patience * 2).min(MAX_PATIENCE);
                again = Instant::now() + patience;
            }
            () = tokio::time::sleep_until(record.unwrap_or(again)), if record.is_some() => keeper.record(),
        }
    }
    keeper.record();
    tracing::info!("stopped; enforcement stays (netpolc detach removes it)");
    Ok(Outcome::Fine)
}

/// What is said until the cluster is known.
fn waiting(incomplete: &BTreeSet<Resource>) -> String {
    let kinds: Vec<String> = incomplete.iter().map(ToString::to_string).collect();
    format!("waiting for the first list of {}; what is enforced stays as it is until then", kinds.join(", "))
}
