//! Findings with the places where they stand, without those that are allowed: what every format
//! prints.

use std::{collections::BTreeSet, sync::Arc};

use netpolc_analyze::lint::{Check, Finding, Object, Severity};
use netpolc_kube_sync::{ObjectId, ObjectKind, Survey};
use netpolc_policy::{Cluster, ObjectKey};
use serde::Serialize;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// By file and line; those without a place come first.
    pub findings: Vec<Located>,
    /// How many findings are left out, because they are allowed.
    pub allowed: usize,
}

/// A finding with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Located {
    /// The input, or the file in a folder that was given; None where the finding is about nothing
    /// that stands in a file.
    pub file: Option<String>,
    /// The line in the file, from 1.
    pub line: Option<u32>,
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it.
    pub check: Check,
    /// The kind and name of the object; None for the input as a whole.
    pub object: Option<String>,
    /// The field of the object; None for the whole object.
    pub field: Option<String>,
    /// A sentence that says what is wrong.
    pub message: String,
    /// A sentence that says what to write instead.
    pub change: String,
}

impl Report {
    /// The findings of the checks, with their places.
    pub fn of(found: Vec<Finding>, survey: &Survey, allow: &BTreeSet<Check>) -> Self {
        let mut report = Self::default();
        for finding in found {
            match is_allowed(&finding, survey, allow) {
                true => report.allowed += 1,
                false => report.findings.push(located(finding, survey)),
            }
        }
        report
    }

    /// Adds findings that have their places.
    pub fn add(&mut self, found: Vec<Located>, allow: &BTreeSet<Check>) {
        let before = self.findings.len();
        let all = found.len();
        self.findings.extend(found.into_iter().filter(|it| !allow.contains(&it.check)));
        self.allowed += all - (self.findings.len() - before);
    }

    /// Puts the findings into their order.
    pub fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            let key = |it: &Located| (it.file.clone(), it.line, std::cmp::Reverse(it.severity));
            key(a).cmp(&key(b)).then_with(|| a.cmp(b))
        });
    }

    /// How many findings there are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|it| it.severity == severity).count()
    }
}

/// Does the command line allow the finding, or the object that it is about?
fn is_allowed(finding: &Finding, survey: &Survey, allow: &BTreeSet<Check>) -> bool {
    let by_object = |id: &ObjectId| {
        let ids = survey.lint_allow.get(id);
        ids.is_some_and(|ids| ids.iter().any(|id| **id == *finding.check.id()))
    };
    allow.contains(&finding.check) || object_id(&finding.object).as_ref().is_some_and(by_object)
}

/// Which object of the input a finding is about; None for the input as a whole.
fn object_id(object: &Object) -> Option<ObjectId> {
    let unscoped = |name: Arc<str>| ObjectKey::new("", name);
    let (kind, key) = match object {
        Object::NetworkPolicy(key) => (ObjectKind::Policy, key.clone()),
        Object::StagedPolicy(key) => (ObjectKind::Staged, key.clone()),
        Object::ClusterNetworkPolicy(key) => {
            (ObjectKind::Tier(key.api), unscoped(key.name.clone()))
        }
        Object::SecurityGroupPolicy(key) => (ObjectKind::GroupPolicy, key.clone()),
        Object::SecurityGroup(id) => (ObjectKind::Group, unscoped(id.as_str().into())),
        Object::Namespace(name) => (ObjectKind::Namespace, unscoped(name.clone())),
        Object::Input => return None,
    };
    Some(ObjectId { kind, key })
}

fn located(finding: Finding, survey: &Survey) -> Located {
    let place = place(&finding, survey);
    let (file, line) = place.map_or((None, None), |(file, line)| (Some(file), line));
    let Finding { check, severity, object, field, what, change } = finding;
    let object = (object != Object::Input).then(|| object.to_string());
    let field = Some(field).filter(|field| !field.is_empty());
    Located { file, line, severity, check, object, field, message: what, change }
}

/// Where the field of the finding stands, or else its object, or else something that belongs to it.
fn place(finding: &Finding, survey: &Survey) -> Option<(String, Option<u32>)> {
    let id = object_id(&finding.object)?;
    if let Some(line) = survey.lines.field(&id, &finding.field) {
        return Some((line.file.to_owned(), line.number));
    }
    let place = survey.loaded.places.get(&id);
    let place = place.or_else(|| match &finding.object {
        Object::Namespace(name) => in_namespace(&survey.loaded.cluster, name, survey),
        _ => None,
    })?;
    Some((place.file.to_string(), Some(place.line)))
}

/// The first object of a namespace that is not declared.
fn in_namespace<'s>(
    cluster: &Cluster,
    name: &Arc<str>,
    survey: &'s Survey,
) -> Option<&'s netpolc_kube_sync::Place> {
    let pods = cluster.pods_of(name).map(|pod| (ObjectKind::Pod, pod.key.clone()));
    let policies = cluster.policies.keys().filter(|key| key.namespace == *name);
    let policies = policies.map(|key| (ObjectKind::Policy, key.clone()));
    let mut ids = pods.chain(policies).map(|(kind, key)| ObjectId { kind, key });
    ids.find_map(|id| survey.loaded.places.get(&id))
}

/// What objects allow that no check is called.
pub(super) fn unknown_ids(survey: &Survey) -> Vec<Located> {
    let mut found = Vec::new();
    for (object, ids) in &survey.lint_allow {
        for id in ids.iter().filter(|id| Check::with_id(id).is_none()) {
            let place = survey.loaded.places.get(object);
            found.push(Located {
                file: place.map(|place| place.file.to_string()),
                line: place.map(|place| place.line),
                severity: Severity::Warning,
                check: Check::Doubtful,
                object: Some(object.to_string()),
                field: Some("metadata.annotations".into()),
                message: format!(
                    "The annotation netpolc.io/lint-allow names {id:?}, which no \
                                  check is called."
                ),
                change: "Write the id of a check, as it stands in brackets behind a finding."
                    .into(),
            });
        }
    }
    found
}
