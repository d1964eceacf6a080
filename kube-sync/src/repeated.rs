//! Finds keys that occur twice in one map. YAML and JSON forbid them, kubectl takes the last one,
//! and nobody intends them: each is reported with line and field, as an error where the values
//! differ.
//!
//! Not here: what follows from a repeated key (`object` for documents that ran together, `strict`
//! for policies).

use std::collections::HashMap;

use crate::{
    problem::Path,
    source::Reader,
    tree::{Field, Node, Value},
};

/// Reports every key in or below `node` that occurred before in the same map.
pub(crate) fn report(reader: &mut Reader, node: &Node, path: &Path) {
    match &node.value {
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                report(reader, item, &path.index(index));
            }
        }
        Value::Map(fields) => {
            for (index, before) in of(fields) {
                let field = &fields[index];
                let path = path.field(&field.name);
                if fields[before].node.same(&field.node) {
                    reader.warning(
                        field.at,
                        &path,
                        "the field is given twice with the same value; keep one",
                    );
                } else {
                    reader.error(field.at, &path, "the field is given twice; keep one");
                }
            }
            for field in fields {
                report(reader, &field.node, &path.field(&field.name));
            }
        }
        _ => {}
    }
}

/// The largest number of fields among which repetitions are found by comparing every pair.
const MAX_PAIRWISE: usize = 16;

/// The indices of the fields whose name occurred before, each with the index of the last field that
/// had it. Fields without a name mark where the input broke off and are skipped.
pub(crate) fn of(fields: &[Field]) -> Vec<(usize, usize)> {
    let named = fields.iter().enumerate().filter(|(_, field)| !field.name.is_empty());
    if fields.len() <= MAX_PAIRWISE {
        let before =
            |index: usize| fields[..index].iter().rposition(|f| f.name == fields[index].name);
        return named.filter_map(|(index, _)| Some((index, before(index)?))).collect();
    }
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(fields.len());
    named.filter_map(|(index, field)| Some((index, seen.insert(&field.name, index)?))).collect()
}
