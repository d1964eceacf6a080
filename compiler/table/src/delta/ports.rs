//! Port intervals: which port classes merge or split, and when.
//!
//! The invariant: no question's answer changes with a port interval. A row's verdict on a port is
//! looked up under the port's class, so while the port moves from class `before` to class `after`,
//! each row that a lookup may hold must have the same verdict under both:
//!
//! - A row that lives on has, since ids keep their meaning and it means the same ports.
//! - A *dying* row, which only the old program uses, has verdicts for old classes. It may be read
//!   until the grace period behind the switch is over.
//! - A *born* row, which only the new program uses, has verdicts for new classes. It may be read
//!   from the first switch on.
//!
//! So a port moves *early*, in refine, if dying rows find at `after` what they found at `before`;
//! no born row is read yet. Or it moves *late*, in merge, if born rows find at `before` what they
//! shall find at `after`; no dying row is read any more. A class that only one of the programs uses
//! can be made to fit, by verdicts that hold during the update (`early`, `late`). Where neither
//! works, the port has a class of its own in between, with the verdicts of both sides.

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

/// A stretch of ports that lies in one interval before and in one after: from `low` to `high`, both
/// inclusive.
pub(super) struct Region<'a> {
    low: u32,
    high: u32,
    pub(super) before: PortClassId,
    pub(super) after: PortClassId,
    old: Option<(&'a Key, &'a Entry)>,
    new: Option<(&'a Key, &'a Entry)>,
}

/// All regions of a protocol, in ascending order. They cover every port: where no interval holds
/// one, its class is 0.
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
    let class =
        |hit: Option<(&Key, &Entry)>| hit.map_or(PortClassId::default(), |(_, e)| class_of(e));
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

/// The writes of the port table, and what must hold between them.
#[derive(Default)]
pub(super) struct Ports {
    /// Writes of the refine phase, which follow the entries that they need.
    pub(super) early: Vec<Write>,
    /// Writes of the merge phase.
    pub(super) late: Vec<Write>,
    /// Verdict entries that hold from refine to remove; None is the absence of one.
    pub(super) extras: BTreeMap<Key, Option<Entry>>,
}

/// For each port class the rows that permit it.
type Columns = BTreeMap<PortClassId, BTreeSet<RowId>>;

struct Planner<'v, 'a> {
    view: &'v View<'a>,
    /// Rows that may be dying, with what they permit before, and rows that may be born, with what
    /// they permit after.
    dying: (BTreeSet<RowId>, Columns),
    born: (BTreeSet<RowId>, Columns),
    /// The port classes in use before, and those in use after.
    used: [BTreeSet<PortClassId>; 2],
    /// For a new port class, the old one whose verdicts dying rows find there as well; for an old
    /// one, the new one whose verdicts born rows find there as well.
    early: BTreeMap<PortClassId, PortClassId>,
    late: BTreeMap<PortClassId, PortClassId>,
    /// Decisions so far: the class between refine and merge, by the classes before and after.
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

/// Rows that may be dying, and rows that may be born. Without [`Reach`](super::reach::Reach) these
/// are all rows whose verdicts change; a row that lives on does no harm among them, since its
/// verdicts do not differ between the class before and the class after.
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
    fn target(
        &mut self,
        before: PortClassId,
        after: PortClassId,
    ) -> Result<PortClassId, Exhausted> {
        if before == after {
            return Ok(after);
        }
        if let Some(&known) = self.targets.get(&(before, after)) {
            return Ok(known);
        }
        let empty = BTreeSet::new();
        let at = |columns: &Columns, pc: PortClassId| columns.get(&pc).unwrap_or(&empty).clone();
        let (dying, born) = (&self.dying.1, &self.born.1);
        // The class whose old verdicts dying rows find at `after`: itself where it is in use
        // already, else the one that it was made to repeat. None: nothing was decided, and it can
        // be made to repeat `before`.
        let stand_in = if self.used[0].contains(&after) {
            Some(after)
        } else {
            self.early.get(&after).copied()
        };
        let early = stand_in.is_none_or(|pc| at(dying, pc) == at(dying, before));
        // The mirror image: the class whose new verdicts born rows find at `before`.
        let stand_in = if self.used[1].contains(&before) {
            Some(before)
        } else {
            self.late.get(&before).copied()
        };
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

    /// Makes a class for ports that can move neither early nor late: dying rows have their verdicts
    /// on `before` there, all others those on `after`.
    fn through(
        &mut self,
        before: PortClassId,
        after: PortClassId,
    ) -> Result<PortClassId, Exhausted> {
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

    /// Plans the intervals of one protocol: from the old ones to those in between, and on to the
    /// new.
    fn protocol(&mut self, protocol: u8) -> Result<(), Exhausted> {
        let regions = regions(self.view, protocol);
        let targets: Vec<PortClassId> = regions
            .iter()
            .map(|r| self.target(r.before, r.after))
            .collect::<Result<_, Exhausted>>()?;
        let old: BTreeMap<Key, Entry> = owned(self.view.intervals(When::Old, protocol));
        let new: BTreeMap<Key, Entry> = owned(self.view.intervals(When::New, protocol));
        let middle = middle(protocol, &regions, &targets);
        self.out.early.extend(step(&old, &middle));
        self.out.late.extend(step(&middle, &new));
        Ok(())
    }

    /// Makes classes repeat what `early` and `late` say: writes the verdicts of dying rows at new
    /// classes, and of born rows at old ones, where the programs do not have them anyway.
    fn define(&mut self) {
        let sides = [(&self.early, &self.dying), (&self.late, &self.born)];
        for (stand_ins, (rows, columns)) in sides {
            for (&class, source) in stand_ins {
                for &row in rows {
                    let wanted = columns.get(source).is_some_and(|at| at.contains(&row));
                    let key = verdict_key(row, class);
                    let before = self.view.get(When::Old, TableId::Verdict, &key).is_some();
                    let after = self.view.get(When::New, TableId::Verdict, &key).is_some();
                    // Refine writes a new verdict before any port has its class.
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

/// The intervals between refine and merge. Where a whole new or old interval has one class in
/// between, and it is its own, that interval is taken as it is, so that it is written once at most.
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
            let fits =
                low == region.low && targets[i..i + count].iter().all(|t| *t == class_of(entry));
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

/// The write that leads from one set of intervals to another. It is one, since a port must never be
/// without an interval.
fn step(from: &BTreeMap<Key, Entry>, to: &BTreeMap<Key, Entry>) -> Option<Write> {
    let remove: Vec<Key> = from.keys().filter(|k| !to.contains_key(*k)).cloned().collect();
    let put: Vec<_> = to
        .iter()
        .filter(|(k, e)| from.get(*k) != Some(e))
        .map(|(k, e)| (k.clone(), e.clone()))
        .collect();
    (!remove.is_empty() || !put.is_empty()).then_some(Write { table: TableId::Port, remove, put })
}
