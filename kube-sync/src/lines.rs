//! Where the fields of policies stand: for each rule, peer, port and selector the file, the line
//! and the text of that line, for messages such as `policies/api.yaml:14`. Lines are gathered only
//! for whoever asks questions.
//!
//! Not here: where an object begins, which is known of every object (`place`).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use crate::{
    ObjectId,
    problem::Path,
    source::{Origin, Reader},
    tree::{Node, Value},
};

/// The lines of policies and groups, with those of their fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(HashMap<ObjectId, ObjectLines>);

/// A line of an input. Prints as `policies/api.yaml:14`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'l> {
    /// The input, or the file in a directory that was given.
    pub file: &'l str,
    /// The line in the file, from 1; None where the object came from an API server.
    pub number: Option<u32>,
    /// The text of the line without its indentation; of a line that is very long, what begins with
    /// the field.
    pub text: &'l str,
}

/// The lines of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectLines {
    file: Arc<str>,
    /// The line on which `text` begins.
    first: Option<u32>,
    /// The object as it is written.
    text: Box<str>,
    /// Offsets in `text` by the paths of fields; that of the object itself is empty.
    fields: BTreeMap<Box<str>, usize>,
}

/// What is longer counts as a line that no person reads, such as a whole list in JSON.
const MAX_LINE: usize = 200;

impl Lines {
    /// The line on which `object` begins; None where it is no policy or group, or is unknown.
    pub fn object(&self, object: &ObjectId) -> Option<Line<'_>> {
        self.field(object, "")
    }

    /// The line of the field `path` of `object`, such as `spec.ingress[0].from[1]`, or of the
    /// closest field around it that is written there: a policy need not write what has a default.
    pub fn field(&self, object: &ObjectId, path: &str) -> Option<Line<'_>> {
        let lines = self.0.get(object)?;
        let mut path = path;
        loop {
            if let Some(at) = lines.fields.get(path) {
                return Some(lines.line(*at));
            }
            if path.is_empty() {
                return None;
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }

    pub(crate) fn insert(&mut self, object: ObjectId, lines: ObjectLines) {
        self.0.insert(object, lines);
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file)?;
        match self.number {
            Some(number) => write!(f, ":{number}"),
            None => Ok(()),
        }
    }
}

impl ObjectLines {
    /// The lines of the object at `node`, which the reader has come to.
    pub fn of(reader: &Reader, node: &Node) -> Self {
        let mut places = Vec::new();
        walk(node, &Path::Root, &mut places);
        let begin = match &node.value {
            Value::Map(fields) => fields.iter().map(|f| f.at).min().unwrap_or(node.at).min(node.at),
            _ => node.at,
        };
        let source = reader.source.text;
        let start = line_start(source, begin as usize);
        let last = places.iter().map(|(_, at)| *at as usize).max().unwrap_or(start);
        let end = line_end(source, last);
        // What an alias stands for may be written before the object.
        let fields = places.into_iter().filter(|(_, at)| (start..=end).contains(&(*at as usize)));
        let fields = fields.map(|(path, at)| (path, at as usize - start)).collect();
        Self {
            file: reader.source.name.clone(),
            first: (reader.origin == Origin::File).then(|| reader.source.line(start)),
            text: String::from_utf8_lossy(&source[start..end]).into(),
            fields,
        }
    }

    fn line(&self, at: usize) -> Line<'_> {
        let at = at.min(self.text.len());
        let before = &self.text.as_bytes()[..at];
        let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        let rest = &self.text.as_bytes()[at..];
        let end = at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let (from, to) =
            if end - start > MAX_LINE { (at, (at + MAX_LINE).min(end)) } else { (start, end) };
        let to = (to..=self.text.len()).find(|to| self.text.is_char_boundary(*to)).unwrap_or(end);
        let newlines = before.iter().filter(|b| **b == b'\n').count();
        Line {
            file: &self.file,
            number: self.first.map(|first| first + u32::try_from(newlines).unwrap_or(u32::MAX)),
            text: self.text.get(from..to).unwrap_or_default().trim(),
        }
    }
}

/// The offset at which the line of `at` begins, or of a very long one a little before `at`.
fn line_start(source: &[u8], at: usize) -> usize {
    let at = at.min(source.len());
    let from = at.saturating_sub(MAX_LINE);
    match source[from..at].iter().rposition(|b| *b == b'\n') {
        Some(newline) => from + newline + 1,
        None if from == 0 => 0,
        None => at,
    }
}

/// The offset at which the line of `at` ends, or of a very long one a little behind `at`.
fn line_end(source: &[u8], at: usize) -> usize {
    let at = at.min(source.len());
    let most = (at + MAX_LINE).min(source.len());
    source[at..most].iter().position(|b| *b == b'\n').map_or(most, |newline| at + newline)
}

/// Notes the path and offset of everything in or below `node`.
fn walk(node: &Node, path: &Path, into: &mut Vec<(Box<str>, u32)>) {
    if matches!(path, Path::Root) {
        into.push(("".into(), node.at));
    }
    match &node.value {
        Value::Map(fields) => {
            for field in fields.iter().filter(|field| !field.name.is_empty()) {
                let path = path.field(&field.name);
                into.push((path.to_string().into(), field.at));
                walk(&field.node, &path, into);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = path.index(index);
                into.push((path.to_string().into(), item.at));
                walk(item, &path, into);
            }
        }
        _ => {}
    }
}
