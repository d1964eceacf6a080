//! Lowering: the policy model of one node becomes a table program, incrementally.
//!
//! ```text
//! event -> pods, blocks        who has which address, which prefixes matter
//!       -> sets, atoms         which policies select a local pod; the peers they name (atoms)
//!       -> classes             what each address is a member of, interned
//!       -> rows, ports         what a set grants a class; elementary port intervals
//!       -> services            addresses and ports that lead to backends
//!       -> wire                the node's own devices: tunnels, the pods' link
//!       -> Changes             the entries that differ
//! ```
//!
//! What comes in is first held against the namespaces' shares ([`Shares`]): what takes too much is set aside alone.
//!
//! An *atom* is one distinct peer of a live set: a pair of selectors, a CIDR with its excepts, a named
//! port's number, a node, or the ports that are Services' on an address. A *class* is a set of atoms; every address belongs to one. Only policies
//! that select local pods have live sets, so only their peers are atoms. Work is proportional to
//! what an event changes: a pod event touches its own address and endpoint.
//!
//! Not here: the order in which a target may be changed (`netpolc_table::delta`), and verdicts
//! straight from the model (the oracle, which shares no code with this crate).

mod atoms;
mod blocks;
mod cells;
mod classes;
mod compiler;
mod endpoints;
mod event;
mod ids;
mod leaves;
mod pods;
mod ports;
mod rows;
mod seed;
mod services;
mod sets;
mod shares;
mod usage;
mod verify;
mod wire;

pub use compiler::{Compiler, Diagnostic, Numbered, Overflow, Scope, compile};
pub use event::{Event, Interface};
pub use shares::{Aside, Kind, Limits, Resource, Room, Shares};
pub use verify::{Counterexample, verify};
pub use wire::{Tunnel, Wire};

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// A fingerprint of some content, the same in every process of one build. Another build may differ:
/// then everything is written anew, which is slow and not wrong.
fn fingerprint(content: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Each once, in order.
fn distinct<T: Ord>(list: impl Iterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = list.collect();
    list.sort_unstable();
    list.dedup();
    list
}
