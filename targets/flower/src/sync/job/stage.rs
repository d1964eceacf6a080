//! What a job asks for and reports, and how far it can be.
//!
//! Not here: what it does ([`super`]).

use super::{Filter, Step};

/// What the caller must do next for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send these changes in this order, then pass each answer to
    /// [`Job::answer`](super::Job::answer).
    Steps(Vec<Step>),
    /// Wait until packets under way have left, then call [`Job::settled`](super::Job::settled).
    Settle,
    /// Nothing: the job is over, see [`Job::finish`](super::Job::finish).
    Done,
}

/// What a job did to its interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many filters are new.
    pub added: usize,
    /// How many filters were replaced by others with the same match.
    pub replaced: usize,
    /// How many filters were removed.
    pub removed: usize,
    /// How many filters were installed already and stay as they are.
    pub kept: usize,
    /// Wanted filters that are not installed, each with the reason.
    pub refused: Vec<(Filter, String)>,
}

/// How far a job is. Chain 0 is where packets start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was done yet: the plan is made from what is installed.
    Plan,
    /// Chain 0 is being taken away, since no number is left for a chain.
    Clear,
    /// Chain 0 is gone. Chains that it led to are free once packets have left them.
    Cleared,
    /// Chains that nothing leads to are being completed.
    Prepare,
    /// Chain 0 gets what is new, from this slot on.
    Start(usize),
    /// Chain 0 has what is wanted, beside what is not. A packet that walked past the place of a new
    /// filter before it was there must still meet the old one, so packets are waited for.
    Started,
    /// What is not wanted is being taken from chain 0.
    Trim,
    /// Nothing leads to the old chains any more, but packets may still be in them.
    Trimmed,
    /// Chains that change in place get what is new.
    Sweep,
    /// Nothing is left to do.
    Done,
}

/// What may still become of chain 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainZero {
    /// It is on its way to what is wanted.
    Changing,
    /// Software refused a filter of it. Software decides alone, so the filters behind the refused
    /// one stay as they were, and nothing is trimmed.
    Frozen,
}

/// Whether this is the first attempt. A filter that was refused while a stale one was still there
/// may be accepted once that is gone: the NIC has no room for both, or takes no filter that
/// resembles one it has, not even as its replacement. So there is a second pass, and no third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    First,
    Second,
}
