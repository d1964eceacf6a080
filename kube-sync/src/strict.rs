//! Reads objects strictly: every field must be known, occur once and have the right type. A lenient
//! decoder would turn `egress: [{from: ...}]` into a rule without peers, which allows everything.
//! Not here: the fields of each kind.

use crate::{
    problem::{Path, excerpt},
    source::Reader,
    tree::{Node, Value},
};

/// Whether everything in an object could be understood. A broken part has been reported.
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

/// Stands for a field that was given twice with different values, neither of which counts.
static UNCLEAR: Node<'static> = Node { at: 0, value: Value::Broken };

/// The values of the fields `names` of `node`; null counts as absent. Any other field is reported
/// and makes the result [`Health::Broken`]. Keys that are given twice were reported by `repeated`.
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
            // An unnamed broken field marks where the map was cut short, which has been reported.
            if field.node.value != Value::Broken {
                let hint = hint(&field.name, &names);
                reader.error(field.at, &path.field(&field.name), format!("unknown field; {hint}"));
            }
            continue;
        };
        if let Some(before) = seen[index] {
            // `repeated` has reported it.
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

/// The items of a list; None, with a report, where the value is not a list. An absent list is
/// empty.
pub(crate) fn list<'n, 't>(
    reader: &mut Reader,
    node: Option<&'n Node<'t>>,
    path: &Path,
) -> Option<&'n [Node<'t>]> {
    match node {
        None => Some(&[]),
        Some(Node { value: Value::List(items), .. }) => Some(items),
        Some(other) => {
            wrong_type(reader, other, path, "a list");
            None
        }
    }
}

/// The text of a string; None, with a report, where the value is not a string.
pub(crate) fn string<'n>(reader: &mut Reader, node: &'n Node, path: &Path) -> Option<&'n str> {
    let text = node.as_str();
    if text.is_none() {
        wrong_type(reader, node, path, "a string");
    }
    text
}

/// An integer from `least` to `greatest`, written in digits; None, with a report, otherwise.
pub(crate) fn integer(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    least: u16,
    greatest: u16,
) -> Option<u16> {
    let Value::Number(text) = &node.value else {
        wrong_type(reader, node, path, "a number");
        return None;
    };
    let plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    let number = Some(text).filter(|_| plain).and_then(|text| text.parse().ok());
    let number = number.filter(|number| (least..=greatest).contains(number));
    if number.is_none() {
        reader.error(
            node.at,
            path,
            format!("{} is not an integer from {least} to {greatest}", excerpt(text)),
        );
    }
    number
}

/// Reports that `node` is not of the type `wanted`, unless it was reported as unreadable before.
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

/// A hint at what may be intended by the unknown field `name` where `known` are allowed.
pub(crate) fn hint(name: &str, known: &[&str]) -> String {
    let opposite = match name {
        "from" => "to",
        "to" => "from",
        // The two groups of ClusterNetworkPolicy name the same thing differently.
        "ports" => "protocols",
        "protocols" => "ports",
        _ => "",
    };
    if known.contains(&opposite) {
        return format!("did you mean `{opposite}`?");
    }
    let close = known
        .iter()
        .map(|k| (distance(name, k), k))
        .min()
        .filter(|(d, k)| *d <= k.len().max(6) / 3);
    if let Some((_, close)) = close {
        return format!("did you mean `{close}`?");
    }
    let home = match name {
        "podSelector" | "namespaceSelector" | "ipBlock" => {
            "it belongs in an item of `from` or `to`"
        }
        "from" | "to" => "it belongs in an item of `ingress` or `egress`",
        "ports" => "it belongs in an item of `ingress` or `egress`, beside `from` or `to`",
        "port" | "endPort" | "protocol" => "it belongs in an item of `ports`",
        "matchLabels" | "matchExpressions" => {
            "it belongs in a `podSelector` or `namespaceSelector`"
        }
        "except" | "cidr" => "it belongs in an `ipBlock`",
        "ingress" | "egress" | "policyTypes" => "it belongs in `spec`",
        _ => "",
    };
    // `metadata` has many fields; the first ones are those that people write.
    let allowed: Vec<String> = known.iter().take(5).map(|k| format!("`{k}`")).collect();
    let more = if known.len() > allowed.len() { " and the like" } else { "" };
    let allowed = format!("the fields allowed here are {}{more}", allowed.join(", "));
    if home.is_empty() { allowed } else { format!("{home}; {allowed}") }
}

/// The Levenshtein distance, ignoring the case of letters; `usize::MAX` where `a` is longer than
/// any field's name.
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
        assert_eq!(
            hint("policytypes", &["podSelector", "policyTypes"]),
            "did you mean `policyTypes`?"
        );
        assert_eq!(hint("egres", &["podSelector", "ingress", "egress"]), "did you mean `egress`?");
        assert!(
            hint("podSelector", &["from", "ports"]).starts_with("it belongs in an item of `from`")
        );
        assert!(
            hint("x", &["from", "ports"])
                .starts_with("the fields allowed here are `from`, `ports`")
        );
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
