//! The generated programs: the verifier takes every variant, notes name every table, the state
//! tables hold what they promise, also where two processors open the same connections at once.

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use common::{PinDir, pod, tiny};
use netpolc_table::{
    ActionId, EndpointId, IfIndex, SetId, TableId, Write,
    schema::{self, Family, Word},
};
use netpolc_target::{
    Arrival, Datapath as _, Error, Frame, Hook, Mark, Target as _, Verdict, frame::Packet,
    semantics::tcp,
};
use netpolc_target_ebpf::{
    Capacities, Config, Connections, Ebpf,
    disasm::listing,
    layout::Clock,
    measure::{
        asm::MapRef,
        loader::Loaded,
        maps::{Maps, Shared},
        memory::Region,
        settle::Grace,
        state::{self, Ticker},
        tables::{Access, Tables},
    },
    program::{self, Measure, Options, Parameters, Port, Stage, Vary},
    sys,
};
use netpolc_testbed::lab;

const POD: u32 = 7;
const UPLINK: u32 = 2;

/// A kernel follows a million instructions at most, and each takes time in which nothing else is
/// enforced.
#[test]
fn the_verifier_stays_well_below_its_limit() {
    let pins = PinDir::new("followed");
    drop(Ebpf::open(&pins.0, Config::default()).unwrap());
    let followed = ["to_pod", "from_pod", "translated"].map(|name| {
        let info = aya::programs::ProgramInfo::from_pin(pins.0.join("gen_1").join(name)).unwrap();
        (name, info.verified_instruction_count().unwrap())
    });
    println!("instructions followed: {followed:?}");
    assert!(followed.iter().all(|(_, count)| (1..400_000).contains(count)), "{followed:?}");
}

#[test]
fn the_verifier_takes_every_variant_at_every_size() {
    every_variant_at_every_size();
}

/// Linux 6.1 knows less of a number's bounds.
#[test]
fn an_older_verifier_takes_every_variant_at_every_size() {
    if lab::outside(an_older_verifier_takes_every_variant_at_every_size) {
        return;
    }
    every_variant_at_every_size();
}

fn every_variant_at_every_size() {
    let large = Capacities {
        endpoints: 4,
        rows: 64,
        port_words: 1 << 10,
        remote_v4_blocks: 1 << 16,
        ..Capacities::small()
    };
    let vary = |port| {
        Some(Vary { counter: MapRef::Extra(0), mask: 4095, remotes: 0xffff, ports: 0xfff, port })
    };
    for capacities in [tiny(), Capacities::small(), large] {
        capacities.check().unwrap();
        for stage in [Stage::Empty, Stage::ParseOnly, Stage::Full] {
            for vary in [None, vary(Port::Local), vary(Port::Remote)] {
                if stage != Stage::Full && vary.is_some_and(|v| v.port == Port::Remote) {
                    continue;
                }
                let config = Config {
                    capacities,
                    program: Options {
                        measure: Measure { stage, vary, ..Measure::default() },
                        ..Options::default()
                    },
                    ..Config::small()
                };
                Ebpf::private(config)
                    .unwrap_or_else(|e| panic!("{stage:?} {vary:?} {capacities:?}: {e}"));
            }
        }
    }
}

#[test]
fn notes_name_every_table_that_packets_read() {
    let parameters =
        Parameters { capacities: Capacities::small(), seed: 1, clock: Clock { hz: 250 } };
    for hook in [Hook::ToPod, Hook::FromPod] {
        let code = program::generate(hook, &parameters, &Options::default()).unwrap();
        let text = listing(&code);
        // What a guarded pod may send is asked at its own hook only.
        let of_the_guard = |t: &TableId| matches!(t, TableId::Tunnel | TableId::OnLinkV6);
        let read = |t: &&TableId| match t {
            TableId::Base | TableId::Directory => false,
            t => hook == Hook::FromPod || !of_the_guard(t),
        };
        for table in TableId::ALL.iter().filter(read) {
            let note = format!("\ntable {}", table.spec().name);
            assert!(text.contains(&note), "{hook:?}: no {note:?}");
        }
        assert_eq!(code.notes[0].insn, 0);
        assert!(code.notes.windows(2).all(|n| n[0].insn < n[1].insn && n[0].line < n[1].line));
        assert_eq!(
            code,
            program::generate(hook, &parameters, &Options::default()).unwrap(),
            "the same each time"
        );
    }
}

fn address(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(0x0a00_0000 | n).into(),
        Family::V6 => Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n)).into(),
    }
}

/// A pod, number 1, isolated both ways, that may open what it wants and that nobody may open
/// anything to.
fn writes(ifindex: IfIndex) -> Vec<Write> {
    let word = Word {
        ingress_set: SetId::new(1),
        egress_set: SetId::new(2),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::EGRESS,
    };
    let mut writes = pod(ifindex, word, &Family::BOTH.map(|family| address(family, 1)));
    for family in Family::BOTH {
        writes.push(Write::put(
            TableId::Base,
            schema::base_key(SetId::new(2), family),
            schema::plain(ActionId::Permit),
        ));
    }
    writes
}

fn closed(config: Config) -> Ebpf {
    let mut ebpf = Ebpf::private(config).expect("needs root and BPF");
    writes(IfIndex::new(POD)).iter().for_each(|w| ebpf.write(w).unwrap());
    ebpf
}

fn frame(packet: Packet) -> Frame {
    Frame {
        interface: IfIndex::new(POD),
        arrival: Arrival::At(IfIndex::new(UPLINK)),
        mark: Mark::Clear,
        bytes: packet.build(),
    }
}

#[test]
fn s59_the_quota_that_is_promised_finds_room_whatever_the_hashes() {
    for (seed, buckets) in [(1, 1 << 6), (2, 1 << 9), (3, 1 << 9), (4, 1 << 11)] {
        let capacities = Capacities { endpoints: 2, ..Capacities::small() };
        let connections = Connections::fixed(u32::ilog2(buckets) as u8);
        let mut ebpf =
            closed(Config { capacities, connections, seed: Some(seed), ..Config::small() });
        let quota = ebpf.capabilities().connections;
        for family in Family::BOTH {
            let mut open = 0;
            // Of many remotes, since one alone gets three quarters; established, since what is not
            // gives way.
            loop {
                let (remote, port) =
                    (address(family, 0x1_0000 + (open & 0xff)), 1024 + (open >> 8) as u16);
                let syn = Packet::new(address(family, 1), remote).tcp(port, 443, tcp::SYN);
                if ebpf.packet(Hook::FromPod, &frame(syn)).unwrap() == Verdict::Drop {
                    break;
                }
                for flags in [tcp::SYN | tcp::ACK, tcp::ACK] {
                    let answer = Packet::new(remote, address(family, 1)).tcp(443, port, flags);
                    assert_eq!(ebpf.packet(Hook::ToPod, &frame(answer)).unwrap(), Verdict::Next);
                }
                open += 1;
            }
            let slots = buckets * 8;
            assert!(
                open >= quota && open <= slots,
                "{family:?}, seed {seed}: {open} of {slots}, {quota} promised"
            );
        }
    }
}

/// Two threads open the same connections at the same time, each on its own processor. A tuple may
/// get a second entry where both are in the middle of it (which ages away, see `layout::state`),
/// but that is rare, and none is lost.
#[test]
fn s38_openings_at_the_same_time_get_an_entry_each_and_hardly_ever_two() {
    const FLOWS: u32 = 1 << 12;
    let capacities = Capacities { endpoints: 2, ..Capacities::small() };
    let clock = Clock { hz: sys::jiffies_per_second() };
    let shared = Shared::create(&capacities, clock).unwrap();
    shared.set_sizes(Connections::fixed(10));
    let maps = Maps::create(capacities, 5, clock, shared).unwrap();
    let mut tables = Tables::open(maps, Access::Write).unwrap();
    for write in writes(IfIndex::new(1)) {
        tables.write(&write, &Grace::default()).map_err(Error::from).unwrap();
    }
    let counters: [_; 2] = std::array::from_fn(|_| Region::create("counter", 4).unwrap());
    let programs: Vec<Loaded> = counters
        .iter()
        .map(|counter| {
            let vary = Vary {
                counter: MapRef::Extra(0),
                mask: FLOWS - 1,
                remotes: 0xff,
                ports: 0xfff,
                port: Port::Remote,
            };
            let parameters = Parameters { capacities, seed: 5, clock };
            let options = Options {
                measure: Measure { vary: Some(vary), ..Measure::default() },
                ..Options::default()
            };
            let code = program::generate(Hook::FromPod, &parameters, &options).unwrap();
            let descriptor = |map| match map {
                MapRef::Table(id) => tables.maps.fd(id),
                MapRef::Extra(_) => counter.raw_fd(),
            };
            Loaded::load("np_two", &code, descriptor).unwrap()
        })
        .collect();
    let udp =
        Packet::new(address(Family::V4, 1), address(Family::V4, 0x1_0000)).udp(1000, 0).build();
    let now = |tables: &Tables| Ticker::load(&tables.maps).unwrap().now().unwrap();
    let mut second = 0;
    for round in 0..40 {
        state::purge(&tables.maps, EndpointId::new(1)).unwrap();
        tables.write(&writes(IfIndex::new(1))[0], &Grace::default()).map_err(Error::from).unwrap();
        counters.iter().for_each(|c| c.words::<AtomicU32>()[0].store(0, Relaxed));
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            for program in &programs {
                scope.spawn(|| {
                    start.wait();
                    assert_eq!(
                        program.run(&udp, IfIndex::new(1), IfIndex::new(UPLINK), FLOWS).unwrap().0,
                        Verdict::Next
                    );
                });
            }
        });
        let live = state::connections(&tables.maps, now(&tables), EndpointId::new(1)).unwrap();
        let tuples: BTreeSet<_> = live.iter().map(|l| l.connection).collect();
        let flows: BTreeSet<_> = (0..FLOWS)
            .map(|n| {
                let walk = n.wrapping_mul(0x9e37_79b1) & (FLOWS - 1);
                (walk & 0xff, walk.wrapping_mul(0x85eb_ca6b) >> 8 & 0xfff)
            })
            .collect();
        assert_eq!(tuples.len(), flows.len(), "round {round}: none is lost");
        second += live.len() - tuples.len();
    }
    assert!(second <= 40, "{second} second entries");
}
