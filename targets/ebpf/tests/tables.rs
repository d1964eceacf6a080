//! What is written is what is read, and what a packet would find; also after a second start.

mod common;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use common::Rng;
use netpolc_table::{
    ClassId, Incarnation, Program, TableId, Write, eval,
    id::{V4, V6},
    schema::{self, Family},
};
use netpolc_target::Error;
use netpolc_target_ebpf::{
    layout::{Capacities, Clock, MapId, exact, exact_buckets, trie},
    measure::{
        maps::{Maps, Shared},
        settle::Grace,
        tables::{Access, Stop, Tables},
    },
};

fn empty(capacities: Capacities) -> Tables {
    let clock = Clock { hz: 100 };
    let shared = Shared::create(&capacities, clock).expect("needs root and BPF");
    Tables::open(Maps::create(capacities, 1, clock, shared).unwrap(), Access::Write).unwrap()
}

/// The walk of the generated programs, written from the layout alone.
fn remote(maps: &Maps, address: IpAddr) -> (u16, u16) {
    let walk = |map: MapId, bytes: &[u8]| {
        let slots = maps.words::<AtomicU32>(map);
        let mut slot = slots[usize::from(bytes[0]) << 8 | usize::from(bytes[1])].load(Relaxed);
        for (i, byte) in bytes[2..].iter().enumerate() {
            if slot & trie::CHILD == 0 {
                break;
            }
            slot = slots[((slot & !trie::CHILD) as usize) << 8 | usize::from(*byte)].load(Relaxed);
            if i + 3 == bytes.len() {
                return (slot as u16, (slot >> 16) as u16);
            }
        }
        (slot as u16, (slot >> 16) as u16)
    };
    match address {
        IpAddr::V4(a) => walk(MapId::RemoteV4, &a.octets()),
        IpAddr::V6(a) => {
            let words = maps.words::<AtomicU32>(MapId::RemoteV6Exact);
            let leaves = maps.words::<AtomicU32>(MapId::RemoteV6Leaf);
            let mut group = a.octets();
            group[15] = 0;
            let words_of = |octets: [u8; 16]| -> Vec<u32> {
                octets.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
            };
            let (key, group) = (words_of(a.octets()), words_of(group));
            for bucket in exact_buckets(a, maps.capacities.remote_v6_buckets, maps.seed) {
                let bucket = &words[bucket as usize * exact::SIZE / 4..][..exact::SIZE / 4];
                for way in 0..exact::WAYS {
                    let mut value = bucket[exact::VALUES / 4 + way].load(Relaxed);
                    let is_block = value & exact::BLOCK != 0;
                    let wanted = if is_block { &group } else { &key };
                    if (0..4).any(|w| bucket[way * 4 + w].load(Relaxed) != wanted[w]) {
                        continue;
                    }
                    if is_block {
                        value = leaves[((value >> 16) as usize) << 8 | usize::from(a.octets()[15])]
                            .load(Relaxed);
                    }
                    if value != 0 {
                        return ((value as u16) - 1, (value >> 16) as u16);
                    }
                }
            }
            walk(MapId::RemoteV6, &a.octets())
        }
    }
}

fn expected(program: &Program, address: IpAddr) -> (u16, u16) {
    let leaf = eval::remote(program, address);
    (leaf.class.get(), leaf.incarnation.get())
}

#[test]
fn what_is_written_is_read_again_and_found_by_packets() {
    let mut rng = Rng(common::seed());
    let (mut tables, grace) = (empty(Capacities::small()), Grace::default());
    let mut model = Program::default();
    for round in 0..1500 {
        let write = common::write(&mut rng, &model);
        model.apply(&write);
        tables.write(&write, &grace).unwrap_or_else(|e| panic!("round {round}: {e:?}: {write:?}"));
        for family in Family::BOTH {
            for _ in 0..8 {
                let address = common::address(&mut rng, family);
                assert_eq!(
                    remote(&tables.maps, address),
                    expected(&model, address),
                    "round {round}: {address}"
                );
            }
        }
        if round % 25 == 0 {
            assert_eq!(tables.read().unwrap(), model, "round {round}");
        }
        if round % 100 == 50 {
            grace.wait().unwrap();
            tables.release().unwrap();
        }
        if round % 250 == 100 {
            tables = Tables::open(tables.maps, Access::Write).unwrap();
            assert_eq!(tables.read().unwrap(), model, "opened again in round {round}");
        }
    }
    assert_eq!(tables.read().unwrap(), model);
}

#[test]
fn s59_a_full_trie_changes_nothing_and_blocks_come_back() {
    let capacities = Capacities { remote_v4_blocks: 512, ..Capacities::small() };
    let (mut tables, grace) = (empty(capacities), Grace::default());
    let put = |n: u32| {
        let key = schema::remote_key(IpAddr::V4((n << 16 | 1).into()), 32);
        Write::put(
            TableId::RemoteV4,
            key,
            schema::set_remote(ClassId::<V4>::new(1), Incarnation::new(7)),
        )
    };
    let mut n = 0;
    let full = loop {
        match tables.write(&put(n), &grace) {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, Stop::Room { table: TableId::RemoteV4, .. }), "{full:?}");
    assert_eq!(n, 128, "two blocks for each address of its own /16");
    let before = tables.read().unwrap();
    assert_eq!(before.len(), 128);
    for round in 0..3 {
        // a block that was cut off comes back after the grace period that the write itself waits
        // for
        let key = schema::remote_key(IpAddr::V4((round << 16 | 1).into()), 32);
        tables.write(&Write::remove(TableId::RemoteV4, key), &grace).unwrap();
        tables.write(&put(200 + round), &grace).unwrap();
    }
    assert_eq!(tables.read().unwrap().len(), 128);
}

#[test]
fn addresses_move_in_a_crowded_cuckoo_table_and_are_found_all_the_time() {
    let capacities = Capacities { remote_v6_buckets: 64, ..Capacities::small() };
    let (mut tables, grace, mut rng) = (empty(capacities), Grace::default(), Rng(7));
    let mut model = Program::default();
    let mut full = 0;
    for i in 0..400 {
        let address = Ipv6Addr::from(u128::from(rng.next()) << 64 | u128::from(rng.next()));
        let mut write = Write::put(
            TableId::RemoteV6,
            schema::remote_key(address.into(), 128),
            schema::set_remote(ClassId::<V6>::new(i % 9), Incarnation::new(3)),
        );
        if i % 3 == 0 {
            write.remove.extend(model.table(TableId::RemoteV6).entries.keys().next().cloned());
        }
        match tables.write(&write, &grace) {
            Ok(()) => model.apply(&write),
            Err(Stop::Room { .. }) => full += 1,
            Err(e) => panic!("{e:?}"),
        }
        assert_eq!(tables.read().unwrap(), model);
    }
    assert!(full > 0 && model.len() >= 150, "{full} refused, {} of 192 places used", model.len());
    let tables = Tables::open(tables.maps, Access::Write).unwrap();
    assert_eq!(tables.read().unwrap(), model);
}

#[test]
fn s33_addresses_whose_buckets_are_full_stand_in_the_trie() {
    let (mut tables, grace) =
        (empty(Capacities { remote_v6_buckets: 64, ..Capacities::small() }), Grace::default());
    let seed = tables.maps.seed;
    // Whoever knows the seed finds addresses that share both buckets; six places are for twelve of
    // them.
    let wanted = exact_buckets(Ipv6Addr::from(1_u128 << 100), 64, seed);
    let meet = (1..u128::from(u64::MAX)).map(|i| Ipv6Addr::from(i << 100 | i << 8));
    let meeting: Vec<Ipv6Addr> =
        meet.filter(|a| exact_buckets(*a, 64, seed) == wanted).take(12).collect();
    let other_seed = meeting
        .iter()
        .map(|a| exact_buckets(*a, 64, seed + 1))
        .collect::<std::collections::BTreeSet<_>>();
    assert!(other_seed.len() > 8, "with another seed they do not meet: {other_seed:?}");
    let key = |a: Ipv6Addr| schema::remote_key(a.into(), 128);
    let mut model = Program::default();
    let mut write = |tables: &mut Tables, write: Write| {
        tables.write(&write, &grace).unwrap();
        model.apply(&write);
        assert_eq!(tables.read().unwrap(), model);
        for &address in &meeting {
            assert_eq!(
                remote(&tables.maps, address.into()),
                expected(&model, address.into()),
                "{address}"
            );
        }
    };
    for (i, &address) in (1..).zip(&meeting) {
        write(
            &mut tables,
            Write::put(
                TableId::RemoteV6,
                key(address),
                schema::set_remote(ClassId::<V6>::new(i), Incarnation::new(100 + i)),
            ),
        );
    }
    assert!(tables.used("remote_v6_exact").unwrap() <= 6);
    // They change, go and come back like all others, also after a second start.
    for round in 0..3 {
        for (i, &address) in (1..).zip(&meeting) {
            write(
                &mut tables,
                Write::put(
                    TableId::RemoteV6,
                    key(address),
                    schema::set_remote(ClassId::<V6>::new(i + round), Incarnation::new(200 + i)),
                ),
            );
        }
        tables = Tables::open(tables.maps, Access::Write).unwrap();
        for &address in meeting.iter().step_by(2) {
            write(&mut tables, Write::remove(TableId::RemoteV6, key(address)));
        }
        tables = Tables::open(tables.maps, Access::Write).unwrap();
        for (i, &address) in (1..=12).zip(&meeting).rev() {
            write(
                &mut tables,
                Write::put(
                    TableId::RemoteV6,
                    key(address),
                    schema::set_remote(ClassId::<V6>::new(i), Incarnation::new(300 + round)),
                ),
            );
        }
    }
}

#[test]
fn neighbours_move_into_a_block_together_and_are_found_all_the_time() {
    let capacities =
        Capacities { remote_v6_buckets: 64, remote_v6_leaves: 16, ..Capacities::small() };
    let (mut tables, grace, mut rng) = (empty(capacities), Grace::default(), Rng(11));
    let mut model = Program::default();
    // 24 groups, 16 blocks: the last ones do not fit
    let address = |group: u64, byte: u64| {
        Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(group) << 8 | u128::from(byte))
    };
    let key = |address: Ipv6Addr| schema::remote_key(address.into(), 128);
    let (mut full, mut most) = (0, 0);
    for i in 0..1500u16 {
        let mut write = Write { table: TableId::RemoteV6, remove: vec![], put: vec![] };
        for _ in 0..1 + rng.next() % 4 {
            let (group, byte) = (rng.next() % 24, [0, 1, 2, 7, 255][rng.next() as usize % 5]);
            // long phases of growing and of shrinking, so that blocks come and go
            if (rng.next() % 5 == 0) == (i / 100 % 2 == 0) {
                write.remove.push(key(address(group, byte)));
            } else {
                write.put.push((
                    key(address(group, byte)),
                    schema::set_remote(ClassId::<V6>::new(i % 9), Incarnation::new(3 + i)),
                ));
            }
        }
        write.remove.retain(|k| write.put.iter().all(|(p, _)| p != k));
        match tables.write(&write, &grace) {
            Ok(()) => model.apply(&write),
            Err(Stop::Room { .. }) => full += 1,
            Err(e) => panic!("{e:?}"),
        }
        assert_eq!(tables.read().unwrap(), model, "step {i}");
        for group in 0..24 {
            for byte in [0, 1, 2, 3, 7, 254, 255] {
                let a = address(group, byte).into();
                assert_eq!(remote(&tables.maps, a), expected(&model, a), "step {i}: {a}");
            }
        }
        most = most.max(tables.used("remote_v6_leaf").unwrap());
        if i % 97 == 0 {
            tables = Tables::open(tables.maps, Access::Write).unwrap();
        }
    }
    assert!(full > 0 && most == 16, "{full} refused, {most} blocks at most");
}

/// Addresses that move into a block stand beside it until the next grace period, and follow every
/// change until then.
#[test]
fn what_moved_into_a_block_is_found_in_both_places_until_a_grace_period() {
    let (mut tables, grace) = (empty(Capacities::small()), Grace::default());
    let address = |n: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
    let entry = |n: u16, number: u16| {
        let class = ClassId::<V6>::new(number);
        (schema::remote_key(address(n).into(), 128), schema::set_remote(class, Incarnation::new(n)))
    };
    let write = |remove: &[u16], put: &[(u16, u16)]| Write {
        table: TableId::RemoteV6,
        remove: remove.iter().map(|n| entry(*n, 0).0).collect(),
        put: put.iter().map(|(n, class)| entry(*n, *class)).collect(),
    };
    let mut model = Program::default();
    let places = |tables: &Tables| {
        let words = tables.maps.words::<AtomicU32>(MapId::RemoteV6Exact);
        let values =
            words.chunks(exact::SIZE / 4).flat_map(|b| &b[exact::VALUES / 4..][..exact::WAYS]);
        values.filter(|v| v.load(Relaxed) != 0).map(|v| v.load(Relaxed)).collect::<Vec<_>>()
    };
    let steps = [
        (write(&[], &[(0, 1), (1, 2)]), 2),
        (write(&[], &[(2, 3)]), 3),
        (write(&[], &[(0, 4), (3, 5)]), 3),
        (write(&[1], &[]), 2),
        (write(&[], &[(1, 6)]), 2),
    ];
    for (step, wanted) in steps {
        tables.write(&step, &grace).unwrap();
        model.apply(&step);
        assert_eq!(places(&tables).len(), wanted, "{step:?}");
        assert_eq!(
            (tables.read().unwrap(), tables.read_afresh().unwrap()),
            (model.clone(), model.clone())
        );
        for n in 0..5 {
            assert_eq!(
                remote(&tables.maps, address(n).into()),
                expected(&model, address(n).into()),
                "{step:?}: {n}"
            );
        }
    }
    // killed here, the next process finishes it
    let mut tables = Tables::open(tables.maps, Access::Write).unwrap();
    assert_eq!((tables.read().unwrap(), places(&tables).len()), (model.clone(), 1));
    // without that the next grace period does
    tables.write(&write(&[0, 1, 2, 3], &[]), &grace).unwrap();
    tables.write(&write(&[], &[(0, 1), (1, 2)]), &grace).unwrap();
    tables.write(&write(&[], &[(2, 3)]), &grace).unwrap();
    assert_eq!(places(&tables).len(), 3);
    grace.wait().unwrap();
    tables.release().unwrap();
    assert_eq!((tables.read().unwrap().len(), places(&tables).len()), (3, 1));
}

#[test]
fn a_flipped_slot_is_reported() {
    let (mut tables, grace) = (empty(Capacities::small()), Grace::default());
    let key = schema::remote_key("10.1.0.0".parse().unwrap(), 16);
    tables
        .write(
            &Write::put(
                TableId::RemoteV4,
                key,
                schema::set_remote(ClassId::<V4>::new(3), Incarnation::new(0)),
            ),
            &grace,
        )
        .unwrap();
    tables.maps.words::<AtomicU32>(MapId::RemoteV4)[0x0a01].store(4, Relaxed);
    assert!(matches!(tables.read(), Err(Error::Installed(e)) if e.contains("remote_v4")));
}
