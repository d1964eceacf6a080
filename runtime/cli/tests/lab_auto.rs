//! The agent on a node whose pods hang on a NIC: eBPF decides on the representors, filters keep
//! from the host what they can. The NIC is simulated, the pods have its virtual functions and share
//! a bridge. Runs in the lab.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

use netpolc_testbed::{
    lab::{self, Simnic},
    netns::{Namespace, Site},
    probe::{Answer, Ask, Connection, Question, Servers, ask},
    story::Story,
};
use serde_json::Value;

const REDIS: Ask = Ask::Tcp(6379);
const METRICS: Ask = Ask::Udp(9000);
/// The lab's kernel takes its time.
const PATIENCE: Duration = Duration::from_millis(1500);
const PODS: [&str; 3] = ["db", "ui", "other"];
/// Leads to db's 6379, by a rule as kube-proxy makes it.
const SERVICE: &str = "10.96.0.10";

fn cluster() -> String {
    let pods = PODS.iter().zip(1..).map(|(name, at)| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{role: {name}}}}}\n\
             spec: {{nodeName: n1, containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIPs: \
             [{{ip: 10.7.0.{at}}}]}}\n---\n"
        )
    });
    let node = "kind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: \
        10.7.0.254}]}\n---\n";
    let service = format!(
        "kind: Service\nmetadata: {{name: db, namespace: default}}\n\
         spec: {{clusterIP: {SERVICE}, selector: {{role: db}}, ports: [{{port: 80, targetPort: \
         6379}}]}}\n"
    );
    [node.to_owned(), pods.collect(), service].concat()
}

/// db is reached by `role` on its ports, and ui may open what db serves and nothing else.
fn policy(role: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: db, namespace: \
         default}}\n\
         spec:\n  podSelector: {{matchLabels: {{role: db}}}}\n\
         \x20 ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {role}}}}}}}], ports: \
         [{{port: 6379}}, {{port: 9000, protocol: UDP}}]}}]\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: ui, namespace: \
         default}}\n\
         spec:\n  podSelector: {{matchLabels: {{role: ui}}}}\n  policyTypes: [Egress]\n\
         \x20 egress: [{{to: [{{podSelector: {{matchLabels: {{role: db}}}}}}], ports: [{{port: \
         6379}}, {{port: 9000, protocol: UDP}}]}}]\n"
    )
}

struct Node {
    nic: Simnic,
    pods: Vec<Site>,
    _servers: Servers,
    folder: PathBuf,
}

impl Node {
    fn up(driver: &str) -> Self {
        let nic = lab::simnic(driver, PODS.len(), &[]);
        lab::shell(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
            nft 'table inet track {{ chain forward {{ type filter hook forward priority 0; ct \
             state new accept; }}; }}'
            nft 'table ip nat {{ chain services {{ type nat hook prerouting priority -100;
                ip daddr {SERVICE} tcp dport 80 dnat to 10.7.0.1:6379; }}; }}'
            ip link add pods type bridge; ip link set pods up; ip addr add 10.7.0.254/24 dev pods
            at=0
            for pod in {}; do
                ip netns add $pod; ip link set simv$at netns $pod; ip link set simr$at master pods \
             up
                ip -n $pod link set lo up; ip -n $pod link set simv$at up
                ip -n $pod addr add 10.7.0.$((at + 1))/24 dev simv$at; ip -n $pod route add \
             default via 10.7.0.254
                at=$((at + 1))
            done",
            PODS.join(" ")
        ));
        let site = |(name, at): (&&str, u8)| Site {
            name: (*name).into(),
            namespace: Namespace::open(name).expect("just made"),
            addresses: vec![[10, 7, 0, at].into()],
            host_end: None,
        };
        let pods: Vec<Site> = PODS.iter().zip(1..).map(site).collect();
        let _servers =
            Servers::start(pods.iter().map(|site| (site, [REDIS, METRICS, Ask::Tcp(81)]))).unwrap();
        let folder = Path::new("/run/netpolc-lab-auto").to_owned();
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cluster.yaml"), cluster()).unwrap();
        let node = Node { nic, pods, _servers, folder };
        // Bridges learn where each pod is from what it sends.
        for (from, to) in [("db", "10.7.0.2"), ("ui", "10.7.0.3"), ("other", "10.7.0.1")] {
            assert_eq!(node.ask(from, to, REDIS), Answer::Echo, "{from} -> {to} without policies");
        }
        node
    }

    fn pod(&self, name: &str) -> &Site {
        self.pods.iter().find(|site| site.name == name).unwrap()
    }

    fn ask(&self, from: &str, to: &str, what: Ask) -> Answer {
        let to: IpAddr = to.parse().unwrap();
        ask(&[Question::new(self.pod(from), to, what)], PATIENCE).unwrap()[0]
    }

    fn open(&self, from: &str, to: &str, what: Ask) -> Connection {
        Connection::open(self.pod(from), to.parse().unwrap(), what, PATIENCE).unwrap().unwrap()
    }

    fn netpolc(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
        command.args(arguments).args(["--pin-dir", "/sys/fs/bpf/lab-auto"]).output().unwrap()
    }

    fn enforce(&self, policy: &str) -> Value {
        fs::write(self.folder.join("policy.yaml"), policy).unwrap();
        let from = self.folder.to_str().unwrap();
        let agent =
            self.netpolc(&["agent", "--once", "--node", "n1", "--target", "auto", "--from", from]);
        assert!(agent.status.success(), "{}", String::from_utf8_lossy(&agent.stderr));
        serde_json::from_slice(&self.netpolc(&["status", "-o", "json"]).stdout).unwrap()
    }

    /// Packets of all representors.
    fn count(&self, what: &str) -> u64 {
        (0..PODS.len()).map(|at| self.nic.counter(&format!("simr{at}.{what}"))).sum()
    }

    /// Until the NIC forwards the connection's packets: the kernel tells it a moment after they are
    /// established.
    fn warm_up(&self, connection: &mut Connection) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let before = self.count("hw_fwd");
            for _ in 0..5 {
                assert_eq!(connection.poke(PATIENCE), Answer::Echo);
            }
            if self.count("hw_fwd") >= before + 5 {
                return;
            }
            assert!(Instant::now() < end, "nothing is forwarded: {:#?}", self.nic.counters());
            sleep(Duration::from_millis(20));
        }
    }
}

/// S37, S38, S41, S42, S48.
#[test]
fn the_nic_does_what_it_can_and_ebpf_decides() {
    if lab::outside(the_nic_does_what_it_can_and_ebpf_decides) {
        return;
    }
    let story = Story::begin();
    story.step("start a node with a simulated NIC");
    let node = Node::up("mlx5_core");
    story.step("enforce policies with filters in the NIC");
    let status = node.enforce(&policy("ui"));
    let offload = status["agent"]["offload"].as_array().unwrap_or_else(|| panic!("{status:#}"));
    assert_eq!(offload.len(), 3, "{status:#}");
    for port in offload {
        assert_eq!(
            (&port["mode"], &port["driver"]),
            (&"representor".into(), &"mlx5_core".into()),
            "{port:#}"
        );
        assert!(
            port["filters"].as_u64() > Some(0)
                && port["refused"].as_object().is_none_or(|r| r.is_empty()),
            "{port:#}"
        );
    }

    story.step("drop denied openings in the NIC, and nothing else");
    // Denied openings of TCP end in the NIC; what the NIC leaves to the host is eBPF's.
    let dropped = node.count("hw_drop");
    assert_eq!(node.ask("other", "10.7.0.1", REDIS), Answer::Silent);
    assert!(node.count("hw_drop") > dropped, "the NIC drops a denied opening");
    let dropped = node.count("hw_drop");
    assert_eq!(node.ask("other", "10.7.0.1", METRICS), Answer::Silent);
    assert_eq!(node.ask("ui", "10.7.0.3", METRICS), Answer::Silent);
    assert_eq!(
        node.count("hw_drop"),
        dropped,
        "no datagram is dropped without connection tracking"
    );
    for (from, to, what) in [
        ("ui", "10.7.0.1", REDIS),
        ("ui", "10.7.0.1", METRICS),
        ("db", "10.7.0.2", REDIS),
        ("db", "10.7.0.3", METRICS),
    ] {
        assert_eq!(node.ask(from, to, what), Answer::Echo, "{from} -> {to} {what}");
    }

    story.step("forward the opener's packets of established connections");
    // Established connections: the opener's packets are forwarded, also while others go through a
    // Service.
    let mut direct = node.open("ui", "10.7.0.1", REDIS);
    let mut service = node.open("ui", SERVICE, Ask::Tcp(80));
    let mut datagrams = node.open("ui", "10.7.0.1", METRICS);
    node.warm_up(&mut direct);
    for _ in 0..100 {
        assert_eq!(service.poke(PATIENCE), Answer::Echo, "replies come back translated");
    }
    let before = (node.nic.counter("simr1.hw_fwd"), node.nic.counter("simr0.hw_fwd"));
    for _ in 0..100 {
        assert_eq!(direct.poke(PATIENCE), Answer::Echo);
    }
    let after = (node.nic.counter("simr1.hw_fwd"), node.nic.counter("simr0.hw_fwd"));
    assert!(after.0 >= before.0 + 100, "{before:?} {after:?}");
    assert_eq!(after.1, before.1, "a reply may have to be translated, so the host sees it");
    let before = node.count("hw_fwd");
    for _ in 0..20 {
        assert_eq!(datagrams.poke(PATIENCE), Answer::Echo);
    }
    assert_eq!(
        node.count("hw_fwd"),
        before,
        "only replies of TCP are certain, and keep eBPF's memory of a connection alive"
    );

    story.step("cut running connections, and let them go on");
    // Idle, then cut, then let go on.
    sleep(Duration::from_millis(300));
    node.enforce(&policy("nobody"));
    let forwarded = node.count("hw_fwd");
    assert_eq!(direct.poke(PATIENCE), Answer::Silent);
    assert_eq!(service.poke(PATIENCE), Answer::Silent);
    assert_eq!(node.count("hw_fwd"), forwarded, "the NIC forwards what policy denies now");
    node.enforce(&policy("ui"));
    assert_eq!(direct.poke(PATIENCE * 3), Answer::Echo);
    assert_eq!(service.poke(PATIENCE * 3), Answer::Echo);

    story.step("detach, and leave nothing behind");
    // Nothing is left behind.
    let detach = node.netpolc(&["detach"]);
    assert!(detach.status.success(), "{}", String::from_utf8_lossy(&detach.stderr));
    assert_eq!(node.ask("other", "10.7.0.1", REDIS), Answer::Echo);
    assert_eq!(node.nic.counter("nic.rules"), 0, "{:#?}", node.nic.counters());
    lab::assert_kernel_is_quiet();
}
