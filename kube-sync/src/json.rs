//! JSON text to trees, with positions. Slow and thorough; what must be fast goes through `typed`
//! first. Recursion is over borrowed raw values, level by level, so that every value keeps its place in
//! the input.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::tree::{Field, MAX_DEPTH, Node, Value};

/// Where `part` starts in `whole`, of which it is a slice.
pub(crate) fn offset_in(whole: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

/// The tree of `raw`, a slice of `whole`. What cannot be read (a lone surrogate, too deep) becomes
/// [`Value::Broken`] and is told to `report` with its offset.
pub(crate) fn tree<'a>(whole: &'a str, raw: &'a RawValue, report: &mut dyn FnMut(usize, String)) -> Node<'a> {
    node(whole, raw, 0, report)
}

fn node<'a>(whole: &'a str, raw: &'a RawValue, depth: usize, report: &mut dyn FnMut(usize, String)) -> Node<'a> {
    let text = raw.get();
    let at = offset_in(whole, text);
    if depth > MAX_DEPTH {
        report(at, format!("nested more than {MAX_DEPTH} levels deep"));
        return Node::broken(at);
    }
    let value = match text.as_bytes().first() {
        Some(b'n') => Ok(Value::Null),
        Some(b't') => Ok(Value::Bool(true)),
        Some(b'f') => Ok(Value::Bool(false)),
        Some(b'"') => serde_json::from_str(text).map(|Str(text)| Value::String(text)),
        Some(b'[') => serde_json::from_str::<Vec<&RawValue>>(text)
            .map(|items| Value::List(items.into_iter().map(|item| node(whole, item, depth + 1, report)).collect())),
        Some(b'{') => serde_json::from_str::<Pairs>(text).map(|Pairs(pairs)| {
            let field = |(name, raw): (Cow<'a, str>, &'a RawValue)| {
                let node = node(whole, raw, depth + 1, report);
                Field { at: node.at, name, node }
            };
            Value::Map(pairs.into_iter().map(field).collect())
        }),
        _ => Ok(Value::Number(text.into())),
    };
    value.map(|value| Node::new(at, value)).unwrap_or_else(|error| {
        report(at, error.to_string());
        Node::broken(at)
    })
}

/// A string, borrowed from the input where it has no escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Str<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct StrVisitor;
        impl<'de> Visitor<'de> for StrVisitor {
            type Value = Str<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(StrVisitor)
    }
}

/// The fields of an object in order, duplicates included.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((Str(name), raw)) = map.next_entry::<Str, &RawValue>()? {
                    pairs.push((name, raw));
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(PairsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_duplicates_places_and_numbers() {
        let text = r#" {"b": [1.50, null, "x\n"], "a": true, "b": {}}"#;
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let node = tree(text, raw, &mut |_, message| panic!("{message}"));
        assert_eq!(node.at, 1);
        let Value::Map(fields) = &node.value else { panic!() };
        assert_eq!(fields.iter().map(|f| &*f.name).collect::<Vec<_>>(), ["b", "a", "b"]);
        let Value::List(items) = &fields[0].node.value else { panic!() };
        assert_eq!(items[0].value, Value::Number("1.50".into()));
        assert_eq!(items[1], Node::new(text.find("null").unwrap(), Value::Null));
        assert_eq!(items[2].as_str(), Some("x\n"));
    }

    #[test]
    fn what_cannot_be_read_is_broken_and_reported() {
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        for text in [r#"{"a": "\ud800"}"#, &deep] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            let mut reports = 0;
            tree(text, raw, &mut |_, _| reports += 1);
            assert_eq!(reports, 1);
        }
    }
}
