//! Ids for programs that do not come from one compiler: what means something else in the new
//! program than in the old one gets an id that neither uses.
//!
//! Afterwards the condition of [`super::order`] holds: an id that lookups can meet in both programs
//! means the same in both. Only rows and sets are renamed. A class or port class may change its
//! meaning: where two programs differ in what they answer for one that both can reach, the row or
//! the set that answers gets another id, and the leaves and intervals are changed as flips.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Exhausted,
    reach::{Free, Kind, Reach},
};
use crate::{
    Class, Entry, Key, PortClassId, Program, RowId, SetId, TableId,
    eval::under,
    schema::{
        Answer, BaseKey, DirectoryKey, Family, Named, PortKey, RowKey, SetPortClass, TriedKey,
        VerdictKey, Word, base_key, directory_key, row_key, tried_key, verdict_key,
    },
};

/// The new id of each renamed one; all others stay.
type Names<I> = BTreeMap<I, I>;

/// `new` with those rows and sets renamed that mean something else in `old`. Rows come first, since
/// whether a set means the same depends on the rows that it answers with.
pub(super) fn rename(
    old: &Program,
    new: &Program,
    reach: (&Reach, &Reach),
) -> Result<Program, Exhausted> {
    let rows = names(old, new, clashing_rows(old, new, reach))?;
    let sets = names(old, new, clashing_sets(old, new, reach, &rows))?;
    let mut renamed = new.clone();
    if rows.is_empty() && sets.is_empty() {
        return Ok(renamed);
    }
    let set = |id: SetId| sets.get(&id).copied().unwrap_or(id);
    let row = |id: RowId| rows.get(&id).copied().unwrap_or(id);
    let answer = |entry: &Entry| match Answer::of(Some(entry)) {
        Answer::Row(id) => Answer::Row(row(id)).entry().with(entry.origins.clone()),
        Answer::Permit | Answer::Deny => entry.clone(),
    };
    let mut rebuild = |table: TableId, f: &dyn Fn(&Key, &Entry) -> (Key, Entry)| {
        let entries = &mut renamed.table_mut(table).entries;
        *entries = std::mem::take(entries).iter().map(|(k, e)| f(k, e)).collect();
    };
    rebuild(TableId::Endpoint, &|k, e| {
        let word = Word::of(e);
        let [ingress_set, egress_set, born_set] = word.sets().map(set);
        let word = Word { ingress_set, egress_set, born_set, ..word };
        (k.clone(), word.entry().with(e.origins.clone()))
    });
    rebuild(TableId::Base, &|k, e| {
        let base = BaseKey::of(k);
        (base_key(set(base.set), base.family), answer(e))
    });
    rebuild(TableId::Row, &|k, e| {
        let key = RowKey::of(k);
        (row_key(set(key.set), key.class), answer(e))
    });
    rebuild(TableId::Verdict, &|k, e| {
        let verdict = VerdictKey::of(k);
        (verdict_key(row(verdict.row), verdict.port_class), e.clone())
    });
    rebuild(TableId::Tried, &|k, e| {
        let tried = TriedKey::of(k);
        (tried_key(row(tried.row), tried.port_class), e.clone())
    });
    rebuild(TableId::Directory, &|k, e| match DirectoryKey::of(k).named {
        Named::Set(id) => (directory_key(Named::Set(set(id))), e.clone()),
        _ => (k.clone(), e.clone()),
    });
    Ok(renamed)
}

fn names<I: Kind>(
    old: &Program,
    new: &Program,
    clashing: BTreeSet<I>,
) -> Result<Names<I>, Exhausted> {
    if clashing.is_empty() {
        return Ok(Names::new());
    }
    let mut free = Free::among(&[old, new]);
    clashing.into_iter().map(|id| Ok((id, free.get()?))).collect()
}

/// The rows in use in both programs that differ: in their verdict on some port, each by its own
/// port classes, or on a port class that both have, which a lookup may have read before the update.
fn clashing_rows(
    old: &Program,
    new: &Program,
    (before, after): (&Reach, &Reach),
) -> BTreeSet<RowId> {
    let pairs = pairs(old, new);
    let common: BTreeSet<PortClassId> = &before.port_classes & &after.port_classes;
    let permitted = |program: &Program, row: RowId| -> BTreeSet<PortClassId> {
        under(program.table(TableId::Verdict), row)
            .map(|(k, _)| VerdictKey::of(k).port_class)
            .collect()
    };
    let differs = |row: &RowId| {
        let (a, b) = (permitted(old, *row), permitted(new, *row));
        let by_class = a.symmetric_difference(&b).any(|pc| common.contains(pc));
        by_class || pairs.iter().any(|(po, pn)| a.contains(po) != b.contains(pn))
    };
    before.rows.intersection(&after.rows).copied().filter(differs).collect()
}

/// Port intervals: from protocol and first port to last port and class.
type Intervals = BTreeMap<(u8, u32), (u32, PortClassId)>;

/// The pairs (port class before, port class after) of all ports whose class changes.
fn pairs(old: &Program, new: &Program) -> BTreeSet<(PortClassId, PortClassId)> {
    let bounds = |program: &Program| -> Intervals {
        let entries = program.table(TableId::Port).entries.iter();
        let interval = |(key, entry): (&Key, &Entry)| {
            let PortKey { protocol, port } = PortKey::of(key);
            ((protocol, port.low), (port.high, SetPortClass::of(entry).port_class))
        };
        entries.map(interval).collect()
    };
    let (old, new) = (bounds(old), bounds(new));
    let at = |map: &Intervals, (protocol, port): (u8, u32)| {
        let found = map.range((protocol, 0)..=(protocol, port)).next_back();
        found
            .filter(|(_, (high, _))| *high >= port)
            .map_or(PortClassId::default(), |(_, (_, pc))| *pc)
    };
    let ends = |(&(protocol, low), &(high, _)): (&(u8, u32), &(u32, PortClassId))| {
        [(protocol, 0), (protocol, low), (protocol, high.saturating_add(1))]
    };
    let starts: BTreeSet<(u8, u32)> =
        old.iter().chain(&new).flat_map(ends).filter(|(_, p)| *p <= 0xffff).collect();
    starts.into_iter().map(|s| (at(&old, s), at(&new, s))).filter(|(a, b)| a != b).collect()
}

/// The sets in use in both programs that differ: in a base, or in the answer to a class that both
/// can reach. An answer that names a renamed row differs, too.
fn clashing_sets(
    old: &Program,
    new: &Program,
    (before, after): (&Reach, &Reach),
    rows: &Names<RowId>,
) -> BTreeSet<SetId> {
    let common = &before.classes & &after.classes;
    let same = |a: Answer, b: Answer| a == b && b.row().is_none_or(|row| !rows.contains_key(&row));
    let differs = |set: &SetId| {
        let base = |program: &Program, f: Family| {
            Answer::of(program.get(TableId::Base, &base_key(*set, f)))
        };
        let answers = |program: &Program| -> BTreeMap<Class, Answer> {
            let rows = under(program.table(TableId::Row), *set);
            let rows = rows.map(|(k, e)| (RowKey::of(k).class, Answer::of(Some(e))));
            rows.filter(|(class, _)| common.contains(class)).collect()
        };
        if Family::BOTH.into_iter().any(|f| !same(base(old, f), base(new, f))) {
            return true;
        }
        let (a, b) = (answers(old), answers(new));
        a.keys().chain(b.keys()).any(|class| {
            let of = |map: &BTreeMap<Class, Answer>, program| {
                map.get(class).copied().unwrap_or_else(|| base(program, class.family()))
            };
            !same(of(&a, old), of(&b, new))
        })
    };
    before.sets.intersection(&after.sets).copied().filter(differs).collect()
}
