//! `netpolc compile`: prints the tables that policies become.
//!
//! Here: tables for people. Not here: the text and JSON forms, and restricting a program to what
//! concerns one pod (`netpolc_table`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    mem::ManuallyDrop,
    sync::Arc,
};

use anyhow::{Context, bail};
use netpolc_kube_sync::Absent;
use netpolc_lower::{Compiler, Event, Kind, Limits, Scope, Shares, Wire};
use netpolc_policy::{Cluster, ObjectKey, Policy, audit};
use netpolc_table::{EndpointId, Entry, Program, TableId, json, p4, slice, text};

use crate::{
    cli::request::{Compile, Show},
    input,
    output::{self, Outcome},
};

/// Runs `netpolc compile`.
///
/// # Errors
/// The input cannot be read, the requested pod or node does not exist in it, the cluster needs more
/// ids than there are, or standard output cannot be written.
pub fn run(compile: &Compile) -> anyhow::Result<Outcome> {
    // An agent enforces what exists, so nothing is made up here.
    let (mut survey, refused) = input::read(&compile.input, Absent::Absent)?;
    let cluster = std::mem::take(&mut survey.loaded.cluster);
    // The process is about to end: freeing 100,000 pods one by one would only take time.
    let _survey = ManuallyDrop::new(survey);
    if let Scope::Node(node) = &compile.scope {
        check_node(&cluster, node)?;
    }
    let Admitted { cluster, compiler, outcome: aside } = admit(cluster, &compile.scope)?;
    let (cluster, mut compiler) = (ManuallyDrop::new(cluster), ManuallyDrop::new(compiler));
    if let Scope::Node(_) = compile.scope {
        compiler.apply(Event::Wire(Wire::of_every_node()))?;
    }
    for diagnostic in compiler.diagnostics() {
        output::complain(format_args!("warning: {diagnostic}"));
    }
    // Filters have no counter for packets that they treat as they are told (S86).
    let told = match &compile.show {
        Show::Flower(_) => {
            "no filter compares with it; the eBPF target does, and `netpolc eval` tells of any packet"
        }
        Show::P4Info | Show::P4Runtime | Show::P4(_) => {
            "a P4 program does not compare with it, and `netpolc eval` tells of any packet"
        }
        Show::Text | Show::Data(_) | Show::Table | Show::Ebpf(_) => {
            "the table `tried` says where verdicts would differ, and `netpolc eval` tells of any packet"
        }
    };
    for policy in audit::tried(&cluster) {
        output::complain(format_args!(
            "note: {policy} is only tried and changes no verdict; {told}"
        ));
    }
    let part = match &compile.pod {
        Some(pod) => {
            let endpoint = endpoint(&cluster, &compiler, pod)?;
            Some(slice::of_endpoint(compiler.program(), endpoint))
        }
        None => None,
    };
    let program = part.as_ref().unwrap_or(compiler.program());
    let mut out = output::stdout();
    match &compile.show {
        Show::Flower(flower) => {
            let input = (&*cluster, &*compiler);
            super::flower::show(input, &compile.scope, compile.pod.as_ref(), flower, &mut out)?;
        }
        Show::Text => out.write_all(text::print(program).as_bytes())?,
        Show::Data(notation) => output::write_data(&mut out, &json::Tables(program), *notation)?,
        Show::P4Info => write!(out, "{}", p4::Info(program))?,
        Show::P4Runtime => write!(out, "{}", p4::Entries(program))?,
        Show::P4(install) => write!(out, "{}", p4::Source(program, *install))?,
        Show::Table => out.write_all(tables(program).as_bytes())?,
        Show::Ebpf(report) => super::ebpf::show(program, *report, &mut out)?,
    }
    out.flush()?;
    Ok(refused.and(aside))
}

/// How many nodes a message names at most.
const MAX_NAMED: usize = 3;

/// Checks that some object names the node: one that is mistyped would have no tables.
pub(super) fn check_node(cluster: &Cluster, node: &Arc<str>) -> anyhow::Result<()> {
    let of_pods = cluster.pods.values().filter_map(|pod| pod.node.as_ref());
    let known: BTreeSet<&Arc<str>> = cluster.nodes.keys().chain(of_pods).collect();
    if known.contains(node) {
        return Ok(());
    }
    let first: Vec<&str> = known.iter().take(MAX_NAMED).map(|name| &***name).collect();
    match known.len() {
        0 => bail!("--node {node} is not in the input: it has no Node, and no pod has a nodeName"),
        count if count > MAX_NAMED => bail!(
            "--node {node} is not in the input; it has {} and {} more",
            first.join(", "),
            count - MAX_NAMED
        ),
        _ => bail!("--node {node} is not in the input; it has {}", first.join(", ")),
    }
}

/// What a node's agent would compile of a cluster, and has compiled.
pub(super) struct Admitted {
    pub cluster: Cluster,
    pub compiler: Compiler,
    /// Whether anything was set aside.
    pub outcome: Outcome,
}

/// Reduces the cluster to what a node's agent would compile, compiles it, and reports what was set
/// aside. The tables of all nodes together belong to no node, so nothing is left out of them.
///
/// # Errors
/// The cluster needs more ids than there are.
pub(super) fn admit(cluster: Cluster, scope: &Scope) -> anyhow::Result<Admitted> {
    let mut whole = Shares::new(scope.clone(), Limits::default());
    whole.load(&cluster);
    let compiled = match scope {
        Scope::Node(_) => whole.compile(&cluster, || Compiler::new(scope.clone())),
        Scope::Everywhere => netpolc_lower::compile(&cluster, Scope::Everywhere),
    };
    for diagnostic in whole.not_compared() {
        output::complain(format_args!("warning: {diagnostic}"));
    }
    // An object that takes too much of one node takes no less of all nodes together, so this check
    // covers them all.
    if let Scope::Node(_) = scope {
        whole.aside().for_each(output::complain);
        let is_whole = whole.aside().next().is_none();
        let outcome = if is_whole { Outcome::Fine } else { Outcome::Problems };
        return Ok(Admitted { cluster: whole.cluster(cluster), compiler: compiled?, outcome });
    }
    if whole.aside().next().is_none() {
        return Ok(Admitted { cluster, compiler: compiled?, outcome: Outcome::Fine });
    }
    let mut lines: BTreeMap<String, Vec<Arc<str>>> = BTreeMap::new();
    for aside in whole.aside().filter(|aside| aside.kind == Kind::Service) {
        // A Service takes the same on every node, with or without pods.
        lines.entry(aside.to_string()).or_default();
    }
    for (node, part) in by_node(&cluster) {
        let mut shares = Shares::new(Scope::Node(node.clone()), Limits::default());
        shares.load(&part);
        for aside in shares.aside().filter(|aside| aside.kind == Kind::Policy) {
            lines.entry(aside.to_string()).or_default().push(node.clone());
        }
    }
    for (line, nodes) in &lines {
        let more = if nodes.len() > MAX_NAMED {
            format!(" and {} more", nodes.len() - MAX_NAMED)
        } else {
            String::new()
        };
        match &nodes[..nodes.len().min(MAX_NAMED)] {
            [] => output::complain(format_args!("each node: {line}")),
            named => output::complain(format_args!("node {}{more}: {line}", named.join(", "))),
        }
    }
    let outcome = Outcome::of_problems(lines.len());
    Ok(Admitted { cluster, compiler: compiled?, outcome })
}

/// Of each node what its policies' sizes depend on: its pods, and the policies of their namespaces.
/// Ids that run out on a node are found with `--node` only, by its compilation.
fn by_node(cluster: &Cluster) -> BTreeMap<Arc<str>, Cluster> {
    let mut parts: BTreeMap<Arc<str>, Cluster> = BTreeMap::new();
    for pod in cluster.pods.values() {
        let Some(node) = &pod.node else { continue };
        parts.entry(node.clone()).or_default().pods.insert(pod.key.clone(), pod.clone());
    }
    let mut policies: BTreeMap<&Arc<str>, Vec<&Policy>> = BTreeMap::new();
    for policy in cluster.policies.values() {
        policies.entry(&policy.key.namespace).or_default().push(policy);
    }
    for part in parts.values_mut() {
        let namespaces: BTreeSet<&Arc<str>> = part.pods.keys().map(|key| &key.namespace).collect();
        let here = namespaces.into_iter().filter_map(|namespace| policies.get(namespace)).flatten();
        part.policies = here.map(|policy| (policy.key.clone(), (*policy).clone())).collect();
    }
    parts
}

fn endpoint(cluster: &Cluster, compiler: &Compiler, pod: &ObjectKey) -> anyhow::Result<EndpointId> {
    if let Some(endpoint) = compiler.endpoint(pod) {
        return Ok(endpoint);
    }
    let found =
        cluster.pods.get(pod).with_context(|| format!("--pod {pod} is not in the input"))?;
    if !found.is_policed() {
        bail!(
            "policies do not apply to --pod {pod}, because it uses the host network or has finished"
        );
    }
    let node = found.node.as_deref().unwrap_or("no node");
    bail!("--pod {pod} is on {node}, not on the node given by --node")
}

/// Prints every table that has entries, for people.
fn tables(program: &Program) -> String {
    let mut shown = String::new();
    for table in program.tables().filter(|t| !t.entries.is_empty() && t.id != TableId::Directory) {
        let spec = table.id.spec();
        let keys: Vec<&str> = spec.fields.iter().map(|f| f.name).collect();
        let rows = table.entries.iter().map(|(key, entry)| {
            let origins: Vec<String> =
                entry.origins.as_slice().iter().map(ToString::to_string).collect();
            [text::key(table.id, key), text::action(entry), origins.join("\n")]
        });
        let default = text::action(&Entry::new(spec.default.0, spec.default.1));
        let count = table.entries.len();
        shown += &format!("{} ({count} of {}, default {default})\n", spec.name, table.size);
        shown += &output::table(&[&keys.join(", "), "action", "from"], rows);
        shown += "\n\n";
    }
    if shown.is_empty() {
        shown += "there are no entries: no pod here is isolated\n";
    }
    shown
}
