//! Strict reading of objects: every field known, each once, of the right type. A lenient decoder turns
//! `egress: [{from: ...}]` into a rule without peers, which allows everything.

use crate::{
    problem::{Path, excerpt},
    source::Reader,
    tree::{Node, Value},
};

/// Whether everything in an object could be understood. What is broken is reported already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Sound,
    Broken,
}

impl Health {
    pub fn and(self, other: Health) -> Health {
        if self == Health::Sound { other } else { Health::Broken }
    }
}

/// Stands for a field that was given twice: neither value counts.
static UNCLEAR: Node<'static> = Node { at: 0, value: Value::Broken };

/// The values of the fields `names` of `node`, null counting as absent; anything else in it is broken. Keys that are
/// given twice were reported by `repeated`.
pub(crate) fn fields<'n, 't, const N: usize>(
    reader: &mut Reader,
    node: &'n Node<'t>,
    path: &Path,
    names: [&str; N],
) -> ([Option<&'n Node<'t>>; N], Health) {
    let mut found: [Option<&Node>; N] = [None; N];
    let mut health = Health::Sound;
    let Value::Map(fields) = &node.value else {
        wrong_type(reader, node, path, "an object");
        return (found, Health::Broken);
    };
    let mut seen: [Option<&Node>; N] = [None; N];
    for field in fields {
        let Some(index) = names.iter().position(|name| *name == field.name) else {
            health = Health::Broken;
            // The rest of a map that was cut short: reported where it broke off.
            if field.node.value != Value::Broken {
                let hint = hint(&field.name, &names);
                reader.error(field.at, &path.field(&field.name), format!("unknown field; {hint}"));
            }
            continue;
        };
        if let Some(before) = seen[index] {
            // `repeated` has said so.
            if !field.node.same(before) {
                health = Health::Broken;
                found[index] = Some(&UNCLEAR);
            }
            continue;
        }
        seen[index] = Some(&field.node);
        found[index] = Some(&field.node).filter(|node| node.value != Value::Null);
    }
    (found, health)
}

/// The items of a list; None (and a report) where it is none. An absent list is empty.
pub(crate) fn list<'n, 't>(reader: &mut Reader, node: Option<&'n Node<'t>>, path: &Path) -> Option<&'n [Node<'t>]> {
    match node {
        None => Some(&[]),
        Some(Node { value: Value::List(items), .. }) => Some(items),
        Some(other) => {
            wrong_type(reader, other, path, "a list");
            None
        }
    }
}

/// A string; None (and a report) where it is none.
pub(crate) fn string<'n>(reader: &mut Reader, node: &'n Node, path: &Path) -> Option<&'n str> {
    let text = node.as_str();
    if text.is_none() {
        wrong_type(reader, node, path, "a string");
    }
    text
}

/// A whole number from `least` to `greatest`, written in digits; None (and a report) otherwise.
pub(crate) fn integer(reader: &mut Reader, node: &Node, path: &Path, least: u16, greatest: u16) -> Option<u16> {
    let Value::Number(text) = &node.value else {
        wrong_type(reader, node, path, "a number");
        return None;
    };
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    let number = Some(text).filter(|_| plain).and_then(|text| text.parse().ok());
    let number = number.filter(|number| (least..=greatest).contains(number));
    if number.is_none() {
        reader.error(node.at, path, format!("{} is no whole number from {least} to {greatest}", excerpt(text)));
    }
    number
}

/// Reports that `node` is not what it must be.
pub(crate) fn wrong_type(reader: &mut Reader, node: &Node, path: &Path, wanted: &str) {
    let advice = match (&node.value, wanted) {
        (Value::Broken, _) => {
            reader.damaged = true;
            return;
        }
        (Value::Number(text), "a string") => format!("; write it in quotes: \"{}\"", excerpt(text)),
        (Value::Bool(_), "a string") => "; write it in quotes".to_owned(),
        (Value::Null, "a string") => "; write \"\" for an empty one".to_owned(),
        (Value::String(_), "a number") => "; write it without quotes".to_owned(),
        (Value::Map(_), "a list") => "; put `- ` before its first line".to_owned(),
        _ => String::new(),
    };
    reader.error(node.at, path, format!("must be {wanted}, but is {}{advice}", node.type_name()));
}

/// What may have been meant by the unknown field `name` where `known` are allowed.
pub(crate) fn hint(name: &str, known: &[&str]) -> String {
    let opposite = match name {
        "from" => "to",
        "to" => "from",
        _ => "",
    };
    if known.contains(&opposite) {
        return format!("did you mean `{opposite}`?");
    }
    let close = known.iter().map(|k| (distance(name, k), k)).min().filter(|(d, k)| *d <= k.len().max(6) / 3);
    if let Some((_, close)) = close {
        return format!("did you mean `{close}`?");
    }
    let home = match name {
        "podSelector" | "namespaceSelector" | "ipBlock" => "it belongs into an item of `from` or `to`",
        "from" | "to" => "it belongs into an item of `ingress` or `egress`",
        "ports" => "it belongs into an item of `ingress` or `egress`, beside `from` or `to`",
        "port" | "endPort" | "protocol" => "it belongs into an item of `ports`",
        "matchLabels" | "matchExpressions" => "it belongs into a `podSelector` or `namespaceSelector`",
        "except" | "cidr" => "it belongs into an `ipBlock`",
        "ingress" | "egress" | "policyTypes" => "it belongs into `spec`",
        _ => "",
    };
    // Of metadata's those that people write.
    let allowed: Vec<String> = known.iter().take(5).map(|k| format!("`{k}`")).collect();
    let more = if known.len() > allowed.len() { " and the like" } else { "" };
    let allowed = format!("only {}{more} can stand here", allowed.join(", "));
    if home.is_empty() { allowed } else { format!("{home}; {allowed}") }
}

/// Levenshtein's, letters compared without case. Names longer than any field are far from all.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    if a.len() > 40 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(!ca.eq_ignore_ascii_case(cb));
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_what_was_meant() {
        assert_eq!(hint("from", &["to", "ports"]), "did you mean `to`?");
        assert_eq!(hint("policytypes", &["podSelector", "policyTypes"]), "did you mean `policyTypes`?");
        assert_eq!(hint("egres", &["podSelector", "ingress", "egress"]), "did you mean `egress`?");
        assert!(hint("podSelector", &["from", "ports"]).starts_with("it belongs into an item of `from`"));
        assert!(hint("x", &["from", "ports"]).starts_with("only `from`, `ports`"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
