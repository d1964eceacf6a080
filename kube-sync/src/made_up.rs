//! Makes up what manifests do not say: manifests in git have workloads and no pods, and their pods
//! have no addresses. For whoever asks questions, a pod stands for each workload that the input has
//! no pods of, and pods without addresses get some. Nothing here reaches an agent, which enforces
//! what exists.
//!
//! Not here: the reading of workloads (`workload`), and the ranges of addresses (`range`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use netpolc_policy::{Cluster, ObjectKey, Owner, OwnerKind, Phase, Pod, PodNetwork};

use crate::{
    Problem, Severity,
    gather::Gathered,
    intern::Interner,
    place::Places,
    range::{self, Range},
};

/// What of a pod is not in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MadeUp {
    /// The pod itself: it stands for a workload.
    Pod,
    /// Its addresses alone.
    Addresses,
}

/// What was made up, by pod.
pub type MadeUpPods = BTreeMap<ObjectKey, MadeUp>;

/// Adds pods for workloads to `cluster`, and addresses to pods that have none.
pub(crate) fn add(
    cluster: &mut Cluster,
    gathered: &Gathered,
    places: &Places,
    interner: &mut Interner,
    problems: &mut Vec<Problem>,
) -> MadeUpPods {
    let mut made_up = MadeUpPods::new();
    for pod in pods(cluster, gathered, interner) {
        made_up.insert(pod.key.clone(), MadeUp::Pod);
        cluster.pods.insert(pod.key.clone(), pod);
    }
    let wanting = |pod: &Pod| {
        pod.addresses.is_empty() && pod.phase == Phase::Active && pod.network == PodNetwork::Own
    };
    let count = cluster.pods.values().filter(|pod| wanting(pod)).count();
    if count == 0 {
        return made_up;
    }
    let ranges = range::choose(cluster, &gathered.frontends, count);
    if let [None, _] | [_, None] = &ranges {
        let message = format!(
            "{count} pods have no address, and there is no range of addresses for them that \
            nothing in the input uses; give fewer objects at a time"
        );
        problems.push(problem(None, message, Severity::Error));
    }
    for Range { network, inside } in ranges.iter().flatten() {
        let Some((whose, cidr)) = inside else { continue };
        let message = format!(
            "pods without addresses get some of {network}, which its block {cidr} is about, since \
            every range is in some block; what it permits or denies may differ in the cluster"
        );
        let place = places.get(whose).map(|place| (place.file.clone(), place.line));
        problems.push(problem(place, format!("{whose}: {message}"), Severity::Warning));
    }
    let wanting = cluster.pods.values_mut().filter(|pod| wanting(pod));
    for (index, pod) in wanting.enumerate() {
        let ranges = ranges.iter().flatten();
        pod.addresses = ranges.map(|range| range::address(range.network, index)).collect();
        made_up.entry(pod.key.clone()).or_insert(MadeUp::Addresses);
    }
    made_up
}

fn problem(place: Option<(Arc<str>, u32)>, message: String, severity: Severity) -> Problem {
    let (file, line) = place.map_or(("the input".into(), None), |(file, line)| (file, Some(line)));
    Problem { file, line, document: None, object: None, field: None, message, severity }
}

/// A pod for each workload of which the cluster has none; one on each node for a DaemonSet.
fn pods(cluster: &Cluster, gathered: &Gathered, interner: &mut Interner) -> Vec<Pod> {
    let owned = cluster.pods.values().filter_map(|pod| {
        let owner = pod.owner.as_deref()?;
        Some((&pod.key.namespace, owner))
    });
    let owned: HashSet<(&Arc<str>, &Owner)> = owned.collect();
    let mut names: HashSet<ObjectKey> = HashSet::new();
    let mut made = Vec::new();
    for ((namespace, owner), workload) in gathered.standing() {
        if owned.contains(&(&namespace, &owner)) {
            continue;
        }
        let shared = interner.owner(owner.kind.clone(), &owner.name);
        let mut make = |name: &str, node: Option<&Arc<str>>| {
            let key = free(cluster, &mut names, &namespace, name, &owner);
            let (owner, node) = (Some(shared.clone()), node.cloned());
            made.push(Pod { key, owner, node, ..workload.pod.clone() });
        };
        if owner.kind == OwnerKind::DaemonSet && !cluster.nodes.is_empty() {
            for node in cluster.nodes.keys() {
                make(&format!("{}-{node}", owner.name), Some(node));
            }
        } else {
            make(&owner.name, None);
        }
    }
    made
}

/// A name that no pod has: the wanted one, or else one with the workload's kind, and a number.
fn free(
    cluster: &Cluster,
    names: &mut HashSet<ObjectKey>,
    namespace: &Arc<str>,
    wanted: &str,
    owner: &Owner,
) -> ObjectKey {
    let kind = owner.kind.name().to_lowercase();
    let first = [wanted.to_owned(), format!("{wanted}.{kind}")];
    let further = (2..).map(|number: usize| format!("{wanted}.{kind}-{number}"));
    let keys = first.into_iter().chain(further);
    let mut keys = keys.map(|name| ObjectKey::new(namespace.clone(), name));
    // There are more names than pods, so one of them is free.
    let key = keys.find(|key| !cluster.pods.contains_key(key) && !names.contains(key));
    let key = key.unwrap_or_else(|| ObjectKey::new(namespace.clone(), wanted));
    names.insert(key.clone());
    key
}
