//! A program in the forms that tools for P4 read: P4Info ([`Info`]), the entries as a WriteRequest
//! of P4Runtime ([`Entries`]), both in the text format of Protocol Buffers, and the pipeline as a
//! P4_16 program for the architecture v1model ([`Source`]).
//!
//! All three speak of the same tables, actions and ids, which depend on the schema alone and not on
//! the entries: the high byte is P4Runtime's kind of object, the rest the place in the schema,
//! counted from 1, and fields and parameters count from 1.
//!
//! Here: ids, names, and which tables there are. Not here: netpolc's own forms
//! ([`crate::text`], [`crate::json`]).

mod info;
mod runtime;
mod source;

use std::fmt;

pub use self::{
    info::Info,
    runtime::Entries,
    source::{Install, Source},
};
use crate::{
    ActionId, TableId, Value,
    schema::{MatchKind, TableSpec},
};

/// The control whose tables and actions these are; it comes before their names.
const CONTROL: &str = "ingress";

/// The tables that judge packets, in pipeline order. Without the one that says what is only tried,
/// which changes no verdict, and the one that keeps the meaning of ids, which no packet reads.
pub fn tables() -> impl Iterator<Item = &'static TableSpec> {
    let judges = |id: &&TableId| !matches!(id, TableId::Tried | TableId::Directory);
    TableId::ALL.iter().filter(judges).map(|id| id.spec())
}

/// The actions of these tables, in the schema's order.
pub fn actions() -> impl Iterator<Item = ActionId> {
    let used = |action: &ActionId| {
        tables().any(|table| table.actions.contains(action) || table.default.0 == *action)
    };
    ActionId::ALL.iter().copied().filter(used)
}

/// The id of a table in P4Runtime.
pub fn table_id(id: TableId) -> u32 {
    0x0200_0000 | (id as u32 + 1)
}

/// The id of an action in P4Runtime.
pub fn action_id(id: ActionId) -> u32 {
    0x0100_0000 | (id as u32 + 1)
}

/// The name of an action. One that a table has already is told apart, since a P4 program has both
/// in one scope.
fn action_name(id: ActionId) -> String {
    let name = id.spec().name;
    let is_taken = tables().any(|table| table.name == name);
    if is_taken { format!("{name}_hit") } else { name.to_owned() }
}

/// Which of a table's entries and defaults use an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Both,
    Entries,
    Default,
}

/// The actions of a table with their scopes: those of entries first.
fn scopes(table: &'static TableSpec) -> impl Iterator<Item = (ActionId, Scope)> {
    let default = table.default.0;
    let of_entries = table.actions.iter().map(move |&action| match action == default {
        true => (action, Scope::Both),
        false => (action, Scope::Entries),
    });
    let only = (!table.actions.contains(&default)).then_some((default, Scope::Default));
    of_entries.chain(only)
}

/// Do entries of this table need a priority? P4Runtime wants one wherever intervals or masks may
/// overlap; netpolc's intervals never do, so all of them have the same.
fn has_priority(table: &TableSpec) -> bool {
    table.fields.iter().any(|field| field.kind == MatchKind::Range)
}

/// A value as P4Runtime wants it: the bytes of the number, high ones first and without those that
/// are zero, but at least one; escaped as a string of Protocol Buffers' text format.
struct Bytes(Value);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.get().to_be_bytes();
        let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        f.write_str("\"")?;
        bytes[first..].iter().try_for_each(|byte| write!(f, "\\{byte:03o}"))?;
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_shortest_byte_strings() {
        let shown = |number: u128| Bytes(number.into()).to_string();
        assert_eq!(shown(0), r#""\000""#);
        assert_eq!(shown(80), r#""\120""#);
        assert_eq!(shown(256), r#""\001\000""#);
        assert_eq!(shown(u128::MAX), format!("\"{}\"", r"\377".repeat(16)));
    }

    #[test]
    fn ids_have_the_byte_of_their_kind() {
        assert_eq!(
            (table_id(TableId::Interface), action_id(ActionId::Miss)),
            (33_554_433, 16_777_217)
        );
        assert!(tables().all(|table| table_id(table.id) >> 24 == 2));
        assert_eq!((tables().count(), actions().count()), (15, 13));
    }
}
