//! What would hold if every policy that is only tried were enforced (S84, S85).
//!
//! Here: the cluster as it would be then. Not here: what becomes of the difference (whoever judges
//! both).

use std::collections::BTreeMap;

use crate::{Cluster, Mode, ObjectKey, Policy, Staged, TierPolicy};

/// The cluster in which what is only tried is enforced; None where nothing is tried.
///
/// A StagedKubernetesNetworkPolicy takes the place of the NetworkPolicy of its name, or takes it
/// away.
pub fn shadow(cluster: &Cluster) -> Option<Cluster> {
    let tried = |mode: Mode| mode == Mode::Audited;
    let policies = cluster.policies.values().any(|policy| tried(policy.mode));
    let tiers = cluster.tiers.values().any(|policy| tried(policy.mode));
    if !policies && !tiers && cluster.staged.is_empty() {
        return None;
    }
    let mut shadow = cluster.clone();
    shadow.policies.values_mut().for_each(|policy| policy.mode = Mode::Enforced);
    shadow.tiers.values_mut().for_each(|policy| policy.mode = Mode::Enforced);
    for (key, staged) in std::mem::take(&mut shadow.staged) {
        stage(&mut shadow.policies, key, staged);
    }
    Some(shadow)
}

/// The cluster without everything that is only tried: what is enforced.
pub fn enforced(cluster: &Cluster) -> Cluster {
    let mut enforced = cluster.clone();
    enforced.policies.retain(|_, policy| policy.mode == Mode::Enforced);
    enforced.tiers.retain(|_, policy| policy.mode == Mode::Enforced);
    enforced.staged.clear();
    enforced
}

fn stage(policies: &mut BTreeMap<ObjectKey, Policy>, key: ObjectKey, staged: Staged) {
    match staged {
        Staged::Set(policy) => {
            policies.insert(key, Policy { mode: Mode::Enforced, ..policy });
        }
        Staged::Delete => drop(policies.remove(&key)),
    }
}

/// The policies that are only tried, as users name them, in order.
pub fn tried(cluster: &Cluster) -> Vec<String> {
    let is_tried = |mode: Mode| mode == Mode::Audited;
    let policies = cluster.policies.values().filter(|policy| is_tried(policy.mode));
    let policies = policies.map(|policy| format!("NetworkPolicy {}", policy.key));
    let tiers = cluster.tiers.values().filter(|policy: &&TierPolicy| is_tried(policy.mode));
    let tiers = tiers.map(|policy| format!("ClusterNetworkPolicy {}", policy.key));
    let staged = cluster.staged.keys().map(|key| format!("StagedKubernetesNetworkPolicy {key}"));
    policies.chain(tiers).chain(staged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isolation, Selector};

    fn policy(name: &str, mode: Mode) -> Policy {
        Policy {
            key: ObjectKey::new("shop", name),
            selector: Selector::default(),
            ingress: Isolation::Isolated(vec![]),
            egress: Isolation::Open,
            mode,
        }
    }

    #[test]
    fn s85_what_is_tried_is_enforced_in_the_shadow_alone() {
        let mut cluster = Cluster::default();
        assert_eq!(shadow(&cluster), None);
        for (name, mode) in [("kept", Mode::Enforced), ("tried", Mode::Audited)] {
            let policy = policy(name, mode);
            cluster.policies.insert(policy.key.clone(), policy);
        }
        let replaced = policy("kept", Mode::Enforced);
        let replaced = Policy { egress: Isolation::Isolated(vec![]), ..replaced };
        cluster.staged.insert(replaced.key.clone(), Staged::Set(replaced.clone()));
        cluster.staged.insert(ObjectKey::new("shop", "tried"), Staged::Delete);
        let shadow = shadow(&cluster).unwrap();
        assert_eq!(shadow.policies.into_values().collect::<Vec<_>>(), [replaced]);
        assert_eq!(tried(&cluster).len(), 3);
    }
}
