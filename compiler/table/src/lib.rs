//! The table IR: P4-style match-action tables, neutral between the lowering above and the targets
//! below.
//!
//! Here: ids ([`id`]), keys and entries ([`key`], [`entry`]), the tables a netpolc program consists
//! of ([`schema`]), the program ([`program`]) and the atomic writes that change it ([`mod@write`]);
//! what can be done with a program alone: look packets up ([`eval`]), go from one to another
//! ([`delta`]), print, parse and check it ([`text`], [`json`], [`p4`], [`check`]), and cut out what
//! concerns one pod ([`slice`](mod@slice)). Not here: where entries come from (compiler/lower) and
//! how a target stores them (targets/). No clock, no IO.

mod boundary;
mod canonical;
pub mod check;
pub mod delta;
pub mod entry;
pub mod eval;
pub mod id;
pub mod json;
pub mod key;
pub mod p4;
mod parse;
pub mod program;
pub mod schema;
pub mod slice;
pub mod text;
pub mod write;

pub use boundary::boundaries;
pub use entry::{Entry, Origin, Origins, TierAction, TierName};
pub use id::{Class, ClassId, EndpointId, Id, IfIndex, Incarnation, PortClassId, RowId, SetId};
pub use key::{Key, Match, Value};
pub use program::{Program, Table};
pub use schema::{ActionId, TableId};
pub use write::{Phase, Plan, Write};
