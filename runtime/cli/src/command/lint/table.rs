//! Findings as a table: in Markdown for pull requests, and in CSV for spreadsheets (RFC 4180).

use std::io::{self, Write};

use netpolc_analyze::lint::Severity;

use super::{
    report::{Located, Report},
    text::place,
};
use crate::ask::graph::{csv_line, markdown_text};

/// Prints a table for pull requests; a sentence where there is nothing to show.
pub(super) fn markdown(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if report.findings.is_empty() {
        return writeln!(out, "netpolc lint found nothing.");
    }
    writeln!(out, "| severity | where | what is wrong | what to do | check |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for finding in &report.findings {
        let icon = match finding.severity {
            Severity::Error => "**error**",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let object = finding.object.as_ref().map(|it| format!("{it}: ")).unwrap_or_default();
        let place = place(finding).map(|place| code(&place)).unwrap_or_default();
        let what = markdown_text(&format!("{object}{}", finding.message));
        let check = finding.check;
        let change = markdown_text(&finding.change);
        writeln!(out, "| {icon} | {place} | {what} | {change} | {check} |")?;
    }
    Ok(())
}

/// Text in a cell, as code.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|").replace(['\n', '\r', '`'], " "))
}

/// Prints a head and a line for each finding.
pub(super) fn csv(report: &Report, out: &mut impl Write) -> io::Result<()> {
    write!(out, "severity,check,file,line,object,field,message,change\r\n")?;
    for finding in &report.findings {
        let Located { file, line, severity, check, object, field, message, change } = finding;
        let line = line.map(|line| line.to_string()).unwrap_or_default();
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        let fields = [
            severity.to_string(),
            check.to_string(),
            optional(file),
            line,
            optional(object),
            optional(field),
            message.clone(),
            change.clone(),
        ];
        write!(out, "{}", csv_line(fields))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_cell_is_escaped() {
        assert_eq!(markdown_text("a|b\n<c>\\"), "a\\|b &lt;c>\\\\");
        assert_eq!(code("a`|b"), "`a \\|b`");
    }
}
