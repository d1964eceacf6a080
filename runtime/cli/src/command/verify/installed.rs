//! `netpolc verify --installed`: holds what this node's kernel really has against the cluster, by
//! meaning and entry by entry.
//!
//! What is found twice, with a second between, counts: an agent that is behind by an update is none
//! of this command's business. Not here: the comparison of answers (`netpolc_analyze::compare`),
//! and the entries that there should be (`expected`).

mod expected;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use netpolc_agent::serve::record::Record;
use netpolc_analyze::{Analysis, compare::compare};
use netpolc_kube_sync::Absent;
use netpolc_lower::Scope;
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_table::{
    EndpointId, Program, TableId, delta,
    schema::{InterfaceKey, SetEndpoint},
};
use netpolc_target::{Error, Target as _};
use netpolc_target_ebpf::Ebpf;
use serde::Serialize;

use super::Verify;
use crate::{
    ask::installed::Installed,
    command::compile::{Admitted, admit, check_node},
    input,
    output::{self, Outcome},
};

/// How many findings of one kind, or entries of one table, are shown.
const SHOWN: usize = 20;
/// How long an agent that is behind has to catch up.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is wrong, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    /// There are no tables, so nothing is enforced.
    NothingInstalled,
    /// The tables cannot be decoded.
    Unreadable,
    /// The tables permit what no policy does.
    Open,
    /// Policies isolate a pod, and the tables do not know it.
    PodWithoutEndpoint,
    /// No program is attached to the interface of a pod.
    NotAttached,
    /// The tables deny what policies permit.
    Closed,
    /// The tables know a pod that is not there.
    EndpointWithoutPod,
    /// An entry is not what it should be.
    Entry,
}

impl Kind {
    /// What whoever reads of it has to do.
    fn remedy(self) -> &'static str {
        match self {
            Kind::NothingInstalled => {
                "start the agent of this node; one with --target flower has filters, which this \
                 command does not decode"
            }
            Kind::Unreadable | Kind::Open | Kind::Closed | Kind::Entry => {
                "the agent's next audit repairs it; without an agent, start one; if it stays, \
                 report it with the output of `netpolc status`"
            }
            Kind::PodWithoutEndpoint => {
                "look into the agent's log and `netpolc status`: it does not see the pod, or is \
                 not in step"
            }
            Kind::NotAttached => {
                "the agent's next audit attaches to it; without an agent, start one"
            }
            Kind::EndpointWithoutPod => {
                "nothing, where the pod has just ended; else see whether the agent runs"
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    kind: Kind,
    what: String,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Looked {
    node: String,
    /// How many endpoints the tables have.
    endpoints: usize,
    /// How many answers were compared: of a pod, a direction and a class of addresses each, for
    /// every port.
    compared: usize,
    /// How many entries were compared.
    entries: usize,
    findings: Vec<Finding>,
}

impl Looked {
    fn found(&mut self, kind: Kind, what: impl Into<String>) {
        self.findings.push(Finding { kind, what: what.into() });
    }
}

/// Runs `netpolc verify --installed` on the tables that are pinned in `pin_dir`.
///
/// # Errors
/// The user is not root, the input cannot be read, the node is not known, or the kernel refuses to
/// have its tables read.
pub fn run(verify: &Verify, pin_dir: &Path) -> anyhow::Result<Outcome> {
    output::needs_root("verify --installed")?;
    let record = Record::read(pin_dir);
    let node: Arc<str> = match (&verify.scope, &record) {
        (Scope::Node(node), _) => node.clone(),
        (Scope::Everywhere, Some(record)) => record.node.as_str().into(),
        (Scope::Everywhere, None) => anyhow::bail!(
            "no agent has left a record for {}, so the node's name is not known; give it as --node",
            pin_dir.display()
        ),
    };
    let attempt = || {
        let (survey, read) = input::read(&verify.input, Absent::Absent)?;
        let cluster = survey.loaded.cluster;
        check_node(&cluster, &node)?;
        let Admitted { cluster, outcome: aside, .. } = admit(cluster, &Scope::Node(node.clone()))?;
        // The cluster is read first: the agent must have seen what it says.
        anyhow::Ok((look(&cluster, &node, pin_dir)?, cluster, read.and(aside)))
    };
    let (mut looked, cluster, mut read) = attempt()?;
    if !looked.findings.is_empty() {
        std::thread::sleep(PATIENCE);
        let before = looked.findings;
        if verify.input.cluster.is_some() {
            // Meanwhile the cluster has changed, too.
            (looked, _, read) = attempt()?;
        } else {
            looked = look(&cluster, &node, pin_dir)?;
        }
        looked.findings.retain(|finding| before.contains(finding));
    }
    looked.findings.sort();
    match verify.report.notation() {
        Some(notation) => output::print_data(&looked, notation)?,
        None => text(&looked)?,
    }
    Ok(read.and(Outcome::of_problems(looked.findings.len())))
}

/// Compares once what is installed with the cluster of an agent.
fn look(cluster: &Cluster, node: &Arc<str>, pin_dir: &Path) -> anyhow::Result<Looked> {
    let mut looked = Looked { node: node.to_string(), ..Looked::default() };
    let seen = match Ebpf::observe(pin_dir) {
        Ok(None) => {
            let what = format!("no tables are pinned in {}", pin_dir.display());
            looked.found(Kind::NothingInstalled, what);
            return Ok(looked);
        }
        Ok(Some(ebpf)) => ebpf.read().map(|program| (ebpf, program)),
        Err(error) => Err(error),
    };
    let (ebpf, installed) = match seen {
        Ok(seen) => seen,
        Err(error @ Error::Installed(_)) => {
            looked.found(Kind::Unreadable, error.to_string());
            return Ok(looked);
        }
        Err(error) => return Err(error).context("the installed tables cannot be read"),
    };
    let installed = Installed::of(installed, Record::read(pin_dir).as_ref());
    let named = Named::of(cluster, node, &installed);
    let installed = &installed.program;
    looked.endpoints = named.pods.len() + named.strange.len();
    answers(cluster, installed, &named, &mut looked);
    let expected = expected::expected(cluster, node, installed, &named.pods)?;
    looked.entries = installed.len();
    entries(installed, expected.program(), &mut looked);
    let known: BTreeSet<&ObjectKey> = named.pods.values().collect();
    let mine = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(node));
    // A pod without an address has not started.
    let mine = mine.filter(|pod| pod.is_policed() && !pod.addresses.is_empty());
    for pod in mine.filter(|pod| !known.contains(&pod.key) && expected.isolates(pod)) {
        let what = format!("policies isolate pod {}, and no endpoint has its addresses", pod.key);
        looked.found(Kind::PodWithoutEndpoint, what);
    }
    for endpoint in &named.strange {
        let what = format!("endpoint {endpoint} has the addresses of no pod of this node");
        looked.found(Kind::EndpointWithoutPod, what);
    }
    let loose: BTreeSet<_> = ebpf.loose().into_iter().collect();
    let attached: BTreeSet<_> = ebpf.attachments().iter().map(|found| found.ifindex).collect();
    for (key, entry) in &installed.table(TableId::Interface).entries {
        let ifindex = InterfaceKey::of(key).ifindex;
        if attached.contains(&ifindex) && !loose.contains(&ifindex) {
            continue;
        }
        let endpoint = SetEndpoint::of(entry).endpoint;
        let whose = named.pods.get(&endpoint);
        let whose = whose.map_or(format!("endpoint {endpoint}"), |pod| format!("pod {pod}"));
        let what = format!("interface {ifindex} of {whose} carries no program of these tables");
        looked.found(Kind::NotAttached, what);
    }
    Ok(looked)
}

/// Whose endpoints the tables have.
struct Named {
    pods: BTreeMap<EndpointId, ObjectKey>,
    /// Those that are no pod's.
    strange: Vec<EndpointId>,
}

impl Named {
    /// By the agent's record where it names a pod with the endpoint's addresses, else by the
    /// addresses alone: a record may be old.
    fn of(cluster: &Cluster, node: &Arc<str>, installed: &Installed) -> Self {
        let mine = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(node));
        let mine: Vec<_> = mine.filter(|pod| pod.is_policed()).collect();
        let mut named = Self { pods: BTreeMap::new(), strange: Vec::new() };
        for (endpoint, addresses) in installed.endpoints() {
            let fits = mine
                .iter()
                .filter(|pod| pod.addresses.iter().any(|address| addresses.contains(address)));
            let best = fits.max_by_key(|pod| installed.pods.get(&endpoint) == Some(&pod.key));
            match best {
                Some(pod) => drop(named.pods.insert(endpoint, pod.key.clone())),
                None => named.strange.push(endpoint),
            }
        }
        named
    }
}

/// Compares the answers of the tables with those of the policies.
fn answers(cluster: &Cluster, installed: &Program, named: &Named, looked: &mut Looked) {
    let pods = named.pods.iter().map(|(endpoint, pod)| (pod.clone(), *endpoint));
    let mut analysis = Analysis::new(cluster);
    let found = compare(&mut analysis, installed, &pods.collect::<Vec<_>>(), SHOWN);
    looked.compared = found.compared;
    for disagreement in &found.disagreements {
        let opens = !disagreement.only_tables.is_nothing();
        let kind = if opens { Kind::Open } else { Kind::Closed };
        looked.found(kind, disagreement.to_string());
    }
}

/// Compares the entries with those that there should be.
fn entries(installed: &Program, expected: &Program, looked: &mut Looked) {
    // Where an id could not be kept, the same content stands there under another one.
    let renamed = delta::plan(installed, expected).ok().map(|(renamed, _)| renamed);
    let mut counts: BTreeMap<TableId, usize> = BTreeMap::new();
    for found in delta::differences(installed, renamed.as_ref().unwrap_or(expected)) {
        let count = counts.entry(found.table).or_default();
        *count += 1;
        if *count <= SHOWN {
            looked.found(Kind::Entry, found.to_string());
        }
    }
    for (table, count) in counts.into_iter().filter(|(_, count)| *count > SHOWN) {
        let what = format!("table {}: {} more entries differ", table.spec().name, count - SHOWN);
        looked.found(Kind::Entry, what);
    }
}

fn text(looked: &Looked) -> anyhow::Result<()> {
    let Looked { node, endpoints, compared, entries, findings } = looked;
    let mut out = output::stdout();
    if findings.is_empty() {
        writeln!(
            out,
            "Node {node}: what is installed agrees with the policies: {endpoints} endpoints, \
             {compared} answers, each for every port, and {entries} entries."
        )?;
    } else {
        writeln!(out, "Node {node}: what is installed does not agree with the policies.")?;
    }
    let mut before = None;
    for Finding { kind, what } in findings {
        if before.is_some_and(|before: Kind| before.remedy() != kind.remedy()) {
            writeln!(out, "    {}", before.map_or("", Kind::remedy))?;
        }
        writeln!(out, "  {what}")?;
        before = Some(*kind);
    }
    if let Some(last) = before {
        writeln!(out, "    {}", last.remedy())?;
    }
    out.flush()?;
    Ok(())
}
