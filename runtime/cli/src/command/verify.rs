//! `netpolc verify`: proves that the tables say what the policies say. Not here: the comparison
//! (`netpolc_analyze::compare`), and the tables that are installed ([`installed`]).

pub mod installed;

use std::{io::Write, path::PathBuf};

use netpolc_analyze::{
    Analysis,
    compare::{Disagreement, compare},
    traffic,
};
use netpolc_kube_sync::Absent;
use netpolc_lower::Scope;
use netpolc_policy::{Direction, ObjectKey, Protocol};
use serde::Serialize;

use super::compile::{Admitted, admit};
use crate::{
    cli::{raw::Report, request::Input},
    input,
    output::{self, Outcome},
};

/// What is to be verified.
#[derive(Debug)]
pub struct Verify {
    /// The cluster whose policies are compiled.
    pub input: Input,
    /// The node whose pods are endpoints, or all nodes.
    pub scope: Scope,
    /// The directory of pins whose tables are verified; None for those that would be compiled.
    pub installed: Option<PathBuf>,
    /// How the result is shown.
    pub report: Report,
}

/// How many disagreements are shown.
const SHOWN: usize = 20;

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    /// How many pods are endpoints.
    pods: usize,
    /// How many answers were compared: of a pod, a direction and a class of addresses each, for
    /// every port.
    compared: usize,
    disagreements: Vec<Shown>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    what: String,
    /// The command that explains what the policies say.
    repeat: String,
}

/// Runs `netpolc verify`.
///
/// # Errors
/// There is nothing in the input, or it needs more ids than there are; and those of
/// [`installed::run`].
pub fn run(verify: &Verify) -> anyhow::Result<Outcome> {
    if let Some(pin_dir) = &verify.installed {
        return installed::run(verify, pin_dir);
    }
    let (survey, read) = input::read(&verify.input, Absent::MadeUp)?;
    let Admitted { cluster, compiler, outcome: aside } =
        admit(survey.loaded.cluster, &verify.scope)?;
    let endpoints: Vec<_> = compiler.endpoints().map(|(key, id)| (key.clone(), id)).collect();
    anyhow::ensure!(
        !endpoints.is_empty(),
        "no pod to which policies apply is {}, so there is nothing to verify",
        match &verify.scope {
            Scope::Everywhere => "in the input".to_owned(),
            Scope::Node(name) => format!("on node {name} in the input"),
        }
    );
    let mut analysis = Analysis::new(&cluster);
    let found = compare(&mut analysis, compiler.program(), &endpoints, SHOWN);
    let files = verify.input.files.iter().map(|file| format!("-f {}", file.display()));
    let cluster = verify.input.cluster.as_ref().map(|cluster| match &cluster.path {
        Some(path) => format!("--kubeconfig={}", path.display()),
        None => "--kubeconfig".to_owned(),
    });
    let files: Vec<String> = cluster.into_iter().chain(files).collect();
    let shown = found.disagreements.iter().map(|disagreement| Shown {
        what: disagreement.to_string(),
        repeat: repeat(disagreement, &files.join(" ")),
    });
    let verified = Verified {
        pods: endpoints.len(),
        compared: found.compared,
        disagreements: shown.collect(),
    };
    match verify.report.notation() {
        Some(notation) => output::print_data(&verified, notation)?,
        None => text(&verified)?,
    }
    let agreed = Outcome::of_problems(verified.disagreements.len());
    Ok(read.and(aside).and(agreed))
}

fn text(verified: &Verified) -> anyhow::Result<()> {
    let Verified { pods, compared, disagreements } = verified;
    let mut out = output::stdout();
    let sizes = format!("{compared} answers for {pods} pods, each for every port");
    match disagreements.is_empty() {
        true => writeln!(out, "Tables and policies agree: {sizes}.")?,
        false => writeln!(out, "Tables and policies disagree; compared were {sizes}.")?,
    }
    for Shown { what, repeat } in disagreements {
        writeln!(out, "  {what}\n    {repeat}")?;
    }
    if disagreements.len() == SHOWN {
        writeln!(out, "  There may be more; this list ends after {SHOWN}.")?;
    }
    out.flush()?;
    Ok(())
}

/// The command that explains what policies say of an example.
fn repeat(disagreement: &Disagreement, files: &str) -> String {
    let Disagreement { pod, direction, remote, only_tables, only_policies } = disagreement;
    let example = only_tables.example().or(only_policies.example());
    let (protocol, port) = example.unwrap_or((6, 80));
    let name = traffic::name(protocol).map(str::to_ascii_lowercase);
    let name = name.unwrap_or_else(|| format!("protocol-{protocol}"));
    let has_port = Protocol::from_number(protocol).is_some();
    let to = |end: String, is_v6: bool| match (has_port, is_v6) {
        (true, true) => format!("[{end}]:{port}/{name}"),
        (true, false) => format!("{end}:{port}/{name}"),
        (false, _) => format!("{end}/{name}"),
    };
    let ends = |pod: &ObjectKey| match direction {
        Direction::Egress => (pod.to_string(), to(remote.to_string(), remote.is_ipv6())),
        Direction::Ingress => (remote.to_string(), to(pod.to_string(), false)),
    };
    let (source, destination) = ends(pod);
    format!("netpolc explain {source} {destination} {files}")
}
