//! Tiers and security groups, each item by a cluster that shows it: the oracle's answer is written
//! down, and the tables are proved to be the same. Not here: mixtures of everything (`random.rs`).

use std::net::IpAddr;

use netpolc_lower::{Compiler, Diagnostic, Event, Scope, compile, verify};
use netpolc_policy::{
    Action, Cluster, Enforcement, GroupPeer, GroupRule, Grouping, IcmpVersion, Isolation, Mode,
    Namespace, NetworkInterface, Node, ObjectKey, Operator, Peers, Phase, Pod, PodNetwork, Policy,
    Port, Ports, Priority, Protocol, Requirement, Rule, SecurityGroup, SecurityGroupPolicy,
    Selector, Staged, Subject, Tier, TierApi, TierKey, TierPeer, TierPolicy, TierRule, Traffic,
    oracle::{self, Party, Question, Reason, Transport},
};
use netpolc_table::{
    TableId,
    eval::{self, Pipeline, Verdict},
    schema::{PortKey, Word},
};

fn pod(name: &str, address: &str) -> Pod {
    Pod {
        key: ObjectKey::new("shop", name),
        uid: Some(name.into()),
        node: Some("node-a".into()),
        labels: [("app", name)].into_iter().collect(),
        addresses: vec![address.parse().unwrap()],
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Grouping::default(),
        owner: None,
    }
}

/// web is 10.1.0.1, db is 10.1.0.2.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.namespaces.insert("shop".into(), Namespace::default());
    for pod in [pod("web", "10.1.0.1"), pod("db", "10.1.0.2")] {
        cluster.pods.insert(pod.key.clone(), pod);
    }
    cluster
}

fn tier(name: &str, priority: u16, action: Action, port: u16) -> TierPolicy {
    let rule = TierRule {
        name: None,
        action,
        peers: vec![TierPeer::Pods { namespaces: Selector::default(), pods: Selector::default() }],
        ports: Ports::Listed(vec![Port::Range {
            protocol: Protocol::Tcp,
            first: port,
            last: port,
        }]),
    };
    TierPolicy {
        key: TierKey { api: TierApi::Upstream, name: name.into() },
        tier: Tier::Admin,
        priority: Priority::new(priority).unwrap(),
        subject: Subject::default(),
        ingress: vec![rule],
        egress: vec![],
        mode: Mode::Enforced,
    }
}

fn group(peer: GroupPeer, traffic: Traffic) -> SecurityGroup {
    let rule = GroupRule { id: Some("sgr-1".into()), traffic, peers: vec![peer] };
    SecurityGroup { name: None, ingress: vec![rule], egress: vec![] }
}

const HTTP: Traffic = Traffic::Ports { protocol: Protocol::Tcp, first: 80, last: 80 };

/// Gives the group sg-web to every pod with this label.
fn give(cluster: &mut Cluster, app: &str) {
    let key = ObjectKey::new("shop", "policy");
    let operator = Operator::In(vec![app.into()]);
    let pods = Selector { requirements: vec![Requirement { key: "app".into(), operator }] };
    let policy = SecurityGroupPolicy {
        key: key.clone(),
        pods: Some(pods),
        accounts: None,
        groups: vec!["sg-web".into()],
    };
    cluster.security.policies.insert(key, policy);
}

/// What the oracle says of a TCP connection, after the tables were proved to say the same.
fn reasons(cluster: &Cluster, from: &str, to: &str, port: u16) -> (Reason, Reason) {
    let compiler = compile(cluster, Scope::Node("node-a".into())).unwrap();
    assert_eq!(verify(cluster, &compiler, 3), []);
    let party = |address: &str| Party::Address(address.parse::<IpAddr>().unwrap());
    let question = Question {
        source: party(from),
        destination: party(to),
        protocol: Transport::Tcp,
        port: Some(port),
        via: None,
    };
    let judged = oracle::judge(cluster, &question);
    (judged.egress.reason, judged.ingress.reason)
}

fn diagnostics(cluster: &Cluster) -> Vec<String> {
    let compiler = compile(cluster, Scope::Node("node-a".into())).unwrap();
    compiler.diagnostics().iter().map(Diagnostic::to_string).collect()
}

#[test]
fn s64_policies_of_one_priority_that_differ_are_named_once_with_a_packet() {
    let mut cluster = cluster();
    for policy in [tier("open", 5, Action::Accept, 80), tier("shut", 5, Action::Deny, 80)] {
        cluster.tiers.insert(policy.key.clone(), policy);
    }
    assert!(matches!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, Reason::Refused(_)));
    let said = diagnostics(&cluster);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("shut and open have one priority"), "{said:?}");
    assert!(said[0].contains("10.1.0.") && said[0].contains("TCP port 80"), "{said:?}");
    // At different priorities, or on different ports, there is nothing to say.
    let shut = tier("shut", 6, Action::Deny, 80);
    cluster.tiers.insert(shut.key.clone(), shut);
    assert_eq!(diagnostics(&cluster), [] as [String; 0]);
    assert!(matches!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, Reason::Accepted(_)));
}

#[test]
fn s63_a_priority_changes_what_its_answer_changes_and_nothing_else() {
    let mut cluster = cluster();
    for policy in [tier("open", 1, Action::Accept, 80), tier("shut", 2, Action::Deny, 81)] {
        cluster.tiers.insert(policy.key.clone(), policy);
    }
    let mut compiler = compile(&cluster, Scope::Node("node-a".into())).unwrap();
    let leaves = |program: &netpolc_table::Program| {
        program.table(netpolc_table::TableId::RemoteV4).entries.clone()
    };
    let before = leaves(compiler.program());
    let shut = tier("shut", 0, Action::Deny, 81);
    let event = Event::Tier { key: shut.key.clone(), policy: Some(shut) };
    let changes = compiler.apply(event).unwrap();
    // Sets are made anew, with their rows; no address and no port is touched.
    assert_eq!(leaves(compiler.program()), before);
    let tables: Vec<_> = changes.entries.keys().map(|(table, _)| table.spec().name).collect();
    let of_sets = ["endpoint", "base", "row", "verdict", "directory"];
    assert!(tables.iter().all(|table| of_sets.contains(table)), "{tables:?}");
}

#[test]
fn s76_s78_a_group_permits_what_its_rules_say_and_denies_the_rest() {
    let mut cluster = cluster();
    give(&mut cluster, "db");
    let web = GroupPeer::Network("10.1.0.1/32".parse().unwrap());
    cluster.security.groups.insert("sg-web".into(), group(web, HTTP));
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, Reason::NotIsolated);
    let denied = Reason::Gated(vec!["sg-web".into()]);
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 81).1, denied);
    assert_eq!(reasons(&cluster, "10.1.0.9", "10.1.0.2", 80).1, denied);
    // Without an egress rule nothing goes out.
    assert_eq!(reasons(&cluster, "10.1.0.2", "10.1.0.1", 80).0, denied);
    // A group as a peer is everything that has it: itself, by SecurityGroupPolicy or by interface.
    let own = group(GroupPeer::Group("sg-web".into()), HTTP);
    cluster.security.groups.insert("sg-web".into(), own);
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, denied);
    let interface = NetworkInterface {
        addresses: vec!["10.1.0.0/31".parse().unwrap()],
        groups: vec!["sg-web".into()],
    };
    cluster.security.interfaces.insert("eni-1".into(), interface);
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, Reason::NotIsolated);
}

#[test]
fn s75_the_interface_counts_before_policies_and_a_disagreement_is_named() {
    let mut cluster = cluster();
    give(&mut cluster, "db");
    let open = group(GroupPeer::Network("0.0.0.0/0".parse().unwrap()), Traffic::Everything);
    cluster.security.groups.insert("sg-web".into(), open);
    let db = cluster.pods.get_mut(&ObjectKey::new("shop", "db")).unwrap();
    db.grouping.interfaces = vec!["eni-1".into()];
    let interface = NetworkInterface { addresses: vec![], groups: vec!["sg-old".into()] };
    cluster.security.interfaces.insert("eni-1".into(), interface);
    let denied = Reason::Gated(vec!["sg-old".into()]);
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, denied);
    let said = diagnostics(&cluster).join("\n");
    assert!(said.contains("security groups sg-old, which count"), "{said}");
    assert!(said.contains("the security group sg-old, which is not known"), "{said}");
    let db = cluster.pods.get_mut(&ObjectKey::new("shop", "db")).unwrap();
    db.grouping = Grouping { fargate: vec!["sg-web".into()], ..Grouping::default() };
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, Reason::NotIsolated);
}

#[test]
fn s79_a_pod_that_names_what_is_not_known_is_closed() {
    let mut cluster = cluster();
    let db = cluster.pods.get_mut(&ObjectKey::new("shop", "db")).unwrap();
    db.grouping.interfaces = vec!["eni-9".into()];
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, Reason::Gated(vec![]));
    let said = diagnostics(&cluster).join("\n");
    assert!(said.contains("pod shop/db names the interface eni-9"), "{said}");
}

#[test]
fn s81_groups_never_block_the_resolver() {
    let mut cluster = cluster();
    give(&mut cluster, "db");
    cluster.security.groups.insert("sg-web".into(), SecurityGroup::default());
    cluster.security.resolvers.insert("10.1.0.253".parse().unwrap());
    for resolver in ["169.254.169.253", "10.1.0.253"] {
        assert_eq!(reasons(&cluster, "10.1.0.2", resolver, 53).0, Reason::NotIsolated);
    }
    let denied = Reason::Gated(vec!["sg-web".into()]);
    assert_eq!(reasons(&cluster, "10.1.0.2", "169.254.169.254", 53).0, denied);
}

/// A rule for nobody, so that only the mode decides; web moves to another node and back.
#[test]
fn s82_the_mode_standard_exempts_what_stays_on_the_node() {
    let mut cluster = cluster();
    let node = Node { addresses: vec!["10.9.0.1".parse().unwrap()], ..Node::default() };
    cluster.nodes.insert("node-a".into(), node);
    give(&mut cluster, "db");
    cluster.security.groups.insert("sg-web".into(), SecurityGroup::default());
    let denied = Reason::Gated(vec!["sg-web".into()]);
    let with_web = |cluster: &Cluster| {
        let out = reasons(cluster, "10.1.0.2", "10.1.0.1", 80).0;
        (out, reasons(cluster, "10.1.0.1", "10.1.0.2", 80).1)
    };
    assert_eq!(with_web(&cluster), (denied.clone(), denied.clone()), "strict");
    assert_eq!(reasons(&cluster, "10.1.0.2", "10.9.0.1", 80).0, denied, "strict");
    let mut compiler = compile(&cluster, Scope::Node("node-a".into())).unwrap();
    cluster.security.enforcement = Enforcement::Standard;
    compiler.apply(Event::Enforcement(Enforcement::Standard)).unwrap();
    assert_eq!(verify(&cluster, &compiler, 3), []);
    assert_eq!(with_web(&cluster), (Reason::NotIsolated, Reason::NotIsolated));
    assert_eq!(reasons(&cluster, "10.1.0.2", "10.9.0.1", 80).0, Reason::NotIsolated);
    assert_eq!(reasons(&cluster, "10.1.0.2", "10.9.0.2", 80).0, denied, "another node");
    // NetworkPolicies judge it all the same.
    let closed = policy("closed", Mode::Enforced, &[81]);
    cluster.policies.insert(closed.key.clone(), closed.clone());
    assert!(matches!(with_web(&cluster).1, Reason::Denied(_)));
    cluster.policies.remove(&closed.key);
    for (node, expected) in [("node-b", denied), ("node-a", Reason::NotIsolated)] {
        let web = cluster.pods.get_mut(&ObjectKey::new("shop", "web")).unwrap();
        web.node = Some(node.into());
        compiler.apply(Event::Pod { key: web.key.clone(), pod: Some(web.clone()) }).unwrap();
        assert_eq!(verify(&cluster, &compiler, 3), [], "web on {node}");
        assert_eq!(with_web(&cluster), (expected.clone(), expected), "web on {node}");
    }
    // An address that a pod of another node claims too is exempt for neither.
    let far = Pod { node: Some("node-b".into()), ..pod("far", "10.1.0.1") };
    compiler.apply(Event::Pod { key: far.key.clone(), pod: Some(far.clone()) }).unwrap();
    cluster.pods.insert(far.key.clone(), far);
    assert_eq!(verify(&cluster, &compiler, 3), []);
    let denied = Reason::Gated(vec!["sg-web".into()]);
    assert_eq!(with_web(&cluster), (denied.clone(), denied));
}

/// What the node sends is judged by groups alone: neither by a tier nor by a NetworkPolicy.
#[test]
fn s80_s82_in_the_mode_strict_groups_judge_what_the_node_sends() {
    let mut cluster = cluster();
    let node = Node { addresses: vec!["10.9.0.1".parse().unwrap()], ..Node::default() };
    cluster.nodes.insert("node-a".into(), node);
    let shut = tier("shut", 1, Action::Deny, 80);
    cluster.tiers.insert(shut.key.clone(), shut);
    let closed = policy("closed", Mode::Enforced, &[81]);
    cluster.policies.insert(closed.key.clone(), closed);
    let probe = |cluster: &Cluster, port| reasons(cluster, "10.9.0.1", "10.1.0.2", port).1;
    assert_eq!(probe(&cluster, 80), Reason::Node, "without groups");
    give(&mut cluster, "db");
    let kubelet = GroupPeer::Network("10.9.0.1/32".parse().unwrap());
    cluster.security.groups.insert("sg-web".into(), group(kubelet, HTTP));
    let denied = Reason::Gated(vec!["sg-web".into()]);
    assert_eq!((probe(&cluster, 80), probe(&cluster, 81)), (Reason::Node, denied.clone()));
    let mut compiler = compile(&cluster, Scope::Node("node-a".into())).unwrap();
    let [web, db] = ["web", "db"].map(|n| compiler.endpoint(&ObjectKey::new("shop", n)).unwrap());
    let born = |compiler: &Compiler, of| Pipeline::Born.set(eval::word(compiler.program(), of));
    assert!(born(&compiler, db).is_some() && born(&compiler, web).is_none());
    // A rule that goes takes its permission along, and the mode `standard` the whole judgement.
    let none = SecurityGroup::default();
    cluster.security.groups.insert("sg-web".into(), none.clone());
    compiler.apply(Event::SecurityGroup { id: "sg-web".into(), group: Some(none) }).unwrap();
    assert_eq!(verify(&cluster, &compiler, 3), []);
    assert_eq!(probe(&cluster, 80), denied);
    cluster.security.enforcement = Enforcement::Standard;
    compiler.apply(Event::Enforcement(Enforcement::Standard)).unwrap();
    assert_eq!(verify(&cluster, &compiler, 3), []);
    assert_eq!((probe(&cluster, 80), born(&compiler, db)), (Reason::Node, None));
}

#[test]
fn s77_a_rule_is_about_its_protocol_and_of_icmp_about_its_messages() {
    let mut cluster = cluster();
    give(&mut cluster, "db");
    let anybody = || GroupPeer::Network("0.0.0.0/0".parse().unwrap());
    let asked = |cluster: &Cluster, protocol, port| {
        let compiler = compile(cluster, Scope::Node("node-a".into())).unwrap();
        assert_eq!(verify(cluster, &compiler, 3), []);
        let party = |address: &str| Party::Address(address.parse::<IpAddr>().unwrap());
        let (source, destination) = (party("10.1.0.1"), party("10.1.0.2"));
        let question = Question { source, destination, protocol, port, via: None };
        oracle::judge(cluster, &question).ingress.reason.allows()
    };
    let icmp = |kind, code| Traffic::Icmp { version: IcmpVersion::V4, kind, code };
    let v6 = Traffic::Icmp { version: IcmpVersion::V6, kind: None, code: None };
    let [no, yes] = [false, true];
    // TCP, SCTP, a ping, port unreachable, and ESP.
    for (traffic, expected) in [
        (HTTP, [yes, no, no, no, no]),
        (Traffic::Protocol(132), [no, yes, no, no, no]),
        (Traffic::Protocol(6), [yes, no, no, no, no]),
        (Traffic::Protocol(50), [no, no, no, no, yes]),
        (Traffic::Protocol(47), [no, no, no, no, no]),
        (Traffic::Protocol(1), [no, no, yes, yes, no]),
        (icmp(Some(8), None), [no, no, yes, no, no]),
        (icmp(Some(8), Some(1)), [no, no, no, no, no]),
        (icmp(Some(3), Some(3)), [no, no, no, yes, no]),
        (icmp(Some(3), Some(4)), [no, no, no, no, no]),
        (icmp(None, None), [no, no, yes, yes, no]),
        (icmp(None, Some(3)), [no, no, no, no, no]),
        (v6, [no, no, no, no, no]),
        (Traffic::Everything, [yes, yes, yes, yes, yes]),
    ] {
        cluster.security.groups.insert("sg-web".into(), group(anybody(), traffic));
        let answers = [
            asked(&cluster, Transport::Tcp, Some(80)),
            asked(&cluster, Transport::Sctp, Some(9)),
            asked(&cluster, Transport::Other(1), None),
            asked(&cluster, Transport::Other(1), Some(0x303)),
            asked(&cluster, Transport::Other(50), None),
        ];
        assert_eq!(answers, expected, "{traffic:?}");
    }
}

/// What no group tells apart costs nothing: the table `port` has entries for protocols without
/// ports only while some row needs them, and a rule for everything beside needs none.
#[test]
fn s77_protocols_without_ports_are_in_the_tables_only_while_they_are_told_apart() {
    let mut cluster = cluster();
    give(&mut cluster, "db");
    let mut compiler = compile(&cluster, Scope::Node("node-a".into())).unwrap();
    let mut told_apart = |traffic: &[Traffic]| {
        let anybody = GroupPeer::Network("0.0.0.0/0".parse().unwrap());
        let rules = traffic.iter().map(|traffic| GroupRule {
            id: None,
            traffic: *traffic,
            peers: vec![anybody.clone()],
        });
        let group = SecurityGroup { name: None, ingress: rules.collect(), egress: vec![] };
        cluster.security.groups.insert("sg-web".into(), group.clone());
        let event = Event::SecurityGroup { id: "sg-web".into(), group: Some(group) };
        compiler.apply(event).unwrap();
        assert_eq!(verify(&cluster, &compiler, 3), []);
        let keys = compiler.program().table(TableId::Port).entries.keys().map(PortKey::of);
        let others = keys.filter(|key| Protocol::from_number(key.protocol).is_none());
        others.map(|key| (key.protocol, key.port.low, key.port.high)).collect::<Vec<_>>()
    };
    let echo = Traffic::Icmp { version: IcmpVersion::V4, kind: Some(8), code: None };
    assert_eq!(told_apart(&[HTTP]), []);
    let cut = [(1, 0, 0x7ff), (1, 0x800, 0x8ff), (1, 0x900, 0xffff)];
    assert_eq!(told_apart(&[HTTP, echo]), cut);
    assert_eq!(told_apart(&[Traffic::Protocol(50)]), [(50, 0, 0xffff)]);
    assert_eq!(told_apart(&[Traffic::Everything]), []);
}

#[test]
fn s62_a_packet_passes_where_groups_and_tiers_both_say_yes() {
    let mut cluster = cluster();
    give(&mut cluster, "db");
    let all = group(GroupPeer::Network("0.0.0.0/0".parse().unwrap()), HTTP);
    cluster.security.groups.insert("sg-web".into(), all);
    let open = tier("open", 1, Action::Accept, 81);
    cluster.tiers.insert(open.key.clone(), open);
    // The tier accepts 81, and the group does not.
    let denied = Reason::Gated(vec!["sg-web".into()]);
    assert_eq!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 81).1, denied);
    let shut = tier("shut", 0, Action::Deny, 80);
    cluster.tiers.insert(shut.key.clone(), shut);
    assert!(matches!(reasons(&cluster, "10.1.0.1", "10.1.0.2", 80).1, Reason::Refused(_)));
}

/// What the tables say of TCP from web to db: the verdict, and who would turn it.
fn tables(compiler: &Compiler, port: u16) -> (Verdict, Vec<String>) {
    let db = compiler.endpoint(&ObjectKey::new("shop", "db")).unwrap();
    let (program, web) = (compiler.program(), "10.1.0.1".parse().unwrap());
    let verdict = eval::verdict(program, Pipeline::ToPod, db, web, 6, Some(port));
    let tried = eval::tried(program, Pipeline::ToPod, db, web, 6, Some(port));
    let tried = tried.map(|origins| origins.as_slice().iter().map(|o| o.to_string()).collect());
    (verdict, tried.unwrap_or_default())
}

/// A policy about db that permits these ports from everybody.
fn policy(name: &str, mode: Mode, ports: &[u16]) -> Policy {
    let port = |port: &u16| Port::Range { protocol: Protocol::Tcp, first: *port, last: *port };
    let rule = Rule { peers: Peers::Any, ports: Ports::Listed(ports.iter().map(port).collect()) };
    Policy {
        key: ObjectKey::new("shop", name),
        selector: Selector {
            requirements: vec![Requirement {
                key: "app".into(),
                operator: Operator::In(vec!["db".into()]),
            }],
        },
        ingress: Isolation::Isolated(vec![rule]),
        egress: Isolation::Open,
        mode,
    }
}

#[test]
fn s84_a_policy_that_is_only_tried_changes_no_verdict_and_its_shadow_stands_beside_it() {
    let mut cluster = cluster();
    let mut compiler: Compiler = compile(&cluster, Scope::Node("node-a".into())).unwrap();
    let untouched = compiler.program().clone();
    let step = |cluster: &mut Cluster, compiler: &mut Compiler, event: Event| {
        match event.clone() {
            Event::Tier { key, policy: Some(policy) } => {
                cluster.tiers.insert(key, policy);
            }
            Event::Tier { key, policy: None } => drop(cluster.tiers.remove(&key)),
            Event::Policy { key, policy: Some(policy) } => {
                cluster.policies.insert(key, policy);
            }
            Event::Policy { key, policy: None } => drop(cluster.policies.remove(&key)),
            Event::Staged { key, staged: Some(staged) } => {
                cluster.staged.insert(key, staged);
            }
            Event::Staged { key, staged: None } => drop(cluster.staged.remove(&key)),
            _ => unreachable!("nothing else happens here"),
        }
        compiler.apply(event).unwrap();
        assert_eq!(verify(cluster, compiler, 9), []);
    };
    let put = |policy: Policy| Event::Policy { key: policy.key.clone(), policy: Some(policy) };
    let none = || Vec::<String>::new();

    // A tier, where nothing is enforced: the pod stays open, and its word says so.
    let tier = TierPolicy { mode: Mode::Audited, ..tier("t", 0, Action::Deny, 80) };
    let key = tier.key.clone();
    step(&mut cluster, &mut compiler, Event::Tier { key: key.clone(), policy: Some(tier) });
    let db = compiler.endpoint(&ObjectKey::new("shop", "db")).unwrap();
    assert_eq!(
        eval::word(compiler.program(), db).flags,
        Word::GUARD | Word::TRIED_INGRESS,
        "not isolated"
    );
    assert_eq!(tables(&compiler, 80), (Verdict::Permit, vec!["tried t".into()]));
    assert_eq!(tables(&compiler, 81), (Verdict::Permit, none()));
    step(&mut cluster, &mut compiler, Event::Tier { key, policy: None });
    assert_eq!(*compiler.program(), untouched, "and nothing of it stays");

    // A policy that would isolate beside one that does.
    step(&mut cluster, &mut compiler, put(policy("now", Mode::Enforced, &[80, 81])));
    step(&mut cluster, &mut compiler, put(policy("tried", Mode::Audited, &[82])));
    assert_eq!(tables(&compiler, 80), (Verdict::Permit, none()));
    assert_eq!(tables(&compiler, 82), (Verdict::Deny, vec!["tried shop/tried".into()]));
    assert_eq!(tables(&compiler, 83), (Verdict::Deny, none()));

    // What stands in place of a policy, and what takes it away.
    let name = "tried StagedKubernetesNetworkPolicy shop/now".to_owned();
    let (key, set) = (ObjectKey::new("shop", "now"), policy("now", Mode::Enforced, &[81]));
    let staged = Some(Staged::Set(set));
    step(&mut cluster, &mut compiler, Event::Staged { key: key.clone(), staged });
    assert_eq!(tables(&compiler, 80).0, Verdict::Permit);
    assert!(tables(&compiler, 80).1.contains(&name), "{:?}", tables(&compiler, 80));
    assert_eq!(tables(&compiler, 81), (Verdict::Permit, none()));
    let gone = ObjectKey::new("shop", "tried");
    step(&mut cluster, &mut compiler, Event::Policy { key: gone, policy: None });
    let staged = Some(Staged::Delete);
    step(&mut cluster, &mut compiler, Event::Staged { key: key.clone(), staged });
    assert_eq!(tables(&compiler, 83), (Verdict::Deny, vec![name]));
    assert_eq!(tables(&compiler, 80), (Verdict::Permit, none()));
    step(&mut cluster, &mut compiler, Event::Staged { key, staged: None });
    assert_eq!(tables(&compiler, 83), (Verdict::Deny, none()));
}
