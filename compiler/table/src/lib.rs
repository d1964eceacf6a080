//! The table IR: P4-style match-action tables, neutral between the lowering above and the targets below.
//!
//! Here: keys and entries ([`key`], [`entry`]), the tables a netpolc program consists of ([`schema`]),
//! the program ([`program`]) and the atomic writes that change it ([`write`]).
//! Not here: where entries come from (compiler/lower) and how a target stores them (targets/).
//! No clock, no IO.

pub mod delta;
pub mod entry;
pub mod eval;
pub mod key;
pub mod program;
pub mod schema;
pub mod write;

pub use entry::{Entry, Origin, Origins};
pub use key::{Key, Match, Value};
pub use program::{Program, Table};
pub use schema::{ActionId, TableId};
pub use write::{Phase, Plan, Write};
