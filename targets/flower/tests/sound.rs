//! Hardware copies of filters are sound, for every case of the corpus and random clusters, as every
//! driver would read them; and the check that says so finds filters that are not.

mod common;

use std::collections::BTreeMap;

use netpolc_lower::{Compiler, Scope, compile};
use netpolc_policy::Cluster;
use netpolc_table::{EndpointId, IfIndex, Program};
use netpolc_target_flower::{
    capability::Capabilities,
    eval::Semantics,
    filter::{Action, Copies, Masked, Match, Ports},
    lower::lower,
    lowered::{Lowered, Mode},
    quirks::{DRIVERS, capabilities},
    sound::check,
    topology::{Forwarding, PodPort, Port, Topology},
};
use netpolc_testbed::{
    cases,
    random::{self, Claims, Rng, Shape},
};

/// NICs: every driver's, and what they might be.
fn nics() -> Vec<Capabilities> {
    let simnic = capabilities("simnic");
    let mut all: Vec<Capabilities> = DRIVERS.iter().map(|q| capabilities(q.driver)).collect();
    all.extend([
        // Abilities that no driver of the table combines.
        Capabilities { driver: "zero keys unread".into(), zero_keys: false, ..simnic.clone() },
        Capabilities { driver: "no priority".into(), priority: false, ..simnic.clone() },
        Capabilities {
            driver: "neither".into(),
            priority: false,
            zero_keys: false,
            ..simnic.clone()
        },
        Capabilities { driver: "single ports".into(), port_masks: false, ..simnic.clone() },
        Capabilities { driver: "no rpl".into(), ct_reply: false, ..simnic.clone() },
        Capabilities { driver: "no chains".into(), chains: 0, ipv6: false, ..simnic.clone() },
        Capabilities { driver: "small".into(), filters: 20, tables: 6, masks: 3, ..simnic },
    ]);
    all
}

/// The nodes of a cluster, each with its program; addresses and forwarding vary with `turn`.
fn nodes(cluster: &Cluster, turn: usize) -> Vec<(Compiler, Topology)> {
    let scopes: Vec<Scope> = match cluster.nodes.len() {
        0 => vec![Scope::Everywhere],
        _ => cluster.nodes.keys().map(|n| Scope::Node(n.clone())).collect(),
    };
    let node = |scope: Scope| {
        let compiler = compile(cluster, scope.clone()).expect("it fits");
        let pod = |(key, id): (&netpolc_policy::ObjectKey, EndpointId)| {
            let port =
                Port { ifindex: IfIndex::new(1000 + u32::from(id.get())), name: key.to_string() };
            // Now and then one whose hardware address is not known.
            let mac = !(turn + usize::from(id.get())).is_multiple_of(7);
            (
                id,
                PodPort {
                    port,
                    mac: mac.then_some([2, 0, 0, 0, (id.get() >> 8) as u8, id.get() as u8]),
                },
            )
        };
        let pods: BTreeMap<EndpointId, PodPort> = compiler.endpoints().map(pod).collect();
        let addresses = match &scope {
            Scope::Node(name) => cluster.nodes[name].addresses.clone(),
            Scope::Everywhere => vec![],
        };
        let services = ["10.96.0.0/12", "10.244.1.0/31", "fd00:96::/112"]
            .map(|p| p.parse().expect("a prefix"));
        let topology = Topology {
            pods,
            uplinks: vec![Port { ifindex: IfIndex::new(2), name: "eth0".into() }],
            node_addresses: addresses,
            translated: if turn.is_multiple_of(3) { services.to_vec() } else { vec![] },
            forwarding: [
                Forwarding::Routed,
                Forwarding::Switched,
                Forwarding::Translating,
                Forwarding::Switched,
            ][turn % 4],
        };
        (compiler, topology)
    };
    scopes.into_iter().map(node).collect()
}

/// What was tried so far.
#[derive(Default)]
struct Seen {
    drops: usize,
    redirects: usize,
    tracked: usize,
}

/// What was proven for a program: how a NIC reads filters, and the filters.
type Proven = Vec<(Semantics, Lowered)>;

fn assert_sound(what: &str, program: &Program, topology: &Topology, seen: &mut Seen) {
    let mut proven = Proven::new();
    for can in nics() {
        assert_sound_on(what, program, topology, &can, seen, &mut proven);
    }
}

fn assert_sound_on(
    what: &str,
    program: &Program,
    topology: &Topology,
    can: &Capabilities,
    seen: &mut Seen,
    proven: &mut Proven,
) {
    for mode in [Mode::Representor, Mode::Prefilter] {
        let lowered = lower(program, topology, mode, can).expect("hardware modes refuse nothing");
        let how = Semantics::hardware(can);
        if proven.iter().any(|(h, l)| *h == how && l.ports == lowered.ports) {
            continue;
        }
        let found: Vec<String> =
            check(program, topology, &lowered, can, 3).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{what}, {mode:?}, {}:\n{}", can.driver, found.join("\n"));
        shaped(what, &lowered, can);
        for placed in lowered.ports.values().flatten() {
            match placed.filter.action {
                Action::Drop => seen.drops += 1,
                Action::Redirect(_) => seen.redirects += 1,
                Action::Track(_) => seen.tracked += 1,
                _ => {}
            }
        }
        proven.push((how, lowered));
    }
}

/// What holds for every filter of a NIC, whatever it does.
fn shaped(what: &str, lowered: &Lowered, can: &Capabilities) {
    for (port, placed) in &lowered.ports {
        let filters: Vec<_> = placed.iter().map(|p| &p.filter).collect();
        assert!(filters.is_sorted(), "{what}: {}", port.name);
        for filter in &filters {
            let Match::Flower(p) = &filter.matches else {
                panic!("{what}: hardware matches no sockets")
            };
            let tracked = matches!(filter.action, Action::Track(_) | Action::Redirect(_))
                || p.ct_state.is_some();
            assert!(
                !tracked || filter.copies == Copies::Both,
                "{what}: a miss would find no filter: {filter:?}"
            );
            assert!(
                filter.action != Action::Drop || filter.copies == Copies::Hardware,
                "{what}: {filter:?}"
            );
            let exact = |p: Option<Ports>| match p {
                Some(Ports::Masked(Masked { mask, .. })) => mask == u16::MAX,
                _ => true,
            };
            assert!(
                can.port_masks || (exact(p.source_port) && exact(p.destination_port)),
                "{what}: {filter:?}"
            );
            assert!(!matches!(p.destination_port, Some(Ports::Range { .. })), "{what}: {filter:?}");
            assert!(can.tcp_flags || filter.action != Action::Drop, "{what}: {filter:?}");
            assert!(filter.chain <= can.chains, "{what}: {filter:?}");
            if let Action::Goto(chain) | Action::Track(chain) = filter.action {
                // The chain exists, and its last filter matches whatever comes.
                let last = filters
                    .iter()
                    .filter(|f| f.chain == chain)
                    .max_by_key(|f| f.prio)
                    .expect("a chain");
                let Match::Flower(rest) = &last.matches else { panic!("{what}: {last:?}") };
                let all = netpolc_target_flower::filter::Pattern {
                    ethertype: p.ethertype,
                    ..Default::default()
                };
                assert_eq!(*rest, all, "{what}: chain {chain} has no catch-all");
            }
        }
        // One prio of a chain has one ethertype.
        let mut types = BTreeMap::new();
        for filter in &filters {
            let Match::Flower(p) = &filter.matches else { continue };
            let first = types.entry((filter.chain, filter.prio)).or_insert(p.ethertype);
            assert_eq!(*first, p.ethertype, "{what}: {filter:?}");
        }
    }
}

#[test]
fn the_corpus_is_sound_on_every_nic_s18_s22_s38_s47_s48() {
    let mut seen = Seen::default();
    for (turn, case) in cases::all().into_iter().enumerate() {
        // Those about tiers are many orders of a few rules in one world, whose filters are alike.
        if case.name.starts_with("tier-") && !turn.is_multiple_of(4) {
            continue;
        }
        for (compiler, topology) in nodes(&case.cluster, turn) {
            assert_sound(&case.name, compiler.program(), &topology, &mut seen);
        }
    }
    assert!(seen.drops > 1000 && seen.redirects > 100 && seen.tracked > 100);
}

#[test]
fn random_clusters_are_sound_on_every_nic() {
    let mut seen = Seen::default();
    for seed in 0..8 {
        let claims = if seed % 3 == 0 { Claims::Contested } else { Claims::Unique };
        let shape = Shape { claims, nodes: 1, pods: 8, ..Shape::default() };
        let cluster = random::cluster(&mut Rng::new(seed), &shape);
        for (compiler, topology) in nodes(&cluster, seed as usize + 1) {
            assert_sound(&format!("seed {seed}"), compiler.program(), &topology, &mut seen);
        }
    }
    assert!(seen.drops > 1000 && seen.redirects > 100);
}

#[test]
fn any_subset_of_drops_in_any_order_is_sound() {
    let can = capabilities("sfc");
    for (turn, name) in
        ["nested-blocks", "end-port", "named-port", "both-sides-allow"].iter().enumerate()
    {
        let case = cases::named(name);
        for (compiler, topology) in nodes(&case.cluster, turn) {
            let full = lower(compiler.program(), &topology, Mode::Representor, &can)
                .expect("never refused");
            let mut rng = Rng::new(turn as u64);
            for _ in 0..4 {
                let mut some = full.clone();
                for placed in some.ports.values_mut() {
                    placed.retain(|_| rng.chance(50));
                }
                let found = check(compiler.program(), &topology, &some, &can, 1);
                assert!(found.is_empty(), "{name}: {}", found[0]);
            }
        }
    }
}

const WEB: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: ui, namespace: shop, labels: {app: ui}}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
status: {phase: Running, podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ui, namespace: shop}
spec:
  podSelector: {matchLabels: {app: ui}}
  policyTypes: [Egress, Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: api}}}]
    ports: [{port: 7000}]
  egress:
  - to: [{podSelector: {matchLabels: {app: api}}}]
    ports: [{port: 8080}, {port: 9000, endPort: 9100}]
  - to: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: ui}}}]
    ports: [{port: 8080}]
  - from: [{ipBlock: {cidr: 198.51.100.0/24}}]
"#;

fn web() -> (Compiler, Topology) {
    let (compiler, mut topology) = common::compiled(&common::cluster(WEB));
    topology.forwarding = Forwarding::Switched;
    topology.translated = vec!["10.96.0.0/12".parse().expect("a prefix")];
    topology.node_addresses = vec![common::ip("10.0.0.1")];
    (compiler, topology)
}

/// Every change that `mutate` makes of one filter is found, and there are some.
fn assert_found(
    what: &str,
    can: &Capabilities,
    mutate: impl Fn(&mut Lowered, &Port, usize) -> bool,
) {
    let (compiler, topology) = web();
    let sound =
        lower(compiler.program(), &topology, Mode::Representor, can).expect("never refused");
    assert!(check(compiler.program(), &topology, &sound, can, 1).is_empty());
    let (mut made, mut missed) = (0, Vec::new());
    for (port, placed) in &sound.ports {
        for (at, original) in placed.iter().enumerate() {
            let mut broken = sound.clone();
            if !mutate(&mut broken, port, at) {
                continue;
            }
            for list in broken.ports.values_mut() {
                list.sort_by(|a, b| a.filter.cmp(&b.filter));
            }
            made += 1;
            let found = check(compiler.program(), &topology, &broken, can, 1);
            if found.is_empty() {
                missed.push(format!("{} {:?}", port.name, original.filter));
            }
        }
    }
    assert!(made > 0 && missed.is_empty(), "{what}: {made} made, missed:\n{}", missed.join("\n"));
}

/// Changes the pattern of a filter for which `of` says so.
fn pattern(
    lowered: &mut Lowered,
    port: &Port,
    at: usize,
    change: impl Fn(&Action, &mut netpolc_target_flower::filter::Pattern) -> bool,
) -> bool {
    let filter = &mut lowered.ports.get_mut(port).expect("a port")[at].filter;
    let Match::Flower(pattern) = &mut filter.matches else { return false };
    change(&filter.action, pattern)
}

#[test]
fn a_drop_that_no_longer_asks_for_an_opening_is_found_s38() {
    for driver in ["simnic", "sfc"] {
        assert_found("flags", &capabilities(driver), |lowered, port, at| {
            pattern(lowered, port, at, |action, p| {
                *action != Action::Pass && p.tcp_flags.take().is_some()
            })
        });
        assert_found("ACK", &capabilities(driver), |lowered, port, at| {
            pattern(lowered, port, at, |action, p| {
                let flagged = *action != Action::Pass && p.tcp_flags.is_some();
                p.tcp_flags = p.tcp_flags.map(|f| Masked { mask: 2, ..f });
                flagged
            })
        });
    }
}

#[test]
fn a_drop_for_a_wider_prefix_is_found_s18() {
    assert_found("prefix", &capabilities("sfc"), |lowered, port, at| {
        let uplink = port.name == "eth0";
        pattern(lowered, port, at, |action, p| {
            let key = if uplink { &mut p.source } else { &mut p.destination };
            // All siblings of what is dropped near 192.0.2.0/24 and 198.51.100.0/24 are dropped
            // too, but for the last.
            let last = key.is_some_and(|k| {
                matches!(k.to_string().as_str(), "192.0.3.0/24" | "198.51.101.0/24")
            });
            if *action == Action::Drop && last {
                *key = key.map(|k| {
                    ipnetwork::IpNetwork::new(k.network(), k.prefix() - 1).expect("shorter")
                });
                *key = key.map(|k| {
                    ipnetwork::IpNetwork::new(k.network(), k.prefix()).expect("a network")
                });
            }
            *action == Action::Drop && last
        })
    });
}

#[test]
fn a_missing_exception_is_found_s45_s47_s48() {
    let pass = |lowered: &mut Lowered, port: &Port, at: usize| {
        let list = lowered.ports.get_mut(port).expect("a port");
        let is_exception = list[at].filter.chain == 0 && list[at].filter.action == Action::Pass;
        if is_exception {
            list.remove(at);
        }
        is_exception
    };
    assert_found("exception", &capabilities("mlx5_core"), pass);
}

#[test]
fn a_chain_without_its_last_filter_is_found() {
    for driver in ["simnic", "mlx5_core"] {
        assert_found("catch-all", &capabilities(driver), |lowered, port, at| {
            let list = lowered.ports.get_mut(port).expect("a port");
            let chain = list[at].filter.chain;
            let keyless = match &list[at].filter.matches {
                Match::Flower(p) => {
                    *p == netpolc_target_flower::filter::Pattern {
                        ethertype: p.ethertype,
                        ..Default::default()
                    }
                }
                _ => false,
            };
            let last = chain > 0 && keyless;
            if last {
                list.remove(at);
            }
            last
        });
    }
}

#[test]
fn a_chain_that_is_not_there_is_found() {
    assert_found("chain", &capabilities("simnic"), |lowered, port, at| {
        let filter = &mut lowered.ports.get_mut(port).expect("a port")[at].filter;
        let leads = matches!(filter.action, Action::Goto(_) | Action::Track(_));
        match &mut filter.action {
            Action::Goto(chain) | Action::Track(chain) => *chain ^= 1,
            _ => {}
        }
        leads
    });
}

#[test]
fn a_missing_permission_before_a_drop_is_found() {
    for driver in ["simnic", "mlx5_core"] {
        assert_found("pass", &capabilities(driver), |lowered, port, at| {
            let list = lowered.ports.get_mut(port).expect("a port");
            let filter = &list[at].filter;
            let keyed = match &filter.matches {
                Match::Flower(p) => {
                    p.destination.is_some() || p.source.is_some() || p.destination_port.is_some()
                }
                _ => false,
            };
            let passes = filter.chain > 0 && filter.action == Action::Pass && keyed;
            if passes {
                list.remove(at);
            }
            passes
        });
    }
}

#[test]
fn a_missing_priority_is_found_where_the_nic_ignores_it() {
    let (compiler, topology) = web();
    let lowered = lower(compiler.program(), &topology, Mode::Representor, &capabilities("simnic"))
        .expect("never refused");
    let ignoring = Capabilities { priority: false, ..capabilities("simnic") };
    assert!(!check(compiler.program(), &topology, &lowered, &ignoring, 1).is_empty());
    let unread = Capabilities { zero_keys: false, ..capabilities("sfc") };
    let lowered = lower(compiler.program(), &topology, Mode::Representor, &capabilities("sfc"))
        .expect("never refused");
    assert!(!check(compiler.program(), &topology, &lowered, &unread, 1).is_empty());
}

#[test]
fn a_forward_that_asks_for_less_is_found_s41() {
    let can = capabilities("simnic");
    let forward = |action: &Action| matches!(action, Action::Redirect(_));
    assert_found("ports", &can, |lowered, port, at| {
        pattern(lowered, port, at, |action, p| {
            forward(action)
                && (p.destination_port.take().is_some() | p.source_port.take().is_some())
        })
    });
    assert_found("state", &can, |lowered, port, at| {
        pattern(lowered, port, at, |action, p| {
            // A reply's filter as an opener's.
            let state = p.ct_state.filter(|_| forward(action));
            p.ct_state = p.ct_state.map(|s| Masked { value: s.value ^ 0x20, ..s });
            state.is_some()
        })
    });
    assert_found("hardware address", &can, |lowered, port, at| {
        pattern(lowered, port, at, |action, p| {
            forward(action) && p.destination_mac.take().is_some()
        })
    });
    assert_found("source", &can, |lowered, port, at| {
        pattern(lowered, port, at, |action, p| {
            matches!(action, Action::Track(_)) && p.source.take().is_some()
        })
    });
    assert_found("another port", &can, |lowered, port, at| {
        let filter = &mut lowered.ports.get_mut(port).expect("a port")[at].filter;
        let redirect = forward(&filter.action);
        if redirect {
            filter.action = Action::Redirect(IfIndex::new(2));
        }
        redirect
    });
}
