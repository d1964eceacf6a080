//! The tables `base`, `row`, `verdict` and `tried`: cells of `rows_v4` and `rows_v6`, and bits of
//! `mask`.
//!
//! Every cell of a set holds a row: the one from the table `row`, or else the set's `base`. A
//! packet reads one cell and one bit, each of which is stored at once. The ledger holds `base`
//! itself, and a bit for each cell that has an entry in `row`. A `base` is recorded before its
//! cells change; a cell changes before its bit is set and after it is cleared. Therefore [`open`]
//! can always complete what a killed process began, by storing `base` into every cell without a
//! bit. For `verdict` there is no ledger. Not here: which rows there are (the compiler).

use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use netpolc_table::{
    ActionId, Class, Entry, Key, PortClassId, Program, RowId, SetId, TableId,
    schema::{
        Answer, BaseKey, Family, RowKey, TriedKey, VerdictKey, base_key, family_number, plain,
        row_key, tried_key, verdict_key,
    },
};
use netpolc_target::Error;

use super::{Room, Stop, below, bit, invalid, no_action, ports, set_bit, with_action};
use crate::{
    layout::{MapId, ROW_DENY, ROW_PERMIT, compared_key},
    ledger::{LedgerId, PRESENT},
    maps::Maps,
    memory::map_error,
    sys::refused,
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
/// Every id that a set can have with these capacities. Set 0, which stands for none, has cells too.
fn sets(maps: &Maps) -> impl Iterator<Item = SetId> {
    (0..maps.capacities.sets).map(|set| SetId::new(set as u16))
}
fn base(maps: &Maps, set: SetId, family: Family) -> &AtomicU32 {
    &maps.ledger::<AtomicU32>(LedgerId::Base)
        [usize::from(set.get()) * 2 + usize::from(family == Family::V6)]
}

/// Completes what a killed process began.
pub fn open(maps: &Maps) {
    for family in Family::BOTH {
        let (classes, cells, own) =
            (classes(maps, family) as usize, cells(maps, family), own(maps, family));
        for set in sets(maps) {
            let row = base(maps, set, family).load(Acquire) as u16;
            let from = usize::from(set.get()) * classes;
            for (i, cell) in cells[from..from + classes].iter().enumerate() {
                if cell.load(Relaxed) != row && !bit(own, from + i) {
                    cell.store(row, Relaxed);
                }
            }
        }
    }
}

fn check_family(table: TableId, key: &Key) -> Result<(), Stop> {
    match family_number(table, key) {
        Some(4 | 6) => Ok(()),
        other => {
            Err(invalid(table, format!("family {} is neither 4 nor 6", other.unwrap_or_default())))
        }
    }
}

fn check_set(maps: &Maps, table: TableId, set: SetId) -> Result<SetId, Stop> {
    match below(table, Room::Sets, set, maps.capacities.sets)? {
        set if set == SetId::default() => Err(invalid(table, "set 0 stands for none".into())),
        set => Ok(set),
    }
}

fn check_class(maps: &Maps, class: Class) -> Result<Class, Stop> {
    let limit = classes(maps, class.family());
    match class {
        Class::V4(id) => below(TableId::Row, Room::ClassesV4, id, limit).map(Class::V4),
        Class::V6(id) => below(TableId::Row, Room::ClassesV6, id, limit).map(Class::V6),
    }
}

fn check_row_id(maps: &Maps, table: TableId, row: RowId) -> Result<RowId, Stop> {
    match row {
        row if row == RowId::default() => Err(invalid(table, "row 0 stands for deny".into())),
        row => below(table, Room::Rows, row, maps.capacities.rows.min(ROW_PERMIT.into())),
    }
}

/// The number that a cell holds for an entry: that of a row, or one of the two that stand for
/// permitting or denying everything.
fn encode(maps: &Maps, table: TableId, entry: &Entry) -> Result<u16, Stop> {
    match (Answer::of(Some(entry)), entry.action) {
        (Answer::Permit, _) => Ok(ROW_PERMIT),
        (Answer::Row(row), _) => Ok(check_row_id(maps, table, row)?.get()),
        (Answer::Deny, ActionId::Deny) => Ok(ROW_DENY),
        (Answer::Deny, other) => Err(no_action(table, other)),
    }
}

fn decode(cell: u16) -> Entry {
    let answer = match cell {
        ROW_PERMIT => Answer::Permit,
        ROW_DENY => Answer::Deny,
        row => Answer::Row(RowId::new(row)),
    };
    answer.entry()
}

/// A checked change of `base`: the set, the family, and the cell; None where the entry is removed.
pub type BaseChange = (SetId, Family, Option<u16>);
/// A checked change of `row`: the set, the class, and the cell; None where the entry is removed.
pub type RowChange = (SetId, Class, Option<u16>);
/// A checked change of `verdict`: the row, the port class, and whether it is permitted.
pub type VerdictChange = (RowId, PortClassId, bool);

/// Checks a change of `base`.
pub fn check_base(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<BaseChange, Stop> {
    check_family(TableId::Base, key)?;
    let BaseKey { set, family } = BaseKey::of(key);
    let cell = entry.map(|e| encode(maps, TableId::Base, e)).transpose()?;
    Ok((check_set(maps, TableId::Base, set)?, family, cell))
}

/// Checks a change of `row`.
pub fn check_row(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<RowChange, Stop> {
    check_family(TableId::Row, key)?;
    let RowKey { set, class } = RowKey::of(key);
    let cell = entry.map(|e| encode(maps, TableId::Row, e)).transpose()?;
    Ok((check_set(maps, TableId::Row, set)?, check_class(maps, class)?, cell))
}

/// Checks a change of `verdict`.
pub fn check_verdict(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<VerdictChange, Stop> {
    let VerdictKey { row, port_class } = VerdictKey::of(key);
    check_bit(maps, (TableId::Verdict, ActionId::Permit), (row, port_class), entry)
}

/// Checks a change of `tried`.
pub fn check_tried(maps: &Maps, key: &Key, entry: Option<&Entry>) -> Result<VerdictChange, Stop> {
    let TriedKey { row, port_class } = TriedKey::of(key);
    check_bit(maps, (TableId::Tried, ActionId::Differs), (row, port_class), entry)
}

/// Checks a change of a table that has one action, for a row and a port class.
fn check_bit(
    maps: &Maps,
    (table, action): (TableId, ActionId),
    (row, port_class): (RowId, PortClassId),
    entry: Option<&Entry>,
) -> Result<VerdictChange, Stop> {
    let row = check_row_id(maps, table, row)?;
    let port_class = ports::check_class(maps, table, port_class)?;
    Ok((row, port_class, with_action(table, action, entry)?.is_some()))
}

/// Changes a set's `base`, in all cells that have no entry in `row`.
pub fn write_base(maps: &Maps, (set, family, new): BaseChange) {
    base(maps, set, family).store(new.map_or(0, |cell| PRESENT | u32::from(cell)), Release);
    let (classes, own) = (classes(maps, family) as usize, own(maps, family));
    let from = usize::from(set.get()) * classes;
    for (i, cell) in cells(maps, family)[from..from + classes].iter().enumerate() {
        if !bit(own, from + i) {
            cell.store(new.unwrap_or(ROW_DENY), Relaxed);
        }
    }
}

/// Changes the cell of a set and class.
pub fn write_row(maps: &Maps, (set, class, new): RowChange) {
    let family = class.family();
    let i = usize::from(set.get()) * classes(maps, family) as usize + usize::from(class.get());
    let cell = &cells(maps, family)[i];
    match new {
        Some(new) => {
            cell.store(new, Release);
            set_bit(own(maps, family), i, true);
        }
        None => {
            set_bit(own(maps, family), i, false);
            cell.store(base(maps, set, family).load(Relaxed) as u16, Release);
        }
    }
}

/// Changes the bit of a row and port class.
pub fn write_verdict(maps: &Maps, (row, pc, permit): VerdictChange) {
    set_bit(maps.words(MapId::Mask), place(maps, row, pc), permit);
}

/// Changes the bit beside it. What was counted under an entry goes with it.
pub fn write_tried(maps: &Maps, (row, pc, differs): VerdictChange) -> Result<(), Error> {
    set_bit(maps.words(MapId::Mask), place(maps, row, pc) + 64, differs);
    if differs {
        return Ok(());
    }
    match maps.compared()?.remove(&compared_key(row, pc)) {
        Ok(()) => Ok(()),
        Err(e) => match map_error(e) {
            e if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            e => Err(refused("map compared: remove", e)),
        },
    }
}

/// The number of the bit of a row and port class.
fn place(maps: &Maps, row: RowId, pc: PortClassId) -> usize {
    let (row, pc) = (usize::from(row.get()), usize::from(pc.get()));
    (row * maps.capacities.port_words as usize + pc / 64) * 128 + pc % 64
}

/// Decodes the four tables.
pub fn read(maps: &Maps, into: &mut Program) -> Result<(), Error> {
    for family in Family::BOTH {
        let (classes, cells, own) =
            (classes(maps, family) as usize, cells(maps, family), own(maps, family));
        for set in sets(maps) {
            let word = base(maps, set, family).load(Acquire);
            if word & PRESENT != 0 {
                into.table_mut(TableId::Base)
                    .entries
                    .insert(base_key(set, family), decode(word as u16));
            }
            let from = usize::from(set.get()) * classes;
            for (class, cell) in cells[from..from + classes].iter().enumerate() {
                let row = cell.load(Acquire);
                if bit(own, from + class) {
                    let key = row_key(set, Class::new(family, class as u16));
                    into.table_mut(TableId::Row).entries.insert(key, decode(row));
                } else if row != word as u16 {
                    let what = format!(
                        "set {set}, class {class} holds row {row}, but the set's base is {}",
                        word as u16
                    );
                    return Err(Error::Installed(format!("table row: {what}")));
                }
            }
        }
    }
    let width = maps.capacities.port_words as usize;
    for (i, word) in maps.words::<AtomicU64>(MapId::Mask).iter().enumerate() {
        let mut bits = word.load(Acquire);
        while bits != 0 {
            let (pair, half) = (i / 2, i % 2);
            let pc = (pair % width) as u32 * 64 + bits.trailing_zeros();
            let (row, pc) = (RowId::new((pair / width) as u16), PortClassId::new(pc as u16));
            let (table, key, action) = match half {
                0 => (TableId::Verdict, verdict_key(row, pc), ActionId::Permit),
                _ => (TableId::Tried, tried_key(row, pc), ActionId::Differs),
            };
            into.table_mut(table).entries.insert(key, plain(action));
            bits &= bits - 1;
        }
    }
    Ok(())
}
