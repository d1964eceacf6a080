//! `netpolc recommend`: makes least-privilege policies from flows, and prints them.
//!
//! Not here: how policies follow from flows (`netpolc-recommend`).

use std::{fs, io::Write as _, path::PathBuf};

use anyhow::{Context, bail};
use netpolc_flow::line::{Line, Request};
use netpolc_kube_sync::Absent;
use netpolc_recommend::{Error, Evidence, Known, Options, recommend, start};

use super::flows::{
    source::{Lines, Next},
    time::Nanos,
};
use crate::{
    cli::{recommend::Format, request::Input},
    input,
    output::{self, Notation, Outcome},
};

/// How many lines of one kind are told on standard error.
const MAX_TOLD: usize = 20;

/// What to do where there is nothing to make policies of.
const BEGIN: &str = "an agent records what its pods do where a policy, enforced or only tried, is \
    about them. To begin, apply what `netpolc recommend --start --namespace NAME` prints, which \
    denies nothing, let the applications work, and ask again";

/// What is wanted.
#[derive(Debug)]
pub enum Recommend {
    /// Policies to begin with, for these namespaces.
    Start(Vec<String>),
    /// Policies from flows.
    Policies(Box<Policies>),
}

/// The options for policies from flows.
#[derive(Debug)]
pub struct Policies {
    /// The cluster, which may be left out.
    pub input: Input,
    /// Where flows are read.
    pub flows: FlowSource,
    /// Only flows from this time on.
    pub since: Option<Nanos>,
    /// What kind of policies, and for whom.
    pub options: Options,
    /// The file for expectations.
    pub expectations: Option<PathBuf>,
    /// How the policies are shown.
    pub format: Format,
}

/// Where flows are read.
#[derive(Debug)]
pub enum FlowSource {
    /// What the agent of this folder of pins has.
    Agent(PathBuf),
    /// Files, at least one; `-` is standard input.
    Files(Vec<PathBuf>),
}

/// Runs `netpolc recommend`.
///
/// # Errors
/// Flows or the cluster cannot be read, there is nothing that policies can be made of, or the
/// policies do not stand the proof.
pub fn run(what: &Recommend) -> anyhow::Result<Outcome> {
    match what {
        Recommend::Start(namespaces) => {
            let mut out = output::stdout();
            out.write_all(start(namespaces).as_bytes())?;
            out.flush()?;
            Ok(Outcome::Fine)
        }
        Recommend::Policies(wanted) => policies(wanted),
    }
}

fn policies(wanted: &Policies) -> anyhow::Result<Outcome> {
    let evidence = gather(wanted)?;
    let survey = match wanted.input.is_nothing() {
        true => None,
        false => Some(input::gather(&wanted.input, Absent::MadeUp)?),
    };
    let read = survey.as_ref().map_or(Outcome::Fine, |survey| input::report(&survey.loaded));
    if survey.is_none() {
        output::complain(
            "note: without the cluster (-f or --context) ports have no names, selectors have all \
             labels, and nothing is known of what flows do not name",
        );
    }
    let known = survey
        .as_ref()
        .map(|survey| Known { cluster: &survey.loaded.cluster, frontends: &survey.frontends });
    let found = match recommend(&evidence, known, &wanted.options) {
        Ok(found) => found,
        Err(error @ (Error::NoFlows | Error::NothingPoliced)) => bail!("{error}: {BEGIN}"),
        Err(error) => {
            return Err(error.into());
        }
    };
    told("seen, and not permitted by these policies: ", &found.uncovered);
    told("note: denied when it was seen, and not permitted: ", &found.denied);
    found.notes.iter().for_each(|note| output::complain(format_args!("note: {note}")));
    if found.policies.is_empty() {
        bail!("no policy follows from these flows: {BEGIN}");
    }
    if let Some(path) = &wanted.expectations {
        fs::write(path, found.expectations())
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    match wanted.format {
        Format::Yaml => {
            let mut out = output::stdout();
            out.write_all(found.yaml().as_bytes())?;
            out.flush()?;
        }
        Format::Json => output::print_data(&found.json()?, Notation::Json)?,
    }
    Ok(read.and(Outcome::of_problems(found.uncovered.len())))
}

fn told(head: &str, lines: &[netpolc_recommend::Told]) {
    lines.iter().take(MAX_TOLD).for_each(|line| output::complain(format_args!("{head}{line}")));
    if lines.len() > MAX_TOLD {
        output::complain(format_args!("{head}and {} more", lines.len() - MAX_TOLD));
    }
}

/// Reads all flows.
fn gather(wanted: &Policies) -> anyhow::Result<Evidence> {
    let mut evidence = Evidence::default();
    let is_recent = |line: &Line| match line {
        Line::Flow(flow) => wanted.since.is_none_or(|since| flow.time >= since),
        _ => true,
    };
    let mut take = |mut lines: Lines| -> anyhow::Result<()> {
        while let Next::Line(line) = lines.read()? {
            if is_recent(&line) {
                evidence.take(&line);
            }
        }
        Ok(())
    };
    match &wanted.flows {
        FlowSource::Files(files) => {
            for path in files {
                take(Lines::of_file(path)?)?;
            }
        }
        FlowSource::Agent(pin_dir) => {
            output::needs_root("reading an agent's flows")?;
            let request = Request { last: None, since_nanos: wanted.since, follow: false };
            take(Lines::of_agent(pin_dir, &request, None)?)?;
        }
    }
    Ok(evidence)
}
