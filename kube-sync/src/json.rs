//! Turns JSON text into trees with positions. What must be fast goes through `typed` first; this is
//! for NetworkPolicies and for whatever is unusual. serde_json has read the text as a value before,
//! so the syntax is known to be right, and this walk only finds where each part is.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};
use serde_json::value::RawValue;

use crate::tree::{Field, MAX_DEPTH, Node, Value};

/// The offset in bytes at which `part`, a slice of `whole`, starts in it.
pub(crate) fn offset_in(whole: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

/// The tree of `raw`, a slice of `whole`. What cannot be read (a lone surrogate, too deep a
/// nesting) becomes [`Value::Broken`] and is passed to `report` with its offset.
pub(crate) fn tree<'a>(
    whole: &str,
    raw: &'a RawValue,
    report: &mut dyn FnMut(usize, String),
) -> Node<'a> {
    let text = raw.get();
    Walk { text, at: 0, offset: offset_in(whole, text), report }.value(0)
}

struct Walk<'a, 'r> {
    text: &'a str,
    at: usize,
    offset: usize,
    report: &'r mut dyn FnMut(usize, String),
}

impl<'a> Walk<'a, '_> {
    /// The next byte after white space and separators, without taking it; 0 at the end.
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t' | b',' | b':') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Node<'a> {
        let first = self.peek();
        let start = self.offset + self.at;
        if depth > MAX_DEPTH && matches!(first, b'[' | b'{') {
            (self.report)(start, format!("it is nested more than {MAX_DEPTH} levels deep"));
            self.skip();
            return Node::broken(start);
        }
        let value = match first {
            b'"' => self.string().map_or(Value::Broken, Value::String),
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while !matches!(self.peek(), b']' | 0) {
                    items.push(self.value(depth + 1));
                }
                self.at += 1;
                Value::List(items)
            }
            b'{' => {
                self.at += 1;
                let mut fields = Vec::new();
                while !matches!(self.peek(), b'}' | 0) {
                    let at = u32::try_from(self.offset + self.at).unwrap_or(u32::MAX);
                    // An unreadable name becomes the empty name, which marks the object as broken.
                    let name = self.string().unwrap_or_default();
                    let node = self.value(depth + 1);
                    fields.push(Field { at, name, node });
                }
                self.at += 1;
                Value::Map(fields)
            }
            _ => match self.word() {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                number => Value::Number(number.into()),
            },
        };
        Node::new(start, value)
    }

    /// The string that starts here; None, with a report, where its escapes do not form text.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        let plain = self.pass_string();
        let quoted = &self.text[start..self.at];
        if plain {
            return Some(Cow::Borrowed(quoted.trim_matches('"')));
        }
        match serde_json::from_str(quoted) {
            Ok(Str(text)) => Some(text),
            Err(error) => {
                (self.report)(self.offset + start, error.to_string());
                None
            }
        }
    }

    /// Steps over a string; returns true where it has no escapes (and so no quotes inside).
    fn pass_string(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let mut plain = true;
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    plain = false;
                    self.at += 1;
                }
                _ => {}
            }
        }
        self.at = self.at.min(bytes.len());
        plain
    }

    /// Takes a number or a literal (`true`, `false`, `null`).
    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest
            .find([',', ']', '}', ' ', '\n', '\r', '\t'])
            .unwrap_or(rest.len())
            .max(1)
            .min(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Steps over a list or an object of any depth.
    fn skip(&mut self) {
        let mut open = 0_usize;
        loop {
            match self.peek() {
                b'[' | b'{' => {
                    open += 1;
                    self.at += 1;
                }
                b']' | b'}' => {
                    open -= 1;
                    self.at += 1;
                }
                b'"' => drop(self.pass_string()),
                0 => return,
                _ => drop(self.word()),
            }
            if open == 0 {
                return;
            }
        }
    }
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
    fn white_space_escapes_and_empty_things() {
        let text = "{ \"\" : [ ] ,\r\n\t\"a\\\"}\": { } , \"c\\\\\":[[],\"\\\\\",-1e5 ,\"[\"] }";
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let node = tree(text, raw, &mut |_, message| panic!("{message}"));
        let Value::Map(fields) = &node.value else { panic!() };
        assert_eq!(fields.iter().map(|f| &*f.name).collect::<Vec<_>>(), ["", "a\"}", "c\\"]);
        assert_eq!(
            (&fields[0].node.value, &fields[1].node.value),
            (&Value::List(vec![]), &Value::Map(vec![]))
        );
        let Value::List(items) = &fields[2].node.value else { panic!() };
        assert_eq!(
            items.iter().map(Node::type_name).collect::<Vec<_>>(),
            ["a list", "a string", "a number", "a string"]
        );
        assert_eq!((items[1].as_str(), items[3].as_str()), (Some("\\"), Some("[")));
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
