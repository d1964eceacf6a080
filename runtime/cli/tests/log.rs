//! The agent's own log: what it says of policies that come, change and go, in both formats. Needs
//! root.

mod common;

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{Node, Running, UI_TO_DB};
use serde_json::Value;

/// How long what must happen may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// An agent whose log is JSON.
struct Logged {
    agent: Running,
    node: Node,
    log: PathBuf,
}

impl Logged {
    fn start(node: Node, name: &str) -> Self {
        let log = std::env::temp_dir().join(format!("netpolc-{name}-{}.log", std::process::id()));
        let from = node.folder.to_str().unwrap();
        let arguments = ["agent", "--node=n1", "--log-format=json", "--from", from];
        let written = File::create(&log).unwrap();
        let agent = Running::start(node.command(&arguments).stderr(written));
        Self { agent, node, log }
    }

    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap();
        // The last line may be in the middle of being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Waits for an event whose message begins so, and returns it.
    fn until(&self, begins: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let message = |event: &Value| event["message"].as_str().unwrap().to_owned();
            if let Some(event) = self.events().into_iter().find(|e| message(e).starts_with(begins))
            {
                return event;
            }
            assert!(Instant::now() < deadline, "never: {begins}\n{:#?}", self.events());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn every_policy_has_a_line_when_it_comes_changes_and_goes() {
    let node = Node::up("log", &[]);
    let log = Logged::start(node, "log");
    log.until("no tables of an earlier agent are installed");
    let first = log.until("the kernel is in step: 0 of the node's 3 pods are isolated");
    assert_eq!((&first["pods"], &first["isolated"]), (&3.into(), &0.into()), "{first:#}");

    log.node.apply(Some(UI_TO_DB));
    let came = log.until("NetworkPolicy default/db has come");
    let text = "NetworkPolicy default/db has come; it selects default/db; isolates ingress of \
        default/db; it is enforced";
    assert_eq!(came["message"], text);
    assert_eq!((&came["level"], &came["pods"]), (&"INFO".into(), &1.into()), "{came:#}");
    assert!(came["took_ms"].as_f64().unwrap() > 0.0, "{came:#}");

    log.node.apply(Some(&UI_TO_DB.replace("{role: db}", "{role: other}")));
    let changed = log.until("NetworkPolicy default/db has changed");
    let text = "NetworkPolicy default/db has changed; it selects default/db, default/other; \
        isolates ingress of default/other; opens ingress of default/db; it is enforced";
    assert_eq!(changed["message"], text);
    let opened = log.until("no policy isolates the pod in this direction any more");
    assert_eq!((&opened["level"], &opened["pod"]), (&"WARN".into(), &"default/db".into()));

    log.node.apply(None);
    let gone = log.until("NetworkPolicy default/db has gone");
    assert!(
        gone["message"].as_str().unwrap().contains("opens ingress of default/other"),
        "{gone:#}"
    );
}

#[test]
fn an_agent_that_finds_everything_in_place_says_so() {
    let node = Node::up("log-again", &[]);
    node.apply(Some(UI_TO_DB));
    let from = node.folder.to_str().unwrap().to_owned();
    let once = node.netpolc(&["agent", "--node=n1", "--once", "--from", &from]);
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let log = Logged::start(node, "log-again");
    let found = log.until("the tables of an earlier agent judge the packets of 3 pods");
    assert_eq!(found["pods"], 3, "{found:#}");
    let done = log.until("the kernel is in step: 1 of the node's 3 pods are isolated");
    assert_eq!(done["writes"], 0, "{done:#}");
    // The record names this process, although there was nothing to write to the tables.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = log.node.netpolc(&["status", "-o", "json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        if status["agent"]["pid"] == log.agent.id() {
            break;
        }
        assert!(Instant::now() < deadline, "{status:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
