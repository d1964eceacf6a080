//! Ids for programs that do not come from one compiler: what means something else in the new program than in
//! the old one gets an id that neither uses.
//!
//! Only rows and sets are renamed. Classes and port classes need no names of their own: what a set answers
//! them with is compared wherever both programs can reach it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Exhausted,
    reach::{Free, Kind, Reach},
    view::Act,
};
use crate::{
    ActionId, Entry, Key, Match, Program, TableId,
    eval::under,
    schema::{Family, IdKind, base_key},
};

type Names = BTreeMap<u16, u16>;

/// `new` under ids that mean the same as in `old`, where both can be reached.
pub(super) fn rename(old: &Program, new: &Program, reach: (&Reach, &Reach)) -> Result<Program, Exhausted> {
    let rows = names(Kind::Row, old, new, clashing_rows(old, new, reach))?;
    let sets = names(Kind::Set, old, new, clashing_sets(old, new, reach, &rows))?;
    let mut renamed = new.clone();
    if rows.is_empty() && sets.is_empty() {
        return Ok(renamed);
    }
    let id = |names: &Names, id: u64| names.get(&(id as u16)).map_or(id, |n| u64::from(*n));
    let first = |names: &Names, key: &Key| {
        let rest = key.fields()[1..].iter().copied();
        Key::new([Match::exact(id(names, key.value(0).low()))].into_iter().chain(rest))
    };
    let row = |entry: &Entry| {
        let mut entry = entry.clone();
        if entry.action == ActionId::SetRow {
            entry.params[0] = id(&rows, entry.params[0]);
        }
        entry
    };
    let mut rebuild = |table: TableId, f: &dyn Fn(&Key, &Entry) -> (Key, Entry)| {
        let entries = &mut renamed.table_mut(table).entries;
        *entries = std::mem::take(entries).iter().map(|(k, e)| f(k, e)).collect();
    };
    rebuild(TableId::Endpoint, &|k, e| {
        let mut e = e.clone();
        e.params[..2].iter_mut().for_each(|set| *set = id(&sets, *set));
        (k.clone(), e)
    });
    rebuild(TableId::Base, &|k, e| (first(&sets, k), row(e)));
    rebuild(TableId::Row, &|k, e| (first(&sets, k), row(e)));
    rebuild(TableId::Verdict, &|k, e| (first(&rows, k), e.clone()));
    rebuild(TableId::Directory, &|k, e| {
        let set = k.value(0).low() == IdKind::Set as u64;
        let key = Key::new([k.fields()[0], Match::exact(id(&sets, k.value(1).low()))]);
        (if set { key } else { k.clone() }, e.clone())
    });
    Ok(renamed)
}

fn names(kind: Kind, old: &Program, new: &Program, clashing: BTreeSet<u16>) -> Result<Names, Exhausted> {
    if clashing.is_empty() {
        return Ok(Names::new());
    }
    let mut free = Free::among(kind, &[old, new]);
    clashing.into_iter().map(|id| Ok((id, free.get()?))).collect()
}

/// Rows in both that some port or some common port class tells apart.
fn clashing_rows(old: &Program, new: &Program, (before, after): (&Reach, &Reach)) -> BTreeSet<u16> {
    let pairs = pairs(old, new);
    let common: BTreeSet<u16> = &before.port_classes & &after.port_classes;
    let permitted = |program: &Program, row: u16| -> BTreeSet<u16> {
        under(program.table(TableId::Verdict), row.into()).map(|(k, _)| k.value(1).low() as u16).collect()
    };
    let differs = |row: &u16| {
        let (a, b) = (permitted(old, *row), permitted(new, *row));
        let by_class = a.symmetric_difference(&b).any(|pc| common.contains(pc));
        by_class || pairs.iter().any(|(po, pn)| a.contains(po) != b.contains(pn))
    };
    before.rows.intersection(&after.rows).copied().filter(differs).collect()
}

/// (port class before, port class after) of all ports whose class changes.
fn pairs(old: &Program, new: &Program) -> BTreeSet<(u16, u16)> {
    let bounds = |program: &Program| -> BTreeMap<(u8, u32), (u32, u16)> {
        let entries = program.table(TableId::Port).entries.iter();
        let interval = |(key, entry): (&Key, &Entry)| match key.fields()[1] {
            Match::Range { low, high } => Some(((key.value(0).low() as u8, low), (high, entry.params[0] as u16))),
            _ => None,
        };
        entries.filter_map(interval).collect()
    };
    let (old, new) = (bounds(old), bounds(new));
    let at = |map: &BTreeMap<(u8, u32), (u32, u16)>, (protocol, port): (u8, u32)| {
        let found = map.range((protocol, 0)..=(protocol, port)).next_back();
        found.filter(|(_, (high, _))| *high >= port).map_or(0, |(_, (_, pc))| *pc)
    };
    let ends = |(&(protocol, low), &(high, _)): (&(u8, u32), &(u32, u16))| {
        [(protocol, 0), (protocol, low), (protocol, high.saturating_add(1))]
    };
    let starts: BTreeSet<(u8, u32)> = old.iter().chain(&new).flat_map(ends).filter(|(_, p)| *p <= 0xffff).collect();
    starts.into_iter().map(|s| (at(&old, s), at(&new, s))).filter(|(a, b)| a != b).collect()
}

/// Sets in both whose bases differ, or whose answers to a class that both can reach.
fn clashing_sets(old: &Program, new: &Program, (before, after): (&Reach, &Reach), rows: &Names) -> BTreeSet<u16> {
    let common = [0, 1].map(|f| &before.classes[f] & &after.classes[f]);
    let same = |a: Act, b: Act| a == b && !matches!(b, Act::Row(row) if rows.contains_key(&row));
    let differs = |set: &u16| {
        let base = |program: &Program, f: Family| Act::of(program.get(TableId::Base, &base_key(*set, f)));
        let answers = |program: &Program| -> BTreeMap<(u64, u16), Act> {
            let rows = under(program.table(TableId::Row), (*set).into());
            let rows = rows.map(|(k, e)| ((k.value(1).low(), k.value(2).low() as u16), Act::of(Some(e))));
            rows.filter(|((f, class), _)| common[usize::from(*f != 4)].contains(class)).collect()
        };
        if Family::BOTH.into_iter().any(|f| !same(base(old, f), base(new, f))) {
            return true;
        }
        let (a, b) = (answers(old), answers(new));
        a.keys().chain(b.keys()).any(|key| {
            let family = if key.0 == 4 { Family::V4 } else { Family::V6 };
            let act = |map: &BTreeMap<(u64, u16), Act>, p| map.get(key).copied().unwrap_or_else(|| base(p, family));
            !same(act(&a, old), act(&b, new))
        })
    };
    before.sets.intersection(&after.sets).copied().filter(differs).collect()
}
