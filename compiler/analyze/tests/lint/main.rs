//! Each check finds what it is there for, and leaves alone what merely looks alike. Inputs are YAML
//! as people write it.

mod idle;
mod input;
mod peers;
mod reach;
mod sound;

use netpolc_analyze::{
    Analysis,
    lint::{Check, Facts, Finding, Severity, findings},
};
use netpolc_kube_sync::{Absent, Input, ObjectKind, Survey, survey};

/// What is found in these objects.
fn lint(yaml: &str) -> Vec<Finding> {
    let read = survey([Input::bytes("input.yaml", yaml)], Absent::MadeUp);
    assert!(!read.loaded.has_errors(), "{:?}", read.loaded.problems);
    lint_of(&read)
}

fn lint_of(read: &Survey) -> Vec<Finding> {
    let places = read.loaded.places.keys();
    let declared = places.filter(|id| id.kind == ObjectKind::Namespace);
    let facts = Facts {
        frontends: read.frontends.clone(),
        declared: declared.map(|id| id.key.name.clone()).collect(),
    };
    findings(&mut Analysis::new(&read.loaded.cluster), &facts)
}

/// Those of one check, as `severity object field`, with both sentences.
fn of(check: Check, yaml: &str) -> Vec<(String, String, String)> {
    let found = lint(yaml).into_iter().filter(|finding| finding.check == check);
    found
        .map(|f| {
            let head = format!("{} {} {}", f.severity, f.object, f.field);
            (head.trim_end().to_owned(), f.what, f.change)
        })
        .collect()
}

/// Asserts that the check finds one thing, here, with these words.
#[track_caller]
fn finds(check: Check, yaml: &str, head: &str, what: &str, change: &str) {
    let found = of(check, yaml);
    let [(is, says, instead)] = found.as_slice() else { panic!("{check}: {found:?}") };
    assert_eq!(is, head);
    assert!(says.contains(what), "{says}");
    assert!(instead.contains(change), "{instead}");
}

/// Asserts that the check finds nothing.
#[track_caller]
fn finds_nothing(check: Check, yaml: &str) {
    let found = of(check, yaml);
    assert!(found.is_empty(), "{check}: {found:?}");
}

/// Asserts that the check finds nothing that is worse than a note.
#[track_caller]
fn only_notes(check: Check, yaml: &str) {
    let found = lint(yaml).into_iter().filter(|f| f.check == check);
    let worse: Vec<Finding> = found.filter(|f| f.severity > Severity::Note).collect();
    assert!(worse.is_empty(), "{worse:?}");
}
