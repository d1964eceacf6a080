//! The kinds that are read only for whoever asks questions: workloads, and what is behind Services.
//! To an agent they are kinds without a meaning.

use super::{Complaint, Kind, classify, group, is_custom};
use crate::{
    gather::Purpose,
    problem::{Severity, excerpt},
    strict,
};

/// The kinds of groups that have workloads, each with the version in which it is read and whether
/// it is one.
const KINDS: [(&str, &str, Option<Kind>); 9] = [
    ("Deployment", "apps/v1", Some(Kind::Workload)),
    ("StatefulSet", "apps/v1", Some(Kind::Workload)),
    ("DaemonSet", "apps/v1", Some(Kind::Workload)),
    ("ReplicaSet", "apps/v1", Some(Kind::Workload)),
    ("ControllerRevision", "apps/v1", None),
    ("Job", "batch/v1", Some(Kind::Workload)),
    ("CronJob", "batch/v1", Some(Kind::Workload)),
    ("ReplicationController", "v1", Some(Kind::Workload)),
    ("EndpointSlice", "discovery.k8s.io/v1", Some(Kind::Slice)),
];

/// Former versions, whose objects have the fields that are read in the same places.
const FORMER: [&str; 6] = [
    "apps/v1beta1",
    "apps/v1beta2",
    "extensions/v1beta1",
    "batch/v1beta1",
    "batch/v2alpha1",
    "discovery.k8s.io/v1beta1",
];

/// Returns the kind that `kind` and `apiVersion` name for whoever reads with this purpose, and what
/// is wrong with them.
pub(crate) fn classify_for(
    purpose: Purpose,
    kind: &str,
    api_version: Option<&str>,
) -> (Kind, Option<Complaint>) {
    if purpose == Purpose::Enforce {
        return classify(kind, api_version);
    }
    if let Some(found) = asked(kind, api_version) {
        return found;
    }
    let item = kind.strip_suffix("List").filter(|item| asked(item, api_version).is_some());
    match item.and_then(|item| asked(item, api_version)) {
        Some((Kind::Ignored, None)) => (Kind::Ignored, None),
        Some((_, complaint)) => (Kind::List, complaint),
        None => classify(kind, api_version),
    }
}

/// What an object is that may be one of [`KINDS`]; None where it is something else.
fn asked(kind: &str, api_version: Option<&str>) -> Option<(Kind, Option<Complaint>)> {
    let of_workloads = |version: &str| matches!(group(version), "apps" | "batch");
    let Some((_, advised, known)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
        // In these groups every kind is known, so another one is a mistake.
        let version = api_version.filter(|version| of_workloads(version))?;
        if kind.ends_with("List") {
            return None;
        }
        let near = KINDS.iter().map(|(name, ..)| (strict::distance(kind, name), name)).min()?;
        let hint = if near.0 <= 3 { format!("; did you mean {}?", near.1) } else { String::new() };
        let message =
            format!("`{}` in `{}` is not a known kind{hint}", excerpt(kind), excerpt(version));
        return Some((Kind::Unknown, Some(Complaint::error("kind", message))));
    };
    let known = known.unwrap_or(Kind::Ignored);
    let field = "apiVersion";
    let complaint = match api_version {
        Some(version) if version == *advised => None,
        Some(version) if FORMER.contains(&version) => {
            let message = format!("{version} is read as {advised}; write that");
            Some(Complaint { field, severity: Severity::Warning, message })
        }
        Some(version) if is_custom(group(version)) => return Some((Kind::Ignored, None)),
        Some(version) => Some(Complaint::error(
            field,
            format!(
                "no API server has a {kind} in `{}`; it is read as {advised}; write that",
                excerpt(version)
            ),
        )),
        None => Some(Complaint::error(field, format!("the field is missing; write {advised}"))),
    };
    Some((known, complaint))
}
