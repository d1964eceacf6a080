//! `netpolc compile --target flower`: prints the filters that policies become, for an invented
//! node: each pod's port is named after the pod, there is one uplink, and no real interface is
//! used.
//!
//! Not here: lowering, and the text and JSON forms of filters (`netpolc_target_flower`).

use std::{collections::BTreeMap, io::Write, sync::Arc};

use anyhow::Context;
use netpolc_lower::{Compiler, Scope};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_table::{EndpointId, IfIndex};
use netpolc_target_flower::{
    json,
    lower::lower,
    lowered::{Lowered, Mode},
    text,
    topology::{Port, Topology},
    totals::{Budget, Totals, Use},
};
use serde_json::Value;

use crate::{
    cli::request::{Flower, Form},
    output,
};

/// The index of the first invented uplink.
const FIRST_UPLINK: u32 = 100_000;

/// Prints the filters of `scope`'s pods, or of `pod`'s port only.
///
/// # Errors
/// Flower cannot enforce the policies, or standard output cannot be written.
pub fn show(
    (cluster, compiler): (&Cluster, &Compiler),
    scope: &Scope,
    pod: Option<&ObjectKey>,
    flower: &Flower,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut lowered = Lowered { mode: flower.mode, ports: BTreeMap::new(), spilled: vec![] };
    for (node, topology) in topologies(cluster, compiler, scope) {
        let place = || node.as_ref().map_or("pods without a node".into(), |n| format!("node {n}"));
        let of_node = lower(compiler.program(), &topology, flower.mode, &flower.capabilities)
            .with_context(place)?;
        lowered.ports.extend(of_node.ports);
        lowered.spilled.extend(of_node.spilled);
    }
    let budget = Budget::of(&lowered, &flower.capabilities);
    if let Some(pod) = pod {
        let name = pod.to_string();
        lowered.ports.retain(|port, _| port.name == name);
        lowered.spilled.retain(|spilled| spilled.port.name == name);
    }
    match flower.form {
        Form::Text => {
            write!(out, "{}", head(flower, &budget))?;
            write!(out, "{}", text::print(&lowered))?;
        }
        Form::Data(notation) => {
            let mut value = json::lowered(&lowered);
            value["driver"] = flower.capabilities.driver.clone().into();
            value["budget"] = if flower.mode == Mode::Software {
                Value::Null
            } else {
                serde_json::to_value(budget)?
            };
            output::write_data(out, &value, notation)?;
        }
        Form::Table => write!(out, "{}{}", head(flower, &budget), tables(&lowered))?,
    }
    Ok(())
}

/// The invented topology of each node of the scope, with its pods; the key is None for pods without
/// a node.
fn topologies(
    cluster: &Cluster,
    compiler: &Compiler,
    scope: &Scope,
) -> BTreeMap<Option<Arc<str>>, Topology> {
    let mut pods = BTreeMap::<Option<Arc<str>>, Vec<(EndpointId, String)>>::new();
    for (key, endpoint) in compiler.endpoints() {
        let node = match scope {
            Scope::Node(name) => Some(name.clone()),
            Scope::Everywhere => cluster.pods.get(key).and_then(|p| p.node.clone()),
        };
        pods.entry(node).or_default().push((endpoint, key.to_string()));
    }
    let nodes = pods.into_iter().zip(FIRST_UPLINK..).map(|((node, pods), ifindex)| {
        let name = node.as_ref().map_or("uplink".into(), |n| format!("{n}/uplink"));
        let mut topology = Topology::made_up(pods, Port { ifindex: IfIndex::new(ifindex), name });
        let known = node.as_ref().and_then(|n| cluster.nodes.get(n));
        topology.node_addresses = known.map(|n| n.addresses.clone()).unwrap_or_default();
        (node, topology)
    });
    nodes.collect()
}

fn head(flower: &Flower, budget: &Budget) -> String {
    let mode = match flower.mode {
        Mode::Representor => "representor",
        Mode::Prefilter => "prefilter",
        Mode::Software => "software",
    };
    let mut head =
        format!("# mode {mode}, driver {}; ports are made up\n", flower.capabilities.driver);
    if flower.mode != Mode::Software {
        let of = |u: Use| {
            if u.of == u32::MAX { u.used.to_string() } else { format!("{} of {}", u.used, u.of) }
        };
        head += &format!(
            "# in hardware: filters {}, chains x prios {}, masks of one table {}\n",
            of(budget.filters),
            of(budget.tables),
            of(budget.masks)
        );
    }
    head
}

/// Prints filters, what is left to eBPF, and totals, for people.
fn tables(lowered: &Lowered) -> String {
    let mut shown = String::new();
    let name =
        |index: IfIndex| lowered.ports.keys().find(|p| p.ifindex == index).map(|p| p.name.clone());
    for (port, placed) in &lowered.ports {
        let rows = placed.iter().map(|placed| {
            let filter = &placed.filter;
            let line = text::line("", filter, name);
            // The match stands between the chain and the action.
            let keys = line
                .split_once("chain ")
                .and_then(|(_, rest)| rest.split_once(' '))
                .map_or("", |(_, keys)| keys);
            let keys = keys.split(" action ").next().unwrap_or_default();
            let origins: Vec<String> =
                placed.origins.as_slice().iter().map(ToString::to_string).collect();
            [
                text::side(filter.side).to_owned(),
                filter.chain.to_string(),
                filter.prio.to_string(),
                format!("{} {keys}", text::protocol(filter)),
                text::action(&filter.action, name),
                text::placement(filter.copies).to_owned(),
                origins.join("\n"),
            ]
        });
        shown += &format!("{} ({} filters)\n", port.name, placed.len());
        shown +=
            &output::table(&["hook", "chain", "pref", "match", "action", "where", "from"], rows);
        shown += "\n\n";
    }
    if !lowered.spilled.is_empty() {
        let rows = lowered.spilled.iter().map(|s| {
            let origins: Vec<String> =
                s.origins.as_slice().iter().map(ToString::to_string).collect();
            [
                s.port.name.clone(),
                s.what.clone(),
                s.reason.describe().into(),
                s.filters.to_string(),
                origins.join("\n"),
            ]
        });
        shown += "left\n";
        shown += &output::table(&["port", "what", "why", "filters", "from"], rows);
        shown += "\n\n";
    }
    let totals = Totals::of(lowered);
    let row = |name: &str, c: netpolc_target_flower::totals::Counts| {
        let numbers = [c.filters, c.hardware, c.software, c.both, c.chains, c.tables, c.masks];
        let mut row = vec![name.to_owned()];
        row.extend(numbers.map(|n| n.to_string()));
        row
    };
    let mut rows: Vec<Vec<String>> =
        totals.ports.iter().map(|(name, t)| row(name, t.counts)).collect();
    rows.push(row("all", totals.all));
    let columns =
        ["port", "filters", "hardware", "software", "both", "chains", "chains x prios", "masks"];
    shown += &output::table(&columns, rows);
    shown + "\n"
}
