//! Egress to Services with real packets: translation rules in the shapes of kube-proxy's nftables,
//! iptables and ipvs modes on the node, backends on the same node and on another one, some of them
//! allowed. Needs root, nft and iptables; ipvs runs in the lab, whose kernel has it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netpolc_lower::{Compiler, Event, Scope, compile};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_table::{IfIndex, Program, delta};
use netpolc_target::{Hook, Target, execute};
use netpolc_target_ebpf::{Config, Ebpf, Hold, sys};
use netpolc_testbed::{
    feed::feed,
    lab,
    netns::{Net, Site, Spec},
    probe::{Answer, Ask, Connection, PATIENCE, Question, Servers, ask},
};

const SERVICES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 9, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 9, 1)),
];
const NODES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 9, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd19, 0, 0, 0, 0, 0, 0, 1)),
];

/// Ports of the Service, one for each backend, and what becomes of them: the pod, its port, may
/// `client` use it.
const BACKENDS: [(u16, &str, u16, bool); 6] = [
    (81, "good", 8080, true),
    (82, "bad", 8080, false),
    (83, "far-good", 8080, true),
    (84, "far-bad", 8080, false),
    // The pod is allowed, its other port is not.
    (85, "good", 9090, false),
    // S47
    (86, "client", 8080, true),
];

fn pod(name: &str, n: u8, node: &str, labels: &str) -> String {
    format!(
        "---
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}
spec: {{nodeName: {node}, containers: [{{name: c}}]}}
status: {{phase: Running, podIPs: [{{ip: 10.9.0.{n}}}, {{ip: 'fd09::{n}'}}]}}
"
    )
}

fn policy(tier: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: client, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: client}}}}
  policyTypes: [Ingress, Egress]
  egress:
  - {{to: [{{podSelector: {{matchLabels: {{tier: {tier}}}}}}}], ports: [{{port: 8080}}, {{port: \
         8080, protocol: UDP}}]}}
"
    )
}

fn service() -> String {
    let ports = BACKENDS.map(|(port, ..)| {
        format!(
            "{{port: {port}, nodePort: {}}}, {{port: {port}, protocol: UDP, nodePort: {}}}",
            30000 + port,
            30000 + port
        )
    });
    format!(
        "---
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{type: NodePort, clusterIPs: ['{}', '{}'], ports: [{}]}}
",
        SERVICES[0],
        SERVICES[1],
        ports.join(", ")
    )
}

fn cluster() -> Cluster {
    let mut text = String::new();
    for (i, node) in ["n1", "n2"].into_iter().enumerate() {
        let (a, b) = (format!("192.168.9.{}", i + 1), format!("fd19::{}", i + 1));
        text += &format!(
            "---\nkind: Node\nmetadata: {{name: {node}}}\nstatus: {{addresses: [{{type: \
             InternalIP, address: {a}}}, {{type: InternalIP, address: '{b}'}}]}}\n"
        );
    }
    text += &pod("client", 1, "n1", "app: client");
    text += &pod("free", 2, "n1", "app: free");
    text += &pod("good", 3, "n1", "tier: good");
    text += &pod("bad", 4, "n1", "tier: bad");
    text += &pod("far-good", 5, "n2", "tier: good");
    text += &pod("far-bad", 6, "n2", "tier: bad");
    load(&(text + &service() + &policy("good")))
}

fn load(text: &str) -> Cluster {
    let loaded = netpolc_kube_sync::load([netpolc_kube_sync::Input::bytes("services.yaml", text)]);
    assert_eq!(loaded.problems, []);
    loaded.cluster
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Nft,
    Iptables,
    /// IPVS translates between LOCAL_IN and LOCAL_OUT; masquerading is nft's.
    Ipvs,
}

/// Whose source address becomes the node's: that of what comes back to its own sender, or
/// everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masquerade {
    Hairpin,
    All,
}

/// What the node translates: ports of the Service's addresses and the node's own to backends.
struct Rules<'a> {
    cluster: &'a Cluster,
    shape: Shape,
    masquerade: Masquerade,
    /// Port -> pod and port.
    backends: Vec<(u16, &'static str, u16)>,
}

impl<'a> Rules<'a> {
    /// Port 81 leads to a backend that the policy permits, as kube-proxy does it by default.
    fn permitted(cluster: &'a Cluster) -> Self {
        Rules {
            cluster,
            shape: Shape::Nft,
            masquerade: Masquerade::Hairpin,
            backends: vec![(81, "good", 8080)],
        }
    }

    fn each(&self, v4: bool) -> impl Iterator<Item = (IpAddr, u16, String, bool)> {
        let which = usize::from(!v4);
        self.backends.iter().flat_map(move |&(port, pod, target)| {
            let to = self.cluster.pods[&key(pod)].addresses[which];
            let to = if v4 { format!("{to}:{target}") } else { format!("[{to}]:{target}") };
            let masquerade = self.masquerade == Masquerade::All || pod == "client";
            [
                (SERVICES[which], port, to.clone(), masquerade),
                (NODES[which], 30000 + port, to, masquerade),
            ]
        })
    }

    fn install(&self, node: &Site) {
        if self.shape == Shape::Ipvs {
            run(node, "sh", &["-e"], &self.ipvs());
        }
        for v4 in [true, false] {
            match self.shape {
                Shape::Nft | Shape::Ipvs => run(node, "nft", &["-f", "-"], &self.nft(v4)),
                Shape::Iptables => {
                    let command = if v4 { "iptables-restore" } else { "ip6tables-restore" };
                    run(node, command, &[], &self.iptables(v4));
                }
            }
        }
    }

    /// One rule a port instead of verdict maps; the hooks, marks and statements are kube-proxy's.
    fn nft(&self, v4: bool) -> String {
        let family = if v4 { "ip" } else { "ip6" };
        let mut services = String::new();
        for (address, port, to, masquerade) in self.each(v4) {
            let mark = if masquerade { "meta mark set meta mark or 0x4000 " } else { "" };
            for protocol in ["tcp", "udp"] {
                let to = if self.shape == Shape::Ipvs {
                    "accept".into()
                } else {
                    format!("dnat to {to}")
                };
                services +=
                    &format!("    {family} daddr {address} {protocol} dport {port} {mark}{to}\n");
            }
        }
        format!(
            "add table {family} kube-proxy
delete table {family} kube-proxy
table {family} kube-proxy {{
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{services}  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }}
}}
"
        )
    }

    /// Services' addresses are the node's own, on an interface that leads nowhere.
    fn ipvs(&self) -> String {
        let mut script = "sysctl -qw net.ipv4.vs.conntrack=1; ipvsadm -C\n\
                          ip link show kube-ipvs0 >/dev/null 2>&1 || ip link add kube-ipvs0 type \
            dummy\n"
            .to_owned();
        for address in SERVICES {
            script += &format!("ip addr replace {address} dev kube-ipvs0 nodad\n");
        }
        for (address, port, to, _) in [true, false].into_iter().flat_map(|v4| self.each(v4)) {
            let service = SocketAddr::new(address, port);
            for protocol in ["-t", "-u"] {
                script += &format!(
                    "ipvsadm -A {protocol} {service} -s rr; ipvsadm -a {protocol} {service} -r \
                     {to} -m\n"
                );
            }
        }
        script
    }

    fn iptables(&self, v4: bool) -> String {
        let mut chains = String::new();
        let mut rules = String::new();
        for (n, (address, port, to, masquerade)) in self.each(v4).enumerate() {
            for protocol in ["tcp", "udp"] {
                let chain = format!("KUBE-SEP-{protocol}{n}");
                chains += &format!(":{chain} - [0:0]\n");
                rules += &format!(
                    "-A KUBE-SERVICES -d {address} -p {protocol} --dport {port} -j {chain}\n"
                );
                if masquerade {
                    rules += &format!("-A {chain} -j KUBE-MARK-MASQ\n");
                }
                rules += &format!("-A {chain} -p {protocol} -j DNAT --to-destination {to}\n");
            }
        }
        format!(
            "*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}COMMIT
"
        )
    }
}

fn run(site: &Site, program: &str, arguments: &[&str], input: &str) {
    let done = feed(site.command(program).args(arguments), input.as_bytes())
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program}: {}\n{input}", String::from_utf8_lossy(&done.stderr));
}

/// The node n1 with everything that enforces there.
struct Node {
    compiler: Compiler,
    ebpf: Ebpf,
}

impl Node {
    /// To be called in n1's network namespace.
    fn up(net: &Net, cluster: &Cluster) -> Self {
        let mut compiler = compile(cluster, Scope::Node("n1".into())).unwrap();
        let local: Vec<ObjectKey> = compiler.endpoints().map(|(key, _)| key.clone()).collect();
        let index = |key: &ObjectKey| net.pod(key).unwrap().host_end.as_ref().unwrap().index;
        let events = local.iter().map(|k| Event::Interface {
            pod: k.clone(),
            interface: Some(IfIndex::new(index(k)).into()),
        });
        compiler.apply_all(events.collect::<Vec<_>>()).unwrap();
        let mut ebpf = Ebpf::private(Config::small()).expect("needs root and BPF");
        let (_, plan) = delta::plan(&Program::default(), compiler.program()).unwrap();
        execute(&mut ebpf, &plan).unwrap();
        ebpf.attach_uplink(sys::ifindex("eth0").unwrap()).unwrap();
        for key in &local {
            ebpf.attach(IfIndex::new(index(key))).unwrap();
        }
        Self { compiler, ebpf }
    }

    fn apply(&mut self, event: Event) {
        let changes = self.compiler.apply(event).unwrap();
        let plan = delta::order(self.compiler.program(), &changes).unwrap();
        execute(&mut self.ebpf, &plan).unwrap();
        let held = self.ebpf.read().unwrap();
        assert_eq!(held.len(), self.compiler.program().len());
    }

    fn set_policy(&mut self, tier: &str) {
        let policy = load(&policy(tier)).policies.remove(&key("client")).unwrap();
        self.apply(Event::Policy { key: policy.key.clone(), policy: Some(policy) });
    }

    fn denials(&self) -> u64 {
        let endpoint = self.compiler.endpoint(&key("client")).unwrap();
        let drops = self.ebpf.drops(endpoint).unwrap();
        drops.into_iter().filter(|(hook, ..)| *hook == Hook::FromPod).map(|(.., count)| count).sum()
    }
}

/// Brings everything up and does `work` in n1's network namespace.
fn on_the_node(work: impl FnOnce(&Net, &Cluster, Node) + Send) {
    let cluster = cluster();
    let net = Net::up(&Spec::of(&cluster)).expect("network namespaces (this needs root)");
    let ports = [Ask::Tcp(8080), Ask::Udp(8080), Ask::Tcp(9090), Ask::Udp(9090)];
    let _servers = Servers::start(net.pods().map(|(_, site)| (site, ports))).unwrap();
    let node = net.node("n1").unwrap();
    node.run(|| work(&net, &cluster, Node::up(&net, &cluster))).unwrap();
}

fn site<'a>(net: &'a Net, name: &str) -> &'a Site {
    net.pod(&key(name)).unwrap()
}

/// Asks every port of the Service, by its own addresses and by the node's; says what went otherwise
/// than expected.
fn differences(net: &Net, from: &str, expected: impl Fn(bool) -> bool) -> Vec<String> {
    let mut questions = Vec::new();
    let mut wanted = Vec::new();
    for (address, offset) in SERVICES.map(|a| (a, 0)).into_iter().chain(NODES.map(|a| (a, 30000))) {
        for (port, pod, _, allowed) in
            BACKENDS.into_iter().filter(|b| b.1 != "client" || from == "client")
        {
            for asked in [Ask::Tcp(offset + port), Ask::Udp(offset + port)] {
                questions.push(Question::new(site(net, from), address, asked));
                wanted.push((pod, expected(allowed)));
            }
        }
    }
    let answers = ask(&questions, PATIENCE).unwrap();
    let wrong = answers
        .iter()
        .zip(&questions)
        .zip(&wanted)
        .filter(|((answer, _), (_, w))| (**answer == Answer::Echo) != *w);
    wrong
        .map(|((answer, q), (pod, _))| format!("{from} -> {} {} ({pod}): {answer:?}", q.to, q.ask))
        .collect()
}

/// S48: each backend is judged by itself, wherever it is and whoever translates, masqueraded or
/// not. S45: the own node's addresses lead to backends, too. S47.
#[test]
fn s48_each_backend_is_judged_by_itself() {
    on_the_node(|net, cluster, node| {
        let backends = BACKENDS.map(|(port, pod, target, _)| (port, pod, target)).to_vec();
        let nothing = |_| vec![];
        let mut wrong: Vec<String> = nothing(());
        let mut before = node.denials();
        for shape in [Shape::Nft, Shape::Iptables] {
            for masquerade in [Masquerade::Hairpin, Masquerade::All] {
                let rules = Rules { cluster, shape, masquerade, backends: backends.clone() };
                rules.install(net.node("n1").unwrap());
                for (from, expected) in [("client", None), ("free", Some(true))] {
                    let found = differences(net, from, |allowed| expected.unwrap_or(allowed));
                    wrong.extend(
                        found.into_iter().map(|w| format!("{shape:?} {masquerade:?}: {w}")),
                    );
                }
                let now = node.denials();
                assert!(now > before, "the client's drops are counted for it");
                before = now;
            }
            if shape == Shape::Nft {
                for family in ["ip", "ip6"] {
                    run(
                        net.node("n1").unwrap(),
                        "nft",
                        &["delete", "table", family, "kube-proxy"],
                        "",
                    );
                }
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
        // Headless: the client asks for the backends themselves.
        let direct = |pod: &str| {
            let to = cluster.pods[&key(pod)].addresses[0];
            ask(&[Question::new(site(net, "client"), to, Ask::Tcp(8080))], PATIENCE).unwrap()[0]
        };
        assert_eq!(["good", "far-good"].map(direct), [Answer::Echo; 2]);
        assert_eq!(["bad", "far-bad"].map(direct), [Answer::Silent; 2]);
    });
}

/// S48, S45, S47 as above where IPVS translates.
#[test]
fn s48_each_backend_is_judged_by_itself_behind_ipvs() {
    if lab::outside(s48_each_backend_is_judged_by_itself_behind_ipvs) {
        return;
    }
    on_the_node(|net, cluster, node| {
        let backends = BACKENDS.map(|(port, pod, target, _)| (port, pod, target)).to_vec();
        for masquerade in [Masquerade::Hairpin, Masquerade::All] {
            let before = node.denials();
            Rules { cluster, shape: Shape::Ipvs, masquerade, backends: backends.clone() }
                .install(net.node("n1").unwrap());
            for (from, expected) in [("free", Some(true)), ("client", None)] {
                let wrong = differences(net, from, |allowed| expected.unwrap_or(allowed));
                assert_eq!(wrong, Vec::<String>::new(), "{masquerade:?}");
            }
            assert!(node.denials() > before, "the client's drops are counted for it");
        }
    });
}

/// S48, S41, S42 in the life of connections to a Service.
#[test]
fn s48_connections_follow_their_own_backend_and_today_s_policy() {
    on_the_node(|net, cluster, mut node| {
        let rules = |backends: &[(u16, &'static str, u16)]| {
            let rules = Rules {
                cluster,
                shape: Shape::Nft,
                masquerade: Masquerade::Hairpin,
                backends: backends.to_vec(),
            };
            rules.install(net.node("n1").unwrap());
        };
        rules(&[(81, "good", 8080), (83, "far-good", 8080)]);
        let open = |to: IpAddr, asked: Ask| {
            Connection::open(site(net, "client"), to, asked, PATIENCE)
                .unwrap()
                .expect("the backend is allowed")
        };
        let asks = [Ask::Tcp(81), Ask::Tcp(83), Ask::Udp(81), Ask::Udp(83)];
        let mut running: Vec<Connection> = SERVICES
            .into_iter()
            .flat_map(|to| asks.map(|asked| (to, asked)))
            .map(|(to, asked)| open(to, asked))
            .collect();
        let mut poke = |patience: Duration, expected: Answer, what: &str| {
            for connection in &mut running {
                assert_eq!(connection.poke(patience), expected, "{what}: {connection:?}");
            }
        };
        node.set_policy("none");
        poke(Duration::from_millis(300), Answer::Silent, "tightened");
        node.set_policy("good");
        // TCP repeats what was dropped.
        poke(Duration::from_secs(10), Answer::Echo, "allowed again");

        // The Service goes: what runs goes on, nothing new begins.
        node.apply(Event::Service { key: key("web"), service: None });
        poke(PATIENCE, Answer::Echo, "the Service gone");
        let new = |asked| {
            ask(&[Question::new(site(net, "client"), SERVICES[0], asked)], PATIENCE).unwrap()[0]
        };
        assert_eq!([Ask::Tcp(81), Ask::Udp(81)].map(new), [Answer::Silent; 2]);
        node.set_policy("none");
        poke(Duration::from_millis(300), Answer::Silent, "tightened, the Service gone");
        node.set_policy("good");
        poke(Duration::from_secs(10), Answer::Echo, "allowed again, the Service gone");
        let back = load(&service()).services.remove(&key("web")).unwrap();
        node.apply(Event::Service { key: key("web"), service: Some(back) });
        assert_eq!([Ask::Tcp(81), Ask::Udp(81)].map(new), [Answer::Echo; 2]);

        // The backends terminate gracefully: new connections go elsewhere, where the client may not
        // go.
        rules(&[(81, "bad", 8080), (83, "far-bad", 8080)]);
        poke(PATIENCE, Answer::Echo, "the backend terminates");
        assert_eq!([Ask::Tcp(81), Ask::Udp(81)].map(new), [Answer::Silent; 2]);
        assert_eq!([Ask::Tcp(83), Ask::Udp(83)].map(new), [Answer::Silent; 2]);
    });
}

/// While some interface is not covered, nothing begins that would be judged there; what is
/// permitted as it is passes.
#[test]
fn s48_nothing_new_goes_to_services_while_an_interface_is_not_covered() {
    on_the_node(|net, cluster, mut node| {
        Rules::permitted(cluster).install(net.node("n1").unwrap());
        let answer =
            |to, asked| ask(&[Question::new(site(net, "client"), to, asked)], PATIENCE).unwrap()[0];
        let good = cluster.pods[&key("good")].addresses[0];
        for (hold, expected) in
            [(Hold::Free, Answer::Echo), (Hold::Held, Answer::Silent), (Hold::Free, Answer::Echo)]
        {
            node.ebpf.hold(hold).unwrap();
            assert_eq!(
                [Ask::Tcp(81), Ask::Udp(81)].map(|asked| answer(SERVICES[0], asked)),
                [expected; 2],
                "{hold:?}"
            );
            assert_eq!(answer(good, Ask::Tcp(8080)), Answer::Echo, "{hold:?}");
        }
    });
}

/// The mark is the hooks': what a pod marks itself comes unmarked, since the packet changes its
/// network namespace.
#[test]
fn s48_a_pod_cannot_mark_its_packets() {
    on_the_node(|net, cluster, _node| {
        Rules::permitted(cluster).install(net.node("n1").unwrap());
        let marks = "table inet marks {\n chain output {\n type filter hook output priority 0;\n \
            meta mark set 0x1000\n }\n}\n";
        run(site(net, "client"), "nft", &["-f", "-"], marks);
        let refuse = "table inet refuse {\n chain pre {\n type filter hook prerouting priority \
            -300;\n meta mark & 0x1000 != 0 drop\n }\n}\n";
        run(net.node("n1").unwrap(), "nft", &["-f", "-"], refuse);
        let answer =
            |to, asked| ask(&[Question::new(site(net, "client"), to, asked)], PATIENCE).unwrap()[0];
        let good = cluster.pods[&key("good")].addresses[0];
        assert_eq!(answer(good, Ask::Tcp(8080)), Answer::Echo, "not marked where it comes in");
        assert_eq!(
            answer(SERVICES[0], Ask::Tcp(81)),
            Answer::Silent,
            "to a Service it is, by the hook"
        );
    });
}
