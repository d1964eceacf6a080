//! The executor: does a plan, step by step, on a target.
//!
//! Grace periods stand here: a target settles before the first write of each phase that says so ([`Phase::settles`]), so that
//! packets that began before the last phase are gone, and after the last write of such a plan, so that freed ids may be used again.

use netpolc_table::{Entry, Key, Phase, Plan, Program, TableId, Write};

use crate::{Error, Target};

/// A step that a target did not do. Everything before it is done, nothing after it; the answers are those of a valid
/// state in between (S57), and a new plan from [`Target::read`] completes the update.
#[derive(Debug, thiserror::Error)]
#[error("step {index} of {steps} ({}, table {}) failed: {source}", name(*.phase), .table.spec().name)]
pub struct Failed {
    /// Its place in the plan, from 0; for a grace period that of the next write, or the number of steps behind the last.
    pub index: usize,
    /// Steps in the plan.
    pub steps: usize,
    /// Its phase.
    pub phase: Phase,
    /// The table it was to change; for a grace period that of the write next to it.
    pub table: TableId,
    /// Why.
    pub source: Error,
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Refine => "refine",
        Phase::Switch => "switch",
        Phase::Coarsen => "coarsen",
        Phase::Merge => "merge",
        Phase::Remove => "remove",
    }
}

/// Does the whole plan.
///
/// # Errors
/// The first step that fails; the rest is left undone.
pub fn execute(target: &mut dyn Target, plan: &Plan) -> Result<(), Failed> {
    let mut execution = Execution::new(plan);
    while execution.step(target)?.is_some() {}
    Ok(())
}

/// Entries in one write of [`fill`].
const FILL: usize = 4_096;

/// Puts a whole program into a target that holds nothing; answers the number of writes. No packet is judged without an entry of
/// `interface`, which come last: until then each packet gets the old answer (none), and each of them moves its own endpoint to
/// the new ones. So the order of the rest does not matter, and nothing has to be planned. Settles once, before all, for packets that saw
/// what was removed last.
///
/// # Errors
/// The first write that fails; the rest is left undone. The next try finds something, and has to plan.
pub fn fill(target: &mut dyn Target, program: &Program) -> Result<usize, Failed> {
    let (last, first): (Vec<_>, Vec<_>) = program.tables().partition(|table| table.id == TableId::Interface);
    let tables = first.iter().chain(&last);
    let steps = tables.clone().map(|table| table.entries.len().div_ceil(FILL)).sum();
    let mut done = 0;
    let settled = target.settle();
    settled.map_err(|source| Failed { index: 0, steps, phase: Phase::Refine, table: TableId::Interface, source })?;
    for table in tables {
        let mut entries = table.entries.iter().peekable();
        while entries.peek().is_some() {
            // Targets keep no origins.
            let bare = |(key, entry): (&Key, &Entry)| (key.clone(), entry.bare());
            let put = entries.by_ref().take(FILL).map(bare).collect();
            let write = Write { table: table.id, remove: vec![], put };
            let phase = if table.id == TableId::Interface { Phase::Switch } else { Phase::Refine };
            let failed = |source| Failed { index: done, steps, phase, table: table.id, source };
            target.write(&write).map_err(failed)?;
            done += 1;
        }
    }
    Ok(done)
}

/// A plan that is being done. Stopping between two steps is what a killed agent does.
#[derive(Clone, Debug)]
pub struct Execution<'a> {
    plan: &'a Plan,
    next: usize,
    grace: Grace,
}

/// The last grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    None,
    /// The one before the first write of this phase.
    Before(Phase),
    /// The one behind the last write.
    Final,
}

impl<'a> Execution<'a> {
    /// Nothing is done yet.
    pub fn new(plan: &'a Plan) -> Self {
        Execution { plan, next: 0, grace: Grace::None }
    }

    /// Writes done so far.
    pub fn done(&self) -> usize {
        self.next
    }

    /// Does the next write, with the grace period before it where it begins a phase that wants one. None where nothing is
    /// left to do; the last call before that settles a last time where the last phase settles.
    ///
    /// # Errors
    /// What failed. The next call tries the same again.
    pub fn step(&mut self, target: &mut dyn Target) -> Result<Option<(Phase, &'a Write)>, Failed> {
        let plan = self.plan;
        let Some((phase, write)) = plan.steps.get(self.next).map(|(p, w)| (*p, w)) else {
            if let Some((phase, write)) = plan.steps.last()
                && phase.settles()
                && self.grace != Grace::Final
            {
                target.settle().map_err(|e| self.failed(*phase, write, e))?;
                self.grace = Grace::Final;
            }
            return Ok(None);
        };
        if phase.settles() && self.grace != Grace::Before(phase) {
            target.settle().map_err(|e| self.failed(phase, write, e))?;
            self.grace = Grace::Before(phase);
        }
        target.write(write).map_err(|e| self.failed(phase, write, e))?;
        self.next += 1;
        Ok(Some((phase, write)))
    }

    fn failed(&self, phase: Phase, write: &Write, source: Error) -> Failed {
        Failed { index: self.next, steps: self.plan.steps.len(), phase, table: write.table, source }
    }
}
