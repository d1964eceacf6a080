//! Writes the log on standard error, one line for each event.
//!
//! The names of pods, policies and files come from others, and a line break or an escape sequence
//! in a name could forge lines or change what a terminal shows. Therefore characters that are not
//! printable are written as escapes, in every line and in both formats. Not here: what is logged.

use std::{
    env,
    io::{self, Write},
};

use netpolc_kube_sync::{plain, plain_json};
use tracing_subscriber::{
    Layer,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people
    #[default]
    Text,
    /// A JSON object on a line for each event, for what collects logs
    Json,
}

/// Starts logging. RUST_LOG selects what is logged, as a level or as a list of targets with levels
/// (`info,netpolc_agent=debug`), or `default` where it is not set or is neither.
pub fn start(default: &str, format: Format) {
    let asked = env::var("RUST_LOG").ok();
    let (filter, refused) = filter(asked.as_deref(), default);
    // Colours are off, because they are escape sequences too.
    let writer = move || Lines(io::stderr(), format);
    let lines = fmt::layer().with_writer(writer).with_ansi(false);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    if let Some(error) = refused {
        tracing::warn!(
            "RUST_LOG is not a list of targets and levels, such as info,netpolc_agent=debug: \
             {error}. The log goes on with {default}."
        );
    }
}

/// What is logged, and why not what was asked for.
fn filter(asked: Option<&str>, default: &str) -> (Targets, Option<ParseError>) {
    let parsed = asked.filter(|asked| !asked.is_empty()).map(str::parse::<Targets>);
    let (filter, refused) = match parsed {
        Some(Ok(filter)) => return (filter, None),
        Some(Err(error)) => (default, Some(error)),
        None => (default, None),
    };
    (filter.parse().expect("the default names levels"), refused)
}

/// A writer that gets each event in one piece, with a line break at its end, and escapes it.
struct Lines<W>(W, Format);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all(line(&text, self.1).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn line(event: &str, format: Format) -> String {
    let (text, end) = event.strip_suffix('\n').map_or((event, ""), |text| (text, "\n"));
    match format {
        Format::Text => format!("{}{end}", plain(text)),
        Format::Json => format!("{}{end}", plain_json(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_refused_and_the_default_holds() {
        for (asked, expected, is_refused) in [
            (None, "warn", false),
            (Some(""), "warn", false),
            (Some("debug"), "debug", false),
            (Some("info,netpolc_agent=trace"), "info,netpolc_agent=trace", false),
            (Some("netpolc_agent=loud"), "warn", true),
        ] {
            let (filter, refused) = filter(asked, "warn");
            assert_eq!(filter, expected.parse().unwrap(), "{asked:?}");
            assert_eq!(refused.is_some(), is_refused, "{asked:?}");
        }
    }

    #[test]
    fn a_name_forges_no_line_and_no_escape_sequence() {
        let event = "WARN refused pod=shop/ui\nINFO all is well \u{1b}[2J\u{9b}2J\r\u{202e}x\n";
        let safe = "WARN refused pod=shop/ui\\nINFO all is well \\u{1b}[2J\\u{9b}2J\\r\\u{202e}x\n";
        let mut written = Vec::new();
        Lines(&mut written, Format::Text).write_all(event.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), safe);
        let json = line("{\"pod\":\"a\u{9b}2J\"}\n", Format::Json);
        assert_eq!(json, "{\"pod\":\"a\\u009b2J\"}\n");
        assert_eq!(line("größe ✓ 名\n", Format::Text), "größe ✓ 名\n");
    }
}
