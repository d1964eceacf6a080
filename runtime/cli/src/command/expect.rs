//! `netpolc test`: compares verdicts with expectations, and explains each that is not met. Not
//! here: the verdicts ([`crate::ask::story`]).

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use netpolc_kube_sync::{Absent, Survey, plain};
use serde::Serialize;

use crate::{
    ask::{
        question::{self, Reading},
        story::{self, Story},
        tell::{Style, tell},
    },
    cli::{ask::StoryFormat, request::Input},
    input,
    output::{self, Colour, Notation, Outcome},
};

/// What is to be tested.
#[derive(Debug)]
pub struct Test {
    /// The cluster that is asked about.
    pub input: Input,
    /// The files with expectations; `-` is standard input.
    pub expectations: Vec<PathBuf>,
    /// How the result is shown.
    pub format: StoryFormat,
}

/// What somebody expects.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expectation<'a> {
    source: &'a str,
    destination: &'a str,
    allowed: bool,
}

/// What became of an expectation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Result {
    file: String,
    line: usize,
    expectation: String,
    met: bool,
    /// Why it could not be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The answers that are not the expected one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instead: Vec<Story>,
}

/// Runs `netpolc test`.
///
/// # Errors
/// A file with expectations cannot be read, or has none.
pub fn run(test: &Test) -> anyhow::Result<Outcome> {
    let (survey, read) = input::read(&test.input, Absent::MadeUp)?;
    let mut results = Vec::new();
    for file in &test.expectations {
        let name = plain(&file.display().to_string()).into_owned();
        let text = match file.to_string_lossy().as_ref() {
            "-" => std::io::read_to_string(std::io::stdin()),
            _ => std::fs::read_to_string(file),
        };
        let text = text.with_context(|| format!("{name} cannot be read"))?;
        // Some editors begin a file with a mark of its byte order.
        let text = text.trim_start_matches('\u{feff}');
        let lines = (1..).zip(text.lines()).map(|(number, line)| (number, without_comment(line)));
        let lines = lines.filter(|(_, line)| !line.is_empty());
        let before = results.len();
        results.extend(lines.map(|(number, line)| one(&survey, &name, number, line)));
        anyhow::ensure!(
            results.len() > before,
            "{name} has no expectation; write lines such as `shop/ui -> shop/db:5432 denied`"
        );
    }
    let missed = results.iter().filter(|result| !result.met).count();
    let mut out = output::stdout();
    match test.format {
        StoryFormat::Json => output::write_data(&mut out, &results, Notation::Json)?,
        StoryFormat::Yaml => output::write_data(&mut out, &results, Notation::Yaml)?,
        StoryFormat::Text => report(&mut out, &results, Style::Text(Colour::of_stdout()))?,
        StoryFormat::Markdown => report(&mut out, &results, Style::Markdown)?,
    }
    out.flush()?;
    Ok(read.and(Outcome::of_problems(missed)))
}

fn report(out: &mut impl Write, results: &[Result], style: Style) -> std::io::Result<()> {
    for result in results.iter().filter(|result| !result.met) {
        let Result { file, line, expectation, error, instead, .. } = result;
        match error {
            Some(error) => writeln!(out, "{file}:{line}: {expectation}: {error}\n")?,
            None => {
                let told =
                    tell(instead, &format!("{file}:{line}: {expectation}, but it is"), style);
                writeln!(out, "{told}")?;
            }
        }
    }
    let met = results.iter().filter(|result| result.met).count();
    writeln!(out, "{met} of {} expectations are met.", results.len())
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

fn one(survey: &Survey, file: &str, number: usize, line: &str) -> Result {
    let judged = expectation(line).and_then(|expected| {
        let Reading { asked, note } =
            question::read(survey, expected.source, expected.destination)?;
        if let Some(note) = note {
            output::complain(format_args!("note: {file}:{number}: {note}"));
        }
        let mut stories = story::stories(survey, &asked)?;
        stories.retain(|story| story.allowed != expected.allowed);
        Ok(stories)
    });
    let (error, instead) = match judged {
        Ok(stories) => (None, stories),
        Err(error) => (Some(plain(&format!("{error:#}")).into_owned()), Vec::new()),
    };
    Result {
        file: file.to_owned(),
        line: number,
        expectation: plain(&line.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned(),
        met: error.is_none() && instead.is_empty(),
        error,
        instead,
    }
}

/// Reads `SOURCE -> DESTINATION allowed|denied`.
fn expectation(line: &str) -> anyhow::Result<Expectation<'_>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [source, "->", destination, verdict] = words[..] else {
        anyhow::bail!(
            "this is no expectation; write `SOURCE -> DESTINATION[:PORT] allowed|denied`"
        );
    };
    let allowed = match verdict {
        "allowed" | "allow" => true,
        "denied" | "deny" => false,
        other => anyhow::bail!("{other:?} is no verdict; write allowed or denied"),
    };
    Ok(Expectation { source, destination, allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_two_ends_and_a_verdict() {
        let line = without_comment("shop/ui  ->  shop/db:5432   denied  # for now");
        let expected =
            Expectation { source: "shop/ui", destination: "shop/db:5432", allowed: false };
        assert_eq!(expectation(line).unwrap(), expected);
        for (line, part) in [("a -> b", "SOURCE"), ("a -> b perhaps", "allowed or denied")] {
            assert!(expectation(line).unwrap_err().to_string().contains(part));
        }
    }
}
