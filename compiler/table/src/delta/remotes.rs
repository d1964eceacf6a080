//! Remote prefixes: which addresses change class, and when, around the switch of endpoint words.
//!
//! A *flip* moves all addresses of one prefix, except those of longer ones, from class `before` to
//! class `after`. For an endpoint whose set stays, the flip is the switch of its questions about
//! these addresses: one write, from the old answer to the new one.
//!
//! An endpoint that moves from set `from` to set `to` depends on two writes, its word and the flip,
//! and sees a mixture between them. The invariant is that the mixture is *between* the two answers:
//! on each port it is the old answer (of `from` to `before`) or the new one (of `to` to `after`).
//! So each pair of classes moves in the first of these ways that works for all moves:
//!
//! - *Early*, before the words. The mixture is what `from` answers `after`. Where `after` is a new
//!   class, a dying set can be given the old answer for it.
//! - *Late*, after the words and a grace period. The mixture is what `to` answers `before`. Where
//!   `before` is a dying class, a born set can be given the new answer for it.
//! - *Through* a class made for the pair, early into it and late out of it. Sets that endpoints
//!   leave answer it as they answered `before`, all others as they answer `after`, so an old word
//!   finds the old answer and a new one the new. A set that is left by some and joined by others
//!   has only the old answers; if these are not between for one that joins, it uses a copy of the
//!   set until coarsen, and the copy has the new ones.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Exhausted,
    reach::Free,
    view::{View, When},
};
use crate::{
    Class, ClassId, Entry, Key, Phase, SetId, TableId, Write,
    eval::longest_in,
    id::{Ip, V4, V6},
    schema::{Answer, Family, RowKey, SetRemote, base_key, row_key},
};

/// Pairs of sets, the one that an endpoint leaves in one direction and the one that it joins when
/// its word switches. None is a direction that is not isolated.
pub(super) type Moves = BTreeSet<(Option<SetId>, Option<SetId>)>;

/// The writes of the remote tables, and what must hold between them.
#[derive(Default)]
pub(super) struct Remotes {
    /// Writes of the phases switch and coarsen, in order.
    pub(super) steps: Vec<(Phase, Write)>,
    /// Base and row entries that hold from refine to remove, by table.
    pub(super) extras: BTreeMap<(TableId, Key), Option<Entry>>,
    /// The copy of each set that endpoints join by way of one until coarsen.
    pub(super) copies: BTreeMap<SetId, SetId>,
    /// What the copy of a set, should it get one, answers the classes made for this update.
    shown: Vec<(SetId, Class, Answer)>,
}

/// One prefix whose leaf comes, goes or changes.
struct Flip<'a, F: Ip> {
    key: &'a Key,
    before: Option<&'a Entry>,
    after: Option<&'a Entry>,
    /// What holds for its addresses before and after, be it by a shorter prefix.
    old: SetRemote<F>,
    new: SetRemote<F>,
}

/// How a pair of classes moves; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode<F> {
    Early,
    Late,
    Through(ClassId<F>),
}

fn length(key: &Key) -> u8 {
    key.prefix().1
}

fn leaf<F: Ip>(entry: Option<&Entry>) -> SetRemote<F> {
    entry.map(SetRemote::of).unwrap_or_default()
}

/// Every flip early: no endpoint sees a mixture.
fn only_flips<F: Ip>(view: &View<'_>, out: &mut Remotes) {
    let table = TableId::remote(F::FAMILY);
    out.steps.extend(walk(table, Phase::Switch, view.changed(table)));
}

/// Plans the remote tables.
pub(super) fn plan(view: &View<'_>, moves: &Moves) -> Result<Remotes, Exhausted> {
    let mut out = Remotes::default();
    // An endpoint that was not isolated before finds `permit` for every class until its word
    // switches, which is its old answer: so early is right for it.
    let matter = moves.iter().any(|(from, _)| from.is_some());
    if matter {
        of_family::<V4>(view, moves, &mut out)?;
        of_family::<V6>(view, moves, &mut out)?;
    } else {
        only_flips::<V4>(view, &mut out);
        only_flips::<V6>(view, &mut out);
    }
    out.steps.sort_by_key(|(phase, _)| *phase);
    copy_sets(view, &mut out)?;
    Ok(out)
}

/// Plans the remote table of a family, where endpoints leave sets.
fn of_family<F: Ip>(view: &View<'_>, moves: &Moves, out: &mut Remotes) -> Result<(), Exhausted> {
    let table = TableId::remote(F::FAMILY);
    let flips = flips::<F>(view);
    let pair = |f: &Flip<'_, F>| (f.old.class, f.new.class);
    let pairs: BTreeSet<_> = flips.iter().map(pair).filter(|(a, b)| a != b).collect();
    let modes = Planner::new(view, moves, out).modes(&pairs)?;
    if modes.values().all(|m| *m == Mode::Early) {
        only_flips::<F>(view, out);
        return Ok(());
    }
    let mode = |f: &Flip<'_, F>| modes.get(&pair(f)).copied().unwrap_or(Mode::Early);
    let middle = middle(&flips, &mode);
    let both = || flips.iter().zip(&middle);
    out.steps.extend(walk(
        table,
        Phase::Switch,
        both().map(|(f, m)| (f.key, f.before, m.as_ref())),
    ));
    out.steps.extend(walk(
        table,
        Phase::Coarsen,
        both().map(|(f, m)| (f.key, m.as_ref(), f.after)),
    ));
    Ok(())
}

/// The writes from one state of some prefixes to another, in an order in which each address changes
/// once. Puts go from the longest prefix to the shortest: an address that a longer prefix will hold
/// must not meet a shorter one first. Removals follow, from the shortest to the longest, for the
/// same reason: what an address falls to is final already.
fn walk<'a>(
    table: TableId,
    phase: Phase,
    changes: impl Iterator<Item = (&'a Key, Option<&'a Entry>, Option<&'a Entry>)>,
) -> impl Iterator<Item = (Phase, Write)> {
    let (mut puts, mut removals) = (Vec::new(), Vec::new());
    for (key, before, after) in changes {
        match after {
            Some(entry) if before != Some(entry) => puts.push((key, entry)),
            None if before.is_some() => removals.push(key),
            _ => (),
        }
    }
    puts.sort_by_key(|(key, _)| std::cmp::Reverse(length(key)));
    removals.sort_by_key(|key| length(key));
    let puts = puts
        .into_iter()
        .map(move |(key, entry)| (phase, Write::put(table, key.clone(), entry.clone())));
    puts.chain(removals.into_iter().map(move |key| (phase, Write::remove(table, key.clone()))))
}

/// The changed prefixes with what holds for their addresses before and after: where a prefix comes
/// or goes, that is what the next shorter prefix says that covers it.
fn flips<'a, F: Ip>(view: &View<'a>) -> Vec<Flip<'a, F>> {
    let (table, width) = (TableId::remote(F::FAMILY), F::FAMILY.bits());
    // These are built only where a prefix comes or goes: most flips replace a leaf.
    let all: LazyCell<BTreeMap<&Key, Option<&Entry>>, _> =
        LazyCell::new(|| view.changed(table).map(|(k, b, _)| (k, b)).collect());
    let before: LazyCell<BTreeMap<Key, &Entry>, _> =
        LazyCell::new(|| all.iter().filter_map(|(k, b)| Some(((*k).clone(), (*b)?))).collect());
    let now = &view.new.table(table).entries;
    let shorter = |key: &Key| length(key).checked_sub(1);
    let cover_after =
        |key: &Key| longest_in(now, key.prefix().0, shorter(key)?, width).map(|(_, e)| e);
    let cover_before = |key: &Key| -> Option<&Entry> {
        let changed = longest_in(&before, key.prefix().0, shorter(key)?, width);
        let mut at = shorter(key)?;
        // The old table is not at hand, only the new one and the changes. So the old cover is the
        // longer of two: the longest changed prefix that was there, and the longest unchanged one.
        let kept = loop {
            match longest_in(now, key.prefix().0, at, width) {
                Some((k, _)) if all.contains_key(k) => match shorter(k) {
                    Some(next) => at = next,
                    None => break None,
                },
                other => break other,
            }
        };
        match (changed, kept) {
            (Some((a, e)), Some((b, _))) if length(a) > length(b) => Some(*e),
            (Some((_, e)), None) => Some(*e),
            (_, kept) => kept.map(|(_, e)| e),
        }
    };
    view.changed(table)
        .map(|(key, before, after)| Flip {
            key,
            before,
            after,
            old: leaf(before.or_else(|| cover_before(key))),
            new: leaf(after.or_else(|| cover_after(key))),
        })
        .collect()
}

/// The leaf of each changed prefix between switch and coarsen; None where there is none. A prefix
/// inside another one that moves at another time needs a leaf of its own in between, or it would
/// follow the other.
fn middle<F: Ip>(
    flips: &[Flip<'_, F>],
    mode: &dyn Fn(&Flip<'_, F>) -> Mode<F>,
) -> Vec<Option<Entry>> {
    let width = F::FAMILY.bits();
    let only = |which: &dyn Fn(Mode<F>) -> bool| -> BTreeMap<Key, ()> {
        flips.iter().filter(|f| which(mode(f))).map(|f| (f.key.clone(), ())).collect()
    };
    let (waiting, prompt) = (only(&|m| m != Mode::Early), only(&|m| m != Mode::Late));
    let covered = |by: &BTreeMap<Key, ()>, key: &Key| {
        length(key)
            .checked_sub(1)
            .is_some_and(|l| longest_in(by, key.prefix().0, l, width).is_some())
    };
    let state = |f: &Flip<'_, F>| {
        match (mode(f), f.before, f.after) {
            (Mode::Early, _, Some(after)) => Some(after.clone()),
            // Its addresses fall to the prefix that covers it, if that one has moved by then.
            (Mode::Early, _, None) if !covered(&waiting, f.key) => None,
            (Mode::Early, ..) => Some(f.new.entry()),
            (Mode::Late, Some(before), _) => Some(before.clone()),
            // The mirror image: it need not be there yet if its cover has not moved.
            (Mode::Late, None, _) if !covered(&prompt, f.key) => None,
            (Mode::Late, ..) => Some(f.old.entry()),
            (Mode::Through(class), ..) => Some(SetRemote { class, ..f.new }.entry()),
        }
    };
    flips.iter().map(state).collect()
}

struct Planner<'v, 'a, F> {
    view: &'v View<'a>,
    moves: &'v Moves,
    out: &'v mut Remotes,
    /// Sets that some endpoint leaves; those of them that nobody keeps; and sets that are joined
    /// and that nobody had.
    left: BTreeSet<SetId>,
    dying: BTreeSet<SetId>,
    born: BTreeSet<SetId>,
    /// For a new class, the old one whose answers dying sets repeat under it; for an old class, the
    /// new one whose answers born sets repeat under it.
    early: BTreeMap<ClassId<F>, ClassId<F>>,
    late: BTreeMap<ClassId<F>, ClassId<F>>,
    free: Option<Free<ClassId<F>>>,
}

/// How each pair of classes (before, after) moves.
type Modes<F> = BTreeMap<(ClassId<F>, ClassId<F>), Mode<F>>;

impl<'v, 'a, F: Ip> Planner<'v, 'a, F> {
    fn new(view: &'v View<'a>, moves: &'v Moves, out: &'v mut Remotes) -> Self {
        let left: BTreeSet<SetId> = moves.iter().filter_map(|m| m.0).collect();
        let joined: BTreeSet<SetId> = moves.iter().filter_map(|m| m.1).collect();
        let (dying, born) = (&left - &view.sets().new, &joined - &view.sets().old);
        let (early, late) = (BTreeMap::new(), BTreeMap::new());
        Self { view, moves, out, left, dying, born, early, late, free: None }
    }

    /// Chooses a mode for each pair, and writes down what must be defined for it.
    fn modes(mut self, pairs: &BTreeSet<(ClassId<F>, ClassId<F>)>) -> Result<Modes<F>, Exhausted> {
        let mut modes = Modes::new();
        // Each pair asks every left or joined set about two classes.
        if pairs.len() > 16 {
            self.view.list_sets();
        }
        for &(before, after) in pairs {
            let mode = if self.try_early(before, after) {
                Mode::Early
            } else if self.try_late(before, after) {
                Mode::Late
            } else {
                Mode::Through(self.through(before, after)?)
            };
            modes.insert((before, after), mode);
        }
        for (&class, &like) in &std::mem::take(&mut self.early) {
            for &set in &self.dying.clone() {
                self.define(set, class, self.view.act(When::Old, set, like.into()), When::Old);
            }
        }
        for (&class, &like) in &std::mem::take(&mut self.late) {
            for &set in &self.born.clone() {
                self.define(set, class, self.view.act(When::New, set, like.into()), When::New);
            }
        }
        Ok(modes)
    }

    /// What a set (None: everything is permitted) answered a class before.
    fn old(&self, set: Option<SetId>, class: ClassId<F>) -> (When, Answer) {
        (When::Old, set.map_or(Answer::Permit, |s| self.view.act(When::Old, s, class.into())))
    }

    /// What it answers a class after.
    fn new_(&self, set: Option<SetId>, class: ClassId<F>) -> (When, Answer) {
        (When::New, set.map_or(Answer::Permit, |s| self.view.act(When::New, s, class.into())))
    }

    /// Would all who leave a set find a mixture between their answers if this pair moved first?
    fn try_early(&mut self, before: ClassId<F>, after: ClassId<F>) -> bool {
        let fresh = !self.dying.is_empty() && !self.view.class_in(When::Old, after.into());
        let like = self.early.get(&after).copied().unwrap_or(before);
        let fits = self.moves.iter().filter(|(from, _)| from.is_some()).all(|&(from, to)| {
            let set = from.unwrap_or_default();
            // What an old word finds under `after`. A set that lives on answers what it will
            // answer: ids keep their meaning, and refine has written what is new. A dying set
            // answers what it did, or what it is given for a class that is new.
            let middle = match self.dying.contains(&set) {
                true if fresh => self.old(from, like),
                true => self.old(from, after),
                false => self.new_(from, after),
            };
            self.view.between(middle, self.old(from, before), self.new_(to, after))
        });
        if fits && fresh {
            self.early.entry(after).or_insert(before);
        }
        fits
    }

    /// Would all who join a set find a mixture between their answers if this pair moved last?
    fn try_late(&mut self, before: ClassId<F>, after: ClassId<F>) -> bool {
        let dies = !self.born.is_empty() && !self.view.class_in(When::New, before.into());
        let like = self.late.get(&before).copied().unwrap_or(after);
        let fits = self.moves.iter().filter(|(_, to)| to.is_some()).all(|&(from, to)| {
            let set = to.unwrap_or_default();
            let middle = match self.born.contains(&set) {
                true if dies => self.new_(to, like),
                true => self.new_(to, before),
                false => self.old(to, before),
            };
            self.view.between(middle, self.old(from, before), self.new_(to, after))
        });
        if fits && dies {
            self.late.entry(before).or_insert(after);
        }
        fits
    }

    /// Makes a class for the pair, defines what each set answers it, and notes which sets need a
    /// copy for those that join them.
    fn through(&mut self, before: ClassId<F>, after: ClassId<F>) -> Result<ClassId<F>, Exhausted> {
        let view = self.view;
        let free = self.free.get_or_insert_with(|| Free::new(view.new, view.changes));
        let class = free.get()?;
        for &set in &self.left.clone() {
            self.define(set, class, view.act(When::Old, set, before.into()), When::Old);
        }
        for &set in &(&view.sets().new - &self.left) {
            self.define(set, class, view.act(When::New, set, after.into()), When::New);
        }
        for &(from, to) in self.moves {
            if let Some(set) = to.filter(|set| self.left.contains(set)) {
                let shown = self.old(to, before);
                if !view.between(shown, self.old(from, before), self.new_(to, after)) {
                    self.out.copies.entry(set).or_default();
                }
            }
        }
        // A set may come to need a copy only for a later pair, and the copy must know the classes
        // of all pairs: so the new answers are noted for every set that could get one.
        for &set in &(&self.left & &view.sets().new) {
            self.out.shown.push((set, class.into(), view.act(When::New, set, after.into())));
        }
        Ok(class)
    }

    /// Makes `set` answer `class` with `act` from refine to remove, by an entry unless its base
    /// says so already.
    fn define(&mut self, set: SetId, class: ClassId<F>, act: Answer, when: When) {
        let key = row_key(set, class);
        let before = self.view.get(When::Old, TableId::Row, &key);
        let after = self.view.get(When::New, TableId::Row, &key);
        let settled =
            before.is_none() && after.is_none() && self.view.base(when, set, F::FAMILY) == act;
        if !settled {
            self.out.extras.insert((TableId::Row, key), Some(act.entry()));
        }
    }
}

/// Gives every set that needs one a copy with all its rows: new answers where there are any, for
/// the words that join, and old ones for classes that only now lose their addresses.
fn copy_sets(view: &View<'_>, out: &mut Remotes) -> Result<(), Exhausted> {
    if out.copies.is_empty() {
        return Ok(());
    }
    let mut free = Free::new(view.new, view.changes);
    for (&set, copy) in &mut out.copies {
        *copy = free.get()?;
        for when in [When::Old, When::New] {
            for (key, entry) in view.under(when, TableId::Row, set) {
                let key = row_key(*copy, RowKey::of(key).class);
                out.extras.insert((TableId::Row, key), Some(entry.clone()));
            }
        }
        for family in Family::BOTH {
            let act = view.base(When::New, set, family);
            out.extras.insert((TableId::Base, base_key(*copy, family)), Some(act.entry()));
        }
        for &(_, class, act) in out.shown.iter().filter(|s| s.0 == set) {
            out.extras.insert((TableId::Row, row_key(*copy, class)), Some(act.entry()));
        }
    }
    Ok(())
}
