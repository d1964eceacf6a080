//! Tables of connections that change their size: nothing is lost, whenever it happens and whoever
//! is killed. Needs root and BPF.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use netpolc_table::{
    ActionId, IfIndex, Incarnation, SetId, TableId, Write,
    schema::{self, Word},
};
use netpolc_target::{
    Arrival, Datapath as _, Frame, Hook, Mark, Target as _, Verdict,
    frame::Packet,
    semantics::{Phase, tcp},
};

use super::*;
use crate::{
    Capacities, Config, Connections, Ebpf, Inserted,
    asm::MapRef,
    loader::Loaded,
    memory::Region,
    program::{self, Measure, Options, Parameters, Port, Vary},
};

const POD: u32 = 7;
const UPLINK: u32 = 2;
const ID: EndpointId = EndpointId::new(1);

fn address(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(0x0a00_0000 | n).into(),
        Family::V6 => Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)).into(),
    }
}

fn config(first_log: u8, most_log: u8) -> Config {
    let capacities = Capacities { endpoints: 4, ..Capacities::small() };
    let connections = Connections { first_log, most_log, ..Connections::default() };
    Config { capacities, connections, ..Config::small() }
}

/// Pod 1 may open what it wants, and nobody may open anything to it: each answer needs an entry.
fn police(ebpf: &mut Ebpf, index: u32) {
    let word = Word {
        ingress_set: SetId::new(1),
        egress_set: SetId::new(2),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::EGRESS,
    };
    ebpf.write(&Write::put(TableId::Endpoint, schema::endpoint_key(ID), schema::set_policy(word)))
        .unwrap();
    let interface = schema::interface_key(IfIndex::new(index));
    ebpf.write(&Write::put(TableId::Interface, interface, schema::set_endpoint(ID))).unwrap();
    for family in Family::BOTH {
        let own = schema::own_key(ID, address(family, 1));
        ebpf.write(&Write::put(TableId::own(family), own, schema::plain(ActionId::Own))).unwrap();
        ebpf.write(&Write::put(
            TableId::Base,
            schema::base_key(SetId::new(2), family),
            schema::plain(ActionId::Permit),
        ))
        .unwrap();
    }
}

fn judge(ebpf: &mut Ebpf, hook: Hook, packet: Packet) -> Verdict {
    let arrival =
        Arrival::At(if hook == Hook::ToPod { IfIndex::new(UPLINK) } else { IfIndex::new(POD) });
    ebpf.packet(
        hook,
        &Frame { interface: IfIndex::new(POD), arrival, mark: Mark::Clear, bytes: packet.build() },
    )
    .unwrap()
}

/// Connection number `n`, to one of 256 remotes.
fn remote(family: Family, n: u32) -> (IpAddr, u16) {
    (address(family, 0x1_0000 + (n & 0xff)), 1024 + (n >> 8) as u16)
}

fn open(ebpf: &mut Ebpf, family: Family, n: u32) -> Verdict {
    let (remote, port) = remote(family, n);
    let syn = Packet::new(address(family, 1), remote).tcp(port, 443, tcp::SYN);
    let opened = judge(ebpf, Hook::FromPod, syn);
    for flags in [tcp::SYN | tcp::ACK, tcp::ACK] {
        judge(ebpf, Hook::ToPod, Packet::new(remote, address(family, 1)).tcp(443, port, flags));
    }
    opened
}

/// The same from user space, established: pinned instances take no test packets.
fn insert(ebpf: &mut Ebpf, family: Family, n: u32) -> Inserted {
    let (remote, local_port) = remote(family, n);
    let running = crate::Connection {
        endpoint: ID,
        remote,
        local: address(family, 1),
        remote_port: 443,
        local_port,
        protocol: 6,
        opener: Hook::FromPod,
        born: false,
        phase: Phase::Established,
        incarnation: Incarnation::new(0),
    };
    ebpf.insert(&running).unwrap()
}

fn answered(ebpf: &mut Ebpf, family: Family, n: u32) -> bool {
    let (remote, port) = remote(family, n);
    let answer = Packet::new(remote, address(family, 1)).tcp(443, port, tcp::ACK);
    judge(ebpf, Hook::ToPod, answer) == Verdict::Next
}

fn all_answered(ebpf: &mut Ebpf, family: Family, count: u32) {
    let lost: Vec<u32> = (0..count).filter(|n| !answered(ebpf, family, *n)).collect();
    assert!(
        lost.is_empty(),
        "{family:?}: {} of {count} lost, the first is {:?}",
        lost.len(),
        lost.first()
    );
}

fn private(config: Config) -> Ebpf {
    let mut ebpf = Ebpf::private(config).expect("needs root and BPF");
    police(&mut ebpf, POD);
    ebpf
}

#[test]
fn s59_a_table_follows_what_a_pod_opens() {
    for family in Family::BOTH {
        let mut ebpf = private(config(3, 12));
        let mut tender = ebpf.tender().unwrap();
        assert_eq!(ebpf.room(ID).unwrap(), (48, 48));
        for n in 0..6000 {
            assert_eq!(open(&mut ebpf, family, n), Verdict::Next, "{family:?} {n}");
            if n % 16 == 0 && !tender.pool().wanting().is_empty() {
                let moved = tender.tend().unwrap();
                assert!(moved.iter().all(|m| m.lost == 0 && m.now > m.before), "{moved:?}");
            }
        }
        all_answered(&mut ebpf, family, 6000);
        let (v4, v6) = ebpf.room(ID).unwrap();
        let (grown, other) = if family == Family::V4 { (v4, v6) } else { (v6, v4) };
        assert!(grown >= 6000 && other == 48, "{grown} {other}");
        let (v4, v6) = ebpf.occupancy(ID).unwrap();
        assert_eq!(v4.max(v6), 6000);
    }
}

#[test]
fn s59_a_table_ends_at_its_limit_and_at_the_budget() {
    let mut ebpf = private(Config {
        connections: Connections { first_log: 3, most_log: 5, ..Connections::default() },
        ..config(3, 5)
    });
    let mut tender = ebpf.tender().unwrap();
    let mut opened = 0;
    for n in 0..1000 {
        opened += u32::from(open(&mut ebpf, Family::V4, n) == Verdict::Next);
        tender.tend().unwrap();
    }
    assert_eq!(ebpf.room(ID).unwrap(), (6 << 5, 48));
    assert!((6 << 5..=8 << 5).contains(&opened), "{opened}");
    // A packet that finds no room says so once, and nobody is woken again and again.
    assert_eq!(tender.pool().wanting(), [(ID, Family::V4)]);

    let none = Connections { first_log: 3, most_log: 12, budget: 6 * 15, ..Connections::default() };
    let mut ebpf = private(Config { connections: none, ..config(3, 12) });
    let mut tender = ebpf.tender().unwrap();
    for n in 0..200 {
        open(&mut ebpf, Family::V4, n);
    }
    assert_eq!(tender.tend().unwrap(), []);
    // What is raised counts at once.
    tender.shared.set_sizes(Connections { budget: 6 * 64, ..none });
    tender.refused.clear();
    let moved = tender.tend().unwrap();
    assert_eq!(moved.iter().map(|m| m.now).collect::<Vec<_>>(), [6 << 5], "half of what is left");
}

#[test]
fn what_has_become_much_too_large_is_given_back() {
    let sizes = Connections {
        first_log: 3,
        most_log: 12,
        shrink_after: Duration::ZERO,
        ..Connections::default()
    };
    let mut ebpf = private(Config { connections: sizes, ..config(3, 12) });
    let mut tender = ebpf.tender().unwrap();
    for n in 0..2000 {
        assert_eq!(open(&mut ebpf, Family::V6, n), Verdict::Next);
        if n % 16 == 0 {
            tender.tend().unwrap();
        }
    }
    assert!(ebpf.room(ID).unwrap().1 >= 2000);
    let before = ebpf.maps().iter().map(crate::MapFacts::bytes).sum::<u64>();
    // All but a few are forgotten.
    ebpf.amend(ID, |c| match c.remote == address(Family::V6, 0x1_0003) {
        true => crate::Amendment::Keep,
        false => crate::Amendment::Forget,
    })
    .unwrap();
    for _ in 0..2 {
        tender.tend().unwrap();
    }
    assert_eq!(ebpf.room(ID).unwrap(), (48, 48));
    assert!((0..2000).filter(|n| n & 0xff == 3).all(|n| answered(&mut ebpf, Family::V6, n)));
    assert!(ebpf.maps().iter().map(crate::MapFacts::bytes).sum::<u64>() < before);
}

/// Two processors open connections all the time while the table gets one size after another.
#[test]
fn s59_nothing_is_lost_while_packets_come() {
    const FLOWS: u32 = 1 << 14;
    let mut ebpf = Ebpf::private(config(6, 13)).expect("needs root and BPF");
    police(&mut ebpf, 1);
    ebpf.generation_for_tests(|maps| {
        let (seed, clock) = (maps.seed, maps.clock);
        let counter = Region::create("counter", 4).unwrap();
        // As often as it takes until all have their place; the second packet of a flow refreshes
        // its entry.
        let vary = Vary {
            counter: MapRef::Extra(0),
            mask: FLOWS - 1,
            remotes: 0xff,
            ports: 0xfff,
            port: Port::Remote,
        };
        let parameters = Parameters { capacities: maps.capacities, seed, clock };
        let options = Options {
            measure: Measure { vary: Some(vary), ..Measure::default() },
            ..Options::default()
        };
        let code = program::generate(Hook::FromPod, &parameters, &options).unwrap();
        let descriptor = |map| match map {
            MapRef::Table(id) => maps.fd(id),
            MapRef::Extra(_) => counter.raw_fd(),
        };
        let program = Loaded::load("np_growth", &code, descriptor).unwrap();
        let udp =
            Packet::new(address(Family::V4, 1), address(Family::V4, 0x1_0000)).udp(1000, 0).build();
        let mut tender = Tender::new(maps);
        let done = AtomicBool::new(false);
        let moves = std::thread::scope(|scope| {
            let tending = scope.spawn(|| {
                let mut moves = 0;
                while !done.load(Relaxed) {
                    moves += tender.tend().unwrap().len();
                    tender.wait(Duration::from_millis(1)).unwrap();
                }
                moves
            });
            for _ in 0..8 {
                scope.spawn(|| {
                    assert_eq!(
                        program
                            .run(&udp, IfIndex::new(1), IfIndex::new(UPLINK), FLOWS / 32)
                            .unwrap()
                            .0,
                        Verdict::Next
                    )
                });
                std::thread::sleep(Duration::from_millis(60));
            }
            for _ in 0..30 {
                program.run(&udp, IfIndex::new(1), IfIndex::new(UPLINK), FLOWS / 32).unwrap();
                std::thread::sleep(Duration::from_millis(30));
            }
            done.store(true, Relaxed);
            tending.join().unwrap()
        });
        assert!(moves >= 3, "it grew {moves} times");
        let count = counter.words::<AtomicU32>()[0].load(Relaxed);
        let flow = |n: u32| {
            let walk = n.wrapping_mul(0x9e37_79b1) & (FLOWS - 1);
            (walk & 0xff, walk.wrapping_mul(0x85eb_ca6b) >> 8 & 0xfff)
        };
        let flows: std::collections::BTreeSet<_> = (0..count).map(flow).collect();
        let now = Ticker::of(maps.shared(), clock).unwrap().now().unwrap();
        let live = state::connections(maps, now, ID).unwrap().len();
        assert!(flows.len() > 4_000, "{}", flows.len());
        assert_eq!(live, flows.len(), "of {count} packets");
    });
}

fn pins(name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/netpolc-growth-{name}-{}", std::process::id()))
}

/// The agent is killed after each step of a move; packets go on, and the next agent finishes it.
#[test]
fn s59_a_killed_agent_leaves_a_table_in_which_packets_go_on() {
    for published in [false, true] {
        for copied in [0, 1] {
            let dir = pins("kill");
            let config = config(3, 12);
            let (mut count, family) = (0, Family::V4);
            {
                let mut ebpf = Ebpf::open(&dir, config.clone()).expect("needs root and BPF");
                police(&mut ebpf, 1);
                while count < 48 {
                    assert_eq!(insert(&mut ebpf, family, count), Inserted::New);
                    count += 1;
                }
                let mut tender = ebpf.tender().unwrap();
                let mut moves = tender.enlarge(family, [(ID, 0)].into_iter()).unwrap();
                if published {
                    let pool = tender.pool().clone();
                    tender.publish(&mut moves).unwrap();
                    if copied == 1 {
                        let now = tender.now().unwrap();
                        moves[0].copy(&pool, tender.seed, now).unwrap();
                    }
                    // Known in the previous table, and new in the present one.
                    assert_eq!(insert(&mut ebpf, family, 0), Inserted::Kept);
                    while count < 90 {
                        assert_eq!(insert(&mut ebpf, family, count), Inserted::New);
                        count += 1;
                    }
                }
                assert_eq!(ebpf.connections(ID).unwrap().len(), count as usize);
                assert_eq!(ebpf.occupancy(ID).unwrap(), (count, 0));
            }
            let mut ebpf = Ebpf::open(&dir, config).unwrap();
            assert_eq!(ebpf.connections(ID).unwrap().len(), count as usize);
            let moved = ebpf.tender().unwrap().tend().unwrap();
            assert_eq!(moved.len(), usize::from(published), "{moved:?}");
            assert_eq!(ebpf.connections(ID).unwrap().len(), count as usize);
            let room = if published { 6 << 5 } else { 6 << 3 };
            assert_eq!(ebpf.room(ID).unwrap().0, room);
            // Nothing is left of what was begun.
            let chunks = std::fs::read_dir(dir.join("shared")).unwrap().filter_map(Result::ok);
            let arrays =
                chunks.filter(|e| e.file_name().to_string_lossy().starts_with("state_v4_")).count();
            assert_eq!(arrays, 2 + usize::from(published), "first tables, the spare chunk");
            drop(ebpf);
            Ebpf::remove(&dir).unwrap();
        }
    }
}

/// S43: the agent is killed after a table has moved and before its old place was cleared; who gets
/// that place finds nothing in it.
#[test]
fn s43_what_a_killed_agent_left_in_a_place_is_nobodys() {
    let dir = pins("left");
    let family = Family::V4;
    {
        let mut ebpf = Ebpf::open(&dir, config(3, 12)).expect("needs root and BPF");
        police(&mut ebpf, 1);
        for n in 0..40 {
            assert_eq!(insert(&mut ebpf, family, n), Inserted::New);
        }
        let mut tender = ebpf.tender().unwrap();
        let mut moves = tender.enlarge(family, [(ID, 0)].into_iter()).unwrap();
        tender.publish(&mut moves).unwrap();
        let (pool, now) = (tender.pool().clone(), tender.now().unwrap());
        moves[0].copy(&pool, tender.seed, now).unwrap();
        pool.publish(ID, family, Some(moves[0].to), None);
    }
    let mut ebpf = Ebpf::open(&dir, config(3, 12)).unwrap();
    assert_eq!(ebpf.connections(ID).unwrap().len(), 40);
    let word = Word {
        ingress_set: SetId::new(1),
        egress_set: SetId::new(2),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::EGRESS,
    };
    ebpf.write(&Write::put(
        TableId::Endpoint,
        schema::endpoint_key(EndpointId::new(2)),
        schema::set_policy(word),
    ))
    .unwrap();
    assert_eq!(ebpf.connections(EndpointId::new(2)).unwrap(), []);
    assert_eq!(ebpf.connections(ID).unwrap().len(), 40);
    drop(ebpf);
    Ebpf::remove(&dir).unwrap();
}

/// The budget is one for all tables that grow at the same moment.
#[test]
fn s59_tables_that_grow_together_share_the_budget() {
    let sizes =
        Connections { first_log: 3, most_log: 12, budget: 6 * 100, ..Connections::default() };
    let mut ebpf = private(Config { connections: sizes, ..config(3, 12) });
    let word = Word {
        ingress_set: SetId::new(1),
        egress_set: SetId::new(2),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::EGRESS,
    };
    for id in [2, 3] {
        ebpf.write(&Write::put(
            TableId::Endpoint,
            schema::endpoint_key(EndpointId::new(id)),
            schema::set_policy(word),
        ))
        .unwrap();
    }
    let mut tender = ebpf.tender().unwrap();
    let moves = tender
        .enlarge(Family::V4, [1, 2, 3].into_iter().map(|id| (EndpointId::new(id), 0)))
        .unwrap();
    let buckets: Vec<u32> = moves.iter().map(|m| m.to.buckets()).collect();
    assert_eq!(buckets, [32, 32, 16], "half of what is left each time");
    assert_eq!(tender.carry_out(moves).unwrap().len(), 3);
}

/// S43: what goes while its table moves takes everything along, and who gets its number has nothing
/// of it.
#[test]
fn s43_an_endpoint_goes_while_its_table_moves() {
    let mut ebpf = private(config(3, 12));
    for n in 0..40 {
        assert_eq!(open(&mut ebpf, Family::V4, n), Verdict::Next);
    }
    let mut tender = ebpf.tender().unwrap();
    let mut moves = tender.enlarge(Family::V4, [(ID, 0)].into_iter()).unwrap();
    let pool = tender.pool().clone();
    tender.publish(&mut moves).unwrap();
    ebpf.write(&Write::remove(TableId::Endpoint, schema::endpoint_key(ID))).unwrap();
    ebpf.settle().unwrap();
    police(&mut ebpf, POD);
    let now = tender.now().unwrap();
    moves[0].copy(&pool, tender.seed, now).unwrap();
    moves[0].merge(&pool, tender.seed, now).unwrap();
    assert_eq!(tender.carry_out(moves).unwrap(), []);
    assert_eq!(ebpf.occupancy(ID).unwrap(), (0, 0));
    assert_eq!(ebpf.room(ID).unwrap(), (48, 48));
    assert!((0..40).all(|n| !answered(&mut ebpf, Family::V4, n)));
    pool.sweep().unwrap();
    assert_eq!(pool.usage(Family::V4), 2048 * 192, "only the chunk of first tables is left");
}
