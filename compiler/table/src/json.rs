//! A program as JSON, in the field names of P4Runtime's p4info, with its entries.
//!
//! - Ids follow P4Runtime: the high byte is the kind (1 action, 2 table), the rest the place in the
//!   schema from 1; fields and parameters count from 1. They do not depend on the entries.
//! - A table's entries have the shape of P4Runtime's TableEntry (`match`, `action`, `priority`),
//!   beside p4info's own fields. Values are hexadecimal, as wide as their field; `text` is the
//!   entry as [`crate::text`] prints it, `origins` where it comes from.
//! - Priority is nonzero exactly in tables with a range field, as P4Runtime demands. It is 1 for
//!   all entries: they never overlap.
//! - Actions that only a default uses are marked `DEFAULT_ONLY`, those that only entries use
//!   `TABLE_ONLY`.

use serde_json::{Value as Json, json};

use crate::{
    ActionId, Entry, Key, Match, Program, Table, TableId, Value,
    schema::{ActionSpec, FieldSpec, Format, MatchKind},
    text,
};

/// The whole program. Equal programs give equal JSON.
pub fn p4info(program: &Program) -> Json {
    json!({
        "pkg_info": { "name": "netpolc", "arch": "netpolc" },
        "tables": program.tables().map(table).collect::<Vec<_>>(),
        "actions": ActionId::ALL.iter().map(|id| action(id.spec())).collect::<Vec<_>>(),
    })
}

/// The P4Runtime id of a table.
pub fn table_id(id: TableId) -> u32 {
    0x0200_0000 | (id as u32 + 1)
}

/// The P4Runtime id of an action.
pub fn action_id(id: ActionId) -> u32 {
    0x0100_0000 | (id as u32 + 1)
}

fn preamble(id: u32, name: &str) -> Json {
    json!({ "id": id, "name": name, "alias": name })
}

fn action(spec: &ActionSpec) -> Json {
    let param = |(i, (name, width, _)): (usize, &(&str, u8, Format))| json!({ "id": i + 1, "name": name, "bitwidth": width });
    json!({
        "preamble": preamble(action_id(spec.id), spec.name),
        "params": spec.params.iter().enumerate().map(param).collect::<Vec<_>>(),
    })
}

fn match_type(kind: MatchKind) -> &'static str {
    match kind {
        MatchKind::Exact => "EXACT",
        MatchKind::Lpm => "LPM",
        MatchKind::Range => "RANGE",
    }
}

fn table(table: &Table) -> Json {
    let spec = table.id.spec();
    let field = |(i, f): (usize, &FieldSpec)| json!({ "id": i + 1, "name": f.name, "bitwidth": f.width, "match_type": match_type(f.kind) });
    let scope =
        |id: ActionId| if id == spec.default.0 { "TABLE_AND_DEFAULT" } else { "TABLE_ONLY" };
    let default = spec.default.0;
    let mut refs: Vec<Json> =
        spec.actions.iter().map(|&id| json!({ "id": action_id(id), "scope": scope(id) })).collect();
    if !spec.actions.contains(&default) {
        refs.push(json!({ "id": action_id(default), "scope": "DEFAULT_ONLY" }));
    }
    json!({
        "preamble": preamble(table_id(table.id), spec.name),
        "match_fields": spec.fields.iter().enumerate().map(field).collect::<Vec<_>>(),
        "action_refs": refs,
        "const_default_action_id": action_id(default),
        "initial_default_action": call(&Entry::new(default, spec.default.1), "arguments"),
        "size": table.size,
        "entries": table.entries.iter().map(|(k, e)| entry(table.id, k, e)).collect::<Vec<_>>(),
    })
}

/// An action with its parameters; the list's name differs between p4info and P4Runtime.
fn call(entry: &Entry, list: &str) -> Json {
    let params = entry.action.spec().params.iter().enumerate();
    let params =
        params.map(|(i, (_, width, _))| json!({ "param_id": i + 1, "value": hex(entry.params[i].into(), *width) }));
    json!({ "action_id": action_id(entry.action), list: params.collect::<Vec<_>>() })
}

fn entry(table: TableId, key: &Key, entry: &Entry) -> Json {
    let fields = table.spec().fields;
    let one = |(i, m): (usize, &Match)| {
        let width = fields.get(i).map_or(128, |f| f.width);
        let mut json = match *m {
            Match::Exact(value) => json!({ "exact": { "value": hex(value, width) } }),
            Match::Lpm { value, length } => {
                json!({ "lpm": { "value": hex(value, width), "prefix_len": length } })
            }
            Match::Range { low, high } => {
                json!({ "range": { "low": hex(low.into(), width), "high": hex(high.into(), width) } })
            }
        };
        json["field_id"] = json!(i + 1);
        json
    };
    let ranged = fields.iter().any(|f| f.kind == MatchKind::Range);
    let mut json = json!({
        "match": key.fields().iter().enumerate().map(one).collect::<Vec<_>>(),
        "action": { "action": call(entry, "params") },
        "text": text::entry(table, key, &Entry::new(entry.action, entry.params)),
        "origins": entry.origins.as_slice(),
    });
    if ranged {
        json["priority"] = json!(1);
    }
    json
}

fn hex(value: Value, width: u8) -> String {
    format!("{:#0digits$x}", value.get(), digits = 2 + usize::from(width.div_ceil(4)))
}
