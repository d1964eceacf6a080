//! `netpolc list`: who may open which connections. Not here: which there are
//! (`netpolc_analyze::list`), and what the kernel's tables permit ([`installed`]).

pub mod installed;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::PathBuf,
    sync::Arc,
};

use netpolc_analyze::{
    Analysis,
    list::{Connection, Filter, Only, connections},
    traffic::TrafficSet,
    unit::{Isolated, Unit, units},
};
use netpolc_kube_sync::{Absent, Survey};
use netpolc_policy::{Cluster, Direction, Phase, Pod, PodNetwork};
use serde::Serialize;

use crate::{
    ask::{
        By, Names,
        end::{self, End},
        graph::{Drawn, Edge, csv_line, dot, markdown},
        page,
        port::{self, Port},
        rows::{rows, traffic, wrapped},
    },
    cli::{ask::ListFormat, request::Input},
    input,
    output::{self, Notation, Outcome, data},
};

/// What is to be listed.
#[derive(Debug)]
pub struct List {
    /// What the list is about.
    pub input: Input,
    /// The directory of pins whose tables are listed; None for what policies say.
    pub installed: Option<PathBuf>,
    /// How pods are put together.
    pub by: By,
    /// Only connections from these, as they were written; empty: from all.
    pub from: Vec<String>,
    /// Only connections to these.
    pub to: Vec<String>,
    /// Only this port, as it was written.
    pub port: Option<String>,
    /// Only this protocol.
    pub protocol: Option<String>,
    /// Which list it is.
    pub what: What,
    /// How it is shown.
    pub format: ListFormat,
}

/// The lists that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Connections.
    Connections(Only),
    /// Pods that no policy isolates.
    NotIsolated,
}

/// Runs `netpolc list`.
///
/// # Errors
/// An end or a port means nothing in this input; and those of [`installed::run`].
pub fn run(list: &List) -> anyhow::Result<Outcome> {
    if let Some(pin_dir) = &list.installed {
        return installed::run(list, pin_dir);
    }
    let (survey, read) = input::read(&list.input, Absent::MadeUp)?;
    let mut analysis = Analysis::new(&survey.loaded.cluster);
    let names = Names::of(list.by, [&survey.loaded.cluster]);
    let units = units(analysis.universe(), &|pod| names.name(pod));
    let on_nodes = on_nodes(&survey.loaded.cluster, &names);
    let text = match list.what {
        What::Connections(only) => {
            let filter = Filter {
                from: named(&survey, &names, &list.from)?,
                to: named(&survey, &names, &list.to)?,
                traffic: traffic_of(list)?,
                only,
            };
            let found = connections(&mut analysis, &units, &filter);
            left_out(&on_nodes);
            match list.format {
                ListFormat::Html => page::of_list(&survey, &names, &units, &found)?,
                format => show(&found, &units, format)?,
            }
        }
        What::NotIsolated => not_isolated(&mut analysis, &units, on_nodes, list.format)?,
    };
    let mut out = output::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(read)
}

/// How many names of pods a note has at most.
const MAX_NAMES: usize = 3;

/// The pods that use the network of their node, by the name of what they belong to. No policy is
/// about them (S15), and their connections are their node's.
fn on_nodes(cluster: &Cluster, names: &Names) -> BTreeMap<Arc<str>, usize> {
    let mut found = BTreeMap::new();
    let is_on_node = |pod: &&Pod| pod.network == PodNetwork::Host && pod.phase == Phase::Active;
    for pod in cluster.pods.values().filter(is_on_node) {
        *found.entry(names.name(pod)).or_default() += 1;
    }
    found
}

/// Says which pods are in no connection although they have some.
fn left_out(on_nodes: &BTreeMap<Arc<str>, usize>) {
    let pods: usize = on_nodes.values().sum();
    if pods == 0 {
        return;
    }
    let mut shown: Vec<&str> = on_nodes.keys().map(|name| &**name).take(MAX_NAMES).collect();
    let further = format!("{} more", on_nodes.len() - shown.len());
    if on_nodes.len() > shown.len() {
        shown.push(&further);
    }
    let pods = if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") };
    output::complain(format_args!(
        "note: pods that use the network of their node are not in the list, since no policy \
         applies to them: {pods} of {}",
        shown.join(", ")
    ));
}

/// The names of the units that these ends are in.
fn named(survey: &Survey, names: &Names, ends: &[String]) -> anyhow::Result<BTreeSet<Arc<str>>> {
    let mut found = BTreeSet::new();
    for text in ends {
        let pods = match end::find(survey, text)? {
            End::Pods(pods) => pods,
            End::Service(key) => {
                let all = netpolc_policy::frontend::PortChoice::All;
                let cluster = &survey.loaded.cluster;
                let behind =
                    netpolc_policy::frontend::backends(cluster, &survey.frontends, &key, &all)?;
                behind.into_iter().filter_map(|backend| backend.pod).collect()
            }
            End::Address(_) | End::Block(_) | End::Internet | End::Node(_) => anyhow::bail!(
                "{text}: a list is about pods; ask for --exposed or --outside, or use \
                 `netpolc explain` for an address"
            ),
        };
        found.extend(pods.iter().map(|key| names.name(&survey.loaded.cluster.pods[key])));
    }
    Ok(found)
}

/// The traffic that the list is about; None for all.
fn traffic_of(list: &List) -> anyhow::Result<Option<TrafficSet>> {
    let protocol = match &list.protocol {
        None => None,
        Some(name) => Some(port::protocol(name).ok_or_else(|| {
            anyhow::anyhow!(
                "--protocol {name:?} is not known; write tcp, udp, sctp, icmp, icmpv6 or protocol-N"
            )
        })?),
    };
    Ok(match &list.port {
        None => protocol.map(|protocol| TrafficSet::protocol(protocol.number())),
        Some(text) => match Port::parse(text)? {
            Port::Name(_) => anyhow::bail!("--port {text}: write a number or a range"),
            port => Some(port.traffic(protocol, &[])?),
        },
    })
}

fn show(found: &[Connection], units: &[Unit], format: ListFormat) -> anyhow::Result<String> {
    let head = ["from", "to", "traffic"];
    Ok(match format {
        ListFormat::Text => {
            let rows = rows(found, units).into_iter();
            let cells = rows.map(|row| {
                [wrapped(&row.sources, 40), wrapped(&row.destinations, 40), row.traffic]
            });
            if found.is_empty() {
                return Ok("No connection may be opened.\n".into());
            }
            format!("{}\n", output::table(&head, cells))
        }
        ListFormat::Markdown => {
            let rows = rows(found, units).into_iter();
            markdown(
                &head,
                rows.map(|row| [row.sources.join(", "), row.destinations.join(", "), row.traffic]),
            )
        }
        ListFormat::Csv => {
            let mut text = csv_line(["source", "destination", "traffic", "between all pods"]);
            for connection in found {
                let all = connection.between_all.as_ref().unwrap_or(&connection.traffic);
                text.push_str(&csv_line([
                    connection.source.to_string(),
                    connection.destination.to_string(),
                    connection.traffic.to_string(),
                    all.to_string(),
                ]));
            }
            text
        }
        ListFormat::Json => data(&found, Notation::Json)?,
        ListFormat::Yaml => data(&found, Notation::Yaml)?,
        ListFormat::Dot => {
            let edge = |connection: &Connection| Edge {
                source: connection.source.to_string(),
                destination: connection.destination.to_string(),
                label: traffic(connection),
                drawn: Drawn::Plain,
            };
            dot(&found.iter().map(edge).collect::<Vec<_>>())
        }
        ListFormat::Html => unreachable!("a page needs the input, too"),
    })
}

/// A unit that is open in some direction.
#[derive(Debug, Serialize)]
struct Open {
    name: Arc<str>,
    pods: usize,
    ingress: Isolated,
    egress: Isolated,
}

fn not_isolated(
    analysis: &mut Analysis<'_>,
    units: &[Unit],
    mut on_nodes: BTreeMap<Arc<str>, usize>,
    format: ListFormat,
) -> anyhow::Result<String> {
    let open = units.iter().map(|unit| {
        let others = on_nodes.remove(&unit.name);
        let mut isolation = |direction| match (analysis.isolation(unit, direction), others) {
            (Isolated::Yes, Some(_)) => Isolated::Partly,
            (isolated, _) => isolated,
        };
        Open {
            name: unit.name.clone(),
            pods: unit.pods + others.unwrap_or_default(),
            ingress: isolation(Direction::Ingress),
            egress: isolation(Direction::Egress),
        }
    });
    let mut open: Vec<Open> =
        open.filter(|open| open.ingress != Isolated::Yes || open.egress != Isolated::Yes).collect();
    open.extend(on_nodes.into_iter().map(|(name, pods)| Open {
        name,
        pods,
        ingress: Isolated::No,
        egress: Isolated::No,
    }));
    open.sort_by(|one, other| one.name.cmp(&other.name));
    let word = |isolated| match isolated {
        Isolated::Yes => "isolated",
        Isolated::Partly => "some pods are open",
        Isolated::No => "open",
    };
    let head = ["pods of", "ingress", "egress"];
    let cells = |open: &Open| {
        [open.name.to_string(), word(open.ingress).to_owned(), word(open.egress).to_owned()]
    };
    Ok(match format {
        ListFormat::Json => data(&open, Notation::Json)?,
        ListFormat::Yaml => data(&open, Notation::Yaml)?,
        ListFormat::Csv => {
            let lines = open.iter().map(|open| csv_line(cells(open)));
            format!("{}{}", csv_line(head), lines.collect::<String>())
        }
        ListFormat::Markdown => markdown(&head, open.iter().map(cells)),
        ListFormat::Text if open.is_empty() => "Every pod is isolated in both directions.\n".into(),
        ListFormat::Text => format!("{}\n", output::table(&head, open.iter().map(cells))),
        ListFormat::Dot | ListFormat::Html => {
            anyhow::bail!("--not-isolated is a list of pods; use -o text, markdown, csv or json")
        }
    })
}
