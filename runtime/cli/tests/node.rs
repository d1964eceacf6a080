//! The agent as a process on a node of a real cluster of network namespaces: policies applied while
//! connections run, restarts, and what `status` and `detach` say and leave. Needs root.

mod common;

use std::{
    net::IpAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use common::{Node, Running};
use netpolc_host::conntrack;
use netpolc_testbed::{
    netns::Site,
    probe::{Answer, Ask, Connection, PATIENCE, Question, ask},
};
use serde_json::Value;

fn policy(role: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: default}}
spec:
  podSelector: {{matchLabels: {{role: db}}}}
  policyTypes: [Ingress]
  ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {role}}}}}}}], ports: [{{port: 6379}}]}}]
"
    )
}

const REDIS: Ask = Ask::Tcp(6379);

impl Node {
    fn agent(&self) -> Running {
        let from = self.folder.to_str().unwrap();
        Running::start(
            self.command(&["agent", "--node", "n1", "--from", from]).stderr(Stdio::null()),
        )
    }

    fn status(&self) -> Value {
        let output = self.netpolc(&["status", "-o", "json"]);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until every pod has its interface.
    fn wait(&self) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.netpolc(&["status", "-o", "json"]);
            let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            let endpoints = status["endpoints"].as_array().map_or(0, |e| {
                e.iter().filter(|e| e["interface"].is_string() && e["pod"].is_string()).count()
            });
            if endpoints == 3 {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent is not ready: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn passes(&self, from: &str, to: &str, patience: Duration) -> bool {
        let to: IpAddr = to.parse().unwrap();
        ask(&[Question::new(self.pod(from), to, REDIS)], patience).unwrap()[0].passed()
    }

    /// How long until a question gets this answer.
    fn until(&self, from: &str, to: &str, expected: bool) -> Duration {
        let began = Instant::now();
        loop {
            // A packet between two namespaces takes well under a millisecond.
            let passes =
                self.passes(from, to, Duration::from_millis(if expected { 200 } else { 15 }));
            let took = began.elapsed();
            // Unless the machine is busy with something else.
            if passes == expected && (expected || !self.passes(from, to, PATIENCE)) {
                return took;
            }
            assert!(took < Duration::from_secs(20), "{from} -> {to} never becomes {expected}");
        }
    }
}

fn open(from: &Site, to: &str) -> Connection {
    Connection::open(from, to.parse().unwrap(), REDIS, PATIENCE)
        .unwrap()
        .expect("nothing is isolated yet")
}

/// S12, S40, S41, S42, S58, S60 in the life of one node.
#[test]
fn s58_enforcement_outlives_the_agent_and_running_connections_follow_policy() {
    let node = Node::up("life", &[REDIS]);
    let mut wanted = [open(node.pod("ui"), "10.7.0.1"), open(node.pod("ui"), "fd07::1")];
    let mut unwanted = open(node.pod("other"), "10.7.0.1");
    // The pod's own connections were opened by it: its ingress policy says nothing about them.
    let mut own = open(node.pod("db"), "10.7.0.3");
    let agent = node.agent();
    node.wait();
    node.apply(Some(&policy("ui")));
    let took = node.until("other", "10.7.0.1", false);
    println!("a denial was enforced {took:?} after the file was written");
    for connection in wanted.iter_mut().chain([&mut own]) {
        assert_eq!(connection.poke(PATIENCE), Answer::Echo, "{connection:?}");
    }
    assert_eq!(unwanted.poke(PATIENCE), Answer::Silent);
    assert!(node.passes("ui", "fd07::1", PATIENCE) && !node.passes("other", "fd07::1", PATIENCE));

    let status = node.status();
    let db = &status["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["pod"] == "default/db")
        .unwrap()
        .clone();
    assert!(db["ingressSet"].is_number() && db["egressSet"].is_null(), "{db}");
    assert!(db["drops"]["to_pod policy"].as_u64() > Some(0), "{db}");
    assert!(db["adopted"].as_u64() >= Some(4), "{db}");
    assert_eq!(status["agent"]["running"], true);

    // Isolated in the other direction too: what others opened needed no entry until now, and goes
    // on.
    let nowhere = policy("nobody")
        .replace("Ingress", "Egress")
        .replace("ingress:", "egress:")
        .replace("from:", "to:");
    node.apply(Some(&format!(
        "{}---\n{}",
        policy("ui"),
        nowhere.replace("name: db", "name: nowhere")
    )));
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.passes("db", "10.7.0.3", PATIENCE) {
        assert!(Instant::now() < deadline, "the pod's egress is never isolated");
    }
    for connection in &mut wanted {
        assert_eq!(connection.poke(PATIENCE), Answer::Echo, "{connection:?}");
    }
    assert!(node.passes("ui", "10.7.0.1", PATIENCE) && !node.passes("other", "10.7.0.1", PATIENCE));
    node.apply(Some(&policy("ui")));
    node.until("db", "10.7.0.3", true);

    // Stopped, killed, started again: the same answers all the time.
    agent.stop(libc::SIGTERM);
    assert!(node.passes("ui", "10.7.0.1", PATIENCE) && !node.passes("other", "10.7.0.1", PATIENCE));
    let second = node.agent();
    node.wait();
    assert_eq!(wanted[0].poke(PATIENCE), Answer::Echo);
    second.stop(libc::SIGKILL);
    assert_eq!(node.status()["agent"]["running"], false);
    assert!(!node.passes("other", "10.7.0.1", PATIENCE));

    // Tightened while no agent runs: the next one cuts what is no longer allowed (S41).
    node.apply(Some(&policy("nobody")));
    let third = node.agent();
    node.until("ui", "10.7.0.1", false);
    assert_eq!(wanted[0].poke(PATIENCE), Answer::Silent);
    assert_eq!(own.poke(PATIENCE), Answer::Echo);

    // Deleting the last policy lifts isolation at once (S60) and kills nothing (S42).
    node.apply(None);
    node.until("other", "10.7.0.1", true);
    assert_eq!(own.poke(PATIENCE), Answer::Echo);
    // TCP repeats what was dropped.
    assert_eq!(wanted[0].poke(Duration::from_secs(10)), Answer::Echo);
    third.stop(libc::SIGINT);

    let output = node.netpolc(&["detach"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!node.pins.exists());
    let status = node.status();
    assert_eq!((&status["enforcing"], &status["agent"]), (&Value::Bool(false), &Value::Null));
}

/// S40: what is asked of the kernel by address is what everything that it tracks says of that
/// address.
#[test]
fn s40_tracked_connections_are_found_by_the_address_of_either_end() {
    let node = Node::up("tracked", &[REDIS]);
    let host = node.net.node("n1").unwrap();
    let rules = "add table inet t; add chain inet t c { type filter hook forward priority 0; }; \
                 add rule inet t c ct state new counter";
    assert!(host.command("nft").arg(rules).status().unwrap().success());
    let pairs = [("ui", "10.7.0.1"), ("other", "10.7.0.1"), ("ui", "fd07::1"), ("db", "10.7.0.3")];
    let _open = pairs.map(|(from, to)| open(node.pod(from), to));
    for (address, expected) in
        [("10.7.0.1", 3), ("10.7.0.2", 1), ("10.7.0.3", 2), ("fd07::2", 1), ("10.7.0.9", 0)]
    {
        let address: IpAddr = address.parse().unwrap();
        let (asked, all) = host
            .run(|| (conntrack::of(&[address].into()).unwrap(), conntrack::dump().unwrap()))
            .unwrap();
        let mut said: Vec<_> = all.into_iter().filter(|t| t.seen_by(address).is_some()).collect();
        said.sort_by_key(|t| t.original);
        assert_eq!((asked.len(), &asked), (expected, &said), "{address}");
    }
}

/// S61: a broken file changes nothing that is enforced; `--once` says so in its exit code.
#[test]
fn s61_a_broken_file_is_reported_and_widens_nothing() {
    let node = Node::up("broken", &[REDIS]);
    let from = node.folder.to_str().unwrap().to_owned();
    let once = ["agent", "--once", "--node", "n1", "--from", &from];
    node.apply(Some(&policy("ui")));
    let output = node.netpolc(&once);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(node.passes("ui", "10.7.0.1", PATIENCE) && !node.passes("other", "10.7.0.1", PATIENCE));

    // Understood in part: isolates, and allows nothing by what is broken.
    node.apply(Some(&policy("other").replace("from:", "form:")));
    let output = node.netpolc(&once);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("spec.ingress[0].form") && error.contains("policy.yaml"), "{error}");
    assert!(
        !node.passes("ui", "10.7.0.1", PATIENCE) && !node.passes("other", "10.7.0.1", PATIENCE)
    );

    // Not understood at all: what is enforced stays.
    node.apply(Some("kind: [NetworkPolicy"));
    let output = node.netpolc(&once);
    assert_ne!(output.status.code(), Some(0));
    assert!(!node.passes("other", "10.7.0.1", PATIENCE));
}
