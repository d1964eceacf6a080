//! Findings as SARIF 2.1.0, with what GitHub's code scanning demands: every result has a location
//! whose address is relative, and every rule a level.
//!
//! Sources: the SARIF 2.1.0 standard of OASIS; "SARIF support for code scanning" of GitHub.

use std::path::Path;

use netpolc_analyze::lint::{Check, Severity};
use serde_json::{Value, json};

use super::report::{Located, Report};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// The report as a log with one run. `folder` is where relative paths begin, and `first` the input
/// to which findings belong that stand in no file.
pub(super) fn of(report: &Report, folder: Option<&Path>, first: Option<&str>) -> Value {
    let results: Vec<Value> = report.findings.iter().map(|f| result(f, folder, first)).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "netpolc",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": Check::ALL.iter().map(|check| rule(*check)).collect::<Vec<Value>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rule(check: Check) -> Value {
    let page = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/lint.md");
    json!({
        "id": check.id(),
        "shortDescription": {"text": check.summary()},
        "fullDescription": {"text": check.summary()},
        "help": {"text": format!("See {page}#{}", check.id())},
        "helpUri": format!("{page}#{}", check.id()),
        "defaultConfiguration": {"level": level(check.severity())},
        "properties": {"tags": ["security", "kubernetes", "network-policy"]},
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn result(finding: &Located, folder: Option<&Path>, first: Option<&str>) -> Value {
    let object = finding.object.as_ref().map(|it| format!("{it}: ")).unwrap_or_default();
    let file = finding.file.as_deref().or(first).unwrap_or("-");
    let index = Check::ALL.iter().position(|check| *check == finding.check);
    json!({
        "ruleId": finding.check.id(),
        "ruleIndex": index,
        "level": level(finding.severity),
        "message": {"text": format!("{object}{} {}", finding.message, finding.change)},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": address(file, folder)},
            "region": {"startLine": finding.line.unwrap_or(1)},
        }}],
    })
}

/// A file as an address relative to the folder; one that is elsewhere keeps its whole path.
fn address(file: &str, folder: Option<&Path>) -> String {
    if file == "-" {
        return "stdin".into();
    }
    let path = Path::new(file);
    let relative = folder.and_then(|folder| path.strip_prefix(folder).ok()).unwrap_or(path);
    let relative = relative.to_string_lossy();
    let relative = relative.strip_prefix("./").unwrap_or(&relative);
    let mut uri = String::new();
    // What a path may have and an address may not is escaped (RFC 3986).
    for byte in relative.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    match uri.starts_with('/') {
        true => format!("file://{uri}"),
        false => uri,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_relative_to_the_folder() {
        let folder = Some(Path::new("/home/somebody/repository"));
        for (file, uri) in [
            ("/home/somebody/repository/policies/a b.yaml", "policies/a%20b.yaml"),
            ("./policies/a.yaml", "policies/a.yaml"),
            ("policies/a.yaml", "policies/a.yaml"),
            ("/etc/p:1.yaml", "file:///etc/p%3A1.yaml"),
            ("-", "stdin"),
        ] {
            assert_eq!(address(file, folder), uri);
        }
    }
}
