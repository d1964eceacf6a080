//! `netpolc bench`: what a packet, a compile and a pod event cost, and what the real path loses.
//!
//! Machines differ: ratios and differences within one run are what counts. Everything is measured
//! in interleaved rounds, and the smallest value of each is kept.
//!
//! Here: the choice of parts and how results are shown. [`packet`] and [`rival`] run programs on
//! single packets, [`records`] those that record, [`flows`] what
//! the records are worth under load, [`compile`] decodes and compiles a big cluster,
//! [`ask`] answers questions about it, [`path`] sends real packets (through [`enforce`]), [`kube`]
//! follows a real API server, [`flower`] installs filters, [`tenants`] lets one tenant do its
//! worst, [`connections`] gives one pod very many connections.

pub mod arguments;
pub mod ask;
pub mod compile;
pub mod connections;
pub mod enforce;
pub mod flower;
pub mod flows;
pub mod kube;
pub mod packet;
pub mod path;
pub mod probe;
pub mod records;
pub mod rival;
pub mod tenants;
mod world;

use std::io::Write;

use serde::Serialize;

use netpolc::{
    cli::raw::Report,
    output::{self, Outcome},
};

use self::{
    arguments::{Bench, BenchPart},
    compile::CompileReport,
    path::PathReport,
};

/// One table of results, with what they are held to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Section {
    /// What was measured, as a heading.
    pub title: String,
    /// The names of the columns.
    pub head: Vec<String>,
    /// The cells of each row, as they are printed.
    pub rows: Vec<Vec<String>>,
    /// What to know about the figures.
    pub notes: Vec<String>,
    /// Bounds that were missed, in words.
    pub missed: Vec<String>,
}

impl Section {
    /// A table without rows.
    pub fn new(title: impl Into<String>, head: &[&str]) -> Self {
        let head = head.iter().map(ToString::to_string).collect();
        Self { title: title.into(), head, rows: vec![], notes: vec![], missed: vec![] }
    }

    /// Notes that `what` is `value` and should be at most `bound`; gives the cell for the bound.
    fn at_most(&mut self, what: &str, value: f64, bound: f64) -> String {
        if value > bound {
            self.missed.push(format!("{what}: {value:.2}, should be at most {bound}"));
        }
        format!("<= {bound}")
    }

    /// Notes that `what` is `value` and should be at least `bound`; gives the cell for the bound.
    fn at_least(&mut self, what: &str, value: f64, bound: f64) -> String {
        if value < bound {
            self.missed.push(format!("{what}: {value:.2}, should be at least {bound}"));
        }
        format!(">= {bound}")
    }
}

/// Runs the command. Bounds that are missed make the outcome `Problems`.
///
/// # Errors
/// Names what is missing on this machine.
pub fn run(options: &Bench) -> anyhow::Result<Outcome> {
    let mut sections = Vec::new();
    // Answers and compiling come first: they measure this process's memory.
    use BenchPart::{
        Ask, Compile, Connections, Flower, Flows, Kube, Packet, Path, Records, Tenants,
    };
    for part in [Ask, Compile, Packet, Records, Path, Connections, Flows, Kube, Flower, Tenants] {
        if !options.parts.contains(&part) {
            continue;
        }
        let section = match part {
            BenchPart::Ask => ask::run(progress)?,
            BenchPart::Compile => compiling(&compile::run(options.rounds, progress)?),
            BenchPart::Packet => packet::run(options.rounds)?,
            BenchPart::Records => records::run(options.rounds)?,
            BenchPart::Flows => flows::run(progress)?,
            BenchPart::Kube => kube::run(progress)?,
            BenchPart::Connections => connections::run(progress)?,
            BenchPart::Flower => flower::run(options.rounds)?,
            BenchPart::Tenants => tenants::run(options.rounds, progress)?,
            BenchPart::Path => paths(&path::run(options.rounds as usize, progress)?),
        };
        if options.report == Report::Table {
            show(&section)?;
        }
        sections.push(section);
    }
    if let Some(notation) = options.report.notation() {
        output::print_data(&sections, notation)?;
    }
    Ok(Outcome::of_problems(sections.iter().map(|s| s.missed.len()).sum()))
}

/// Progress goes to standard error: standard output is for results.
fn progress(what: String) {
    // Nobody is left to tell where standard error is gone.
    let _ = writeln!(std::io::stderr(), "  {what}");
}

fn compiling(report: &CompileReport) -> Section {
    let mut section = Section::new(
        "A big cluster: 100,000 pods, 10,000 policies, 1,000 namespaces",
        &["what", "how much"],
    );
    section.rows = report.rows().into_iter().map(Vec::from).collect();
    section.at_least("decoding JSON, MB/s", report.decode_mb_per_s, 100.0);
    section.at_most("compiling, ms", report.compile_ms, 1000.0);
    section.at_most("memory, MiB", report.peak_mib, 400.0);
    section.at_most("tiers and groups, to none", report.ordered_ratio, 1.3);
    section.at_most("pod event, median, µs", report.event_us_p50, 50.0);
    section.at_most("pod event, 99th percentile, µs", report.event_us_p99, 1000.0);
    section
}

/// netpolc should be the best of each column, as far as the noise lets one tell.
fn paths(report: &PathReport) -> Section {
    let (head, rows) = report.table();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut section =
        Section { rows, ..Section::new("The real path between two pods, 1,000 policies", &head) };
    let ours = report.figures.get("netpolc");
    for (name, figures) in
        report.figures.iter().filter(|(name, _)| !["netpolc", "no policy"].contains(name))
    {
        for (load, theirs) in figures {
            let Some(ours) = ours.and_then(|f| f.get(load)) else { continue };
            section.at_least(
                &format!("{load} against {name}'s"),
                ours.ratio + ours.noise + theirs.noise,
                theirs.ratio,
            );
        }
    }
    for (load, scale) in &report.scale {
        section.notes.push(format!("{load}: 1.00 is {scale:.0} a second without policy"));
    }
    section.notes.push(format!(
        "median of {} interleaved rounds, ± half the distance of the quartiles",
        report.rounds
    ));
    section
}

fn show(section: &Section) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let head: Vec<&str> = section.head.iter().map(String::as_str).collect();
    writeln!(out, "{}\n{}", section.title, output::table(&head, section.rows.iter().cloned()))?;
    for note in &section.notes {
        writeln!(out, "  {note}")?;
    }
    for missed in &section.missed {
        writeln!(out, "  MISSED: {missed}")?;
    }
    writeln!(out)?;
    out.flush()?;
    Ok(())
}
