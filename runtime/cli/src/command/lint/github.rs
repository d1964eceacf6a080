//! Findings as commands of a GitHub workflow, which shows them beside the lines of a pull request.
//!
//! Source: "Workflow commands for GitHub Actions"; the escapes are those of actions/toolkit,
//! packages/core/src/command.ts.

use std::io::{self, Write};

use netpolc_analyze::lint::Severity;

use super::report::Report;

/// Prints a command for each finding.
pub(super) fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for finding in &report.findings {
        let command = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let mut properties = Vec::new();
        if let Some(file) = &finding.file {
            properties.push(format!("file={}", property(file)));
        }
        if let Some(line) = finding.line {
            properties.push(format!("line={line}"));
        }
        properties.push(format!("title={}", property(finding.check.id())));
        let object = finding.object.as_ref().map(|it| format!("{it}: ")).unwrap_or_default();
        let message = format!("{object}{}\n{}", finding.message, finding.change);
        writeln!(out, "::{command} {}::{}", properties.join(","), data(&message))?;
    }
    Ok(())
}

/// Text as the message of a command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Text as a property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_property_or_a_message_is_escaped() {
        assert_eq!(property("a,b:c%\n"), "a%2Cb%3Ac%25%0A");
        assert_eq!(data("100% of a:b,\r\n"), "100%25 of a:b,%0D%0A");
    }
}
