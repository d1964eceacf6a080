//! One tenant's worst next to two tenants who do nothing special: what shares are for (S33).
//!
//! Not here: what becomes of it.

use netpolc_policy::{
    Block, Cluster, Isolation, Labels, Namespaces, Node, ObjectKey, Operator, Peer, Peers, Phase,
    Pod, PodNetwork, Policy, Port, Ports, Protocol, Requirement, Rule, Selector, Service,
    ServicePort,
};

use crate::random::Rng;

/// The ways to take much of something that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// Policies with many single ports, each of which is a port class.
    SinglePorts,
    /// The same for each protocol.
    ThreeProtocols,
    /// A class for each address.
    Addresses,
    /// IPv6 prefixes that share no step of a trie.
    ScatteredV6,
    /// A row for each rule.
    Rules,
    /// Blocks inside each other.
    Nested,
    /// A block with many excepts.
    Excepts,
    /// Every address is in all blocks but one.
    Overlaps,
    /// Rows that consist of all port classes.
    WidePorts,
    /// Selectors that have to be asked about every pod.
    Selectors,
    /// The product of addresses and ports.
    Service,
    /// Every address is in the one block that all rules name, or is a peer of rules that name none.
    Repeated,
    /// A row for each rule, all of one port.
    OnePort,
    /// Many objects, each of which is small.
    ManyPolicies,
    /// Some of all of these, in one policy and one Service.
    Mixed,
}

/// Every kind of offence.
pub const KINDS: [Offence; 15] = [
    Offence::SinglePorts,
    Offence::ThreeProtocols,
    Offence::Addresses,
    Offence::ScatteredV6,
    Offence::Rules,
    Offence::Nested,
    Offence::Excepts,
    Offence::Overlaps,
    Offence::WidePorts,
    Offence::Selectors,
    Offence::Service,
    Offence::Repeated,
    Offence::OnePort,
    Offence::ManyPolicies,
    Offence::Mixed,
];

impl Offence {
    /// How much of it fits into an object of 1.4 MB, or the API server takes.
    pub fn most(self) -> u32 {
        match self {
            Offence::SinglePorts => 32_767,
            Offence::ThreeProtocols => 12_000,
            Offence::Addresses | Offence::ScatteredV6 | Offence::Overlaps => 20_000,
            Offence::Rules => 13_000,
            Offence::Nested => 17_000,
            Offence::Excepts => 40_000,
            Offence::WidePorts => 10_000,
            Offence::Selectors => 12_000,
            Offence::Service => 1_000,
            Offence::Repeated => 6_500,
            Offence::OnePort => 14_000,
            Offence::ManyPolicies => 5_000,
            Offence::Mixed => 4_000,
        }
    }
}

/// The node that all pods are on.
pub const NODE: &str = "n1";

/// A pod of the node, with the label `app` of its name.
pub fn pod(namespace: &str, name: &str, address: &str) -> Pod {
    Pod {
        key: ObjectKey::new(namespace, name),
        uid: None,
        node: Some(NODE.into()),
        labels: [("app", name)].into_iter().collect(),
        addresses: vec![address.parse().expect("an address")],
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Default::default(),
        owner: None,
    }
}

/// A selector of one label.
pub fn selector(key: &str, value: &str) -> Selector {
    Selector {
        requirements: vec![Requirement {
            key: key.into(),
            operator: Operator::In(vec![value.into()]),
        }],
    }
}

/// A range of ports of one protocol, as a policy has it.
pub fn port(protocol: Protocol, first: u16, last: u16) -> Port {
    Port::Range { protocol, first, last }
}

/// A policy with these rules for both directions.
pub fn policy(namespace: &str, name: &str, pods: Selector, rules: Vec<Rule>) -> Policy {
    Policy {
        key: ObjectKey::new(namespace, name),
        selector: pods,
        ingress: Isolation::Isolated(rules.clone()),
        egress: Isolation::Isolated(rules),
        mode: Default::default(),
    }
}

/// A peer of one prefix.
///
/// # Panics
/// Where it is none.
pub fn block(cidr: &str) -> Peer {
    Peer::Block(Block { cidr: cidr.parse().expect("an address"), except: vec![] })
}

/// Two tenants, `shop` and `bank`, with a pod of `evil` on their node.
pub fn bystanders() -> Cluster {
    let mut cluster = Cluster::default();
    for namespace in ["shop", "bank", "evil"] {
        let labels: Labels = [("name", namespace)].into_iter().collect();
        cluster.namespaces.insert(namespace.into(), labels.into());
    }
    cluster.nodes.insert(
        NODE.into(),
        Node { addresses: vec!["192.168.0.1".parse().expect("an address")], ..Node::default() },
    );
    for pod in [
        pod("shop", "web", "10.1.0.1"),
        pod("shop", "db", "10.1.0.2"),
        pod("bank", "vault", "10.1.0.3"),
        pod("evil", "a", "10.1.0.66"),
    ] {
        cluster.pods.insert(pod.key.clone(), pod);
    }
    let wide = Rule {
        peers: Peers::Listed(vec![block("10.0.0.0/8"), block("2001:db8::/32")]),
        ports: Ports::Listed(vec![Port::Every(Protocol::Tcp), port(Protocol::Udp, 53, 53)]),
    };
    let web = Rule {
        peers: Peers::Listed(vec![
            Peer::Pods { namespaces: Namespaces::Own, pods: selector("app", "web") },
            Peer::Pods {
                namespaces: Namespaces::Matching(selector("name", "bank")),
                pods: Selector::default(),
            },
        ]),
        ports: Ports::Listed(vec![port(Protocol::Tcp, 8000, 8080)]),
    };
    for policy in [
        policy("shop", "db", selector("app", "db"), vec![web.clone()]),
        policy("shop", "all", Selector::default(), vec![wide]),
        policy("bank", "vault", Selector::default(), vec![web]),
    ] {
        cluster.policies.insert(policy.key.clone(), policy);
    }
    let service = Service {
        addresses: vec!["10.96.0.10".parse().expect("an address")],
        ports: vec![ServicePort { protocol: Protocol::Udp, number: 53, node_port: None }],
        ..Service::default()
    };
    cluster.services.insert(ObjectKey::new("shop", "dns"), service);
    cluster
}

/// The address of this number; neighbours share no /24.
pub fn v4(i: u32) -> String {
    format!("{}.{}.{}.1", 11 + (i >> 16), i >> 8 & 255, i & 255)
}

fn service(n: u32) -> Service {
    let port = |i: u32| ServicePort {
        protocol: Protocol::Tcp,
        number: (1 + 2 * i % 65535) as u16,
        node_port: None,
    };
    Service {
        addresses: (0..n).map(|i| v4(i).parse().expect("an address")).collect(),
        ports: (0..n).map(port).collect(),
        ..Service::default()
    }
}

/// Makes the tenant `evil` take `n` of something; says of what.
pub fn offend(kind: Offence, n: u32, rng: &mut Rng, cluster: &mut Cluster) -> &'static str {
    let any = || Peers::Any;
    let single =
        |i: u32| port(Protocol::Tcp, (1 + 2 * i % 65535) as u16, (1 + 2 * i % 65535) as u16);
    let listed = |peers: Vec<Peer>| Rule { peers: Peers::Listed(peers), ports: Ports::Any };
    let mut random_v6 = |length: u8| {
        let bits = (u128::from(rng.draw()) << 64 | u128::from(rng.draw())) >> (128 - length)
            << (128 - length);
        block(&format!("{}/{length}", std::net::Ipv6Addr::from(bits)))
    };
    let hosts = |n: u32| (0..n).map(|i| block(&format!("{}/32", v4(i)))).collect::<Vec<_>>();
    let (what, rules): (_, Vec<Rule>) = match kind {
        Offence::SinglePorts => (
            "single ports",
            vec![Rule { peers: any(), ports: Ports::Listed((0..n).map(single).collect()) }],
        ),
        Offence::ThreeProtocols => {
            let all = |i| {
                Protocol::ALL
                    .map(|p| port(p, (1 + 2 * i % 65535) as u16, (1 + 2 * i % 65535) as u16))
            };
            (
                "ports of three protocols",
                vec![Rule { peers: any(), ports: Ports::Listed((0..n).flat_map(all).collect()) }],
            )
        }
        Offence::Addresses => ("addresses", vec![listed(hosts(n))]),
        Offence::ScatteredV6 => {
            ("scattered IPv6 prefixes", vec![listed((0..n).map(|_| random_v6(127)).collect())])
        }
        Offence::Rules => {
            let rule = |i: u32| Rule {
                peers: Peers::Listed(vec![block(&format!("{}/32", v4(i)))]),
                ports: Ports::Listed(vec![port(
                    Protocol::Tcp,
                    (1 + i % 65535) as u16,
                    (1 + i % 65535) as u16,
                )]),
            };
            ("rules, each with a port", (0..n).map(rule).collect())
        }
        Offence::Nested => {
            let within = |i: u32| (8..=24).map(move |l| (i, l));
            let nested = (0..n / 17).flat_map(within).map(|(i, l)| {
                let address = 0x0b00_0000 + (i.wrapping_mul(0x9e37_79b9) & 0x00ff_ffff);
                let address = address >> (32 - l) << (32 - l);
                listed(vec![block(&format!("{}/{l}", std::net::Ipv4Addr::from(address)))])
            });
            ("nested prefixes", nested.collect())
        }
        Offence::Excepts => {
            let except = (0..n).map(|i| {
                format!("10.{}.{}.{}/32", i >> 8 & 255, i & 255, i >> 16)
                    .parse()
                    .expect("an address")
            });
            let block =
                Block { cidr: "10.0.0.0/8".parse().expect("an address"), except: except.collect() };
            ("one block with many excepts", vec![listed(vec![Peer::Block(block)])])
        }
        Offence::Overlaps => {
            let one = |i: u32| {
                Peer::Block(Block {
                    cidr: "10.0.0.0/8".parse().expect("an address"),
                    except: vec![
                        format!("10.{}.{}.{}/32", i >> 8 & 255, i & 255, i >> 16)
                            .parse()
                            .expect("an address"),
                    ],
                })
            };
            ("many blocks with one except each", vec![listed((0..n).map(one).collect())])
        }
        Offence::WidePorts => {
            let rule = |i: u32| Rule {
                peers: Peers::Listed(vec![block(&format!("{}/32", v4(i)))]),
                ports: Ports::Listed(vec![Port::Every(Protocol::Tcp), single(i)]),
            };
            ("rules with all ports next to single ones", (0..n).map(rule).collect())
        }
        Offence::Selectors => {
            let peer = |i: u32| Peer::Pods {
                namespaces: Namespaces::Matching(Selector::default()),
                pods: Selector {
                    requirements: vec![Requirement {
                        key: format!("k{i}").into(),
                        operator: Operator::DoesNotExist,
                    }],
                },
            };
            ("selectors that match everything", vec![listed((0..n).map(peer).collect())])
        }
        Offence::Service => {
            cluster.services.insert(ObjectKey::new("evil", "s"), service(n));
            (
                "a Service with addresses x ports",
                vec![listed(vec![block("11.0.0.0/8"), block("10.96.0.0/12")])],
            )
        }
        Offence::Repeated => {
            let same = (0..n).map(|i| match i % 2 {
                0 => listed(vec![block("11.0.0.0/8")]),
                _ => Rule { peers: any(), ports: Ports::Listed(vec![port(Protocol::Tcp, 80, 80)]) },
            });
            ("addresses in a block that many rules name", same.chain([listed(hosts(n))]).collect())
        }
        Offence::OnePort => {
            let http = || Ports::Listed(vec![port(Protocol::Tcp, 80, 80)]);
            let rule = |peer| Rule { peers: Peers::Listed(vec![peer]), ports: http() };
            ("rules of one port", hosts(n).into_iter().map(rule).collect())
        }
        Offence::ManyPolicies => {
            for i in 0..n {
                let rule = Rule {
                    peers: Peers::Listed(vec![block(&format!("{}/32", v4(i)))]),
                    ports: Ports::Any,
                };
                let small = policy("evil", &format!("p{i}"), Selector::default(), vec![rule]);
                cluster.policies.insert(small.key.clone(), small);
            }
            ("policies", vec![])
        }
        Offence::Mixed => {
            cluster.services.insert(ObjectKey::new("evil", "s"), service(n.min(44)));
            let rule = |(i, peer)| Rule {
                peers: Peers::Listed(vec![peer]),
                ports: Ports::Listed(vec![single(i)]),
            };
            let rows = (0..).zip(hosts(n)).map(rule);
            let wide =
                Rule { peers: any(), ports: Ports::Listed(vec![Port::Every(Protocol::Tcp)]) };
            let prefixes = listed((0..n).map(|_| random_v6(64)).collect());
            ("something of everything", rows.chain([wide, prefixes]).collect())
        }
    };
    let policy = policy("evil", "p", Selector::default(), rules);
    cluster.policies.insert(policy.key.clone(), policy);
    what
}
