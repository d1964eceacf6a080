//! Finds which policies a node's tables come from, and how many pods and entries each has, from the
//! origins of the entries; and how many others are only tried here.
//!
//! Not here: what the policies say, and what is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_kube_sync::{PolicyKind, PolicyState};
use netpolc_lower::Compiler;
use netpolc_policy::{Cluster, Mode, ObjectKey, Pod, Policy, Staged, TierPolicy};
use netpolc_table::{
    Origin, SetId, TableId, eval,
    schema::{BaseKey, Word},
};

/// The tables that hold the entries of policy sets.
const TABLES: [TableId; 3] = [TableId::Base, TableId::Row, TableId::Verdict];

/// A policy's name, which sorts first, and what kind of object it is.
type Named<'p> = (&'p Arc<str>, PolicyKind);

/// The policies and security groups that decide about a local pod, in order of their names, with
/// their pods and entries.
pub fn policy_status(compiler: &Compiler) -> Vec<PolicyState> {
    let program = compiler.program();
    let mut isolating: BTreeMap<SetId, BTreeSet<Named>> = BTreeMap::new();
    let mut states: BTreeMap<Named, PolicyState> = BTreeMap::new();
    for table in TABLES {
        for (key, entry) in &program.table(table).entries {
            let mut named = BTreeSet::new();
            for origin in entry.origins.as_slice() {
                let (policy, decides) = match origin {
                    Origin::Isolates { policy } => ((policy, PolicyKind::NetworkPolicy), true),
                    Origin::Rule { policy, .. } => ((policy, PolicyKind::NetworkPolicy), false),
                    // Tiers and groups isolate nothing by themselves; they count for the pods of
                    // each set in which one of their rules decides.
                    Origin::Tier { policy, .. } => {
                        ((policy, PolicyKind::ClusterNetworkPolicy), table != TableId::Verdict)
                    }
                    Origin::Group { group, .. } => {
                        ((group, PolicyKind::SecurityGroup), table != TableId::Verdict)
                    }
                    _ => continue,
                };
                named.insert(policy);
                if decides {
                    isolating.entry(BaseKey::of(key).set).or_default().insert(policy);
                }
            }
            for policy in named {
                states.entry(policy).or_default().entries += 1;
            }
        }
    }
    for (_, endpoint) in compiler.endpoints() {
        let word = eval::word(program, endpoint);
        let sets = [(Word::INGRESS, word.ingress_set), (Word::EGRESS, word.egress_set)];
        let sets = sets.into_iter().filter(|(flag, _)| word.flags & flag != 0);
        let policies: BTreeSet<Named> =
            sets.filter_map(|(_, set)| isolating.get(&set)).flatten().copied().collect();
        for policy in policies {
            states.entry(policy).or_default().pods += 1;
        }
    }
    let named = states.into_iter().filter(|(_, state)| state.pods > 0);
    let state = |((policy, kind), state): (Named, PolicyState)| PolicyState {
        policy: policy.to_string(),
        kind,
        ..state
    };
    named.map(state).collect()
}

/// How many policies that are only tried (S84) are about one of these pods. No table shows them,
/// so their selectors are asked.
pub fn audited(cluster: &Cluster, pods: &BTreeSet<ObjectKey>) -> usize {
    let pods: Vec<&Pod> = pods.iter().filter_map(|key| cluster.pods.get(key)).collect();
    let selects = |policy: &Policy| {
        let mut here = pods.iter().filter(|pod| pod.key.namespace == policy.key.namespace);
        here.any(|pod| policy.selector.matches(&pod.labels))
    };
    let is_about = |policy: &TierPolicy| pods.iter().any(|pod| policy.is_about(cluster, pod));
    let policies = cluster.policies.values().filter(|p| p.mode == Mode::Audited && selects(p));
    let tiers = cluster.tiers.values().filter(|p| p.mode == Mode::Audited && is_about(p));
    let staged = cluster.staged.iter().filter(|(key, staged)| match staged {
        // It may also select other pods than the policy whose place it would take.
        Staged::Set(policy) => selects(policy) || cluster.policies.get(*key).is_some_and(selects),
        Staged::Delete => cluster.policies.get(*key).is_some_and(selects),
    });
    policies.count() + tiers.count() + staged.count()
}

#[cfg(test)]
mod tests {
    use netpolc_kube_sync::{Input, load};

    use super::*;

    /// S84: what is only tried counts on the nodes whose pods it is about.
    #[test]
    fn s84_what_is_only_tried_counts_where_its_pods_are() {
        let text = r#"
kind: Pod
apiVersion: v1
metadata: {name: web, namespace: shop, labels: {app: web}}
---
kind: Pod
apiVersion: v1
metadata: {name: db, namespace: shop, labels: {app: db}}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: held, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: tried, namespace: shop, annotations: {netpolc.io/mode: audit}}
spec: {podSelector: {matchLabels: {app: web}}}
---
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: {name: tried, annotations: {netpolc.io/mode: audit}}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}
---
kind: StagedKubernetesNetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: held, namespace: shop}
spec: {stagedAction: Delete}
"#;
        let loaded = load([Input::Bytes { name: "test".into(), bytes: text.into() }]);
        assert_eq!(loaded.problems, []);
        let on = |pods: &[&str]| {
            let pods = pods.iter().map(|name| ObjectKey::new("shop", *name)).collect();
            audited(&loaded.cluster, &pods)
        };
        assert_eq!((on(&[]), on(&["web"]), on(&["db"]), on(&["web", "db"])), (0, 2, 2, 3));
    }
}
