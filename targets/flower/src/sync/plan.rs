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

/// What changes on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps before chain 0 changes: chains that nothing leads to yet are completed. Chains that
    /// are led to only get other cookies and, where they change in place, lose what is to go.
    pub prepare: Vec<Step>,
    /// Chain 0 as it is wanted, in the order in which its filters are asked.
    pub start: Vec<Slot>,
    /// Steps after chain 0 has changed: what is new in chains that change in place.
    pub later: Vec<Step>,
    /// How many filters above chain 0 stay as they are.
    pub kept: usize,
}

/// One wanted filter of chain 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The filter is installed as it is wanted.
    Keep(Filter),
    /// The filter is missing, or does something else: this step makes it what is wanted.
    Do(Step),
}

impl Slot {
    /// The filter as it is wanted.
    pub fn filter(&self) -> &Filter {
        match self {
            Slot::Keep(filter) => filter,
            Slot::Do(step) => &step.filter,
        }
    }
}

/// No number is free for a chain that must be written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Takes chain 0 away, from its end; then numbers of chains are free again. Empty: they are all
    /// somebody else's.
    pub clear: Vec<Step>,
    /// The wanted chain that gets no number.
    pub chain: u32,
}

impl Plan {
    /// Does nothing change? Filters that are not wanted any more are not part of it: the job finds
    /// them.
    pub fn is_empty(&self) -> bool {
        self.prepare.is_empty()
            && self.later.is_empty()
            && self.start.iter().all(|s| matches!(s, Slot::Keep(_)))
    }
}

type Key<'a> = (Side, u32, u16, &'a Match);

/// Plans one interface. Wanted chains that nothing leads to are left out. `installed` is everything
/// that a dump gave, others' filters included: their handles and chains are kept clear of.
///
/// # Errors
/// [`Blocked`] where every number that a chain may have is in use by another one.
pub fn plan(installed: &Books, wanted: &[Filter]) -> Result<Plan, Blocked> {
    let by_chain = by_chain(wanted);
    let chains = Chains::new(installed);
    let mut numbering = Numbering::new(&chains, &by_chain, limit(installed, wanted));
    let mut index = Index::new(installed);
    let mut plan = Plan::default();
    for (&(side, chain), filters) in &by_chain {
        let blocked = || Blocked { clear: clear(installed, side), chain };
        let number = numbering.number(side, chain).ok_or_else(blocked)?;
        let mut steps = Vec::new();
        for filter in filters {
            let action = numbering.action(filter).ok_or_else(blocked)?;
            let filter = Filter { chain: number.get(), action, ..(*filter).clone() };
            match index.step(filter) {
                Slot::Keep(_) if chain != 0 => plan.kept += 1,
                Slot::Do(step) if chain != 0 => steps.push(step),
                slot => plan.start.push(slot),
            }
        }
        match number {
            // The number has leftovers at most; they go before anything leads there.
            Number::Make(number) if chain != 0 => plan.prepare.extend(index.rest(side, number)),
            Number::Change(number) => {
                plan.prepare.extend(index.rest(side, number));
                for step in mem::take(&mut steps) {
                    // While chain 0 changes, such a chain holds only what its old and its new
                    // content have in common. So a filter with a new action goes before that, and
                    // comes after it; in between its packets are the host's.
                    match index.differs(&step) {
                        Some(old) => {
                            plan.prepare.push(old);
                            plan.later.push(Step { way: Way::Add, ..step });
                        }
                        None if step.way == Way::Add => plan.later.push(step),
                        None => plan.prepare.push(step),
                    }
                }
            }
            Number::Make(_) | Number::Keep(_) => {}
        }
        plan.prepare.extend(steps);
    }
    Ok(plan)
}

/// Wanted filters by their chains, without chains that nothing leads to. A chain without filters is
/// one, too: nothing else may be under its number.
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

/// What is installed, indexed by what it matches: the kernel takes no two filters of one chain and
/// prio with the same match.
struct Index<'a> {
    by_match: BTreeMap<Key<'a>, (&'a Decoded, u32)>,
    installed: &'a Books,
    handles: BTreeMap<(Side, u32, u16), BTreeSet<u32>>,
    used: BTreeSet<Place>,
}

impl<'a> Index<'a> {
    fn new(installed: &'a Books) -> Self {
        let mut by_match = BTreeMap::new();
        let mut handles = BTreeMap::<_, BTreeSet<u32>>::new();
        for (&Place { side, chain, prio, handle }, decoded) in installed {
            handles.entry((side, chain, prio)).or_default().insert(handle);
            if let Found::Ours(Filter { matches, .. }) | Found::Changed { matches, exact: true } =
                &decoded.found
            {
                by_match.insert((side, chain, prio, matches), (decoded, handle));
            }
        }
        Self { by_match, installed, handles, used: BTreeSet::new() }
    }

    /// What has to happen for a wanted filter to be there: nothing, a replacement under the handle
    /// that its match has, or an addition under a free handle.
    fn step(&mut self, filter: Filter) -> Slot {
        let Filter { side, chain, prio, .. } = filter;
        let Some(&(decoded, handle)) = self.by_match.get(&(side, chain, prio, &filter.matches))
        else {
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
        let all = Place { side, chain, prio: 0, handle: 0 }..=Place {
            side,
            chain,
            prio: u16::MAX,
            handle: u32::MAX,
        };
        let rest =
            self.installed.range(all).filter(|(place, d)| our(d) && !self.used.contains(place));
        rest.map(|(_, d)| removal(d)).collect()
    }
}

/// Removals of all of chain 0, from its end.
fn clear(installed: &Books, side: Side) -> Vec<Step> {
    let ours = installed.iter().rev().filter(|(p, d)| p.side == side && p.chain == 0 && our(d));
    ours.map(|(_, d)| removal(d)).collect()
}

/// The step that removes a filter.
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

/// The highest number that may be invented: of NICs no higher one than they were seen to take, or
/// are wanted to.
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
        Some(_) => {
            (1..).zip(taken).find(|(free, taken)| free != *taken).map_or(1, |(free, _)| free)
        }
    }
}

#[cfg(test)]
mod tests;
