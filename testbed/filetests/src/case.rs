//! The file of a case: which comment lines are directives, where events begin, which documents name
//! what goes.
//!
//! Not here: what directives mean ([`crate::print`], [`crate::state`]).

use std::fmt;

/// A case as its file says it.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// The file's name, for messages about its objects.
    pub name: String,
    /// What the case shows: the comment on top of the file.
    pub sentence: String,
    /// Directives about the whole case, all but `print`.
    pub settings: Vec<Directive>,
    /// The objects at first, then each event.
    pub steps: Vec<Step>,
}

/// The first objects, or one update.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The line at which it begins, counted from 1.
    pub line: usize,
    /// What happens; empty for the first.
    pub sentence: String,
    /// What to print after the last event.
    pub prints: Vec<Print>,
    /// Interfaces that pods get in this event.
    pub interfaces: Vec<Directive>,
    /// Objects that come or change. What is not theirs is blank, so that lines are those of the
    /// file.
    pub put: String,
    /// Objects that go, in the same way.
    pub deleted: String,
}

/// A line `# name: words`.
#[derive(Clone, Debug)]
pub struct Directive {
    /// The line, counted from 1.
    pub line: usize,
    /// The word before the colon.
    pub name: String,
    /// The words behind the colon.
    pub words: Vec<String>,
}

/// A line `# print: what`.
#[derive(Clone, Debug)]
pub struct Print {
    /// The line, counted from 1.
    pub line: usize,
    /// The form behind the colon.
    pub what: String,
}

/// What is wrong with a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// What, and what to do.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Directives about a whole case.
const SETTINGS: [&str; 8] =
    ["cluster", "node", "limit", "interface", "tunnel", "link", "bridged", "forwarding"];

impl Case {
    /// Reads the text of a file called `name`.
    ///
    /// # Errors
    /// A directive is not known or stands where it has no meaning, or there is no sentence.
    pub fn parse(name: &str, text: &str) -> Result<Self, Fault> {
        let mut case = Self { name: name.to_owned(), ..Self::default() };
        let mut step = Step { line: 1, ..Step::default() };
        // Lines of the document that is being read, and whether it is one that goes.
        let (mut document, mut goes, mut begins) = (String::new(), false, 1);
        // Prose before the first directive or object is the case's sentence.
        let mut head = true;
        for (line, text) in (1..).zip(text.lines()) {
            let fault = |message: String| Fault { line, message };
            if text == "---" {
                step.finish(&mut document, begins, std::mem::take(&mut goes));
                begins = line + 1;
                continue;
            }
            let Some(comment) = text.strip_prefix("# ").or_else(|| text.strip_prefix('#')) else {
                head &= text.is_empty();
                document.extend([text, "\n"]);
                continue;
            };
            document.push('\n');
            if comment == "deleted" {
                goes = true;
                continue;
            }
            let Some((name, rest)) = directive(comment) else {
                if head {
                    case.sentence = format!("{} {comment}", case.sentence).trim().to_owned();
                }
                continue;
            };
            head = false;
            let first = step.sentence.is_empty();
            let words = rest.split_whitespace().map(str::to_owned).collect();
            let directive = Directive { line, name: name.to_owned(), words };
            match name {
                "event" => {
                    step.finish(&mut document, begins, std::mem::take(&mut goes));
                    begins = line + 1;
                    case.steps.push(std::mem::take(&mut step));
                    step = Step { line, sentence: rest.to_owned(), ..Step::default() };
                }
                "print" => step.prints.push(Print { line, what: rest.to_owned() }),
                "interface" if !first => step.interfaces.push(directive),
                name if SETTINGS.contains(&name) && first => case.settings.push(directive),
                name if SETTINGS.contains(&name) => {
                    return Err(fault(format!(
                        "`{name}` holds for the whole case: it stands before the first event"
                    )));
                }
                _ => {
                    return Err(fault(format!(
                        "`# {name}:` is not a directive: see the README beside the cases"
                    )));
                }
            }
        }
        step.finish(&mut document, begins, goes);
        case.steps.push(step);
        if !case.sentence.ends_with('.') {
            let message =
                "a case begins with a comment that says in one sentence what it shows".into();
            return Err(Fault { line: 1, message });
        }
        Ok(case)
    }

    /// The words of the directives called `name`.
    pub fn settings<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.settings.iter().filter(move |directive| directive.name == name)
    }
}

impl Step {
    /// Puts a document where it belongs, in its own lines.
    fn finish(&mut self, document: &mut String, begins: usize, goes: bool) {
        let document = std::mem::take(document);
        if document.trim().is_empty() {
            return;
        }
        let to = if goes { &mut self.deleted } else { &mut self.put };
        // The line of the separator before it.
        let missing = begins.saturating_sub(2).saturating_sub(to.lines().count());
        to.extend(std::iter::repeat_n("\n", missing));
        if begins > 1 {
            to.push_str("---\n");
        }
        to.push_str(&document);
    }
}

/// `name` and the rest of `name: rest`, where the name is a single word in small letters.
fn directive(comment: &str) -> Option<(&str, &str)> {
    let (name, rest) = comment.split_once(": ")?;
    let word = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase());
    word.then(|| (name, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# What it\n# shows.\n# node: n1\n# print: tables\nkind: A\n---\nkind: \
        B\n---\n\
                       # event: B goes.\n# print: plan\n# deleted\nkind: B\n";

    #[test]
    fn objects_keep_their_lines_and_events_their_documents() {
        let case = Case::parse("two", TWO).expect("a case");
        assert_eq!(case.sentence, "What it shows.");
        assert_eq!(
            case.settings("node").next().map(|d| d.words.clone()),
            Some(vec!["n1".to_owned()])
        );
        let [first, event] = &case.steps[..] else { panic!("{case:?}") };
        assert_eq!(first.put, "\n\n\n\nkind: A\n---\nkind: B\n");
        assert_eq!((event.sentence.as_str(), event.put.as_str()), ("B goes.", ""));
        assert_eq!(event.deleted.lines().nth(11), Some("kind: B"), "{:?}", event.deleted);
        assert_eq!(event.prints[0].what, "plan");
    }

    #[test]
    fn a_fault_names_its_line() {
        let fault = |text: &str| Case::parse("x", text).expect_err("a fault").to_string();
        assert_eq!(
            fault("# X.\n# prnt: tables\n"),
            "line 2: `# prnt:` is not a directive: see the README beside the cases"
        );
        assert_eq!(
            fault("# X.\n# print: plan\n# event: Y.\n# node: n1\n"),
            "line 4: `node` holds for the whole case: it stands before the first event"
        );
        assert!(fault("kind: A\n").starts_with("line 1: a case begins with a comment"));
    }
}
