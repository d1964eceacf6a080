//! What a NIC has no room for stays in software, always the same and with its reason; what lowering
//! takes, counted.

mod common;

use netpolc_table::{EndpointId, IfIndex};
use std::{collections::BTreeMap, fmt::Write};

use netpolc_lower::{Scope, compile};
use netpolc_policy::Cluster;
use netpolc_target_flower::{
    capability::Capabilities,
    filter::{Action, Copies},
    lower::lower,
    lowered::{Lowered, Mode, Reason},
    quirks::{DRIVERS, capabilities},
    sound::check,
    topology::{Forwarding, PodPort, Port, Topology},
};
use netpolc_testbed::{
    big::{Big, Stack},
    shop::Stage,
};

/// One node of a cluster.
fn node(cluster: &Cluster, name: &str) -> (netpolc_lower::Compiler, Topology) {
    let compiler = compile(cluster, Scope::Node(name.into())).expect("it fits");
    let pod = |(key, id): (&netpolc_policy::ObjectKey, EndpointId)| {
        let port =
            Port { ifindex: IfIndex::new(1000 + u32::from(id.get())), name: key.to_string() };
        (id, PodPort { port, mac: Some([2, 0, 0, 0, (id.get() >> 8) as u8, id.get() as u8]) })
    };
    let pods: BTreeMap<EndpointId, PodPort> = compiler.endpoints().map(pod).collect();
    let topology = Topology {
        pods,
        uplinks: vec![Port { ifindex: IfIndex::new(2), name: "eth0".into() }],
        node_addresses: cluster.nodes[name].addresses.clone(),
        translated: vec!["10.96.0.0/12".parse().expect("a prefix")],
        forwarding: Forwarding::Switched,
    };
    (compiler, topology)
}

fn count(lowered: &Lowered) -> usize {
    lowered.ports.values().map(Vec::len).sum()
}

fn reasons(lowered: &Lowered) -> BTreeMap<Reason, u32> {
    let mut all = BTreeMap::new();
    for spilled in &lowered.spilled {
        *all.entry(spilled.reason).or_default() += spilled.filters;
    }
    all
}

fn generated() -> Cluster {
    Big { namespaces: 20, pods: 300, policies: 60, stack: Stack::Dual, seed: 1 }.cluster()
}

#[test]
fn what_is_over_a_budget_stays_in_software_with_its_reason() {
    let cluster = generated();
    let name = cluster.nodes.keys().next().expect("a node").to_string();
    let (compiler, topology) = node(&cluster, &name);
    let simnic = capabilities("simnic");
    for (can, reason) in [
        (Capabilities { filters: 200, ..simnic.clone() }, Reason::Filters),
        (Capabilities { tables: 10, ..simnic.clone() }, Reason::Tables),
        (Capabilities { masks: 2, priority: false, ..simnic.clone() }, Reason::Masks),
    ] {
        let lowered =
            lower(compiler.program(), &topology, Mode::Representor, &can).expect("never refused");
        let again =
            lower(compiler.program(), &topology, Mode::Representor, &can).expect("never refused");
        assert_eq!(lowered, again);
        assert!(reasons(&lowered).contains_key(&reason), "{:?}", reasons(&lowered));
        assert!(count(&lowered) > 0 && count(&lowered) as u64 <= u64::from(can.filters));
        let found = check(compiler.program(), &topology, &lowered, &can, 1);
        assert!(found.is_empty(), "{}", found[0]);
    }
}

#[test]
fn more_room_never_means_fewer_filters_of_a_flat_set() {
    let cluster = generated();
    let name = cluster.nodes.keys().next().expect("a node").to_string();
    let (compiler, topology) = node(&cluster, &name);
    let mut last = 0;
    for filters in [10, 100, 1000, 10_000] {
        let can = Capabilities { filters, ..capabilities("sfc") };
        let lowered =
            lower(compiler.program(), &topology, Mode::Prefilter, &can).expect("never refused");
        assert!(count(&lowered) >= last && count(&lowered) <= filters as usize);
        last = count(&lowered);
    }
}

#[test]
fn a_nic_that_cannot_tell_openings_drops_nothing_and_says_why() {
    let cluster = Stage::ALL[Stage::ALL.len() - 1].cluster();
    let name = cluster.nodes.keys().next().expect("a node").to_string();
    let (compiler, topology) = node(&cluster, &name);
    for driver in ["bnxt_en", "ice", "nfp", "i40e", "an unknown one"] {
        for mode in [Mode::Representor, Mode::Prefilter] {
            let lowered = lower(compiler.program(), &topology, mode, &capabilities(driver))
                .expect("never refused");
            assert_eq!(count(&lowered), 0, "{driver}");
            assert!(
                reasons(&lowered).contains_key(&Reason::TcpFlags),
                "{driver}: {:?}",
                reasons(&lowered)
            );
        }
    }
}

#[test]
fn drops_are_in_hardware_only_and_what_is_tracked_in_both() {
    let cluster = Stage::ALL[Stage::ALL.len() - 1].cluster();
    let name = cluster.nodes.keys().next().expect("a node").to_string();
    let (compiler, topology) = node(&cluster, &name);
    let lowered =
        lower(compiler.program(), &topology, Mode::Representor, &capabilities("mlx5_core"))
            .expect("never refused");
    let placed = || lowered.ports.values().flatten().map(|p| &p.filter);
    assert!(
        placed().any(|f| f.action == Action::Drop)
            && placed().any(|f| matches!(f.action, Action::Redirect(_)))
    );
    assert!(placed().all(|f| f.action != Action::Drop || f.copies == Copies::Hardware));
    assert!(
        placed().all(|f| !matches!(f.action, Action::Track(_) | Action::Redirect(_))
            || f.copies == Copies::Both)
    );
}

/// Prints counts for each driver: `cargo test --test budget -- --nocapture counted`.
#[test]
fn filters_are_counted_for_each_driver() {
    let shop = Stage::ALL[Stage::ALL.len() - 1].cluster();
    let mut table = String::new();
    for (what, cluster) in [("web shop", shop), ("generated, 300 pods", generated())] {
        for name in cluster.nodes.keys() {
            let (compiler, topology) = node(&cluster, name);
            for driver in DRIVERS.iter().map(|q| q.driver) {
                for mode in [Mode::Representor, Mode::Prefilter] {
                    let can = capabilities(driver);
                    let lowered =
                        lower(compiler.program(), &topology, mode, &can).expect("never refused");
                    assert!(count(&lowered) as u64 <= u64::from(can.filters));
                    let pods = topology.pods.len();
                    let (filters, left) = (count(&lowered), reasons(&lowered));
                    writeln!(
                        table,
                        "{what} {name} ({pods} pods) {driver} {mode:?}: {filters}, left out \
                        {left:?}"
                    )
                    .expect("a string takes it");
                }
            }
        }
    }
    println!("{table}");
}
