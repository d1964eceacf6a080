//! Keys that one map has twice. YAML and JSON forbid it, kubectl takes the last, and nobody means
//! it: it is always a problem with line and field, an error where the values differ.
//!
//! Not here: what follows from it (`object` for documents that ran together, `strict` for
//! policies).

use std::collections::HashMap;

use crate::{
    problem::Path,
    source::Reader,
    tree::{Field, Node, Value},
};

/// Reports every key in or below `node` that its map had before.
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
                    reader.warning(field.at, &path, "given twice, with the same value; keep one");
                } else {
                    reader.error(field.at, &path, "given twice; keep one");
                }
            }
            for field in fields {
                report(reader, &field.node, &path.field(&field.name));
            }
        }
        _ => {}
    }
}

/// Maps with more fields than this are searched by hash.
const FEW: usize = 16;

/// The fields of a map whose name stood before, each with the last one that had it. The unnamed
/// ones are what was cut short, and no fields.
pub(crate) fn of(fields: &[Field]) -> Vec<(usize, usize)> {
    let named = fields.iter().enumerate().filter(|(_, field)| !field.name.is_empty());
    if fields.len() <= FEW {
        let before = |index: usize| fields[..index].iter().rposition(|f| f.name == fields[index].name);
        return named.filter_map(|(index, _)| Some((index, before(index)?))).collect();
    }
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(fields.len());
    named.filter_map(|(index, field)| Some((index, seen.insert(&field.name, index)?))).collect()
}
