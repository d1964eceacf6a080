//! `netpolc explain`: may this source talk to that destination, why, and what would change the
//! answer. Not here: the answer ([`crate::ask::story`]).

use std::io::Write;

use netpolc_kube_sync::Absent;

use crate::{
    ask::{
        end, port,
        story::{self, Asked},
        tell::{Style, tell},
    },
    cli::{ask::StoryFormat, request::Input},
    input,
    output::{self, Colour, Notation, Outcome},
};

/// What is to be explained.
#[derive(Debug)]
pub struct Explain {
    /// What the question is about.
    pub input: Input,
    /// Who opens the connection, as it was written.
    pub source: String,
    /// Who answers it, with port and protocol.
    pub destination: String,
    /// How the answer is shown.
    pub format: StoryFormat,
}

/// Runs `netpolc explain`.
///
/// # Errors
/// The question means nothing in this input.
pub fn run(explain: &Explain) -> anyhow::Result<Outcome> {
    let (survey, read) = input::read(&explain.input, Absent::MadeUp)?;
    let (destination, port, protocol) = port::split(&explain.destination)?;
    let asked = Asked {
        source: end::find(&survey, &explain.source)?,
        destination: end::find(&survey, destination)?,
        port,
        protocol,
    };
    let stories = story::stories(&survey, &asked)?;
    let question = format!("{} -> {}", explain.source, explain.destination);
    let style = match explain.format {
        StoryFormat::Json => {
            output::print_data(&stories, Notation::Json)?;
            return Ok(read);
        }
        StoryFormat::Yaml => {
            output::print_data(&stories, Notation::Yaml)?;
            return Ok(read);
        }
        StoryFormat::Text => Style::Text(Colour::of_stdout()),
        StoryFormat::Markdown => Style::Markdown,
    };
    let mut out = output::stdout();
    out.write_all(tell(&stories, &question, style).as_bytes())?;
    out.flush()?;
    Ok(read)
}
