//! The output that all commands share, and the end of the process: standard output that ignores a
//! broken pipe, one-line errors, colours on terminals only, and exit codes.
//!
//! Not here: what is printed, which is in each command's module.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use netpolc_kube_sync::plain;

/// The outcome of a command that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success, with exit code 0.
    Fine,
    /// The input has problems, or a verdict is not the expected one; that was reported. The exit
    /// code is 1.
    Problems,
}

impl Outcome {
    /// `Problems` if there are any, and else `Fine`.
    pub fn of_problems(count: usize) -> Self {
        if count == 0 { Outcome::Fine } else { Outcome::Problems }
    }

    /// The worse of two outcomes.
    pub fn and(self, other: Outcome) -> Self {
        if self == Outcome::Fine { other } else { self }
    }
}

/// Checks that the user is root, for commands that need it. `what` is the subject of the message.
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

/// Turns the result of a command into an exit code, and prints the error, if there is one, on one
/// line. A reader that has gone away (`netpolc compile | head`) is not an error.
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

/// The message of an error followed by those of its causes; a cause whose text the message already
/// contains is left out.
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

/// What `--quiet` and `--color` said; it is chosen once, before anything is printed.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    quiet: bool,
    colour: Option<Colour>,
}

static CHOSEN: std::sync::OnceLock<Chosen> = std::sync::OnceLock::new();

/// Chooses for the whole process whether warnings are printed, and whether output is coloured.
#[cfg(feature = "command")]
pub fn choose(color: crate::cli::raw::When, quiet: bool) {
    use crate::cli::raw::When;
    let colour = match color {
        When::Auto => None,
        When::Always => Some(Colour::On),
        When::Never => Some(Colour::Off),
    };
    // A second choice would come too late.
    let _ = CHOSEN.set(Chosen { quiet, colour });
}

/// Prints a line on standard error, `netpolc: ...`. Warnings and notes are left out where that was
/// chosen. Further lines of `message` (such as a
/// verifier's log) are indented, so that the first line stays recognisable.
pub fn complain(message: impl Display) {
    let text = message.to_string();
    let is_aside = text.starts_with("warning: ") || text.starts_with("note: ");
    if is_aside && CHOSEN.get().is_some_and(|chosen| chosen.quiet) {
        return;
    }
    let mut lines = text.trim_end().lines();
    let mut out = io::stderr().lock();
    // Where standard error is closed, there is nobody to tell.
    let _ = writeln!(out, "netpolc: {}", plain(lines.next().unwrap_or_default()));
    for line in lines {
        let _ = writeln!(out, "    {}", plain(line));
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Standard output, buffered. Errors reach the caller, who passes them on to [`finish`].
pub fn stdout() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::new(io::stdout().lock())
}

/// How data for programs is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// JSON, indented.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Prints a value, with a line break at the end.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_data(value: &impl serde::Serialize, notation: Notation) -> anyhow::Result<()> {
    let mut out = stdout();
    write_data(&mut out, value, notation)?;
    out.flush()?;
    Ok(())
}

/// A value as text for programs.
///
/// # Errors
/// The value cannot be written in this notation.
pub fn data(value: &impl serde::Serialize, notation: Notation) -> anyhow::Result<String> {
    let mut text = Vec::new();
    write_data(&mut text, value, notation)?;
    Ok(String::from_utf8(text)?)
}

/// Writes a value as it is walked, with a line break at the end.
///
/// # Errors
/// `out` cannot be written.
pub fn write_data(
    out: &mut impl Write,
    value: &impl serde::Serialize,
    notation: Notation,
) -> anyhow::Result<()> {
    match notation {
        Notation::Json => {
            serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Notation::Yaml => {
            let mut yaml = Kept { out, failed: None };
            let written = serde_saphyr::to_io_writer(&mut yaml, value);
            // A reader that has gone away is no error, so its kind must not be lost.
            if let Some(failed) = yaml.failed {
                return Err(failed.into());
            }
            written?;
        }
    }
    Ok(())
}

/// A writer that keeps its first error.
struct Kept<'a, W> {
    out: &'a mut W,
    failed: Option<io::Error>,
}

impl<W: Write> Kept<'_, W> {
    fn keep<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            self.failed.get_or_insert(error);
            kind.into()
        })
    }
}

impl<W: Write> Write for Kept<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.keep(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.keep(flushed)
    }
}

/// Whether output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// The output is plain text.
    Off,
    /// The output contains ANSI escape sequences.
    On,
}

impl Colour {
    /// What `--color` says; else on where standard output is a terminal and NO_COLOR is unset or
    /// empty (no-color.org).
    pub fn of_stdout() -> Self {
        if let Some(colour) = CHOSEN.get().and_then(|chosen| chosen.colour) {
            return colour;
        }
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

/// Formats a table for people: a head and rows, with thin lines.
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
        let broken =
            anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&broken));
        assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
    }

    #[test]
    fn a_cause_is_said_once() {
        let error =
            anyhow::Error::new(io::Error::other("full")).context("table: full").context("update");
        assert_eq!(chain(&error), "update: table: full");
    }

    #[test]
    fn no_colour_leaves_text_alone() {
        assert_eq!(Colour::Off.bad("x"), "x");
        assert_eq!(Colour::On.bad("x"), "\x1b[31mx\x1b[0m");
    }
}
