//! `base`, `row` and `verdict`: cells of `rows_v4` and `rows_v6`, bits of `mask`.
//!
//! Every cell of a set holds its row: the one from `row`, else the set's `base`. A packet reads one cell and one bit, each
//! stored at once. Ledger: `base` itself, and a bit for each cell that has an entry in `row`. Order: a `base` is
//! recorded before its cells change; a cell changes before its bit is set and after it is cleared. So [`open`]
//! can always finish what a killed process began, by storing `base` into every cell without a bit.
//! `verdict` is its own record.

use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use netpolc_table::{
    ActionId, Entry, Key, Program, TableId,
    schema::{self, Family, base_key, row_key, verdict_key},
};
use netpolc_target::Error;

use super::{Room, Stop, bit, invalid, number, set_bit};
use crate::{
    layout::{MapId, ROW_DENY, ROW_PERMIT},
    ledger::{LedgerId, PRESENT},
    maps::Maps,
};

fn classes(maps: &Maps, family: Family) -> u32 {
    if family == Family::V4 { maps.capacities.classes_v4 } else { maps.capacities.classes_v6 }
}
fn cells(maps: &Maps, family: Family) -> &[AtomicU16] {
    maps.words(if family == Family::V4 { MapId::RowsV4 } else { MapId::RowsV6 })
}
fn own(maps: &Maps, family: Family) -> &[AtomicU64] {
    maps.ledger(if family == Family::V4 { LedgerId::CellV4 } else { LedgerId::CellV6 })
}
fn base(maps: &Maps, set: u32, family: Family) -> &AtomicU32 {
    &maps.ledger::<AtomicU32>(LedgerId::Base)[set as usize * 2 + usize::from(family == Family::V6)]
}

/// Finishes what a killed process began.
pub fn open(maps: &Maps) {
    for family in Family::BOTH {
        let (classes, cells, own) = (classes(maps, family) as usize, cells(maps, family), own(maps, family));
        for set in 0..maps.capacities.sets {
            let row = base(maps, set, family).load(Acquire) as u16;
            let from = set as usize * classes;
            for (i, cell) in cells[from..from + classes].iter().enumerate() {
                if cell.load(Relaxed) != row && !bit(own, from + i) {
                    cell.store(row, Relaxed);
                }
            }
        }
    }
}

fn family(table: TableId, key: &Key) -> Result<Family, Stop> {
    match key.value(1).get() {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        other => Err(invalid(table, format!("family {other} is neither 4 nor 6"))),
    }
}

fn set(maps: &Maps, table: TableId, key: &Key) -> Result<u32, Stop> {
    match number(table, Room::Sets, key.value(0), maps.capacities.sets)? {
        0 => Err(invalid(table, "set 0 stands for none".into())),
        set => Ok(set),
    }
}

fn class(maps: &Maps, family: Family, key: &Key) -> Result<u32, Stop> {
    let room = if family == Family::V4 { Room::ClassesV4 } else { Room::ClassesV6 };
    number(TableId::Row, room, key.value(2), classes(maps, family))
}

fn row_id(maps: &Maps, table: TableId, row: u64) -> Result<u16, Stop> {
    match row {
        0 => Err(invalid(table, "row 0 stands for deny".into())),
        _ => Ok(number(table, Room::Rows, row.into(), maps.capacities.rows.min(ROW_PERMIT.into()))? as u16),
    }
}

fn encode(maps: &Maps, table: TableId, entry: &Entry) -> Result<u16, Stop> {
    match entry.action {
        ActionId::Permit => Ok(ROW_PERMIT),
        ActionId::Deny => Ok(ROW_DENY),
        ActionId::SetRow => row_id(maps, table, entry.params[0]),
        other => Err(invalid(table, format!("no action {}", other.spec().name))),
    }
}

fn decode(row: u16) -> Entry {
    match row {
        ROW_PERMIT => schema::plain(ActionId::Permit),
        ROW_DENY => schema::plain(ActionId::Deny),
        row => schema::entry(ActionId::SetRow, row),
    }
}

/// A checked change of `base`: set, family, its row.
pub type BaseChange = (u32, Family, Option<u16>);
/// A checked change of `row`: set, family, class, its row.
pub type RowChange = (u32, Family, u32, Option<u16>);
/// A checked change of `verdict`: row, port class, permit.
pub type VerdictChange = (u32, u32, bool);

/// Checks a change of `base`.
pub fn check_base(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<BaseChange, Stop> {
    let family = family(TableId::Base, key)?;
    let row = entry.map(|e| encode(maps, TableId::Base, e)).transpose()?;
    Ok((set(maps, TableId::Base, key)?, family, row))
}

/// Checks a change of `row`.
pub fn check_row(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<RowChange, Stop> {
    let family = family(TableId::Row, key)?;
    let row = entry.map(|e| encode(maps, TableId::Row, e)).transpose()?;
    Ok((set(maps, TableId::Row, key)?, family, class(maps, family, key)?, row))
}

/// Checks a change of `verdict`.
pub fn check_verdict(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<VerdictChange, Stop> {
    let row = row_id(maps, TableId::Verdict, key.value(0).get().try_into().unwrap_or(u64::MAX))?;
    let pc = number(TableId::Verdict, Room::PortClasses, key.value(1), maps.capacities.port_words * 64)?;
    match entry.map(|e| e.action) {
        None | Some(ActionId::Permit) => Ok((row.into(), pc, entry.is_some())),
        Some(other) => Err(invalid(TableId::Verdict, format!("no action {}", other.spec().name))),
    }
}

/// Changes a set's `base`.
pub fn write_base(maps: &Maps, (set, family, row): BaseChange) {
    base(maps, set, family).store(row.map_or(0, |r| PRESENT | u32::from(r)), Release);
    let (classes, own) = (classes(maps, family) as usize, own(maps, family));
    let from = set as usize * classes;
    for (i, cell) in cells(maps, family)[from..from + classes].iter().enumerate() {
        if !bit(own, from + i) {
            cell.store(row.unwrap_or(ROW_DENY), Relaxed);
        }
    }
}

/// Changes one cell.
pub fn write_row(maps: &Maps, (set, family, class, row): RowChange) {
    let i = set as usize * classes(maps, family) as usize + class as usize;
    let cell = &cells(maps, family)[i];
    match row {
        Some(row) => {
            cell.store(row, Release);
            set_bit(own(maps, family), i, true);
        }
        None => {
            set_bit(own(maps, family), i, false);
            cell.store(base(maps, set, family).load(Relaxed) as u16, Release);
        }
    }
}

/// Changes one bit.
pub fn write_verdict(maps: &Maps, (row, pc, permit): VerdictChange) {
    let words = maps.words::<AtomicU64>(MapId::Mask);
    set_bit(words, row as usize * maps.capacities.port_words as usize * 64 + pc as usize, permit);
}

/// Decodes the three tables.
pub fn read(maps: &Maps, into: &mut Program) -> Result<(), Error> {
    for family in Family::BOTH {
        let (classes, cells, own) = (classes(maps, family) as usize, cells(maps, family), own(maps, family));
        for set in 0..maps.capacities.sets {
            let word = base(maps, set, family).load(Acquire);
            if word & PRESENT != 0 {
                into.table_mut(TableId::Base).entries.insert(base_key(set as u16, family), decode(word as u16));
            }
            let from = set as usize * classes;
            for (class, cell) in cells[from..from + classes].iter().enumerate() {
                let row = cell.load(Acquire);
                if bit(own, from + class) {
                    let key = row_key(set as u16, family, class as u16);
                    into.table_mut(TableId::Row).entries.insert(key, decode(row));
                } else if row != word as u16 {
                    let what = format!("set {set}, class {class}: row {row}, the set's base is {}", word as u16);
                    return Err(Error::Installed(format!("table row: {what}")));
                }
            }
        }
    }
    let width = maps.capacities.port_words as usize;
    for (i, word) in maps.words::<AtomicU64>(MapId::Mask).iter().enumerate() {
        let mut bits = word.load(Acquire);
        while bits != 0 {
            let pc = (i % width) as u32 * 64 + bits.trailing_zeros();
            let key = verdict_key((i / width) as u16, pc as u16);
            into.table_mut(TableId::Verdict).entries.insert(key, schema::plain(ActionId::Permit));
            bits &= bits - 1;
        }
    }
    Ok(())
}
