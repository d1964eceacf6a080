//! A page with a matrix and a graph of connections, complete in one file: it loads nothing.
//!
//! Here: the data that the page has in it. Not here: how it looks (`page.html`).

use std::collections::BTreeMap;

use netpolc_analyze::{diff::Differences, list::Connection, unit::Unit};
use netpolc_kube_sync::Survey;
use netpolc_policy::ObjectKey;
use serde::Serialize;

use super::{
    Names,
    end::End,
    rows::traffic,
    story::{self, Asked},
    tell::{Style, tell},
};
use crate::output::Colour;

/// Beyond this many pairs of units, a page has no explanations: it would be too large, and take
/// long to make.
const MAX_STORIES: usize = 2_500;

/// What the page has in it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    title: String,
    is_diff: bool,
    pods: Vec<String>,
    connections: Vec<Line>,
    /// By the names of both ends, with a line break between them.
    stories: BTreeMap<String, String>,
    /// What stands in place of a story that the page does not have.
    no_story: &'static str,
}

#[derive(Serialize)]
struct Line {
    source: String,
    destination: String,
    traffic: String,
    partly: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'static str>,
}

const ASK: &str = "netpolc explain SOURCE DESTINATION says why.";

/// A page about these connections.
///
/// # Errors
/// The data cannot be written as JSON.
pub fn of_list(
    survey: &Survey,
    names: &Names,
    units: &[Unit],
    found: &[Connection],
) -> anyhow::Result<String> {
    let line = |connection: &Connection| Line {
        source: connection.source.to_string(),
        destination: connection.destination.to_string(),
        traffic: traffic(connection),
        partly: connection.between_all.is_some(),
        change: None,
    };
    page(&Data {
        title: "Who may open which connections".into(),
        is_diff: false,
        pods: units.iter().map(|unit| unit.name.to_string()).collect(),
        connections: found.iter().map(line).collect(),
        stories: stories(survey, names, units, None),
        no_story: ASK,
    })
}

/// A page about a difference; the explanations are those of the new state.
///
/// # Errors
/// The data cannot be written as JSON.
pub fn of_diff(survey: &Survey, names: &Names, found: &Differences) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for change in &found.changed {
        for (set, word) in [(&change.gained, "gained"), (&change.lost, "lost")] {
            if !set.is_nothing() {
                lines.push(Line {
                    source: change.source.to_string(),
                    destination: change.destination.to_string(),
                    traffic: set.to_string(),
                    partly: false,
                    change: Some(word),
                });
            }
        }
    }
    let stories = stories(survey, names, &found.units, Some(&lines));
    page(&Data {
        title: "Who gains and who loses which connections".into(),
        is_diff: true,
        pods: found.units.iter().map(|unit| unit.name.to_string()).collect(),
        connections: lines,
        stories,
        no_story: ASK,
    })
}

/// The story of each pair of units, or of those in `only`.
fn stories(
    survey: &Survey,
    names: &Names,
    units: &[Unit],
    only: Option<&[Line]>,
) -> BTreeMap<String, String> {
    let pairs: Vec<(String, String)> = match only {
        Some(lines) => {
            lines.iter().map(|line| (line.source.clone(), line.destination.clone())).collect()
        }
        None => {
            let names = || units.iter().map(|unit| unit.name.to_string());
            names().flat_map(|source| names().map(move |other| (source.clone(), other))).collect()
        }
    };
    if pairs.len() > MAX_STORIES {
        return BTreeMap::new();
    }
    let mut pods: BTreeMap<String, Vec<ObjectKey>> = BTreeMap::new();
    for pod in survey.loaded.cluster.pods.values().filter(|pod| pod.is_policed()) {
        pods.entry(names.name(pod).to_string()).or_default().push(pod.key.clone());
    }
    let story = |(source, destination): (String, String)| {
        let end = |name: &String| pods.get(name).cloned().map(End::Pods);
        let asked = Asked {
            source: end(&source)?,
            destination: end(&destination)?,
            port: None,
            protocol: None,
            via: None,
        };
        let stories = story::stories(survey, &asked).ok()?;
        let question = format!("{source} -> {destination}");
        let told = tell(&stories, &question, Style::Text(Colour::Off));
        Some((format!("{source}\n{destination}"), told))
    };
    pairs.into_iter().filter_map(story).collect()
}

fn page(data: &Data) -> anyhow::Result<String> {
    // Nothing in the data ends the element that it stands in.
    let json = serde_json::to_string(data)?.replace('<', "\\u003c");
    Ok(include_str!("page.html").replacen("@DATA@", &json, 1))
}
