//! Reports about inputs, for people: where the mistake is, in which object and field, and what to
//! do about it. Not here: any decision about what a broken object still does (see `policy`).

use std::{fmt, sync::Arc};

use crate::plain;

/// Whether a problem affects what is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The input was understood, but is probably not meant as written.
    Warning,
    /// The input was rejected, or only the part that can be understood was used.
    Error,
}

/// The kind and name of an object, as messages print it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The object's `kind`, as it was written.
    pub kind: Arc<str>,
    /// `namespace/name`, or the name of a cluster-scoped object; empty where it has none.
    pub name: Arc<str>,
}

/// Something that is wrong with an input. Prints as
/// ``shop.yaml:12: NetworkPolicy shop/ui: spec.egress[0].from: unknown field; did you mean `to`?``
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The input: a path, `-`, or the name that was given for bytes.
    pub file: Arc<str>,
    /// The line in the input, from 1; None where the input itself could not be read.
    pub line: Option<u32>,
    /// The number of the document within the input, from 1; None where the problem concerns the
    /// input as a whole.
    pub document: Option<u32>,
    /// The object; None where it cannot be told.
    pub object: Option<ObjectRef>,
    /// The path of the field within the object, such as `spec.egress[0].from`; None where the
    /// problem concerns the whole object.
    pub field: Option<String>,
    /// What is wrong, and what to do about it.
    pub message: String,
    /// Whether the problem affects what is enforced.
    pub severity: Severity,
}

impl Problem {
    /// The problem as one line of output: a warning begins with `warning:`.
    pub fn line(&self) -> String {
        match self.severity {
            Severity::Error => self.to_string(),
            Severity::Warning => format!("warning: {self}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {}", plain(&object.kind))?;
            if !object.name.is_empty() {
                write!(f, " {}", plain(&object.name))?;
            }
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", plain(&self.message))
    }
}

/// How many problems are kept at most; one more says that there are others.
pub const MAX_PROBLEMS: usize = 10_000;

/// Problems in the order in which they were found, at most [`MAX_PROBLEMS`].
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    pub fn push(&mut self, problem: Problem) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.push(problem);
        } else if self.list.len() == MAX_PROBLEMS {
            self.list.push(Problem {
                file: problem.file,
                line: problem.line,
                document: None,
                object: None,
                field: None,
                message: format!(
                    "there are more than {MAX_PROBLEMS} problems; the rest are not shown"
                ),
                severity: Severity::Error,
            });
        }
    }

    pub fn into_list(self) -> Vec<Problem> {
        self.list
    }
}

/// The path of a field, as a linked list on the stack: it costs nothing until it is printed.
#[derive(Clone, Copy)]
pub(crate) enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    pub fn field<'p>(&'p self, name: &'p str) -> Path<'p> {
        Path::Field(self, name)
    }

    pub fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => write_name(f, name),
            Path::Field(parent, name) => {
                write!(f, "{parent}.")?;
                write_name(f, name)
            }
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Writes a field's name on one short line: broken input may hold long or unprintable names.
fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    f.write_str(&excerpt(name))
}

/// The first 60 characters of `text`, escaped so that they stay on one line.
pub(crate) fn excerpt(text: &str) -> String {
    let mut out: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out.replace("\\'", "'").replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_where_what_and_which_field() {
        let spec = Path::Root.field("spec");
        let egress = spec.field("egress");
        let rule = egress.index(0);
        let problem = Problem {
            file: "shop.yaml".into(),
            line: Some(12),
            document: Some(1),
            object: Some(ObjectRef { kind: "NetworkPolicy".into(), name: "shop/ui".into() }),
            field: Some(rule.field("from").to_string()),
            message: "unknown field; did you mean `to`?".into(),
            severity: Severity::Error,
        };
        assert_eq!(
            problem.to_string(),
            "shop.yaml:12: NetworkPolicy shop/ui: spec.egress[0].from: unknown field; did you mean \
             `to`?"
        );
    }

    #[test]
    fn problems_are_bounded() {
        let mut problems = Problems::default();
        let problem = Problem {
            file: "f".into(),
            line: None,
            document: None,
            object: None,
            field: None,
            message: String::new(),
            severity: Severity::Error,
        };
        for _ in 0..MAX_PROBLEMS + 5 {
            problems.push(problem.clone());
        }
        let list = problems.into_list();
        assert_eq!(list.len(), MAX_PROBLEMS + 1);
        assert!(list[MAX_PROBLEMS].message.contains("not shown"));
    }
}
