//! The policy of docs/how-it-works.md through the compiler: what comes out, and that it is what the
//! policy says.

use std::net::IpAddr;

use netpolc_lower::{Event, Scope, compile, verify};
use netpolc_policy::{
    Block, Cluster, Isolation, Labels, Namespace, Namespaces, Node, ObjectKey, Operator, Peer,
    Peers, Phase, Pod, PodNetwork, Policy, Port, Ports, Protocol, Requirement, Rule, Selector,
};
use netpolc_table::{
    TableId,
    eval::{Pipeline, Verdict, decide},
};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn selector(key: &str, value: &str) -> Selector {
    Selector {
        requirements: vec![Requirement {
            key: key.into(),
            operator: Operator::In(vec![value.into()]),
        }],
    }
}

fn pod(namespace: &str, name: &str, address: &str, label: (&str, &str)) -> Pod {
    Pod {
        key: ObjectKey::new(namespace, name),
        uid: None,
        node: Some("node-a".into()),
        labels: labels(&[label]),
        addresses: vec![address.parse().unwrap()],
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Default::default(),
        owner: None,
    }
}

fn tcp(port: u16) -> Ports {
    Ports::Listed(vec![Port::Range { protocol: Protocol::Tcp, first: port, last: port }])
}

fn cluster() -> Cluster {
    let block = |cidr: &str, except: &[&str]| {
        Peer::Block(Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|e| e.parse().unwrap()).collect(),
        })
    };
    let ingress = Rule {
        peers: Peers::Listed(vec![
            block("172.17.0.0/16", &["172.17.1.0/24"]),
            Peer::Pods {
                namespaces: Namespaces::Matching(selector("project", "myproject")),
                pods: Selector::default(),
            },
            Peer::Pods { namespaces: Namespaces::Own, pods: selector("role", "frontend") },
        ]),
        ports: tcp(6379),
    };
    let egress = Rule { peers: Peers::Listed(vec![block("10.0.0.0/24", &[])]), ports: tcp(5978) };
    let policy = Policy {
        key: ObjectKey::new("default", "test-network-policy"),
        selector: selector("role", "db"),
        ingress: Isolation::Isolated(vec![ingress]),
        egress: Isolation::Isolated(vec![egress]),
        mode: Default::default(),
    };
    let mut cluster = Cluster::default();
    cluster.namespaces.insert("default".into(), Namespace::default());
    cluster.namespaces.insert("mine".into(), labels(&[("project", "myproject")]).into());
    cluster.nodes.insert(
        "node-a".into(),
        Node { addresses: vec!["192.168.1.10".parse().unwrap()], ..Node::default() },
    );
    for pod in [
        pod("default", "db", "10.1.0.1", ("role", "db")),
        pod("default", "front", "10.1.0.2", ("role", "frontend")),
        pod("default", "other", "10.1.0.3", ("role", "other")),
        pod("mine", "any", "10.1.0.4", ("role", "other")),
        pod("mine", "in-except", "172.17.1.9", ("role", "other")),
    ] {
        cluster.pods.insert(pod.key.clone(), pod);
    }
    cluster.policies.insert(policy.key.clone(), policy);
    cluster
}

#[test]
fn tables_and_policy_agree_everywhere() {
    let cluster = cluster();
    let compiler = compile(&cluster, Scope::Everywhere).unwrap();
    let found = verify(&cluster, &compiler, 10);
    assert!(
        found.is_empty(),
        "{}",
        found.iter().map(|c| c.to_string()).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn s18_s20_s44_s45_single_answers() {
    let compiler = compile(&cluster(), Scope::Node("node-a".into())).unwrap();
    let db = compiler.endpoint(&ObjectKey::new("default", "db")).unwrap();
    let judge = |pipeline, remote: &str, port| {
        let remote: IpAddr = remote.parse().unwrap();
        decide(compiler.program(), pipeline, db, remote, 6, Some(port)).verdict
    };
    use Pipeline::{FromPod, ToPod};
    for (pipeline, remote, port, want) in [
        (ToPod, "172.17.0.1", 6379, Verdict::Permit),
        (ToPod, "172.17.0.1", 6380, Verdict::Deny),
        (ToPod, "172.17.1.1", 6379, Verdict::Deny),
        (ToPod, "172.17.1.9", 6379, Verdict::Permit), // S20: a selected pod inside the except
        (ToPod, "10.1.0.2", 6379, Verdict::Permit),
        (ToPod, "10.1.0.3", 6379, Verdict::Deny),
        (ToPod, "10.1.0.4", 6379, Verdict::Permit),
        (ToPod, "192.168.1.10", 6379, Verdict::Deny), // S44: forwarded with the node's address
        (FromPod, "10.0.0.9", 5978, Verdict::Permit),
        (FromPod, "10.0.1.9", 5978, Verdict::Deny),
        (FromPod, "192.168.1.10", 53, Verdict::Permit), // S45
    ] {
        assert_eq!(judge(pipeline, remote, port), want, "{pipeline:?} {remote} {port}");
    }
}

#[test]
fn s60_deleting_the_last_policy_leaves_nothing_behind() {
    let mut bare = cluster();
    bare.policies.clear();
    let want = compile(&bare, Scope::Everywhere).unwrap();
    let mut compiler = compile(&cluster(), Scope::Everywhere).unwrap();
    let key = ObjectKey::new("default", "test-network-policy");
    compiler.apply(Event::Policy { key, policy: None }).unwrap();
    for table in TableId::ALL {
        let (got, want) =
            (&compiler.program().table(*table).entries, &want.program().table(*table).entries);
        assert_eq!(got, want, "table {}", table.spec().name);
    }
}

#[test]
fn a_pod_event_touches_its_own_entries_only() {
    let mut compiler = compile(&cluster(), Scope::Everywhere).unwrap();
    let mut front = pod("default", "front", "10.1.0.2", ("role", "other"));
    let key = front.key.clone();
    let changes =
        compiler.apply(Event::Pod { key: key.clone(), pod: Some(front.clone()) }).unwrap();
    let tables: Vec<TableId> = changes.entries.keys().map(|(t, _)| *t).collect();
    assert!(
        !tables.is_empty()
            && tables
                .iter()
                .all(|t| matches!(t, TableId::RemoteV4 | TableId::Row | TableId::Directory)),
        "{changes:?}"
    );
    // Back again: nothing is left over.
    front.labels = labels(&[("role", "frontend")]);
    compiler.apply(Event::Pod { key, pod: Some(front) }).unwrap();
    let found = verify(&cluster(), &compiler, 1);
    assert!(found.is_empty(), "{}", found[0]);
}
