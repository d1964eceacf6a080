//! Finds the workload that a pod belongs to, in its ownerReferences. No verdict depends on it, so
//! what is unreadable here is nobody's mistake. Not here: workloads as objects (`workload`).

use std::sync::Arc;

use netpolc_policy::{Owner, OwnerKind};

use crate::{intern::Interner, tree::Node, tree::Value};

/// The label by which a Deployment tells the pods of its ReplicaSets apart: the name of a
/// ReplicaSet ends with it (k8s.io/api apps/v1, DefaultDeploymentUniqueLabelKey).
pub(crate) const HASH: &str = "pod-template-hash";

/// How many digits at least end the name of a CronJob's Job: its time, in minutes.
const MIN_TIME_DIGITS: usize = 8;

/// One entry of ownerReferences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference<'t> {
    pub api_version: Option<&'t str>,
    pub kind: &'t str,
    pub name: &'t str,
}

/// The workload that `reference` leads to, as far as the pod itself tells it. A ReplicaSet is its
/// Deployment's where its name ends with the pod's [`HASH`]. The Node of a static pod is none: what
/// its pods have in common is only where they run.
pub(crate) fn of(
    interner: &mut Interner,
    reference: Reference,
    hash: Option<&str>,
) -> Option<Arc<Owner>> {
    if reference.name.is_empty() || reference.kind.is_empty() {
        return None;
    }
    if (reference.api_version, reference.kind) == (Some("v1"), "Node") {
        return None;
    }
    let kind = kind(reference);
    if kind == OwnerKind::ReplicaSet
        && let Some(name) = hash.and_then(|hash| deployment(reference.name, hash))
    {
        return Some(interner.owner(OwnerKind::Deployment, name));
    }
    Some(interner.owner(kind, reference.name))
}

fn kind(reference: Reference) -> OwnerKind {
    let group = reference.api_version.map(|version| version.split('/').next().unwrap_or_default());
    match group {
        None | Some("v1" | "apps" | "batch" | "extensions") => OwnerKind::named(reference.kind),
        Some(_) => OwnerKind::Other(reference.kind.into()),
    }
}

/// The name of the Deployment that has made the ReplicaSet `name` of pods with this hash.
fn deployment<'n>(name: &'n str, hash: &str) -> Option<&'n str> {
    let name = name.strip_suffix(hash)?.strip_suffix('-')?;
    (!name.is_empty() && !hash.is_empty()).then_some(name)
}

/// The name of the CronJob that may have made the Job `name`.
pub fn cron_job(name: &str) -> Option<&str> {
    let (cron, time) = name.rsplit_once('-')?;
    let is_time = time.len() >= MIN_TIME_DIGITS && time.bytes().all(|b| b.is_ascii_digit());
    (is_time && !cron.is_empty()).then_some(cron)
}

/// The entry of an object's ownerReferences that controls it.
pub(crate) fn reference<'n>(metadata: Option<&'n Node>) -> Option<Reference<'n>> {
    let Value::List(list) = &metadata?.get("ownerReferences")?.value else { return None };
    let controls = |node: &&Node| {
        matches!(node.get("controller"), Some(Node { value: Value::Bool(true), .. }))
    };
    let found = list.iter().find(controls)?;
    Some(Reference {
        api_version: found.text("apiVersion"),
        kind: found.text("kind")?,
        name: found.text("name")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_has_made_a_replica_set_or_a_job() {
        assert_eq!(deployment("web-7d4b9c", "7d4b9c"), Some("web"));
        assert_eq!(deployment("web-7d4b9c", "other"), None);
        assert_eq!(deployment("web", ""), None);
        assert_eq!(cron_job("backup-29345678"), Some("backup"));
        assert_eq!(cron_job("backup-1"), None);
        assert_eq!(cron_job("-29345678"), None);
    }

    #[test]
    fn a_node_is_no_workload_of_its_static_pods() {
        let mut interner = Interner::default();
        let node = Reference { api_version: Some("v1"), kind: "Node", name: "n1" };
        assert_eq!(of(&mut interner, node, None), None);
    }

    #[test]
    fn a_kind_of_another_engine_keeps_its_name() {
        let mut interner = Interner::default();
        let of = |interner: &mut Interner, version, kind| {
            let reference = Reference { api_version: Some(version), kind, name: "a-1" };
            of(interner, reference, Some("1")).map(|owner| owner.to_string())
        };
        assert_eq!(of(&mut interner, "apps/v1", "ReplicaSet").as_deref(), Some("Deployment a"));
        let other = of(&mut interner, "example.com/v1", "ReplicaSet");
        assert_eq!(other.as_deref(), Some("ReplicaSet a-1"));
        let other = of(&mut interner, "example.com/v1", "Node");
        assert_eq!(other.as_deref(), Some("Node a-1"));
    }
}
