//! What happens to files, and what a running agent makes of it: nothing is opened by accident,
//! deletions count, and nothing is waited for. The agent's process on a node of network namespaces,
//! with real packets. Needs root.

mod common;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use common::{Node, Running};
use netpolc_testbed::probe::{Ask, PATIENCE, Question, ask};
use serde_json::Value;

const WEB: Ask = Ask::Tcp(80);
/// Much longer than a change takes, and than files are looked at without one.
const SETTLED: Duration = Duration::from_millis(1500);

/// A policy that isolates one of the pods.
fn deny(pod: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {pod}, \
         namespace: default}}\n\
         spec: {{podSelector: {{matchLabels: {{role: {pod}}}}}, policyTypes: [Ingress]}}\n"
    )
}

/// A node, and a folder that nothing else happens in.
struct World {
    node: Node,
    quiet: PathBuf,
    log: PathBuf,
}

impl World {
    fn up(name: &str) -> Self {
        let node = Node::up(name, &[WEB]);
        let quiet =
            std::env::temp_dir().join(format!("netpolc-files-{name}-{}", std::process::id()));
        fs::create_dir_all(&quiet).unwrap();
        let log = node.folder.with_extension("log");
        Self { node, quiet, log }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.quiet.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    /// An agent that follows the node's objects and `from`.
    fn agent(&self, from: &Path) -> Running {
        Running::start(self.command(from).arg("--node").arg("n1"))
    }

    fn command(&self, from: &Path) -> Command {
        let mut command = self.node.command(&["agent"]);
        command.arg("--from").arg(&self.node.folder).arg("--from").arg(from);
        command
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stderr(File::create(&self.log).unwrap());
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.node.netpolc(&["status", "-o", "json"]).stdout)
            .unwrap_or_default()
    }

    /// The pods that are isolated for ingress.
    fn isolated(&self) -> BTreeSet<String> {
        let status = self.status();
        let pods = status["endpoints"].as_array().into_iter().flatten();
        let isolated = pods.filter(|e| e["ingressSet"].is_number() && e["interface"].is_string());
        isolated
            .filter_map(|e| Some(e["pod"].as_str()?.trim_start_matches("default/").to_owned()))
            .collect()
    }

    fn until(&self, pods: &[&str]) {
        let wanted: BTreeSet<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let began = Instant::now();
        while self.isolated() != wanted {
            let log = self.log();
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "isolated {:?}, wanted {pods:?}\n{log}",
                self.isolated()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// db is isolated now and a moment later, by real packets.
    fn stays_closed(&self, what: &str) {
        for _ in 0..2 {
            let db = "10.7.0.1".parse().unwrap();
            let answer =
                ask(&[Question::new(self.node.pod("other"), db, WEB)], Duration::from_millis(200))
                    .unwrap();
            assert!(!answer[0].passed(), "{what}: db is open\n{}", self.log());
            std::thread::sleep(SETTLED / 2);
        }
    }

    fn logs(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "`{text}` is not logged:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The status says so, if a moment after the log does.
    fn comes_to_say(&self, what: &str, said: impl Fn(&Value) -> bool) {
        let began = Instant::now();
        loop {
            let status = self.status();
            if said(&status["agent"]) {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "the status does not say: {what}\n{status:#}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.quiet);
        let _ = fs::remove_file(&self.log);
    }
}

/// S12: a change is enforced wherever it is made, also in a folder that was made anew.
#[test]
fn s12_folders_and_links_that_are_made_anew_are_followed() {
    let world = World::up("anew");
    let folder = world.at("folder");
    let agent = world.agent(&folder);
    world.logs("in step");
    for _ in 0..2 {
        fs::create_dir(&folder).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        fs::write(folder.join("10.yaml"), deny("db")).unwrap();
        world.until(&["db"]);
        fs::write(folder.join("20.yaml"), deny("ui")).unwrap();
        world.until(&["db", "ui"]);
        fs::remove_file(folder.join("10.yaml")).unwrap();
        world.until(&["ui"]);
        // A folder that is gone says nothing about what was in it.
        fs::remove_dir_all(&folder).unwrap();
        std::thread::sleep(SETTLED);
        world.until(&["ui"]);
    }
    agent.stop(libc::SIGTERM);

    fs::create_dir_all(world.at("one")).unwrap();
    fs::create_dir_all(world.at("two")).unwrap();
    world.write("one/p.yaml", &deny("db"));
    world.write("far.yaml", &deny("other"));
    symlink("one", world.at("link")).unwrap();
    let agent = world.agent(&world.at("link"));
    world.until(&["db"]);
    world.write("two/p.yaml", &deny("ui"));
    symlink("two", world.at("new")).unwrap();
    fs::rename(world.at("new"), world.at("link")).unwrap();
    world.until(&["ui"]);
    world.write("two/q.yaml", &deny("db"));
    world.until(&["db", "ui"]);
    symlink("../far.yaml", world.at("two/far.yaml")).unwrap();
    world.until(&["db", "other", "ui"]);
    world.write(
        "far.yaml",
        &format!(
            "{}---\n{}",
            deny("db").replace("name: db", "name: more"),
            deny("ui").replace("name: ui", "name: most")
        ),
    );
    world.until(&["db", "ui"]);
    agent.stop(libc::SIGTERM);
}

/// S61: whatever a file becomes that is no object, what came from it stays and is listed; with its
/// repair all is as before.
#[test]
fn s61_a_file_that_is_no_object_any_more_opens_nothing() {
    let world = World::up("object");
    let good = format!("{}---\n{}", deny("ui"), deny("db"));
    world.write("p.yaml", &good);
    let agent = world.agent(&world.quiet);
    world.until(&["db", "ui"]);
    let second = good.find("---").unwrap() + 4;
    let edit = |from: &str, to: &str| {
        format!("{}{}", &good[..second], good[second..].replacen(from, to, 1))
    };
    for (what, text) in [
        ("a wrong version", edit("networking.k8s.io/v1", "v1")),
        ("a misspelt kind", edit("NetworkPolicy", "NetworkPolcy")),
        ("a plural", edit("NetworkPolicy", "NetworkPolicies")),
        ("no kind", edit("kind: NetworkPolicy\n", "")),
        ("Kind", edit("kind", "Kind")),
        ("no separator", good.replace("---\n", "")),
        ("another namespace", edit("namespace", "nameSpace")),
        ("a list", format!("- {}", good[second..].replace('\n', "\n  "))),
        ("an error page", "<html><body>504 Gateway Time-out</body></html>".into()),
        ("an error message", "Error from server (Forbidden): networkpolicies is forbidden".into()),
        ("{}", "{}".into()),
        ("a pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n".into()),
        ("an emptied file", String::new()),
        ("comments", "# nothing\n".into()),
    ] {
        world.write("p.yaml", &text);
        world.stays_closed(what);
        let status = world.status();
        assert_ne!(
            status["agent"]["problems"].as_array().map_or(0, Vec::len),
            0,
            "{what}: {status:#}"
        );
        world.write("p.yaml", &good);
        world.until(&["db", "ui"]);
    }
    world.write("p.yaml", "");
    world.stays_closed("emptied");
    let kept = world.status()["agent"]["kept"].to_string();
    assert!(
        kept.contains("NetworkPolicy default/db") && kept.contains("NetworkPolicy default/ui"),
        "{kept}"
    );
    world.logs("NetworkPolicy default/db stays enforced as it was");
    // Gone with the file; and whoever opens a pod hears of it.
    fs::remove_file(world.at("p.yaml")).unwrap();
    world.until(&[]);
    world.logs("no policy isolates the pod in this direction any more");
    world.comes_to_say("nothing is kept", |agent| agent["kept"].is_null());
    agent.stop(libc::SIGTERM);
}

/// S61: a broken file holds what came from it, Services too, and nothing else.
#[test]
fn s61_a_broken_file_holds_its_own_objects_only() {
    let world = World::up("held");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: default}\n\
                   spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n";
    let egress = deny("ui").replace(
        "policyTypes: [Ingress]",
        "policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/12}}]}]",
    );
    world.write("10.yaml", &format!("{service}---\n{egress}---\n{}", deny("db")));
    world.write("20.yaml", &deny("other"));
    let agent = world.agent(&world.quiet);
    world.until(&["db", "other"]);
    assert_eq!(world.status()["tables"]["service_v4"], 1);
    let text = fs::read_to_string(world.at("10.yaml")).unwrap();
    world.write("10.yaml", &format!("foo: [\n{text}"));
    world.stays_closed("broken");
    assert_eq!(world.status()["tables"]["service_v4"], 1);
    fs::remove_file(world.at("20.yaml")).unwrap();
    world.until(&["db"]);
    agent.stop(libc::SIGTERM);
}

/// S58, S61: a start beside a file that is no object. One that gave nothing to what is enforced
/// keeps nothing from going on; where objects of it are enforced everything stays.
#[test]
fn s58_a_start_beside_a_broken_file_goes_on_where_nothing_came_from_it() {
    let world = World::up("start");
    world.write("10.yaml", &deny("db"));
    world.write("values.yaml", "replicas: 2\n");
    let agent = world.agent(&world.quiet);
    world.until(&["db"]);
    agent.stop(libc::SIGKILL);
    world.write("20.yaml", &deny("ui"));
    let agent = world.agent(&world.quiet);
    world.until(&["db", "ui"]);
    agent.stop(libc::SIGKILL);
    world.write("10.yaml", "foo: [");
    fs::remove_file(world.at("20.yaml")).unwrap();
    let agent = world.agent(&world.quiet);
    world.logs("10.yaml cannot be read; what is enforced stays as it is");
    world.stays_closed("started beside a broken file");
    world.write("10.yaml", &deny("db"));
    world.until(&["db"]);
    agent.stop(libc::SIGTERM);
}

/// A FIFO keeps the agent from nothing, and a signal always ends it.
#[test]
fn s61_a_fifo_is_waited_for_by_nobody() {
    let world = World::up("fifo");
    let fifo = |name: &str| {
        assert!(Command::new("mkfifo").arg(world.at(name)).status().unwrap().success())
    };
    world.write("10.yaml", &deny("db"));
    let agent = world.agent(&world.quiet);
    world.until(&["db"]);
    fifo("20.yaml");
    world.logs("not a regular file");
    world.write("10.yaml", &deny("ui"));
    world.until(&["ui"]);
    agent.stop(libc::SIGTERM);
    let agent = world.agent(&world.at("20.yaml"));
    std::thread::sleep(SETTLED);
    let began = Instant::now();
    agent.stop(libc::SIGTERM);
    assert!(began.elapsed() < Duration::from_secs(10));
    // One that is named, and written to, is an input.
    let writer = std::thread::spawn({
        let path = world.at("20.yaml");
        move || fs::write(path, deny("db")).unwrap()
    });
    let agent = world.agent(&world.at("20.yaml"));
    world.until(&["db"]);
    writer.join().unwrap();
    agent.stop(libc::SIGTERM);
}

/// A node name that nothing names enforces nothing, and so is no success.
#[test]
fn s61_a_node_that_nothing_names_is_an_error() {
    let world = World::up("named");
    world.write("10.yaml", &deny("db"));
    let once =
        |node: &str| world.command(&world.quiet).args(["--once", "--node", node]).status().unwrap();
    let message = "no Node and no pod's spec.nodeName is `n1.example.internal`";
    assert_ne!(once("n1.example.internal").code(), Some(0));
    assert!(world.log().contains(message), "{}", world.log());
    assert_eq!(once("n1").code(), Some(0), "{}", world.log());
    world.until(&["db"]);
    // What is enforced is not given up for a slip.
    let agent = Running::start(world.command(&world.quiet).args(["--node", "n1.example.internal"]));
    world.logs(message);
    world.comes_to_say(message, |agent| {
        agent["behind"].as_str().is_some_and(|behind| behind.contains(message))
    });
    world.stays_closed("a wrong name");
    agent.stop(libc::SIGTERM);
}

/// A pod whose interface is not there is not enforced, and somebody should know.
#[test]
fn a_pod_without_an_interface_is_logged() {
    let world = World::up("ghost");
    world.write("20.yaml", &deny("ghost"));
    world.write(
        "10.yaml",
        "kind: Pod\nmetadata: {name: ghost, namespace: default, labels: {role: ghost}}\nspec: \
         {nodeName: n1, containers: [{name: c}]}\n\
         status: {phase: Running, podIP: 10.7.0.99}\n",
    );
    let agent = world.agent(&world.quiet);
    world.logs("no interface of this node leads to its addresses");
    assert!(world.log().contains("default/ghost"));
    agent.stop(libc::SIGTERM);
    let db = "10.7.0.1".parse().unwrap();
    assert!(ask(&[Question::new(world.node.pod("other"), db, WEB)], PATIENCE).unwrap()[0].passed());
}
