//! Reads LabelSelectors, strictly, and checks the syntax of labels and DNS names.
//! Source: k8s.io/apimachinery meta/v1 types.go and validation/validation.go.

use std::{collections::HashMap, sync::Arc};

use netpolc_policy::{Operator, Requirement, Selector};

use crate::{
    problem::{Path, excerpt},
    source::Reader,
    strict::{self, Health},
    tree::{Node, Value},
};

/// How many requirements of one selector are read. The API server sets no limit, and every node has
/// to match every selector against every pod.
pub(crate) const REQUIREMENTS: usize = 1_000;
/// How many values a requirement may have; one with more is broken.
pub(crate) const VALUES: usize = 10_000;

/// Reads what can be understood of a selector. A broken requirement is left out: the caller decides
/// whether that means "true" (the subject of a policy) or "nothing" (a peer), S10.
pub(crate) fn selector(reader: &mut Reader, node: &Node, path: &Path) -> (Selector, Health) {
    let ([labels, expressions], mut health) =
        strict::fields(reader, node, path, ["matchLabels", "matchExpressions"]);
    let mut requirements = Vec::new();
    if let Some(labels) = labels {
        health =
            health.and(match_labels(reader, labels, &path.field("matchLabels"), &mut requirements));
    }
    let path = path.field("matchExpressions");
    match strict::list(reader, expressions, &path) {
        None => health = Health::Broken,
        Some(items) => {
            for (index, item) in items.iter().enumerate() {
                if requirements.len() >= REQUIREMENTS {
                    too_many(reader, item.at, &path, items.len());
                    health = Health::Broken;
                    break;
                }
                match requirement(reader, item, &path.index(index)) {
                    Some(requirement) => requirements.push(requirement),
                    None => health = Health::Broken,
                }
            }
        }
    }
    (Selector { requirements }, health)
}

fn too_many(reader: &mut Reader, at: u32, path: &Path, given: usize) {
    let message = format!(
        "the selector has {given} requirements, but at most {REQUIREMENTS} are read; as the \
        subject of a policy it selects by the first ones alone, and as a peer it matches nothing; \
        write several policies or peers, or give the pods one label that stands for all of these"
    );
    reader.error(at, path, message);
}

fn match_labels(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    into: &mut Vec<Requirement>,
) -> Health {
    let Value::Map(fields) = &node.value else {
        strict::wrong_type(reader, node, path, "an object");
        return Health::Broken;
    };
    let mut health = Health::Sound;
    let mut keys = HashMap::new();
    for field in fields {
        if into.len() >= REQUIREMENTS {
            too_many(reader, field.at, path, fields.len());
            return Health::Broken;
        }
        let path = path.field(&field.name);
        if field.node.value == Value::Broken {
            health = Health::Broken;
            continue;
        }
        let key = label_key(reader, field.at, &path, &field.name);
        let value = label_value(reader, &field.node, &path);
        let (Some(key), Some(value)) = (key, value) else {
            health = Health::Broken;
            continue;
        };
        let requirement = Requirement { key: key.clone(), operator: Operator::In(vec![value]) };
        match keys.get(&key).map(|at: &usize| &into[*at]) {
            // `repeated` has reported it.
            Some(before) if *before == requirement => {}
            Some(_) => health = Health::Broken,
            None => {
                keys.insert(key, into.len());
                into.push(requirement);
            }
        }
    }
    health
}

fn requirement(reader: &mut Reader, node: &Node, path: &Path) -> Option<Requirement> {
    let ([key, operator, values], health) =
        strict::fields(reader, node, path, ["key", "operator", "values"]);
    if health == Health::Broken {
        return None;
    }
    let key = required(reader, key, node, &path.field("key"))?;
    let operator = required(reader, operator, node, &path.field("operator"))?;
    let key_path = path.field("key");
    let key_text = strict::string(reader, key, &key_path)?;
    let key = label_key(reader, key.at, &key_path, key_text)?;
    let operator_path = path.field("operator");
    let name = strict::string(reader, operator, &operator_path)?;
    let values_path = path.field("values");
    let list = strict::list(reader, values, &values_path)?;
    let count = list.len();
    if count > VALUES {
        let message = format!(
            "the requirement has {count} values, but may have at most {VALUES}; write several \
            requirements"
        );
        reader.error(values.unwrap_or(node).at, &values_path, message);
        return None;
    }
    let parsed: Vec<Arc<str>> = list
        .iter()
        .enumerate()
        .filter_map(|(index, value)| label_value(reader, value, &values_path.index(index)))
        .collect();
    if parsed.len() < count {
        return None;
    }
    let values_at = values.unwrap_or(node).at;
    match (name, count) {
        ("In" | "NotIn", 0) => {
            reader.error(
                values_at,
                &values_path,
                format!("operator {name} requires at least one value"),
            );
            None
        }
        ("In", _) => Some(Requirement { key, operator: Operator::In(parsed) }),
        ("NotIn", _) => Some(Requirement { key, operator: Operator::NotIn(parsed) }),
        ("Exists", 0) => Some(Requirement { key, operator: Operator::Exists }),
        ("DoesNotExist", 0) => Some(Requirement { key, operator: Operator::DoesNotExist }),
        ("Exists" | "DoesNotExist", _) => {
            reader.error(
                values_at,
                &values_path,
                format!("operator {name} takes no values; remove them or use In"),
            );
            None
        }
        _ => {
            let message = format!(
                "`{}` is not a valid operator; write In, NotIn, Exists or DoesNotExist",
                excerpt(name)
            );
            reader.error(operator.at, &operator_path, message);
            None
        }
    }
}

fn required<'n, 't>(
    reader: &mut Reader,
    field: Option<&'n Node<'t>>,
    parent: &Node,
    path: &Path,
) -> Option<&'n Node<'t>> {
    if field.is_none() {
        reader.error(parent.at, path, "the field is required but missing");
    }
    field
}

fn label_key(reader: &mut Reader, at: u32, path: &Path, key: &str) -> Option<Arc<str>> {
    if is_label_key(key) {
        return Some(reader.interner.string(key));
    }
    let message = format!(
        "`{}` is not a valid label key; write an optional DNS name and `/`, then at most 63 \
        letters, digits, `-`, `_` and `.`, with a letter or digit first and last",
        excerpt(key)
    );
    reader.error(at, path, message);
    None
}

fn label_value(reader: &mut Reader, node: &Node, path: &Path) -> Option<Arc<str>> {
    if node.value == Value::Null {
        reader.warning(
            node.at,
            path,
            "the API server reads null as the empty value; write \"\" if that is intended",
        );
        return Some(reader.interner.string(""));
    }
    let value = strict::string(reader, node, path)?;
    if is_label_value(value) {
        return Some(reader.interner.string(value));
    }
    let message = format!(
        "`{}` is not a valid label value; write at most 63 letters, digits, `-`, `_` and `.`, with \
        a letter or digit first and last, or leave it empty",
        excerpt(value)
    );
    reader.error(node.at, path, message);
    None
}

/// Whether this is a valid label key: IsQualifiedName of k8s.io/apimachinery util/validation.
pub fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_name_part(key),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name_part(name),
    }
}

/// Whether this is a valid value of a label: IsValidLabelValue of the same package.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name_part(value)
}

fn is_name_part(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether this is a valid name of an object: IsDNS1123Subdomain of k8s.io/apimachinery.
pub fn is_dns_subdomain(text: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|b| lower(*b))
            && bytes.last().is_some_and(|b| lower(*b))
            && bytes.iter().all(|b| lower(*b) || *b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s10_label_syntax_is_that_of_the_api() {
        for good in ["app", "a.b_c-d", "kubernetes.io/metadata.name", "A1"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "-a", "a-", "/a", "a/", "Up.Per/a", "a/b/c", "a b", &"x".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_dns_subdomain("a-1.b") && !is_dns_subdomain("a..b") && !is_dns_subdomain("A"));
    }
}
