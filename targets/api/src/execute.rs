//! The executor: carries a plan out on a target, step by step.
//!
//! Grace periods are decided here. A target settles before the first write of each phase that says
//! so ([`Phase::settles`]), so that packets that began before the last phase are gone, and after
//! the last write of such a plan, so that freed ids may be used again.

use netpolc_table::{Entry, Key, Phase, Plan, Program, TableId, Write};

use crate::{Error, Target};

/// A step that a target did not do. Everything before it is done, nothing after it. The answers are
/// those of a valid state in between (S57), and a new plan from [`Target::read`] completes the
/// update.
#[derive(Debug, thiserror::Error)]
#[error("step {index} of {steps} ({}, table {}) failed: \
    {source}", name(*.phase), .table.spec().name)]
pub struct Failed {
    /// The step's place in the plan, from 0. A grace period has the place of the write that it
    /// precedes, which after the last write is the number of steps.
    pub index: usize,
    /// How many steps the plan has.
    pub steps: usize,
    /// The phase that the step belongs to.
    pub phase: Phase,
    /// The table that the step was to change; for a grace period the table of the write next to it.
    pub table: TableId,
    /// What the target answered.
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

/// Carries out the whole plan.
///
/// # Errors
/// [`Failed`] names the first step that fails; the steps after it are not tried.
///
/// # Examples
///
/// ```
/// use netpolc_table::{EndpointId, IfIndex, Program, TableId, Write, delta, schema};
/// use netpolc_target::{Target as _, execute};
/// use netpolc_target_mem::Mem;
///
/// let mut target = Mem::default();
/// let mut wanted = Program::default();
/// let entry = schema::set_endpoint(EndpointId::new(1));
/// wanted.apply(&Write::put(TableId::Interface, schema::interface_key(IfIndex::new(7)), entry));
///
/// // What the target holds, what it should hold, and the steps in between.
/// let (wanted, plan) = delta::plan(&target.read()?, &wanted)?;
/// execute(&mut target, &plan)?;
/// assert_eq!(target.read()?, wanted);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn execute(target: &mut dyn Target, plan: &Plan) -> Result<(), Failed> {
    let mut execution = Execution::new(plan);
    while execution.step(target)?.is_some() {}
    Ok(())
}

/// How many entries one write of [`fill`] holds at most.
const FILL_BATCH: usize = 4_096;

/// Puts a whole program into a target that holds nothing, and returns the number of writes.
///
/// No plan is needed. A packet is judged only where its interface has an entry in `interface`, and
/// that table is written last: until then each packet gets the old answer (none), and each of those
/// entries moves one endpoint to the new answers. The order of all other tables therefore does not
/// matter. The target settles once, before the first write, for packets that saw what was removed
/// last.
///
/// # Errors
/// [`Failed`] names the first write that fails; the rest is left undone. The target then holds
/// something, so that the next try has to plan.
///
/// # Examples
///
/// ```
/// use netpolc_table::Program;
/// use netpolc_target_mem::Mem;
///
/// let writes = netpolc_target::fill(&mut Mem::default(), &Program::default())?;
/// assert_eq!(writes, 0, "an empty program has nothing to write");
/// # Ok::<(), netpolc_target::Failed>(())
/// ```
pub fn fill(target: &mut dyn Target, program: &Program) -> Result<usize, Failed> {
    let (last, first): (Vec<_>, Vec<_>) =
        program.tables().partition(|table| table.id == TableId::Interface);
    let tables = first.iter().chain(&last);
    let steps = tables.clone().map(|table| table.entries.len().div_ceil(FILL_BATCH)).sum();
    let mut done = 0;
    let settled = target.settle();
    settled.map_err(|source| Failed {
        index: 0,
        steps,
        phase: Phase::Refine,
        table: TableId::Interface,
        source,
    })?;
    for table in tables {
        let mut entries = table.entries.iter().peekable();
        while entries.peek().is_some() {
            // Targets keep no origins.
            let bare = |(key, entry): (&Key, &Entry)| (key.clone(), entry.bare());
            let put = entries.by_ref().take(FILL_BATCH).map(bare).collect();
            let write = Write { table: table.id, remove: vec![], put };
            let phase = if table.id == TableId::Interface { Phase::Switch } else { Phase::Refine };
            let failed = |source| Failed { index: done, steps, phase, table: table.id, source };
            target.write(&write).map_err(failed)?;
            done += 1;
        }
    }
    Ok(done)
}

/// A plan that is being carried out. A killed agent is one that stops between two steps.
#[derive(Clone, Debug)]
pub struct Execution<'a> {
    plan: &'a Plan,
    next: usize,
    grace: Grace,
}

/// The last grace period that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    /// No grace period has passed yet.
    None,
    /// The one before the first write of this phase.
    Before(Phase),
    /// The one after the last write.
    Final,
}

impl<'a> Execution<'a> {
    /// Begins at the plan's first step; nothing is written yet.
    pub fn new(plan: &'a Plan) -> Self {
        Execution { plan, next: 0, grace: Grace::None }
    }

    /// How many writes are done so far.
    pub fn done(&self) -> usize {
        self.next
    }

    /// Does the next write and returns it with its phase, after a grace period where the write
    /// begins a phase that needs one. None means that nothing is left to do; the call that returns
    /// it settles a last time where the last phase settles.
    ///
    /// # Errors
    /// [`Failed`] where the write or the grace period fails. The next call tries the same step
    /// again.
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
