//! Representor mode on the simulated NIC, with real connections between two pods: what is denied
//! and what is established never reaches the host's stack, and what must reach it does.
//!
//! The host routes between the pods and tracks connections there. Each representor has the other
//! pod's hardware address, so that frames carry from the start the address that hardware forwards
//! by. No eBPF: what hardware does not drop passes.

use netpolc_table::IfIndex;
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use netpolc_kube_sync::{Input, load};
use netpolc_lower::{Compiler, Scope, compile};
use netpolc_target_flower::{
    Flower,
    flower::Report,
    lower,
    lowered::{Lowered, Mode},
    quirks::capabilities,
    topology::{Forwarding, PodPort, Port, Topology},
};
use netpolc_testbed::{
    lab::{self, Simnic},
    netns::{Namespace, interface_index},
};

const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where pods send what is not on their link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const TIMEOUT: Duration = Duration::from_millis(700);

/// Pod B lets A in on these ports, and A may leave for them; all else is denied.
fn policy(ports: &str) -> String {
    let egress =
        format!("{{to: [{{podSelector: {{matchLabels: {{app: b}}}}}}], ports: [{ports}]}}");
    let ingress =
        format!("{{from: [{{podSelector: {{matchLabels: {{app: a}}}}}}], ports: [{ports}]}}");
    let pod = |name: &str, address: Ipv4Addr| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: \
             {{app: {name}}}}}\n\
             spec: {{nodeName: n1, containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIPs: \
             [{{ip: {address}}}]}}\n---\n"
        )
    };
    let policy = |name: &str, kind: &str, direction: &str, rule: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, \
             namespace: default}}\n\
             spec: {{podSelector: {{matchLabels: {{app: {name}}}}}, policyTypes: [{kind}], \
             {direction}: [{rule}]}}\n---\n"
        )
    };
    [
        pod("a", A),
        pod("b", B),
        policy("a", "Egress", "egress", &egress),
        policy("b", "Ingress", "ingress", &ingress),
    ]
    .concat()
}

struct Node {
    nic: Simnic,
    a: Namespace,
    b: Namespace,
    flower: Flower,
}

impl Node {
    fn up(driver: &str) -> Self {
        let nic = lab::simnic(driver, 2, &[]);
        lab::shell(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
             net.ipv4.conf.default.rp_filter=0
            sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0
            nft 'table inet track {{ chain forward {{ type filter hook forward priority 0; ct \
             state new accept; }}; }}'
            nft 'table ip nat {{ chain services {{ type nat hook prerouting priority -100;
                ip daddr {SERVICE} tcp dport 80 dnat to {B}:8000; ip daddr {SERVICE} tcp dport 81 \
             dnat to {B}:9000; }}; }}'
            mac() {{ printf 02:00:00:00:00:%s $1; }}
            for pod in '0 a {A} 0a {B} 0b' '1 b {B} 0b {A} 0a'; do
                set -- $pod
                ip netns add $2; ip netns exec $2 sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
             net.ipv6.conf.default.disable_ipv6=1; ip link set dev simv$1 netns $2; ip -n $2 link \
             set lo up
                ip -n $2 link set dev simv$1 address $(mac $4) up; ip link set dev simr$1 address \
             $(mac $6) up
                ip -n $2 addr add $3/32 dev simv$1; ip -n $2 route add $5/32 dev simv$1
                ip -n $2 neigh add $5 lladdr $(mac $6) dev simv$1 nud permanent
                ip -n $2 route add default via {GATEWAY} dev simv$1 onlink
                ip -n $2 neigh add {GATEWAY} lladdr $(mac $6) dev simv$1 nud permanent
                ip route add $3/32 dev simr$1; ip neigh add $3 lladdr $(mac $4) dev simr$1 nud \
             permanent
            done"
        ));
        let open = |name| Namespace::open(name).expect("just made");
        let node =
            Self { nic, a: open("a"), b: open("b"), flower: Flower::new().expect("rtnetlink") };
        for port in [8000, 9000] {
            node.serve(port);
        }
        node
    }

    /// B answers what it gets, until the lab ends.
    fn serve(&self, port: u16) {
        let listener =
            self.b.run(|| TcpListener::bind((B, port)).expect("a port")).expect("B's namespace");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let (mut stream, mut buffer) = (stream, [0; 1024]);
                    while let Ok(n @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    }

    fn connect(&self, to: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
        let address = SocketAddr::new(to.into(), port);
        let stream =
            self.a.run(|| TcpStream::connect_timeout(&address, TIMEOUT)).expect("A's namespace")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn enforce(
        &mut self,
        yaml: &str,
        mode: Mode,
        driver: &str,
        forwarding: Forwarding,
    ) -> (Lowered, Report) {
        let loaded = load([Input::bytes("lab.yaml", yaml)]);
        assert!(!loaded.has_errors(), "{:?}", loaded.problems);
        let compiler: Compiler = compile(&loaded.cluster, Scope::Everywhere).expect("it fits");
        let port = |name: &str| Port {
            ifindex: IfIndex::new(interface_index(name).expect("an interface")),
            name: name.into(),
        };
        let pods = compiler.endpoints().map(|(key, id)| {
            let (name, mac) = if *key.name == *"a" { ("simr0", 0x0a) } else { ("simr1", 0x0b) };
            (id, PodPort { port: port(name), mac: Some([2, 0, 0, 0, 0, mac]) })
        });
        let topology = Topology {
            pods: pods.collect(),
            uplinks: vec![port("simp0")],
            translated: vec!["10.96.0.0/12".parse().expect("a prefix")],
            forwarding,
            ..Topology::default()
        };
        let lowered = lower::lower(compiler.program(), &topology, mode, &capabilities(driver))
            .expect("it can");
        let report = self.flower.sync(&lowered).expect("filters");
        (lowered, report)
    }

    /// What the host's stack got from a representor.
    fn host_saw(&self, representor: &str) -> u64 {
        let path = format!("/sys/class/net/{representor}/statistics/rx_packets");
        fs::read_to_string(path).expect("statistics").trim().parse().expect("a number")
    }

    fn both(&self, counter: &str) -> u64 {
        self.nic.counter(&format!("simr0.{counter}"))
            + self.nic.counter(&format!("simr1.{counter}"))
    }
}

/// Sends and gets back; how many rounds went well.
fn echo(stream: &mut TcpStream, rounds: usize) -> usize {
    let mut buffer = [0; 64];
    (0..rounds)
        .take_while(|_| {
            stream.write_all(&[7; 64]).is_ok() && stream.read_exact(&mut buffer).is_ok()
        })
        .count()
}

/// Until hardware has the connection, in as many directions: a second goes by until the kernel has
/// told it.
fn warm_up(node: &Node, stream: &mut TcpStream, directions: u64) -> bool {
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        let before = node.both("hw_fwd");
        assert_eq!(echo(stream, 5), 5, "a permitted connection works");
        if node.both("hw_fwd") >= before + 5 * directions {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

const WEB: &str = "{port: 8000}";

#[test]
fn what_is_denied_or_established_never_reaches_the_host() {
    if lab::outside(what_is_denied_or_established_never_reaches_the_host) {
        return;
    }
    let mut node = Node::up("mlx5_core");
    let (_, report) =
        node.enforce(&policy(WEB), Mode::Representor, "mlx5_core", Forwarding::Switched);
    assert!(report.refused.is_empty(), "{:?}", report.refusals());
    // Denied: dropped before the host.
    let before = (node.host_saw("simr0"), node.nic.counter("simr0.hw_drop"));
    assert!(node.connect(B, 9000).is_err(), "9000 is denied");
    assert!(node.nic.counter("simr0.hw_drop") > before.1, "the opening is dropped in hardware");
    assert_eq!(node.host_saw("simr0"), before.0, "the host saw the opening");
    // Established: forwarded before the host, in both directions.
    let mut stream = node.connect(B, 8000).expect("8000 is permitted");
    assert!(
        warm_up(&node, &mut stream, 2),
        "the connection gets to hardware: {:?}",
        node.nic.counters()
    );
    let before = (node.host_saw("simr0"), node.host_saw("simr1"), node.both("hw_fwd"));
    assert_eq!(echo(&mut stream, 200), 200);
    let after = (node.host_saw("simr0"), node.host_saw("simr1"), node.both("hw_fwd"));
    assert!(
        after.2 - before.2 >= 400,
        "200 rounds are 400 packets: {} forwarded",
        after.2 - before.2
    );
    assert!(after.0 - before.0 + after.1 - before.1 <= 4, "the host saw {before:?} -> {after:?}");
    // Accepted without a redirect: through the host.
    node.enforce(&policy(WEB), Mode::Representor, "mlx5_core", Forwarding::Routed);
    let before = (node.host_saw("simr0"), node.both("hw_fwd"));
    assert_eq!(echo(&mut stream, 50), 50);
    assert_eq!(node.both("hw_fwd"), before.1, "nothing is forwarded");
    assert!(node.host_saw("simr0") - before.0 >= 50, "an accepted packet reaches the host");
    lab::assert_kernel_is_quiet();
}

#[test]
fn a_tightened_policy_ends_forwarding_of_an_idle_connection_s41() {
    if lab::outside(a_tightened_policy_ends_forwarding_of_an_idle_connection_s41) {
        return;
    }
    let mut node = Node::up("mlx5_core");
    node.enforce(&policy(WEB), Mode::Representor, "mlx5_core", Forwarding::Switched);
    let mut stream = node.connect(B, 8000).expect("8000 is permitted");
    assert!(warm_up(&node, &mut stream, 2));
    std::thread::sleep(Duration::from_millis(500));
    // Idle. Hardware knows the connection still; only the filters change.
    let (_, report) =
        node.enforce(&policy("{port: 9000}"), Mode::Representor, "mlx5_core", Forwarding::Switched);
    assert!(report.refused.is_empty(), "{:?}", report.refusals());
    let before = (node.both("hw_fwd"), node.host_saw("simr0"));
    let _ = echo(&mut stream, 20);
    assert_eq!(
        node.both("hw_fwd"),
        before.0,
        "hardware forwards a connection that policy denies now"
    );
    assert!(node.host_saw("simr0") > before.1, "the host decides about it");
    // S42: loosening brings it back without a new connection.
    node.enforce(&policy(WEB), Mode::Representor, "mlx5_core", Forwarding::Switched);
    assert!(warm_up(&node, &mut stream, 2), "the same connection is forwarded again");
    // The software mode alone cuts it: what was conntrack's stays, what policy denies is dropped.
    node.enforce(&policy("{port: 9000}"), Mode::Software, "software", Forwarding::Routed);
    assert_eq!(echo(&mut stream, 1), 0, "the connection is cut");
    lab::assert_kernel_is_quiet();
}

#[test]
fn services_are_translated_with_filters_as_without_s48() {
    if lab::outside(services_are_translated_with_filters_as_without_s48) {
        return;
    }
    let mut node = Node::up("mlx5_core");
    let works = |node: &Node, what: &str, to: Ipv4Addr, port: u16| {
        let mut stream =
            node.connect(to, port).unwrap_or_else(|e| panic!("{what}: {to}:{port}: {e}"));
        assert_eq!(stream.peer_addr().expect("a peer").port(), port);
        assert_eq!(echo(&mut stream, 40), 40, "{what}: replies come back translated");
    };
    works(&node, "no filters", SERVICE, 80);
    for forwarding in [Forwarding::Routed, Forwarding::Translating] {
        let what = format!("representor, {forwarding:?}");
        let (_, report) = node.enforce(&policy(WEB), Mode::Representor, "mlx5_core", forwarding);
        assert!(report.refused.is_empty(), "{what}: {:?}", report.refusals());
        let dropped = node.both("hw_drop");
        works(&node, &what, SERVICE, 80);
        assert_eq!(node.both("hw_drop"), dropped, "{what}: hardware judges no Service");
        works(&node, &what, B, 8000);
        // Both at once, for as long as it takes until hardware knows both connections.
        let mut service = node.connect(SERVICE, 80).expect("service");
        let mut direct = node.connect(B, 8000).expect("direct");
        if forwarding == Forwarding::Translating {
            assert!(
                warm_up(&node, &mut direct, 1),
                "{what}: what A opens to B itself is forwarded"
            );
            assert_eq!(echo(&mut service, 5), 5);
            std::thread::sleep(Duration::from_secs(2));
        }
        let before = (node.both("hw_fwd"), node.nic.counter("simr0.hw_fwd"));
        for _ in 0..20 {
            assert_eq!((echo(&mut direct, 2), echo(&mut service, 2)), (2, 2), "{what}");
        }
        let (all, of_a) =
            (node.both("hw_fwd") - before.0, node.nic.counter("simr0.hw_fwd") - before.1);
        match forwarding {
            Forwarding::Routed => assert_eq!(all, 0, "{what}"),
            _ => assert!(
                of_a >= 40 && all == of_a,
                "{what}: {of_a} packets of A and {} of B",
                all - of_a
            ),
        }
    }
    // Software: what reaches B is judged as the backend, on its port and not the Service's.
    let ingress_only =
        policy(WEB).replace("policyTypes: [Egress], egress", "policyTypes: [Ingress], ingress");
    let ingress_only = ingress_only.replace("ingress: [{to:", "ingress: [{from:");
    let (_, report) = node.enforce(&ingress_only, Mode::Software, "software", Forwarding::Routed);
    assert!(report.refused.is_empty(), "{:?}", report.refusals());
    works(&node, "software", SERVICE, 80);
    works(&node, "software", B, 8000);
    assert!(
        node.connect(SERVICE, 81).is_err(),
        "software: the Service's other port leads to a port that policy denies"
    );
    assert!(node.connect(B, 9000).is_err(), "software: denied directly");
    lab::assert_kernel_is_quiet();
}

#[test]
fn a_flood_of_established_and_denied_packets_passes_the_host_by() {
    if lab::outside(a_flood_of_established_and_denied_packets_passes_the_host_by) {
        return;
    }
    const ROUNDS: usize = 3000;
    const OPENS: usize = 40;
    let mut node = Node::up("mlx5_core");
    let mut table = vec![];
    for (offload, forwarding, directions) in [
        ("off", Forwarding::Routed, 0),
        ("on, Services", Forwarding::Translating, 1),
        ("on", Forwarding::Switched, 2),
    ] {
        match directions {
            0 => drop(node.enforce(&policy(WEB), Mode::Software, "software", forwarding)),
            _ => drop(node.enforce(&policy(WEB), Mode::Representor, "mlx5_core", forwarding)),
        }
        let mut stream = node.connect(B, 8000).expect("8000 is permitted");
        if directions > 0 {
            assert!(warm_up(&node, &mut stream, directions));
        } else {
            assert_eq!(echo(&mut stream, 10), 10);
        }
        let saw = |node: &Node| node.host_saw("simr0") + node.host_saw("simr1");
        let (before, begin) = (saw(&node), Instant::now());
        assert_eq!(echo(&mut stream, ROUNDS), ROUNDS);
        let (established, took) = (saw(&node) - before, begin.elapsed());
        let before = saw(&node);
        for _ in 0..OPENS {
            let address = SocketAddr::new(B.into(), 9000);
            let short = Duration::from_millis(5);
            assert!(
                node.a
                    .run(|| TcpStream::connect_timeout(&address, short).is_err())
                    .expect("A's namespace")
            );
        }
        let opens = saw(&node) - before;
        table.push((offload, established, opens, took));
    }
    println!("offload       established packets the host saw  denied opens the host saw  us/round");
    for (offload, established, opens, took) in &table {
        let each = took.as_micros() as usize / ROUNDS;
        println!(
            "{offload:12}  {established:>10} of {}             {opens:>4} of {OPENS}               \
              {each}",
            2 * ROUNDS
        );
    }
    assert!(
        table[0].1 as usize >= 2 * ROUNDS && table[0].2 as usize >= OPENS,
        "off: the host sees everything"
    );
    let half = ROUNDS as u64 + 10;
    assert!(
        table[1].1 <= half && table[1].2 == 0,
        "on, where the host may translate: it sees replies"
    );
    assert!(table[2].1 <= 10 && table[2].2 == 0, "on: the host sees next to nothing");
    lab::assert_kernel_is_quiet();
}
