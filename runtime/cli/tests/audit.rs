//! The agent's audit on a real node: what somebody else changes in the kernel's tables, or
//! detaches, is found within an interval, named, counted and repaired. Needs root.

mod common;

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    Node, Running, UI_TO_DB,
    tamper::{Array, detach, generation, links},
};
use netpolc_target_ebpf::layout::endpoint;
use netpolc_testbed::probe::{Ask, PATIENCE, Question, ask};

const REDIS: Ask = Ask::Tcp(6379);
/// Much longer than an interval, which is a second: other work may keep the machine busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// A node whose agent audits every second.
struct Audited {
    /// It goes first: what it has installed can be removed only then.
    _agent: Running,
    node: Node,
    log: PathBuf,
}

impl Audited {
    /// Starts the agent, and waits until it enforces [`UI_TO_DB`] by TCX links.
    fn up(name: &str) -> Self {
        let node = Node::up(name, &[REDIS]);
        node.apply(Some(UI_TO_DB));
        let log = std::env::temp_dir().join(format!("netpolc-{name}-{}.log", std::process::id()));
        let from = node.folder.to_str().unwrap();
        let arguments = [
            "agent",
            "--node=n1",
            "--audit-interval=1",
            "--metrics-address=127.0.0.1:9643",
            "--from",
            from,
        ];
        let mut command = node.command(&arguments);
        let _agent = Running::start(command.stderr(File::create(&log).unwrap()));
        let this = Self { _agent, node, log };
        this.until("the policy is enforced by links", || {
            this.node.pins.join("links").exists()
                && links(&this.node.pins).len() == 3
                && this.denies()
        });
        this.until("an audit is made", || this.count("audits_total{result=\"sound\"}") > 0);
        this
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn passes(&self, from: &str, patience: Duration) -> bool {
        let to = "10.7.0.1".parse().unwrap();
        ask(&[Question::new(self.node.pod(from), to, REDIS)], patience).unwrap()[0].passed()
    }

    fn denies(&self) -> bool {
        !self.passes("other", PATIENCE) && self.passes("ui", PATIENCE)
    }

    /// What the agent has logged.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// A counter of the agent, 0 where it has never counted.
    fn count(&self, name: &str) -> u64 {
        let name = format!("netpolc_{name} ");
        let text = self.node.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Changes a map of the tables, and waits until it is as before and the change was named.
    fn change(&self, map: &str, change: impl Fn(&mut Vec<u8>), named: &str) {
        let (array, known) =
            (Array::open(&generation(&self.node.pins).join(map)), self.said().len());
        let before = array.read();
        let mut changed = before.clone();
        change(&mut changed);
        assert_ne!(changed, before, "{map}: nothing would be changed");
        let counted = self.count("audit_differences_total");
        array.write(changed);
        self.until("the map is as before", || array.read() == before);
        self.until("it was named", || self.said()[known..].contains(named));
        assert!(self.said()[known..].contains("WARN"), "{}", self.said());
        self.until("it was counted", || self.count("audit_differences_total") > counted);
        assert!(self.denies(), "{}", self.said());
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.log);
    }
}

#[test]
fn a_sound_node_is_audited_without_a_word_and_without_a_write() {
    let node = Audited::up("audit-sound");
    let (said, writes) = (node.said(), node.count("table_writes_total"));
    assert!(writes > 0);
    let sound = node.count("audits_total{result=\"sound\"}");
    node.until("three more audits are made", || {
        node.count("audits_total{result=\"sound\"}") >= sound + 3
    });
    assert_eq!((node.said(), node.count("table_writes_total")), (said, writes));
    assert_eq!(node.count("audit_differences_total"), 0);
}

#[test]
fn entries_that_somebody_changes_are_named_and_repaired() {
    let node = Audited::up("audit-entries");
    // The words lose their flags, which opens the pods.
    let open = |records: &mut Vec<u8>| {
        for record in records.chunks_exact_mut(endpoint::SIZE) {
            record[endpoint::WORD + endpoint::FLAGS_SHIFT as usize / 8] = 0;
        }
    };
    node.change("endpoint", open, "table endpoint: ");
    // No row has a verdict, which denies what the policy allows.
    node.change("mask", |bits| bits.fill(0), "table verdict: ");
    // Whatever is repaired once is found again the next time.
    node.change("endpoint", open, "table endpoint: ");
    assert_eq!(node.count("audits_total{result=\"unreadable\"}"), 0);
}

#[test]
fn tables_that_make_no_sense_are_replaced() {
    let node = Audited::up("audit-replaced");
    let before = generation(&node.node.pins);
    let array = Array::open(&before.join("remote_v4"));
    // Slots of the IPv4 trie point to blocks that do not exist.
    array.write(vec![0xff; array.read().len()]);
    node.until("there are new tables", || generation(&node.node.pins) != before);
    node.until("they enforce the policy", || node.denies());
    assert!(node.said().contains("cannot be decoded"), "{}", node.said());
    let sound = node.count("audits_total{result=\"sound\"}");
    node.until("they are sound", || node.count("audits_total{result=\"sound\"}") > sound);
}

#[test]
fn a_link_that_somebody_detaches_is_back() {
    let node = Audited::up("audit-link");
    let counted = node.count("audit_differences_total");
    for link in links(&node.node.pins) {
        detach(&link);
    }
    node.until("it was counted", || node.count("audit_differences_total") > counted);
    node.until("the policy is enforced", || node.denies());
    assert!(node.said().contains("a TCX link was detached"), "{}", node.said());
    assert_eq!(links(&node.node.pins).len(), 3);
}
