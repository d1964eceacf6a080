//! Findings as a table: in Markdown for pull requests, and in CSV for spreadsheets (RFC 4180).

use std::io::{self, Write};

use netpolc_analyze::lint::Severity;

use super::{
    report::{Located, Report},
    text::place,
};

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
        let what = cell(&format!("{object}{}", finding.message));
        let check = finding.check;
        let change = cell(&finding.change);
        writeln!(out, "| {icon} | {place} | {what} | {change} | {check} |")?;
    }
    Ok(())
}

/// Text in a cell, where a bar would end it and tags would be lost.
fn cell(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
    text.replace('<', "&lt;")
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
        let fields = fields.map(|text| quoted(&text));
        write!(out, "{}\r\n", fields.join(","))?;
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_cell_is_escaped() {
        assert_eq!(cell("a|b\n<c>\\"), "a\\|b &lt;c>\\\\");
        assert_eq!(code("a`|b"), "`a \\|b`");
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
