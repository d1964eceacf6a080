//! `netpolc recommend`: from files, with the proof by `netpolc test`; and on a node with real
//! packets, from a default deny that is only tried to policies that are enforced. The latter needs
//! root.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use common::{Node, Running};
use netpolc_agent::serve::record::Alive;
use netpolc_testbed::probe::{Ask, PATIENCE, Question, ask};
use serde_json::{Value, json};

const REDIS: Ask = Ask::Tcp(6379);
/// How long what must happen may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn netpolc(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolc")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The shop of the demo: objects without policies.
fn shop() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../testbed/shop/shop.yaml").to_owned()
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netpolc-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_string_lossy().into_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A line of a log: what this node's agent says of a packet from one pod of the shop to another.
fn line(node: &str, verdict: &str, ends: [&str; 2], port: u16, direction: &str) -> String {
    let address = |pod: &str| match pod {
        "orders/orders" => "10.42.1.17",
        "orders/postgres" => "10.42.2.18",
        "ui/ui" => "10.42.1.10",
        other => panic!("{other}"),
    };
    let peer = |pod: &str, port: u16| {
        let name = pod.rsplit('/').next();
        json!({"address": address(pod), "port": port, "pod": pod, "labels": {"app": name}})
    };
    let pod = if direction == "ingress" { ends[1] } else { ends[0] };
    let by =
        json!([{"kind": "NetworkPolicy", "namespace": "orders", "name": "default-deny-audit"}]);
    let reason = (verdict == "denied").then_some("policy");
    let flow = json!({
        "time": 1_796_090_400_000_000_000_u64, "node": node, "verdict": verdict, "reason": reason,
        "direction": direction, "pod": pod, "source": peer(ends[0], 40000),
        "destination": peer(ends[1], port), "protocol": "TCP", "by": by, "bytes": 74,
    });
    format!("{}\n", json!({ "flow": flow }))
}

#[test]
fn policies_from_the_flows_of_two_nodes_permit_what_was_seen() {
    let folder = Folder::new("recommend");
    let ends = ["orders/orders", "orders/postgres"];
    let first = folder.write("n1.jsonl", &line("n1", "audit", ends, 5432, "egress"));
    let second = [
        line("n2", "audit", ends, 5432, "ingress"),
        line("n2", "denied", ["ui/ui", "orders/postgres"], 5432, "ingress"),
    ];
    let second = folder.write("n2.jsonl", &second.concat());
    let start = netpolc(&["recommend", "--start", "-n", "orders", "-n", "ui"]);
    assert!(start.status.success(), "{}", text(&start.stderr));
    let start = folder.write("start.yaml", &text(&start.stdout));
    let (shop, seen) = (shop(), folder.path("seen.txt"));
    let from = ["--input-file", &first, "--input-file", &second];
    let of = |more: &[&str]| {
        let input = ["recommend", "-f", &shop, "-f", &start];
        netpolc(&[&input[..], &from[..], more].concat())
    };
    let found = of(&["--expectations", &seen]);
    let (yaml, said) = (text(&found.stdout), text(&found.stderr));
    assert_eq!(found.status.code(), Some(0), "{said}");
    assert!(said.contains("note: denied when it was seen"), "{said}");
    assert!(yaml.contains("name: postgres-seen\n") && yaml.contains("port: postgres\n"), "{yaml}");

    // They are expected to permit what was seen, and they do.
    let expected = fs::read_to_string(&seen).unwrap();
    let only = "pod/orders/orders -> pod/orders/postgres:5432/tcp allowed";
    assert!(expected.contains(only) && expected.lines().count() == 2, "{expected}");
    let policies = folder.write("policies.yaml", &yaml);
    let test = |expectations: &str| {
        let tested = netpolc(&["test", expectations, "-f", &shop, "-f", &policies]);
        (tested.status.code(), text(&tested.stdout))
    };
    assert_eq!(test(&seen), (Some(0), "1 of 1 expectations are met.\n".into()));
    let nothing_else = "ui/ui -> orders/postgres:5432 denied\norders/orders -> orders/postgres:22 \
                        denied\norders/postgres -> orders/orders:8080 denied\n\
                        orders/orders -> ui/ui:8080 denied\n";
    let (code, told) = test(&folder.write("nothing-else.txt", nothing_else));
    assert_eq!(code, Some(0), "{told}");

    // Marked as tried they deny nothing, and for others there are none.
    let tried = text(&of(&["--audit", "--workload", "pod/orders/postgres"]).stdout);
    assert_eq!(tried.matches("netpolc.io/mode: audit").count(), 1, "{tried}");
    assert!(!tried.contains("name: orders-seen"), "{tried}");
    let data: Value = serde_json::from_slice(&of(&["-o", "json"]).stdout).unwrap();
    assert_eq!(data.pointer("/policies/1/policy/metadata/name"), Some(&json!("postgres-seen")));
    assert_eq!(data.pointer("/policies/1/ingress/seen/0/count"), Some(&json!(1)));
    assert_eq!(data.pointer("/denied/0/traffic"), Some(&json!("TCP 5432")));
}

#[test]
fn what_cannot_be_is_said_with_what_to_do() {
    let folder = Folder::new("recommend-nothing");
    let empty = folder.write("empty.jsonl", "\n");
    let flows = folder.write(
        "flows.jsonl",
        &line("n2", "audit", ["orders/orders", "orders/postgres"], 5432, "ingress"),
    );
    let broken = folder.write("broken.jsonl", "{\"flow\":1}\n");
    let shop = shop();
    for (arguments, part) in [
        (vec!["--input-file", &empty, "-f", &shop], "recommend --start --namespace"),
        (vec!["--input-file", &flows, "-n", "nobody"], "recommend --start --namespace"),
        (vec!["--input-file", &broken], "line 1, is no flow"),
        (vec!["--input-file", "/nowhere"], "cannot be read"),
        (vec!["--input-file", &flows, "-f", "/nowhere"], "-f /nowhere cannot be read"),
    ] {
        let output = netpolc(&[&["recommend"], &arguments[..]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part) && output.stdout.is_empty(), "{arguments:?}: {said}");
    }
    // What was seen and has no rule makes the exit code 1.
    let ping = line("n2", "audit", ["orders/orders", "orders/postgres"], 0, "ingress");
    let ping = folder.write("ping.jsonl", &ping.replace("\"TCP\"", "\"ICMP\""));
    let output = netpolc(&["recommend", "-f", &shop, "--input-file", &ping]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("ICMP"), "{}", text(&output.stderr));
}

fn passes(node: &Node, from: &str) -> bool {
    let question = Question::new(node.pod(from), "10.7.0.1".parse().unwrap(), REDIS);
    ask(&[question], PATIENCE).unwrap()[0].passed()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Nothing breaks when what an agent has seen is enforced, and nothing else passes any more.
#[test]
fn an_agents_flows_become_policies_that_it_enforces() {
    let node = Node::up("recommend", &[REDIS]);
    let start = node.netpolc(&["recommend", "--start", "--namespace", "default"]);
    node.apply(Some(&text(&start.stdout)));
    let from = node.folder.to_string_lossy().into_owned();
    let logs = Folder::new("recommend-log");
    let log = fs::File::create(logs.path("agent.log")).unwrap();
    let agent = ["agent", "--node=n1", "--from", &from];
    let agent = Running::start(node.command(&agent).stderr(log));
    let flows = |filter: &str| node.netpolc(&["flows", "--verdict", filter, "-o", "json"]);
    until("flows are served", || Alive::is_shown(&node.pins) && flows("audit").status.success());
    until("ui is seen", || {
        assert!(passes(&node, "ui"), "what is only tried denies nothing");
        !flows("audit").stdout.is_empty()
    });
    let cluster = Path::new(&from).join("cluster.yaml");
    let policy = Path::new(&from).join("policy.yaml");
    let input = [cluster.to_str().unwrap(), policy.to_str().unwrap()];
    let recommended = || node.netpolc(&["recommend", "-f", input[0], "-f", input[1]]);
    until("both ends are seen", || {
        text(&recommended().stdout).matches("kind: NetworkPolicy").count() == 2
    });
    let found = recommended();
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    let yaml = text(&found.stdout);
    assert!(passes(&node, "other"), "nothing is denied yet");
    node.apply(Some(&yaml));
    until("others are denied", || !passes(&node, "other"));
    assert!(passes(&node, "ui"), "{yaml}");
    agent.stop(libc::SIGTERM);
}
