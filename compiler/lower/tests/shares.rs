//! One tenant does its worst, and nobody else notices (S33): a fixed bystander next to offenders of
//! every kind that is known, at random sizes. What is over its share is set aside alone, isolates
//! and allows nothing, and is named.

use std::{collections::BTreeSet, net::IpAddr};

use netpolc_lower::{Compiler, Event, Kind, Limits, Resource, Room, Scope, Shares, verify};
use netpolc_policy::{
    Action, Cluster, Direction, Isolation, Labels, Mode, Namespaces, ObjectKey, Operator, Peer,
    Peers, Policy, Port, Ports, Priority, Protocol, Requirement, Rule, Selector, Service,
    ServicePort, Staged, Subject, Tier, TierApi, TierKey, TierPeer, TierPolicy, TierRule,
};
use netpolc_table::{
    EndpointId, Program,
    eval::{self, Pipeline, Verdict},
};
use netpolc_testbed::{
    offenders::{KINDS, NODE, Offence, block, bystanders, offend, pod, policy, port, selector, v4},
    random::Rng,
};

fn node() -> Scope {
    Scope::Node(NODE.into())
}

fn compile(cluster: &Cluster, limits: Limits, room: &Room) -> (Shares, Compiler) {
    let mut shares = Shares::new(node(), limits);
    shares.load(cluster);
    let compiler = shares.compile(cluster, || Compiler::within(node(), room)).unwrap();
    (shares, compiler)
}

type Question = (String, Pipeline, IpAddr, u8, Option<u16>);

/// Questions about the bystanders' pods.
fn questions(rng: &mut Rng) -> Vec<Question> {
    let addresses = [
        "10.1.0.1",
        "10.1.0.2",
        "10.1.0.3",
        "10.1.0.66",
        "10.96.0.10",
        "10.9.9.9",
        "11.0.1.1",
        "192.168.0.1",
    ];
    let ports = [1, 2, 53, 79, 80, 81, 7999, 8000, 8080, 8081, 65535];
    rng.list(300, |rng| {
        let pod = *rng.pick(&["shop/web", "shop/db", "bank/vault"]);
        let pipeline = *rng.pick(&Pipeline::BOTH);
        let remote = match rng.chance(20) {
            true => v4(rng.draw() as u32 % 30_000).parse().unwrap(),
            false => rng.pick(&addresses).parse().unwrap(),
        };
        let protocol = *rng.pick(&[6, 17, 1]);
        (pod.to_owned(), pipeline, remote, protocol, (protocol != 1).then(|| *rng.pick(&ports)))
    })
}

fn endpoint(compiler: &Compiler, pod: &str) -> EndpointId {
    let (namespace, name) = pod.split_once('/').unwrap();
    compiler.endpoint(&ObjectKey::new(namespace, name)).unwrap()
}

fn verdict(compiler: &Compiler, (pod, pipeline, remote, protocol, port): &Question) -> Verdict {
    eval::verdict(compiler.program(), *pipeline, endpoint(compiler, pod), *remote, *protocol, *port)
}

/// The pod of `evil` is isolated and gets nothing, whatever its policy grants, where that is set
/// aside.
fn assert_isolated(compiler: &Compiler, what: &str) {
    let evil = endpoint(compiler, "evil/a");
    for remote in ["10.1.0.1", "11.0.1.1", "203.0.113.9", "2001:db8::1"] {
        for (protocol, port) in [(6, Some(1)), (6, Some(80)), (17, Some(53)), (1, None)] {
            for pipeline in Pipeline::BOTH {
                let got = eval::verdict(
                    compiler.program(),
                    pipeline,
                    evil,
                    remote.parse().unwrap(),
                    protocol,
                    port,
                );
                assert!(
                    got != Verdict::Permit,
                    "{what}: {pipeline:?} {remote} {protocol} {port:?} is {got:?}"
                );
            }
        }
    }
}

fn entries(program: &Program) -> usize {
    program.tables().map(|table| table.entries.len()).sum()
}

#[test]
fn s33_a_bystander_has_the_verdicts_that_it_has_without_the_offender() {
    let alone = bystanders();
    let room = Room { classes: [4_096; 2], rows: 4_096, port_classes: 4_096, ..Room::default() };
    let (_, without) = compile(&alone, Limits::of(&room), &room);
    let mut kinds = BTreeSet::new();
    for seed in 0..4 * KINDS.len() {
        let mut rng = Rng::new(seed as u64);
        let mut cluster = alone.clone();
        let kind = KINDS[seed % KINDS.len()];
        let n = [30, 300, 3_000, 20_000][seed / KINDS.len()].min(kind.most());
        let what = offend(kind, n, &mut rng, &mut cluster);
        let (shares, with) = compile(&cluster, Limits::of(&room), &room);
        let aside: Vec<_> = shares.aside().cloned().collect();
        assert!(aside.iter().all(|a| &*a.object.namespace == "evil"), "{what} {n}: {aside:?}");
        for question in questions(&mut rng) {
            let (pod, pipeline, remote, ..) = &question;
            // An address that evil makes a Service's is judged as one (S48), by all.
            let service = matches!(kind, Offence::Service | Offence::Mixed)
                && *pipeline == Pipeline::FromPod
                && matches!(remote, IpAddr::V4(a) if a.octets()[0] == 11);
            if !service {
                assert_eq!(
                    verdict(&with, &question),
                    verdict(&without, &question),
                    "{what} {n}: {question:?} of {pod}"
                );
            }
        }
        if !aside.is_empty() {
            kinds.insert(kind);
            if aside[0].kind == Kind::Policy {
                assert_isolated(&with, what);
            }
        }
        assert!(
            entries(with.program()) < 150_000,
            "{what} {n}: {} entries",
            entries(with.program())
        );
    }
    assert_eq!(kinds.len(), KINDS.len(), "every kind is over its share at some size: {kinds:?}");
}

#[test]
fn s33_what_is_not_set_aside_is_what_the_policies_say() {
    // Small enough that the oracle can be asked about every boundary.
    let mut limits = Limits::default();
    limits.node[Resource::Ports as usize] = 12;
    limits.namespace[Resource::Ports as usize] = 8;
    for kind in KINDS {
        for n in [3, 20] {
            let mut cluster = bystanders();
            let what = offend(kind, n, &mut Rng::new(n.into()), &mut cluster);
            limits.service = 50;
            let (shares, compiler) = compile(&cluster, limits.clone(), &Room::default());
            let found: Vec<String> = verify(&shares.cluster(cluster.clone()), &compiler, 3)
                .iter()
                .map(|c| c.to_string())
                .collect();
            assert!(
                found.is_empty(),
                "{what} {n}: {found:?}; aside: {:?}",
                shares.aside().collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn s33_the_largest_policies_go_first_and_the_message_says_what_to_do() {
    let mut cluster = bystanders();
    let ports = |n: u16| Rule {
        peers: Peers::Any,
        ports: Ports::Listed((0..n).map(|i| port(Protocol::Sctp, 1 + 2 * i, 1 + 2 * i)).collect()),
    };
    for (name, n) in [("small", 100), ("large", 3_000)] {
        let policy = policy("evil", name, Selector::default(), vec![ports(n)]);
        cluster.policies.insert(policy.key.clone(), policy);
    }
    let (shares, _) = compile(&cluster, Limits::default(), &Room::default());
    let said: Vec<String> = shares.aside().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["NetworkPolicy evil/large is set aside, the pods that it selects stay isolated and it \
             allows nothing: it takes 6000 edges of port ranges, namespace evil takes 6000 and may \
             take 1300 on this node; write ranges (`endPort`) for neighbouring ports"]
    );
}

#[test]
fn s33_a_namespace_within_its_equal_share_is_never_touched() {
    let cidrs = |namespace: &str, name: &str, from: u32, n: u32| {
        let peers = (from..from + n).map(|i| block(&format!("{}/32", v4(i)))).collect();
        policy(
            namespace,
            name,
            Selector::default(),
            vec![Rule { peers: Peers::Listed(peers), ports: Ports::Any }],
        )
    };
    let mut cluster = bystanders();
    for policy in [
        cidrs("shop", "many", 0, 3_900),
        cidrs("bank", "some", 10_000, 1_000),
        cidrs("evil", "p1", 20_000, 4_000),
        cidrs("evil", "p2", 30_000, 4_000),
        cidrs("evil", "p3", 40_000, 100),
    ] {
        cluster.policies.insert(policy.key.clone(), policy);
    }
    let (shares, _) = compile(&cluster, Limits::default(), &Room::default());
    let aside: Vec<String> = shares.aside().map(|a| a.object.to_string()).collect();
    assert_eq!(
        aside,
        ["evil/p1"],
        "12,000 are there; of two equal policies the first by name goes"
    );
}

#[test]
fn s33_events_set_aside_and_take_back_as_a_compile_from_scratch_would() {
    let limits = || {
        let mut limits = Limits::default();
        limits.node[Resource::BlocksV4 as usize] = 60;
        limits.namespace[Resource::BlocksV4 as usize] = 45;
        limits.service = 30;
        limits
    };
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let mut cluster = bystanders();
        let mut shares = Shares::new(node(), limits());
        shares.load(&cluster);
        let mut compiler = Compiler::new(node());
        compiler.load_admitted(&cluster, &shares).unwrap();
        let mut asides = 0;
        for step in 0..40 {
            let namespace = *rng.pick(&["shop", "bank", "evil"]);
            let event = match rng.within(0, 4) {
                0 => {
                    let key = ObjectKey::new(namespace, "x");
                    let n = rng.within(0, 8) as u32;
                    let ports = (0..n).map(|i| ServicePort {
                        protocol: Protocol::Tcp,
                        number: i as u16 + 1,
                        node_port: None,
                    });
                    let addresses = (0..n).map(|i| v4(i).parse().unwrap()).collect();
                    let service =
                        Service { addresses, ports: ports.collect(), ..Service::default() };
                    Event::Service { key, service: (n > 0).then_some(service) }
                }
                1 => {
                    let mut pod = pod(namespace, "late", "10.1.0.99");
                    pod.labels =
                        [("app", *rng.pick(&["late", "x"]))].into_iter().collect::<Labels>();
                    Event::Pod { key: pod.key.clone(), pod: rng.chance(60).then_some(pod) }
                }
                _ => {
                    let (name, n) = (*rng.pick(&["p", "q", "r"]), rng.within(0, 40) as u32);
                    let from = rng.within(0, 30) as u32;
                    let peers = (from..from + n).map(|i| block(&format!("{}/32", v4(i)))).collect();
                    let rule = Rule { peers: Peers::Listed(peers), ports: Ports::Any };
                    let pods =
                        if rng.chance(50) { Selector::default() } else { selector("app", "late") };
                    let policy = policy(namespace, name, pods, vec![rule]);
                    Event::Policy { key: policy.key.clone(), policy: (n > 3).then_some(policy) }
                }
            };
            match event.clone() {
                Event::Service { key, service: Some(service) } => {
                    drop(cluster.services.insert(key, service))
                }
                Event::Service { key, service: None } => drop(cluster.services.remove(&key)),
                Event::Pod { key, pod: Some(pod) } => drop(cluster.pods.insert(key, pod)),
                Event::Pod { key, pod: None } => drop(cluster.pods.remove(&key)),
                Event::Policy { key, policy: Some(policy) } => {
                    drop(cluster.policies.insert(key, policy))
                }
                Event::Policy { key, policy: None } => drop(cluster.policies.remove(&key)),
                other => panic!("{other:?}"),
            }
            let admitted = shares.admit(&cluster, vec![event.clone()]);
            compiler.apply_all(admitted).unwrap();
            let (fresh, scratch) = compile(&cluster, limits(), &Room::default());
            let (got, want) =
                (shares.aside().collect::<Vec<_>>(), fresh.aside().collect::<Vec<_>>());
            assert_eq!(got, want, "seed {seed} step {step}: {event:?}");
            asides += got.len();
            assert_eq!(
                compiler.program().canonical(),
                scratch.program().canonical(),
                "seed {seed} step {step}: {event:?}"
            );
        }
        assert!(asides > 0, "seed {seed}: something was set aside at some time");
    }
}

#[test]
fn s33_where_ids_run_out_all_the_same_the_heaviest_namespace_is_set_aside() {
    // 11 selectors tell 1,024 pods apart, which no policy's size tells.
    let mut cluster = bystanders();
    for i in 0..1_024u32 {
        let mut pod = pod("far", &format!("p{i}"), &format!("10.2.{}.{}", i >> 8, i & 255));
        pod.node = Some("n2".into());
        pod.labels =
            (0..10).filter(|bit| i >> bit & 1 == 1).map(|bit| (format!("k{bit}"), "")).collect();
        cluster.pods.insert(pod.key.clone(), pod);
    }
    let peer = |bit: u32| Peer::Pods {
        namespaces: Namespaces::Matching(Selector::default()),
        pods: Selector {
            requirements: vec![Requirement {
                key: format!("k{bit}").into(),
                operator: Operator::Exists,
            }],
        },
    };
    let rule = Rule { peers: Peers::Listed((0..10).map(peer).collect()), ports: Ports::Any };
    let evil = policy("evil", "p", Selector::default(), vec![rule]);
    cluster.policies.insert(evil.key.clone(), evil);
    let room = Room { classes: [512; 2], ..Room::default() };
    let mut shares = Shares::new(node(), Limits::of(&room));
    shares.load(&cluster);
    assert_eq!(shares.aside().count(), 0);
    let mut compiler = Compiler::within(node(), &room);
    let overflow = compiler.load_admitted(&cluster, &shares).unwrap_err();
    assert_eq!(
        compiler.apply_all([]),
        Err(overflow.clone()),
        "it answers nothing else from now on"
    );
    let usage = compiler.usage(overflow.what);
    assert!(usage["evil"] > 400 && usage["shop"] < 10, "{usage:?}");
    assert!(shares.blame(
        &cluster,
        overflow.what.resource().unwrap(),
        &usage,
        overflow.capacity.into()
    ));
    let mut compiler = Compiler::within(node(), &room);
    compiler.load_admitted(&cluster, &shares).unwrap();
    assert_isolated(&compiler, "classes of pods");
    let admitted = shares.cluster(cluster.clone());
    assert!(
        admitted.policies[&ObjectKey::new("evil", "p")].isolation(Direction::Ingress)
            == &Isolation::Isolated(vec![])
    );
    // It is tried again when it changes.
    cluster.policies.remove(&ObjectKey::new("evil", "p"));
    shares.admit(&cluster, vec![Event::Policy { key: ObjectKey::new("evil", "p"), policy: None }]);
    assert_eq!(shares.aside().count(), 0);
}

/// A wide range of ports for everybody beside a port for each of many hosts: each of their rows has
/// all port classes.
fn overlapping(hosts: u32) -> netpolc_policy::Policy {
    let host = |i: u32| Rule {
        peers: Peers::Listed(vec![block(&format!("{}/32", v4(i)))]),
        ports: Ports::Listed(vec![port(Protocol::Tcp, 1 + 2 * i as u16, 1 + 2 * i as u16)]),
    };
    let wide =
        Rule { peers: Peers::Any, ports: Ports::Listed(vec![port(Protocol::Tcp, 0, 65535)]) };
    policy("evil", "p", Selector::default(), (0..hosts).map(host).chain([wide]).collect())
}

#[test]
fn s33_rows_that_overlap_are_counted_as_they_turn_out_and_set_their_namespace_aside() {
    let mut cluster = bystanders();
    let room = Room::default();
    let key = ObjectKey::new("evil", "p");
    for hosts in [20, 300] {
        cluster.policies.insert(key.clone(), overlapping(hosts));
        let mut sizes = Shares::new(node(), Limits::default());
        sizes.load(&cluster);
        assert_eq!(sizes.aside().count(), 0, "{hosts}: sizes do not tell");
        let (shares, from_scratch) = compile(&cluster, Limits::default(), &room);
        let aside: Vec<String> = shares.aside().map(ToString::to_string).collect();
        assert_eq!(aside.len(), usize::from(hosts > 20), "{hosts}: {aside:?}");
        assert!(
            aside.iter().all(|a| a.contains("evil/p") && a.contains("may take 8000")),
            "{aside:?}"
        );
        assert!(verify(&shares.cluster(cluster.clone()), &from_scratch, 3).is_empty());

        // By an event, as part of one update: ids that the first part gave back mean nothing else
        // in it.
        let mut without = cluster.clone();
        without.policies.remove(&key);
        let (mut shares, mut compiler) = compile(&without, Limits::default(), &room);
        let mut held = compiler.program().clone();
        let event = Event::Policy { key: key.clone(), policy: Some(overlapping(hosts)) };
        let mut changes = compiler.apply_all(shares.admit(&cluster, vec![event])).unwrap();
        while shares.blame_excess(&cluster, compiler.take_excess()) {
            changes.add(compiler.apply_further(shares.admit(&cluster, vec![])).unwrap());
        }
        assert_eq!(shares.aside().count(), aside.len());
        assert!(verify(&shares.cluster(cluster.clone()), &compiler, 3).is_empty());
        let plan = netpolc_table::delta::order(compiler.program(), &changes).unwrap();
        plan.steps.iter().for_each(|(_, write)| held.apply(write));
        assert!(netpolc_table::delta::diff(&held, compiler.program()).is_empty());
        if !aside.is_empty() {
            assert_isolated(&compiler, "overlapping rows");
        }
        // What it took is counted back: it fits again, and others were never touched.
        let gone = Event::Policy { key: key.clone(), policy: None };
        compiler.apply_all(shares.admit(&without, vec![gone])).unwrap();
        assert_eq!((shares.aside().count(), compiler.take_excess().len()), (0, 0));
        assert!(verify(&without, &compiler, 3).is_empty());
    }
}

#[test]
fn s59_pods_beyond_what_the_tables_hold_are_named_and_the_others_are_enforced() {
    let mut cluster = bystanders();
    for i in 0..300u32 {
        let mut pending = pod("evil", &format!("pending{i}"), "10.3.0.1");
        pending.addresses.clear();
        cluster.pods.insert(pending.key.clone(), pending);
    }
    let room = Room { endpoints: 6, ..Room::default() };
    let (_, mut compiler) = compile(&cluster, Limits::default(), &room);
    assert_eq!(compiler.endpoints().count(), 4, "a pod without an address needs no endpoint");
    let running = |i: u32| {
        let pod = pod("evil", &format!("pending{i}"), &format!("10.3.0.{i}"));
        Event::Pod { key: pod.key.clone(), pod: Some(pod) }
    };
    compiler.apply_all((1..4).map(running)).unwrap();
    let said: Vec<String> = compiler.diagnostics().iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].starts_with("pod evil/pending2 is not enforced: the tables hold 5 pods"),
        "{said:?}"
    );
    let gone = ObjectKey::new("evil", "pending1");
    compiler.apply(Event::Pod { key: gone, pod: None }).unwrap();
    compiler.apply_all([]).unwrap();
    assert!(compiler.endpoint(&ObjectKey::new("evil", "pending2")).is_some(), "its id came back");
}

/// S84: where ids run out, ClusterNetworkPolicies that are only tried give way before anything that
/// is enforced.
#[test]
fn s84_tried_tiers_give_way_where_ids_run_out() {
    let alone = bystanders();
    let room = Room { port_classes: 64, ..Room::default() };
    let (_, without) = compile(&alone, Limits::of(&room), &room);
    let port = |i: u16| Port::Range { protocol: Protocol::Tcp, first: 2 * i, last: 2 * i };
    let rule = TierRule {
        name: None,
        action: Action::Deny,
        peers: vec![TierPeer::Anybody],
        ports: Ports::Listed((1..200).map(port).collect()),
    };
    let tier = TierPolicy {
        key: TierKey { api: TierApi::Upstream, name: "tried".into() },
        tier: Tier::Admin,
        priority: Priority::new(1).unwrap(),
        subject: Subject::default(),
        ingress: vec![rule],
        egress: vec![],
        mode: Mode::Audited,
    };
    let mut cluster = alone.clone();
    cluster.tiers.insert(tier.key.clone(), tier);
    let (shares, with) = compile(&cluster, Limits::of(&room), &room);
    assert_eq!(shares.aside().count(), 0);
    let named: Vec<String> = shares.not_compared().map(|d| d.to_string()).collect();
    assert!(named.len() == 1 && named[0].starts_with("tried is only tried"), "{named:?}");
    assert_eq!(with.program().canonical(), without.program().canonical());
    assert!(verify(&shares.cluster(cluster.clone()), &with, 3).is_empty());
}

/// S84: whatever somebody tries, nobody's verdict changes and nothing is set aside. What does not
/// fit is named, and the rest is compared right.
#[test]
fn s84_what_is_tried_takes_nothing_from_what_is_enforced() {
    let alone = bystanders();
    let room = Room { classes: [4_096; 2], rows: 4_096, port_classes: 4_096, ..Room::default() };
    let (mut left_out, mut whole) = (0, 0);
    for seed in 0..3 * KINDS.len() {
        let mut rng = Rng::new(seed as u64);
        let kind = KINDS[seed % KINDS.len()];
        if matches!(kind, Offence::Service) {
            continue;
        }
        let n = [30, 3_000, 20_000][seed / KINDS.len()].min(kind.most());
        let mut cluster = alone.clone();
        let what = offend(kind, n, &mut rng, &mut cluster);
        cluster.services.clone_from(&alone.services);
        let theirs: Vec<ObjectKey> =
            cluster.policies.keys().filter(|k| &*k.namespace == "evil").cloned().collect();
        for (i, key) in theirs.into_iter().enumerate() {
            let policy = cluster.policies.remove(&key).unwrap();
            if i % 2 == 0 {
                let policy = Policy { mode: Mode::Audited, ..policy };
                cluster.policies.insert(key, policy);
            } else {
                cluster.staged.insert(key, Staged::Set(policy));
            }
        }
        let mut without = cluster.clone();
        without.policies.retain(|key, _| &*key.namespace != "evil");
        without.staged.clear();
        let (_, enforced) = compile(&without, Limits::of(&room), &room);
        let (shares, with) = compile(&cluster, Limits::of(&room), &room);
        assert_eq!(shares.aside().count(), 0, "{what} {n}");
        let named = shares.not_compared().count() + with.diagnostics().len();
        if named > 0 {
            left_out += 1
        } else {
            whole += 1
        };
        for question in questions(&mut rng) {
            let got = verdict(&with, &question);
            assert_eq!(got, verdict(&enforced, &question), "{what} {n}: {question:?}");
        }
        for pipeline in Pipeline::BOTH {
            let evil = |compiler: &Compiler| {
                let (endpoint, remote) =
                    (endpoint(compiler, "evil/a"), "11.0.1.1".parse().unwrap());
                eval::verdict(compiler.program(), pipeline, endpoint, remote, 6, Some(1))
            };
            assert_eq!(evil(&with), evil(&enforced), "{what} {n}");
        }
        assert!(verify(&shares.cluster(cluster.clone()), &with, 3).is_empty(), "{what} {n}");
        // By events: what comes in is compared, and leaves nothing when it goes.
        let (mut shares, mut compiler) = compile(&without, Limits::of(&room), &room);
        let before = compiler.program().clone();
        let events = netpolc_lower::between(&without, &cluster);
        compiler.apply_admitted(&mut shares, &cluster, events).unwrap();
        assert_eq!(compiler.program().canonical(), with.program().canonical(), "{what} {n}");
        let events = netpolc_lower::between(&cluster, &without);
        compiler.apply_admitted(&mut shares, &without, events).unwrap();
        assert_eq!(compiler.program().canonical(), before.canonical(), "{what} {n}");
    }
    assert!(left_out > 3 && whole > 3, "{left_out} left out, {whole} whole");
}
