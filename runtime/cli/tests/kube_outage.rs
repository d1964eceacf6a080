//! Pods that start while the agent cannot see the API server, or has just seen it again: none is
//! confirmed that a policy would isolate and that is open. A node of network namespaces with real
//! packets and programs, and an API server in the process that goes away and stalls on command
//! (`netpolc_testbed::kube::fake`). Needs root. The watch by itself: kube-sync's `current.rs`.

mod common;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{sandbox, watching::Watching};
use netpolc_agent::serve::{metrics::Metrics, record::Record};
use netpolc_cni::{
    ask,
    protocol::{Reply, Request},
};
use netpolc_policy::{ObjectKey, PodNetwork};
use netpolc_target_ebpf::Ebpf;
use netpolc_testbed::{
    kube::fake::Fake,
    netns::{Net, NodeSpec, PodSpec, Site, Spec},
    probe::{Ask, PATIENCE, Question, Servers, ask as probe},
};
use serde_json::{Value, json};

const REDIS: Ask = Ask::Tcp(6379);
/// What the plugin waits by default.
const USUAL: Duration = Duration::from_secs(5);

fn pod(name: &str, address: &str) -> Value {
    let ips = if address.is_empty() { json!([]) } else { json!([{"ip": address}]) };
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1"}, "status": {"phase": "Pending", "podIPs": ips}})
}

fn deny(name: &str) -> Value {
    json!({"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": name, "namespace": "shop", "uid": name},
        "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Ingress"]}})
}

/// A node with the pod `client`, and an agent.
struct Node {
    net: Net,
    fake: Arc<Fake>,
    folder: PathBuf,
    pins: PathBuf,
    metrics: Arc<Metrics>,
    agent: Option<Watching>,
    servers: Vec<Servers>,
}

impl Node {
    fn up(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("netpolc-kube-outage-{name}-{}", std::process::id()));
        let pins =
            Path::new("/sys/fs/bpf").join(format!("netpolc-test-{name}-{}", std::process::id()));
        let fake = Fake::new();
        fake.put(&json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "shop", "uid": "n"}}));
        fake.put(
            &json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1", "uid": "n1"}}),
        );
        fake.put(&pod("client", "10.8.0.1"));
        let nodes = vec![NodeSpec { name: "n1".into(), addresses: vec![[192, 168, 8, 1].into()] }];
        let net = Net::up(&Spec { nodes, ..Spec::default() })
            .expect("network namespaces (this needs root)");
        let metrics = Metrics::new(pins.clone());
        let mut node = Node { net, fake, folder, pins, metrics, agent: None, servers: vec![] };
        node.wire("client", "10.8.0.1");
        node.agent = Some(Watching::start(
            node.net.node("n1").unwrap().clone(),
            node.fake.access(),
            node.pins.clone(),
            node.socket(),
            node.metrics.clone(),
        ));
        node.until("the first view", Duration::from_secs(30), |node| node.metrics.is_in_step());
        node
    }

    fn until(&self, what: &str, time: Duration, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(
                began.elapsed() < time,
                "{what}: not within {time:?}; {:?}",
                Record::read(&self.pins)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("cni.sock")
    }

    /// What the plugins before netpolc do.
    fn wire(&mut self, name: &str, address: &str) {
        let addresses = vec![address.parse().unwrap()];
        let key = ObjectKey::new("shop", name);
        self.net
            .add_pods(&[PodSpec { key, node: "n1".into(), addresses, network: PodNetwork::Own }])
            .unwrap();
        self.servers.push(Servers::start([(self.pod(name), [REDIS])]).unwrap());
    }

    fn pod(&self, name: &str) -> &Site {
        self.net.pod(&ObjectKey::new("shop", name)).unwrap()
    }

    /// A pod that is there starts: what the plugin hears.
    fn add(&self, name: &str, address: &str) -> Reply {
        ask::ask(&self.socket(), &Request::Add(sandbox(name, name, &[address])), USUAL).unwrap()
    }

    fn passes(&self, to: &str) -> bool {
        let to: IpAddr = to.parse().unwrap();
        probe(&[Question::new(self.pod("client"), to, REDIS)], PATIENCE).unwrap()[0].passed()
    }

    /// kubelet tries again and again. No try may end with an open pod; some try comes through.
    fn starts_isolated(&self, name: &str, address: &str, tries: usize) {
        for attempt in 1..=tries {
            match self.add(name, address) {
                Reply::Enforced => {
                    assert!(
                        !self.passes(address),
                        "{name} was confirmed at attempt {attempt}, and is open"
                    );
                    return;
                }
                Reply::Refused { why } => println!("{name}, attempt {attempt}: {why}"),
            }
        }
        panic!("{name} was not confirmed in {tries} attempts");
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.text().lines().any(|l| l == line)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop();
        }
        drop(Ebpf::remove(&self.pins));
        drop(Record::remove(&self.pins));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// S56, S58: an outage is said everywhere; the first pod after it is held until the policy that was
/// made meanwhile is seen.
#[test]
fn s56_no_pod_is_confirmed_open_during_and_after_an_outage() {
    let mut node = Node::up("away");
    node.wire("db", "10.8.0.9");
    assert!(node.metric("netpolc_watch_up{resource=\"networkpolicies\"} 1"));
    node.fake.go_away();
    let blind =
        |node: &Node| node.metrics.unready().is_some_and(|why| why.contains("cannot watch"));
    node.until("blind", Duration::from_secs(20), blind);
    node.until("the record", Duration::from_secs(5), |n| {
        Record::read(&n.pins).is_some_and(|record| !record.is_in_step() && record.behind.is_none())
    });
    assert!(
        !node.metrics.is_in_step()
            && node.metric("netpolc_watch_up{resource=\"networkpolicies\"} 0")
    );
    // A pod that nobody knows yet, and pauses that grow meanwhile.
    assert!(matches!(node.add("db", "10.8.0.9"), Reply::Refused { .. }));
    // One that is known, and that no policy selected when the agent last saw the cluster.
    let Reply::Refused { why } = node.add("client", "10.8.0.1") else {
        panic!("confirmed by an old view")
    };
    assert!(why.contains("connection refused"), "{why}");
    node.fake.come_back();
    node.fake.put(&deny("db"));
    node.fake.put(&pod("db", ""));
    node.starts_isolated("db", "10.8.0.9", 3);
    node.until("in step", Duration::from_secs(10), |node| {
        node.metrics.is_in_step() && node.metrics.unready().is_none()
    });
}

/// S56, S58: connections that carry nothing any more and are not reset.
#[test]
fn s56_no_pod_is_confirmed_open_after_a_stall() {
    let mut node = Node::up("stall");
    node.wire("db", "10.8.0.9");
    std::thread::sleep(Duration::from_secs(5));
    node.fake.stall();
    node.fake.put(&deny("db"));
    node.fake.put(&pod("db", ""));
    node.starts_isolated("db", "10.8.0.9", 3);
}

/// A quiet cluster costs a new pod no more than a moment.
#[test]
fn s56_pods_start_in_a_quiet_cluster() {
    let mut node = Node::up("quiet");
    node.wire("db", "10.8.0.9");
    node.fake.put(&deny("db"));
    node.fake.put(&pod("db", ""));
    node.starts_isolated("db", "10.8.0.9", 1);
}

/// A pod that a policy selects and that has no interface here is told of: record, metric, Event;
/// and it is not in step.
#[test]
fn a_selected_pod_without_an_interface_is_told_of() {
    let node = Node::up("unfound");
    node.fake.put(&deny("sriov"));
    node.fake.put(&pod("sriov", "10.8.7.7"));
    node.until("told of", Duration::from_secs(20), |node| {
        Record::read(&node.pins)
            .is_some_and(|record| record.unfound == ["shop/sriov"] && !record.is_in_step())
    });
    assert!(!node.metrics.is_in_step() && node.metric("netpolc_unenforced_pods 1"));
    assert_eq!(node.metrics.unready(), None, "it is no reason to take the agent away");
    node.until("an Event", Duration::from_secs(10), |n| {
        !n.fake.asked("/apis/events.k8s.io/v1/namespaces/shop/events").is_empty()
    });
    node.fake.delete(&pod("sriov", "10.8.7.7"));
    node.until("in step", Duration::from_secs(20), |node| node.metrics.is_in_step());
}
