//! Compares `netpolc list` with the connectivity lists that another analyzer of NetworkPolicies,
//! np-guard's netpol-analyzer, publishes for its own examples. docs/published.md says what came of
//! it, and what every reason for a difference means.
//!
//! ```sh
//! cargo build -p netpolc
//! cargo run -p netpolc --example published -- CHECKOUT [NETPOLC]
//! ```
//!
//! CHECKOUT is a checkout of that repository: manifests are in `tests/NAME`, and the list is
//! `test_outputs/connlist/NAME_connlist_output.txt` or `NAME_exposure_output.txt`. NETPOLC is the
//! command to run; without it, the one that cargo has built beside this program.
//!
//! Both lists are expanded to who may send which TCP, UDP and SCTP ports to whom, with ranges of
//! IPv4 addresses outside: the published lists know nothing else. The exit code is 1 where they
//! differ and no [`Reason`] explains it. Here: the comparison. Not here: how both lists are read
//! ([`lists`]).

mod lists;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

use anyhow::{Context, ensure};
use netpolc_analyze::traffic::TrafficSet;
use netpolc_kube_sync::is_manifest;
use serde_json::Value;

use lists::{End, HasPortName, Line, List, ours, published};

/// Why a published line does not compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// It is about an ingress controller that is in no manifest.
    Controller,
    /// It prints a port name that no container has.
    PortName,
    /// Its pods use their node's network, or have ended: no policy is about them (S13, S15).
    NotPoliced,
}

#[derive(Debug, Default)]
struct Totals {
    examples: usize,
    lines: usize,
    agree: usize,
    reasons: BTreeMap<Reason, usize>,
    not_enforced: usize,
    unexplained: usize,
}

/// The list with each range of addresses cut at these first addresses, and without what a workload
/// sends to itself, which the published lists leave out.
fn expanded(list: &[Line], cuts: &BTreeSet<u32>) -> BTreeMap<(End, End), TrafficSet> {
    let cut = |end: &End| match *end {
        End::Workload(_) => vec![end.clone()],
        End::Outside(first, last) => {
            let inside = cuts.range(first..=last).copied().filter(|cut| *cut > first);
            let starts: Vec<u32> = [first].into_iter().chain(inside).collect();
            let ends = starts.iter().skip(1).map(|start| start - 1).chain([last]);
            starts.iter().zip(ends).map(|(first, last)| End::Outside(*first, last)).collect()
        }
    };
    let mut found: BTreeMap<(End, End), TrafficSet> = BTreeMap::new();
    for (source, destination, set) in list.iter().filter(|line| line.0 != line.1) {
        for source in cut(source) {
            for destination in cut(destination) {
                let known = found.entry((source.clone(), destination)).or_default();
                *known = known.union(set);
            }
        }
    }
    found.retain(|_, set| !set.is_nothing());
    found
}

/// This folder and those below it, as far as they have manifests: netpolc reads each by itself.
fn folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut has_manifests) = (Vec::new(), false);
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(folders(&path)?),
            false => has_manifests |= is_manifest(&path),
        }
    }
    if has_manifests {
        found.push(folder.into());
    }
    found.sort();
    Ok(found)
}

fn run(netpolc: &Path, arguments: &[&str], folders: &[PathBuf]) -> anyhow::Result<Output> {
    let mut command = Command::new(netpolc);
    command.args(arguments).args(["-o", "json"]);
    folders.iter().for_each(|folder| {
        command.arg("-f").arg(folder);
    });
    command.output().with_context(|| format!("{} cannot be run", netpolc.display()))
}

/// Does netpolc say that no policy applies to any pod of this workload?
fn is_not_policed(netpolc: &Path, name: &str, folders: &[PathBuf]) -> anyhow::Result<bool> {
    let out = run(netpolc, &["explain", name, "192.0.2.1:80"], folders)?;
    let stories: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let says = |story: &Value| {
        let reason = story["sides"][0]["reason"].as_str().unwrap_or_default();
        reason.contains("uses the network of its node") || reason.contains("the pod has ended")
    };
    Ok(!stories.is_empty() && stories.iter().all(says))
}

/// Compares one example, and prints what differs.
fn example(totals: &mut Totals, netpolc: &Path, folder: &Path, text: &str) -> anyhow::Result<()> {
    let folders = folders(folder)?;
    let out = run(netpolc, &["list"], &folders)?;
    let errors = String::from_utf8_lossy(&out.stderr);
    if has_admin_policies(&folders)? {
        ensure!(errors.contains("netpolc does not enforce them"), "AdminNetworkPolicies: silent");
        totals.not_enforced += 1;
        return Ok(());
    }
    let json = serde_json::from_slice(&out.stdout);
    let own = ours(&json.with_context(|| format!("netpolc has no answer: {errors}"))?)?;
    let known: BTreeSet<&End> = own.iter().flat_map(|line| [&line.0, &line.1]).collect();
    let mut theirs = List::new();
    totals.examples += 1;
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Exposure"));
    for line in lines.filter(|line| !line.is_empty()) {
        totals.lines += 1;
        let Some(((source, destination, set), has_name)) = published(line)? else {
            *totals.reasons.entry(Reason::Controller).or_default() += 1;
            continue;
        };
        let ends = [source, destination].map(|end| renamed(end, &known));
        let unknown = ends.iter().filter(|end| !known.contains(end));
        let mut unknown = unknown.filter(|end| matches!(end, End::Workload(_)));
        if unknown.any(|end| is_not_policed(netpolc, &end.to_string(), &folders).unwrap_or(false)) {
            *totals.reasons.entry(Reason::NotPoliced).or_default() += 1;
            continue;
        }
        if has_name == HasPortName::Yes {
            *totals.reasons.entry(Reason::PortName).or_default() += 1;
        }
        let [source, destination] = ends;
        theirs.push((source, destination, set));
    }
    let ends = theirs.iter().chain(&own).flat_map(|line| [&line.0, &line.1]);
    let cuts = ends.filter_map(|end| match *end {
        End::Workload(_) => None,
        End::Outside(first, last) => Some([Some(first), last.checked_add(1)]),
    });
    let cuts = cuts.flatten().flatten().collect();
    let [published, answered] = [&theirs, &own].map(|list| expanded(list, &cuts));
    for pair in published.keys().chain(answered.keys()).collect::<BTreeSet<_>>() {
        let nothing = TrafficSet::nothing();
        let [theirs, ours] = [&published, &answered].map(|l| l.get(pair).unwrap_or(&nothing));
        if theirs != ours {
            println!("  {} => {}: published {theirs}; netpolc {ours}", pair.0, pair.1);
            totals.unexplained += 1;
        }
    }
    let agrees = |line: &&Line| {
        let cut = expanded(std::slice::from_ref(*line), &cuts);
        cut.keys().all(|pair| published.get(pair) == answered.get(pair))
    };
    totals.agree += theirs.iter().filter(agrees).count();
    Ok(())
}

/// A ReplicaSet whose name ends with a hash is a Deployment to netpolc.
fn renamed(end: End, known: &BTreeSet<&End>) -> End {
    let End::Workload(name) = &end else { return end };
    let deployment = name.rsplit_once('-').map(|(name, _)| End::Workload(name.into()));
    match deployment {
        Some(deployment) if !known.contains(&end) && known.contains(&deployment) => deployment,
        _ => end,
    }
}

fn has_admin_policies(folders: &[PathBuf]) -> anyhow::Result<bool> {
    for folder in folders {
        for entry in fs::read_dir(folder)? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            if text.lines().any(|l| l.starts_with("kind: ") && l.ends_with("AdminNetworkPolicy")) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let checkout = arguments.next().context("name a checkout of netpol-analyzer")?;
    // Cargo puts this program into the folder `examples` beside the command.
    let beside = || Some(env::current_exe().ok()?.parent()?.parent()?.join("netpolc"));
    let netpolc = arguments.next().or_else(beside).context("name the netpolc command")?;
    let tests = checkout.join("tests");
    let folders = fs::read_dir(&tests).with_context(|| format!("{}", tests.display()))?;
    let folders =
        folders.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<BTreeSet<_>>>()?;
    let mut totals = Totals::default();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let list = |kind: &str| checkout.join(format!("test_outputs/connlist/{name}_{kind}.txt"));
        let lists = ["connlist_output", "exposure_output"].map(list);
        let Some(text) = lists.iter().find_map(|path| fs::read_to_string(path).ok()) else {
            continue;
        };
        println!("{name}");
        if let Err(error) = example(&mut totals, &netpolc, folder, &text) {
            println!("  {error:#}");
            totals.unexplained += 1;
        }
    }
    ensure!(totals.examples > 0, "{} has no published list", checkout.display());
    println!("{totals:#?}");
    Ok(if totals.unexplained == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
