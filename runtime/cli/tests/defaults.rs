//! Pods that no policy selects, where these are isolated by default (S90): by their first packet on
//! the datapaths, and with the agent as a process on a node of network namespaces. Needs root.

mod common;

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use common::{
    Node, Running,
    tables::{Stage, attached, packet},
};
use netpolc::judge::ebpf;
use netpolc_kube_sync::{Input, load};
use netpolc_lower::Event;
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_target::{
    Datapath, Target,
    Verdict::{Drop, Next},
    semantics::tcp,
};
use netpolc_target_mem::Mem;
use netpolc_testbed::probe::{Ask, PATIENCE, Question, ask};
use serde_json::Value;

const POD: &str = "10.5.0.1";
const PEER: &str = "10.5.0.2";

fn cluster(annotation: &str) -> Cluster {
    let text = format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: shop, annotations: {{{annotation}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop}}
spec: {{nodeName: n1, containers: []}}
status: {{phase: Running, podIP: {POD}}}
"
    );
    let loaded = load([Input::bytes("defaults.yaml", text.as_bytes())]);
    assert_eq!(loaded.problems, []);
    loaded.cluster
}

const CLOSED: &str = "netpolc.io/isolate-by-default: 'true'";

fn namespace(cluster: &Cluster) -> Event {
    let namespace = cluster.namespaces.get("shop").cloned();
    Event::Namespace { name: "shop".into(), namespace }
}

fn of_pod(cluster: &Cluster) -> Vec<Event> {
    let key = ObjectKey::new("shop", "web");
    let pod = cluster.pods.get(&key).cloned();
    vec![Event::Pod { key, pod }, attached("shop", "web")]
}

fn a_pod_starts(target: impl Target + Datapath) {
    let (closed, open) = (cluster(CLOSED), cluster(""));
    let out = |flags| packet(POD, PEER).tcp(4000, 80, flags);
    let into = |flags| packet(PEER, POD).tcp(80, 4000, flags);
    let ask = || packet(PEER, POD).tcp(5000, 80, tcp::SYN);
    let mut stage = Stage::new(&Cluster::default(), target);
    stage.update(vec![namespace(&closed)]);
    stage.update(of_pod(&closed));
    assert_eq!(stage.sends(&out(tcp::SYN)), Drop, "its first packet");
    assert_eq!(stage.gets(&ask()), Drop, "the first packet to it");
    assert_eq!(stage.gets(&into(tcp::SYN | tcp::ACK)), Drop, "an answer to nothing");
    let udp = (packet(POD, PEER).udp(4000, 53), packet(PEER, POD).udp(4000, 53));
    assert_eq!((stage.sends(&udp.0), stage.gets(&udp.1)), (Drop, Drop));
    // Without the annotation it is as open as any pod.
    stage.update(vec![namespace(&open)]);
    assert_eq!((stage.sends(&out(tcp::SYN)), stage.gets(&ask())), (Next, Next));
    assert_eq!(stage.gets(&into(tcp::SYN | tcp::ACK)), Next);
    // A namespace that is known after its pod, as a watch may show them.
    stage.update(vec![namespace(&closed)]);
    assert_eq!((stage.sends(&udp.0), stage.gets(&udp.1)), (Drop, Drop));
    let other = packet(POD, PEER).tcp(4001, 80, tcp::SYN);
    assert_eq!((stage.sends(&other), stage.gets(&ask())), (Drop, Drop));
}

#[test]
fn s90_a_pod_without_a_policy_is_closed_by_its_first_packet() {
    a_pod_starts(Mem::default());
    a_pod_starts(ebpf::target(60).expect("the generated programs load (root)"));
}

const REDIS: Ask = Ask::Tcp(6379);

/// A policy that selects db, in both directions.
const DB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{}]
";

impl Node {
    fn agent(&self) -> Running {
        let from = self.folder.to_str().unwrap();
        let arguments = ["agent", "--node", "n1", "--from", from, "--isolate-by-default"];
        Running::start(self.command(&arguments).stderr(Stdio::null()))
    }

    /// The endpoints that are isolated in both directions, once the agent is ready.
    fn isolated(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.netpolc(&["status", "-o", "json"]);
            let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            let list = status["endpoints"].as_array().cloned().unwrap_or_default();
            if list.len() == 3 && list.iter().all(|e| e["interface"].is_string()) {
                let sets = |e: &&Value| e["ingressSet"].is_number() && e["egressSet"].is_number();
                return list.iter().filter(sets).count();
            }
            assert!(Instant::now() < deadline, "the agent is not ready: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn passes(&self, from: &str, to: &str, patience: Duration) -> bool {
        let question = Question::new(self.pod(from), to.parse().unwrap(), REDIS);
        ask(&[question], patience).unwrap()[0].passed()
    }

    fn until(&self, from: &str, to: &str, expected: bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.passes(from, to, PATIENCE) != expected {
            assert!(Instant::now() < deadline, "{from} -> {to} never becomes {expected}");
        }
    }

    fn annotate(&self, value: Option<&str>) {
        let path = self.folder.join("namespace.yaml");
        let text = |value: &str| {
            format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: default, annotations: \
                 {{netpolc.io/isolate-by-default: \"{value}\"}}}}}}\n"
            )
        };
        match value {
            Some(value) => fs::write(path, text(value)).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
}

/// S90, S91 in the life of one node; over a restart too (S58).
#[test]
fn s90_s91_a_node_that_isolates_by_default_and_a_namespace_that_says_otherwise() {
    let node = Node::up("defaults", &[REDIS]);
    assert!(node.passes("ui", "10.7.0.1", PATIENCE), "nothing is enforced yet");
    let agent = node.agent();
    node.until("ui", "10.7.0.1", false);
    assert_eq!(node.isolated(), 3);
    assert!(!node.passes("ui", "fd07::1", PATIENCE));
    // Neither the end of the agent nor another one opens anything.
    agent.stop(libc::SIGTERM);
    assert!(!node.passes("ui", "10.7.0.1", PATIENCE));
    let agent = node.agent();
    assert!(!node.passes("ui", "10.7.0.1", PATIENCE));
    node.annotate(Some("false"));
    node.until("ui", "10.7.0.1", true);
    assert_eq!(node.isolated(), 0);
    // A policy that selects db alone.
    node.apply(Some(DB));
    node.until("db", "10.7.0.2", false);
    assert!(node.passes("ui", "10.7.0.1", PATIENCE) && node.passes("ui", "10.7.0.3", PATIENCE));
    // The annotation is gone: the others are closed again, and db's policy does not open ui.
    node.annotate(None);
    node.until("other", "10.7.0.2", false);
    assert!(!node.passes("ui", "10.7.0.1", PATIENCE));
    agent.stop(libc::SIGKILL);
    assert!(!node.passes("other", "10.7.0.2", PATIENCE));
}
