//! Flows: what a node decided about packets, in the words of people, and the lines in which flows
//! leave an agent (S87, S88).
//!
//! Whoever makes, serves, exports or shows flows uses these types. Not here: how a flow is made
//! from a target's record (`netpolc-agent`), and other systems' forms of it (`netpolc-export`).

mod decider;
mod flow;
pub mod line;
pub mod time;
mod words;

pub use decider::{Decider, Kind};
pub use flow::{Flow, Peer, Verdict};
