//! `netpolc lint`: what is probably not meant as it is written, in one list with what the reader
//! refuses.
//!
//! Here: what is asked of whom, and the exit code. Not here: the checks themselves
//! (`netpolc_analyze::lint`), where findings stand ([`report`]), and the formats.

mod conflict;
mod github;
mod problem;
pub mod report;
mod sarif;
mod table;
mod text;

use std::collections::BTreeSet;

use anyhow::Context;
use netpolc_analyze::{
    Analysis,
    lint::{self, Check, Facts, Severity},
};
use netpolc_kube_sync::{Absent, ObjectKind, Survey};

use self::report::Report;
use crate::{
    cli::{
        lint::{Deny, Format},
        request::Input,
    },
    input,
    output::{self, Notation, Outcome},
};

/// The options of `netpolc lint`.
#[derive(Debug)]
pub struct Lint {
    /// The input: files, and what becomes of pods that no policy isolates.
    pub input: Input,
    /// What makes the exit code 1.
    pub deny: Deny,
    /// The checks whose findings are left out.
    pub allow: BTreeSet<Check>,
    /// The output format.
    pub format: Format,
}

/// The check with this id.
///
/// # Errors
/// There is none; the message names the one that was probably meant.
pub fn check(id: &str) -> anyhow::Result<Check> {
    Check::with_id(id).with_context(|| {
        let known: Vec<&str> = Check::ALL.iter().map(|check| check.id()).collect();
        format!("--allow {id} is not the id of a check; the ids are {}", known.join(", "))
    })
}

/// Runs `netpolc lint`.
///
/// # Errors
/// The input cannot be read, or standard output cannot be written.
pub fn run(lint: &Lint) -> anyhow::Result<Outcome> {
    let survey = input::gather(&lint.input, Absent::MadeUp)?;
    let report = report(&survey, &lint.allow);
    let mut out = output::stdout();
    match lint.format {
        Format::Text => text::print(&report, output::Colour::of_stdout(), &mut out)?,
        Format::Json => output::write_data(&mut out, &report, Notation::Json)?,
        Format::Yaml => output::write_data(&mut out, &report, Notation::Yaml)?,
        Format::Sarif => {
            let folder = std::env::current_dir().ok();
            let first = lint.input.files.first().map(|file| file.display().to_string());
            let sarif = sarif::of(&report, folder.as_deref(), first.as_deref());
            output::write_data(&mut out, &sarif, Notation::Json)?;
        }
        Format::Github => github::print(&report, &mut out)?,
        Format::Markdown => table::markdown(&report, &mut out)?,
        Format::Csv => table::csv(&report, &mut out)?,
    }
    std::io::Write::flush(&mut out)?;
    Ok(outcome(&report, lint.deny))
}

/// Everything that is found, but for what is allowed.
fn report(survey: &Survey, allow: &BTreeSet<Check>) -> Report {
    let cluster = &survey.loaded.cluster;
    let places = survey.loaded.places.keys();
    let declared = places.filter(|id| id.kind == ObjectKind::Namespace);
    let facts = Facts {
        frontends: survey.frontends.clone(),
        declared: declared.map(|id| id.key.name.clone()).collect(),
    };
    let mut found = lint::findings(&mut Analysis::new(cluster), &facts);
    found.extend(conflict::findings(cluster));
    let mut report = Report::of(found, survey, allow);
    report.add(problem::findings(&survey.loaded.problems), allow);
    report.add(report::unknown_ids(survey), allow);
    report.sort();
    report
}

fn outcome(report: &Report, deny: Deny) -> Outcome {
    let least = match deny {
        Deny::Errors => Severity::Error,
        Deny::Warnings => Severity::Warning,
        Deny::Notes => Severity::Note,
        Deny::Nothing => return Outcome::Fine,
    };
    Outcome::of_problems(report.findings.iter().filter(|f| f.severity >= least).count())
}
