//! Counts how large the tables must be for a program, without writing anything, and chooses the
//! sizes of the next generation.
//!
//! Not here: replacing a generation (`target/sizes`).

use std::collections::{HashMap, HashSet};

use netpolc_table::{
    Entry, Key, Program, RowId, TableId,
    schema::{Answer, BaseKey, EndpointKey, Family, InterfaceKey, Leaf, SetPortClass},
};

use crate::{
    config::Config,
    layout::{Capacities, exact},
    tables::Room,
};

/// How many blocks the root of a trie takes.
const ROOT: u64 = 256;

/// The least that each capacity must be, in the units of its [`Room`].
pub fn of(program: &Program) -> Vec<(Room, u64)> {
    let mut needs = vec![
        (
            Room::Endpoints,
            beyond(keys(program, TableId::Endpoint).map(|key| EndpointKey::of(key).endpoint.get())),
        ),
        (Room::Sets, beyond(keys(program, TableId::Base).map(|key| BaseKey::of(key).set.get()))),
        (Room::Rows, beyond(rows(program).map(RowId::get))),
        (
            Room::PortClasses,
            beyond(
                entries(program, TableId::Port)
                    .map(|entry| SetPortClass::of(entry).port_class.get()),
            ),
        ),
        (Room::Services, count(program, TableId::ServiceV4) + count(program, TableId::ServiceV6)),
    ];
    let interfaces =
        keys(program, TableId::Interface).map(|key| InterfaceKey::of(key).ifindex.get() >> 8);
    let interfaces: HashSet<u32> = interfaces.collect();
    needs.push((Room::InterfaceBlocks, interfaces.len() as u64 + 1));
    for family in Family::BOTH {
        let leaves = entries(program, TableId::remote(family));
        let classes = beyond(leaves.map(|entry| Leaf::of(family, entry).class.get()));
        let (mut blocks, mut records) = (HashSet::new(), 0);
        let mut groups: HashMap<u128, usize> = HashMap::new();
        for key in keys(program, TableId::remote(family)) {
            let (value, length) = key.prefix();
            let (bits, host) = (value.get(), family.bits());
            records += u64::from(length < host);
            if family == Family::V6 && length == host {
                *groups.entry(bits >> 8).or_default() += 1;
                continue;
            }
            // A prefix needs one block for each eight bits beyond the sixteen of the root. They are
            // visited from the longest to the shortest: a block that is known has its parents
            // counted already.
            for level in (0..length.saturating_sub(16).div_ceil(8)).rev() {
                let below = u32::from(host - 16 - 8 * level);
                if !blocks.insert((level, bits >> below)) {
                    break;
                }
            }
        }
        let blocks = (blocks.len() as u64).max(records) + ROOT;
        if family == Family::V4 {
            needs.extend([(Room::ClassesV4, classes), (Room::RemoteV4Blocks, blocks)]);
            continue;
        }
        needs.extend([(Room::ClassesV6, classes), (Room::RemoteV6Blocks, blocks)]);
        let leaves = groups.values().filter(|addresses| **addresses > exact::SINGLES).count();
        let singles: usize =
            groups.values().filter(|addresses| **addresses <= exact::SINGLES).sum();
        // Buckets are planned to be three quarters full. More is possible, but costs moves.
        let buckets = ((leaves + singles) * 4).div_ceil(exact::WAYS * 3);
        needs.extend([
            (Room::RemoteV6Leaves, leaves as u64),
            (Room::RemoteV6Buckets, buckets as u64),
        ]);
    }
    needs
}

/// The capacities that a node begins with, enlarged to what this program needs.
pub fn capacities(program: &Program) -> Capacities {
    let Config { capacities, limits, .. } = Config::default();
    sizes(&of(program), &capacities, &limits, Margin::Now)
}

/// Whether all needs fit into these capacities.
pub fn fit(needs: &[(Room, u64)], mut present: Capacities) -> bool {
    let mut fits = |(room, need): &(Room, u64)| {
        room.field(&mut present).is_none_or(|(size, units)| *need <= u64::from(*size) * units)
    };
    needs.iter().all(&mut fits)
}

/// When the next generation is made, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Margin {
    /// Something does not fit. What is more than three quarters full grows too.
    Now,
    /// Everything still fits. What is more than half full grows to four times what
    /// is needed.
    Ahead,
}

/// The sizes that the needs call for: `present`, with the fields enlarged that are too small.
pub fn sizes(
    needs: &[(Room, u64)],
    present: &Capacities,
    limits: &Capacities,
    margin: Margin,
) -> Capacities {
    let mut wanted = *present;
    for (room, need) in needs {
        let (mut now, mut most) = (*present, *limits);
        let (Some((size, units)), Some((most, _))) = (room.field(&mut now), room.field(&mut most))
        else {
            continue;
        };
        let filled = |parts: u64, of: u64| need * of > u64::from(*size) * units * parts;
        let enough = match margin {
            Margin::Now if filled(1, 1) || filled(3, 4) => need * 3 / 2,
            Margin::Ahead if filled(1, 2) => need * 4,
            Margin::Now | Margin::Ahead => continue,
        };
        let enough = u32::try_from(enough.div_ceil(units).next_power_of_two()).unwrap_or(u32::MAX);
        let size = (*size).max(enough.min(*most));
        let mut larger = wanted;
        if let Some((field, _)) = room.field(&mut larger) {
            *field = size;
        }
        // The fields together may exceed what the layout allows. Growth that is not needed yet is
        // then left out; growth that is needed stays, and the caller finds that it is impossible.
        if margin == Margin::Now || larger.check().is_ok() {
            wanted = larger;
        }
    }
    wanted
}

/// The sizes that would do with some room to spare, never below `first`. None where the present
/// ones are not much larger.
pub fn smaller(
    needs: &[(Room, u64)],
    present: &Capacities,
    first: &Capacities,
) -> Option<Capacities> {
    /// The tables shrink only where they become this many times smaller.
    const WORTHWHILE: u64 = 4;
    let mut wanted = Capacities { fragments: present.fragments, ..*first };
    for (room, need) in needs {
        if let Some((size, units)) = room.field(&mut wanted) {
            let enough =
                u32::try_from((need * 2).div_ceil(units).next_power_of_two()).unwrap_or(u32::MAX);
            *size = (*size).max(enough);
        }
    }
    (wanted.check().is_ok() && wanted.bytes() * WORTHWHILE < present.bytes()).then_some(wanted)
}

fn keys(program: &Program, table: TableId) -> impl Iterator<Item = &Key> {
    program.table(table).entries.keys()
}

fn entries(program: &Program, table: TableId) -> impl Iterator<Item = &Entry> {
    program.table(table).entries.values()
}

fn rows(program: &Program) -> impl Iterator<Item = RowId> {
    let answers =
        [TableId::Base, TableId::Row].into_iter().flat_map(|table| entries(program, table));
    answers.filter_map(|entry| Answer::of(Some(entry)).row())
}

fn count(program: &Program, table: TableId) -> u64 {
    program.table(table).entries.len() as u64
}

/// One more than the largest id; 1 where there is none, for id 0.
fn beyond(ids: impl Iterator<Item = u16>) -> u64 {
    ids.max().map_or(1, |id| u64::from(id) + 1)
}
