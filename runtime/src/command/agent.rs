//! `netpolc agent`: opens the target, and serves until a signal.

use std::sync::Arc;

use anyhow::Context;
use netpolc_kube_sync::watch::{self, Access, Lists};
use netpolc_target_ebpf::{Config, Ebpf};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    agent::{
        host::{Enforcer, Kernel},
        kubernetes,
        offload::Offload,
        serve::serve,
        software::Software,
    },
    cli::{
        raw::AgentTarget,
        resolve::{Agent, Source},
    },
    metrics::{Metrics, server},
    output::Outcome,
};

/// Runs the command.
///
/// # Errors
/// No root, no bpffs, another agent, and with `--once` whatever kept the kernel from being in step.
pub fn run(options: &Agent) -> anyhow::Result<Outcome> {
    super::needs_root("the agent")?;
    let metrics = Metrics::new(options.pin_dir.clone());
    let ebpf = || Ebpf::open(&options.pin_dir, Config::default());
    match options.target {
        AgentTarget::Auto => with(options, metrics, Offload::new(ebpf()?)),
        AgentTarget::Ebpf => with(options, metrics, ebpf()?),
        AgentTarget::Flower => with(options, metrics, Software::open()?),
    }
}

fn with(options: &Agent, metrics: Arc<Metrics>, host: impl Enforcer) -> anyhow::Result<Outcome> {
    if let Some(address) = options.metrics {
        let address =
            server::start(address, metrics.clone()).with_context(|| format!("--metrics-address {address}"))?;
        tracing::info!(%address, "metrics");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let access = match &options.source {
            Source::Files(files) => return serve(options, files, metrics, host, Kernel::new(), stop).await,
            Source::InCluster => Access::InCluster,
            Source::Kubeconfig(path) => Access::Kubeconfig(path.clone()),
        };
        let source = watch::Options { access, node: Some(options.node.clone()), lists: Lists::Automatic };
        kubernetes::serve(options, source, metrics, host, Kernel::new(), stop).await
    })
}
