//! The loop around the agent in a cluster: an API server's objects in, kernel in step, until a signal.
//!
//! The watch runs on a thread of its own; this loop's thread does everything else, because interfaces are those of the
//! calling thread's network namespace. What is enforced never depends on the server being there: until every first list is
//! complete nothing is changed at all, and later only by changes that the server tells of.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use netpolc_cni::server::{self, Waiting};
use netpolc_kube_sync::{
    Change, PolicyState, Resource, Severity,
    watch::{self, Fetcher, NodeStatus, Update, Watch},
};
use netpolc_lower::Kind;
use netpolc_policy::ObjectKey;
use netpolc_target::NodeTarget;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Standing,
    network::Network,
    sandbox_store,
    sandboxes::Sandboxes,
    supervisor::{INITIAL_BACKOFF, LINKS_SETTLE, Links, MAX_BACKOFF, Supervisor},
};
use crate::{
    metrics::Metrics,
    options::{Options, Pass, Passes},
};

/// Runs an agent until `stop` is ready, or for one pass.
///
/// # Errors
/// The way to the server makes no sense, the CNI socket cannot be made, or the kernel's tables cannot be read; in one pass, what
/// failed. The loop itself reports failures, keeps what is enforced, and tries again.
pub async fn serve(
    options: &Options,
    source: watch::Options,
    metrics: Arc<Metrics>,
    host: impl NodeTarget,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Pass> {
    let mut links = Links::open();
    // Lists come while the tables are read.
    let mut watch = Watch::start(source)?;
    let mut supervisor = Supervisor::new(options.node.clone(), options.pin_dir.clone(), metrics, host, network)?;
    // Also where the target holds nothing yet: a part of the cluster is not what policies speak of.
    supervisor.holds = true;
    supervisor.metrics.watching(watch.contacts());
    let mut plugins = Plugins::open(options, &watch)?;
    supervisor.set_waiting(waiting(watch.incomplete()));
    let mut taint = options.startup_taint.as_deref();
    tokio::pin!(stop);
    let mut patience = INITIAL_BACKOFF;
    // Kept from turn to turn: what happens meanwhile may bring it closer, and never puts it off.
    let mut again = Instant::now() + patience;
    loop {
        let record_due = supervisor.record_due().map(Instant::from_std);
        let plugins_due =
            plugins.sandboxes.due().into_iter().chain(supervisor.unfound_due()).min().map(Instant::from_std);
        supervisor.metrics.turned();
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(supervisor.pause()) => {}
            update = watch.next(supervisor.agent.cluster()) => {
                (patience, again) = (INITIAL_BACKOFF, again.min(Instant::now() + INITIAL_BACKOFF));
                let about_nodes = |changes: &[Change]| changes.iter().any(|change| change.resource == Resource::Node);
                let nodes = matches!(&update, Update::Changes(changes) if about_nodes(changes));
                match update {
                    // An agent that hears nothing any more would go on as if all were well; the next one hears again.
                    Update::Ended => anyhow::bail!("the thread that watches the API server ended by a fault of netpolc's; what is enforced stays"),
                    Update::First(mut cluster) => {
                        supervisor.holds = false;
                        tracing::info!(pods = cluster.pods.len(), policies = cluster.policies.len(), "the cluster is known");
                        plugins.sandboxes.first(&mut cluster);
                        supervisor.agent.set_places(plugins.sandboxes.places());
                        supervisor.follow(|agent| agent.update(cluster));
                        if options.passes == Passes::Once {
                            supervisor.set_problems(watch.problems().map(ToString::to_string).collect());
                            record(&mut supervisor, &watch);
                            return Ok(supervisor.pass(0));
                        }
                    }
                    Update::Changes(changes) => {
                        for change in &changes {
                            supervisor.metrics.arrived(change.resource.plural(), 1);
                        }
                        let changes = plugins.sandboxes.watched(changes, std::time::Instant::now());
                        if !changes.is_empty() {
                            supervisor.follow(|agent| agent.advance(changes));
                        }
                        if supervisor.holds {
                            supervisor.set_waiting(waiting(watch.incomplete()));
                        }
                    }
                }
                if let Some(current) = watch.current() {
                    plugins.sandboxes.current(current);
                }
                if let Some(why) = watch.take_not_current() {
                    plugins.sandboxes.not_current(why);
                }
                if watch.take_news() || nodes {
                    supervisor.set_blind(blind(&watch));
                    // Perhaps of a policy's generation only.
                    supervisor.touch();
                    let own = nodeless(options, &watch, &supervisor);
                    let conditions = watch.conditions().map(ToString::to_string).chain(own);
                    supervisor.set_problems(conditions.chain(watch.problems().map(ToString::to_string)).collect());
                }
            }
            Some(request) = plugins.requests.recv() => {
                (patience, again) = (INITIAL_BACKOFF, again.min(Instant::now() + INITIAL_BACKOFF));
                let now = std::time::Instant::now();
                plugins.sandboxes.ask(request, now);
                // Those of pods that start together are one update.
                while let Ok(request) = plugins.requests.try_recv() {
                    plugins.sandboxes.ask(request, now);
                }
            }
            fetched = plugins.fetcher.next() => {
                plugins.sandboxes.fetched(fetched, supervisor.agent.cluster(), std::time::Instant::now());
            }
            () = links.changed() => {
                supervisor.cover();
                tokio::time::sleep(LINKS_SETTLE).await;
                links.drain();
                (patience, again) = (INITIAL_BACKOFF, again.min(Instant::now() + INITIAL_BACKOFF));
                supervisor.follow(|agent| agent.refresh());
                supervisor.check();
            }
            () = tokio::time::sleep_until(again), if supervisor.waits() => {
                supervisor.follow(|agent| agent.refresh());
                patience = (patience * 2).min(MAX_BACKOFF);
                again = Instant::now() + patience;
            }
            () = tokio::time::sleep_until(plugins_due.unwrap_or(again)), if plugins_due.is_some() => {}
            () = tokio::time::sleep_until(record_due.unwrap_or(again)), if record_due.is_some() => record(&mut supervisor, &watch),
        }
        for (resource, lists) in watch.take_resyncs() {
            supervisor.metrics.resynced(resource.plural(), lists);
        }
        plugins.serve(&mut supervisor);
        for aside in supervisor.take_aside() {
            let resource = match aside.kind {
                Kind::Policy => Resource::Policy,
                Kind::Service => Resource::Service,
            };
            watch.report_aside(resource, &aside.object, &aside.to_string());
        }
        if !supervisor.holds
            && supervisor.behind.is_none()
            && let Some(key) = taint.take()
        {
            watch.remove_taint(key);
        }
        for key in supervisor.note_unfound() {
            let uid = supervisor.agent.cluster().pods.get(&key).and_then(|pod| pod.uid.as_deref());
            let why = format!("a policy selects it, and no interface of node {} leads to its addresses", options.node);
            watch.not_isolated(&key, uid, why);
        }
        supervisor.beat();
    }
    record(&mut supervisor, &watch);
    tracing::info!("stopped; enforcement stays (netpolc detach removes it)");
    Ok(Pass::default())
}

/// The CNI plugins' side of the loop.
struct Plugins {
    requests: mpsc::Receiver<Waiting>,
    /// Without a socket nobody ever sends a request; this keeps the channel open.
    _silence: Option<mpsc::Sender<Waiting>>,
    sandboxes: Sandboxes,
    /// Where what CNI said is kept for the next agent; None: nowhere.
    kept: Option<PathBuf>,
    fetcher: Fetcher,
}

impl Plugins {
    /// Listens as soon as the agent runs: requests wait until the cluster is known.
    fn open(options: &Options, watch: &Watch) -> anyhow::Result<Self> {
        let (requests, silence) = match &options.cni_socket {
            Some(path) => (server::listen(path).with_context(|| format!("--cni-socket {}", path.display()))?, None),
            None => {
                let (silence, requests) = mpsc::channel(1);
                (requests, Some(silence))
            }
        };
        let kept = options.cni_socket.is_some().then(|| sandbox_store::path(&options.pin_dir));
        let mut sandboxes = Sandboxes::new(options.node.clone());
        sandboxes.restore(kept.iter().flat_map(|path| sandbox_store::read(path)));
        Ok(Self { requests, _silence: silence, sandboxes, kept, fetcher: watch.fetcher() })
    }

    fn keep(&mut self) {
        if let Some(path) = &self.kept
            && let Some(held) = self.sandboxes.take_held()
            && let Err(error) = sandbox_store::write(path, held)
        {
            tracing::warn!(%error, "what CNI says is not kept over a restart of the agent");
        }
    }

    /// Brings the tables to where requests can be answered, and answers those that can.
    fn serve<H: NodeTarget, N: Network>(&mut self, supervisor: &mut Supervisor<H, N>) {
        self.keep();
        if self.sandboxes.is_idle() {
            return;
        }
        let now = std::time::Instant::now();
        if !supervisor.holds {
            let plan = self.sandboxes.plan(supervisor.agent.cluster(), supervisor.agent.local_pods(), now);
            supervisor.agent.set_places(self.sandboxes.places());
            if !plan.changes.is_empty() {
                supervisor.follow(|agent| agent.advance(plan.changes));
            }
            if plan.look {
                // Also where no address is new: a new sandbox has a new interface.
                supervisor.follow(|agent| agent.refresh());
            }
            if let Some(deadline) = plan.freshen
                && self.fetcher.freshen(deadline).is_err()
            {
                self.sandboxes.not_freshened();
            }
            for key in plan.fetch {
                if let Err(error) = self.fetcher.fetch(key.clone()) {
                    tracing::warn!(pod = %key, %error, "CNI");
                    self.sandboxes.not_asked(&key, now);
                }
            }
        }
        self.keep();
        let agent = &supervisor.agent;
        let behind = supervisor.behind.as_deref();
        self.sandboxes.answer(agent.cluster(), behind, |key| agent.standing(key), now);
        for (answer, took) in self.sandboxes.take_answered() {
            supervisor.metrics.pod_start(answer, took);
        }
    }
}

/// Brings record and status up to date.
fn record<H: NodeTarget, N: Network>(supervisor: &mut Supervisor<H, N>, watch: &Watch) {
    let broken = watch.problems().filter(|p| p.severity == Severity::Error).filter_map(|p| p.object.as_ref());
    let mut errors: BTreeMap<&str, usize> = BTreeMap::new();
    broken.filter(|o| &*o.kind == Resource::Policy.kind()).for_each(|o| *errors.entry(&o.name).or_default() += 1);
    let about = |state: &mut PolicyState| {
        let key = state.policy.split_once('/').map(|(namespace, name)| ObjectKey::new(namespace, name));
        state.generation = key.and_then(|key| watch.generation(&key));
        state.errors = errors.get(&*state.policy).copied().unwrap_or(0);
    };
    let Some(record) = supervisor.record(about) else { return };
    let isolates = |key: &&ObjectKey| matches!(supervisor.agent.standing(key), Standing::Enforced | Standing::Unfound);
    watch.publish(NodeStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        pods: record.pods.len(),
        isolated: supervisor.agent.local_pods().iter().filter(isolates).count(),
        behind: record.behind,
        blind: record.blind,
        unfound: record.unfound,
        aside: supervisor.agent.aside().map(|aside| format!("{} {}", aside.kind, aside.object)).collect(),
        policies: record.policies,
        problems: record.problems,
    });
}

/// A node name that no Node has is most likely a wrong one: then no pod is this agent's.
fn nodeless<H: NodeTarget, N: Network>(
    options: &Options,
    watch: &Watch,
    supervisor: &Supervisor<H, N>,
) -> Option<String> {
    let missing = watch.incomplete().is_empty()
        && !supervisor.holds
        && !supervisor.agent.cluster().nodes.contains_key(&options.node);
    missing.then(|| {
        let node = &options.node;
        format!("the cluster has no Node {node}: --node must be what spec.nodeName of this node's pods says, or none is enforced")
    })
}

/// Which kinds are not watched any more, where the cluster was known.
fn blind(watch: &Watch) -> Option<String> {
    if !watch.incomplete().is_empty() {
        return None;
    }
    let kinds: Vec<String> = watch.conditions().map(|condition| condition.resource.to_string()).collect();
    let what = "changes of them are not seen, and what is enforced stays as it is until then";
    (!kinds.is_empty()).then(|| format!("cannot watch {}: {what}", kinds.join(", ")))
}

/// What is said until the cluster is known.
fn waiting(incomplete: &BTreeSet<Resource>) -> String {
    let kinds: Vec<String> = incomplete.iter().map(ToString::to_string).collect();
    format!("waiting for the first list of {}; what is enforced stays as it is until then", kinds.join(", "))
}
