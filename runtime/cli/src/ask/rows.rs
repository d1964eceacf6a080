//! Connections in the rows of a table: those that have the same ends or the same traffic are put
//! together, so that a cluster of hundreds of workloads fits on some screens.
//!
//! Not here: which connections there are (`netpolc_analyze::list`), and JSON and CSV, which have
//! every connection by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_analyze::{
    list::{Connection, Who},
    unit::Unit,
};

/// A row: who may send what to whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Who opens connections, by name.
    pub sources: Vec<String>,
    /// Who answers.
    pub destinations: Vec<String>,
    /// What may be sent, in words.
    pub traffic: String,
}

/// What a column of a change, or of a connection, says.
pub fn traffic(connection: &Connection) -> String {
    match &connection.between_all {
        None => connection.traffic.to_string(),
        Some(all) if all.is_nothing() => {
            format!("{} (some of these pods only)", connection.traffic)
        }
        Some(all) => format!("{all}; some of these pods: {}", connection.traffic),
    }
}

/// The rows of a list of connections between these units.
pub fn rows(connections: &[Connection], units: &[Unit]) -> Vec<Row> {
    let each = connections.iter().map(|connection| {
        (connection.source.clone(), connection.destination.clone(), traffic(connection))
    });
    together(each, units)
}

/// Puts rows with one destination and one traffic together, and then those that differ in their
/// destinations alone.
pub fn together(each: impl Iterator<Item = (Who, Who, String)>, units: &[Unit]) -> Vec<Row> {
    let mut by_destination: BTreeMap<(Who, String), BTreeSet<Who>> = BTreeMap::new();
    for (source, destination, traffic) in each {
        by_destination.entry((destination, traffic)).or_default().insert(source);
    }
    let names = Names::of(units);
    let mut by_sources: BTreeMap<(Vec<String>, String), BTreeSet<Who>> = BTreeMap::new();
    for ((destination, traffic), sources) in by_destination {
        let sources = names.short(&sources, Some(&destination));
        by_sources.entry((sources, traffic)).or_default().insert(destination);
    }
    let row = |((sources, traffic), destinations): ((Vec<String>, String), BTreeSet<Who>)| Row {
        sources,
        destinations: names.short(&destinations, None),
        traffic,
    };
    by_sources.into_iter().map(row).collect()
}

/// The names of all units, by namespace.
struct Names<'a> {
    all: BTreeSet<&'a Arc<str>>,
    by_namespace: BTreeMap<&'a Arc<str>, BTreeSet<&'a Arc<str>>>,
}

impl<'a> Names<'a> {
    fn of(units: &'a [Unit]) -> Self {
        let mut by_namespace: BTreeMap<&Arc<str>, BTreeSet<&Arc<str>>> = BTreeMap::new();
        for unit in units.iter().filter(|unit| !unit.namespace.is_empty()) {
            by_namespace.entry(&unit.namespace).or_default().insert(&unit.name);
        }
        Self { all: units.iter().map(|unit| &unit.name).collect(), by_namespace }
    }

    /// The names of these ends; all of a namespace as `namespace/*`, and all there are as `every
    /// pod`. An end that cannot be among them, since it is the other one, need not be.
    fn short(&self, ends: &BTreeSet<Who>, but: Option<&Who>) -> Vec<String> {
        let but = but.and_then(|who| match who {
            Who::Pods(name) => Some(name),
            Who::Nodes(_) | Who::Outside(_) => None,
        });
        let pods = ends.iter().filter_map(|who| match who {
            Who::Pods(name) => Some(name),
            Who::Nodes(_) | Who::Outside(_) => None,
        });
        let mut left: BTreeSet<&Arc<str>> = pods.collect();
        let has_all = |left: &BTreeSet<&Arc<str>>, wanted: &BTreeSet<&Arc<str>>| {
            wanted.len() > 2 && wanted.iter().all(|name| left.contains(name) || but == Some(*name))
        };
        let mut short = Vec::new();
        if has_all(&left, &self.all) {
            short.push("every pod".to_owned());
            left.clear();
        }
        for (namespace, names) in &self.by_namespace {
            if has_all(&left, names) {
                short.push(format!("{namespace}/*"));
                left.retain(|name| !names.contains(name));
            }
        }
        short.extend(left.into_iter().map(|name| name.to_string()));
        let others = ends.iter().filter(|who| !matches!(who, Who::Pods(_)));
        short.extend(others.map(ToString::to_string));
        short
    }
}

/// Names in lines of at most so many columns.
pub fn wrapped(names: &[String], columns: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let name = if at + 1 < names.len() { format!("{name},") } else { name.clone() };
        match lines.last_mut() {
            Some(line) if line.len() + 1 + name.len() <= columns => {
                line.push(' ');
                line.push_str(&name);
            }
            _ => lines.push(name),
        }
    }
    lines.join("\n")
}
