//! What changes on one interface. Not here: when ([`super::job`]).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
};

use super::{
    Books, Place, Step, leads_to,
    number::{Chains, Number, Numbering},
    offloaded, our,
};
use crate::{
    filter::{Action, Cookie, Copies, Filter, Match, Pattern, Side},
    netlink::{Decoded, Found, Way},
};

/// Numbers of chains have 28 bits.
const HIGHEST: u32 = (1 << 28) - 1;

/// The way of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Chains that nothing leads to yet; those that are led to get other cookies, and lose what is to go, at most.
    pub prepare: Vec<Step>,
    /// Chain 0 as it is wanted, what is asked first in front.
    pub start: Vec<Slot>,
    /// What chains that change in place get, once chain 0 is as it is wanted.
    pub later: Vec<Step>,
    /// Filters above chain 0 that stay as they are.
    pub kept: usize,
}

/// One wanted filter of chain 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// It is there.
    Keep(Filter),
    /// It is not.
    Do(Step),
}

impl Slot {
    /// The filter.
    pub fn filter(&self) -> &Filter {
        match self {
            Slot::Keep(filter) => filter,
            Slot::Do(step) => &step.filter,
        }
    }
}

/// There is no free number for a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Takes chain 0 away, from its end; then numbers of chains are free again. Empty: they are all somebody else's.
    pub clear: Vec<Step>,
    /// The chain.
    pub chain: u32,
}

impl Plan {
    /// Does nothing change? Filters that are not wanted any more are not part of it: the job finds them.
    pub fn is_empty(&self) -> bool {
        self.prepare.is_empty() && self.later.is_empty() && self.start.iter().all(|s| matches!(s, Slot::Keep(_)))
    }
}

type Key<'a> = (Side, u32, u16, &'a Match);

/// Plans one interface. Wanted chains that nothing leads to are left out. `installed` is everything that a dump gave,
/// others' filters included: their handles and chains are kept clear of.
///
/// # Errors
/// No number is left for a chain.
pub fn plan(installed: &Books, wanted: &[Filter]) -> Result<Plan, Blocked> {
    let by_chain = by_chain(wanted);
    let chains = Chains::new(installed);
    let mut numbering = Numbering::new(&chains, &by_chain, limit(installed, wanted));
    let mut there = There::new(installed);
    let mut plan = Plan::default();
    for (&(side, chain), filters) in &by_chain {
        let blocked = || Blocked { clear: clear(installed, side), chain };
        let number = numbering.number(side, chain).ok_or_else(blocked)?;
        let mut steps = Vec::new();
        for filter in filters {
            let action = numbering.action(filter).ok_or_else(blocked)?;
            let filter = Filter { chain: number.get(), action, ..(*filter).clone() };
            match there.step(filter) {
                Slot::Keep(_) if chain != 0 => plan.kept += 1,
                Slot::Do(step) if chain != 0 => steps.push(step),
                slot => plan.start.push(slot),
            }
        }
        match number {
            Number::Make(number) if chain != 0 => plan.prepare.extend(there.rest(side, number)),
            Number::Change(number) => {
                plan.prepare.extend(there.rest(side, number));
                for step in mem::take(&mut steps) {
                    match there.differs(&step) {
                        Some(old) => {
                            plan.prepare.push(old);
                            plan.later.push(Step { way: Way::Add, ..step });
                        }
                        None if step.way == Way::Add => plan.later.push(step),
                        None => plan.prepare.push(step),
                    }
                }
            }
            Number::Make(_) | Number::There(_) => {}
        }
        plan.prepare.extend(steps);
    }
    Ok(plan)
}

/// Wanted filters by their chains, without chains that nothing leads to. A chain without filters is one, too: nothing
/// else may be under its number.
fn by_chain(wanted: &[Filter]) -> BTreeMap<(Side, u32), Vec<&Filter>> {
    let mut all = BTreeMap::<(Side, u32), Vec<&Filter>>::new();
    for filter in wanted.iter().collect::<BTreeSet<_>>() {
        all.entry((filter.side, filter.chain)).or_default().push(filter);
    }
    let mut queue = vec![(Side::Ingress, 0), (Side::Egress, 0)];
    let mut found = BTreeMap::new();
    while let Some(at) = queue.pop() {
        if let Entry::Vacant(new) = found.entry(at) {
            let filters = new.insert(all.remove(&at).unwrap_or_default());
            queue.extend(filters.iter().filter_map(|f| Some((f.side, leads_to(f)?))));
        }
    }
    found
}

/// What is there, by what it matches: the kernel knows no two filters of one prio with the same match.
struct There<'a> {
    by_match: BTreeMap<Key<'a>, (&'a Decoded, u32)>,
    installed: &'a Books,
    handles: BTreeMap<(Side, u32, u16), BTreeSet<u32>>,
    used: BTreeSet<Place>,
}

impl<'a> There<'a> {
    fn new(installed: &'a Books) -> Self {
        let mut by_match = BTreeMap::new();
        let mut handles = BTreeMap::<_, BTreeSet<u32>>::new();
        for (&Place { side, chain, prio, handle }, decoded) in installed {
            handles.entry((side, chain, prio)).or_default().insert(handle);
            if let Found::Ours(Filter { matches, .. }) | Found::Changed { matches, exact: true } = &decoded.found {
                by_match.insert((side, chain, prio, matches), (decoded, handle));
            }
        }
        Self { by_match, installed, handles, used: BTreeSet::new() }
    }

    fn step(&mut self, filter: Filter) -> Slot {
        let Filter { side, chain, prio, .. } = filter;
        let Some(&(decoded, handle)) = self.by_match.get(&(side, chain, prio, &filter.matches)) else {
            let taken = self.handles.entry((side, chain, prio)).or_default();
            let handle = free(taken);
            taken.insert(handle);
            return Slot::Do(Step { way: Way::Add, filter, handle });
        };
        self.used.insert(Place { side, chain, prio, handle });
        match &decoded.found {
            Found::Ours(old) if *old == filter && offloaded(decoded, old) => Slot::Keep(filter),
            _ => Slot::Do(Step { way: Way::Replace, filter, handle }),
        }
    }

    /// The removal of what a step would replace by something that does something else.
    fn differs(&self, step: &Step) -> Option<Step> {
        let old = self.installed.get(&step.place()).filter(|_| step.way == Way::Replace)?;
        let same = matches!(&old.found, Found::Ours(filter) if filter.action == step.filter.action);
        (!same).then(|| removal(old))
    }

    /// Removals of what else a chain has: leftovers of a start that did not come to its end.
    fn rest(&self, side: Side, chain: u32) -> Vec<Step> {
        let all = Place { side, chain, prio: 0, handle: 0 }..=Place { side, chain, prio: u16::MAX, handle: u32::MAX };
        let rest = self.installed.range(all).filter(|(place, d)| our(d) && !self.used.contains(place));
        rest.map(|(_, d)| removal(d)).collect()
    }
}

/// Removals of all of chain 0, from its end.
fn clear(installed: &Books, side: Side) -> Vec<Step> {
    let ours = installed.iter().rev().filter(|(p, d)| p.side == side && p.chain == 0 && our(d));
    ours.map(|(_, d)| removal(d)).collect()
}

/// Takes a filter away.
pub(super) fn removal(decoded: &Decoded) -> Step {
    let filter = match &decoded.found {
        Found::Ours(filter) => filter.clone(),
        // Stands for a place, a classifier and an ethertype only.
        found => {
            let matches = match found {
                Found::Changed { matches, .. } => matches.clone(),
                _ => Match::Flower(Pattern::default()),
            };
            let Decoded { side, chain, prio, .. } = *decoded;
            let (action, copies, cookie) = (Action::Pass, Copies::Software, Cookie::new(0, 0, 0));
            Filter { side, chain, prio, matches, action, copies, cookie }
        }
    };
    Step { way: Way::Remove, filter, handle: decoded.handle }
}

/// The highest number that may be invented: of NICs no higher one than they were seen to take, or are wanted to.
fn limit(installed: &Books, wanted: &[Filter]) -> u32 {
    if wanted.iter().all(|f| f.copies == Copies::Software) {
        return HIGHEST;
    }
    let ours = installed.values().filter(|d| our(d)).map(|d| d.chain);
    wanted.iter().map(|f| f.chain).chain(ours).max().unwrap_or(0)
}

/// The lowest number from 1 that is not taken; mostly one above the highest.
fn free(taken: &BTreeSet<u32>) -> u32 {
    match taken.last() {
        None => 1,
        Some(&last) if last < u32::MAX >> 1 => last + 1,
        Some(_) => (1..).zip(taken).find(|(free, taken)| free != *taken).map_or(1, |(free, _)| free),
    }
}

#[cfg(test)]
mod tests;
