//! Properties over seeded random clusters and events: the tables are what the policies say, an
//! incremental program is what a compile from scratch gives, an update shows no packet a mix, and a
//! restart continues where the last process was.

use std::{collections::BTreeSet, net::IpAddr};

use netpolc_lower::{Compiler, Event, Scope, Tunnel, Wire, compile, verify};
use netpolc_policy::{
    Cluster, Grouping, Pod,
    oracle::{self, Party, Question, Transport},
};
use netpolc_table::{
    EndpointId, Program, TableId, delta,
    eval::{Pipeline, Verdict, decide, is_service, names_port},
    schema::EndpointKey,
};
use netpolc_testbed::random::{self, Change, Claims, Rng, Shape};

fn event(change: Change) -> Event {
    match change {
        Change::Namespace { name, namespace } => Event::Namespace { name, namespace },
        Change::ByDefault(by_default) => Event::ByDefault(by_default),
        Change::Pod { key, pod } => Event::Pod { key, pod },
        Change::Policy { key, policy } => Event::Policy { key, policy },
        Change::Tier { key, policy } => Event::Tier { key, policy },
        Change::Staged { key, staged } => Event::Staged { key, staged },
        Change::SecurityGroup { id, group } => Event::SecurityGroup { id, group },
        Change::PrefixList { id, entries } => Event::PrefixList { id, entries },
        Change::CloudInterface { id, interface } => Event::CloudInterface { id, interface },
        Change::SecurityGroupPolicy { key, policy } => Event::SecurityGroupPolicy { key, policy },
        Change::Enforcement(enforcement) => Event::Enforcement(enforcement),
        Change::Account { key, labels } => Event::Account { key, labels },
        Change::Node { name, node } => Event::Node { name, node },
        Change::Service { key, service } => Event::Service { key, service },
    }
}

fn shape(seed: u64) -> Shape {
    let claims = if seed.is_multiple_of(3) { Claims::Contested } else { Claims::Unique };
    Shape { claims, ..Shape::default() }
}

fn scope(seed: u64, cluster: &Cluster) -> Scope {
    match cluster.nodes.keys().next() {
        Some(node) if seed.is_multiple_of(2) => Scope::Node(node.clone()),
        _ => Scope::Everywhere,
    }
}

fn assert_proven(what: &str, cluster: &Cluster, compiler: &Compiler) {
    let found = verify(cluster, compiler, 5);
    let list: Vec<String> = found.iter().map(|c| c.to_string()).collect();
    assert!(found.is_empty(), "{what}:\n{}", list.join("\n"));
}

/// S85 too: the proof covers the shadow verdict, which differs often enough to be seen.
#[test]
fn tables_say_what_the_policies_say() {
    let mut differing = 0;
    for seed in 0..60 {
        let cluster = random::cluster(&mut Rng::new(seed), &shape(seed));
        let compiler = compile(&cluster, scope(seed, &cluster)).unwrap();
        assert_proven(&format!("seed {seed}"), &cluster, &compiler);
        differing += compiler.program().table(TableId::Tried).entries.len();
    }
    assert!(differing > 500, "{differing} entries say what is only tried");
}

#[test]
fn incremental_equals_from_scratch() {
    for seed in 100..130 {
        let (mut rng, shape) = (Rng::new(seed), shape(seed));
        let mut cluster = random::cluster(&mut rng, &shape);
        let scope = scope(seed, &cluster);
        let mut compiler = compile(&cluster, scope.clone()).unwrap();
        for step in 0..40 {
            let change = random::change(&mut rng, &shape, &cluster);
            change.apply(&mut cluster);
            compiler.apply(event(change.clone())).unwrap();
            let scratch = compile(&cluster, scope.clone()).unwrap();
            let (got, want) = (compiler.program().canonical(), scratch.program().canonical());
            for id in TableId::ALL {
                let (got, want) = (&got.table(*id).entries, &want.table(*id).entries);
                assert_eq!(
                    got,
                    want,
                    "seed {seed} step {step} {change:?}: table {}",
                    id.spec().name
                );
            }
        }
        assert_proven(&format!("seed {seed}"), &cluster, &compiler);
    }
}

/// What policy permits as part of everything leads into no tunnel, however the sets and rows that
/// permit it are written.
#[test]
fn s45_no_rule_opens_a_tunnel_that_it_does_not_name() {
    const PROTOCOLS: [u8; 2] = [4, 47];
    for seed in 400..440 {
        let cluster = random::cluster(&mut Rng::new(seed), &shape(seed));
        let mut compiler = compile(&cluster, Scope::Everywhere).unwrap();
        let tunnels = PROTOCOLS.map(Tunnel::Protocol).into_iter().chain([Tunnel::Udp(80)]);
        let wire = Wire { tunnels: tunnels.collect(), ..Wire::default() };
        compiler.apply(Event::Wire(wire)).unwrap();
        let program = compiler.program();
        for (pod, endpoint) in compiler.endpoints() {
            for remote in random::addresses(&cluster) {
                let named = |protocol, port| names_port(program, endpoint, remote, protocol, port);
                for protocol in PROTOCOLS {
                    let opened = named(protocol, None);
                    assert!(!opened, "seed {seed}: {pod} to {remote}, protocol {protocol}");
                }
                let own = cluster.pods[pod].addresses.first().copied();
                let from = Party::Pod(pod.clone(), own.unwrap_or(remote));
                let question = Question {
                    source: from,
                    destination: Party::Address(remote),
                    protocol: Transport::Udp,
                    port: Some(80),
                    via: None,
                };
                let reason = oracle::judge(&cluster, &question).egress.reason;
                let opened = named(17, Some(80));
                assert!(!opened || reason.allows(), "seed {seed}: {pod} to {remote}: {reason}");
            }
        }
    }
}

type Asked = (EndpointId, Pipeline, IpAddr, u8, Option<u16>);

/// A sample of packets that old and new program are asked about.
fn packets(rng: &mut Rng, cluster: &Cluster, programs: [&Program; 2]) -> Vec<Asked> {
    let endpoints: BTreeSet<EndpointId> = programs
        .iter()
        .flat_map(|p| {
            p.table(TableId::Endpoint).entries.keys().map(|k| EndpointKey::of(k).endpoint)
        })
        .collect();
    let endpoints: Vec<EndpointId> = endpoints.into_iter().collect();
    if endpoints.is_empty() {
        return Vec::new();
    }
    let (addresses, ports) = (random::addresses(cluster), random::ports(cluster));
    rng.list(120, |rng| {
        let (protocol, port) = *rng.pick(&ports);
        let pipeline = if rng.chance(50) { Pipeline::ToPod } else { Pipeline::FromPod };
        (*rng.pick(&endpoints), pipeline, *rng.pick(&addresses), protocol.number(), port)
    })
}

fn answers(program: &Program, packets: &[Asked]) -> Vec<Verdict> {
    packets
        .iter()
        .map(|(e, pipeline, remote, p, port)| {
            decide(program, *pipeline, *e, *remote, *p, *port).verdict
        })
        .collect()
}

#[test]
fn s57_no_packet_sees_a_mix() {
    for seed in 200..225 {
        let (mut rng, shape) = (Rng::new(seed), shape(seed));
        let mut cluster = random::cluster(&mut rng, &shape);
        let mut compiler = compile(&cluster, Scope::Everywhere).unwrap();
        for step in 0..12 {
            let mut installed = compiler.program().clone();
            let before_all = installed.clone();
            let mut events = Vec::new();
            for _ in 0..rng.within(1, 3) {
                let change = random::change(&mut rng, &shape, &cluster);
                change.apply(&mut cluster);
                events.push(event(change));
            }
            let changes = compiler.apply_all(events.clone()).unwrap();
            let asked = packets(&mut rng, &cluster, [&installed, compiler.program()]);
            let (old, new) = (answers(&installed, &asked), answers(compiler.program(), &asked));
            let mut before = old.clone();
            for (i, (phase, write)) in
                delta::order(compiler.program(), &changes).unwrap().steps.iter().enumerate()
            {
                installed.apply(write);
                let now = answers(&installed, &asked);
                for (p, asked) in asked.iter().enumerate() {
                    // Where policy and a Service change in one update, an address may be deferred
                    // in between: its backend is judged then, by the old set or by the new one.
                    let (address, protocol, port) = (asked.2, asked.3, asked.4);
                    let service = |p: &Program| is_service(p, address, protocol, port);
                    let changing =
                        events.len() > 1 && service(&before_all) != service(compiler.program());
                    let fine = now[p] == new[p]
                        || (now[p] == old[p] && before[p] == old[p])
                        || (changing && (now[p] == Verdict::Defer || before[p] == Verdict::Defer));
                    assert!(
                        fine,
                        "seed {seed} step {step} write {i} ({phase:?} {write:?}): {asked:?} is \
                         {:?}, was {:?}, old {:?}, new {:?}; {events:?}",
                        now[p], before[p], old[p], new[p]
                    );
                }
                before = now;
            }
            for id in TableId::ALL {
                let (got, want) =
                    (&installed.table(*id).entries, &compiler.program().table(*id).entries);
                assert_eq!(got, want, "seed {seed} step {step}: table {}", id.spec().name);
            }
        }
    }
}

fn has_groups(pod: &Pod) -> bool {
    pod.grouping != Grouping::default()
}

#[test]
fn s58_a_restart_writes_only_what_differs() {
    for seed in 300..330 {
        let (mut rng, shape) = (Rng::new(seed), shape(seed));
        let mut cluster = random::cluster(&mut rng, &shape);
        let scope = scope(seed, &cluster);
        let mut first = compile(&cluster, scope.clone()).unwrap();
        for _ in 0..15 {
            let change = random::change(&mut rng, &shape, &cluster);
            change.apply(&mut cluster);
            first.apply(event(change)).unwrap();
        }
        let installed = first.program();
        // Nothing happened in between: nothing is written.
        let mut second = Compiler::new(scope.clone());
        second.seed(installed);
        second.load(&cluster).unwrap();
        let (program, plan) = delta::plan(installed, second.program()).unwrap();
        assert_eq!(&program, second.program(), "seed {seed}: ids clash");
        let writes: Vec<_> = plan
            .steps
            .iter()
            .filter(|(_, w)| {
                w.put
                    .iter()
                    .any(|(k, e)| !installed.get(w.table, k).is_some_and(|i| i.same_action(e)))
            })
            .collect();
        assert!(writes.is_empty(), "seed {seed}: {writes:?}");
        // Something happened: the plan leads there, and the compiler goes on from there.
        let change = random::change(&mut rng, &shape, &cluster);
        change.apply(&mut cluster);
        let mut third = Compiler::new(scope.clone());
        third.seed(installed);
        third.load(&cluster).unwrap();
        let (mut program, mut plan) = delta::plan(installed, third.program()).unwrap();
        if program != *third.program() {
            // Several rows of an ordered set may permit the same ports by other rules, and origins
            // do not survive. Then nothing is kept, and nothing clashes.
            let is_ordered = !cluster.tiers.is_empty() || cluster.pods.values().any(has_groups);
            assert!(is_ordered, "seed {seed}: ids clash after {change:?}");
            third = Compiler::new(scope);
            third.avoid(installed);
            third.load(&cluster).unwrap();
            (program, plan) = delta::plan(installed, third.program()).unwrap();
            assert!(program == *third.program(), "seed {seed}: ids clash after {change:?}");
        }
        let mut now = installed.clone();
        plan.steps.iter().for_each(|(_, write)| now.apply(write));
        third.forget_installed();
        for _ in 0..10 {
            let change = random::change(&mut rng, &shape, &cluster);
            change.apply(&mut cluster);
            let changes = third.apply(event(change)).unwrap();
            delta::order(third.program(), &changes)
                .unwrap()
                .steps
                .iter()
                .for_each(|(_, write)| now.apply(write));
        }
        for id in TableId::ALL {
            assert_eq!(
                now.table(*id).entries,
                third.program().table(*id).entries,
                "seed {seed}: table {}",
                id.spec().name
            );
        }
        assert_proven(&format!("seed {seed}"), &cluster, &third);
    }
}
