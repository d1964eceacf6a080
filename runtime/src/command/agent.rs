//! `netpolc agent`: opens what is pinned, and serves until a signal.

use anyhow::Context;
use netpolc_kube_sync::watch::{self, Access, Lists};
use netpolc_target_ebpf::{Config, Ebpf};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    agent::{host::Kernel, kubernetes, serve::serve},
    cli::resolve::{Agent, Source},
    output::Outcome,
};

/// Runs the command.
///
/// # Errors
/// No root, no bpffs, another agent, and with `--once` whatever kept the kernel from being in step.
pub fn run(options: &Agent) -> anyhow::Result<Outcome> {
    super::needs_root("the agent")?;
    let host = Ebpf::open(&options.pin_dir, Config::default())?;
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
            Source::Files(files) => return serve(options, files, host, Kernel::new(), stop).await,
            Source::InCluster => Access::InCluster,
            Source::Kubeconfig(path) => Access::Kubeconfig(path.clone()),
        };
        let source = watch::Options { access, node: Some(options.node.clone()), lists: Lists::Automatic };
        kubernetes::serve(options, source, host, Kernel::new(), stop).await
    })
}
