//! What is asked about the tables of a real node. `netpolc verify --installed` finds nothing where
//! all is well, and whatever is changed behind the agent's back, by its kind; `explain` and `list`
//! say what the tables say, with the agent's names. Needs root.

mod common;

use std::{
    fs,
    path::PathBuf,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use common::{
    CLUSTER, Node, Running, UI_TO_DB,
    tamper::{Array, detach, generation, links},
};
use netpolc_target_ebpf::layout::endpoint;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// A node on which an agent has enforced [`UI_TO_DB`] by TCX links, and has ended.
struct Enforced(Node);

impl Enforced {
    fn up(name: &str) -> Self {
        let node = Node::up(name, &[]);
        node.apply(Some(UI_TO_DB));
        let from = node.folder.to_str().unwrap();
        let mut command = node.command(&["agent", "--node=n1", "--from", from]);
        let agent = Running::start(command.stderr(Stdio::null()));
        let deadline = Instant::now() + DEADLINE;
        while !node.pins.join("links").exists() || links(&node.pins).len() < 3 {
            assert!(Instant::now() < deadline, "there are never links");
            std::thread::sleep(Duration::from_millis(50));
        }
        agent.stop(libc::SIGTERM);
        Self(node)
    }

    fn verify(&self, more: &[&str]) -> Output {
        let folder = self.0.folder.to_str().unwrap();
        self.0.netpolc(&[&["verify", "--installed", "-f", folder], more].concat())
    }

    /// The kinds of the findings in their order, each once, and all texts.
    fn found(&self) -> (Vec<String>, String) {
        let output = self.verify(&["-o", "json"]);
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let findings = said["findings"].as_array().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!findings.is_empty())), "{said:#}");
        let mut kinds: Vec<String> =
            findings.iter().map(|f| f["kind"].as_str().unwrap().to_owned()).collect();
        kinds.dedup();
        let texts: Vec<&str> = findings.iter().map(|f| f["what"].as_str().unwrap()).collect();
        (kinds, texts.join("\n"))
    }

    fn sound(&self) {
        assert_eq!(self.found(), (vec![], String::new()));
    }

    fn map(&self, name: &str) -> Array {
        Array::open(&generation(&self.0.pins).join(name))
    }

    /// Finds these kinds of findings while a map is changed.
    fn while_changed(&self, map: &str, change: impl Fn(&mut [u8]), kinds: &[&str]) -> String {
        let map = self.map(map);
        let before = map.read();
        let mut changed = before.clone();
        change(&mut changed);
        map.write(changed);
        let (found, texts) = self.found();
        assert_eq!(found, kinds, "{texts}");
        map.write(before);
        self.sound();
        texts
    }
}

#[test]
fn a_sound_node_is_one_line_and_whatever_is_changed_is_found() {
    let node = Enforced::up("verify");
    let output = node.verify(&[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().count() == 1 && said.starts_with("Node n1: "), "{said}");
    assert!(said.contains("agrees with the policies: 3 endpoints"), "{said}");

    let open = |records: &mut [u8]| {
        for record in records.chunks_exact_mut(endpoint::SIZE) {
            record[endpoint::WORD + endpoint::FLAGS_SHIFT as usize / 8] = 0;
        }
    };
    let texts = node.while_changed("endpoint", open, &["open", "entry"]);
    assert!(texts.contains("default/db") && texts.contains("table endpoint: "), "{texts}");
    let texts = node.while_changed("mask", |bits| bits.fill(0), &["closed", "entry"]);
    assert!(texts.contains("table verdict: ") && texts.contains("is missing"), "{texts}");
    node.while_changed("remote_v4", |slots| slots.fill(0xff), &["unreadable"]);

    for link in links(&node.0.pins) {
        detach(&link);
    }
    let (kinds, texts) = node.found();
    assert_eq!(kinds, ["notAttached"], "{texts}");
    assert!(texts.contains("of pod default/db"), "{texts}");
}

#[test]
fn pods_and_endpoints_that_have_no_counterpart_are_named() {
    let node = Enforced::up("verify-pods");
    node.sound();
    let late = CLUSTER.split("---").nth(1).unwrap();
    let late = late.replace("name: db", "name: late").replace("7.0.1", "7.0.9");
    let late = late.replace("fd07::1", "fd07::9");
    let file: PathBuf = node.0.folder.join("late.yaml");
    fs::write(&file, late).unwrap();
    let (kinds, texts) = node.found();
    // The tables know its address as nobody's.
    assert_eq!(kinds[0], "podWithoutEndpoint", "{texts}");
    assert!(texts.contains("pod default/late"), "{texts}");
    fs::remove_file(file).unwrap();
    node.sound();

    let others: Vec<&str> = CLUSTER.split("---").filter(|o| !o.contains("name: other")).collect();
    fs::write(node.0.folder.join("cluster.yaml"), others.join("---")).unwrap();
    let (kinds, texts) = node.found();
    assert!(kinds.contains(&"endpointWithoutPod".to_owned()), "{kinds:?} {texts}");
}

#[test]
fn what_is_not_there_is_a_finding_and_what_is_not_known_an_error() {
    let node = Node::up("verify-nothing", &[]);
    let folder = node.folder.to_str().unwrap();
    let verify = |more: &[&str]| {
        let output = node.netpolc(&[&["verify", "--installed", "-f", folder], more].concat());
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, said) = verify(&["--node", "n1"]);
    assert!(code == Some(1) && said.contains("no tables are pinned in"), "{said}");
    let (code, said) = verify(&[]);
    assert!(code == Some(2) && said.contains("give it as --node"), "{said}");
    let (code, said) = verify(&["--node", "n7"]);
    assert!(code == Some(2) && said.contains("--node n7 is not in the input"), "{said}");
}

/// Runs a command on the node and returns its exit code with what it printed.
fn said(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let output = node.netpolc(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_tables_of_a_node_explain_themselves() {
    let node = Enforced::up("explain");
    let explain = |source: &str, destination: &str, more: &[&str]| {
        said(&node.0, &[&["explain", "--installed", source, destination], more].concat())
    };
    let (code, text) = explain("default/ui", "default/db:6379", &[]);
    assert_eq!(code, Some(0), "{text}");
    let first = "default/ui -> default/db:6379: allowed, by the tables in the kernel of node n1";
    assert_eq!(text.lines().next(), Some(first));
    let v4 = "default/ui (10.7.0.2) -> default/db (10.7.0.1) TCP 6379: allowed";
    let v6 = "default/ui (fd07::2) -> default/db (fd07::1) TCP 6379: allowed";
    assert!(text.contains(v4) && text.contains(v6), "{text}");
    assert!(text.contains("egress of default/ui: allowed, no set judges it"), "{text}");
    assert!(text.contains("ingress of default/db: allowed, table verdict permits it"), "{text}");
    assert!(
        text.contains("remote_v4: 10.7.0.2/32 -> set_remote") && text.contains("port: tcp, 6379"),
        "{text}"
    );

    for (source, port) in [("default/ui", "6380"), ("default/other", "6379"), ("192.0.2.9", "80")] {
        let (code, text) = explain(source, &format!("default/db:{port}"), &["-o", "json"]);
        let stories: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &stories[0]["allowed"]), (Some(0), &Value::Bool(false)), "{text}");
    }
    let (_, text) = explain("192.0.2.1", "192.0.2.9:80", &[]);
    assert!(text.contains("judged by other nodes, since neither end is a pod"), "{text}");
    for (destination, message) in
        [("default/db", "name one port"), ("default/dc:80", "did you mean default/db?")]
    {
        let (code, text) = explain("default/ui", destination, &[]);
        assert!(code == Some(2) && text.contains(message), "{code:?} {text}");
    }

    // Beside policies it says whether they agree.
    let folder = node.0.folder.to_str().unwrap();
    let (code, text) = explain("default/other", "default/db:6379", &["-f", folder]);
    assert!(code == Some(0) && text.contains("policies of the input say the same"), "{text}");
    node.0.apply(None);
    let (code, text) = explain("default/other", "default/db:6379", &["-f", folder]);
    assert!(code == Some(1) && text.contains("policies of the input say something else"), "{text}");
}

#[test]
fn the_tables_of_a_node_list_what_they_permit() {
    let node = Enforced::up("list");
    let (code, text) = said(&node.0, &["list", "--installed", "-o", "csv"]);
    assert_eq!(code, Some(0), "{text}");
    let open = "everything, since nothing isolates it";
    let lines = [
        "pod,direction,with,traffic".to_owned(),
        "default/db,ingress,default/ui,TCP 6379".to_owned(),
        format!("default/db,egress,anyone,\"{open}\""),
        format!("default/other,ingress,anyone,\"{open}\""),
        format!("default/other,egress,anyone,\"{open}\""),
        format!("default/ui,ingress,anyone,\"{open}\""),
        format!("default/ui,egress,anyone,\"{open}\""),
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    let (code, text) = said(&node.0, &["list", "--installed", "-o", "dot"]);
    assert!(code == Some(2) && text.contains("use -o text"), "{text}");
    let (code, text) = said(&node.0, &["list", "--installed", "--exposed"]);
    assert!(code == Some(2) && text.contains("cannot be used with"), "{text}");
}
