//! Which interface is whose, and what leaves by interfaces that come later, on nodes of network
//! namespaces with real packets: with host routes (as Calico and the AWS CNI make them) and behind
//! a bridge (as flannel does). Needs root.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{Running, bridge::Bridge};
use netpolc_testbed::{
    netns::Site,
    probe::{Ask, PATIENCE, Question, ask},
};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

const WEB: Ask = Ask::Tcp(80);
/// What is denied is asked for so long.
const SHORT: Duration = Duration::from_millis(300);

/// a may reach b; c may reach nothing.
const POLICIES: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: default}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: \
    a}}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: c, namespace: default}
spec: {podSelector: {matchLabels: {app: c}}, policyTypes: [Egress]}
";

fn passes(from: &Site, to: IpAddr, asked: Ask, patience: Duration) -> bool {
    ask(&[Question::new(from, to, asked)], patience).unwrap()[0].passed()
}

/// The agent, its log, and what it says.
struct Watched {
    agent: Option<Running>,
    log: PathBuf,
}

impl Watched {
    fn start(node: &Bridge) -> Self {
        let log = node.folder.with_extension("log");
        let mut watched = Watched { agent: None, log };
        watched.again(node);
        watched
    }

    /// Ends it and starts it again; waits until all pods have their interfaces.
    fn again(&mut self, node: &Bridge) {
        self.end();
        let log = fs::File::create(&self.log).unwrap();
        self.agent = Some(Running::start(node.agent().stderr(log)));
        let end = Instant::now() + Duration::from_secs(60);
        while !self.said().contains("in step") || self.interfaces(node).len() < node.pods.len() {
            assert!(Instant::now() < end, "not in step: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop(libc::SIGTERM);
        }
    }

    fn said(&self) -> String {
        let mut text = String::new();
        fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// By pod's name.
    fn interfaces(&self, node: &Bridge) -> BTreeMap<String, String> {
        let status: Value = serde_json::from_slice(&node.netpolc(&["status", "-o", "json"]).stdout)
            .unwrap_or_default();
        let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
        let text = |v: &Value| v.as_str().map(ToOwned::to_owned);
        endpoints.iter().filter_map(|e| Some((text(&e["pod"])?, text(&e["interface"])?))).collect()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.log);
    }
}

fn at_home(node: &Bridge) -> BTreeMap<String, String> {
    node.pods.keys().map(|name| (format!("default/{name}"), format!("v{name}"))).collect()
}

/// An ICMP error of `from` to `to` about an echo reply that `to` sent to `about`: "fragmentation
/// needed, 600 bytes".
fn too_big(from: &Site, to: Ipv4Addr, about: Ipv4Addr) {
    let mut inner = vec![0x45, 0];
    inner.extend(1000u16.to_be_bytes());
    inner.extend([0, 1, 0, 0, 64, 1, 0, 0]);
    inner.extend(to.octets());
    inner.extend(about.octets());
    let sum = checksum(&inner);
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(600u16.to_be_bytes());
    message.extend(inner);
    message.extend([0; 72]); // an echo reply
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let send = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.send_to(&message, &SocketAddrV4::new(to, 0).into())
    };
    from.run(send).unwrap().unwrap();
}

fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|b| u32::from(b[0]) << 8 | b.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Path MTU exceptions look like host routes, and anybody can make them.
#[test]
fn an_icmp_error_moves_no_pod() {
    let node = Bridge::up("exception", &["a", "b", "c"], POLICIES);
    let agent = Watched::start(&node);
    let (a, b, c) = (node.pod("a"), node.pod("b"), node.pod("c"));
    let b_address = b.addresses[0];
    let verdicts = || (passes(a, b_address, WEB, PATIENCE), passes(c, b_address, WEB, SHORT));
    assert_eq!(verdicts(), (true, false));
    let IpAddr::V4(victim) = b_address else { unreachable!("the first address is IPv4") };
    // a may send what it likes.
    too_big(a, Bridge::GATEWAY, victim);
    let cached = node.sh(&format!("ip route get {victim}"));
    assert!(cached.contains("mtu 600"), "the kernel keeps no exception: {cached}");
    node.sh("ip link add something type bridge; ip route add 198.51.100.0/24 dev eth0");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.interfaces(&node), at_home(&node));
    assert_eq!(verdicts(), (true, false));
    assert!(passes(a, node.outside().addresses[0], WEB, PATIENCE), "others are not cut off");
    assert!(!agent.said().contains("interface has changed"), "{}", agent.said());
}

/// S58: a pod that administers its namespace takes another's address, or puts its own down; neither
/// changes whose interface is whose, now or at a later start.
#[test]
fn s58_what_pods_do_to_their_addresses_moves_no_pod() {
    let node = Bridge::up("foreign", &["a", "b", "c", "d"], POLICIES);
    let mut agent = Watched::start(&node);
    let (b, c, d) = (node.pod("b"), node.pod("c"), node.pod("d"));
    let outside = node.outside().addresses[0];
    let stolen = b.addresses[0];
    let check = |agent: &mut Watched, what: &str| {
        agent.again(&node);
        assert_eq!(agent.interfaces(&node), at_home(&node), "{what}");
        assert!(!passes(d, stolen, WEB, SHORT), "{what}: b lets a in alone");
        assert!(!passes(c, outside, WEB, SHORT), "{what}: c may reach nothing");
    };
    node.inside(
        "c",
        &format!("sysctl -qw net.ipv4.conf.all.arp_ignore=8; ip addr add {stolen}/32 dev eth0"),
    );
    for round in 0..4 {
        check(&mut agent, &format!("start {round} with b's address in c"));
    }
    // Without its own one, c's namespace might as well be b's.
    node.inside("c", &format!("ip addr del {}/24 dev eth0", c.addresses[0]));
    for round in 0..4 {
        check(&mut agent, &format!("start {round} with b's address only in c"));
    }
    node.inside("c", "ip addr flush dev eth0");
    node.sh("ip link add something type bridge");
    check(&mut agent, "without any address in c");
}

/// S55: a pod that takes another's hardware address neither draws the other's frames nor sends any.
#[test]
fn s55_a_stolen_hardware_address_draws_nothing() {
    let node = Bridge::up("stolen", &["a", "b", "c", "d"], POLICIES);
    let mut agent = Watched::start(&node);
    let (a, b, d) = (node.pod("a"), node.pod("b"), node.pod("d"));
    let outside = node.outside().addresses[0];
    let mac = |pod: &str| {
        let link = node.inside(pod, "ip -o link show dev eth0");
        link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
    };
    let (own, stolen) = (mac("d"), mac("b"));
    assert!(passes(d, outside, WEB, PATIENCE));
    let take = |address: &str| {
        node.inside(
            "d",
            &format!(
                "ip link set eth0 address {address}; ip neigh flush all; ip route replace default \
                 via {}",
                Bridge::GATEWAY
            ),
        );
    };
    for what in ["at once", "after a start"] {
        take(&stolen);
        assert!(!passes(d, outside, WEB, SHORT), "{what}: d sends as b");
        let learned = node.sh("bridge fdb show br cni0");
        assert!(!learned.contains(&format!("{stolen} dev vd")), "{what}: {learned}");
        assert!(passes(a, b.addresses[0], WEB, PATIENCE), "{what}: b's frames reach b");
        agent.again(&node);
    }
    take(&own);
    assert!(passes(d, outside, WEB, PATIENCE), "d is itself again");
}

/// S48: an interface that comes is covered before a packet to a Service leaves by it, also one that
/// came while no agent ran.
#[test]
fn s48_packets_to_services_are_judged_at_interfaces_that_come_later() {
    let node = Bridge::up("uplinks", &["a", "c"], POLICIES);
    let target: IpAddr = [203, 0, 113, 9].into();
    let service = format!(
        "kind: Service\nmetadata: {{name: s, namespace: default}}\nspec: {{clusterIP: 10.96.0.9, \
         clusterIPs: [10.96.0.9], \
         externalIPs: [{target}], ports: [{{port: 80}}, {{name: u, port: 53, protocol: UDP}}]}}\n"
    );
    fs::write(node.folder.join("service.yaml"), service).unwrap();
    let mut agent = Watched::start(&node);
    let (a, c) = (node.pod("a"), node.pod("c"));
    let reached = || (passes(c, target, WEB, SHORT), passes(c, target, Ask::Udp(53), SHORT));
    assert!(passes(a, target, WEB, PATIENCE) && passes(a, target, Ask::Udp(53), PATIENCE));
    assert_eq!(reached(), (false, false));
    let uplink = |name: &str, number: u8| {
        let outside = node.outside().namespace.name().to_owned();
        node.sh(&format!(
            "ip link add {name} type veth peer name {name} netns {outside}; ip link set {name} up; \
             ip addr add 192.168.5{number}.1/24 dev {name}; \
             ip netns exec {outside} ip addr add 192.168.5{number}.2/24 dev {name}; \
             ip netns exec {outside} ip link set {name} up; ip route replace {target}/32 via \
             192.168.5{number}.2; \
             ip netns exec {outside} ip route replace 10.9.0.0/24 via 192.168.5{number}.1 src \
             {target}"
        ));
    };
    uplink("up1", 1);
    assert_eq!(reached(), (false, false), "just come");
    assert!(passes(a, target, WEB, PATIENCE) && passes(a, target, Ask::Udp(53), PATIENCE));
    assert_eq!(reached(), (false, false));
    agent.end();
    uplink("up2", 2);
    agent.again(&node);
    assert_eq!(reached(), (false, false), "came while no agent ran");
    assert!(passes(a, target, WEB, PATIENCE));
}
