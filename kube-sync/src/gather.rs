//! What is gathered beside the cluster for whoever answers questions about it: workloads, what is
//! behind Services, and where fields stand. An agent asks for none of it and pays for none of it:
//! it enforces what exists.
//!
//! Not here: the reading (`workload`, `service`, `slice`, `lines`), and the pods that workloads
//! stand for (`made_up`).

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
};

use netpolc_policy::{Cluster, Frontend, Frontends, ObjectKey, Owner, OwnerKind, frontend::Slice};

use crate::{
    ObjectId,
    intern::Interner,
    lines::{Lines, ObjectLines},
    owner,
    workload::Workload,
};

/// Why an input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What is read is enforced.
    Enforce,
    /// What is read answers questions.
    Answer,
}

/// A workload's namespace, kind and name.
pub(crate) type WorkloadKey = (Arc<str>, Owner);

/// The same, as pods have it.
type SharedKey = (Arc<str>, Arc<Owner>);

/// What objects say that lint need not report of them: ids of checks, as they are written.
pub type LintAllow = BTreeMap<ObjectId, Vec<Arc<str>>>;

/// What was gathered so far.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Workloads, in the order of namespaces, kinds and names.
    pub workloads: BTreeMap<WorkloadKey, Workload>,
    pub frontends: Frontends,
    /// EndpointSlices by their own key, each with the name of its Service.
    pub slices: BTreeMap<ObjectKey, (Arc<str>, Slice)>,
    pub lines: Lines,
    pub lint_allow: LintAllow,
    /// What belongs to the object that is being read, until it is known whether that counts.
    pub pending: Pending,
}

/// What belongs to one object.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub frontend: Option<Frontend>,
    pub lines: Option<ObjectLines>,
    pub lint_allow: Vec<Arc<str>>,
}

impl Gathered {
    /// Keeps what belongs to the object that was read last, which is part of the cluster as `id`.
    pub fn keep(&mut self, id: &ObjectId, pending: Pending) {
        let Pending { frontend, lines, lint_allow } = pending;
        if !lint_allow.is_empty() {
            self.lint_allow.insert(id.clone(), lint_allow);
        }
        if let Some(frontend) = frontend {
            self.frontends.insert(id.key.clone(), frontend);
        }
        if let Some(lines) = lines {
            self.lines.insert(id.clone(), lines);
        }
    }

    /// Gives the Services their EndpointSlices. A slice of a Service that is not in the input says
    /// nothing that could be asked for.
    pub fn join_slices(&mut self) {
        for (key, (service, slice)) in std::mem::take(&mut self.slices) {
            let service = ObjectKey { namespace: key.namespace, name: service };
            if let Some(frontend) = self.frontends.get_mut(&service) {
                frontend.slices.push(slice);
            }
        }
    }

    /// The workload that stands at the end of the chain from `owner`, as far as the input tells:
    /// from a ReplicaSet to its Deployment, and from a Job to its CronJob.
    fn above(&self, namespace: &Arc<str>, owner: &Owner) -> Option<Owner> {
        let workload = self.workloads.get(&(namespace.clone(), owner.clone()));
        if let Some(parent) = workload.and_then(|workload| workload.parent.as_ref()) {
            return Some(parent.as_ref().clone());
        }
        if owner.kind != OwnerKind::Job || workload.is_some() {
            return None;
        }
        let name = owner::cron_job(&owner.name)?.into();
        let cron = Owner { kind: OwnerKind::CronJob, name };
        self.workloads.contains_key(&(namespace.clone(), cron.clone())).then_some(cron)
    }

    /// Resolves the owners of all pods of `cluster`, each distinct one once.
    pub fn resolve_owners(&self, cluster: &mut Cluster, interner: &mut Interner) {
        let mut known: HashMap<SharedKey, Option<Arc<Owner>>> = HashMap::new();
        for pod in cluster.pods.values_mut() {
            let Some(owner) = &mut pod.owner else { continue };
            let key = (pod.key.namespace.clone(), owner.clone());
            let above = known.entry(key).or_insert_with_key(|(namespace, owner)| {
                let above = self.above(namespace, owner)?;
                Some(interner.owner(above.kind, &above.name))
            });
            if let Some(above) = above {
                *owner = above.clone();
            }
        }
    }

    /// The workloads that stand for pods: of those that one Deployment or CronJob has made, only
    /// the Deployment or CronJob itself, or where that is not in the input the one that is in use.
    pub fn standing(&self) -> BTreeMap<WorkloadKey, &Workload> {
        let mut standing: BTreeMap<WorkloadKey, (bool, &Workload)> = BTreeMap::new();
        for ((namespace, owner), workload) in &self.workloads {
            let top = self.above(namespace, owner);
            let itself = top.is_none();
            let rank = itself || workload.in_use;
            match standing.entry((namespace.clone(), top.unwrap_or_else(|| owner.clone()))) {
                Entry::Vacant(vacant) => drop(vacant.insert((rank, workload))),
                Entry::Occupied(mut before) if itself || rank && !before.get().0 => {
                    before.insert((rank, workload));
                }
                Entry::Occupied(_) => {}
            }
        }
        standing.into_iter().map(|(key, (_, workload))| (key, workload)).collect()
    }
}
