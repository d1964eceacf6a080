//! `netpolc flows` on a node with real packets: what is denied, allowed and only tried, with both
//! ends and the rules; filters; files; logs; agents that come and go; readers who do not read.
//! Needs root.

mod common;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{Node, Running, UI_TO_DB};
use netpolc_agent::serve::{record::Alive, state_dir};
use netpolc_testbed::probe::{Ask, PATIENCE, Question, ask};
use serde_json::{Value, json};

const REDIS: Ask = Ask::Tcp(6379);
/// How long what must happen may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Would let nobody open connections to db, and is only tried.
const AUDITED: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: default, annotations: {netpolc.io/mode: audit}}
spec: {podSelector: {matchLabels: {role: ui}}, policyTypes: [Ingress]}
";

/// A node with an agent.
struct Watched {
    agent: Option<Running>,
    node: Node,
    log: PathBuf,
}

impl Watched {
    fn up(name: &str, policies: &str) -> Self {
        let node = Node::up(name, &[REDIS]);
        node.apply(Some(policies));
        let log = std::env::temp_dir().join(format!("netpolc-{name}-{}.log", std::process::id()));
        let mut this = Self { agent: None, node, log };
        this.start(&[]);
        this
    }

    /// Starts the agent, and waits until it serves flows and enforces the policy.
    fn start(&mut self, more: &[&str]) {
        let from = self.node.folder.to_str().unwrap();
        let arguments = [&["agent", "--node=n1", "--from", from], more].concat();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        self.agent = Some(Running::start(self.node.command(&arguments).stderr(log)));
        self.until("flows are served", || {
            Alive::is_shown(&self.node.pins) && self.flows(&[]).status.success()
        });
        self.until("the policy is enforced", || !self.passes("other", "10.7.0.1"));
    }

    fn stop(&mut self) {
        self.agent.take().unwrap().stop(libc::SIGTERM);
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            let said = fs::read_to_string(&self.log).unwrap();
            assert!(Instant::now() < deadline, "never: {what}\n{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn passes(&self, from: &str, to: &str) -> bool {
        let question = Question::new(self.node.pod(from), to.parse().unwrap(), REDIS);
        ask(&[question], PATIENCE).unwrap()[0].passed()
    }

    fn flows(&self, arguments: &[&str]) -> Output {
        self.node.netpolc(&[&["flows"], arguments].concat())
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.flows(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The flows that these arguments find.
    fn found(&self, arguments: &str) -> Vec<Value> {
        let words = arguments.split_whitespace().chain(["-o", "json"]);
        let text = self.text(&words.collect::<Vec<_>>());
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|mut line| Some(line.get_mut("flow")?.take())).collect()
    }

    /// Waits for a flow that these arguments find.
    fn one(&self, arguments: &str) -> Value {
        self.until(arguments, || !self.found(arguments).is_empty());
        self.found(arguments).pop().unwrap()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It goes first: what it has installed can be removed only then.
        drop(self.agent.take());
        let _ = fs::remove_file(&self.log);
    }
}

#[test]
fn s87_s88_flows_name_both_ends_and_the_rules_that_decided() {
    let node = Watched::up("flows", &[UI_TO_DB, AUDITED].concat());
    assert!(node.passes("ui", "10.7.0.1") && !node.passes("other", "fd07::1"));

    let denied = node.one("--verdict denied --from-pod default/other --ip 10.7.0.1");
    for (path, expected) in [
        ("/node", json!("n1")),
        ("/reason", json!("policy")),
        ("/direction", json!("ingress")),
        ("/pod", json!("default/db")),
        ("/source/pod", json!("default/other")),
        ("/source/address", json!("10.7.0.3")),
        ("/source/labels/role", json!("other")),
        ("/destination/pod", json!("default/db")),
        ("/destination/port", json!(6379)),
        ("/protocol", json!("TCP")),
        ("/tcpFlags", json!("SYN")),
        ("/by", json!([{"kind": "NetworkPolicy", "namespace": "default", "name": "db"}])),
    ] {
        assert_eq!(denied.pointer(path), Some(&expected), "{path} in {denied:#}");
    }
    assert!(denied["source"]["port"].as_u64().unwrap() > 0);
    node.one("--verdict denied --from-pod default/other --ip fd07::1");

    let allowed = node.one("--verdict allowed --from-pod default/ui --to-pod default/db");
    let rule = json!([{
        "kind": "NetworkPolicy", "namespace": "default", "name": "db",
        "rule": "ingress[0]", "peer": 0, "port": 0,
    }]);
    assert_eq!(allowed["by"], rule, "{allowed:#}");
    assert_eq!(allowed["destination"]["port"], json!(6379));

    // What is only tried drops nothing.
    assert!(node.passes("other", "10.7.0.2"));
    let tried = node.one("--verdict audit --to-pod default/ui");
    assert_eq!(tried["by"][0]["name"], json!("nobody"), "{tried:#}");
    assert_eq!(tried["source"]["pod"], json!("default/other"));

    let last = node.found("--last 1 --verdict denied");
    assert_eq!((last.len(), &last[0]["verdict"]), (1, &json!("denied")), "{last:#?}");
    let both = node.found("--last 100 --verdict denied --verdict allowed --to-port 6379");
    assert!(both.iter().any(|f| f["verdict"] == "allowed"), "{both:#?}");
    assert!(both.iter().any(|f| f["verdict"] == "denied"), "{both:#?}");
    for nothing in [
        "--not namespace=default",
        "--verdict denied --from-pod default/ui --to-pod default/db",
        "--protocol udp",
        "--since 2020-01-01T00:00:00Z --policy default/else",
    ] {
        assert_eq!(node.found(nothing), [] as [Value; 0], "{nothing}");
    }

    let line = node.text(&["--last", "1", "--verdict", "denied", "--ip", "10.7.0.1"]);
    let ends = line.split(" ingress ").nth(1).unwrap();
    assert!(ends.starts_with("default/other:") && line.lines().count() == 1, "{line}");
    assert!(
        ends.ends_with("-> default/db:6379 TCP SYN (policy: isolated by default/db)\n"),
        "{line}"
    );
    let table = node.text(&["-o", "table", "--verdict", "denied"]);
    assert!(table.starts_with(" time ") && table.contains("default/db:6379"), "{table}");
    let top = node.text(&["--top"]);
    let first = top.lines().nth(2).unwrap();
    assert!(first.contains("| default/other | default/db  | default/db |"), "{top}");

    // What was printed for programs is read again.
    let file = node.node.folder.with_extension("jsonl");
    fs::write(&file, node.text(&["-o", "json", "--last", "50"])).unwrap();
    let arguments = ["--verdict", "denied", "--from-pod", "default/other"];
    let read = node.text(&[&["--input-file", file.to_str().unwrap()], &arguments[..]].concat());
    assert_eq!(read, node.text(&[&["--last", "50"], &arguments[..]].concat()));
    fs::remove_file(file).unwrap();
}

/// Flows are logged and counted, by what has decided.
#[test]
fn flows_are_logged_and_counted() {
    let node = Node::up("flows-log", &[REDIS]);
    node.apply(Some(UI_TO_DB));
    let log = node.folder.with_extension("agent");
    let file = node.folder.with_extension("flows");
    let mut watched = Watched { agent: None, node, log };
    let path = file.to_str().unwrap();
    watched.start(&["--flow-log", path, "--metrics-address=127.0.0.1:9643"]);
    let denied = ["--input-file", path, "--verdict", "denied", "--policy", "default/db"];
    watched.until("a denial is logged", || !watched.text(&denied).is_empty());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.lines().all(|line| line.starts_with("{\"flow\":{")), "{text}");
    let counted = |name: &str| watched.node.metrics().lines().any(|line| line.starts_with(name));
    watched.until("it is counted", || counted("netpolc_flows_total{verdict=\"denied\"} "));
    let by_policy = "netpolc_rule_flows_total{policy=\"default/db\",rule=\"\",verdict=\"denied\"} ";
    assert!(counted(by_policy), "{}", watched.node.metrics());

    // Security tools get the same as events of OCSF, from the agent and from a file.
    let events = watched.text(&[&denied[..], &["-o", "ocsf"]].concat());
    let event: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!((&event["class_uid"], &event["action_id"]), (&json!(4001), &json!(2)), "{event:#}");
    assert_eq!(event["policy"]["name"], "default/db");
    let followed = watched.text(&["-o", "ocsf", "--verdict", "denied", "--last", "1"]);
    assert!(followed.starts_with("{\"") && followed.contains("\"type_uid\":400105"), "{followed}");

    // A log that cannot be opened is not started without.
    watched.stop();
    let from = watched.node.folder.to_str().unwrap();
    let arguments = ["agent", "--node=n1", "--from", from, "--flow-log", from];
    let output = watched.node.netpolc(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("--flow-log /"), "{said}");
    // Standard output has nothing but flows.
    let shown = File::create(&file).unwrap();
    let mut command = watched.node.command(&[&arguments[..5], &["-"]].concat());
    watched.agent = Some(Running::start(command.stdout(shown).stderr(Stdio::null())));
    watched.until("flows are on standard output", || {
        !watched.passes("other", "10.7.0.1") && !watched.text(&denied).is_empty()
    });
    watched.stop();
    fs::remove_file(&file).unwrap();
    watched.start(&["--flow-log", path, "--flow-log-format=ocsf"]);
    watched.until("an event is logged", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_denial = |event: &Value| event["type_uid"] == 400_105;
        events.filter(is_denial).any(|event| event["policy"]["name"] == "default/db")
    });
    fs::remove_file(file).unwrap();
}

/// One process shows flows of two agents, one after the other, and ends when it is interrupted.
#[test]
fn s89_flows_go_on_when_another_agent_takes_over() {
    let mut node = Watched::up("flows-restart", UI_TO_DB);
    let (shown, said) =
        (node.node.folder.with_extension("out"), node.node.folder.with_extension("err"));
    let mut follow = node.node.command(&["flows", "--follow", "--verdict", "denied"]);
    follow.stdout(File::create(&shown).unwrap()).stderr(File::create(&said).unwrap());
    let reader = Running::start(&mut follow);
    let lines = || fs::read_to_string(&shown).unwrap().lines().count();
    node.until("the first agent's flows are shown", || {
        !node.passes("other", "10.7.0.1") && lines() > 0
    });
    node.stop();
    // Nobody records what is denied meanwhile, and it is denied.
    assert!(!node.passes("other", "10.7.0.1") && node.passes("ui", "10.7.0.1"));
    let output = node.flows(&[]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && why.contains("no agent runs for"), "{why}");
    node.start(&[]);
    let before = lines();
    node.until("the second agent's flows are shown", || {
        !node.passes("other", "10.7.0.1") && lines() > before
    });
    assert!(fs::read_to_string(&said).unwrap().contains("the agent has hung up"));
    assert_eq!(reader.end(libc::SIGINT).code(), Some(130));
    let text = fs::read_to_string(&shown).unwrap();
    assert!(text.lines().all(|line| line.contains("isolated by default/db")), "{text}");
    let _ = (fs::remove_file(shown), fs::remove_file(said));
}

#[test]
fn a_reader_who_does_not_read_holds_up_neither_others_nor_the_agent() {
    let node = Watched::up("flows-slow", UI_TO_DB);
    let mut slow = UnixStream::connect(state_dir::flows(&node.node.pins)).unwrap();
    slow.write_all(b"{\"follow\":true}\n").unwrap();
    let to = "10.7.0.1".parse().unwrap();
    let many = vec![Question::new(node.node.pod("other"), to, REDIS); 500];
    assert!(ask(&many, PATIENCE).unwrap().iter().all(|answer| !answer.passed()));
    // What happens now is seen, and a new policy is enforced.
    let began = Instant::now();
    assert!(!node.passes("other", "fd07::1"));
    node.one("--verdict denied --ip fd07::1");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    node.node.apply(None);
    node.until("the policy is gone", || node.passes("other", "10.7.0.1"));
    drop(slow);
}

#[test]
fn what_cannot_be_shown_says_what_to_do() {
    let netpolc = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
        let output = command.arg("flows").args(arguments).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, why) in [
        (&["--pin-dir=/sys/fs/bpf/netpolc-nobody"][..], "no agent runs for"),
        (&["--since", "soon"], "write how long ago, such as 30s"),
        (&["--follow", "-o", "table"], "with --follow use -o compact, json or ocsf"),
        (&["--top", "-o", "json"], "omit -o"),
        (&["--input-file", "/nowhere"], "/nowhere cannot be read"),
        (&["--input-file", "/proc/version"], "/proc/version, line 1, is no flow"),
    ] {
        let (code, said) = netpolc(arguments);
        assert!(code == Some(2) && said.contains(why), "{arguments:?}: {code:?} {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(netpolc(&["--input-file", "-"]), (Some(0), String::new()));
}
