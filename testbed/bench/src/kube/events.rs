//! Changes through a real API server, and the time until the kernel's tables follow: one at a time
//! on a quiet server, then many a second.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::mpsc::{self, Receiver},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netpolc_agent::{
    discovery::{Discovery, PodFacts},
    network::Network,
    serve::{Options, cluster_loop, metrics::Metrics, record::Record},
};
use netpolc_kube_sync::{
    Families,
    watch::{self, Access, Lists},
};
use netpolc_table::{EndpointId, IfIndex};
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_testbed::{
    big::{Big, Stack},
    kube::{
        Client, Server, User,
        objects::{create, create_all, delete, patch_status},
        storage::Storage,
    },
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Spread, start::fill};
use crate::probe::{Probe, Switched};

/// Pods known while single events are measured.
const PODS: usize = 10_000;
/// How many policies the agent knows by then.
const POLICIES: usize = 1_000;
/// Single events of each kind.
const SAMPLES: usize = 200;
/// Pod events a second under load, its length, and events in one write.
const RATE: usize = 1_000;
const LOAD: Duration = Duration::from_secs(60);
const BURST: usize = 10;
/// Pods that change under load.
const CHURNING: usize = 1_000;
/// Between two single events: longer than the grace periods after one.
const PAUSE: Duration = Duration::from_millis(40);

/// The time from a change to its enforcement.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The time since the server answered the request.
    pub since_answer: Spread,
    /// The time since the request was sent.
    pub since_request: Spread,
}

/// What many events at once take.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many events there were.
    pub events: usize,
    /// How many pods' last state was not enforced within 10 s of the load's end.
    pub lost: usize,
    /// How long writing them took.
    pub seconds: f64,
    /// How many events were written in a second.
    pub rate: f64,
    /// The latency of all events whose state was ever enforced (a pod's newer state may replace an
    /// older one).
    pub latency: Spread,
    /// The latency of single events, 2 s after the load.
    pub afterwards: Spread,
}

/// The latencies of all kinds of events.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Pods that get their address.
    pub pods: Latency,
    /// Policies that isolate a local pod.
    pub policies: Latency,
    /// What many pods at once take.
    pub load: Load,
}

/// Measures.
///
/// # Errors
/// The caller is not root, there is no API server, or an event is not enforced within 10 s.
pub async fn run(progress: &mut impl FnMut(String)) -> Result<Report> {
    let big = Big { namespaces: 100, pods: PODS, policies: POLICIES, stack: Stack::V4, seed: 1 };
    progress(format!("an API server with {PODS} pods and {POLICIES} policies"));
    let server = Server::start().await?;
    fill(&server, &big).await?;
    let client = server.client(User::Admin).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    create(&client, &namespace).await?;
    let node = big.node_name(5);
    create(&client, &pod("target", &node, None)).await?;
    patch_status(&client, "Pod", Some("bench"), "target", &status(Ipv4Addr::new(11, 0, 0, 1)))
        .await?;
    let agent = Agent::start(&server, &node)?;
    agent.wait_for(Switched::Address(Ipv4Addr::new(11, 0, 0, 1)))?;
    let endpoint = agent.endpoint("bench/target").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;

    progress(format!("{SAMPLES} pods get their addresses, one by one"));
    let pods = single_pods(&agent, &client, 0, SAMPLES).await?;
    progress(format!("{SAMPLES} policies come, one by one"));
    let policies = single_policies(&agent, &client, endpoint).await?;
    progress(format!("{RATE} pod events a second for {LOAD:?}"));
    let load = load(&agent, &server, &client).await?;
    agent.stop()?;
    Ok(Report { pods, policies, load })
}

/// An agent on a thread of its own, and what it switched.
struct Agent {
    switched: Receiver<(Switched, Instant)>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
    options: Options,
}

impl Agent {
    fn start(server: &Server, node: &str) -> Result<Self> {
        let (sender, switched) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let pin_dir = format!("/sys/fs/bpf/netpolc-bench-{}", std::process::id()).into();
        let options = Options::new(node, pin_dir);
        let access = Access::Kubeconfig(server.kubeconfig(User::Admin)?.into());
        let source = watch::Options {
            access,
            node: Some(node.into()),
            lists: Lists::Automatic,
            families: Families::default(),
        };
        let own = options.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let host = Probe::new(Ebpf::private(Config::default())?, sender);
            let until = async { drop(stopped.await) };
            let metrics = Metrics::new(own.pin_dir.clone());
            runtime
                .block_on(cluster_loop::serve(&own, source, metrics, host, Interfaces, until))?;
            Ok(())
        };
        let thread = std::thread::Builder::new().name("agent".into()).spawn(work)?;
        Ok(Self { switched, stop, thread, options })
    }

    /// Waits until a write switches this, and gives the time of it.
    fn wait_for(&self, what: Switched) -> Result<Instant> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (found, at) = self
                .switched
                .recv_timeout(left)
                .with_context(|| format!("{what:?} is not enforced"))?;
            if found == what {
                return Ok(at);
            }
        }
    }

    fn forget(&self) {
        while self.switched.try_recv().is_ok() {}
    }

    /// The endpoint of a local pod, from the record.
    async fn endpoint(&self, name: &str) -> Result<EndpointId> {
        for _ in 0..100 {
            let record = Record::read(&self.options.pin_dir).unwrap_or_default();
            if let Some(pod) = record.pods.iter().find(|p| p.pod == name) {
                return Ok(pod.endpoint);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("{name} is not an endpoint of the agent")
    }

    fn stop(self) -> Result<()> {
        // It may have ended by an error, which comes now.
        let _ = self.stop.send(());
        self.thread.join().map_err(|_| anyhow::anyhow!("the agent panicked"))??;
        Ok(Record::remove(&self.options.pin_dir)?)
    }
}

fn pod(name: &str, node: &str, address: Option<Ipv4Addr>) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "bench", "labels": {"app": "web", "tier": "frontend"}},
        "spec": {"nodeName": node, "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "c"}]}});
    if let Some(address) = address {
        pod["status"] = status(address);
    }
    pod
}

fn status(address: Ipv4Addr) -> Value {
    json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]})
}

fn latency(samples: Vec<(Instant, Instant, Instant)>) -> Result<Latency> {
    let since = |pick: fn(&(Instant, Instant, Instant)) -> Instant| {
        Spread::of(samples.iter().map(|s| s.2.saturating_duration_since(pick(s))).collect())
    };
    Ok(Latency { since_answer: since(|s| s.1)?, since_request: since(|s| s.0)? })
}

/// Pods of other nodes get their addresses, one by one. `round` tells their names from others'.
async fn single_pods(agent: &Agent, client: &Client, round: u8, count: usize) -> Result<Latency> {
    let name = |i: usize| format!("single-{round}-{i}");
    create_all(client, (0..count).map(|i| pod(&name(i), "elsewhere", None))).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut samples = Vec::new();
    for i in 0..count {
        let address = Ipv4Addr::new(11, 1 + round, (i / 250) as u8, (i % 250) as u8);
        agent.forget();
        let asked = Instant::now();
        patch_status(client, "Pod", Some("bench"), &name(i), &status(address)).await?;
        let answered = Instant::now();
        samples.push((asked, answered, agent.wait_for(Switched::Address(address))?));
        tokio::time::sleep(PAUSE).await;
    }
    latency(samples)
}

/// Policies that isolate the pod `target` come, one by one; in between it is not isolated.
async fn single_policies(agent: &Agent, client: &Client, endpoint: EndpointId) -> Result<Latency> {
    let mut samples = Vec::new();
    for i in 0..SAMPLES {
        let name = format!("policy-{i}");
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "bench"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}});
        agent.forget();
        let asked = Instant::now();
        create(client, &policy).await?;
        let answered = Instant::now();
        // A pod that was not isolated records first: two words.
        agent.wait_for(Switched::Endpoint(endpoint))?;
        samples.push((asked, answered, agent.wait_for(Switched::Endpoint(endpoint))?));
        tokio::time::sleep(PAUSE).await;
        agent.forget();
        delete(client, "NetworkPolicy", Some("bench"), &name).await?;
        agent.wait_for(Switched::Endpoint(endpoint))?;
        tokio::time::sleep(PAUSE).await;
    }
    latency(samples)
}

/// Writes pods into etcd, as fast as asked: API servers beside the agent on a small machine do not
/// take so many requests, and their watchers see the same events.
async fn load(agent: &Agent, server: &Server, client: &Client) -> Result<Load> {
    let storage = Storage::of(server)?;
    let address =
        |number: usize| Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(12, 0, 0, 0)) + number as u32);
    let object = |number: usize| {
        let mut pod =
            pod(&format!("churn-{}", number % CHURNING), "elsewhere", Some(address(number)));
        pod["metadata"]["uid"] = json!(format!("churn-{}", number % CHURNING));
        pod
    };
    agent.forget();
    let total = RATE * LOAD.as_secs() as usize;
    let mut written = Vec::with_capacity(total);
    let began = Instant::now();
    while written.len() < total {
        let due = began + Duration::from_secs_f64(written.len() as f64 / RATE as f64);
        tokio::time::sleep_until(due.into()).await;
        let first = written.len();
        let now = Instant::now();
        storage.put_all((first..first + BURST).map(object)).await?;
        written.extend([now; BURST]);
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut enforced: BTreeMap<Ipv4Addr, Instant> = BTreeMap::new();
    let last: Vec<Ipv4Addr> = (total - CHURNING..total).map(address).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !last.iter().all(|a| enforced.contains_key(a)) {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((what, at)) = agent.switched.recv_timeout(left) else { break };
        if let Switched::Address(address) = what {
            enforced.entry(address).or_insert(at);
        }
    }
    let lost = last.iter().filter(|a| !enforced.contains_key(a)).count();
    let times = written.iter().enumerate().filter_map(|(number, sent)| {
        Some(enforced.get(&address(number))?.saturating_duration_since(*sent))
    });
    let latency = Spread::of(times.collect())?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let afterwards = single_pods(agent, client, 1, 50).await?.since_answer;
    Ok(Load { events: total, lost, seconds, rate: total as f64 / seconds, latency, afterwards })
}

/// Each IPv4 address has an interface, and no connections.
struct Interfaces;

impl Network for Interfaces {
    fn find_interfaces(&mut self, pods: &[PodFacts]) -> io::Result<Vec<Discovery>> {
        Ok(Discovery::by_address(pods, |address| match address {
            IpAddr::V4(v4) => Some(IfIndex::new(1_000 + (v4.to_bits() & 0xff))),
            IpAddr::V6(_) => None,
        }))
    }
}
