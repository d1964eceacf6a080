//! The comparison of tables with policies finds nothing in what the compiler makes, and whatever is
//! changed in the tables.

use std::net::IpAddr;

use netpolc_analyze::{
    Analysis,
    compare::{Comparison, compare},
};
use netpolc_lower::{Compiler, Scope};
use netpolc_policy::{Cluster, ObjectKey, oracle::Transport};
use netpolc_table::{
    EndpointId, Program, TableId,
    eval::{Pipeline, Verdict, verdict},
};
use netpolc_testbed::random::{self, Rng, Shape};

fn endpoints(compiler: &Compiler) -> Vec<(ObjectKey, EndpointId)> {
    compiler.endpoints().map(|(key, endpoint)| (key.clone(), endpoint)).collect()
}

fn compared(cluster: &Cluster, compiler: &Compiler, program: &Program) -> Comparison {
    let mut analysis = Analysis::new(cluster);
    compare(&mut analysis, program, &endpoints(compiler), 3)
}

#[test]
fn what_is_compiled_agrees_with_the_policies() {
    let mut answers = 0;
    for seed in 0..150 {
        let mut rng = Rng::new(5000 + seed);
        let cluster = random::cluster(&mut rng, &Shape::default());
        for scope in [Scope::Everywhere, Scope::Node("node0".into())] {
            let compiler = netpolc_lower::compile(&cluster, scope.clone()).expect("it fits");
            let found = compared(&cluster, &compiler, compiler.program());
            let texts: Vec<String> = found.disagreements.iter().map(ToString::to_string).collect();
            assert!(texts.is_empty(), "seed {seed}, {scope:?}: {texts:#?}");
            answers += found.compared;
        }
    }
    assert!(answers > 50_000, "only {answers} answers were compared");
}

/// Do the two programs judge some packet differently that the tables alone decide?
fn differ(cluster: &Cluster, compiler: &Compiler, changed: &Program) -> bool {
    let nodes = || cluster.nodes.values().flat_map(|node| &node.addresses);
    let addresses = random::addresses(cluster).into_iter();
    let addresses: Vec<_> = addresses.filter(|a| !nodes().any(|node| node == a)).collect();
    let ports = random::ports(cluster);
    endpoints(compiler).iter().any(|(key, endpoint)| {
        let own = &cluster.pods[key].addresses;
        let mut packets = Pipeline::BOTH.into_iter().flat_map(|pipeline| {
            let others = addresses.iter().filter(|address| !own.contains(address));
            let packets = others.flat_map(|address| ports_of(pipeline, *address, &ports));
            packets.collect::<Vec<Packet>>()
        });
        packets.any(|(pipeline, address, protocol, port)| {
            let judge = |program| verdict(program, pipeline, *endpoint, address, protocol, port);
            let (was, is) = (judge(compiler.program()), judge(changed));
            was != is && was != Verdict::Defer && is != Verdict::Defer
        })
    })
}

type Packet = (Pipeline, IpAddr, u8, Option<u16>);

fn ports_of(
    pipeline: Pipeline,
    address: IpAddr,
    ports: &[(Transport, Option<u16>)],
) -> Vec<Packet> {
    // A packet of TCP has a port, and one of an ICMP is of its own family.
    let is_real = |protocol: Transport, port: Option<u16>| match protocol.number() {
        1 => address.is_ipv4(),
        58 => address.is_ipv6(),
        _ => protocol.protocol().is_none() || port.is_some(),
    };
    let ports = ports.iter().filter(|(protocol, port)| is_real(*protocol, *port));
    ports.map(|(protocol, port)| (pipeline, address, protocol.number(), *port)).collect()
}

#[test]
fn a_changed_entry_is_found() {
    let mut found = 0;
    for seed in 0..15 {
        let mut rng = Rng::new(9000 + seed);
        let cluster = random::cluster(&mut rng, &Shape::default());
        let compiler = netpolc_lower::compile(&cluster, Scope::Everywhere).expect("it fits");
        let tables = [TableId::Verdict, TableId::Row, TableId::Base, TableId::Port];
        for table in tables.into_iter().chain([TableId::RemoteV4, TableId::RemoteV6]) {
            let mut program = compiler.program().clone();
            let entries = &mut program.table_mut(table).entries;
            let Some(key) = entries.keys().nth(rng.below(entries.len().max(1))).cloned() else {
                continue;
            };
            entries.remove(&key);
            if differ(&cluster, &compiler, &program) {
                let comparison = compared(&cluster, &compiler, &program);
                assert!(
                    !comparison.disagreements.is_empty(),
                    "seed {seed}: nothing was found, though {table:?} lacks {key:?}"
                );
                found += 1;
            }
        }
    }
    assert!(found > 15, "only {found} changes made a difference");
}
