//! Port intervals: which port classes merge or split, and when.
//!
//! Port numbers mean the same before and after, so no answer may change with an interval: rows that live
//! before the update must keep their verdicts until no packet reads them, rows that live after it must have
//! theirs from the first switch on. Each interval moves from class `before` to class `after` early (the
//! dying rows do not mind), late (the born rows do not mind), or by way of a class made for that.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Exhausted,
    reach::Free,
    view::{View, When},
};
use crate::{
    ActionId, Entry, Key, PortClassId, RowId, TableId, Write,
    schema::{PortKey, SetPortClass, VerdictKey, plain, port_key, set_port_class, verdict_key},
};

/// A stretch of ports that lies in one interval before and one after.
pub(super) struct Region<'a> {
    low: u32,
    high: u32,
    pub(super) before: PortClassId,
    pub(super) after: PortClassId,
    old: Option<(&'a Key, &'a Entry)>,
    new: Option<(&'a Key, &'a Entry)>,
}

/// All regions of a protocol, in order.
pub(super) fn regions<'a>(view: &View<'a>, protocol: u8) -> Vec<Region<'a>> {
    let (old, new) = (view.intervals(When::Old, protocol), view.intervals(When::New, protocol));
    let mut starts = BTreeSet::from([0u32]);
    for (key, _) in old.iter().chain(&new) {
        let (low, high) = bounds(key);
        starts.extend([low, high.saturating_add(1)]);
    }
    starts.retain(|s| *s <= 0xffff);
    let starts: Vec<u32> = starts.into_iter().collect();
    let at = |list: &[(&'a Key, &'a Entry)], port: u32| {
        let i = list.partition_point(|(k, _)| bounds(k).0 <= port);
        list[..i].last().copied().filter(|(k, _)| bounds(k).1 >= port)
    };
    let class = |hit: Option<(&Key, &Entry)>| hit.map_or(PortClassId::default(), |(_, e)| class_of(e));
    (0..starts.len())
        .map(|i| {
            let (old, new) = (at(&old, starts[i]), at(&new, starts[i]));
            let high = starts.get(i + 1).map_or(0xffff, |next| next - 1);
            Region { low: starts[i], high, before: class(old), after: class(new), old, new }
        })
        .collect()
}

fn bounds(key: &Key) -> (u32, u32) {
    let range = PortKey::of(key).port;
    (range.low, range.high)
}

fn class_of(entry: &Entry) -> PortClassId {
    SetPortClass::of(entry).port_class
}

/// What the port table needs.
#[derive(Default)]
pub(super) struct Ports {
    /// In the refine phase, after the entries that they need.
    pub(super) early: Vec<Write>,
    /// In the merge phase.
    pub(super) late: Vec<Write>,
    /// Verdict entries (None: their absence) that hold from refine to remove.
    pub(super) extras: BTreeMap<Key, Option<Entry>>,
}

/// Rows permitted at each port class.
type Columns = BTreeMap<PortClassId, BTreeSet<RowId>>;

struct Planner<'v, 'a> {
    view: &'v View<'a>,
    /// Rows that may die, by what they permit before; rows that may be born, by what they permit after.
    dying: (BTreeSet<RowId>, Columns),
    born: (BTreeSet<RowId>, Columns),
    /// Port classes in use before and after.
    used: [BTreeSet<PortClassId>; 2],
    /// New port classes that repeat an old one for dying rows; old ones that repeat a new one for born rows.
    early: BTreeMap<PortClassId, PortClassId>,
    late: BTreeMap<PortClassId, PortClassId>,
    targets: BTreeMap<(PortClassId, PortClassId), PortClassId>,
    free: Option<Free<PortClassId>>,
    out: Ports,
}

/// Plans the port table.
pub(super) fn plan(view: &View<'_>) -> Result<Ports, Exhausted> {
    let protocols = view.protocols();
    if protocols.is_empty() {
        return Ok(Ports::default());
    }
    let (dying, born) = rows(view);
    let columns = |rows: BTreeSet<RowId>, when| {
        let mut columns = Columns::new();
        for &row in &rows {
            for pc in view.permitted(when, row) {
                columns.entry(pc).or_default().insert(row);
            }
        }
        (rows, columns)
    };
    let mut planner = Planner {
        view,
        dying: columns(dying, When::Old),
        born: columns(born, When::New),
        used: used(view),
        early: BTreeMap::new(),
        late: BTreeMap::new(),
        targets: BTreeMap::new(),
        free: None,
        out: Ports::default(),
    };
    for protocol in protocols {
        planner.protocol(protocol)?;
    }
    planner.define();
    Ok(planner.out)
}

/// Rows that may die, and rows that may be born. Rows that stay do no harm in either: their verdicts do
/// not differ between the class before and the class after.
fn rows(view: &View<'_>) -> (BTreeSet<RowId>, BTreeSet<RowId>) {
    if let Some((old, new)) = view.reach {
        return (&old.rows - &new.rows, &new.rows - &old.rows);
    }
    let (mut dying, mut born) = (BTreeSet::new(), BTreeSet::new());
    for (key, before, after) in view.changed(TableId::Verdict) {
        let VerdictKey { row, .. } = VerdictKey::of(key);
        match (before, after) {
            (Some(_), None) => dying.insert(row),
            (None, Some(_)) => born.insert(row),
            _ => false,
        };
    }
    (dying, born)
}

fn used(view: &View<'_>) -> [BTreeSet<PortClassId>; 2] {
    let changed: BTreeMap<_, _> = view.changed(TableId::Port).map(|(k, b, _)| (k, b)).collect();
    let none = [PortClassId::default()];
    let entries = &view.new.table(TableId::Port).entries;
    let kept = entries.iter().filter(|(k, _)| !changed.contains_key(k)).map(|(_, e)| class_of(e));
    let old = kept.chain(changed.values().filter_map(|b| b.map(class_of))).chain(none).collect();
    [old, entries.values().map(class_of).chain(none).collect()]
}

impl Planner<'_, '_> {
    /// The class of a region between refine and merge.
    fn target(&mut self, before: PortClassId, after: PortClassId) -> Result<PortClassId, Exhausted> {
        if before == after {
            return Ok(after);
        }
        if let Some(&known) = self.targets.get(&(before, after)) {
            return Ok(known);
        }
        let empty = BTreeSet::new();
        let at = |columns: &Columns, pc: PortClassId| columns.get(&pc).unwrap_or(&empty).clone();
        let (dying, born) = (&self.dying.1, &self.born.1);
        // The old class whose verdicts dying rows would find at `after`, and so on.
        let stand_in = if self.used[0].contains(&after) { Some(after) } else { self.early.get(&after).copied() };
        let early = stand_in.is_none_or(|pc| at(dying, pc) == at(dying, before));
        let stand_in = if self.used[1].contains(&before) { Some(before) } else { self.late.get(&before).copied() };
        let late = stand_in.is_none_or(|pc| at(born, pc) == at(born, after));
        let target = if early {
            if !self.used[0].contains(&after) {
                self.early.entry(after).or_insert(before);
            }
            after
        } else if late {
            if !self.used[1].contains(&before) {
                self.late.entry(before).or_insert(after);
            }
            before
        } else {
            self.through(before, after)?
        };
        self.targets.insert((before, after), target);
        Ok(target)
    }

    /// A class of its own: what dies sees `before`, all else `after`.
    fn through(&mut self, before: PortClassId, after: PortClassId) -> Result<PortClassId, Exhausted> {
        let view = self.view;
        let free = self.free.get_or_insert_with(|| Free::new(view.new, view.changes));
        let class = free.get()?;
        let verdicts = view.new.table(TableId::Verdict).entries.keys().map(VerdictKey::of);
        let lasting = verdicts.filter(|k| k.port_class == after).map(|k| k.row);
        let rows = lasting.filter(|r| !self.dying.0.contains(r));
        for row in rows.chain(self.dying.1.get(&before).into_iter().flatten().copied()) {
            self.out.extras.insert(verdict_key(row, class), Some(plain(ActionId::Permit)));
        }
        Ok(class)
    }

    fn protocol(&mut self, protocol: u8) -> Result<(), Exhausted> {
        let regions = regions(self.view, protocol);
        let targets: Vec<PortClassId> =
            regions.iter().map(|r| self.target(r.before, r.after)).collect::<Result<_, Exhausted>>()?;
        let old: BTreeMap<Key, Entry> = owned(self.view.intervals(When::Old, protocol));
        let new: BTreeMap<Key, Entry> = owned(self.view.intervals(When::New, protocol));
        let middle = middle(protocol, &regions, &targets);
        self.out.early.extend(step(&old, &middle));
        self.out.late.extend(step(&middle, &new));
        Ok(())
    }

    /// The verdicts of dying rows at new classes, of born rows at old ones.
    fn define(&mut self) {
        let sides = [(&self.early, &self.dying), (&self.late, &self.born)];
        for (stand_ins, (rows, columns)) in sides {
            for (&class, source) in stand_ins {
                for &row in rows {
                    let wanted = columns.get(source).is_some_and(|at| at.contains(&row));
                    let key = verdict_key(row, class);
                    let before = self.view.get(When::Old, TableId::Verdict, &key).is_some();
                    let after = self.view.get(When::New, TableId::Verdict, &key).is_some();
                    let comes_anyway = !before && after;
                    if (before, after) != (wanted, wanted) && !(comes_anyway && wanted) {
                        self.out.extras.insert(key, wanted.then(|| plain(ActionId::Permit)));
                    }
                }
            }
        }
    }
}

fn owned(list: Vec<(&Key, &Entry)>) -> BTreeMap<Key, Entry> {
    list.into_iter().map(|(k, e)| (k.clone(), e.clone())).collect()
}

/// The intervals between refine and merge: those of after or of before where whole ones fit.
fn middle(protocol: u8, regions: &[Region<'_>], targets: &[PortClassId]) -> BTreeMap<Key, Entry> {
    let mut out = BTreeMap::new();
    let none = regions.iter().all(|r| r.old.is_none()) || regions.iter().all(|r| r.new.is_none());
    if none && targets.iter().all(|t| *t == PortClassId::default()) {
        return out;
    }
    let mut i = 0;
    while i < regions.len() {
        let region = &regions[i];
        let whole = |hit: Option<(&Key, &Entry)>| {
            let (key, entry) = hit?;
            let (low, high) = bounds(key);
            let count = regions[i..].iter().take_while(|r| r.high <= high).count();
            let fits = low == region.low && targets[i..i + count].iter().all(|t| *t == class_of(entry));
            fits.then(|| (count, key.clone(), entry.clone()))
        };
        if let Some((count, key, entry)) = whole(region.new).or_else(|| whole(region.old)) {
            out.insert(key, entry);
            i += count;
            continue;
        }
        let key = port_key(protocol, region.low as u16, region.high as u16);
        out.insert(key, set_port_class(targets[i]));
        i += 1;
    }
    out
}

/// One write from one set of intervals to another.
fn step(from: &BTreeMap<Key, Entry>, to: &BTreeMap<Key, Entry>) -> Option<Write> {
    let remove: Vec<Key> = from.keys().filter(|k| !to.contains_key(*k)).cloned().collect();
    let put: Vec<_> = to.iter().filter(|(k, e)| from.get(*k) != Some(e)).map(|(k, e)| (k.clone(), e.clone())).collect();
    (!remove.is_empty() || !put.is_empty()).then_some(Write { table: TableId::Port, remove, put })
}
