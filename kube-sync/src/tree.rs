//! A document as a tree with positions, which YAML and JSON share. `yaml` and `json` build it, and
//! the converters read it. Numbers stay text, so that nothing is rounded or guessed.

use std::borrow::Cow;

/// A value, and where it starts in its input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node<'a> {
    /// The offset of the value in bytes.
    pub at: u32,
    pub value: Value<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number, as it is written.
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<Field<'a>>),
    /// The value could not be read. That was reported where it was found, so converters need not
    /// report it again. A map that was cut short has an unnamed field with this value.
    Broken,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field<'a> {
    pub at: u32,
    pub name: Cow<'a, str>,
    pub node: Node<'a>,
}

/// How deeply values may be nested. Objects nest about a dozen levels deep; more is an attack or an
/// accident.
pub(crate) const MAX_DEPTH: usize = 100;

impl<'a> Node<'a> {
    pub fn new(at: usize, value: Value<'a>) -> Self {
        // Inputs are at most 1 GiB (`load::MAX_FILE_BYTES`).
        Self { at: at.try_into().unwrap_or(u32::MAX), value }
    }

    pub fn broken(at: usize) -> Self {
        Self::new(at, Value::Broken)
    }

    /// The field `name` of a map; null counts as absent. Where there are several, the last one
    /// counts, as for kubectl, and `repeated` reports them.
    pub fn get(&self, name: &str) -> Option<&Node<'a>> {
        let Value::Map(fields) = &self.value else { return None };
        fields.iter().rfind(|f| f.name == name).map(|f| &f.node).filter(|n| n.value != Value::Null)
    }

    /// The text of the field `name`; an empty one counts as absent, since the API does not tell the
    /// two apart in the strings of metadata.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Node::as_str).filter(|text| !text.is_empty())
    }

    /// Whether the two values are equal, wherever they stand.
    pub fn same(&self, other: &Node) -> bool {
        match (&self.value, &other.value) {
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|(a, b)| a.name == b.name && a.node.same(&b.node))
            }
            (Value::Broken, _) | (_, Value::Broken) => false,
            (a, b) => a == b,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number of nodes in the tree.
    pub fn size(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Value::Map(fields) => 1 + fields.iter().map(|f| f.node.size()).sum::<usize>(),
            _ => 1,
        }
    }

    /// The type of the value, for messages.
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
            Value::Broken => "unreadable",
        }
    }
}
