//! What the pods of a list are put together under.
//!
//! Here: the choice ([`By`]), and a name for each pod ([`Names`]) that [`super::end`] reads back as
//! these pods. Not here: what may pass between them (`netpolc_analyze::unit`).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use netpolc_policy::{Cluster, ObjectKey, Phase, Pod};

/// How pods are put together in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The pods of a workload
    Workload,
    /// The pods of a namespace
    Namespace,
    /// Each pod by itself
    Pod,
}

/// The names that pods have in a list.
#[derive(Debug)]
pub struct Names {
    by: By,
    /// What workloads of several kinds, or a workload and a pod, are called.
    ambiguous: HashSet<ObjectKey>,
}

impl Names {
    /// Names for the pods of these clusters: a pod that is in several has one name.
    pub fn of<'a>(by: By, clusters: impl IntoIterator<Item = &'a Cluster>) -> Self {
        let mut ambiguous = HashSet::new();
        if by == By::Workload {
            let mut kinds: HashMap<(&str, &str), &str> = HashMap::new();
            let pods = clusters.into_iter().flat_map(|cluster| cluster.pods.values());
            for pod in pods.filter(|pod| pod.phase == Phase::Active) {
                let (kind, name) = workload(pod);
                let known = kinds.entry((&pod.key.namespace, name)).or_insert(kind);
                if *known != kind {
                    ambiguous.insert(ObjectKey::new(pod.key.namespace.clone(), name.clone()));
                }
            }
        }
        Self { by, ambiguous }
    }

    /// The name of what this pod belongs to: `shop/web`, or `deployment/shop/web` where a workload
    /// of another kind has the same name.
    pub fn name(&self, pod: &Pod) -> Arc<str> {
        match self.by {
            By::Namespace => pod.key.namespace.clone(),
            By::Pod => pod.key.to_string().into(),
            By::Workload => {
                let (kind, name) = workload(pod);
                let key = ObjectKey { namespace: pod.key.namespace.clone(), name: name.clone() };
                match self.ambiguous.contains(&key) {
                    true => format!("{}/{key}", kind.to_ascii_lowercase()).into(),
                    false => key.to_string().into(),
                }
            }
        }
    }
}

/// The kind and the name of the workload of a pod, which may be the pod itself.
fn workload(pod: &Pod) -> (&str, &Arc<str>) {
    match &pod.owner {
        Some(owner) => (owner.kind.name(), &owner.name),
        None => ("pod", &pod.key.name),
    }
}
