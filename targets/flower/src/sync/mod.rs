//! From what an interface has to what is wanted on it: which filters change, in which order, and
//! what becomes of the rest when some are refused. All of it is pure: [`crate::flower`] sends the
//! steps and brings the answers.
//!
//! The invariant: a packet meets, at any moment, what was wanted before or what is wanted now;
//! where hardware refuses something it may also meet nothing, and is the host's then. Each step of
//! an update keeps it:
//!
//! 1. Chains above 0 do not change while something leads to them. New content is written under a
//!    number that nothing leads to ([`number`]), and is complete before anything does. If a part of
//!    it is refused, nothing will ever lead there.
//! 2. Chain 0 gets what is new in order of prio, so that whatever decides in front of a filter is
//!    there before it. A filter that only changes its action is replaced in one message. To see
//!    why the invariant holds, let *f* be the first filter that matches a packet at some moment. If
//!    *f* is wanted, then so is everything in front of it that matches, and is there. If it is not,
//!    then *f* was the first before the update, too.
//! 3. What is not wanted any more goes from the end of chain 0, for the same reason; then go the
//!    chains that nothing leads to. Before each of the two, packets under way are waited for: the
//!    filters that they have passed already may be of either kind.
//!
//! Chains that only redirect by destination or hand to the host are the exception to step 1: any
//! part of one is as good as the whole. They change in place, so that a pod that comes changes one
//! filter of each ([`number`]). What goes from them goes before step 2, what comes follows step 3.
//!
//! A refusal leaves a gap in step 2. Software decides alone, so there everything behind the gap
//! stays as it was. In hardware, filters behind the gap that could take a packet from it and do
//! something else with it are left out or removed ([`exposes`]), and are gaps themselves: hardware
//! decides fewer packets, and none of them differently.
//!
//! A crash leaves a state that the next start finds and completes; nothing is remembered elsewhere.
//! [`mod@plan`] has what changes, [`job`] the order with answers. Not here: netlink.

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

/// One change of one filter on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whether the filter is added, replaced or removed.
    pub way: Way,
    /// The filter; of a removal only its place counts.
    pub filter: Filter,
    /// The filter's number within its chain and prio, from 1.
    pub handle: u32,
}

/// A filter's identity on an interface. In this order chain 0 comes first, and what is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The hook of the interface's clsact qdisc.
    pub side: Side,
    /// The chain; 0 is where packets start.
    pub chain: u32,
    /// The prio within the chain; lower ones are asked first.
    pub prio: u16,
    /// The kernel's number for the filter within its chain and prio, from 1.
    pub handle: u32,
}

/// Everything an interface has, others' filters included.
pub type Books = BTreeMap<Place, Decoded>;

/// What a dump of one interface lists, by place.
pub fn books(dump: impl IntoIterator<Item = Decoded>) -> Books {
    let place =
        |d: &Decoded| Place { side: d.side, chain: d.chain, prio: d.prio, handle: d.handle };
    dump.into_iter().map(|d| (place(&d), d)).collect()
}

impl Step {
    /// The place of the filter that the step changes.
    pub fn place(&self) -> Place {
        let Filter { side, chain, prio, .. } = self.filter;
        Place { side, chain, prio, handle: self.handle }
    }
}

/// The chain that a filter leads to; None where its action ends the walk.
pub fn leads_to(filter: &Filter) -> Option<u32> {
    match filter.action {
        Action::Goto(chain) | Action::Track(chain) => Some(chain),
        _ => None,
    }
}

/// If `front` is missing, could `later`, of the same chain, take a packet that `front` was meant
/// for and do something else with it? A packet that hardware passes or leaves alone goes to the
/// host, which always decides correctly, so that does not count.
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

/// Did netpolc install this filter, even if somebody changed it since?
fn our(decoded: &Decoded) -> bool {
    decoded.found != Found::Foreign
}

/// Does hardware have the filter, if it is meant to be there?
fn offloaded(decoded: &Decoded, filter: &Filter) -> bool {
    filter.copies == Copies::Software || decoded.in_hardware > 0
}
