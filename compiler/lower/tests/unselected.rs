//! What no policy selects, where that is isolated by default (S90, S91): the oracle's answer is
//! written down, and the tables are proved to be the same. Not here: mixtures of everything
//! (`random.rs`).

use std::{collections::BTreeSet, net::IpAddr};

use netpolc_lower::{Compiler, Event, Scope, compile, verify};
use netpolc_policy::{
    ByDefault, Cluster, Grouping, Isolation, Mode, Namespace, ObjectKey, Phase, Pod, PodNetwork,
    Policy, Selector, Unselected,
    oracle::{self, Party, Question, Reason, Transport},
};
use netpolc_table::{Origin, TableId, delta::Changes};

const SHOP: &str = "10.1.0.1";
const OPS: &str = "10.1.1.1";

fn pod(namespace: &str, address: &str) -> Pod {
    Pod {
        key: ObjectKey::new(namespace, "pod"),
        uid: None,
        node: Some("node-a".into()),
        labels: Default::default(),
        addresses: vec![address.parse().unwrap()],
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Grouping::default(),
        owner: None,
    }
}

fn scope() -> Scope {
    Scope::Node("node-a".into())
}

/// A pod in the namespace shop and one in ops; neither namespace is known otherwise.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for pod in [pod("shop", SHOP), pod("ops", OPS)] {
        cluster.pods.insert(pod.key.clone(), pod);
    }
    cluster
}

fn says(unselected: Option<Unselected>) -> Namespace {
    Namespace { unselected, ..Namespace::default() }
}

fn closed(except: &[&str]) -> ByDefault {
    let except = except.iter().map(|name| (*name).into()).collect();
    ByDefault { unselected: Unselected::Isolated, except }
}

fn policy(ingress: Isolation, egress: Isolation, mode: Mode) -> Policy {
    let key = ObjectKey::new("shop", "policy");
    Policy { key, selector: Selector::default(), ingress, egress, mode }
}

fn put(cluster: &mut Cluster, policy: Policy) {
    cluster.policies.insert(policy.key.clone(), policy);
}

/// What the oracle says of a connection between the two pods, after the tables were proved to say
/// the same.
fn between(cluster: &Cluster, from: &str, to: &str) -> (Reason, Reason) {
    let compiler = compile(cluster, scope()).unwrap();
    assert_eq!(verify(cluster, &compiler, 3), []);
    let party = |address: &str| Party::Address(address.parse::<IpAddr>().unwrap());
    let question = Question {
        source: party(from),
        destination: party(to),
        protocol: Transport::Tcp,
        port: Some(80),
        via: None,
    };
    let judged = oracle::judge(cluster, &question);
    (judged.egress.reason, judged.ingress.reason)
}

#[test]
fn s91_the_annotation_counts_before_the_exemption_and_that_before_the_node() {
    use Unselected::{Isolated, Open};
    for (node, except, annotation, expected) in [
        (Open, false, None, Open),
        (Open, false, Some(Isolated), Isolated),
        (Open, true, Some(Isolated), Isolated),
        (Isolated, false, None, Isolated),
        (Isolated, false, Some(Open), Open),
        (Isolated, true, None, Open),
        (Isolated, true, Some(Isolated), Isolated),
        (Isolated, true, Some(Open), Open),
    ] {
        let mut cluster = cluster();
        let except: BTreeSet<_> = except.then(|| "shop".into()).into_iter().collect();
        cluster.by_default = ByDefault { unselected: node, except };
        cluster.namespaces.insert("shop".into(), says(annotation));
        let reason = if expected == Open { Reason::NotIsolated } else { Reason::ByDefault };
        let said = (between(&cluster, SHOP, OPS).0, between(&cluster, OPS, SHOP).1);
        assert_eq!(said, (reason.clone(), reason), "{node:?} {annotation:?}");
    }
}

#[test]
fn s90_each_direction_that_no_policy_isolates_is_isolated_by_default() {
    let mut cluster = cluster();
    cluster.namespaces.insert("shop".into(), says(Some(Unselected::Isolated)));
    put(&mut cluster, policy(Isolation::Isolated(vec![]), Isolation::Open, Mode::Enforced));
    let key = || vec![ObjectKey::new("shop", "policy")];
    assert_eq!(between(&cluster, OPS, SHOP).1, Reason::Denied(key()));
    assert_eq!(between(&cluster, SHOP, OPS).0, Reason::ByDefault);
    put(&mut cluster, policy(Isolation::Open, Isolation::Isolated(vec![]), Mode::Enforced));
    assert_eq!(between(&cluster, OPS, SHOP).1, Reason::ByDefault);
    assert_eq!(between(&cluster, SHOP, OPS).0, Reason::Denied(key()));
    // One that is only tried selects nothing (S84).
    let both = || Isolation::Isolated(vec![]);
    put(&mut cluster, policy(both(), both(), Mode::Audited));
    assert_eq!(between(&cluster, OPS, SHOP).1, Reason::ByDefault);
    assert_eq!(between(&cluster, SHOP, OPS).0, Reason::ByDefault);
}

#[test]
fn s90_a_denial_names_the_default() {
    let mut cluster = cluster();
    cluster.by_default = closed(&["ops"]);
    let compiler = compile(&cluster, scope()).unwrap();
    let bases = &compiler.program().table(TableId::Base).entries;
    // Ingress and egress, for both families; nothing for the namespace that is exempt.
    assert_eq!(bases.len(), 4);
    assert!(bases.values().all(|entry| entry.origins.as_slice() == [Origin::ByDefault]));
}

/// The pods whose words a change touches.
fn touched(compiler: &Compiler, changes: &Changes) -> BTreeSet<String> {
    let words = changes.entries.keys().filter(|(table, _)| *table == TableId::Endpoint);
    let keys: BTreeSet<_> = words.map(|(_, key)| key.clone()).collect();
    let named = compiler
        .endpoints()
        .filter(|(_, id)| keys.contains(&netpolc_table::schema::endpoint_key(*id)));
    named.map(|(pod, _)| pod.namespace.to_string()).collect()
}

#[test]
fn s90_s91_a_namespace_that_comes_later_and_its_annotation_touch_its_own_pods_alone() {
    let mut cluster = cluster();
    let mut compiler = compile(&cluster, scope()).unwrap();
    let isolates = |compiler: &Compiler| {
        ["shop", "ops"].map(|namespace| compiler.isolates(&pod(namespace, "10.1.0.9")))
    };
    assert_eq!(isolates(&compiler), [false, false]);
    let states = [
        (says(Some(Unselected::Isolated)), [true, false], &["shop"][..]),
        (says(Some(Unselected::Isolated)), [true, false], &[]),
        (says(None), [false, false], &["shop"]),
        (says(Some(Unselected::Open)), [false, false], &[]),
        (says(Some(Unselected::Isolated)), [true, false], &["shop"]),
    ];
    let mut check = |event: Event, cluster: &Cluster, isolated: [bool; 2], pods: &[&str]| {
        let changes = compiler.apply(event).unwrap();
        let pods: BTreeSet<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        assert_eq!((isolates(&compiler), touched(&compiler, &changes)), (isolated, pods));
        assert_eq!(verify(cluster, &compiler, 3), []);
        let scratch = compile(cluster, scope()).unwrap();
        assert_eq!(compiler.program().canonical(), scratch.program().canonical());
    };
    for (namespace, isolated, pods) in states {
        cluster.namespaces.insert("shop".into(), namespace.clone());
        let event = Event::Namespace { name: "shop".into(), namespace: Some(namespace) };
        check(event, &cluster, isolated, pods);
    }
    // Gone, with its annotation; and the node's default, which the agent may change.
    cluster.namespaces.clear();
    let event = Event::Namespace { name: "shop".into(), namespace: None };
    check(event, &cluster, [false, false], &["shop"]);
    cluster.by_default = closed(&["shop"]);
    check(Event::ByDefault(closed(&["shop"])), &cluster, [false, true], &["ops"]);
    cluster.by_default = closed(&[]);
    check(Event::ByDefault(closed(&[])), &cluster, [true, true], &["shop"]);
}

/// S15, S13: what policies never select is not isolated by default either.
#[test]
fn s90_pods_in_the_host_network_and_finished_ones_are_never_isolated() {
    let mut cluster = cluster();
    cluster.by_default = closed(&["ops"]);
    let key = ObjectKey::new("shop", "pod");
    cluster.pods.get_mut(&key).unwrap().network = PodNetwork::Host;
    assert_eq!(between(&cluster, OPS, SHOP).1, Reason::NotPoliced);
    let pod = cluster.pods.get_mut(&key).unwrap();
    (pod.network, pod.phase) = (PodNetwork::Own, Phase::Finished);
    assert_eq!(between(&cluster, OPS, SHOP).1, Reason::NotPoliced);
}
