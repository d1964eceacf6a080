//! Findings for people: `file:line: severity: message [id]`, and below that what to write instead.

use std::io::{self, Write};

use netpolc_analyze::lint::Severity;

use super::report::{Located, Report};
use crate::output::Colour;

/// Prints the findings, and how many there are.
pub(super) fn print(report: &Report, colour: Colour, out: &mut impl Write) -> io::Result<()> {
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Error => colour.bad("error"),
            Severity::Warning => colour.strong("warning"),
            Severity::Note => colour.faint("note"),
        };
        let place = place(finding).map(|place| format!("{place}: ")).unwrap_or_default();
        let object = finding.object.as_ref().map(|it| format!("{it}: ")).unwrap_or_default();
        let id = colour.faint(&format!("[{}]", finding.check));
        writeln!(out, "{place}{severity}: {object}{} {id}", finding.message)?;
        writeln!(out, "    {}", finding.change)?;
    }
    let mut counts = Vec::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        match report.count(severity) {
            0 => {}
            1 => counts.push(format!("1 {severity}")),
            number => counts.push(format!("{number} {severity}s")),
        }
    }
    if counts.is_empty() {
        counts.push("nothing was found".into());
    }
    if report.allowed > 0 {
        counts.push(format!("{} allowed", report.allowed));
    }
    writeln!(out, "{}", counts.join(", "))
}

/// `file:line`, as editors and CI recognize it.
pub(super) fn place(finding: &Located) -> Option<String> {
    let file = finding.file.as_ref()?;
    Some(finding.line.map_or_else(|| file.clone(), |line| format!("{file}:{line}")))
}
