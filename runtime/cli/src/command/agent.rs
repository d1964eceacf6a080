//! `netpolc agent`: opens the target, and runs the agent until a signal. Not here: the agent itself
//! (`netpolc-agent`).

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use netpolc_agent::{
    network::Kernel,
    serve::{
        cluster_loop, file_loop,
        metrics::{Metrics, server},
        sole::Sole,
    },
};
use netpolc_kube_sync::watch::{self, Access, Lists};
use netpolc_target::NodeTarget;
use netpolc_target_ebpf::{Config, Connections, Ebpf, Mode, Moved, Tender};
use netpolc_target_flower::Software;
use netpolc_target_offload::Offload;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{
        agent::AgentTarget,
        request::{Agent, Source},
    },
    output::{self, Outcome},
};

/// Runs `netpolc agent`.
///
/// # Errors
/// The user is not root, there is no bpffs, another agent is running, or a thread cannot be
/// started; with `--once` also whatever prevents the kernel from being in step.
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

/// Raises the limit of file descriptors as far as possible: some nodes have more interfaces than
/// the usual limit of 1,024.
fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is written.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0
        || limit.rlim_cur >= limit.rlim_max
    {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, most = limit.rlim_max, "the limit of file descriptors could not be \
            raised");
    }
}

/// Makes all threads allocate from one arena. Otherwise each would keep for ever the memory that it
/// once needed, as for verifying programs.
fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread runs yet that could allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
    }
}

/// Opens the tables that are pinned, or creates new ones of the requested size.
fn open(options: &Agent) -> anyhow::Result<Ebpf> {
    let connections = Connections { budget: options.max_connections, ..Connections::default() };
    let mut config = Config { connections, mode: Mode::Quick, ..Config::default() };
    config.limits.endpoints = (options.max_pods + 1).next_power_of_two();
    let ebpf = Ebpf::open(&options.options.pin_dir, config)?;
    let tender = ebpf.tender()?;
    std::thread::Builder::new()
        .name("connections".into())
        .spawn(move || tend(tender))
        .context("the thread for connection tables could not be started")?;
    Ok(ebpf)
}

/// Resizes connection tables as needed, for as long as this process lives. This runs on a thread of
/// its own, because it waits for grace periods, for which policies must not wait.
fn tend(mut tender: Tender) {
    const CHECK_INTERVAL: Duration = Duration::from_secs(30);
    const RETRY_INTERVAL: Duration = Duration::from_secs(1);
    loop {
        let done = tender.tend().and_then(|moved| {
            for Moved { endpoint, family, before, now, lost } in moved {
                tracing::debug!(
                    endpoint = endpoint.get(),
                    ?family,
                    before,
                    now,
                    "the pod's connection table was resized"
                );
                if lost > 0 {
                    tracing::warn!(
                        endpoint = endpoint.get(),
                        ?family,
                        lost,
                        "some connections found no room in the pod's new connection table"
                    );
                }
            }
            tender.wait(CHECK_INTERVAL)
        });
        if let Err(error) = done {
            tracing::warn!(%error, "connection tables could not be resized, and stay as they are");
            std::thread::sleep(RETRY_INTERVAL);
        }
    }
}

fn with(options: &Agent, metrics: Arc<Metrics>, host: impl NodeTarget) -> anyhow::Result<Outcome> {
    if let Some(address) = options.metrics {
        let address = server::start(address, metrics.clone())
            .with_context(|| format!("--metrics-address {address} cannot be used"))?;
        tracing::info!(%address, "metrics are served");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime could not be started")?;
    let run = &options.options;
    let pass = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
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
            Source::Kubeconfig(path) => Access::Kubeconfig(path.clone().into()),
        };
        let source = watch::Options {
            access,
            node: Some(run.node.clone()),
            lists: Lists::Automatic,
            families: options.families,
        };
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
    use crate::cli::agent::{MAX_CONNECTIONS, MAX_PODS};

    #[test]
    fn where_nothing_is_asked_for_tables_have_their_usual_size() {
        assert_eq!(MAX_PODS + 1, Capacities::default().endpoints);
        assert_eq!(MAX_CONNECTIONS, Connections::default().budget);
    }
}
