//! The loop around the agent: files in, kernel in step, until a signal. Enforcement stays when it
//! ends.
//!
//! One thread does everything but read files, because interfaces are those of the calling thread's
//! network namespace.

use std::{future::Future, path::PathBuf, sync::Arc};

use tokio::time::Instant;

use super::{
    files::{Files, News},
    host::{Enforcer, Network},
    keeper::{Keeper, LINKS_SETTLE, Links, MAX_PATIENCE, PATIENCE},
    watch::Watch,
};
use crate::{
    cli::resolve::{Agent as Options, Passes},
    metrics::Metrics,
    output::Outcome,
};

/// Runs an agent until `stop` is ready, or for one pass.
///
/// # Errors
/// One pass: what failed. The loop itself reports failures, keeps what is enforced, and tries again.
pub async fn serve(
    options: &Options,
    paths: &[PathBuf],
    metrics: Arc<Metrics>,
    host: impl Enforcer,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    // Before the first look, so that no change is missed.
    let mut watch = Watch::new(paths);
    let mut files = Files::new(options.node.clone(), paths);
    let mut links = Links::open();
    let mut keeper = Keeper::new(options.node.clone(), options.pin_dir.clone(), metrics, host, network)?;
    tokio::pin!(stop);
    files.read();
    let mut patience = PATIENCE;
    loop {
        let again = Instant::now() + patience;
        keeper.metrics.turned();
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(keeper.pause()) => {}
            () = watch.changed() => {
                watch.settle().await;
                watch.renew();
                patience = PATIENCE;
                files.read();
            }
            news = files.news(keeper.agent.cluster()) => {
                patience = PATIENCE;
                let outcome = follow(&mut keeper, news);
                if options.passes == Passes::Once {
                    keeper.record(|_| {});
                    return Ok(outcome.and(keeper.outcome()?));
                }
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
        // Files have no Events.
        keeper.take_aside();
    }
    tracing::info!("stopped; enforcement stays (netpolc detach removes it)");
    Ok(Outcome::Fine)
}

/// Acts on what the files say.
fn follow<H: Enforcer, N: Network>(keeper: &mut Keeper<H, N>, mut news: News) -> Outcome {
    let outcome = news.outcome;
    keeper.set_problems(std::mem::take(&mut news.problems));
    keeper.set_kept(news.held.kept.iter().map(ToString::to_string).collect());
    if let Some(why) = news.refused {
        // Until something names the node nothing is changed, not by a retry either.
        keeper.holds = true;
        keeper.set_behind(why);
        return outcome;
    }
    if keeper.holds
        && let Some(input) = news.missing(keeper.files.as_ref())
    {
        // What is enforced came from objects that may be in the part that cannot be read.
        keeper.set_behind(format!("{input} cannot be read; what is enforced stays as it is until then"));
        return outcome;
    }
    keeper.holds = false;
    keeper.files = Some(news.files());
    keeper.follow(|agent| agent.update(news.held.cluster));
    outcome
}
