//! The position of a converter: the text and the object that it is reading, so that messages can
//! name file, line and object. Not here: the form of messages (`problem`).

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use netpolc_policy::ObjectKey;

use crate::{
    ObjectId, annotation,
    gather::{Gathered, Pending, Purpose},
    intern::Interner,
    kind::{Complaint, Kind, asked},
    lines::ObjectLines,
    plain,
    problem::{ObjectRef, Path, Problem, Problems, Severity, excerpt},
    tree::Node,
};

/// The text of one input.
pub(crate) struct Source<'a> {
    pub name: Arc<str>,
    pub text: &'a [u8],
    /// An offset whose line is known, that of the current document or object: lines are counted
    /// from there.
    known: Cell<(usize, u32)>,
}

impl<'a> Source<'a> {
    pub fn new(name: Arc<str>, text: &'a [u8]) -> Self {
        Self { name, text, known: Cell::new((0, 1)) }
    }

    /// The line of the byte at `offset`, from 1.
    pub fn line(&self, offset: usize) -> u32 {
        let (from, line) = self.known.get();
        let offset = offset.min(self.text.len());
        let (from, line) = if offset < from { (0, 1) } else { (from, line) };
        line + newlines(&self.text[from..offset])
    }

    /// Returns the line of `offset` as [`Source::line`] does, and counts from there in future:
    /// objects are read in order.
    pub fn advance(&self, offset: usize) -> u32 {
        let line = self.line(offset);
        self.known.set((offset.min(self.text.len()), line));
        line
    }
}

fn newlines(text: &[u8]) -> u32 {
    // Blocks of 255 let the compiler add bytes instead of words.
    text.chunks(255)
        .map(|block| u32::from(block.iter().map(|b| u8::from(*b == b'\n')).sum::<u8>()))
        .sum()
}

/// How many problems of one object are reported.
const MAX_PROBLEMS_PER_OBJECT: u32 = 100;

/// Who wrote the text that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// People and tools, who may misspell a field.
    File,
    /// An API server, which has rejected or dropped the fields that it does not know. It may know
    /// more fields than we do.
    #[cfg_attr(not(feature = "watch"), allow(dead_code, reason = "only watches read from one"))]
    Server,
}

/// Policies that other engines enforce, and templates: how many of each kind and version, and the
/// line of the first.
pub(crate) type Foreign = BTreeMap<(String, String), (usize, u32)>;

/// Reads one object after another out of a source.
pub(crate) struct Reader<'a> {
    pub source: &'a Source<'a>,
    pub problems: &'a mut Problems,
    pub interner: &'a mut Interner,
    /// What is gathered beside objects; None where they are enforced.
    pub gathered: Option<&'a mut Gathered>,
    pub document: Option<u32>,
    pub object: Option<ObjectRef>,
    reported: u32,
    /// Whether an object of the input may be missing from the result.
    pub lost: bool,
    /// Whether a part of the current object was left out.
    pub damaged: bool,
    pub origin: Origin,
    pub foreign: Foreign,
    /// Whether there was a document that is neither empty nor null.
    pub any: bool,
}

impl<'a> Reader<'a> {
    pub fn new(
        source: &'a Source<'a>,
        problems: &'a mut Problems,
        interner: &'a mut Interner,
    ) -> Self {
        Self {
            source,
            problems,
            interner,
            gathered: None,
            document: None,
            object: None,
            reported: 0,
            lost: false,
            damaged: false,
            origin: Origin::File,
            foreign: Foreign::new(),
            any: false,
        }
    }

    /// Why the source is read.
    pub fn purpose(&self) -> Purpose {
        if self.gathered.is_some() { Purpose::Answer } else { Purpose::Enforce }
    }

    /// The kind that `kind` and `apiVersion` name, and what is wrong with them.
    pub fn classify(&self, kind: &str, version: Option<&str>) -> (Kind, Option<Complaint>) {
        asked::classify_for(self.purpose(), kind, version)
    }

    /// Gathers where the fields of the object at `node` stand, where somebody asks for that.
    pub fn gather_lines(&mut self, node: &Node) {
        if self.gathered.is_none() {
            return;
        }
        let lines = ObjectLines::of(self, node);
        if let Some(gathered) = self.gathered.as_deref_mut() {
            gathered.pending.lines = Some(lines);
        }
    }

    /// Gathers what lint need not report of the object at `node`, where somebody asks for that.
    pub fn gather_lint_allow(&mut self, node: &Node) {
        if let Some(gathered) = self.gathered.as_deref_mut() {
            gathered.pending.lint_allow = annotation::lint_allow(node);
        }
    }

    /// Takes what was gathered about the object that was read last.
    pub fn pending(&mut self) -> Pending {
        let gathered = self.gathered.as_deref_mut();
        gathered.map(|gathered| std::mem::take(&mut gathered.pending)).unwrap_or_default()
    }

    /// Keeps what was gathered about the object that is part of the cluster as `id`.
    pub fn keep(&mut self, id: &ObjectId, pending: Pending) {
        if let Some(gathered) = self.gathered.as_deref_mut() {
            gathered.keep(id, pending);
        }
    }

    /// Counts policies that another engine enforces.
    pub fn foreign(&mut self, at: u32, kind: &str, api_version: &str, count: usize) {
        let line = self.source.line(at as usize);
        self.foreign.entry((excerpt(kind), excerpt(api_version))).or_insert((0, line)).0 += count;
    }

    /// Attributes the problems that follow to this object.
    pub fn enter(&mut self, kind: &str, name: &str) {
        self.reported = 0;
        let (kind, name) = (plain(kind).into(), plain(name).into());
        self.object = Some(ObjectRef { kind, name });
    }

    /// Sets the key of the current object, once it is known.
    pub fn name(&mut self, kind: &str, key: &ObjectKey) {
        self.object = Some(ObjectRef { kind: kind.into(), name: key.to_string().into() });
    }

    /// Attributes the problems that follow to no object.
    pub fn leave(&mut self) {
        self.reported = 0;
        self.object = None;
    }

    pub fn error(&mut self, at: u32, path: &Path, message: impl Into<String>) {
        self.damaged = true;
        self.report(Severity::Error, at, path, message.into());
    }

    pub fn warning(&mut self, at: u32, path: &Path, message: impl Into<String>) {
        self.report(Severity::Warning, at, path, message.into());
    }

    fn report(&mut self, mut severity: Severity, at: u32, path: &Path, mut message: String) {
        self.reported += 1;
        if self.reported == MAX_PROBLEMS_PER_OBJECT && self.object.is_some() {
            message.push_str(" (further problems of this object are not shown)");
            severity = Severity::Error;
        } else if self.reported > MAX_PROBLEMS_PER_OBJECT && self.object.is_some() {
            return;
        }
        // A server sends each object on one line, so the position says nothing.
        let line = (self.origin == Origin::File).then(|| self.source.line(at as usize));
        self.problems.push(Problem {
            file: self.source.name.clone(),
            line,
            document: self.document,
            object: self.object.clone(),
            field: if matches!(path, Path::Root) { None } else { Some(path.to_string()) },
            message,
            severity,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one_and_backwards_too() {
        let text = "a\nb\n\nc".repeat(300);
        let source = Source::new("f".into(), text.as_bytes());
        let expected = |offset: usize| 1 + text[..offset].matches('\n').count() as u32;
        assert_eq!(source.advance(700), expected(700));
        for offset in [0, 1, 2, 699, 700, 701, 1200, text.len()] {
            assert_eq!(source.line(offset), expected(offset));
        }
    }
}
