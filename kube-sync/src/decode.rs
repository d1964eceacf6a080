//! Turns the text of one input into objects: the text is cut into documents, each JSON or YAML, and
//! each object is converted on its own, so that a broken one does not take others with it. Not
//! here: files (`load`) and what is in an object (`object`).

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    json::{self, Str, offset_in},
    kind::{Kind, is_custom_version},
    metadata,
    object::{self, ItemType, Sink, item_type_of},
    problem::{Path, excerpt},
    source::Reader,
    split::{self, Piece, Separator},
    tree::{Field, Node, Value},
    typed::{self, Item, Outcome},
    yaml,
};

/// The longest YAML document that is read, in bytes: it is held in memory as a tree. JSON is
/// converted as it is read and may be as long as a file.
pub const MAX_YAML_DOCUMENT_BYTES: usize = 64 << 20;

/// Hands every object in `text`, the whole text of the reader's source, to `sink`.
pub(crate) fn decode(reader: &mut Reader, text: &str, sink: &mut Sink) {
    for (index, piece) in split::split(text).into_iter().enumerate() {
        reader.document = Some(u32::try_from(index + 1).unwrap_or(u32::MAX));
        reader.leave();
        reader.source.advance(piece.range.start);
        separated(reader, &piece);
        let body = &text[piece.range];
        if body.trim_start().starts_with('{') && !body.trim_start().starts_with("{{") {
            json_documents(reader, text, body.trim_start(), sink);
        } else {
            yaml_document(reader, text, body, None, sink);
        }
    }
    reader.document = None;
}

/// Reports a separator that kubectl would reject, or at which it would stop reading.
fn separated(reader: &mut Reader, piece: &Piece) {
    let at = u32::try_from(piece.range.start).unwrap_or(u32::MAX);
    match piece.separator {
        Separator::Clean => {}
        Separator::WithText => {
            reader.warning(
                at,
                &Path::Root,
                "kubectl rejects text after `---`; put it on the next line",
            );
        }
        Separator::End => {
            reader.warning(
                at,
                &Path::Root,
                "kubectl stops reading at `...`; put `---` before this document",
            );
        }
        Separator::Glued => {
            reader.lost = true;
            reader.error(
                at,
                &Path::Root,
                "`---` is joined to the text after it; put it on a line of its own",
            );
        }
    }
}

/// Reads JSON documents that follow one another.
fn json_documents(reader: &mut Reader, whole: &str, body: &str, sink: &mut Sink) {
    let mut rest = body;
    while !rest.is_empty() {
        if !rest.starts_with('{') {
            let Some(next) = behind_json(reader, whole, rest, sink) else { return };
            rest = next;
        }
        let mut deserializer = serde_json::Deserializer::from_str(rest);
        let mut top = Top { reader, whole, sink, found: 0 };
        let result = deserializer.deserialize_map(&mut top);
        let found = top.found;
        let error = match result {
            Ok(head) => {
                reader.any = true;
                let end = if deserializer.end().is_ok() {
                    Some(rest.len())
                } else {
                    first_document(rest)
                };
                let end = end.unwrap_or(rest.len());
                finish(reader, whole, &rest[..end], head, sink);
                rest = rest[end..].trim_start();
                continue;
            }
            Err(error) => error,
        };
        reader.any = true;
        let at = offset_in(whole, rest);
        let position = at + position(rest, &error);
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        if found > 0 {
            reader.leave();
            reader.lost = true;
            let message = format!(
                "this is not valid JSON: {message}; the objects before it apply, and the rest is \
                not read"
            );
            reader.error(u32::try_from(position).unwrap_or(u32::MAX), &Path::Root, message);
        } else {
            // A YAML document may start with `{` too, and the YAML reader keeps what stands before
            // the error.
            yaml_document(
                reader,
                whole,
                rest,
                Some((position, format!("this is not valid JSON: {message}"))),
                sink,
            );
        }
        return;
    }
}

/// Reports that `text`, which follows JSON without a separator, is not JSON. Returns the text from
/// the next line that may begin a JSON document; where there is none, the text is read as YAML, for
/// the policies that may be in it.
fn behind_json<'t>(
    reader: &mut Reader,
    whole: &str,
    text: &'t str,
    sink: &mut Sink,
) -> Option<&'t str> {
    reader.leave();
    reader.lost = true;
    let at = offset_in(whole, text);
    let start = excerpt(text.lines().next().unwrap_or_default());
    let message = format!(
        "`{start}` follows a JSON document; put `---` between documents, and nothing else into the \
        file"
    );
    reader.error(u32::try_from(at).unwrap_or(u32::MAX), &Path::Root, message);
    if let Some(next) = text.find("\n{") {
        return Some(&text[next + 1..]);
    }
    if let Some(Node { value: Value::Map(_), .. }) = yaml::parse(text, at).root {
        yaml_document(reader, whole, text, None, sink);
    }
    None
}

/// The length in bytes of the first of several JSON documents; None where it cannot be read.
fn first_document(text: &str) -> Option<usize> {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    documents.next()?.ok()?;
    Some(documents.byte_offset())
}

/// The offset in bytes at which `error` was found in `text`.
fn position(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    (lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1)).min(text.len())
}

/// Reads a YAML document. Where it breaks off, the text after the error is read as another one.
/// `json_error` is the offset and the message to report where the text is not YAML either.
fn yaml_document(
    reader: &mut Reader,
    whole: &str,
    chunk: &str,
    json_error: Option<(usize, String)>,
    sink: &mut Sink,
) {
    let mut rest = yaml_part(reader, whole, chunk, json_error, sink);
    while let Some(chunk) = rest {
        rest = yaml_part(reader, whole, chunk, None, sink);
    }
}

/// Reads one YAML document; returns the text after an error at which a further document may begin.
fn yaml_part<'t>(
    reader: &mut Reader,
    whole: &str,
    chunk: &'t str,
    json_error: Option<(usize, String)>,
    sink: &mut Sink,
) -> Option<&'t str> {
    let offset = offset_in(whole, chunk);
    if chunk.len() > MAX_YAML_DOCUMENT_BYTES {
        (reader.lost, reader.any) = (true, true);
        let (at, message) = json_error.unwrap_or_else(|| {
            let limit = MAX_YAML_DOCUMENT_BYTES >> 20;
            (
                offset,
                format!(
                    "the YAML document is larger than {limit} MiB; split it with `---`, or use JSON"
                ),
            )
        });
        reader.error(u32::try_from(at).unwrap_or(u32::MAX), &Path::Root, message);
        return None;
    }
    let document = yaml::parse(chunk, offset);
    reader.any |= document.error.is_some()
        || document.root.as_ref().is_some_and(|root| root.value != Value::Null);
    let mut rest = None;
    if let Some((at, message)) = document.error {
        reader.lost = true;
        if let Some(root) = &document.root
            && let Some(kind) = root.get("kind").and_then(Node::as_str)
        {
            reader.enter(kind, &metadata::display_name(root));
        }
        rest = next_header(chunk, at - offset);
        let (at, message) = match (what_it_is_at(chunk, at - offset), json_error) {
            (Some(known), _) => (at, known.to_owned()),
            (None, Some(error)) => error,
            (None, None) => (at, format!("this is not valid YAML: {message}")),
        };
        let message =
            format!("{message}; the text up to the next `---` or `apiVersion:` is not read");
        reader.error(u32::try_from(at).unwrap_or(u32::MAX), &Path::Root, message);
        reader.leave();
    }
    if let Some(root) = document.root {
        object::object(reader, &root, None, 0, sink);
    }
    rest
}

/// A message that says what `chunk` may be instead of YAML. `at` is where the parser found the
/// error.
fn what_it_is_at(chunk: &str, at: usize) -> Option<&'static str> {
    let first = chunk.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let (before, after) = chunk.split_at_checked(at).unwrap_or((chunk, ""));
    let begun = before.rsplit('\n').next().unwrap_or_default();
    let line = [begun, after.lines().next().unwrap_or_default()].concat();
    let known = first.and_then(object::what_it_is);
    known.or_else(|| object::what_it_is("{{").filter(|_| line.contains("{{")))
}

/// The text from the next line after `at` that begins as an object does: a separator may have been
/// lost before it.
fn next_header(chunk: &str, at: usize) -> Option<&str> {
    let (_, after) = chunk.split_at_checked(at)?;
    let found =
        ["\napiVersion:", "\nkind:"].into_iter().filter_map(|header| after.find(header)).min()?;
    Some(&after[found + 1..])
}

/// What is known about a JSON document once it has been read to its end.
#[derive(Default)]
struct Head<'a> {
    kind: Option<Str<'a>>,
    api_version: Option<Str<'a>>,
    /// The document has `items`, and so is a list unless its kind says otherwise.
    items: bool,
    /// Items whose kind is known only at the end of the document: those that carry no kind and came
    /// before the list's own, and all items of what may not be a list.
    waiting: Vec<&'a RawValue>,
    /// Fields that a list does not have, or that this one has twice.
    odd: Vec<Odd<'a>>,
    /// Fields of a list that have been read.
    seen: Vec<&'static str>,
}

struct Odd<'a> {
    name: Str<'a>,
    twice: bool,
}

/// The fields of a list.
const LIST: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];

impl Head<'_> {
    fn version(&self) -> Option<&str> {
        self.api_version.as_ref().map(|v| &*v.0)
    }

    /// Whether the document is a list; None while that is not known.
    fn is_list(&self, reader: &Reader) -> Option<bool> {
        let kind = self.kind.as_ref()?;
        Some(matches!(reader.classify(&kind.0, self.version()).0, Kind::List | Kind::Unknown))
    }
}

/// Reads a document in one pass, converting the items of a list as they come.
struct Top<'t, 'r, 's> {
    reader: &'t mut Reader<'r>,
    whole: &'t str,
    sink: &'t mut Sink<'s>,
    /// How many items have been read.
    found: usize,
}

impl<'de> Visitor<'de> for &mut Top<'_, '_, '_> {
    type Value = Head<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head<'de>, A::Error> {
        let mut head = Head::default();
        while let Some(name) = map.next_key::<Str>()? {
            match LIST.iter().find(|known| **known == name.0) {
                Some(known) if head.seen.contains(known) => {
                    head.odd.push(Odd { name: name.clone(), twice: true })
                }
                Some(known) => head.seen.push(known),
                None => head.odd.push(Odd { name: name.clone(), twice: false }),
            }
            match &*name.0 {
                "kind" => {
                    head.kind = serde_json::from_str(map.next_value::<&RawValue>()?.get()).ok()
                }
                "apiVersion" => {
                    head.api_version =
                        serde_json::from_str(map.next_value::<&RawValue>()?.get()).ok()
                }
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
        self.head.items = true;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.head.items = true;
        let (list_kind, version) = (self.head.kind.clone(), self.head.api_version.clone());
        let version = version.as_ref().map(|v| &*v.0);
        let is_list = self.head.is_list(self.top.reader);
        let item_type = list_kind.as_ref().and_then(|kind| item_type_of(&kind.0, version));
        while let Some(raw) = items.next_element::<&RawValue>()? {
            self.top.found += 1;
            if is_list == Some(false) || is_list.is_none() && version.is_some_and(is_custom_version)
            {
                self.head.waiting.push(raw);
                continue;
            }
            let fields = serde_json::from_str::<Item>(raw.get()).ok();
            if is_list.is_none() && fields.as_ref().is_none_or(|fields| fields.kind.is_none()) {
                self.head.waiting.push(raw);
                continue;
            }
            item(self.top.reader, self.top.whole, raw.get(), fields, item_type, self.top.sink);
        }
        Ok(())
    }
}

/// Converts what had to wait until the document's kind was known, and reports what is wrong with a
/// list.
fn finish(reader: &mut Reader, whole: &str, document: &str, head: Head, sink: &mut Sink) {
    if !head.items || head.is_list(reader) == Some(false) {
        return item(reader, whole, document, serde_json::from_str(document).ok(), None, sink);
    }
    let kind = head.kind.as_ref().map_or("List", |k| &k.0);
    for waiting in &head.waiting {
        let text = waiting.get();
        item(
            reader,
            whole,
            text,
            serde_json::from_str(text).ok(),
            item_type_of(kind, head.version()),
            sink,
        );
    }
    let complaint = head.kind.as_ref().and_then(|kind| reader.classify(&kind.0, head.version()).1);
    if head.kind.is_some() && complaint.is_none() && head.odd.is_empty() {
        return;
    }
    // `object` knows how to report what is wrong with a list. It gets the list without its items,
    // which have been converted.
    let at = u32::try_from(offset_in(whole, document)).unwrap_or(u32::MAX);
    let field = |name, value| Field { at, name, node: Node { at, value } };
    let mut fields = vec![field("items".into(), Value::List(vec![]))];
    fields.extend(head.kind.map(|Str(text)| field("kind".into(), Value::String(text))));
    fields
        .extend(head.api_version.map(|Str(text)| field("apiVersion".into(), Value::String(text))));
    for odd in head.odd {
        if odd.twice {
            reader.lost = true;
            reader.error(at, &Path::Root.field(&odd.name.0), "the field is given twice; keep one");
        } else {
            fields.push(field(odd.name.0, Value::Null));
        }
    }
    object::object(reader, &Node { at, value: Value::Map(fields) }, None, 0, sink);
}

/// Converts one object: by the fast path (`typed`), and by the tree where that is unsure.
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
    let purpose = reader.purpose();
    let converted = fields.map_or(Outcome::Unsure, |fields| {
        typed::convert(&fields, item_type, purpose, reader.interner)
    });
    match converted {
        Outcome::Found(found) => {
            reader.damaged = false;
            sink(reader, found, u32::try_from(at).unwrap_or(u32::MAX));
        }
        Outcome::Ignored => {}
        Outcome::Unsure => thorough(reader, whole, text, item_type, sink),
    }
}

fn thorough(
    reader: &mut Reader,
    whole: &str,
    text: &str,
    item_type: Option<ItemType>,
    sink: &mut Sink,
) {
    // The text has been read as a JSON value before, so this does not fail.
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return };
    let mut broken = Vec::new();
    let tree = json::tree(whole, raw, &mut |at, message| broken.push((at, message)));
    if !broken.is_empty() {
        let kind = tree.get("kind").and_then(Node::as_str).or(item_type.map(|t| t.kind));
        reader.enter(kind.unwrap_or("object"), &metadata::display_name(&tree));
        for (at, message) in broken {
            reader.error(
                u32::try_from(at).unwrap_or(u32::MAX),
                &Path::Root,
                format!("this is not valid JSON: {message}"),
            );
        }
    }
    object::object(reader, &tree, item_type, 0, sink);
}
