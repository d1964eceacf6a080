//! From what an interface has to what is wanted on it: which filters change, in which order, and what becomes of the
//! rest when some are refused. All of it is pure: [`crate::flower`] sends the steps and brings the answers.
//!
//! What a packet meets at any moment is what was wanted before, or what is wanted now; where hardware refuses something,
//! also nothing (then it is the host's). This is how:
//!
//! 1. Chains above 0 do not change while something leads to them. New content comes under a number that nothing leads to
//!    ([`number`]), complete before anything does. If a part of it is refused, nothing will.
//! 2. Chain 0 takes what is new in order of prio: what decides in front of a filter is there before it. A filter that only
//!    changes what it does is replaced at once. Let *f* be the first filter that matches a packet at some moment: if *f* is
//!    wanted, so is everything in front of it that matches, and it is there; if not, *f* was the first before, too.
//! 3. What is not wanted any more goes from the end of chain 0, for the same reason; then chains that nothing leads to go.
//!    Before each of the two, packets under way are waited for: what they have left behind them may be of either kind.
//!
//! Chains that only redirect by destination or hand to the host are the exception to step 1: any part of one is as good as the
//! whole. They change in place, so that a pod that comes changes one filter of each ([`number`]): what goes from them goes before step
//! 2, what comes follows step 3.
//!
//! A refusal makes a hole in step 2. Software decides alone, so there everything behind the hole stays as it was. In
//! hardware, filters behind the hole that could take a packet from it and do something else with it are left out or go
//! ([`exposes`]), and are holes themselves: it decides less, and nothing otherwise.
//!
//! A crash leaves a state that this finds again; nothing is remembered elsewhere. [`mod@plan`] has what changes, [`job`] the
//! order with answers. Not here: netlink.

use std::collections::BTreeMap;

use crate::{
    filter::{Action, Copies, Filter, Side},
    netlink::{Decoded, Found, Way},
};

pub mod job;
pub mod number;
pub mod plan;

pub use job::{Job, Next};
pub use plan::{Blocked, Plan, Slot, plan};

/// One change on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub way: Way,
    /// The filter; of a removal only its place counts.
    pub filter: Filter,
    /// In its place.
    pub handle: u32,
}

/// A filter's identity on an interface. In this order chain 0 comes first, and what is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The hook.
    pub side: Side,
    /// The chain.
    pub chain: u32,
    /// The prio.
    pub prio: u16,
    /// The handle.
    pub handle: u32,
}

/// Everything an interface has, others' filters included.
pub type Books = BTreeMap<Place, Decoded>;

/// A dump as books.
pub fn books(dump: impl IntoIterator<Item = Decoded>) -> Books {
    let place = |d: &Decoded| Place { side: d.side, chain: d.chain, prio: d.prio, handle: d.handle };
    dump.into_iter().map(|d| (place(&d), d)).collect()
}

impl Step {
    /// Where it changes something.
    pub fn place(&self) -> Place {
        let Filter { side, chain, prio, .. } = self.filter;
        Place { side, chain, prio, handle: self.handle }
    }
}

/// The chain a filter leads to.
pub fn leads_to(filter: &Filter) -> Option<u32> {
    match filter.action {
        Action::Goto(chain) | Action::Track(chain) => Some(chain),
        _ => None,
    }
}

/// Where `front` is missing, could `later`, of the same chain, take a packet that `front` was to have, and do something
/// else with it? What hardware passes or leaves alone is the host's, which is always right.
pub fn exposes(front: &Filter, later: &Filter) -> bool {
    let hardware = |f: &Filter| f.copies != Copies::Software;
    let software = |f: &Filter| f.copies != Copies::Hardware;
    let alone = software(front) && software(later);
    let decides = match later.action {
        Action::Continue => false,
        Action::Pass => alone,
        _ => alone || hardware(front) && hardware(later),
    };
    front.action != later.action
        && decides
        && front.action != Action::Continue
        && (front.side, front.chain) == (later.side, later.chain)
        && front.prio <= later.prio
        && front.matches.may_overlap(&later.matches)
}

/// Is it, or was it, ours?
fn our(decoded: &Decoded) -> bool {
    decoded.found != Found::Foreign
}

/// Has hardware what it should have?
fn offloaded(decoded: &Decoded, filter: &Filter) -> bool {
    filter.copies == Copies::Software || decoded.in_hardware > 0
}
