//! The entries as a WriteRequest of P4Runtime, in the text format of Protocol Buffers.
//!
//! Device, role and election are left out: they belong to the controller that sends the request.
//! What a field does not restrict is left out too, as P4Runtime demands: a prefix of no bits, and
//! an interval of every value.
//!
//! Not here: the order in which a switch in use may be changed ([`crate::delta`]): these are the
//! entries of a switch that has none yet.

use std::fmt::{self, Display};

use super::{Bytes, action_id, has_priority, table_id, tables};
use crate::{
    Entry, Key, Match, Program,
    schema::{FieldSpec, TableSpec},
};

/// A message `p4.v1.WriteRequest` that inserts the entries of a program into empty tables.
pub struct Entries<'a>(pub &'a Program);

impl Display for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("# proto-file: p4/v1/p4runtime.proto\n# proto-message: p4.v1.WriteRequest\n")?;
        for spec in tables() {
            for (key, entry) in &self.0.table(spec.id).entries {
                insert(f, spec, key, entry)?;
            }
        }
        Ok(())
    }
}

fn insert(f: &mut fmt::Formatter<'_>, spec: &TableSpec, key: &Key, entry: &Entry) -> fmt::Result {
    f.write_str("updates {\n  type: INSERT\n  entity {\n    table_entry {\n")?;
    writeln!(f, "      table_id: {}", table_id(spec.id))?;
    for (i, (field, found)) in spec.fields.iter().zip(key.fields()).enumerate() {
        field_match(f, i + 1, field, found)?;
    }
    f.write_str("      action {\n        action {\n")?;
    writeln!(f, "          action_id: {}", action_id(entry.action))?;
    let params = entry.action.spec().params.len();
    for (i, value) in entry.params().iter().take(params).enumerate() {
        let (id, value) = (i + 1, Bytes((*value).into()));
        writeln!(f, "          params {{ param_id: {id} value: {value} }}")?;
    }
    f.write_str("        }\n      }\n")?;
    if has_priority(spec) {
        f.write_str("      priority: 1\n")?;
    }
    f.write_str("    }\n  }\n}\n")
}

fn field_match(
    f: &mut fmt::Formatter<'_>,
    id: usize,
    field: &FieldSpec,
    found: &Match,
) -> fmt::Result {
    let most = u32::MAX.checked_shr(32u32.saturating_sub(field.width.into())).unwrap_or(u32::MAX);
    match *found {
        Match::Lpm { length: 0, .. } => Ok(()),
        Match::Range { low: 0, high } if high == most => Ok(()),
        Match::Exact(value) => {
            writeln!(f, "      match {{ field_id: {id} exact {{ value: {} }} }}", Bytes(value))
        }
        Match::Lpm { value, length } => {
            let value = Bytes(value);
            writeln!(
                f,
                "      match {{ field_id: {id} lpm {{ value: {value} prefix_len: {length} }} }}"
            )
        }
        Match::Range { low, high } => {
            let (low, high) = (Bytes(low.into()), Bytes(high.into()));
            writeln!(f, "      match {{ field_id: {id} range {{ low: {low} high: {high} }} }}")
        }
    }
}
