//! Reads workloads (Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job and
//! CronJob): what the pods are that such an object makes. Like Pods they may carry anything else; a
//! template that cannot be read is an error with its field, and no pod stands for it.
//!
//! Not here: which of them stand for pods (`gather`), and those pods (`made_up`).

use std::{collections::btree_map::Entry, sync::Arc};

use netpolc_policy::{ObjectKey, Owner, OwnerKind, Pod};

use crate::{
    kind::Kind,
    lenient,
    metadata::{self, Metadata},
    owner::{self, Reference},
    problem::Path,
    repeated,
    source::Reader,
    tree::{Node, Value},
};

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// A pod of its template, under the workload's own key; it has no addresses and no node.
    pub pod: Pod,
    /// What has made the workload, where something has.
    pub parent: Option<Arc<Owner>>,
    /// Whether it has pods now: a Deployment keeps its former ReplicaSets, without pods.
    pub in_use: bool,
    /// The file and line where it stands.
    pub file: Arc<str>,
    pub line: u32,
}

/// The labels that a Job's pods get by its name (k8s.io/api batch/v1, JobNameLabel).
const JOB_NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Reads a workload of this kind, and gathers it.
pub(crate) fn read(reader: &mut Reader, node: &Node, kind: &OwnerKind) {
    reader.enter(kind.name(), &metadata::display_name(node));
    repeated::report(reader, node, &Path::Root);
    let about = Metadata::of(reader, node);
    let (Some(name), Some(namespace)) =
        (about.name(reader, Kind::Workload), about.namespace(reader))
    else {
        reader.lost = true;
        return;
    };
    let key = ObjectKey { namespace, name };
    reader.name(kind.name(), &key);
    let (root, mut at) = (Path::Root, node);
    let spec = root.field("spec");
    let job_template = spec.field("jobTemplate");
    let (job_spec, template);
    let mut steps = vec![("spec", &spec)];
    if *kind == OwnerKind::CronJob {
        job_spec = job_template.field("spec");
        template = job_spec.field("template");
        steps.extend([("jobTemplate", &job_template), ("spec", &job_spec)]);
    } else {
        template = spec.field("template");
    }
    let pod_spec = template.field("spec");
    steps.push(("template", &template));
    for (field, path) in steps {
        match step(reader, at, field, path) {
            Some(found) => at = found,
            None => return,
        }
    }
    if step(reader, at, "spec", &pod_spec).is_none() {
        return;
    }
    let owner = reader.interner.owner(kind.clone(), &key.name);
    let mut pod = lenient::pod(reader, key.clone(), at, &template);
    (pod.uid, pod.addresses, pod.node) = (None, Vec::new(), None);
    pod.owner = Some(owner.clone());
    if *kind == OwnerKind::Job {
        let own = pod.labels.iter().map(|(key, value)| (&**key, &**value));
        let names = JOB_NAMES.map(|label| (label, &*key.name));
        pod.labels = reader.interner.labels(own.chain(names).collect::<Vec<_>>());
    }
    let reference = owner::reference(node.get("metadata"));
    let replicas = node.get("spec").and_then(|spec| spec.get("replicas")).map(|node| &node.value);
    let workload = Workload {
        pod,
        parent: reference.and_then(|found| parent(reader, kind, found)),
        in_use: !matches!(replicas, Some(Value::Number(number)) if *number == "0"),
        file: reader.source.name.clone(),
        line: reader.source.line(node.at as usize),
    };
    keep(reader, node, (key.namespace, owner.as_ref().clone()), workload);
}

/// What has made the workload, as far as its pods belong to that: the ReplicaSets of a Deployment,
/// or of another engine's kind, are versions of one workload, and so are the Jobs of a CronJob.
/// What else owns a workload may own several different ones.
fn parent(reader: &mut Reader, kind: &OwnerKind, found: Reference) -> Option<Arc<Owner>> {
    let parent = owner::of(reader.interner, found, None)?;
    let versions = match kind {
        OwnerKind::ReplicaSet => true,
        OwnerKind::Job => parent.kind == OwnerKind::CronJob,
        _ => false,
    };
    versions.then_some(parent)
}

/// The object in `field` of `node`; None, with a report, where there is none.
fn step<'n, 't>(
    reader: &mut Reader,
    node: &'n Node<'t>,
    field: &str,
    path: &Path,
) -> Option<&'n Node<'t>> {
    match node.get(field) {
        Some(found) => lenient::map(reader, Some(found), path),
        None => {
            let message = "the field is required but missing, so it is not known what pods this \
                object makes, and none stands for it";
            reader.error(node.at, path, message);
            None
        }
    }
}

/// Gathers the workload. Of two of one name the first counts.
fn keep(reader: &mut Reader, node: &Node, key: (Arc<str>, Owner), workload: Workload) {
    let Some(gathered) = reader.gathered.as_deref_mut() else { return };
    let before = match gathered.workloads.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert(workload);
            return;
        }
        Entry::Occupied(before) => before.into_mut(),
    };
    let first = format!("{}:{}", before.file, before.line);
    let same = before.pod == workload.pod;
    if same {
        let message = format!("this object is already given at {first}; remove one");
        reader.warning(node.at, &Path::Root, message);
    } else {
        let message =
            format!("this object contradicts the one at {first}, which is kept; remove one");
        reader.error(node.at, &Path::Root, message);
    }
}
