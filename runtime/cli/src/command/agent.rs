//! `netpolc agent`: opens the target, and serves until a signal.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use netpolc_agent::{
    cluster_loop, file_loop,
    metrics::{Metrics, server},
    network::Kernel,
    sole::Sole,
};
use netpolc_kube_sync::watch::{self, Access, Lists};
use netpolc_target::NodeTarget;
use netpolc_target_ebpf::{Config, Connections, Ebpf, Mode, Moved, Tender};
use netpolc_target_flower::Software;
use netpolc_target_offload::Offload;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{
        raw::AgentTarget,
        request::{Agent, Source},
    },
    output::{self, Outcome},
};

/// Runs the command.
///
/// # Errors
/// No root, no bpffs, another agent, and with `--once` whatever kept the kernel from being in step.
pub fn run(options: &Agent) -> anyhow::Result<Outcome> {
    output::needs_root("the agent")?;
    share_memory();
    let _sole = Sole::claim()?;
    raise_descriptors();
    let metrics = Metrics::new(options.options.pin_dir.clone());
    let ebpf = || open(options);
    match options.target {
        AgentTarget::Auto => with(options, metrics, Offload::new(ebpf()?)),
        AgentTarget::Ebpf => with(options, metrics, ebpf()?),
        AgentTarget::Flower => with(options, metrics, Software::open()?),
    }
}

/// Lets this process have as many descriptors as it may: the usual 1,024 are less than some nodes have interfaces.
fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is written.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 || limit.rlim_cur >= limit.rlim_max {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, most = limit.rlim_max, "the limit of descriptors stays as low as it is");
    }
}

/// Lets threads share what they allocate from: each would keep what it needed once, as for checking
/// programs, for ever.
fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread runs yet that could allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
}

/// The tables: those that are pinned, or new ones of the size that was asked for.
fn open(options: &Agent) -> anyhow::Result<Ebpf> {
    let connections = Connections { budget: options.max_connections, ..Connections::default() };
    let mut config = Config { connections, mode: Mode::Quick, ..Config::default() };
    config.limits.endpoints = (options.max_pods + 1).next_power_of_two();
    let ebpf = Ebpf::open(&options.options.pin_dir, config)?;
    let tender = ebpf.tender()?;
    std::thread::Builder::new().name("connections".into()).spawn(move || tend(tender)).context("start a thread")?;
    Ok(ebpf)
}

/// Gives tables of connections the size that they need, as long as this process lives. In a thread
/// of its own: it waits for grace periods, and policies wait for nothing.
fn tend(mut tender: Tender) {
    const LOOK: Duration = Duration::from_secs(30);
    const AGAIN: Duration = Duration::from_secs(1);
    loop {
        let done = tender.tend().and_then(|moved| {
            for Moved { endpoint, family, before, now, lost } in moved {
                tracing::debug!(
                    endpoint = endpoint.get(),
                    ?family,
                    before,
                    now,
                    "the pod's table of connections has another size"
                );
                if lost > 0 {
                    tracing::warn!(
                        endpoint = endpoint.get(),
                        ?family,
                        lost,
                        "connections found no place in the pod's new table"
                    );
                }
            }
            tender.wait(LOOK)
        });
        if let Err(error) = done {
            tracing::warn!(%error, "tables of connections stay as they are");
            std::thread::sleep(AGAIN);
        }
    }
}

fn with(options: &Agent, metrics: Arc<Metrics>, host: impl NodeTarget) -> anyhow::Result<Outcome> {
    if let Some(address) = options.metrics {
        let address =
            server::start(address, metrics.clone()).with_context(|| format!("--metrics-address {address}"))?;
        tracing::info!(%address, "metrics");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let run = &options.options;
    let pass = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let access = match &options.source {
            Source::Files(files) => {
                return file_loop::serve(run, files, metrics, host, Kernel::new(), stop).await;
            }
            Source::InCluster => Access::InCluster,
            Source::Kubeconfig(path) => Access::Kubeconfig(path.clone()),
        };
        let source = watch::Options { access, node: Some(run.node.clone()), lists: Lists::Automatic };
        cluster_loop::serve(run, source, metrics, host, Kernel::new(), stop).await
    })?;
    pass.notices.iter().for_each(output::complain);
    match pass.failure {
        Some(failure) => anyhow::bail!("{failure}"),
        None => Ok(Outcome::of_problems(pass.errors)),
    }
}

#[cfg(test)]
mod tests {
    use netpolc_target_ebpf::Capacities;

    use super::*;
    use crate::cli::raw::{MAX_CONNECTIONS, MAX_PODS};

    #[test]
    fn where_nothing_is_asked_for_tables_have_their_usual_size() {
        assert_eq!(MAX_PODS + 1, Capacities::default().endpoints);
        assert_eq!(MAX_CONNECTIONS, Connections::default().budget);
    }
}
