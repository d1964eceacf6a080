//! The agent's loop without a cluster: takes objects from files and keeps the kernel in step with
//! them, until a signal. Enforcement stays when the loop ends.
//!
//! One thread does everything except reading files, because interfaces are those of the calling
//! thread's network namespace. Not here: reading files ([`super::files`]), noticing changes
//! ([`super::file_watch`]), and what this loop shares with the one in a cluster
//! ([`super::supervisor`]).

use std::{future::Future, path::PathBuf, sync::Arc};

use netpolc_target::NodeTarget;

use super::{
    Options, Pass, Passes,
    audit::Auditor,
    file_watch::Watch,
    files::{FileUpdate, Files},
    flows::Flows,
    metrics::Metrics,
    retry::Retry,
    supervisor::{Links, Supervisor},
};
use crate::network::Network;

/// Runs an agent until `stop` resolves, or for one pass.
///
/// # Errors
/// The kernel's tables cannot be read at the start, or the log of flows or Hubble's API cannot
/// be opened. Later
/// failures are reported, what is enforced stays, and the loop retries; with [`Passes::Once`] they
/// are in the result.
pub async fn serve(
    options: &Options,
    paths: &[PathBuf],
    metrics: Arc<Metrics>,
    host: impl NodeTarget,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Pass> {
    // The watch begins before the files are first read, so that no change is missed.
    let mut watch = Watch::new(paths);
    let mut files = Files::new(options.node.clone(), paths);
    let mut links = Links::open();
    let mut supervisor =
        Supervisor::new(options.node.clone(), options.pin_dir.clone(), metrics, host, network)?;
    supervisor.agent.set_default(options.by_default.clone());
    supervisor.agent.set_enforcement(options.enforcement);
    if options.passes == Passes::UntilStopped {
        supervisor.flows = Flows::wanted(options, &supervisor.metrics)?;
    }
    tokio::pin!(stop);
    files.read();
    let (mut retry, mut auditor) = (Retry::default(), Auditor::new(options.audit_interval));
    loop {
        supervisor.metrics.turned();
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(supervisor.pause()) => {}
            () = supervisor.flows.due() => if supervisor.take_flows() { continue },
            () = watch.changed() => {
                watch.debounce().await;
                watch.renew();
                retry.hasten();
                files.read();
            }
            update = files.next_update(supervisor.agent.cluster()) => {
                retry.hasten();
                let errors = update.errors;
                follow(&mut supervisor, update);
                if options.passes == Passes::Once {
                    supervisor.record(|_| {});
                    return Ok(supervisor.pass(errors));
                }
            }
            () = links.changed() => {
                supervisor.cover();
                links.debounce().await;
                retry.hasten();
                supervisor.follow(|agent| agent.refresh());
                supervisor.check();
            }
            () = retry.due(), if supervisor.waits() => {
                supervisor.follow(|agent| agent.refresh());
                retry.made();
            }
            due = auditor.due() => auditor.turn(due, &mut supervisor),
        }
        supervisor.note_unfound();
        supervisor.heartbeat();
        supervisor.record(|_| {});
        // These would become Events, which objects from files do not have.
        supervisor.take_aside();
        supervisor.take_conflicts();
        supervisor.take_found();
    }
    tracing::info!("the agent has stopped; enforcement stays in place (netpolc detach removes it)");
    Ok(Pass::default())
}

/// Enforces what was read from the files, or on_hold off where that may be incomplete.
fn follow<H: NodeTarget, N: Network>(supervisor: &mut Supervisor<H, N>, mut update: FileUpdate) {
    supervisor.set_problems(std::mem::take(&mut update.problems));
    supervisor.set_retained(update.merged.retained.iter().map(ToString::to_string).collect());
    if let Some(why) = update.refused {
        // Nothing is changed, not even by a retry, until the files name the node.
        supervisor.on_hold = true;
        supervisor.set_behind(why);
        return;
    }
    if supervisor.on_hold
        && let Some(input) = update.missing(supervisor.files.as_ref())
    {
        // The installed tables may come from objects in the part that cannot be read.
        supervisor.set_behind(format!(
            "{input} cannot be read; what is enforced stays as it is until then"
        ));
        return;
    }
    supervisor.on_hold = false;
    supervisor.files = Some(update.files());
    supervisor.follow(|agent| agent.update(update.merged.cluster));
    supervisor.flows.nodes(supervisor.agent.cluster());
}
