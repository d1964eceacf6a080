//! `netpolc list --installed`: what the tables in this node's kernel permit its pods. Not here:
//! what they permit a set of addresses (`netpolc_analyze::tables`).

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    net::IpAddr,
    path::Path,
};

use ipnetwork::IpNetwork;
use netpolc_analyze::{
    tables::{Permitted, permitted},
    traffic::TrafficSet,
};
use netpolc_kube_sync::Absent;
use netpolc_policy::{Direction, ObjectKey};
use serde::Serialize;

use super::List;
use crate::{
    ask::{
        graph::{csv_line, markdown},
        installed::Installed,
        rows::wrapped,
    },
    cli::ask::ListFormat,
    input,
    output::{self, Notation, Outcome, data},
};

/// How many pods of a namespace are named one by one.
const NAMED: usize = 4;

/// What the tables permit a pod in one direction with some addresses.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// The pod, or the number of the endpoint where no record names it.
    pod: String,
    direction: Direction,
    /// Whether a set judges it; otherwise everything passes.
    isolated: bool,
    /// Pods by name, and other addresses as prefixes.
    with: Vec<String>,
    #[serde(serialize_with = "as_text")]
    traffic: TrafficSet,
}

fn as_text<S: serde::Serializer>(traffic: &TrafficSet, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(traffic)
}

/// Runs `netpolc list --installed` on the tables that are pinned in `pin_dir`.
///
/// # Errors
/// The user is not root, there are no tables, the input cannot be read, or the format is a graph.
pub fn run(list: &List, pin_dir: &Path) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        !matches!(list.format, ListFormat::Dot | ListFormat::Html),
        "--installed is a list by pod; use -o text, markdown, csv, json or yaml"
    );
    output::needs_root("list --installed")?;
    let installed = Installed::read(pin_dir)?;
    let (survey, read) = if list.input.is_nothing() {
        (installed.survey(), Outcome::Fine)
    } else {
        input::read(&list.input, Absent::Absent)?
    };
    let pods = survey.loaded.cluster.pods.values().filter(|pod| pod.is_policed());
    let names: HashMap<IpAddr, &ObjectKey> =
        pods.flat_map(|pod| pod.addresses.iter().map(|address| (*address, &pod.key))).collect();
    let rows: Vec<Row> = rows(&installed, &names);
    let mut out = output::stdout();
    out.write_all(show(&rows, list.format)?.as_bytes())?;
    out.flush()?;
    Ok(read)
}

fn rows(installed: &Installed, names: &HashMap<IpAddr, &ObjectKey>) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((endpoint, direction), permitted) in permitted(&installed.program) {
        let pod = installed.name(endpoint);
        let row =
            |isolated, with, traffic| Row { pod: pod.clone(), direction, isolated, with, traffic };
        match permitted {
            Permitted::Everything => {
                rows.push(row(false, vec!["anyone".into()], TrafficSet::everything()));
            }
            Permitted::Only(with) if with.is_empty() => {
                rows.push(row(true, vec!["nobody".into()], TrafficSet::nothing()));
            }
            Permitted::Only(with) => {
                let named = with.into_iter();
                rows.extend(
                    named.map(|(prefixes, traffic)| {
                        row(true, with_names(&prefixes, names), traffic)
                    }),
                );
            }
        }
    }
    rows.sort_by(|a, b| (&a.pod, a.direction).cmp(&(&b.pod, b.direction)));
    rows
}

/// Pods in place of their addresses.
fn with_names(prefixes: &[IpNetwork], names: &HashMap<IpAddr, &ObjectKey>) -> Vec<String> {
    let mut pods: Vec<String> = Vec::new();
    let mut others = Vec::new();
    for prefix in prefixes {
        let is_one = prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
        match names.get(&prefix.ip()).filter(|_| is_one) {
            Some(key) => pods.push(key.to_string()),
            None if is_one => others.push(prefix.ip().to_string()),
            None => others.push(prefix.to_string()),
        }
    }
    pods.sort();
    pods.dedup();
    pods.append(&mut others);
    pods
}

/// The same, as short as people read it.
fn shortened(with: &[String]) -> Vec<String> {
    let mut by_namespace: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    let mut others = Vec::new();
    for name in with {
        match name.split_once('/') {
            Some((namespace, _)) if name.parse::<IpNetwork>().is_err() => {
                by_namespace.entry(namespace).or_default().push(name);
            }
            _ => others.push(name.clone()),
        }
    }
    let pods = by_namespace.into_iter().flat_map(|(namespace, pods)| match pods.len() {
        0..=NAMED => pods.into_iter().cloned().collect(),
        n => vec![format!("{n} pods of {namespace}")],
    });
    pods.chain(others).collect()
}

fn show(rows: &[Row], format: ListFormat) -> anyhow::Result<String> {
    let head = ["pod", "direction", "with", "traffic"];
    let traffic = |row: &Row| match row.isolated {
        true => row.traffic.to_string(),
        false => format!("{}, since nothing isolates it", row.traffic),
    };
    let cells =
        |row: &Row, with: String| [row.pod.clone(), row.direction.to_string(), with, traffic(row)];
    Ok(match format {
        ListFormat::Json => data(&rows, Notation::Json)?,
        ListFormat::Yaml => data(&rows, Notation::Yaml)?,
        ListFormat::Csv => {
            let lines = rows.iter().map(|row| csv_line(cells(row, row.with.join(" "))));
            format!("{}{}", csv_line(head), lines.collect::<String>())
        }
        ListFormat::Markdown => {
            markdown(&head, rows.iter().map(|row| cells(row, shortened(&row.with).join(", "))))
        }
        ListFormat::Text if rows.is_empty() => "The tables have no endpoint.\n".into(),
        ListFormat::Text | ListFormat::Dot | ListFormat::Html => {
            let cells = rows.iter().map(|row| cells(row, wrapped(&shortened(&row.with), 40)));
            format!("{}\n", output::table(&head, cells))
        }
    })
}
