//! The agent in the lab's kernel, which has flower and SCTP: with filters alone (`--target
//! flower`), and SCTP by filters and by eBPF. Real packets between namespaces.

mod common;

use std::{
    net::{IpAddr, SocketAddr},
    process::Output,
    time::Duration,
};

use common::Node;
use netpolc_testbed::{
    lab,
    probe::{Answer, Ask, Connection, Question, ask},
};
use serde_json::Value;

const REDIS: Ask = Ask::Tcp(6379);
/// The lab's kernel takes its time.
const PATIENCE: Duration = Duration::from_millis(1500);

fn policy(role: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: db, namespace: default}}
spec:
  podSelector: {{matchLabels: {{role: db}}}}
  ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {role}}}}}}}], ports: [{{port: 6000, \
         endPort: 6500}}]}}]
"
    )
}

impl Node {
    fn once(&self, target: &str, policy: Option<&str>) -> Output {
        self.apply(policy);
        let from = self.folder.to_str().unwrap().to_owned();
        self.netpolc(&["agent", "--once", "--node", "n1", "--target", target, "--from", &from])
    }

    fn enforce(&self, target: &str, policy: Option<&str>) {
        let output = self.once(target, policy);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn shell(&self, line: &str) {
        let output =
            self.net.node("n1").unwrap().command("bash").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn passes(&self, from: &str, to: &str) -> bool {
        let to: IpAddr = to.parse().unwrap();
        ask(&[Question::new(self.pod(from), to, REDIS)], PATIENCE).unwrap()[0].passed()
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.netpolc(&["status", "-o", "json"]).stdout).unwrap()
    }
}

/// S37, S41, S42, S55, S58, S60 by filters alone.
#[test]
fn software_flower_enforces_for_a_host_without_ebpf() {
    if lab::outside(software_flower_enforces_for_a_host_without_ebpf) {
        return;
    }
    let node = Node::up("software", &[REDIS]);
    // Without connection tracking it says so and changes nothing.
    let refused = node.once("flower", Some(&policy("ui")));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("connection tracking is off"), "{words}");
    assert!(node.passes("other", "10.7.0.1"));

    node.shell(
        "nft add table inet t && nft 'add chain inet t c { type filter hook prerouting \
        priority 0; }' && nft add rule inet t c ct state new",
    );
    let mut running = [
        Connection::open(node.pod("ui"), "10.7.0.1".parse().unwrap(), REDIS, PATIENCE)
            .unwrap()
            .unwrap(),
        Connection::open(node.pod("ui"), "fd07::1".parse().unwrap(), REDIS, PATIENCE)
            .unwrap()
            .unwrap(),
    ];
    let mut unwanted =
        Connection::open(node.pod("other"), "10.7.0.1".parse().unwrap(), REDIS, PATIENCE)
            .unwrap()
            .unwrap();
    let mut own = Connection::open(node.pod("db"), "10.7.0.3".parse().unwrap(), REDIS, PATIENCE)
        .unwrap()
        .unwrap();
    node.enforce("flower", Some(&policy("ui")));
    for (from, to, expected) in [
        ("ui", "10.7.0.1", true),
        ("ui", "fd07::1", true),
        ("other", "10.7.0.1", false),
        ("other", "fd07::1", false),
        ("db", "10.7.0.2", true),
        ("other", "10.7.0.2", true),
    ] {
        assert_eq!(node.passes(from, to), expected, "{from} -> {to}");
    }
    for connection in running.iter_mut().chain([&mut own]) {
        assert_eq!(connection.poke(PATIENCE), Answer::Echo, "{connection:?}");
    }
    assert_eq!(unwanted.poke(PATIENCE), Answer::Silent);
    let status = node.status();
    assert_eq!(status["enforcing"], true);
    assert!(status["filters"].as_array().is_some_and(|f| !f.is_empty()), "{status:#}");
    assert_eq!(status["agent"]["offload"][0]["mode"], "software");

    // Another start changes nothing; a tighter policy cuts what runs.
    node.enforce("flower", Some(&policy("ui")));
    assert_eq!(running[0].poke(PATIENCE), Answer::Echo);
    node.enforce("flower", Some(&policy("nobody")));
    assert!(!node.passes("ui", "10.7.0.1"));
    assert_eq!(running[0].poke(PATIENCE), Answer::Silent);
    assert_eq!(own.poke(PATIENCE), Answer::Echo);
    node.enforce("flower", None);
    assert!(node.passes("other", "10.7.0.1"));
    node.enforce("flower", Some(&policy("ui")));
    assert!(!node.passes("other", "10.7.0.1"));
    let detach = node.netpolc(&["detach"]);
    assert!(detach.status.success(), "{}", String::from_utf8_lossy(&detach.stderr));
    assert!(node.passes("other", "10.7.0.1"));
    assert!(node.status()["filters"].is_null());
}

/// SCTP, which this machine's kernel may not have: one association at a time.
mod sctp {
    use std::{
        io::{Read as _, Write as _},
        net::SocketAddr,
        time::Duration,
    };

    use netpolc_testbed::netns::Site;
    use socket2::{Domain, Protocol, Socket, Type};

    pub const PORT: u16 = 3868;

    fn socket(to: SocketAddr) -> Socket {
        Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::from(libc::IPPROTO_SCTP)))
            .expect("SCTP")
    }

    /// Echoes for ever.
    pub fn serve(site: &Site, at: SocketAddr) {
        let listener = site.run(|| socket(at)).expect("a namespace");
        listener.bind(&at.into()).expect("a free port");
        listener.listen(16).expect("listen");
        std::thread::spawn(move || {
            while let Ok((mut peer, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok(n @ 1..) = peer.read(&mut buffer) {
                        let _ = peer.write_all(&buffer[..n]);
                    }
                });
            }
        });
    }

    pub fn open(from: &Site, to: SocketAddr, patience: Duration) -> Option<Socket> {
        let socket = from.run(|| socket(to)).expect("a namespace");
        socket.connect_timeout(&to.into(), patience).ok()?;
        socket.set_read_timeout(Some(patience)).expect("a timeout");
        Some(socket)
    }

    pub fn echoes(mut socket: &Socket) -> bool {
        socket.write_all(b"ping").is_ok() && socket.read(&mut [0; 64]).is_ok_and(|n| n == 4)
    }
}

/// S27, S37, S41, S42 for SCTP, with real associations, by the programs and by filters.
#[test]
fn s27_sctp_associations_are_policed() {
    if lab::outside(s27_sctp_associations_are_policed) {
        return;
    }
    let node = Node::up("sctp", &[REDIS]);
    node.shell(
        "nft add table inet t && nft 'add chain inet t c { type filter hook prerouting \
        priority 0; }' && nft add rule inet t c ct state new",
    );
    let address = |text: &str, port| SocketAddr::new(text.parse().unwrap(), port);
    let servers = [
        address("10.7.0.1", sctp::PORT),
        address("fd07::1", sctp::PORT),
        address("10.7.0.1", 3869),
    ];
    for at in servers {
        sctp::serve(node.pod("db"), at);
        sctp::serve(
            node.pod("other"),
            SocketAddr::new(
                if at.is_ipv4() { "10.7.0.3" } else { "fd07::3" }.parse().unwrap(),
                at.port(),
            ),
        );
    }
    let policy = |role: &str| {
        policy(role).replace(
            "ports: [{port: 6000, endPort: 6500}]",
            &format!("ports: [{{port: {}, protocol: SCTP}}]", sctp::PORT),
        )
    };
    assert!(policy("ui").contains("SCTP"));
    for target in ["ebpf", "flower"] {
        node.enforce(target, Some(&policy("ui")));
        let opens = |from: &str, to: SocketAddr| {
            sctp::open(node.pod(from), to, PATIENCE).filter(sctp::echoes)
        };
        let running: Vec<_> = servers[..2]
            .iter()
            .map(|to| opens("ui", *to).unwrap_or_else(|| panic!("{target}: {to}")))
            .collect();
        assert!(opens("ui", servers[2]).is_none(), "{target}: another port");
        assert!(
            opens("other", servers[0]).is_none() && opens("other", servers[1]).is_none(),
            "{target}: another pod"
        );
        let own = opens("db", address("10.7.0.3", sctp::PORT))
            .unwrap_or_else(|| panic!("{target}: db opens itself"));
        node.enforce(target, Some(&policy("nobody")));
        assert!(running.iter().all(|socket| !sctp::echoes(socket)), "{target}: tightened");
        assert!(sctp::echoes(&own), "{target}: its own association goes on");
        drop(running);
        let detach = node.netpolc(&["detach"]);
        assert!(detach.status.success(), "{}", String::from_utf8_lossy(&detach.stderr));
        assert!(opens("other", servers[0]).is_some(), "{target}: detached");
    }
}
