//! ClusterNetworkPolicies of one tier and priority that disagree, as the compiler finds them (S64).

use std::collections::{BTreeMap, BTreeSet};

use netpolc_analyze::lint::{Check, Finding, Object};
use netpolc_lower::{Diagnostic, Scope};
use netpolc_policy::{Cluster, Mode, SecurityGroups, TierKey};

/// A finding for each pair that disagrees about some packet.
pub(super) fn findings(cluster: &Cluster) -> Vec<Finding> {
    let mut places: BTreeMap<_, BTreeSet<&TierKey>> = BTreeMap::new();
    for policy in cluster.tiers.values().filter(|policy| policy.mode == Mode::Enforced) {
        places.entry((policy.tier, policy.priority)).or_default().insert(&policy.key);
    }
    places.retain(|_, policies| policies.len() > 1);
    if places.is_empty() {
        return Vec::new();
    }
    // What else the cluster has decides about no conflict within a priority. Policies of other
    // priorities stay, since what earlier ones decide cannot be disputed any more.
    let tiers = Cluster {
        policies: BTreeMap::new(),
        staged: BTreeMap::new(),
        security: SecurityGroups::default(),
        ..cluster.clone()
    };
    let compiler = match netpolc_lower::compile(&tiers, Scope::Everywhere) {
        Ok(compiler) => compiler,
        Err(overflow) => {
            return vec![finding(
                Check::NotChecked,
                Object::Input,
                format!("Whether policies of one priority disagree was not found out: {overflow}."),
                "Give the objects of fewer nodes at a time.",
            )];
        }
    };
    let diagnostics = compiler.diagnostics();
    let conflicts = diagnostics.into_iter().filter_map(|diagnostic| match diagnostic {
        Diagnostic::TierConflict { wins, loses, example } => Some((wins, loses, example)),
        _ => None,
    });
    let conflicts = conflicts.map(|(wins, loses, example)| {
        let what = format!(
            "The policy and ClusterNetworkPolicy {wins} have one priority and answer differently \
             for {example}: the answer of {wins} counts."
        );
        let object = Object::ClusterNetworkPolicy(TierKey::named(&loses));
        finding(Check::TierConflict, object, what, "Give them different priorities.")
    });
    conflicts.collect()
}

fn finding(check: Check, object: Object, what: String, change: &str) -> Finding {
    let field = if object == Object::Input { "" } else { "spec.priority" };
    let (severity, field, change) = (check.severity(), field.into(), change.into());
    Finding { check, severity, object, field, what, change }
}
