//! What software flower does with single packets, item by item. The same by random packets:
//! `software.rs`.

mod common;

use common::{cluster, compiled, endpoint, filters, ip};
use netpolc_table::eval::{self, Pipeline, Verdict};
use netpolc_target_flower::{
    eval::{Born, Fragment, Outcome, Packet, Semantics, run},
    filter::{Filter, Side, ct},
    lower::software,
    lowered::Refused,
    topology::Topology,
};

/// `a` may open to `b` on TCP 80 and UDP 53; `b` takes TCP 80-90 and UDP 53 from `a` and is
/// isolated both ways; `c` is free.
const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: m}
---
apiVersion: v1
kind: Node
metadata: {name: node}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: \
    'fd01::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: m, labels: {app: a}}
spec: {nodeName: node, containers: [{name: m, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: m, labels: {app: b}}
spec: {nodeName: node, containers: [{name: m, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c, namespace: m, labels: {app: c}}
spec: {nodeName: node, containers: [{name: m, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.3}, {ip: 'fd00::3'}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: m}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: b}}}]
    ports: [{port: 80}, {port: 53, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: m}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}]
    ports: [{port: 80, endPort: 90}, {port: 53, protocol: UDP}]
";

struct World {
    filters: [Vec<Filter>; 3],
}

impl World {
    fn new() -> Self {
        Self::of(CLUSTER)
    }

    fn of(yaml: &str) -> Self {
        let (compiler, mut topology) = compiled(&cluster(yaml));
        topology.node_addresses = vec![ip("192.0.2.1"), ip("fd01::1")];
        let lowered = software::lower(compiler.program(), &topology).unwrap();
        let of = |pod| filters(&lowered, endpoint(&compiler, pod));
        World { filters: [of("m/a"), of("m/b"), of("m/c")] }
    }

    /// From pod 0, 1 or 2.
    fn sends(&self, pod: usize, packet: &Packet) -> bool {
        self.passes(pod, Side::Ingress, packet)
    }

    /// To it; what conntrack says is known by then.
    fn gets(&self, pod: usize, packet: &Packet) -> bool {
        let packet = Packet { ct: packet.ct | ct::TRACKED, ..packet.clone() };
        self.passes(pod, Side::Egress, &packet)
    }

    fn passes(&self, pod: usize, side: Side, packet: &Packet) -> bool {
        match run(&self.filters[pod], side, packet, Semantics::SOFTWARE)[..] {
            [Outcome::Next | Outcome::Pass] => true,
            [Outcome::Drop] => false,
            ref other => panic!("{other:?} for {packet:?}"),
        }
    }
}

const NEW: u16 = ct::NEW;
const REPLY: u16 = ct::ESTABLISHED | ct::REPLY;

fn packet(source: &str, destination: &str, protocol: u8, ports: (u16, u16), state: u16) -> Packet {
    let (source, destination) = (ip(source), ip(destination));
    let ported = [6, 17, 132].contains(&protocol);
    Packet {
        ethertype: if source.is_ipv4() { 0x0800 } else { 0x86dd },
        source,
        destination,
        protocol,
        source_port: ported.then_some(ports.0),
        destination_port: ported.then_some(ports.1),
        tcp_flags: if state == NEW { 0x02 } else { 0x10 },
        icmp_type: (!ported).then_some(ports.0 as u8),
        hop_limit: 64,
        mac: [0; 6],
        fragment: Fragment::No,
        ct: state,
        born: Born::Elsewhere,
    }
}

fn tcp(source: &str, destination: &str, ports: (u16, u16), state: u16) -> Packet {
    packet(source, destination, 6, ports, state)
}

#[test]
fn s7_s27_s37_a_connection_and_its_replies_in_both_families() {
    let world = World::new();
    for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let open = tcp(a, b, (40000, 80), NEW);
        assert!(world.sends(0, &open) && world.gets(1, &open));
        let answer = tcp(b, a, (80, 40000), REPLY);
        assert!(world.sends(1, &answer) && world.gets(0, &answer));
        let more = tcp(a, b, (40000, 80), ct::ESTABLISHED);
        assert!(world.sends(0, &more) && world.gets(1, &more));
        // The range is b's alone.
        assert!(!world.sends(0, &tcp(a, b, (40000, 85), NEW)));
        assert!(
            world.gets(1, &tcp(a, b, (40000, 90), NEW))
                && !world.gets(1, &tcp(a, b, (40000, 91), NEW))
        );
        let (question, reply) =
            (packet(a, b, 17, (5000, 53), NEW), packet(b, a, 17, (53, 5000), REPLY));
        assert!(world.sends(0, &question) && world.gets(1, &question));
        assert!(world.sends(1, &reply) && world.gets(0, &reply));
    }
}

#[test]
fn s38_the_reverse_tuple_admits_no_connection_and_one_side_cannot_answer_what_it_denies() {
    let world = World::new();
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    // A new connection on the reverse tuple, and a first packet that is no opening.
    assert!(!world.sends(1, &tcp(b, a, (80, 40000), NEW)));
    assert!(!world.sends(1, &Packet { tcp_flags: 0x12, ..tcp(b, a, (80, 40000), ct::INVALID) }));
    // The same while the connection lives: the tracker calls it a reply.
    let reopened = Packet { tcp_flags: 0x02, ..tcp(b, a, (80, 40000), REPLY) };
    assert!(!world.sends(1, &reopened));
    assert!(world.sends(1, &Packet { tcp_flags: 0x12, ..reopened }));
    // The tracker knows a connection from a to b's port 91 that b denies (its filter comes after
    // the tracker).
    assert!(!world.sends(1, &tcp(b, a, (91, 40000), REPLY)));
    // And one that c opened to b.
    assert!(!world.sends(1, &tcp(b, "10.0.0.3", (80, 40000), REPLY)));
    // c opened to a, which takes everything: a answers though its egress set does not name c.
    assert!(world.sends(0, &tcp(a, "10.0.0.3", (7000, 40000), REPLY)));
    assert!(!world.sends(0, &tcp(a, "10.0.0.3", (7000, 40000), NEW)));
}

#[test]
fn s41_a_tightened_policy_cuts_both_directions_of_a_running_connection() {
    let tight = CLUSTER
        .replace("port: 80, endPort: 90", "port: 81, endPort: 90")
        .replace("{port: 80}, ", "");
    let world = World::of(&tight);
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let (more, answer) = (tcp(a, b, (40000, 80), ct::ESTABLISHED), tcp(b, a, (80, 40000), REPLY));
    assert!(!world.sends(0, &more) && !world.gets(1, &more));
    assert!(!world.sends(1, &answer));
}

#[test]
fn s34_s35_icmp_is_policed_and_errors_come_with_their_connection() {
    let world = World::new();
    let (a, b, router) = ("10.0.0.1", "10.0.0.2", "198.51.100.7");
    assert!(!world.gets(1, &packet(a, b, 1, (8, 0), NEW)));
    assert!(!world.sends(0, &packet(a, b, 1, (8, 0), NEW)));
    // Path MTU discovery, from a router that no policy names.
    let too_big = |to, state| packet(router, to, 1, (3, 0), state);
    assert!(world.gets(0, &too_big(a, ct::RELATED | ct::REPLY)));
    assert!(world.gets(1, &too_big(b, ct::RELATED)));
    // b may open to its own node only; a router's error about anything else has no connection.
    assert!(!world.gets(1, &too_big(b, ct::INVALID)));
    assert!(!world.gets(1, &packet(router, b, 1, (8, 0), ct::RELATED ^ ct::RELATED)));
    assert!(world.sends(1, &packet(b, a, 1, (3, 0), ct::RELATED | ct::REPLY)));
    let v6 = packet("2001:db8::7", "fd00::2", 58, (2, 0), ct::RELATED);
    assert!(world.gets(1, &v6) && !world.gets(1, &Packet { ct: ct::INVALID, ..v6 }));
}

#[test]
fn s36_arp_and_neighbour_discovery_pass_and_other_icmp_v6_does_not() {
    let world = World::new();
    let arp = Packet { ethertype: 0x0806, ..tcp("0.0.0.0", "0.0.0.0", (0, 0), 0) };
    for kind in 133..=137u16 {
        let discovery =
            Packet { hop_limit: 255, ..packet("fe80::9", "ff02::1:ff00:2", 58, (kind, 0), 0) };
        let from = |source: &str| Packet { source: ip(source), ..discovery.clone() };
        for pod in 0..3 {
            assert!(world.sends(pod, &arp) && world.gets(pod, &arp));
            // Only routers advertise and redirect.
            let may = ![134, 137].contains(&kind);
            assert!(world.sends(pod, &discovery) == may && world.gets(pod, &discovery), "{kind}");
            let own = from(["fd00::1", "fd00::2", "fd00::3"][pod]);
            assert!(
                world.sends(pod, &from("::")) == may && world.sends(pod, &own) == may,
                "{kind}"
            );
            assert!(!world.sends(pod, &from("2001:db8::66")), "S55");
        }
        assert!(!world.gets(1, &Packet { hop_limit: 64, ..discovery }));
    }
    assert!(
        !world
            .gets(1, &Packet { hop_limit: 255, ..packet("fe80::9", "fd00::2", 58, (128, 0), NEW) })
    );
}

#[test]
fn s55_sources_that_are_not_its_own_leave_no_pod_of_the_node() {
    let world = World::new();
    for pod in 0..3 {
        for (source, destination) in [
            ("10.0.0.9", "10.0.0.2"),
            ("192.0.2.1", "10.0.0.2"),
            ("0.0.0.0", "10.0.0.2"),
            ("fd00::9", "fd00::2"),
            ("fe80::5", "fd00::2"),
            ("::", "fd00::2"),
        ] {
            for state in [NEW, REPLY, ct::ESTABLISHED] {
                assert!(
                    !world.sends(pod, &tcp(source, destination, (40000, 80), state)),
                    "{pod} {source}"
                );
            }
        }
        let vlan = Packet { ethertype: 0x8100, ..tcp("10.0.0.9", "10.0.0.2", (1, 80), 0) };
        assert!(!world.sends(pod, &vlan), "S54");
    }
    // DHCP and MLD need no source; policy judges them as any other packet.
    let dhcp = packet("0.0.0.0", "255.255.255.255", 17, (68, 67), NEW);
    let (dhcp_v6, mld) = (
        packet("fe80::5", "ff02::1:2", 17, (546, 547), NEW),
        packet("::", "ff02::16", 58, (143, 0), 0),
    );
    for exempt in [&dhcp, &dhcp_v6, &mld] {
        assert!(world.sends(2, exempt) && !world.sends(0, exempt) && !world.sends(1, exempt));
    }
    assert!(world.sends(2, &tcp("10.0.0.3", "203.0.113.1", (1, 80), NEW)), "not isolated");
}

#[test]
fn s44_s45_s47_the_node_and_the_pod_itself() {
    let world = World::new();
    let probe = tcp("192.0.2.1", "10.0.0.2", (40000, 8080), NEW);
    let born = Packet { born: Born::Here, ..probe.clone() };
    assert!(world.gets(1, &born));
    assert!(!world.gets(1, &probe), "a forwarded packet with a node's address is no node traffic");
    // Behind a bridge a packet still belongs to its sender's socket.
    assert!(!world.gets(1, &Packet { source: ip("10.0.0.3"), ..born }));
    assert!(world.sends(1, &tcp("10.0.0.2", "192.0.2.1", (8080, 40000), REPLY)));
    assert!(world.sends(1, &tcp("10.0.0.2", "192.0.2.1", (40000, 10250), NEW)), "S45");
    for (own, pod) in [("10.0.0.1", 0), ("10.0.0.2", 1), ("fd00::2", 1)] {
        let to_itself = tcp(own, own, (40000, 8080), NEW);
        assert!(world.sends(pod, &to_itself), "S47");
        // What comes back from the host with the pod's own source is forged, where the direction is
        // isolated.
        assert_eq!(world.gets(pod, &to_itself), pod == 0, "S47");
    }
}

#[test]
fn s50_fragments_pass_where_no_port_matters_and_only_there() {
    let all = CLUSTER
        .replace("[{port: 80, endPort: 90}, {port: 53, protocol: UDP}]", "[{protocol: UDP}]");
    let (ported, all) = (World::new(), World::of(&all));
    for fragment in [Fragment::First, Fragment::Later] {
        let udp = Packet { fragment, ..packet("10.0.0.1", "10.0.0.2", 17, (5000, 53), NEW) };
        assert!(!ported.gets(1, &udp));
        assert!(all.gets(1, &udp));
        assert!(!all.gets(1, &Packet { protocol: 6, ..udp }));
    }
}

#[test]
fn two_pods_behind_one_interface_are_refused() {
    let (compiler, mut topology) = compiled(&cluster(CLUSTER));
    let port = topology.pods.values().next().unwrap().port.clone();
    topology.pods.values_mut().for_each(|p| p.port = port.clone());
    let refused = software::lower(compiler.program(), &topology).unwrap_err();
    assert!(
        matches!(refused, Refused::Incomplete { .. }) && refused.to_string().contains(&port.name),
        "{refused}"
    );
    let none = software::lower(compiler.program(), &Topology::default()).unwrap();
    assert!(none.ports.is_empty());
}

#[test]
fn the_same_input_gives_the_same_filters_and_an_event_changes_one_replacement_in_chain_0() {
    let (a, b) = (World::new(), World::new());
    assert_eq!(a.filters, b.filters);
    let tight = World::of(&CLUSTER.replace("port: 80, endPort: 90", "port: 81, endPort: 90"));
    assert_eq!(a.filters[0], tight.filters[0], "another pod's policy");
    assert_eq!(a.filters[2], tight.filters[2]);
    for side in [Side::Ingress, Side::Egress] {
        let starts: Vec<_> =
            tight.filters[1].iter().filter(|f| f.side == side && f.chain == 0).collect();
        assert_eq!(starts.len(), 1);
    }
    // Chains of equal numbers have equal contents.
    for new in tight.filters[1].iter().filter(|f| f.chain != 0) {
        let of = |list: &[Filter]| -> Vec<Filter> {
            list.iter().filter(|f| (f.side, f.chain) == (new.side, new.chain)).cloned().collect()
        };
        let old = of(&a.filters[1]);
        assert!(old.is_empty() || old == of(&tight.filters[1]));
    }
}

/// Every way in which answers meet each other: a longer prefix that allows more, less, or something
/// else than the one around it; ranges that overlap in part; one answer in many places; all ports,
/// and all but some.
const ANSWERS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: house}
---
apiVersion: v1
kind: Node
metadata: {name: node}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: house, labels: {app: b}}
spec: {nodeName: node, containers: [{name: m, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: house}
spec: {clusterIP: 20.5.0.5, clusterIPs: [20.5.0.5], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: t, namespace: house}
spec: {clusterIP: 20.6.0.5, clusterIPs: [20.6.0.5], ports: [{port: 80}, {name: d, port: 53, \
    protocol: UDP}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: house}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: &rules
  # Wider in part: the inner prefix has 80-95, of which the outer one has 80-90.
  - {from: [{ipBlock: {cidr: 20.1.0.0/16}}], ports: [{port: 80, endPort: 90}]}
  - {from: [{ipBlock: {cidr: 20.1.1.0/24}}], ports: [{port: 85, endPort: 95}, {port: 443}]}
  # Narrower: the inner prefix is excepted and has something else.
  - {from: [{ipBlock: {cidr: 20.2.0.0/16, except: [20.2.1.0/24]}}], ports: [{port: 80, endPort: \
    90}, {port: 53, protocol: UDP}]}
  - {from: [{ipBlock: {cidr: 20.2.1.0/24}}], ports: [{port: 85, endPort: 100}, {port: 7, protocol: \
    SCTP}]}
  # Everything in the middle of something.
  - {from: [{ipBlock: {cidr: 20.3.0.0/16}}], ports: [{port: 1, endPort: 79}, {port: 81, endPort: \
    65535}]}
  - {from: [{ipBlock: {cidr: 20.3.3.3/32}}]}
  # One answer of many pieces in many places.
  - from: [{ipBlock: {cidr: 20.4.1.0/24}}, {ipBlock: {cidr: 20.4.3.0/24}}, {ipBlock: {cidr: \
    20.4.5.0/24}}, {ipBlock: {cidr: 20.4.7.0/24}}]
    ports: [{port: 10}, {port: 20}, {port: 30, endPort: 39}, {port: 50}, {port: 60, protocol: \
    UDP}, {protocol: SCTP}]
  # A whole protocol, and all of them; for egress without the Services' ports.
  - {from: [{ipBlock: {cidr: 20.5.0.0/16}}], ports: [{protocol: TCP}]}
  - {from: [{ipBlock: {cidr: 20.6.0.0/16}}]}
  - {from: [{ipBlock: {cidr: 'fd05::/16', except: ['fd05:1::/32']}}], ports: [{port: 80, endPort: \
    90}]}
  - {from: [{ipBlock: {cidr: 'fd05:1:1::/48'}}], ports: [{port: 90, endPort: 99}]}
";

#[test]
fn answers_that_meet_each_other_are_those_of_the_tables() {
    let ingress = ANSWERS.split_once("ingress: &rules\n").expect("the rules").1;
    let yaml =
        format!("{}  egress:\n{}", ANSWERS.replace(" &rules", ""), ingress.replace("from:", "to:"));
    let (compiler, topology) = compiled(&cluster(&yaml));
    let lowered = software::lower(compiler.program(), &topology).unwrap();
    let b = endpoint(&compiler, "house/b");
    let all = filters(&lowered, b);
    let permits = |pipeline, remote, protocol, port| {
        eval::verdict(compiler.program(), pipeline, b, remote, protocol, port) == Verdict::Permit
    };
    let alike = |pipeline, remote, protocol| {
        eval::alike(compiler.program(), pipeline, b, remote, protocol) == Some(Verdict::Permit)
    };
    let passes = |side, packet: &Packet| match run(&all, side, packet, Semantics::SOFTWARE)[..] {
        [Outcome::Next | Outcome::Pass] => true,
        [Outcome::Drop] => false,
        ref other => panic!("{other:?} for {packet:?}"),
    };
    let remotes = [
        "20.0.0.1",
        "20.1.0.1",
        "20.1.1.1",
        "20.2.0.1",
        "20.2.1.1",
        "20.3.0.1",
        "20.3.3.3",
        "20.4.1.1",
        "20.4.2.1",
        "20.4.7.9",
        "20.5.0.1",
        "20.5.0.5",
        "20.6.0.1",
        "20.6.0.5",
        "20.7.0.1",
        "fd05::1",
        "fd05:1::1",
        "fd05:1:1::1",
    ];
    let ports = [
        1, 7, 9, 10, 11, 20, 29, 30, 39, 40, 50, 53, 60, 79, 80, 81, 84, 85, 90, 91, 95, 96, 99,
        100, 101, 442, 443, 444, 65535,
    ];
    let mut permitted = 0;
    for remote in remotes {
        let own = if remote.contains(':') { "fd00::2" } else { "10.0.0.2" };
        let remote_ip = ip(remote);
        for protocol in [6, 17, 132] {
            for port in ports {
                let (gets, sends) = (
                    permits(Pipeline::ToPod, remote_ip, protocol, Some(port)),
                    permits(Pipeline::FromPod, remote_ip, protocol, Some(port)),
                );
                let to = Packet {
                    ct: NEW | ct::TRACKED,
                    ..packet(remote, own, protocol, (50_000, port), NEW)
                };
                let from = packet(own, remote, protocol, (50_000, port), NEW);
                assert_eq!(passes(Side::Egress, &to), gets, "{remote} -> b, {protocol} {port}");
                assert_eq!(passes(Side::Ingress, &from), sends, "b -> {remote}, {protocol} {port}");
                // Replies, by the other direction's set with the ports exchanged; or as an opening.
                let opened = |pipeline| permits(pipeline, remote_ip, protocol, Some(50_000));
                let answer = packet(own, remote, protocol, (port, 50_000), REPLY);
                assert_eq!(
                    passes(Side::Ingress, &answer),
                    gets || opened(Pipeline::FromPod),
                    "b's reply {remote} {port}"
                );
                let answer = Packet {
                    ct: REPLY | ct::TRACKED,
                    ..packet(remote, own, protocol, (port, 50_000), REPLY)
                };
                assert_eq!(
                    passes(Side::Egress, &answer),
                    sends || opened(Pipeline::ToPod),
                    "{remote}'s reply {port}"
                );
                permitted += usize::from(gets) + usize::from(sends);
            }
            for fragment in [Fragment::First, Fragment::Later] {
                let to =
                    Packet { ct: NEW | ct::TRACKED, ..packet(remote, own, protocol, (5, 80), NEW) };
                let got = passes(Side::Egress, &Packet { fragment, ..to });
                assert_eq!(
                    got,
                    alike(Pipeline::ToPod, remote_ip, protocol),
                    "S50: {fragment:?} {remote} {protocol}"
                );
            }
        }
        let icmp = if remote.contains(':') { 58 } else { 1 };
        let echo = Packet {
            ct: NEW | ct::TRACKED,
            ..packet(remote, own, icmp, (if icmp == 1 { 8 } else { 128 }, 0), NEW)
        };
        assert_eq!(
            passes(Side::Egress, &echo),
            permits(Pipeline::ToPod, remote_ip, icmp, None),
            "S34: {remote}"
        );
    }
    assert!(permitted > 300, "{permitted} of them pass");
}

#[test]
fn s33_filters_cost_in_proportion_to_their_number() {
    let policy = |blocks: usize, ports: usize| {
        let block =
            |i: usize| format!("{{ipBlock: {{cidr: 100.64.{i}.0/24, except: [100.64.{i}.7/32]}}}}");
        let blocks: Vec<String> = (0..blocks).map(block).collect();
        let ports: Vec<String> =
            (0..ports).map(|i| format!("{{port: {}}}", 2_000 + 7 * i)).collect();
        let rules = format!("[{{from: [{}], ports: [{}]}}]", blocks.join(", "), ports.join(", "));
        let (cluster, _) = ANSWERS.rsplit_once("---").expect("the policy is last");
        format!(
            "{cluster}---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: \
             {{name: p, namespace: house}}\n\
             spec: {{podSelector: {{}}, policyTypes: [Ingress], ingress: {rules}}}\n"
        )
    };
    let measure = |blocks: usize, ports: usize| {
        let (compiler, topology) = compiled(&cluster(&policy(blocks, ports)));
        let once = || {
            let began = std::time::Instant::now();
            let lowered = software::lower(compiler.program(), &topology).unwrap();
            (began.elapsed(), filters(&lowered, endpoint(&compiler, "house/b")).len())
        };
        (0..5).map(|_| once()).min().unwrap()
    };
    let ((few_took, few), (many_took, many)) = (measure(25, 50), measure(200, 400));
    assert!(many < 4_000, "{many} filters");
    // 8 times the blocks and ports: 64 times the pairs of both, and more would be of a higher
    // degree.
    let ratio = many_took.as_secs_f64() / few_took.as_secs_f64();
    assert!(ratio < 400.0, "{few} filters take {few_took:?}, {many} take {many_took:?}");
}
