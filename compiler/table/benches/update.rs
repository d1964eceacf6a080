//! What a difference and its order cost: `cargo bench -p netpolc-table`.

use std::{hint::black_box, time::Instant};

use netpolc_table::{
    ActionId, Class, ClassId, EndpointId, Incarnation, PortClassId, Program, RowId, SetId, TableId,
    delta::{self, Changes},
    id::V4,
    schema::*,
};

type ClassV4 = ClassId<V4>;

const REMOTES: u32 = 200_000;
const CLASSES: u16 = 3_000;
const SETS: u16 = 100;
const PORT_CLASSES: u16 = 64;

/// One node's program with `first` as the lowest set and row id.
fn big(first: u16) -> Program {
    let mut program = Program::default();
    for i in 0..REMOTES {
        let key = remote_key(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).into(), 32);
        let leaf = set_remote(
            ClassV4::new((i % u32::from(CLASSES)) as u16 + 1),
            Incarnation::new((i % 65_535) as u16 + 1),
        );
        program.table_mut(TableId::RemoteV4).entries.insert(key, leaf);
    }
    for protocol in [6, 17, 132] {
        for i in 0..PORT_CLASSES {
            let last = if i + 1 == PORT_CLASSES { 65_535 } else { i * 100 + 99 };
            let key = port_key(protocol, i * 100, last);
            let class = u16::from(protocol) * PORT_CLASSES + i + 1;
            program
                .table_mut(TableId::Port)
                .entries
                .insert(key, set_port_class(PortClassId::new(class)));
        }
    }
    for class in 1..=CLASSES {
        let print = fingerprint(u64::from(class) << 20);
        program
            .table_mut(TableId::Directory)
            .entries
            .insert(directory_key(Named::Class(Class::new(Family::V4, class))), print);
    }
    for n in 0..SETS {
        let set = SetId::new(first + n);
        let word = Word {
            ingress_set: set,
            egress_set: SetId::default(),
            born_set: SetId::new(0),
            flags: Word::INGRESS | Word::GUARD,
        };
        program
            .table_mut(TableId::Endpoint)
            .entries
            .insert(endpoint_key(EndpointId::new(n + 1)), set_policy(word));
        for family in Family::BOTH {
            program
                .table_mut(TableId::Base)
                .entries
                .insert(base_key(set, family), plain(ActionId::Deny));
        }
        for class in (1..=CLASSES).filter(|c| (c + n) % 3 == 0) {
            let row = set_row(RowId::new(first + n * 4 + class % 4));
            program.table_mut(TableId::Row).entries.insert(row_key(set, ClassV4::new(class)), row);
        }
        for row in 0..4 {
            for pc in 0..8 {
                let pc = PortClassId::new(6 * PORT_CLASSES + (pc * 7 + n + row) % PORT_CLASSES + 1);
                let key = verdict_key(RowId::new(first + n * 4 + row), pc);
                program.table_mut(TableId::Verdict).entries.insert(key, plain(ActionId::Permit));
            }
        }
    }
    program
}

/// Runs a step some times: the fastest and the median, in microseconds, without the time to free
/// its result.
fn show<T>(what: &str, entries: usize, rounds: usize, mut step: impl FnMut() -> T) {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            let result = black_box(step());
            let micros = start.elapsed().as_secs_f64() * 1e6;
            drop(result);
            micros
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what:<48} {entries:>8} {:>12.1} {:>12.1}", times[0], times[rounds / 2]);
}

fn main() {
    let (empty, old) = (Program::default(), big(1));
    println!("{:<48} {:>8} {:>12} {:>12}", "step", "entries", "fastest, us", "median, us");
    show("diff with an equal program", old.len(), 9, || delta::diff(&old, &old));
    let all = delta::diff(&empty, &old);
    show("diff, from nothing", all.entries.len(), 9, || delta::diff(&empty, &old));
    show("order, from nothing", all.entries.len(), 9, || delta::order(&old, &all));
    show("plan, from nothing", old.len(), 9, || delta::plan(&empty, &old));
    let other = big(1_001);
    let changes = delta::diff(&old, &other);
    show("diff, every set and row under another id", changes.entries.len(), 9, || {
        delta::diff(&old, &other)
    });
    show("order, every set and row under another id", changes.entries.len(), 9, || {
        delta::order(&other, &changes)
    });

    let mut moved = other.clone();
    for leaf in moved.table_mut(TableId::RemoteV4).entries.values_mut() {
        let SetRemote { class, incarnation } = SetRemote::<V4>::of(leaf);
        *leaf = set_remote(ClassV4::new(class.get() % CLASSES + 1), incarnation);
    }
    let changes = delta::diff(&old, &moved);
    show("order, and every address in another class", changes.entries.len(), 9, || {
        delta::order(&moved, &changes)
    });
    show("plan, and every address in another class", changes.entries.len(), 9, || {
        delta::plan(&old, &moved)
    });

    // A pod comes: an address with a class of its own, which one set permits.
    let (mut new, mut changes) = (old.clone(), Changes::default());
    let class = ClassV4::new(CLASSES + 1);
    new.set(
        &mut changes,
        TableId::Directory,
        directory_key(Named::Class(class.into())),
        Some(fingerprint(1u64)),
    );
    new.set(
        &mut changes,
        TableId::Row,
        row_key(SetId::new(1), class),
        Some(set_row(RowId::new(2))),
    );
    new.set(
        &mut changes,
        TableId::RemoteV4,
        remote_key([11, 0, 0, 1].into(), 32),
        Some(set_remote(class, Incarnation::new(9))),
    );
    show("order, a pod comes", changes.entries.len(), 1001, || delta::order(&new, &changes));

    // A local pod moves to a new set while its address changes class.
    let word = Word {
        ingress_set: SetId::new(900),
        egress_set: SetId::default(),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::GUARD,
    };
    new.set(
        &mut changes,
        TableId::Endpoint,
        endpoint_key(EndpointId::new(1)),
        Some(set_policy(word)),
    );
    new.set(
        &mut changes,
        TableId::Base,
        base_key(SetId::new(900), Family::V4),
        Some(plain(ActionId::Deny)),
    );
    new.set(
        &mut changes,
        TableId::Row,
        row_key(SetId::new(900), class),
        Some(plain(ActionId::Permit)),
    );
    show("order, a local pod gets another set, too", changes.entries.len(), 1001, || {
        delta::order(&new, &changes)
    });
}
