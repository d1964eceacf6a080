//! What unprivileged users of a node can do with netpolc's files, which is nothing, and what
//! becomes of pins that root takes away. Needs root.

mod common;

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use common::{Node, Running};
use netpolc_agent::serve::state_dir;
use netpolc_testbed::probe::{Ask, PATIENCE, Question, ask};
use serde_json::Value;

const REDIS: Ask = Ask::Tcp(6379);
/// nobody
const STRANGER: u32 = 65534;

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec: {podSelector: {matchLabels: {role: db}}, ingress: [{from: [{podSelector: {matchLabels: \
    {role: ui}}}]}]}
";

impl Node {
    fn stranger(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .uid(STRANGER)
            .gid(STRANGER)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().unwrap_or_else(|e| panic!("{program}: {e}")).success()
    }

    fn once(&self) {
        let from = self.folder.to_str().unwrap();
        let done =
            self.netpolc(&["agent", "--once", "--node", "n1", "--target", "ebpf", "--from", from]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.netpolc(&["status", "-o", "json"]).stdout).unwrap_or_default()
    }

    fn passes(&self, from: &str, patience: Duration) -> bool {
        ask(&[Question::new(self.pod(from), [10, 7, 0, 1].into(), REDIS)], patience).unwrap()[0]
            .passed()
    }

    fn enforces(&self) {
        assert!(self.passes("ui", PATIENCE) && !self.passes("other", Duration::from_millis(300)));
    }
}

fn below(path: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    files
        .flat_map(|path| {
            [vec![path.clone()], if path.is_dir() { below(&path) } else { vec![] }].concat()
        })
        .collect()
}

#[test]
fn strangers_can_neither_open_nor_lock_nor_stand_in_the_place_of_what_is_netpolcs() {
    let node = Node::up("private", &[REDIS]);
    node.apply(Some(POLICY));
    // Somebody was first, with a folder and something in it.
    fs::create_dir_all(node.pins.join("links")).unwrap();
    for path in [node.pins.join("links"), node.pins.clone()] {
        chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
    }
    node.once();
    node.enforces();
    let aside = node
        .pins
        .with_file_name(format!("{}-not-ours", node.pins.file_name().unwrap().to_str().unwrap()));
    let moved = below(Path::new("/sys/fs/bpf")).into_iter();
    for path in
        moved.filter(|path| path.to_str().unwrap().starts_with(aside.to_str().unwrap())).rev()
    {
        fs::remove_dir(path).unwrap();
    }

    let record = state_dir::record(&node.pins);
    let (lock, pins) = (record.with_extension("lock"), node.pins.to_str().unwrap());
    let ours = [
        vec![node.pins.clone(), record.clone(), lock.clone(), netpolc_host::private::FOLDER.into()],
        below(&node.pins),
    ]
    .concat();
    for path in ours {
        let facts = fs::metadata(&path).unwrap();
        assert_eq!((facts.uid(), facts.mode() & 0o077), (0, 0), "{}", path.display());
    }
    for path in [pins, lock.to_str().unwrap(), record.to_str().unwrap()] {
        assert!(!node.stranger("flock", &["-n", path, "true"]), "locked {path}");
        assert!(!node.stranger("cat", &[path]), "read {path}");
        assert!(!node.stranger("mv", &[path, &format!("{path}.away")]), "moved {path}");
    }
    assert!(
        node.stranger("flock", &["-n", "/tmp", "true"]),
        "strangers can lock what they may open"
    );
    assert_eq!(node.status()["agent"]["running"], false);

    // Root's own lock is waited for, not for ever, and its holder is named.
    let held = fs::File::open(&node.pins).unwrap();
    held.lock().unwrap();
    let began = Instant::now();
    let from = node.folder.to_str().unwrap().to_owned();
    let done =
        node.netpolc(&["agent", "--once", "--node", "n1", "--target", "ebpf", "--from", &from]);
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        !done.status.success() && error.contains(&format!("process {} ", std::process::id())),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    node.enforces();
}

/// S58, S59: pins that somebody removes come back while an agent runs, and status says so.
#[test]
fn s59_pins_that_are_removed_come_back_and_are_reported() {
    let node = Node::up("removed", &[REDIS]);
    node.apply(Some(POLICY));
    let from = node.folder.to_str().unwrap();
    let mut command = node.command(&["agent", "--node", "n1", "--target", "ebpf", "--from", from]);
    let agent = Running::start(command.stderr(Stdio::null()));
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    until("the agent is not ready", &|| {
        let endpoints = node.status()["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().filter(|e| e["interface"].is_string() && e["pod"].is_string()).count() == 3
    });
    node.enforces();
    fs::remove_dir_all(&node.pins).unwrap();
    node.enforces();
    until("nothing is said of the pins", &|| {
        node.status().to_string().contains("pinned there again")
    });
    node.enforces();
    agent.stop(libc::SIGTERM);
    node.enforces();
    assert_eq!(node.status()["enforcing"], true);
}
