//! The agent's loop in a cluster: takes objects from an API server and keeps the kernel in step
//! with them, until a signal.
//!
//! The watch runs on a thread of its own. This loop's thread does everything else, because
//! interfaces are those of the calling thread's network namespace. Enforcement never depends on the
//! server being reachable: nothing is changed until every first list is complete, and afterwards
//! only by changes that the server reports. Not here: what this loop shares with the one for files
//! ([`super::supervisor`]).

use std::{collections::BTreeSet, future::Future, path::PathBuf, sync::Arc};

use anyhow::Context;
use netpolc_cni::server::{self, Waiting};
use netpolc_kube_sync::{
    Change, PolicyKind, PolicyState, Resource,
    watch::{self, Fetcher, NodeStatus, Update, Watch},
};
use netpolc_lower::Kind;
use netpolc_policy::{ObjectKey, TierKey};
use netpolc_target::NodeTarget;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Options, Pass, Passes,
    audit::Auditor,
    flows::Flows,
    metrics::Metrics,
    policy_status::audited,
    retry::Retry,
    sandbox_store,
    sandboxes::Sandboxes,
    state_dir,
    supervisor::{Links, Supervisor},
};
use crate::{Standing, network::Network};

/// Runs an agent until `stop` resolves, or for one pass.
///
/// # Errors
/// The server's address or credentials are not valid, the CNI socket, the log of flows or Hubble's
/// API cannot be opened, the kernel's tables cannot be read, or the watching thread has died. Later
/// failures are reported, what is enforced stays, and the loop retries; with [`Passes::Once`] they
/// are in the result.
pub async fn serve(
    options: &Options,
    source: watch::Options,
    metrics: Arc<Metrics>,
    host: impl NodeTarget,
    network: impl Network,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Pass> {
    let mut links = Links::open();
    // Started first, so that lists arrive while the tables are read.
    let mut watch = Watch::start(source)?;
    let mut supervisor =
        Supervisor::new(options.node.clone(), options.pin_dir.clone(), metrics, host, network)?;
    supervisor.agent.set_default(options.by_default.clone());
    supervisor.agent.set_enforcement(options.enforcement);
    // The supervisor is on hold even where the target is empty: policies must not be applied to a
    // part of the cluster.
    supervisor.on_hold = true;
    supervisor.metrics.watching(watch.states());
    let mut plugins = Plugins::open(options, &watch)?;
    supervisor.set_waiting(waiting(watch.incomplete()));
    let mut taint = options.startup_taint.as_deref();
    if options.passes == Passes::UntilStopped {
        supervisor.flows = Flows::wanted(options, &supervisor.metrics)?;
    }
    tokio::pin!(stop);
    let (mut retry, mut auditor) = (Retry::default(), Auditor::new(options.audit_interval));
    loop {
        let record_due = supervisor.record_due().map(Instant::from_std);
        let plugins_due = plugins
            .sandboxes
            .due()
            .into_iter()
            .chain(supervisor.unfound_due())
            .min()
            .map(Instant::from_std);
        supervisor.metrics.turned();
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(supervisor.pause()) => {}
            () = supervisor.flows.due() => if supervisor.take_flows() { continue },
            update = watch.next(supervisor.agent.cluster()) => {
                retry.hasten();
                let nodes = matches!(&update, Update::Changes(changes) if about_nodes(changes));
                match update {
                    // Without the watch this agent would go on as if all were well. It ends, so
                    // that its successor watches again.
                    Update::Ended => anyhow::bail!("the thread that watches the API server ended \
                        through a bug in netpolc; what is enforced stays"),
                    Update::First(mut cluster) => {
                        supervisor.on_hold = false;
                        let (pods, policies) = (cluster.pods.len(), cluster.policies.len());
                        tracing::info!(pods, policies, "the cluster is known: all first lists are \
                            complete");
                        // CNI may know addresses that the API server does not report yet.
                        plugins.sandboxes.first(&mut cluster);
                        supervisor.agent.set_placements(plugins.sandboxes.placements());
                        supervisor.follow(|agent| agent.update(cluster));
                        supervisor.flows.nodes(supervisor.agent.cluster());
                        if options.passes == Passes::Once {
                            let problems = watch.problems().map(ToString::to_string);
                            supervisor.set_problems(problems.collect());
                            record(&mut supervisor, &watch);
                            return Ok(supervisor.pass(0));
                        }
                    }
                    Update::Changes(changes) => {
                        for change in &changes {
                            supervisor.metrics.arrived(change.resource.label(), 1);
                        }
                        let changes = plugins.sandboxes.watched(changes, std::time::Instant::now());
                        if !changes.is_empty() {
                            supervisor.follow(|agent| agent.advance(changes));
                        }
                        if nodes {
                            supervisor.flows.nodes(supervisor.agent.cluster());
                        }
                        if supervisor.on_hold {
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
                    // Perhaps only a policy's generation has changed, which the record shows too.
                    supervisor.touch();
                    let own = nodeless(options, &watch, &supervisor);
                    let conditions = watch.conditions().map(ToString::to_string).chain(own);
                    // Before the problems of single objects, of which only some are published.
                    let foreign = watch.foreign().iter().map(ToString::to_string);
                    let problems = watch.problems().map(ToString::to_string);
                    supervisor.set_problems(conditions.chain(foreign).chain(problems).collect());
                }
            }
            Some(request) = plugins.requests.recv() => {
                retry.hasten();
                let now = std::time::Instant::now();
                plugins.sandboxes.ask(request, now);
                // Pods that start together are handled in one update.
                while let Ok(request) = plugins.requests.try_recv() {
                    plugins.sandboxes.ask(request, now);
                }
            }
            fetched = plugins.fetcher.next() => {
                let now = std::time::Instant::now();
                plugins.sandboxes.fetched(fetched, supervisor.agent.cluster(), now);
            }
            () = links.changed() => {
                supervisor.cover();
                // Covering an interface must not wait; the rest waits until the burst of messages
                // is over.
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
            () = due(plugins_due) => {}
            () = due(record_due) => record(&mut supervisor, &watch),
        }
        for (resource, lists) in watch.take_resyncs() {
            supervisor.metrics.resynced(resource.label(), lists);
        }
        plugins.serve(&mut supervisor);
        for aside in supervisor.take_aside() {
            let resource = match aside.kind {
                Kind::Policy => Resource::Policy,
                Kind::Service => Resource::Service,
            };
            watch.report_aside(resource, &aside.object, &aside.to_string());
        }
        for denial in supervisor.flows.take_denials(&supervisor.metrics) {
            let pod = supervisor.agent.cluster().pods.get(&denial.pod);
            let uid = pod.and_then(|pod| pod.uid.as_deref());
            watch.report_denied(&denial.pod, uid, &denial.note, denial.packets);
        }
        for what in supervisor.take_found() {
            watch.report_repaired(&options.node, &what);
        }
        // The taint is removed once, after the first update that succeeded.
        if !supervisor.on_hold
            && supervisor.behind.is_none()
            && let Some(key) = taint.take()
        {
            watch.remove_taint(key);
        }
        for key in supervisor.note_unfound() {
            let uid = supervisor.agent.cluster().pods.get(&key).and_then(|pod| pod.uid.as_deref());
            let why = format!(
                "a policy selects the pod, but no interface of node {} leads to its addresses",
                options.node
            );
            watch.not_isolated(&key, uid, why);
        }
        supervisor.heartbeat();
    }
    record(&mut supervisor, &watch);
    tracing::info!("the agent has stopped; enforcement stays in place (netpolc detach removes it)");
    Ok(Pass::default())
}

/// The part of the loop that serves the CNI plugins.
struct Plugins {
    requests: mpsc::Receiver<Waiting>,
    /// Keeps the channel of requests open where there is no socket, and so no other sender.
    _sender: Option<mpsc::Sender<Waiting>>,
    sandboxes: Sandboxes,
    /// The file in which sandboxes are stored for the next agent; None where there is no CNI
    /// socket.
    store: Option<PathBuf>,
    fetcher: Fetcher,
}

impl Plugins {
    /// Opens the socket. That happens as soon as the agent runs; requests wait until the cluster is
    /// known.
    fn open(options: &Options, watch: &Watch) -> anyhow::Result<Self> {
        let (requests, sender) = match &options.cni_socket {
            Some(path) => (
                server::listen(path).with_context(|| format!("--cni-socket {}", path.display()))?,
                None,
            ),
            None => {
                let (sender, requests) = mpsc::channel(1);
                (requests, Some(sender))
            }
        };
        let store = options.cni_socket.is_some().then(|| state_dir::sandboxes(&options.pin_dir));
        let mut sandboxes = Sandboxes::new(options.node.clone());
        sandboxes.restore(store.iter().flat_map(|path| sandbox_store::read(path)));
        Ok(Self { requests, _sender: sender, sandboxes, store, fetcher: watch.fetcher() })
    }

    /// Saves the sandboxes where they have changed.
    fn save(&mut self) {
        if let Some(path) = &self.store
            && let Some(sandboxes) = self.sandboxes.take_unsaved()
            && let Err(error) = sandbox_store::write(path, sandboxes)
        {
            tracing::warn!(%error, "the sandboxes that CNI reported could not be saved; a \
                restarted agent will not know them");
        }
    }

    /// Brings the tables to a state in which requests can be answered, and answers those that can
    /// be.
    fn serve<H: NodeTarget, N: Network>(&mut self, supervisor: &mut Supervisor<H, N>) {
        self.save();
        // Saved before anything that depends on it is confirmed, and again after planning.
        if self.sandboxes.is_idle() {
            return;
        }
        let now = std::time::Instant::now();
        if !supervisor.on_hold {
            let plan =
                self.sandboxes.plan(supervisor.agent.cluster(), supervisor.agent.local_pods(), now);
            supervisor.agent.set_placements(self.sandboxes.placements());
            if !plan.changes.is_empty() {
                supervisor.follow(|agent| agent.advance(plan.changes));
            }
            if plan.rescan {
                // A new sandbox has a new interface even where no address is new.
                supervisor.follow(|agent| agent.refresh());
            }
            if let Some(deadline) = plan.freshen
                && self.fetcher.freshen(deadline).is_err()
            {
                self.sandboxes.not_freshened();
            }
            for key in plan.fetch {
                if let Err(error) = self.fetcher.fetch(key.clone()) {
                    tracing::warn!(pod = %key, %error, "the pod of a CNI request could not be \
                        requested from the API server");
                    self.sandboxes.not_asked(&key, now);
                }
            }
        }
        self.save();
        let agent = &supervisor.agent;
        let behind = supervisor.behind.as_deref();
        self.sandboxes.answer(agent.cluster(), behind, |key| agent.standing(key), now);
        for (answer, took) in self.sandboxes.take_answered() {
            supervisor.metrics.pod_start(answer, took);
        }
    }
}

/// Brings the record and the published status up to date.
fn record<H: NodeTarget, N: Network>(supervisor: &mut Supervisor<H, N>, watch: &Watch) {
    let about = |state: &mut PolicyState| {
        let Some((resource, key)) = object_of(state) else { return };
        state.generation = watch.generation(resource, &key);
        state.errors = watch.errors(resource, &key);
    };
    let Some(record) = supervisor.record(about) else { return };
    let isolates = |key: &&ObjectKey| {
        matches!(supervisor.agent.standing(key), Standing::Enforced | Standing::Unfound)
    };
    watch.publish(NodeStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        pods: record.pods.len(),
        isolated: supervisor.agent.local_pods().iter().filter(isolates).count(),
        behind: record.behind,
        blind: record.blind,
        unfound: record.unfound,
        aside: supervisor
            .agent
            .aside()
            .map(|aside| format!("{} {}", aside.kind, aside.object))
            .collect(),
        audited: audited(supervisor.agent.cluster(), supervisor.agent.local_pods()),
        policies: record.policies,
        problems: record.problems,
    });
    for conflict in supervisor.take_conflicts() {
        let loses = TierKey::named(&conflict.loses);
        watch.report_conflict(&loses, &conflict.wins, &conflict.why);
    }
}

/// The object in the cluster that a policy's state is about; None for a security group, which the
/// API server does not know by its id.
fn object_of(state: &PolicyState) -> Option<(Resource, ObjectKey)> {
    match state.kind {
        PolicyKind::NetworkPolicy => {
            let (namespace, name) = state.policy.split_once('/')?;
            Some((Resource::Policy, ObjectKey::new(namespace, name)))
        }
        PolicyKind::ClusterNetworkPolicy => {
            let key = TierKey::named(&state.policy);
            Some((Resource::of_tiers(key.api), ObjectKey::new("", key.name)))
        }
        PolicyKind::SecurityGroup => None,
    }
}

/// A problem to report where no Node has the given name: it is most likely wrong, and then no pod
/// is this agent's.
fn nodeless<H: NodeTarget, N: Network>(
    options: &Options,
    watch: &Watch,
    supervisor: &Supervisor<H, N>,
) -> Option<String> {
    let missing = watch.incomplete().is_empty()
        && !supervisor.on_hold
        && !supervisor.agent.cluster().nodes.contains_key(&options.node);
    missing.then(|| {
        let node = &options.node;
        format!(
            "the cluster has no Node {node}; set --node to the spec.nodeName of this node's pods, \
            or nothing is enforced for them"
        )
    })
}

/// A message about the kinds that are no longer watched; None where all are, or where the cluster
/// was never known as a whole.
fn blind(watch: &Watch) -> Option<String> {
    if !watch.incomplete().is_empty() {
        return None;
    }
    let kinds: Vec<String> =
        watch.conditions().map(|condition| condition.resource.to_string()).collect();
    let what = "their changes are not seen, and what is enforced stays as it is until they are";
    (!kinds.is_empty()).then(|| format!("the agent cannot watch {}: {what}", kinds.join(", ")))
}

/// The message that is shown until the cluster is known.
fn waiting(incomplete: &BTreeSet<Resource>) -> String {
    let kinds: Vec<String> = incomplete.iter().map(ToString::to_string).collect();
    format!(
        "waiting for the first list of {}; what is enforced stays as it is until then",
        kinds.join(", ")
    )
}

/// Waits until then; for ever where there is no such time.
async fn due(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn about_nodes(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.resource == Resource::Node)
}
