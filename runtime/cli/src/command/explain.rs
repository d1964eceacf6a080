//! `netpolc explain`: may this source talk to that destination, why, and what would change the
//! answer. Not here: the answer ([`crate::ask::story`]).

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use netpolc_kube_sync::{Absent, Survey};

use crate::{
    ask::{
        installed::{Installed, Policies},
        question::{self, Reading},
        story::{self, Asked},
        tell::{Style, tell, tell_installed},
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
    /// The directory of pins whose tables are asked; None where policies alone are.
    pub installed: Option<PathBuf>,
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
/// The question means nothing in this input; with --installed also: the user is not root, or there
/// are no tables.
pub fn run(explain: &Explain) -> anyhow::Result<Outcome> {
    if let Some(pin_dir) = &explain.installed {
        return in_kernel(explain, pin_dir);
    }
    let (survey, read) = input::read(&explain.input, Absent::MadeUp)?;
    let stories = story::stories(&survey, &asked(explain, &survey)?)?;
    let question = format!("{} -> {}", explain.source, explain.destination);
    let text = match explain.format.notation() {
        Ok(style) => tell(&stories, &question, style),
        Err(notation) => output::data(&stories, notation)?,
    };
    show(&text)?;
    Ok(read)
}

/// Asks the tables that are installed, and the policies where there is an input.
fn in_kernel(explain: &Explain, pin_dir: &Path) -> anyhow::Result<Outcome> {
    output::needs_root("explain --installed")?;
    let installed = Installed::read(pin_dir)?;
    let (survey, read, policies) = if explain.input.is_nothing() {
        (installed.survey(), Outcome::Fine, Policies::Unknown)
    } else {
        let (survey, read) = input::read(&explain.input, Absent::Absent)?;
        (survey, read, Policies::Known)
    };
    let stories = installed.stories(&survey, &asked(explain, &survey)?, policies)?;
    let question = format!("{} -> {}", explain.source, explain.destination);
    let text = match explain.format.notation() {
        Ok(style) => tell_installed(&stories, (&question, installed.node.as_deref()), style),
        Err(notation) => output::data(&stories, notation)?,
    };
    show(&text)?;
    let differ = stories.iter().filter(|s| s.policies_allow.is_some_and(|p| p != s.allowed));
    Ok(read.and(Outcome::of_problems(differ.count())))
}

fn asked(explain: &Explain, survey: &Survey) -> anyhow::Result<Asked> {
    let Reading { asked, note } = question::read(survey, &explain.source, &explain.destination)?;
    if let Some(note) = note {
        output::complain(format_args!("note: {note}"));
    }
    Ok(asked)
}

fn show(text: &str) -> anyhow::Result<()> {
    let mut out = output::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

impl StoryFormat {
    /// The style of a text, or the notation of data.
    fn notation(self) -> Result<Style, Notation> {
        match self {
            StoryFormat::Json => Err(Notation::Json),
            StoryFormat::Yaml => Err(Notation::Yaml),
            StoryFormat::Text => Ok(Style::Text(Colour::of_stdout())),
            StoryFormat::Markdown => Ok(Style::Markdown),
        }
    }
}
