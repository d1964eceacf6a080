//! What every command prints, and how the process ends: standard output that is quiet on a broken
//! pipe, one-line errors, colours on a terminal only, exit codes.
//!
//! Not here: what is printed (each command's own module).

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

/// How a command ended, short of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 1: the input had problems, or a verdict was not the expected one. Already reported.
    Problems,
}

impl Outcome {
    /// `Problems` where there were any.
    pub fn of_problems(count: usize) -> Self {
        if count == 0 { Outcome::Fine } else { Outcome::Problems }
    }

    /// The worse of both.
    pub fn and(self, other: Outcome) -> Self {
        if self == Outcome::Fine { other } else { self }
    }
}

/// Adds what to do to errors of commands that need root.
///
/// # Errors
/// The user is not root.
pub fn needs_root(what: &str) -> anyhow::Result<()> {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        anyhow::bail!("{what} needs root: run it with sudo");
    }
    Ok(())
}

/// Turns what a command returned into an exit code, and prints the error, if any, in one line.
/// A reader that went away (`netpolc compile | head`) is no error.
pub fn finish(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problems) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(chain(&error));
            ExitCode::from(2)
        }
    }
}

/// The error and its causes, without those that the text before them says already.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.extend([": ", &cause]);
        }
    }
    text
}

/// One line on standard error: `netpolc: ...`. Line breaks in `message` (a verifier's log) are kept,
/// indented, so that the line stays recognisable.
pub fn complain(message: impl Display) {
    let text = message.to_string();
    let mut lines = text.trim_end().lines();
    let mut out = io::stderr().lock();
    // Nobody is left to tell where standard error is gone.
    let _ = writeln!(out, "netpolc: {}", lines.next().unwrap_or_default());
    for line in lines {
        let _ = writeln!(out, "    {line}");
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Standard output, buffered; errors reach the caller, who passes them on to [`finish`].
pub fn stdout() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::new(io::stdout().lock())
}

/// Prints a value as JSON, indented, with a line break at the end.
///
/// # Errors
/// Where standard output cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = stdout();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Whether and how to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Off,
    /// ANSI sequences.
    On,
}

impl Colour {
    /// On where standard output is a terminal and NO_COLOR is unset or empty (no-color.org).
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        if io::stdout().is_terminal() && !refused { Colour::On } else { Colour::Off }
    }

    /// `text` in green.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// `text` in red.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// `text` in bold.
    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// `text` dimmed.
    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Colour::Off => text.to_owned(),
            Colour::On => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// A table for people: a head and rows, with thin lines that survive a terminal of any width.
pub fn table<R, C>(head: &[&str], rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = C>,
    C: Into<String>,
{
    let mut builder = tabled::builder::Builder::default();
    builder.push_record(head.iter().copied());
    for row in rows {
        builder.push_record(row.into_iter().map(Into::into));
    }
    let mut table = builder.build();
    table.with(tabled::settings::Style::psql());
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let broken = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&broken));
        assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::Error::new(io::Error::other("full")).context("table: full").context("update");
        assert_eq!(chain(&error), "update: table: full");
    }

    #[test]
    fn no_colour_leaves_text_alone() {
        assert_eq!(Colour::Off.bad("x"), "x");
        assert_eq!(Colour::On.bad("x"), "\x1b[31mx\x1b[0m");
    }
}
