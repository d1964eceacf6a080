//! One interface on its way from what it has to what is wanted: which steps may be done now, and what follows from
//! their answers. Steps that are given together are sent together; a refusal of one must not make another one wrong, so
//! what depends on an answer waits for it.
//!
//! Not here: sending, waiting ([`crate::flower`]).

use netpolc_table::IfIndex;
use std::{cmp::Reverse, collections::BTreeSet, mem};

use netpolc_host::netlink::Refusal;

use super::{
    Blocked, Books, Plan, Slot, Step, exposes, leads_to,
    number::reached,
    our,
    plan::{plan, removal},
};
use crate::{
    filter::{Copies, Filter, Match, Side},
    kernel::Applied,
    netlink::{Decoded, Found, Way},
};

/// Filters of chain 0 that are sent before their answers are looked at.
const RUN: usize = 256;

/// Answers to a removal that say that there was nothing left to remove: the filter, its qdisc or its interface is gone.
const GONE: [i32; 3] = [libc::ENOENT, libc::ENODEV, libc::EINVAL];

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// These changes, in this order; then each one's answer.
    Steps(Vec<Step>),
    /// Waiting until packets under way have left.
    Settle,
    /// Nothing any more.
    Done,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// New filters.
    pub added: usize,
    /// Filters that were replaced.
    pub replaced: usize,
    /// Filters that went.
    pub removed: usize,
    /// Filters that were there and stay.
    pub kept: usize,
    /// Wanted filters that are not installed, and why.
    pub refused: Vec<(Filter, String)>,
}

/// An interface on its way.
#[derive(Clone, Debug)]
pub struct Job {
    ifindex: IfIndex,
    wanted: Vec<Filter>,
    books: Books,
    plan: Plan,
    stage: Stage,
    tally: Tally,
    /// Chains above 0 that a part is missing of.
    spoilt: BTreeSet<(Side, u32)>,
    /// Wanted filters of chain 0 that hardware does not have.
    holes: Vec<Filter>,
    stopped: Stopped,
    turn: Turn,
    clears: u32,
    /// Filters removed when chain 0 began to change.
    removed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Plan,
    Clear,
    Cleared,
    Prepare,
    /// Chain 0, from this slot on.
    Start(usize),
    /// Packets that walked past a new filter's place before it was there must not miss the old one as well.
    Started,
    Trim,
    Trimmed,
    Sweep,
    Done,
}

/// Did software refuse a part of chain 0? Then the rest of it stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    No,
    Yes,
}

/// The first time, or the second? What was refused in front of what is not wanted any more may be taken when that is
/// gone: a NIC has no room for both, or takes no filter that is like one it has, not even in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

/// So often chain 0 is cleared for its numbers: once for each hook.
const CLEARS: u32 = 2;

impl Job {
    /// Begins. `books` is everything that the interface has.
    pub fn new(ifindex: IfIndex, books: Books, wanted: Vec<Filter>) -> Self {
        Job {
            ifindex,
            wanted,
            books,
            plan: Plan::default(),
            stage: Stage::Plan,
            tally: Tally::default(),
            spoilt: BTreeSet::new(),
            holes: vec![],
            stopped: Stopped::No,
            turn: Turn::First,
            clears: 0,
            removed: 0,
        }
    }

    /// The interface.
    pub fn ifindex(&self) -> IfIndex {
        self.ifindex
    }

    /// What the interface has by now.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Ends.
    pub fn finish(self) -> (Books, Vec<Filter>, Tally) {
        (self.books, self.wanted, self.tally)
    }

    /// The next steps. Called again when all of them are answered by [`Job::answer`], and after [`Job::settled`].
    pub fn advance(&mut self) -> Next {
        loop {
            let steps = match self.stage {
                Stage::Plan => self.begin(),
                Stage::Clear => {
                    self.stage = Stage::Cleared;
                    continue;
                }
                Stage::Cleared | Stage::Started | Stage::Trimmed => return Next::Settle,
                Stage::Prepare => {
                    self.judge_prepared();
                    self.removed = self.tally.removed;
                    self.stage = Stage::Start(0);
                    continue;
                }
                Stage::Start(at) => {
                    let (steps, at) = self.start(at);
                    self.stage = if at < self.plan.start.len() || !steps.is_empty() {
                        Stage::Start(at)
                    } else if self.trim().iter().any(|s| s.filter.copies != Copies::Hardware) {
                        Stage::Started
                    } else {
                        Stage::Trim
                    };
                    steps
                }
                Stage::Trim => {
                    let steps = self.trim();
                    self.stage = Stage::Trimmed;
                    if steps.is_empty() && self.idle().is_empty() {
                        self.stage = Stage::Sweep;
                    }
                    steps
                }
                Stage::Sweep => {
                    let later = mem::take(&mut self.plan.later);
                    if later.is_empty() || self.stopped == Stopped::Yes {
                        let why = "a filter in front of its chain was refused";
                        self.tally.refused.extend(later.into_iter().map(|s| (s.filter, why.to_owned())));
                        self.end();
                        continue;
                    }
                    later
                }
                Stage::Done => return Next::Done,
            };
            if !steps.is_empty() {
                return Next::Steps(steps);
            }
        }
    }

    /// Packets under way have left.
    pub fn settled(&mut self) -> Next {
        match self.stage {
            Stage::Cleared => self.stage = Stage::Plan,
            Stage::Started => self.stage = Stage::Trim,
            Stage::Trimmed => {
                self.stage = Stage::Sweep;
                let idle = self.idle();
                if !idle.is_empty() {
                    return Next::Steps(idle);
                }
            }
            _ => {}
        }
        self.advance()
    }

    /// What became of a step.
    pub fn answer(&mut self, step: &Step, answer: Result<Applied, Refusal>) {
        match answer {
            Ok(applied) => {
                self.book(step, applied.in_hardware);
                if step.way != Way::Remove && step.filter.copies == Copies::Both && applied.in_hardware == 0 {
                    let why = applied.text.as_deref().unwrap_or("the driver does not say why");
                    self.refused(step, &format!("not taken by hardware: {why}"));
                }
            }
            Err(refusal) if step.way == Way::Remove => match GONE.contains(&refusal.errno) {
                true => self.book(step, 0),
                false => self.tally.refused.push((step.filter.clone(), format!("cannot be removed: {refusal}"))),
            },
            Err(refusal) => {
                let same = |old: &Filter| {
                    (&old.matches, &old.action, old.copies)
                        == (&step.filter.matches, &step.filter.action, step.filter.copies)
                };
                // Only its cookie would have changed.
                let there = self
                    .books
                    .get(&step.place())
                    .is_some_and(|d| matches!(&d.found, Found::Ours(old) if same(old) && super::offloaded(d, old)));
                if !there {
                    self.refused(step, &refusal.to_string());
                }
            }
        }
    }

    fn refused(&mut self, step: &Step, why: &str) {
        if step.filter.chain == 0 {
            return self.hole(&step.filter, why);
        }
        self.tally.refused.push((step.filter.clone(), why.into()));
        self.spoilt.insert((step.filter.side, step.filter.chain));
    }

    fn book(&mut self, step: &Step, in_hardware: u32) {
        let (place, filter) = (step.place(), &step.filter);
        let (count, found) = match step.way {
            Way::Add => (&mut self.tally.added, Some(filter)),
            Way::Replace => (&mut self.tally.replaced, Some(filter)),
            Way::Remove => (&mut self.tally.removed, None),
        };
        *count += 1;
        let Filter { side, chain, prio, .. } = *filter;
        let (ifindex, handle) = (self.ifindex, step.handle);
        match found.map(|f| Found::Ours(f.clone())) {
            Some(found) => {
                let decoded = Decoded { ifindex, side, chain, prio, handle, in_hardware, found };
                self.books.insert(place, decoded);
            }
            None => {
                self.books.remove(&place);
            }
        }
    }

    fn begin(&mut self) -> Vec<Step> {
        match plan(&self.books, &self.wanted) {
            Ok(plan) => {
                self.tally.kept = plan.kept;
                self.plan = plan;
                self.stage = Stage::Prepare;
                self.plan.prepare.clone()
            }
            Err(Blocked { clear, .. }) if !clear.is_empty() && self.clears < CLEARS => {
                self.stage = Stage::Clear;
                self.clears += 1;
                clear
            }
            Err(Blocked { chain, .. }) => {
                let why = format!("no number is left for chain {chain}");
                self.plan = Plan::default();
                self.tally.refused.extend(self.wanted.drain(..).map(|f| (f, why.clone())));
                self.stage = Stage::Prepare;
                vec![]
            }
        }
    }

    /// What leads to a spoilt chain spoils its own; their other filters will be swept.
    fn judge_prepared(&mut self) {
        fn ours(decoded: &Decoded) -> Option<&Filter> {
            if let Found::Ours(filter) = &decoded.found { Some(filter) } else { None }
        }
        while !self.spoilt.is_empty() {
            let above = self.books.values().filter(|d| d.chain != 0).filter_map(ours);
            let leads = |f: &&Filter| leads_to(f).is_some_and(|c| self.spoilt.contains(&(f.side, c)));
            let more = above.filter(leads).map(|f| (f.side, f.chain)).filter(|at| !self.spoilt.contains(at));
            let more: Vec<_> = more.collect();
            if more.is_empty() {
                break;
            }
            self.spoilt.extend(more);
        }
        let prepared = self.plan.prepare.iter().filter(|s| s.way != Way::Remove).map(|s| &s.filter);
        let listed: BTreeSet<&Filter> = self.tally.refused.iter().map(|(f, _)| f).collect();
        let left_out = |f: &&Filter| self.spoilt.contains(&(f.side, f.chain)) && !listed.contains(f);
        let left_out: Vec<Filter> = prepared.filter(left_out).cloned().collect();
        let why = "another filter of its chain was refused";
        self.tally.refused.extend(left_out.into_iter().map(|f| (f, why.to_owned())));
    }

    /// Slots from `at` on whose steps do not depend on each other's answers, and where they end.
    fn start(&mut self, mut at: usize) -> (Vec<Step>, usize) {
        let slots = mem::take(&mut self.plan.start);
        let mut run: Vec<Step> = Vec::new();
        for slot in &slots[at..] {
            let filter = slot.filter();
            let spoilt = leads_to(filter).is_some_and(|c| self.spoilt.contains(&(filter.side, c)));
            let exposed = self.holes.iter().any(|hole| exposes(hole, filter));
            match slot {
                Slot::Keep(_) if self.stopped == Stopped::Yes => self.tally.kept += 1,
                Slot::Do(_) if self.stopped == Stopped::Yes => self.hole(filter, "a filter in front of it was refused"),
                // Before it is known whether it may be there, its own answer must not count either.
                _ if run.len() == RUN || run.iter().any(|step| exposes(&step.filter, filter)) => break,
                _ if spoilt => self.hole(filter, "a filter of the chain that it leads to was refused"),
                _ if exposed => self.hole(filter, "a filter in front of it was refused"),
                // The second turn adds it.
                Slot::Do(step) if self.risky(step) => self.hole(filter, "what is behind it must make way first"),
                Slot::Keep(_) => self.tally.kept += 1,
                Slot::Do(step) => run.push(step.clone()),
            }
            at += 1;
        }
        self.plan.start = slots;
        (run, at)
    }

    /// A filter with both copies is replaced in software even if hardware does not take the new one, and then has lost the
    /// old one. Would that expose what is behind it?
    fn risky(&self, step: &Step) -> bool {
        let Some(Decoded { found: Found::Ours(old), .. }) = self.books.get(&step.place()) else { return false };
        let behind = |d: &Decoded| matches!(&d.found, Found::Ours(later) if exposes(old, later));
        step.way == Way::Replace && step.filter.copies == Copies::Both && self.books.values().any(behind)
    }

    fn hole(&mut self, filter: &Filter, why: &str) {
        self.tally.refused.push((filter.clone(), why.into()));
        if filter.copies == Copies::Software {
            self.stopped = Stopped::Yes;
        } else {
            self.holes.push(filter.clone());
        }
    }

    /// What chain 0 must not have, from its end. Nothing where software stopped: then it is what it was, up to there.
    fn trim(&self) -> Vec<Step> {
        if self.stopped == Stopped::Yes {
            return vec![];
        }
        let mut wanted: BTreeSet<(Side, u16, &Match)> =
            self.plan.start.iter().map(Slot::filter).map(|f| (f.side, f.prio, &f.matches)).collect();
        for hole in &self.holes {
            wanted.remove(&(hole.side, hole.prio, &hole.matches));
        }
        let stays = |d: &Decoded| match &d.found {
            Found::Ours(f) => wanted.contains(&(f.side, f.prio, &f.matches)),
            Found::Changed { .. } => false,
            Found::Foreign => true,
        };
        let mut gone: Vec<&Decoded> = self.books.values().filter(|d| d.chain == 0 && !stays(d)).collect();
        gone.sort_by_key(|d| (d.side, Reverse((d.prio, d.handle))));
        gone.into_iter().map(removal).collect()
    }

    /// Filters of chains that nothing leads to.
    fn idle(&self) -> Vec<Step> {
        let reached = reached(&self.books);
        let idle = |d: &&Decoded| d.chain != 0 && our(d) && !reached.contains(&(d.side, d.chain));
        self.books.values().filter(idle).map(removal).collect()
    }

    fn end(&mut self) {
        self.stage = Stage::Done;
        let more_room = self.tally.removed > self.removed;
        if self.turn == Turn::First && more_room && !self.tally.refused.is_empty() && self.stopped == Stopped::No {
            self.turn = Turn::Second;
            self.stage = Stage::Plan;
            self.tally.refused.clear();
            self.spoilt.clear();
            self.holes.clear();
        }
    }
}

#[cfg(test)]
mod tests;
