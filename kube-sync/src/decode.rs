//! The text of one input to objects: cut into documents, each JSON or YAML, each object on its own, so
//! that a broken one does not take others with it.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    json::{self, Str, offset_in},
    object::{self, ItemType, Sink, item_type_of},
    problem::Path,
    source::Reader,
    tree::Node,
    typed::{self, Item, Outcome},
    yaml,
};

/// A YAML document is held as a tree and may be this long, in bytes; JSON is not held and may be as
/// long as a file.
pub const MAX_YAML_DOCUMENT_BYTES: usize = 64 << 20;

/// Hands every object in `text`, the whole text of the reader's source, to `sink`.
pub(crate) fn decode(reader: &mut Reader, text: &str, sink: &mut Sink) {
    for (index, range) in yaml::split(text).into_iter().enumerate() {
        reader.document = Some(u32::try_from(index + 1).unwrap_or(u32::MAX));
        reader.leave();
        reader.source.advance(range.start);
        let chunk = &text[range];
        let marker = chunk.strip_prefix("---").filter(|rest| rest.starts_with(char::is_whitespace));
        let body = marker.unwrap_or(chunk).trim_start_matches('\u{feff}').trim_start();
        if body.starts_with('{') {
            json_documents(reader, text, body, sink);
        } else {
            yaml_document(reader, text, chunk, None, sink);
        }
    }
}

/// JSON documents one after another.
fn json_documents(reader: &mut Reader, whole: &str, body: &str, sink: &mut Sink) {
    let mut rest = body;
    while !rest.is_empty() {
        let mut deserializer = serde_json::Deserializer::from_str(rest);
        let mut top = Top { reader, whole, sink, found: 0 };
        let result = deserializer.deserialize_map(&mut top);
        let found = top.found;
        let error = match result {
            Ok(head) => {
                let end = if deserializer.end().is_ok() { Some(rest.len()) } else { first_document(rest) };
                let end = end.unwrap_or(rest.len());
                finish(reader, whole, &rest[..end], head, sink);
                rest = rest[end..].trim_start();
                continue;
            }
            Err(error) => error,
        };
        let at = offset_in(whole, rest);
        let position = at + position(rest, &error);
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        if found > 0 {
            reader.leave();
            reader.lost = true;
            let message = format!("broken JSON: {message}; the objects before it apply, what follows is not read");
            reader.error(u32::try_from(position).unwrap_or(u32::MAX), &Path::Root, message);
        } else {
            // YAML may start with `{` too; and its reader saves what stands before the error.
            yaml_document(reader, whole, rest, Some((position, format!("broken JSON: {message}"))), sink);
        }
        return;
    }
}

/// The length of the first of several documents.
fn first_document(text: &str) -> Option<usize> {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    documents.next()?.ok()?;
    Some(documents.byte_offset())
}

/// The byte at which `error` was found in `text`.
fn position(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    (lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1)).min(text.len())
}

/// A document in YAML. `json_error` is what to say where it is not YAML either.
fn yaml_document(reader: &mut Reader, whole: &str, chunk: &str, json_error: Option<(usize, String)>, sink: &mut Sink) {
    let offset = offset_in(whole, chunk);
    if chunk.len() > MAX_YAML_DOCUMENT_BYTES {
        reader.lost = true;
        let (at, message) = json_error.unwrap_or_else(|| {
            let limit = MAX_YAML_DOCUMENT_BYTES >> 20;
            (offset, format!("a YAML document of more than {limit} MiB; split it with `---`, or use JSON"))
        });
        reader.error(u32::try_from(at).unwrap_or(u32::MAX), &Path::Root, message);
        return;
    }
    let document = yaml::parse(chunk, offset);
    if let Some((at, message)) = document.error {
        reader.lost = true;
        if let Some(root) = &document.root
            && let Some(kind) = root.get("kind").and_then(Node::as_str)
        {
            reader.enter(kind, &object::display_name(root));
        }
        let (at, message) = json_error.unwrap_or((at, format!("broken YAML: {message}")));
        let message = format!("{message}; what follows is not read, up to the next `---`");
        reader.error(u32::try_from(at).unwrap_or(u32::MAX), &Path::Root, message);
        reader.leave();
    }
    if let Some(root) = document.root {
        object::object(reader, &root, None, 0, sink);
    }
}

/// What is known after the end of a JSON document.
#[derive(Default)]
struct Head<'a> {
    kind: Option<Str<'a>>,
    api_version: Option<Str<'a>>,
    shape: Shape,
    /// Items that do not say what they are and came before the list did.
    waiting: Vec<&'a RawValue>,
}

#[derive(Default, PartialEq)]
enum Shape {
    #[default]
    Single,
    List,
}

/// Reads a document in one pass, converting the items of a list as they come.
struct Top<'t, 'r, 's> {
    reader: &'t mut Reader<'r>,
    whole: &'t str,
    sink: &'t mut Sink<'s>,
    /// Items seen so far.
    found: usize,
}

impl<'de> Visitor<'de> for &mut Top<'_, '_, '_> {
    type Value = Head<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head<'de>, A::Error> {
        let mut head = Head::default();
        while let Some(Str(name)) = map.next_key()? {
            match &*name {
                "kind" => head.kind = serde_json::from_str(map.next_value::<&RawValue>()?.get()).ok(),
                "apiVersion" => head.api_version = serde_json::from_str(map.next_value::<&RawValue>()?.get()).ok(),
                "items" => map.next_value_seed(Items { top: self, head: &mut head })?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(head)
    }
}

/// The `items` of a list.
struct Items<'x, 'de, 't, 'r, 's> {
    top: &'x mut Top<'t, 'r, 's>,
    head: &'x mut Head<'de>,
}

impl<'de> DeserializeSeed<'de> for Items<'_, 'de, '_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, 'de, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of objects in `items`")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.head.shape = Shape::List;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.head.shape = Shape::List;
        let list_kind = self.head.kind.clone();
        let version = self.head.api_version.clone();
        let version = version.as_ref().map(|v| &*v.0);
        while let Some(raw) = items.next_element::<&RawValue>()? {
            self.top.found += 1;
            let fields = serde_json::from_str::<Item>(raw.get()).ok();
            match (&list_kind, &fields) {
                (None, None | Some(Item { kind: None, .. })) => self.head.waiting.push(raw),
                (kind, _) => {
                    let item_type = kind.as_ref().and_then(|kind| item_type_of(&kind.0, version));
                    item(self.top.reader, self.top.whole, raw.get(), fields, item_type, self.top.sink);
                }
            }
        }
        Ok(())
    }
}

/// What the end of a document tells about its beginning.
fn finish(reader: &mut Reader, whole: &str, document: &str, head: Head, sink: &mut Sink) {
    if head.shape == Shape::Single {
        return item(reader, whole, document, serde_json::from_str(document).ok(), None, sink);
    }
    let kind = head.kind.as_ref().map_or("List", |k| &k.0);
    let version = head.api_version.as_ref().map(|v| &*v.0);
    for waiting in head.waiting {
        let text = waiting.get();
        item(reader, whole, text, serde_json::from_str(text).ok(), item_type_of(kind, version), sink);
    }
}

/// One object: the fast way, and where that is unsure the thorough one.
pub(crate) fn item(
    reader: &mut Reader,
    whole: &str,
    text: &str,
    fields: Option<Item>,
    item_type: Option<ItemType>,
    sink: &mut Sink,
) {
    let at = offset_in(whole, text);
    reader.source.advance(at);
    match fields.map_or(Outcome::Unsure, |fields| typed::convert(&fields, item_type, reader.interner)) {
        Outcome::Found(found) => sink(reader, found, u32::try_from(at).unwrap_or(u32::MAX)),
        Outcome::Ignored => {}
        Outcome::Unsure => thorough(reader, whole, text, item_type, sink),
    }
}

fn thorough(reader: &mut Reader, whole: &str, text: &str, item_type: Option<ItemType>, sink: &mut Sink) {
    // The text was read as a value before, so this does not fail.
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return };
    let mut broken = Vec::new();
    let tree = json::tree(whole, raw, &mut |at, message| broken.push((at, message)));
    if !broken.is_empty() {
        let kind = tree.get("kind").and_then(Node::as_str).or(item_type.map(|t| t.kind));
        reader.enter(kind.unwrap_or("object"), &object::display_name(&tree));
        for (at, message) in broken {
            reader.error(u32::try_from(at).unwrap_or(u32::MAX), &Path::Root, format!("broken JSON: {message}"));
        }
    }
    object::object(reader, &tree, item_type, 0, sink);
}
