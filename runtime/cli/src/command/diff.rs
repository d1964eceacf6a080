//! `netpolc diff`: who gains and who loses which connections by a change. Not here: the difference
//! (`netpolc_analyze::diff`).

use std::io::Write;

use netpolc_analyze::{
    diff::{Difference, Differences, differences},
    list::Who,
};
use netpolc_kube_sync::Absent;
use netpolc_policy::Cluster;

use crate::{
    ask::{
        By, Names,
        graph::{Drawn, Edge, csv_line, dot, markdown},
        page,
        rows::{Row, together, wrapped},
    },
    cli::{ask::ListFormat, request::Input},
    input,
    output::{self, Colour, Notation, Outcome, data},
};

/// What is to be compared.
#[derive(Debug)]
pub struct Diff {
    /// The cluster as it was.
    pub old: Input,
    /// The cluster as it will be, or policies alone that are added to it.
    pub new: Input,
    /// How pods are put together.
    pub by: By,
    /// Whether a difference makes the exit code 1.
    pub exit_code: bool,
    /// How it is shown.
    pub format: ListFormat,
}

/// Runs `netpolc diff`.
///
/// # Errors
/// One of the inputs has nothing to compare.
pub fn run(diff: &Diff) -> anyhow::Result<Outcome> {
    let (old, read_old) = input::read(&diff.old, Absent::MadeUp)?;
    // Policies alone lack pods on purpose, so nobody is told what is missing.
    let mut new = input::gather(&diff.new, Absent::MadeUp)?;
    let read_new = input::report(&new.loaded);
    if new.loaded.cluster.pods.is_empty() {
        new.loaded.cluster = with(&old.loaded.cluster, new.loaded.cluster);
    }
    let cluster = &new.loaded.cluster;
    let names = Names::of(diff.by, [&old.loaded.cluster, cluster]);
    let found = differences(&old.loaded.cluster, cluster, &|pod| names.name(pod));
    let text = match diff.format {
        ListFormat::Html => page::of_diff(&new, &names, &found)?,
        format => show(&found, format)?,
    };
    let mut out = output::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let differs = match diff.exit_code && !found.is_empty() {
        true => Outcome::Problems,
        false => Outcome::Fine,
    };
    Ok(read_old.and(read_new).and(differs))
}

/// The cluster with further policies, which replace those of their names.
fn with(old: &Cluster, policies: Cluster) -> Cluster {
    let mut new = old.clone();
    new.policies.extend(policies.policies);
    new.tiers.extend(policies.tiers);
    new.staged.extend(policies.staged);
    new.namespaces.extend(
        policies.namespaces.into_iter().filter(|(name, _)| !old.namespaces.contains_key(name)),
    );
    let (security, more) = (&mut new.security, policies.security);
    security.groups.extend(more.groups);
    security.prefix_lists.extend(more.prefix_lists);
    security.interfaces.extend(more.interfaces);
    security.policies.extend(more.policies);
    security.accounts.extend(more.accounts);
    new
}

/// The rows of what was gained, and of what was lost.
fn changes(found: &Differences) -> [Vec<Row>; 2] {
    let rows = |of: fn(&Difference) -> &netpolc_analyze::traffic::TrafficSet| {
        let changed = found.changed.iter().filter(|d| !of(d).is_nothing());
        let each = changed.map(|d| (d.source.clone(), d.destination.clone(), of(d).to_string()));
        together(each, &found.units)
    };
    [rows(|d| &d.gained), rows(|d| &d.lost)]
}

fn show(found: &Differences, format: ListFormat) -> anyhow::Result<String> {
    let head = ["", "from", "to", "traffic"];
    let colour = match format {
        ListFormat::Text => Colour::of_stdout(),
        _ => Colour::Off,
    };
    let cells = |columns: usize| {
        let [gained, lost] = changes(found);
        let row = move |sign: String, row: Row| {
            [sign, wrapped(&row.sources, columns), wrapped(&row.destinations, columns), row.traffic]
        };
        let gained = gained.into_iter().map(move |r| row(colour.good("gained"), r));
        gained.chain(lost.into_iter().map(move |r| row(colour.bad("lost"), r))).collect::<Vec<_>>()
    };
    let pods = [("added", &found.added), ("removed", &found.removed)];
    let pods = || {
        pods.iter().filter(|(_, names)| !names.is_empty()).map(|(word, names)| {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            format!("Pods {word}: {}\n", names.join(", "))
        })
    };
    Ok(match format {
        ListFormat::Text if found.is_empty() => {
            "Nothing changes: the same connections may be opened.\n".into()
        }
        ListFormat::Text => {
            let table = match found.changed.is_empty() {
                true => String::new(),
                false => format!("{}\n", output::table(&head, cells(36))),
            };
            format!("{}{table}", pods().collect::<String>())
        }
        ListFormat::Markdown if found.is_empty() => "No connection is gained or lost.\n".into(),
        ListFormat::Markdown => {
            let pods: String = pods().map(|line| format!("{line}\n")).collect();
            format!("{pods}{}", markdown(&head, cells(usize::MAX)))
        }
        ListFormat::Csv => {
            let mut text = csv_line(["change", "source", "destination", "traffic"]);
            for name in &found.added {
                text.push_str(&csv_line(["pods added", name, "", ""]));
            }
            for name in &found.removed {
                text.push_str(&csv_line(["pods removed", name, "", ""]));
            }
            for edge in edges(found) {
                let change = if edge.drawn == Drawn::Gained { "gained" } else { "lost" };
                let fields = [change, &edge.source, &edge.destination, &edge.label];
                text.push_str(&csv_line(fields));
            }
            text
        }
        ListFormat::Json => data(found, Notation::Json)?,
        ListFormat::Yaml => data(found, Notation::Yaml)?,
        ListFormat::Dot => dot(&edges(found)),
        ListFormat::Html => unreachable!("a page needs the input, too"),
    })
}

fn edges(found: &Differences) -> Vec<Edge> {
    let edge = |d: &Difference, set: &netpolc_analyze::traffic::TrafficSet, drawn| {
        let name = |who: &Who| who.to_string();
        let (source, destination) = (name(&d.source), name(&d.destination));
        (!set.is_nothing()).then(|| Edge { source, destination, label: set.to_string(), drawn })
    };
    let both = found
        .changed
        .iter()
        .flat_map(|d| [edge(d, &d.gained, Drawn::Gained), edge(d, &d.lost, Drawn::Lost)]);
    both.flatten().collect()
}
