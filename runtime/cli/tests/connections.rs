//! A pod's table of connections follows what it opens while an agent runs, and stays what it is
//! when the agent is killed. Needs root.

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    process::Stdio,
    time::{Duration, Instant},
};

use common::{Node, Running};
use netpolc_testbed::probe::Ask;
use serde_json::Value;

const DNS: Ask = Ask::Udp(53);
/// What a pod has room for at first, of both families.
const FIRST: u64 = 3_072;

/// Answers to what everybody may ask need an entry, since the pod itself may open nothing.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 53, protocol: UDP}]}]
";

impl Node {
    fn db(&self) -> Option<Value> {
        let status: Value =
            serde_json::from_slice(&self.netpolc(&["status", "-o", "json"]).stdout).ok()?;
        status["endpoints"]
            .as_array()?
            .iter()
            .find(|endpoint| endpoint["pod"] == "default/db")
            .cloned()
    }

    fn number(&self, what: &str) -> u64 {
        self.db().and_then(|db| db[what].as_u64()).unwrap_or(0)
    }

    /// How many of so many questions, each from a port of its own, are answered, as resolvers ask:
    /// again where no answer comes. All come from one address, which has no more than its share of
    /// a table that is growing just now.
    fn answered(&self, ports: std::ops::Range<u16>) -> usize {
        let ask = |port: u16| {
            let socket = UdpSocket::bind(SocketAddr::from(([10, 7, 0, 2], port))).unwrap();
            socket.connect("10.7.0.1:53").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let tries = (0..5).any(|_| {
                socket.send(b"?").unwrap();
                socket.recv(&mut [0; 64]).is_ok()
            });
            // One more makes a stream of it, which gives way to nobody.
            socket.send(b"?").unwrap();
            tries
        };
        self.pod("ui").run(|| ports.filter(|port| ask(*port)).count()).unwrap()
    }

    fn agent(&self) -> Running {
        let from = self.folder.to_str().unwrap();
        let mut command =
            self.command(&["agent", "--node", "n1", "--target", "ebpf", "--from", from]);
        let agent = Running::start(command.stderr(Stdio::null()));
        let began = Instant::now();
        while self.number("connectionsCapacity") == 0
            || !self.db().is_some_and(|db| db["interface"].is_string())
        {
            assert!(began.elapsed() < Duration::from_secs(60), "the agent is not ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        agent
    }
}

/// S59a, and S59 while no agent runs.
#[test]
fn s59_room_follows_use_and_outlives_the_agent() {
    let node = Node::up("connections", &[DNS]);
    node.apply(Some(POLICY));
    let agent = node.agent();
    assert_eq!(node.number("connectionsCapacity"), FIRST);
    assert_eq!(node.answered(10_000..16_000), 6_000);
    let room = node.number("connectionsCapacity");
    assert!(room >= FIRST + 6_000, "{room}");
    assert_eq!(node.number("connections"), 6_000, "none gave way");

    // Without an agent nothing grows, nothing is lost of what there is, and what is new finds room
    // as long as there is some.
    agent.stop(libc::SIGKILL);
    assert_eq!(node.answered(16_000..16_500), 500);
    assert_eq!(node.number("connectionsCapacity"), room);
    assert_eq!(node.number("connections"), 6_500);
    let agent = node.agent();
    assert_eq!(node.answered(10_000..10_500), 500, "old ones go on");
    assert_eq!(node.answered(20_000..32_000), 12_000);
    assert!(node.number("connectionsCapacity") > room);
    agent.stop(libc::SIGTERM);
}
