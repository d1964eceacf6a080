//! One interface on its way from what it has to what is wanted: which steps may be sent now, and
//! what follows from their answers.
//!
//! The header of [`super`] states what holds for a packet at every moment. This is the state
//! machine that keeps it although any step may be refused. It rests on two rules:
//!
//! - Steps that are given out together are sent together, before any of their answers is known. So
//!   a step is given out only if it is right whatever becomes of the steps beside it; one whose
//!   place in the order depends on an answer waits for that answer.
//! - A wanted filter that is not there is a gap: whatever could decide otherwise because of it is
//!   left out too, or taken away.
//!
//! Not here: sending and waiting ([`crate::flower`]), what changes ([`mod@super::plan`]).

use netpolc_table::IfIndex;
use std::{cmp::Reverse, collections::BTreeSet, mem};

use netpolc_host::netlink::Refusal;

pub use stage::{Counts, Next};

use stage::{ChainZero, Pass, Stage};

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

/// The most filters of chain 0 that are sent before their answers are looked at.
const RUN: usize = 256;

/// Error codes of a removal that say that there was nothing left to remove: the filter, its qdisc
/// or its interface is gone.
const GONE: [i32; 3] = [libc::ENOENT, libc::ENODEV, libc::EINVAL];

/// The way of one interface; see the module.
#[derive(Clone, Debug)]
pub struct Job {
    ifindex: IfIndex,
    wanted: Vec<Filter>,
    books: Books,
    plan: Plan,
    stage: Stage,
    counts: Counts,
    /// Chains above 0 of which a part is missing, or that lead to such a chain. Nothing new may
    /// lead to them.
    tainted: BTreeSet<(Side, u32)>,
    /// Wanted filters of chain 0 that hardware does not have: the gaps.
    missing: Vec<Filter>,
    chain_zero: ChainZero,
    pass: Pass,
    /// How often chain 0 was cleared so far.
    clears: u32,
    /// The count of removed filters when chain 0 began to change.
    removed: usize,
}

/// How often chain 0 may be cleared to free the numbers of chains: once for each hook.
const CLEARS: u32 = 2;

impl Job {
    /// A job that has not begun. `books` is everything that the interface has, others' filters
    /// included; `wanted` is what it shall have of netpolc's.
    pub fn new(ifindex: IfIndex, books: Books, wanted: Vec<Filter>) -> Self {
        Job {
            ifindex,
            wanted,
            books,
            plan: Plan::default(),
            stage: Stage::Plan,
            counts: Counts::default(),
            tainted: BTreeSet::new(),
            missing: vec![],
            chain_zero: ChainZero::Changing,
            pass: Pass::First,
            clears: 0,
            removed: 0,
        }
    }

    /// The index of the interface that the job changes.
    pub fn ifindex(&self) -> IfIndex {
        self.ifindex
    }

    /// What the interface has by now, by the answers so far.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Ends the job: what the interface has, what was wanted, and what was done.
    pub fn finish(self) -> (Books, Vec<Filter>, Counts) {
        (self.books, self.wanted, self.counts)
    }

    /// The next steps. Called again when all of them are answered by [`Job::answer`], and after
    /// [`Job::settled`].
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
                    // All answers about chains above 0 are in: from here on it is known which of
                    // them may be led to.
                    self.judge_prepared();
                    self.removed = self.counts.removed;
                    self.stage = Stage::Start(0);
                    continue;
                }
                Stage::Start(at) => {
                    let (steps, at) = self.start(at);
                    self.stage = if at < self.plan.start.len() || !steps.is_empty() {
                        Stage::Start(at)
                    // Hardware copies need no grace period: a packet that meets neither filter is
                    // the host's, which is always right.
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
                    // Where nothing was trimmed and no chain is idle, nothing will be freed, so
                    // there is nobody to wait for.
                    if steps.is_empty() && self.idle().is_empty() {
                        self.stage = Stage::Sweep;
                    }
                    steps
                }
                Stage::Sweep => {
                    // Filters of a chain that changes in place rely on nothing else in it, but the
                    // chain must be led to by the chain 0 that they were planned for.
                    let later = mem::take(&mut self.plan.later);
                    if later.is_empty() || self.chain_zero == ChainZero::Frozen {
                        let why = "a filter in front of its chain was refused";
                        self.counts
                            .refused
                            .extend(later.into_iter().map(|s| (s.filter, why.to_owned())));
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

    /// Goes on after [`Next::Settle`]: packets that were under way have left.
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

    /// Takes the kernel's answer to a step that [`Job::advance`] or [`Job::settled`] gave out.
    pub fn answer(&mut self, step: &Step, answer: Result<Applied, Refusal>) {
        match answer {
            Ok(applied) => {
                self.book(step, applied.in_hardware);
                // The kernel accepts a filter with both copies although the driver refuses its
                // own. Software has it then, and hardware has a gap.
                if step.way != Way::Remove
                    && step.filter.copies == Copies::Both
                    && applied.in_hardware == 0
                {
                    let why = applied.text.as_deref().unwrap_or("the driver does not say why");
                    self.refused(step, &format!("not taken by hardware: {why}"));
                }
            }
            Err(refusal) if step.way == Way::Remove => match GONE.contains(&refusal.errno) {
                true => self.book(step, 0),
                false => self
                    .counts
                    .refused
                    .push((step.filter.clone(), format!("cannot be removed: {refusal}"))),
            },
            Err(refusal) => {
                let same = |old: &Filter| {
                    (&old.matches, &old.action, old.copies)
                        == (&step.filter.matches, &step.filter.action, step.filter.copies)
                };
                // A refused replacement leaves the old filter in place. Where only the cookie would
                // have changed, the old one does what is wanted, so there is no gap.
                let there = self.books.get(&step.place()).is_some_and(|d| match &d.found {
                    Found::Ours(old) => same(old) && super::offloaded(d, old),
                    _ => false,
                });
                if !there {
                    self.refused(step, &refusal.to_string());
                }
            }
        }
    }

    /// Notes a refusal. In chain 0 it leaves a gap; above, it taints the whole chain, which is of
    /// use only when complete.
    fn refused(&mut self, step: &Step, why: &str) {
        if step.filter.chain == 0 {
            return self.leave_out(&step.filter, why);
        }
        self.counts.refused.push((step.filter.clone(), why.into()));
        self.tainted.insert((step.filter.side, step.filter.chain));
    }

    /// Enters a step that was done into the books, as the next dump would show it.
    fn book(&mut self, step: &Step, in_hardware: u32) {
        let (place, filter) = (step.place(), &step.filter);
        let (count, found) = match step.way {
            Way::Add => (&mut self.counts.added, Some(filter)),
            Way::Replace => (&mut self.counts.replaced, Some(filter)),
            Way::Remove => (&mut self.counts.removed, None),
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

    /// Makes the plan, and gives the steps that come before chain 0 changes. Where no number is
    /// left for a chain, chain 0 is cleared first, which frees the numbers of what it leads to.
    /// Only a NIC with few numbers gets there, and without chain 0 it decides nothing: the host
    /// does.
    fn begin(&mut self) -> Vec<Step> {
        match plan(&self.books, &self.wanted) {
            Ok(plan) => {
                self.counts.kept = plan.kept;
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
                self.counts.refused.extend(self.wanted.drain(..).map(|f| (f, why.clone())));
                self.stage = Stage::Prepare;
                vec![]
            }
        }
    }

    /// Taints every chain that leads to a tainted one, up to a fixed point: a packet that is sent
    /// there must not find a chain with a part missing. What is installed of tainted chains is
    /// idle, and is removed with the other idle chains.
    fn judge_prepared(&mut self) {
        fn ours(decoded: &Decoded) -> Option<&Filter> {
            if let Found::Ours(filter) = &decoded.found { Some(filter) } else { None }
        }
        while !self.tainted.is_empty() {
            let above = self.books.values().filter(|d| d.chain != 0).filter_map(ours);
            let leads =
                |f: &&Filter| leads_to(f).is_some_and(|c| self.tainted.contains(&(f.side, c)));
            let more = above
                .filter(leads)
                .map(|f| (f.side, f.chain))
                .filter(|at| !self.tainted.contains(at));
            let more: Vec<_> = more.collect();
            if more.is_empty() {
                break;
            }
            self.tainted.extend(more);
        }
        let prepared = self.plan.prepare.iter().filter(|s| s.way != Way::Remove).map(|s| &s.filter);
        let listed: BTreeSet<&Filter> = self.counts.refused.iter().map(|(f, _)| f).collect();
        let left_out =
            |f: &&Filter| self.tainted.contains(&(f.side, f.chain)) && !listed.contains(f);
        let left_out: Vec<Filter> = prepared.filter(left_out).cloned().collect();
        let why = "another filter of its chain was refused";
        self.counts.refused.extend(left_out.into_iter().map(|f| (f, why.to_owned())));
    }

    /// The next run of chain 0: steps from slot `at` on that do not depend on each other's answers,
    /// and the slot behind the last of them.
    ///
    /// The run ends in front of a filter that would be exposed if one in the run were refused:
    /// whether that one may be there is known only after the answers. What is exposed by a gap
    /// that is known becomes a gap itself, which may in turn expose what is behind it; slots are in
    /// the order in which filters are asked, so one walk is enough.
    fn start(&mut self, mut at: usize) -> (Vec<Step>, usize) {
        let slots = mem::take(&mut self.plan.start);
        let mut run: Vec<Step> = Vec::new();
        for slot in &slots[at..] {
            let filter = slot.filter();
            let tainted =
                leads_to(filter).is_some_and(|c| self.tainted.contains(&(filter.side, c)));
            let exposed = self.missing.iter().any(|gap| exposes(gap, filter));
            match slot {
                Slot::Keep(_) if self.chain_zero == ChainZero::Frozen => self.counts.kept += 1,
                Slot::Do(_) if self.chain_zero == ChainZero::Frozen => {
                    self.leave_out(filter, "a filter in front of it was refused")
                }
                // Whether this filter may be there depends on the answer to one in the run.
                _ if run.len() == RUN || run.iter().any(|step| exposes(&step.filter, filter)) => {
                    break;
                }
                _ if tainted => {
                    self.leave_out(filter, "a filter of the chain that it leads to was refused")
                }
                _ if exposed => self.leave_out(filter, "a filter in front of it was refused"),
                // Leaving it out makes the first pass remove what is behind it; the second pass
                // then adds it without risk.
                Slot::Do(step) if self.risky(step) => {
                    self.leave_out(filter, "what is behind it must make way first")
                }
                Slot::Keep(_) => self.counts.kept += 1,
                Slot::Do(step) => run.push(step.clone()),
            }
            at += 1;
        }
        self.plan.start = slots;
        (run, at)
    }

    /// Could replacing this filter expose one behind it? A filter with both copies is replaced in
    /// software even if hardware does not take the new copy, and hardware has lost the old one by
    /// then.
    fn risky(&self, step: &Step) -> bool {
        let Some(Decoded { found: Found::Ours(old), .. }) = self.books.get(&step.place()) else {
            return false;
        };
        let behind = |d: &Decoded| matches!(&d.found, Found::Ours(later) if exposes(old, later));
        step.way == Way::Replace
            && step.filter.copies == Copies::Both
            && self.books.values().any(behind)
    }

    /// Notes a wanted filter of chain 0 that is not there. In software that ends all changes of the
    /// chain; in hardware it is a gap.
    fn leave_out(&mut self, filter: &Filter, why: &str) {
        self.counts.refused.push((filter.clone(), why.into()));
        if filter.copies == Copies::Software {
            self.chain_zero = ChainZero::Frozen;
        } else {
            self.missing.push(filter.clone());
        }
    }

    /// Removals of what chain 0 must not have, from its end: a stale filter goes after all stale
    /// ones behind it, so one that is still the first to match a packet was the first before, too.
    /// What is left out because of a gap goes as well. Nothing is removed where chain 0 is frozen:
    /// behind the refused filter it is what it was.
    fn trim(&self) -> Vec<Step> {
        if self.chain_zero == ChainZero::Frozen {
            return vec![];
        }
        let mut wanted: BTreeSet<(Side, u16, &Match)> = self
            .plan
            .start
            .iter()
            .map(Slot::filter)
            .map(|f| (f.side, f.prio, &f.matches))
            .collect();
        for gap in &self.missing {
            wanted.remove(&(gap.side, gap.prio, &gap.matches));
        }
        let stays = |d: &Decoded| match &d.found {
            Found::Ours(f) => wanted.contains(&(f.side, f.prio, &f.matches)),
            Found::Changed { .. } => false,
            Found::Foreign => true,
        };
        let mut gone: Vec<&Decoded> =
            self.books.values().filter(|d| d.chain == 0 && !stays(d)).collect();
        gone.sort_by_key(|d| (d.side, Reverse((d.prio, d.handle))));
        gone.into_iter().map(removal).collect()
    }

    /// Removals of our filters in chains that packets cannot come to.
    fn idle(&self) -> Vec<Step> {
        let reached = reached(&self.books);
        let idle = |d: &&Decoded| d.chain != 0 && our(d) && !reached.contains(&(d.side, d.chain));
        self.books.values().filter(idle).map(removal).collect()
    }

    /// Ends the pass, and begins the second one where that can help: something was refused, and
    /// something was removed after it.
    fn end(&mut self) {
        self.stage = Stage::Done;
        let more_room = self.counts.removed > self.removed;
        if self.pass == Pass::First
            && more_room
            && !self.counts.refused.is_empty()
            && self.chain_zero == ChainZero::Changing
        {
            self.pass = Pass::Second;
            self.stage = Stage::Plan;
            self.counts.refused.clear();
            self.tainted.clear();
            self.missing.clear();
        }
    }
}

mod stage;
#[cfg(test)]
mod tests;
