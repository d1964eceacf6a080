//! What the reader reports, as findings: lint is one list.

use netpolc_analyze::lint::{self, Check};
use netpolc_kube_sync::{Problem, Severity};

use super::report::Located;

/// The problems as findings.
pub(super) fn findings(problems: &[Problem]) -> Vec<Located> {
    problems.iter().map(finding).collect()
}

fn finding(problem: &Problem) -> Located {
    let (severity, check) = match (problem.severity, &problem.object, &problem.field) {
        (Severity::Warning, ..) => (lint::Severity::Warning, Check::Doubtful),
        (Severity::Error, None, _) => (lint::Severity::Error, Check::UnreadableInput),
        (Severity::Error, Some(_), None) => (lint::Severity::Error, Check::RefusedObject),
        (Severity::Error, Some(_), Some(_)) => (lint::Severity::Error, Check::RefusedField),
    };
    let (message, change) = sentences(&problem.message, problem.field.as_deref());
    let object = problem.object.as_ref().map(|object| match object.name.is_empty() {
        true => object.kind.to_string(),
        false => format!("{} {}", object.kind, object.name),
    });
    Located {
        file: Some(problem.file.to_string()),
        line: problem.line,
        severity,
        check,
        object,
        field: problem.field.clone(),
        message,
        change,
    }
}

/// The message as two sentences. The reader says what to do behind the last semicolon.
fn sentences(message: &str, field: Option<&str>) -> (String, String) {
    let (what, change) = match message.rsplit_once("; ") {
        Some((what, change)) => (what, sentence(change)),
        None => (message, "Write what the API takes there.".into()),
    };
    let what = match field {
        Some(field) => format!("{field}: {what}."),
        None => format!("{}.", capital(what)),
    };
    (what, change)
}

fn sentence(text: &str) -> String {
    let end = if text.ends_with(['.', '?']) { "" } else { "." };
    format!("{}{end}", capital(text))
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_two_sentences() {
        let (what, change) = sentences("unknown field; did you mean `to`?", Some("spec.x"));
        assert_eq!((&*what, &*change), ("spec.x: unknown field.", "Did you mean `to`?"));
        let (what, change) = sentences("this object is twice here; a or b; remove one", None);
        assert_eq!((&*what, &*change), ("This object is twice here; a or b.", "Remove one."));
        let (what, change) = sentences("is not a valid CIDR", Some("spec.cidr"));
        assert_eq!(what, "spec.cidr: is not a valid CIDR.");
        assert_eq!(change, "Write what the API takes there.");
    }
}
