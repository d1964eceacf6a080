//! The loop around the agent: files in, kernel in step, until a signal. Enforcement stays when it
//! ends.
//!
//! One thread does everything but read files, because interfaces are those of the calling thread's
//! network namespace.

use std::{future::Future, path::PathBuf, sync::Arc};

use netpolc_target::NodeTarget;
use tokio::time::Instant;

use super::{
    file_watch::Watch,
    files::{Files, News},
    network::Network,
    supervisor::{INITIAL_BACKOFF, LINKS_SETTLE, Links, MAX_BACKOFF, Supervisor},
};
use crate::{
    metrics::Metrics,
    options::{Options, Pass, Passes},
};

/// Runs an agent until `stop` is ready, or for one pass.
///
/// # Errors
/// One pass: what failed. The loop itself reports failures, keeps what is enforced, and tries again.
pub async fn serve(
    options: &Options,
    paths: &[PathBuf],
    metrics: Arc<Metrics>,
    host: impl NodeTarget,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Pass> {
    // Before the first look, so that no change is missed.
    let mut watch = Watch::new(paths);
    let mut files = Files::new(options.node.clone(), paths);
    let mut links = Links::open();
    let mut supervisor = Supervisor::new(options.node.clone(), options.pin_dir.clone(), metrics, host, network)?;
    tokio::pin!(stop);
    files.read();
    let mut patience = INITIAL_BACKOFF;
    loop {
        let again = Instant::now() + patience;
        supervisor.metrics.turned();
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(supervisor.pause()) => {}
            () = watch.changed() => {
                watch.settle().await;
                watch.renew();
                patience = INITIAL_BACKOFF;
                files.read();
            }
            news = files.news(supervisor.agent.cluster()) => {
                patience = INITIAL_BACKOFF;
                let errors = news.errors;
                follow(&mut supervisor, news);
                if options.passes == Passes::Once {
                    supervisor.record(|_| {});
                    return Ok(supervisor.pass(errors));
                }
            }
            () = links.changed() => {
                supervisor.cover();
                tokio::time::sleep(LINKS_SETTLE).await;
                links.drain();
                patience = INITIAL_BACKOFF;
                supervisor.follow(|agent| agent.refresh());
                supervisor.check();
            }
            () = tokio::time::sleep_until(again), if supervisor.waits() => {
                patience = (patience * 2).min(MAX_BACKOFF);
                supervisor.follow(|agent| agent.refresh());
            }
        }
        supervisor.note_unfound();
        supervisor.beat();
        supervisor.record(|_| {});
        // Files have no Events.
        supervisor.take_aside();
    }
    tracing::info!("stopped; enforcement stays (netpolc detach removes it)");
    Ok(Pass::default())
}

/// Acts on what the files say.
fn follow<H: NodeTarget, N: Network>(supervisor: &mut Supervisor<H, N>, mut news: News) {
    supervisor.set_problems(std::mem::take(&mut news.problems));
    supervisor.set_kept(news.held.kept.iter().map(ToString::to_string).collect());
    if let Some(why) = news.refused {
        // Until something names the node nothing is changed, not by a retry either.
        supervisor.holds = true;
        supervisor.set_behind(why);
        return;
    }
    if supervisor.holds
        && let Some(input) = news.missing(supervisor.files.as_ref())
    {
        // What is enforced came from objects that may be in the part that cannot be read.
        supervisor.set_behind(format!("{input} cannot be read; what is enforced stays as it is until then"));
        return;
    }
    supervisor.holds = false;
    supervisor.files = Some(news.files());
    supervisor.follow(|agent| agent.update(news.held.cluster));
}
