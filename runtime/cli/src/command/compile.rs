//! `netpolc compile`: the tables that policies become, printed.
//!
//! Here: restricting a program to what concerns one pod, and tables for people. Not here: the text and
//! JSON forms (`netpolc_table`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::Arc,
};

use anyhow::{Context, bail};
use netpolc_lower::{Compiler, Kind, Limits, Scope, Shares};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_table::{
    ActionId, Entry, Key, Match, Program, TableId,
    schema::{Family, IdKind, Word},
    text,
};

use crate::{
    cli::request::{Compile, Show},
    input,
    output::{self, Outcome},
};

/// Runs the command.
///
/// # Errors
/// A pod that is not there, more ids than there are, standard output that cannot be written.
pub fn run(compile: &Compile) -> anyhow::Result<Outcome> {
    let loaded = input::load(&compile.files);
    let refused = input::report(&loaded.problems);
    let (cluster, aside) = admit(loaded.cluster, &compile.scope);
    let compiler = netpolc_lower::compile(&cluster, compile.scope.clone())?;
    for diagnostic in compiler.diagnostics() {
        output::complain(format_args!("warning: {diagnostic}"));
    }
    let mut program = compiler.program().clone();
    if let Some(pod) = &compile.pod {
        program = only(&program, endpoint(&cluster, &compiler, pod)?);
    }
    let mut out = output::stdout();
    match &compile.show {
        Show::Flower(flower) => {
            let input = (&cluster, &compiler);
            super::flower::show(input, &compile.scope, compile.pod.as_ref(), flower, &mut out)?;
        }
        Show::Text => out.write_all(text::print(&program).as_bytes())?,
        Show::Json => {
            serde_json::to_writer_pretty(&mut out, &netpolc_table::json::p4info(&program))
                .map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Show::Table => out.write_all(tables(&program).as_bytes())?,
        Show::Ebpf(report) => super::ebpf::show(&program, *report, &mut out)?,
    }
    out.flush()?;
    Ok(refused.and(aside))
}

/// How many nodes a message names.
const NAMED: usize = 3;

/// What of the cluster a node's agent would compile; what it would set aside is said. The tables of all
/// nodes together are those of no node, and leave nothing out.
fn admit(cluster: Cluster, scope: &Scope) -> (Cluster, Outcome) {
    let shares = |scope: Scope| {
        let mut shares = Shares::new(scope.clone(), Limits::default());
        shares.load(&cluster);
        if let Scope::Node(_) = scope {
            // Where ids run out, the compile that follows says so.
            let _ = shares.compile(&cluster, || Compiler::new(scope.clone()));
        }
        shares
    };
    let whole = shares(scope.clone());
    // What takes too much of one node takes no less of all nodes.
    if whole.aside().next().is_none() {
        return (cluster, Outcome::Fine);
    }
    if let Scope::Node(_) = scope {
        whole.aside().for_each(output::complain);
        return (whole.cluster(&cluster), Outcome::Problems);
    }
    let mut lines: BTreeMap<String, Vec<Arc<str>>> = BTreeMap::new();
    for aside in whole.aside().filter(|aside| aside.kind == Kind::Service) {
        // The same on every node, with or without pods.
        lines.entry(aside.to_string()).or_default();
    }
    let nodes: BTreeSet<&Arc<str>> = cluster.pods.values().filter_map(|pod| pod.node.as_ref()).collect();
    for node in nodes {
        for aside in shares(Scope::Node(node.clone())).aside().filter(|aside| aside.kind == Kind::Policy) {
            lines.entry(aside.to_string()).or_default().push(node.clone());
        }
    }
    for (line, nodes) in &lines {
        let more = if nodes.len() > NAMED { format!(" and {} more", nodes.len() - NAMED) } else { String::new() };
        match &nodes[..nodes.len().min(NAMED)] {
            [] => output::complain(format_args!("each node: {line}")),
            named => output::complain(format_args!("node {}{more}: {line}", named.join(", "))),
        }
    }
    (cluster, Outcome::of_problems(lines.len()))
}

fn endpoint(cluster: &Cluster, compiler: &Compiler, pod: &ObjectKey) -> anyhow::Result<u16> {
    if let Some(endpoint) = compiler.endpoint(pod) {
        return Ok(endpoint);
    }
    let found = cluster.pods.get(pod).with_context(|| format!("--pod {pod}: there is no such pod in the input"))?;
    if !found.is_policed() {
        bail!("--pod {pod}: policies do not apply to it (hostNetwork, or it has finished)");
    }
    let node = found.node.as_deref().unwrap_or("no node");
    bail!("--pod {pod}: it is on {node}, not on the node given by --node")
}

/// What of a program concerns one endpoint: its words, the sets they name, their rows, and the remotes
/// and ports that these tell apart from others.
pub fn only(program: &Program, endpoint: u16) -> Program {
    let word = netpolc_table::eval::word(program, endpoint);
    let sets: BTreeSet<u64> =
        [word.ingress_set, word.egress_set].into_iter().filter(|s| *s != 0).map(u64::from).collect();
    let first = |key: &Key| key.value(0).low();
    let mut shown = Program::default();
    let mut keep = |table: TableId, wanted: &dyn Fn(&Key, &Entry) -> bool| {
        let entries = program.table(table).entries.iter().filter(|(k, e)| wanted(k, e));
        let entries: Vec<_> = entries.map(|(k, e)| (k.clone(), e.clone())).collect();
        shown.table_mut(table).size = program.table(table).size;
        shown.table_mut(table).entries.extend(entries.iter().cloned());
        entries
    };
    let own = |key: &Key, _: &Entry| first(key) == u64::from(endpoint);
    keep(TableId::Interface, &|_, e| e.params[0] == u64::from(endpoint));
    keep(TableId::Endpoint, &own);
    keep(TableId::OwnV4, &own);
    keep(TableId::OwnV6, &own);
    keep(TableId::OwnMac, &own);
    let of_sets = |key: &Key, _: &Entry| sets.contains(&first(key));
    let base = keep(TableId::Base, &of_sets);
    let rows = keep(TableId::Row, &of_sets);
    let row_ids: BTreeSet<u64> =
        base.iter().chain(&rows).filter(|(_, e)| e.action == ActionId::SetRow).map(|(_, e)| e.params[0]).collect();
    let verdicts = keep(TableId::Verdict, &|k, _| row_ids.contains(&first(k)));
    let port_classes: BTreeSet<u64> = verdicts.iter().map(|(k, _)| k.value(1).low()).collect();
    keep(TableId::Port, &|_, e| port_classes.contains(&e.params[0]));
    let mut classes = [BTreeSet::new(), BTreeSet::new()];
    for (key, _) in &rows {
        let family = usize::from(key.value(1).low() == u64::from(Family::V6.number()));
        classes[family].insert(key.value(2).low());
    }
    let [v4, v6] = &classes;
    keep(TableId::Tunnel, &|_, _| true);
    keep(TableId::OnLinkV6, &|_, _| true);
    if word.flags & Word::EGRESS != 0 {
        keep(TableId::ServiceV4, &|_, _| true);
        keep(TableId::ServiceV6, &|_, _| true);
    }
    // Prefixes of these classes, and those cut out of them (an except is a longer prefix of another class).
    for (family, classes) in [(Family::V4, v4), (Family::V6, v6)] {
        let table = program.table(TableId::remote(family));
        let covers: Vec<(u128, u8)> = table
            .entries
            .iter()
            .filter(|(_, e)| classes.contains(&e.params[0]))
            .filter_map(|(k, _)| prefix(k))
            .collect();
        let inside = |key: &Key| {
            prefix(key).is_some_and(|(bits, length)| {
                covers.iter().any(|(cover, cut)| {
                    let host = u32::from(family.bits() - cut);
                    *cut <= length && bits.checked_shr(host) == cover.checked_shr(host)
                })
            })
        };
        let pods = |e: &Entry| e.params[1] != 0;
        keep(table.id, &|key, e| classes.contains(&e.params[0]) || (!pods(e) && inside(key)));
    }
    keep(TableId::Directory, &|key, _| {
        let (kind, id) = (first(key), key.value(1).low());
        match kind {
            k if k == IdKind::Endpoint as u64 => id == u64::from(endpoint),
            k if k == IdKind::Set as u64 => sets.contains(&id),
            k if k == IdKind::ClassV4 as u64 => v4.contains(&id),
            k if k == IdKind::ClassV6 as u64 => v6.contains(&id),
            _ => false,
        }
    });
    shown
}

fn prefix(key: &Key) -> Option<(u128, u8)> {
    match key.fields()[0] {
        Match::Lpm { value, length } => Some((value.get(), length)),
        _ => None,
    }
}

/// Every table that has entries, for people.
fn tables(program: &Program) -> String {
    let mut shown = String::new();
    for table in program.tables().filter(|t| !t.entries.is_empty() && t.id != TableId::Directory) {
        let spec = table.id.spec();
        let keys: Vec<&str> = spec.fields.iter().map(|f| f.name).collect();
        let rows = table.entries.iter().map(|(key, entry)| {
            let origins: Vec<String> = entry.origins.as_slice().iter().map(ToString::to_string).collect();
            [text::key(table.id, key), text::action(entry), origins.join("\n")]
        });
        let default = text::action(&Entry::new(spec.default.0, spec.default.1));
        let count = table.entries.len();
        shown += &format!("{} ({count} of {}, default {default})\n", spec.name, table.size);
        shown += &output::table(&[&keys.join(", "), "action", "from"], rows);
        shown += "\n\n";
    }
    if shown.is_empty() {
        shown += "no entries: no pod here is isolated\n";
    }
    shown
}
