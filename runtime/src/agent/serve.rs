//! The loop around the agent: files in, kernel in step, until a signal. Enforcement stays when it ends.
//!
//! One thread does everything, because interfaces are those of the calling thread's network namespace.

use std::{
    future::Future,
    io,
    os::fd::{AsRawFd, RawFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use netpolc_kube_sync::{Loaded, Severity};
use netpolc_policy::Cluster;
use netpolc_table::{Origin, TableId};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use super::{
    Agent, Error, Report,
    host::{Enforcer, Network},
    record::Record,
    watch::Watch,
};
use crate::{
    cli::resolve::{Agent as Options, Passes},
    input,
    net::{links, netlink},
    output::Outcome,
};

/// The first pause before something that failed, or was not found, is tried again; doubled each time.
const PATIENCE: Duration = Duration::from_millis(50);
/// The longest pause.
const MAX_PATIENCE: Duration = Duration::from_secs(5);
/// The kernel tells of each link several times while it is set up.
const LINKS_SETTLE: Duration = Duration::from_millis(2);

/// Runs an agent until `stop` is ready, or for one pass.
///
/// # Errors
/// One pass: what failed. The loop itself reports failures, keeps what is enforced, and tries again.
pub async fn serve(
    options: &Options,
    host: impl Enforcer,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Outcome> {
    // Before the first look, so that no change is missed.
    let mut watch = Watch::new(&options.from);
    let mut links = Links::open();
    let mut service = Service {
        holds: host.holds()?,
        agent: Agent::new(options.node.clone(), host, network)?,
        options,
        problems: vec![],
        outcome: Outcome::Fine,
        behind: None,
    };
    service.reload();
    if options.passes == Passes::Once {
        return service.once();
    }
    tokio::pin!(stop);
    let mut patience = PATIENCE;
    loop {
        let again = Instant::now() + patience;
        let waits = service.behind.is_some() || !service.agent.missing().is_empty();
        tokio::select! {
            () = &mut stop => break,
            () = watch.changed() => {
                watch.settle().await;
                patience = PATIENCE;
                service.reload();
            }
            () = links.changed() => {
                tokio::time::sleep(LINKS_SETTLE).await;
                links.drain();
                patience = PATIENCE;
                service.follow(|agent| agent.refresh());
            }
            () = tokio::time::sleep_until(again), if waits => {
                patience = (patience * 2).min(MAX_PATIENCE);
                service.follow(|agent| agent.refresh());
            }
        }
    }
    tracing::info!("stopped; enforcement stays (netpolc detach removes it)");
    Ok(Outcome::Fine)
}

struct Service<'a, H, N> {
    agent: Agent<H, N>,
    options: &'a Options,
    /// The target held tables before this agent's first update.
    holds: bool,
    problems: Vec<String>,
    outcome: Outcome,
    behind: Option<String>,
}

impl<H: Enforcer, N: Network> Service<'_, H, N> {
    fn reload(&mut self) {
        let loaded = input::load(&self.options.from);
        let problems: Vec<String> = loaded.problems.iter().map(input::line).collect();
        for problem in problems.iter().filter(|p| !self.problems.contains(p)) {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
        let errors = loaded.problems.iter().filter(|p| p.severity == Severity::Error).count();
        self.outcome = Outcome::of_problems(errors);
        if self.holds && !loaded.incomplete.is_empty() {
            // What is enforced came from objects that may be in the part that cannot be read.
            let what = format!("{} cannot be read; what is enforced stays as it is until then", loaded.incomplete[0]);
            tracing::error!("{what}");
            self.behind = Some(what);
            self.record();
            return;
        }
        self.holds = false;
        let cluster = keeping(loaded, self.agent.cluster());
        self.follow(|agent| agent.update(cluster));
    }

    fn follow(&mut self, act: impl FnOnce(&mut Agent<H, N>) -> Result<Report, Error>) {
        if self.holds {
            return;
        }
        match act(&mut self.agent) {
            Ok(report) => {
                let was_behind = self.behind.take().is_some();
                if report.writes == 0 && !was_behind {
                    return;
                }
                let (writes, took) = (report.writes, report.took);
                tracing::info!(writes, ?took, endpoints = self.agent.compiler().endpoints().count(), "in step");
            }
            Err(error) => {
                tracing::error!("not in step, what was enforced stays: {error}");
                self.behind = Some(error.to_string());
            }
        }
        self.record();
    }

    fn once(self) -> anyhow::Result<Outcome> {
        let missing = self.agent.missing();
        for pod in &missing {
            crate::output::complain(format_args!("pod {pod}: no interface leads to its address; not enforced"));
        }
        for problem in &self.problems {
            crate::output::complain(problem);
        }
        match &self.behind {
            Some(error) => anyhow::bail!("{error}"),
            None => Ok(self.outcome.and(Outcome::of_problems(missing.len()))),
        }
    }

    fn record(&self) {
        let program = self.agent.compiler().program();
        let origins = program.table(TableId::Base).entries.values().flat_map(|e| e.origins.as_slice());
        let isolating = origins.filter_map(|o| match o {
            Origin::Isolates { policy } => Some(policy.to_string()),
            _ => None,
        });
        let mut policies: Vec<String> = isolating.collect();
        policies.sort();
        policies.dedup();
        let diagnostics = self.agent.compiler().diagnostics();
        let record = Record {
            node: self.options.node.to_string(),
            pid: std::process::id(),
            written: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            pods: self.agent.pods(),
            policies,
            problems: self.problems.iter().cloned().chain(diagnostics.iter().map(ToString::to_string)).collect(),
            behind: self.behind.clone(),
            offload: self.agent.host().offload(),
        };
        if let Err(error) = record.write(&self.options.pin_dir) {
            tracing::warn!(%error, "the record for `netpolc status` could not be written");
        }
    }
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

/// Link and route changes; never ready where the kernel tells of none.
struct Links(Option<AsyncFd<Monitor>>);

struct Monitor(netlink::Socket);

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.raw()
    }
}

impl Links {
    fn open() -> Self {
        let open = || -> io::Result<_> {
            let monitor = Monitor(links::monitor()?);
            // SAFETY: the monitor owns its descriptor and never exchanges it.
            unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) }.map_err(Into::into)
        };
        let links = open();
        if let Err(error) = &links {
            tracing::warn!(%error, "no notifications about links; missing ones are looked for again and again");
        }
        Links(links.ok())
    }

    async fn changed(&mut self) {
        let Some(links) = &mut self.0 else { return std::future::pending().await };
        loop {
            let Ok(mut guard) = links.readable_mut().await else { return std::future::pending().await };
            let any = guard.get_inner_mut().0.drain();
            guard.clear_ready();
            if any {
                return;
            }
        }
    }

    fn drain(&mut self) {
        if let Some(links) = &mut self.0 {
            links.get_mut().0.drain();
        }
    }
}
