//! Reads the objects on which a command works, from files or from a cluster, and reports what is
//! wrong with them and what they lack. Not here: the reading itself (`netpolc-kube-sync`).

use std::path::Path;

use anyhow::{Context, bail};
use netpolc_kube_sync::{
    Absent, Loaded, Missing, Severity, Survey, is_manifest, missing, survey,
    watch::{Access, survey_cluster},
};
use netpolc_policy::Cluster;

use crate::{
    cli::request::Input,
    output::{self, Outcome},
};

/// Reads what the arguments name: the cluster, files, directories, and `-` for standard input. What
/// is wrong with single objects is printed on standard error, one line each, and the rest applies;
/// then what is missing for true answers. The outcome is `Problems` where something is wrong.
///
/// # Errors
/// A path leads nowhere, a folder has no manifests, the cluster cannot be read, or there is no
/// object at all: nothing could be said that would be about the input.
pub fn read(input: &Input, absent: Absent) -> anyhow::Result<(Survey, Outcome)> {
    let survey = gather(input, absent)?;
    let refused = report(&survey.loaded);
    // What a cluster was asked for and does not have is not missing; it has no objects for groups
    // that nobody manages there.
    let whole = input.cluster.is_some();
    for missing in missing(&survey).into_iter().filter(|m| !whole || *m == Missing::Groups) {
        output::complain(format_args!("warning: {missing}"));
    }
    Ok((survey, refused))
}

/// The same for whoever reports by itself what is wrong.
///
/// # Errors
/// As [`read`].
pub fn gather(input: &Input, absent: Absent) -> anyhow::Result<Survey> {
    for path in input.files.iter().filter(|path| path.as_os_str() != "-") {
        check(path)?;
    }
    let files = input.files.iter().map(netpolc_kube_sync::Input::argument);
    let mut survey = match &input.cluster {
        Some(config) => survey_cluster(&Access::Kubeconfig(config.clone()), files, absent)
            .context("the cluster cannot be read")?,
        None => survey(files, absent),
    };
    if survey.loaded.cluster == Cluster::default() {
        // What could not be read may be why.
        report(&survey.loaded);
        bail!(
            "the input has no object that netpolc reads; give it policies and pods, such as the \
             output of `kubectl get ns,nodes,pods,svc,netpol -A -o yaml`"
        );
    }
    survey.loaded.cluster.by_default = input.by_default.clone();
    survey.loaded.cluster.security.enforcement = input.enforcement;
    Ok(survey)
}

/// Checks that a path may lead to objects: what is only mistyped is not an empty cluster.
fn check(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let found = path.metadata().with_context(|| format!("-f {shown} cannot be read"))?;
    if !found.is_dir() {
        return Ok(());
    }
    let entries = path.read_dir().with_context(|| format!("-f {shown} cannot be read"))?;
    if !entries.flatten().any(|entry| is_manifest(&entry.path()) && !entry.path().is_dir()) {
        bail!(
            "-f {shown} is a folder without a *.yaml, *.yml or *.json file; its subfolders are \
             not read, so name the one that has the files"
        );
    }
    Ok(())
}

/// Prints each problem as one line on standard error. Returns `Problems` if any of them is an
/// error.
pub fn report(loaded: &Loaded) -> Outcome {
    for problem in &loaded.problems {
        output::complain(problem.line());
    }
    Outcome::of_problems(loaded.problems.iter().filter(|p| p.severity == Severity::Error).count())
}
