//! Policies as manifests: objects of the API with comments, as YAML or JSON.
//!
//! Names and labels come from others. Every text that YAML might take for something else, or that
//! is not printable ASCII, is quoted and escaped, and no comment ends before its line does. Not
//! here: what a policy says ([`crate::draft`]).

use std::fmt::Write as _;

use netpolc_kube_sync::plain;
use netpolc_policy::{
    Direction, Isolation, Mode, Namespaces, Operator, Peer, Peers, Policy, Port, Ports, Selector,
};
use serde::{Serialize, Serializer, ser::SerializeMap as _, ser::SerializeSeq as _};

use crate::{Half, Recommended};

/// The label that says where a policy is from, and its value.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "netpolc-recommend");

/// An object as it is written, in this order.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Map(Vec<Field>),
    List(Vec<(Vec<String>, Tree)>),
    Text(String),
    Number(u16),
}

/// A field of an object, and what is said of it.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub comments: Vec<String>,
    pub key: String,
    pub value: Tree,
}

fn field(key: &str, value: Tree) -> Field {
    Field { comments: Vec::new(), key: key.into(), value }
}

fn text(value: &str) -> Tree {
    Tree::Text(value.into())
}

/// The policy as an object of the API.
pub(crate) fn object(recommended: &Recommended) -> Tree {
    let Recommended { policy, halves, .. } = recommended;
    let mut metadata = vec![
        field("name", text(&policy.key.name)),
        field("namespace", text(&policy.key.namespace)),
        field("labels", Tree::Map(vec![field(MANAGED_BY.0, text(MANAGED_BY.1))])),
    ];
    if policy.mode == Mode::Audited {
        let annotation = field("netpolc.io/mode", text("audit"));
        metadata.push(field("annotations", Tree::Map(vec![annotation])));
    }
    let mut spec = vec![field("podSelector", selector(&policy.selector))];
    let mut types = Vec::new();
    let mut rules = Vec::new();
    let mut left = Vec::new();
    for (direction, half) in Direction::BOTH.into_iter().zip(halves) {
        match policy.isolation(direction) {
            Isolation::Open => left.extend(half.notes.clone()),
            Isolation::Isolated(all) => {
                let (name, key) = match direction {
                    Direction::Ingress => ("Ingress", "ingress"),
                    Direction::Egress => ("Egress", "egress"),
                };
                types.push((Vec::new(), text(name)));
                let Half { notes, rules: seen } = half;
                let each = all.iter().enumerate().map(|(index, rule)| {
                    let comments = seen.get(index).map(|seen| seen.comments.clone());
                    (comments.unwrap_or_default(), self::rule(rule, direction))
                });
                let value = Tree::List(each.collect());
                rules.push(Field { comments: notes.clone(), key: key.into(), value });
            }
        }
    }
    let key = "policyTypes".into();
    spec.push(Field { comments: left, key, value: Tree::List(types) });
    spec.extend(rules);
    Tree::Map(vec![
        field("apiVersion", text("networking.k8s.io/v1")),
        field("kind", text("NetworkPolicy")),
        field("metadata", Tree::Map(metadata)),
        field("spec", Tree::Map(spec)),
    ])
}

fn rule(rule: &netpolc_policy::Rule, direction: Direction) -> Tree {
    let mut fields = Vec::new();
    if let Peers::Listed(peers) = &rule.peers {
        let key = if direction == Direction::Ingress { "from" } else { "to" };
        let peers = peers.iter().map(|peer| (Vec::new(), self::peer(peer)));
        fields.push(field(key, Tree::List(peers.collect())));
    }
    if let Ports::Listed(ports) = &rule.ports {
        let ports = ports.iter().map(|port| (Vec::new(), self::port(port)));
        fields.push(field("ports", Tree::List(ports.collect())));
    }
    Tree::Map(fields)
}

fn peer(peer: &Peer) -> Tree {
    Tree::Map(match peer {
        Peer::Pods { namespaces, pods } => {
            let namespaces = match namespaces {
                Namespaces::Own => None,
                Namespaces::Matching(of) => Some(field("namespaceSelector", selector(of))),
            };
            namespaces.into_iter().chain([field("podSelector", selector(pods))]).collect()
        }
        Peer::Block(block) => {
            vec![field("ipBlock", Tree::Map(vec![field("cidr", text(&block.cidr.to_string()))]))]
        }
        // Nothing here makes such a peer; written like this it is refused when it is read again.
        Peer::Nothing => Vec::new(),
    })
}

fn port(port: &Port) -> Tree {
    Tree::Map(match port {
        Port::Every(protocol) => vec![field("protocol", text(&protocol.to_string()))],
        Port::Range { protocol, first, last } => {
            let mut fields = vec![
                field("protocol", text(&protocol.to_string())),
                field("port", Tree::Number(*first)),
            ];
            if last > first {
                fields.push(field("endPort", Tree::Number(*last)));
            }
            fields
        }
        Port::Named { protocol, name } => {
            vec![field("protocol", text(&protocol.to_string())), field("port", text(name))]
        }
        Port::Name(_) | Port::Nothing => Vec::new(),
    })
}

fn selector(selector: &Selector) -> Tree {
    let (mut labels, mut expressions) = (Vec::new(), Vec::new());
    for requirement in &selector.requirements {
        let key = &*requirement.key;
        let (operator, values) = match &requirement.operator {
            Operator::In(values) if values.len() == 1 => {
                labels.push(field(key, text(&values[0])));
                continue;
            }
            Operator::In(values) => ("In", &values[..]),
            Operator::NotIn(values) => ("NotIn", &values[..]),
            Operator::Exists => ("Exists", &[][..]),
            Operator::DoesNotExist => ("DoesNotExist", &[][..]),
        };
        let mut fields = vec![field("key", text(key)), field("operator", text(operator))];
        if !values.is_empty() {
            let values = values.iter().map(|value| (Vec::new(), text(value)));
            fields.push(field("values", Tree::List(values.collect())));
        }
        expressions.push((Vec::new(), Tree::Map(fields)));
    }
    let mut fields = Vec::new();
    if !labels.is_empty() {
        fields.push(field("matchLabels", Tree::Map(labels)));
    }
    if !expressions.is_empty() {
        fields.push(field("matchExpressions", Tree::List(expressions)));
    }
    Tree::Map(fields)
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Map(fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                for Field { key, value, .. } in fields {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Tree::List(items) => {
                let mut list = to.serialize_seq(Some(items.len()))?;
                for (_, item) in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Tree::Text(text) => to.serialize_str(text),
            Tree::Number(number) => to.serialize_u16(*number),
        }
    }
}

/// Comments, one on each line.
pub(crate) fn comments(out: &mut String, lines: &[String], indent: usize) {
    for line in lines {
        let space = if line.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:indent$}#{space}{}", "", plain(line));
    }
}

/// The object as YAML, with its comments.
pub(crate) fn yaml(out: &mut String, tree: &Tree) {
    match tree {
        Tree::Map(fields) => map(out, fields, 0, 0),
        other => value(out, other, 0),
    }
}

/// Fields at this indentation; the first of them stands on the line that has begun, behind the
/// dash of a list, where `begun` is not 0.
fn map(out: &mut String, fields: &[Field], indent: usize, begun: usize) {
    for (index, Field { comments: said, key, value: of }) in fields.iter().enumerate() {
        let pad = if index == 0 && begun > 0 { 0 } else { indent };
        comments(out, said, pad);
        let _ = write!(out, "{:pad$}{}:", "", scalar(key));
        value(out, of, indent);
    }
}

/// What stands behind a key, or alone.
fn value(out: &mut String, tree: &Tree, indent: usize) {
    match tree {
        Tree::Map(fields) if fields.is_empty() => out.push_str(" {}\n"),
        Tree::Map(fields) => {
            out.push('\n');
            map(out, fields, indent + 2, 0);
        }
        Tree::List(items) if items.is_empty() => out.push_str(" []\n"),
        Tree::List(items) => {
            out.push('\n');
            for (said, item) in items {
                comments(out, said, indent);
                let _ = write!(out, "{:indent$}-", "");
                match item {
                    Tree::Map(fields) if !fields.is_empty() => {
                        out.push(' ');
                        map(out, fields, indent + 2, indent + 2);
                    }
                    other => value(out, other, indent + 2),
                }
            }
        }
        Tree::Text(text) => {
            let _ = writeln!(out, " {}", scalar(text));
        }
        Tree::Number(number) => {
            let _ = writeln!(out, " {number}");
        }
    }
}

/// A text as YAML: as it is where nobody takes it for anything else, and else between quotes.
pub(crate) fn scalar(text: &str) -> String {
    const WORDS: [&str; 11] =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    let is_word = WORDS.contains(&text.to_ascii_lowercase().as_str());
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if is_plain && !is_word {
        return text.into();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        // Writing to a string cannot fail.
        let _ = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            ' '..='~' => write!(quoted, "{c}"),
            _ => write!(quoted, "\\U{:08x}", u32::from(c)),
        };
    }
    quoted + "\""
}

/// A policy that denies every pod of a namespace everything, and is only tried.
pub(crate) fn default_deny(namespace: &str) -> Tree {
    let policy = Policy {
        key: netpolc_policy::ObjectKey::new(namespace, "default-deny-audit"),
        selector: Selector::default(),
        ingress: Isolation::Isolated(Vec::new()),
        egress: Isolation::Isolated(Vec::new()),
        mode: Mode::Audited,
    };
    object(&Recommended {
        policy,
        workloads: Vec::new(),
        comments: Vec::new(),
        halves: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use netpolc_kube_sync::{Input, load};

    use super::*;

    #[test]
    fn what_yaml_might_misread_is_quoted() {
        for (text, written) in [
            ("web", "web"),
            ("app.kubernetes.io/name", "app.kubernetes.io/name"),
            ("1.0", "\"1.0\""),
            ("", "\"\""),
            ("No", "\"No\""),
            ("NULL", "\"NULL\""),
            ("a: b", "\"a: b\""),
            ("a\n- \"b\\", "\"a\\U0000000a- \\\"b\\\\\""),
            ("\u{202e}\u{85}é", "\"\\U0000202e\\U00000085\\U000000e9\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }

    #[test]
    fn no_comment_ends_before_its_line() {
        let mut out = String::new();
        comments(&mut out, &["a\nb: c\u{2028}d\r\u{85}e".into()], 2);
        assert_eq!(out, "  # a\\nb: c\\u{2028}d\\r\\u{85}e\n");
    }

    #[test]
    fn a_default_deny_is_read_as_one_that_is_only_tried() {
        let mut out = String::new();
        yaml(&mut out, &default_deny("shop"));
        let loaded = load([Input::bytes("start", out.clone())]);
        assert_eq!(loaded.problems, [], "{out}");
        let policy = loaded.cluster.policies.values().next().unwrap();
        assert_eq!(policy.mode, Mode::Audited);
        for direction in Direction::BOTH {
            assert_eq!(*policy.isolation(direction), Isolation::Isolated(vec![]));
        }
    }
}
