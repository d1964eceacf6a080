//! Turns one YAML document into a tree: scalars, anchors, merge keys, and whatever can be saved of
//! a document that breaks off. Not here: the syntax itself, which granit-parser parses.
//!
//! Scalars are read as the Kubernetes tools read them (YAML 1.1 as in go-yaml), except that nothing
//! is converted: `yes` is a boolean and not a string, so a label with that value is rejected and
//! not guessed.

use std::{borrow::Cow, collections::HashMap};

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use crate::tree::{Field, MAX_DEPTH, Node, Value};

/// How many nodes of one document may come from aliases (`*name`), so that a few lines cannot
/// expand to gigabytes.
pub(crate) const MAX_ALIAS_NODES: usize = 100_000;

/// A document, as far as it could be read.
pub(crate) struct Document<'a> {
    /// The root of the tree; None for an empty document (nothing but comments).
    pub root: Option<Node<'a>>,
    /// The offset at which reading had to stop, and why; None where the document is complete.
    pub error: Option<(usize, String)>,
}

enum Frame<'a> {
    List { at: usize, anchor: usize, items: Vec<Node<'a>> },
    Map { at: usize, anchor: usize, fields: Vec<Field<'a>>, key: Option<(usize, Cow<'a, str>)> },
}

/// Reads one document. Positions are relative to the whole input, in which the document starts at
/// `offset`.
pub(crate) fn parse(text: &str, offset: usize) -> Document<'_> {
    let mut options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut builder = Builder::default();
    let mut at = offset;
    let mut error = None;
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                at = offset + span.byte_range().map_or(0, |r| r.start);
                if let Err(message) = builder.event(event, at) {
                    error = Some((at, message));
                    break;
                }
            }
            Err(e) => {
                let position = e.marker().byte_offset().map_or(at, |b| offset + b);
                error = Some((position, e.info()));
                break;
            }
        }
    }
    if error.is_some() {
        builder.cut_short(at);
    }
    Document { root: builder.root, error }
}

#[derive(Default)]
struct Builder<'a> {
    stack: Vec<Frame<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    from_aliases: usize,
    root: Option<Node<'a>>,
}

impl<'a> Builder<'a> {
    fn event(&mut self, event: Event<'a>, at: usize) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let (None, Some(Frame::Map { key: key @ None, .. })) =
                    (&tag, self.stack.last_mut())
                {
                    // A key is always text: `on:` and `1:` are names here.
                    *key = Some((at, text.clone()));
                    if anchor != 0 {
                        self.anchors.insert(anchor, Node::new(at, Value::String(text)));
                    }
                    return Ok(());
                }
                let value = scalar(text, style, tag.as_deref())?;
                self.finished(Node::new(at, value), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Frame::List { at, anchor, items: Vec::new() })
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(Frame::Map { at, anchor, fields: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { at, anchor, items }) => {
                    self.finished(Node::new(at, Value::List(items)), anchor)
                }
                Some(Frame::Map { at, anchor, fields, .. }) => {
                    self.finished(Node::new(at, Value::Map(merge(fields)?)), anchor)
                }
                None => Ok(()),
            },
            Event::Alias(id) => {
                let node =
                    self.anchors.get(&id).ok_or("an alias refers to a value that contains it")?;
                self.from_aliases += node.size();
                if self.from_aliases > MAX_ALIAS_NODES {
                    return Err(format!(
                        "aliases expand to more than {MAX_ALIAS_NODES} values; write the objects \
                         out"
                    ));
                }
                let node =
                    Node { at: u32::try_from(at).unwrap_or(u32::MAX), value: node.value.clone() };
                self.finished(node, 0)
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                Err("a second document begins without `---`".into())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, frame: Frame<'a>) -> Result<(), String> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} levels deep"));
        }
        if let Some(Frame::Map { key: None, .. }) = self.stack.last() {
            return Err("a key must be plain text".into());
        }
        self.stack.push(frame);
        Ok(())
    }

    fn finished(&mut self, node: Node<'a>, anchor: usize) -> Result<(), String> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut() {
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { fields, key, .. }) => match (key.take(), node.value) {
                (Some((at, name)), value) => {
                    let at = u32::try_from(at).unwrap_or(u32::MAX);
                    fields.push(Field { at, name, node: Node { at: node.at, value } });
                }
                (None, Value::String(name)) => *key = Some((node.at as usize, name)),
                (None, _) => return Err("a key must be plain text".into()),
            },
            None => self.root = Some(node),
        }
        Ok(())
    }

    /// Closes all open lists and maps and marks them as incomplete, so that a rule whose ports were
    /// not reached is not taken for a rule without ports.
    fn cut_short(&mut self, at: usize) {
        while let Some(frame) = self.stack.pop() {
            let node = match frame {
                Frame::List { at: start, mut items, .. } => {
                    items.push(Node::broken(at));
                    Node::new(start, Value::List(items))
                }
                Frame::Map { at: start, mut fields, key, .. } => {
                    for name in key.map(|(_, name)| name).into_iter().chain([Cow::Borrowed("")]) {
                        fields.push(Field {
                            at: u32::try_from(at).unwrap_or(u32::MAX),
                            name,
                            node: Node::broken(at),
                        });
                    }
                    Node::new(start, Value::Map(fields))
                }
            };
            match self.stack.last_mut() {
                Some(Frame::List { items, .. }) => items.push(node),
                Some(Frame::Map { fields, key, .. }) => {
                    let (at, name) = key.take().unwrap_or((at, Cow::Borrowed("")));
                    fields.push(Field { at: u32::try_from(at).unwrap_or(u32::MAX), name, node });
                }
                None => self.root = Some(node),
            }
        }
        if let Some(root) = &mut self.root {
            may_go_on(root, at);
        }
    }
}

/// Marks the last item of every level as incomplete: a line with wrong indentation closes the value
/// that it was intended to continue before the parser reports an error.
fn may_go_on(node: &mut Node, at: usize) {
    match &mut node.value {
        Value::List(items) => {
            items
                .iter_mut()
                .rev()
                .find(|item| item.value != Value::Broken)
                .into_iter()
                .for_each(|n| may_go_on(n, at));
            if items.last().is_none_or(|item| item.value != Value::Broken) {
                items.push(Node::broken(at));
            }
        }
        Value::Map(fields) => {
            fields
                .iter_mut()
                .rev()
                .find(|f| !f.name.is_empty())
                .into_iter()
                .for_each(|f| may_go_on(&mut f.node, at));
            if fields.iter().all(|f| !f.name.is_empty()) {
                let at = u32::try_from(at).unwrap_or(u32::MAX);
                fields.push(Field { at, name: Cow::Borrowed(""), node: Node::broken(at as usize) });
            }
        }
        _ => {}
    }
}

/// Applies `<<: *base` and `<<: [*a, *b]` (YAML 1.1 merge): a map's own fields take precedence,
/// then those of the earlier base.
fn merge(fields: Vec<Field<'_>>) -> Result<Vec<Field<'_>>, String> {
    if fields.iter().all(|f| f.name != "<<") {
        return Ok(fields);
    }
    let (bases, mut own): (Vec<_>, Vec<_>) = fields.into_iter().partition(|f| f.name == "<<");
    let mut sources = Vec::new();
    for base in bases {
        match base.node.value {
            Value::List(items) => sources.extend(items),
            value => sources.push(Node { at: base.at, value }),
        }
    }
    for source in sources {
        let Value::Map(inherited) = source.value else {
            return Err("`<<` merges objects only".into());
        };
        let new: Vec<Field> =
            inherited.into_iter().filter(|f| own.iter().all(|o| o.name != f.name)).collect();
        own.extend(new);
    }
    Ok(own)
}

/// The value of a scalar. Only a plain one can be anything but a string.
fn scalar<'a>(
    text: Cow<'a, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
) -> Result<Value<'a>, String> {
    match tag.map(Tag::to_string).as_deref() {
        None
        | Some(
            "tag:yaml.org,2002:int"
            | "tag:yaml.org,2002:bool"
            | "tag:yaml.org,2002:null"
            | "tag:yaml.org,2002:float",
        ) => {}
        Some("!" | "tag:yaml.org,2002:str") => return Ok(Value::String(text)),
        // yaml.v3 writes the tag before `<<`.
        Some("tag:yaml.org,2002:merge") if text == "<<" => return Ok(Value::String(text)),
        Some(other) => {
            return Err(format!(
                "the tag {other} has no meaning in a Kubernetes object; remove it"
            ));
        }
    }
    if style != ScalarStyle::Plain {
        return Ok(Value::String(text));
    }
    Ok(match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ if is_number(&text) => Value::Number(text),
        _ => Value::String(text),
    })
}

/// Whether goyaml.v2, which kubectl uses, reads this as a number (`resolve`). It ignores
/// underscores between digits.
fn is_number(text: &str) -> bool {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return false;
    }
    let text = &*text.replace('_', "");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all = |digits: &str, allowed: fn(&char) -> bool| {
        !digits.is_empty() && digits.chars().all(|c| allowed(&c))
    };
    if let Some(hex) = unsigned.strip_prefix("0x") {
        return all(hex, char::is_ascii_hexdigit);
    }
    if let Some(binary) = unsigned.strip_prefix("0b") {
        return all(binary, |c| matches!(c, '0' | '1'));
    }
    if let Some(octal) = unsigned.strip_prefix("0o") {
        return all(octal, char::is_ascii_digit);
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.contains(|c: char| c.is_ascii_digit())
        && unsigned.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Node<'_> {
        let document = parse(text, 0);
        assert_eq!(document.error, None);
        document.root.unwrap()
    }

    fn value(text: &str) -> Value<'_> {
        root(text).value
    }

    #[test]
    fn scalars_are_what_the_kubernetes_tools_take_them_for() {
        for (text, expected) in [
            ("~", Value::Null),
            ("null", Value::Null),
            ("yes", Value::Bool(true)),
            ("Off", Value::Bool(false)),
            ("80", Value::Number("80".into())),
            ("1.10", Value::Number("1.10".into())),
            ("0x1f", Value::Number("0x1f".into())),
            (".5e3", Value::Number(".5e3".into())),
            ("'80'", Value::String("80".into())),
            ("\"\"", Value::String("".into())),
            ("!!str 80", Value::String("80".into())),
            ("y", Value::Bool(true)),
            ("N", Value::Bool(false)),
            ("'y'", Value::String("y".into())),
            ("1_000", Value::Number("1_000".into())),
            ("0b101", Value::Number("0b101".into())),
            ("0b102", Value::String("0b102".into())),
            ("a_1", Value::String("a_1".into())),
            ("1.2.3", Value::String("1.2.3".into())),
            ("10.0.0.0/8", Value::String("10.0.0.0/8".into())),
            ("infinity", Value::String("infinity".into())),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn merge_keys_and_aliases_are_resolved() {
        let node = root("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\nagain: *b\n");
        let used = node.get("use").unwrap();
        assert_eq!(used.get("x").unwrap().value, Value::Number("1".into()));
        assert_eq!(used.get("y").unwrap().value, Value::Number("3".into()));
        assert_eq!(node.get("again").unwrap().value, node.get("base").unwrap().value);
        let tagged = root("base: &b {x: 1}\nuse: {!!merge <<: *b}\n");
        assert_eq!(tagged.get("use").unwrap().get("x"), tagged.get("base").unwrap().get("x"));
    }

    #[test]
    fn bombs_are_errors() {
        let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 0..12 {
            let (name, last) = (char::from(b'b' + i), char::from(b'a' + i));
            bomb.push_str(&format!(
                "{name}: &{name} [{}]\n",
                vec![format!("*{last}"); 10].join(", ")
            ));
        }
        assert!(parse(&bomb, 0).error.unwrap().1.contains("aliases expand"));
        for deep in [
            "[".repeat(1_000_000),
            "{a: ".repeat(100_000),
            "- ".repeat(100_000),
            "? ".repeat(100_000),
        ] {
            assert!(parse(&deep, 0).error.is_some());
        }
        assert!(parse("a: &a [*a]", 0).error.is_some());
    }

    #[test]
    fn what_was_cut_short_says_so() {
        let document = parse(
            "spec:\n  ingress:\n  - from: [{podSelector: {}}]\n    ports: [{port: 80}, ]]\n",
            7,
        );
        let (at, _) = document.error.unwrap();
        assert!(at > 7);
        let root = document.root.unwrap();
        let ingress = root.get("spec").unwrap().get("ingress").unwrap();
        let Value::List(rules) = &ingress.value else { panic!() };
        assert!(rules.iter().all(|r| r.get("").is_some() || r.value == Value::Broken), "{rules:?}");
    }
}
