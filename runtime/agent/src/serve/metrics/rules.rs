//! Which rules there are: those of a cluster, and those of the policies that decide on this node.
//!
//! Not here: how often they decide ([`super::flows`]).

use std::sync::Arc;

use netpolc_flow::{Decider, Kind, Verdict};
use netpolc_kube_sync::{PolicyKind, PolicyState};
use netpolc_policy::{
    Action, Cluster, Direction, GroupRule, Isolation, ObjectKey, Policy, SecurityGroupId, TierKey,
    TierPolicy, TierRule,
};

/// What a security group's rule is called that has no id.
const NAMELESS: &str = "rule";

/// Whether a rule, or the policy as a whole, is one of the cluster's.
pub fn exists(cluster: &Cluster, one: &Decider) -> bool {
    let key = || ObjectKey::new(one.namespace.clone().unwrap_or_default(), one.name.clone());
    let has = |count: &dyn Fn(Direction) -> usize| match one.rule.as_deref() {
        None => true,
        Some(rule) => numbered(rule).is_some_and(|(way, number)| number < count(way)),
    };
    match one.kind {
        Kind::NetworkPolicy => {
            let policy = cluster.policies.get(&key());
            policy.is_some_and(|policy| has(&|way| rules(policy, way)))
        }
        Kind::ClusterNetworkPolicy => {
            let policy = cluster.tiers.get(&TierKey::named(&one.name));
            policy.is_some_and(|policy| has(&|way| tier_rules(policy, way).len()))
        }
        Kind::SecurityGroup => {
            let group = cluster.security.groups.get(&SecurityGroupId::from(one.name.clone()));
            group.is_some_and(|group| match &one.rule {
                None => true,
                Some(rule) => Direction::BOTH
                    .into_iter()
                    .flat_map(|way| group.rules(way))
                    .any(|of_group| *name(of_group) == **rule),
            })
        }
        Kind::StagedKubernetesNetworkPolicy => cluster.staged.contains_key(&key()),
        Kind::IsolatedByDefault | Kind::Implied => true,
    }
}

/// The rules of these policies, each with the verdict that it is there for; a policy or group that
/// isolates is there to deny.
pub fn of(cluster: &Cluster, policies: &[PolicyState]) -> Vec<(Decider, Verdict)> {
    policies.iter().flat_map(|state| of_one(cluster, state)).collect()
}

fn of_one(cluster: &Cluster, state: &PolicyState) -> Vec<(Decider, Verdict)> {
    let numbered = |whole: &Decider, way: Direction, number: usize| Decider {
        rule: Some(format!("{way}[{number}]").into()),
        ..whole.clone()
    };
    let both = Direction::BOTH.into_iter();
    match state.kind {
        PolicyKind::NetworkPolicy => {
            let whole = Decider::whole(Kind::NetworkPolicy, &state.policy);
            let key = state.policy.split_once('/').map(|(ns, name)| ObjectKey::new(ns, name));
            let Some(policy) = key.and_then(|key| cluster.policies.get(&key)) else {
                return Vec::new();
            };
            let rules = both.flat_map(|way| (0..rules(policy, way)).map(move |n| (way, n)));
            let rules = rules.map(|(way, n)| (numbered(&whole, way, n), Verdict::Allowed));
            let isolates = (whole.clone(), Verdict::Denied);
            [isolates].into_iter().chain(rules).collect()
        }
        PolicyKind::ClusterNetworkPolicy => {
            let whole = Decider::whole(Kind::ClusterNetworkPolicy, &state.policy);
            let Some(policy) = cluster.tiers.get(&TierKey::named(&state.policy)) else {
                return Vec::new();
            };
            let rules = both
                .flat_map(|way| tier_rules(policy, way).iter().enumerate().map(move |r| (way, r)));
            let verdict = |rule: &TierRule| match rule.action {
                Action::Deny => Verdict::Denied,
                Action::Accept | Action::Pass => Verdict::Allowed,
            };
            rules.map(|(way, (n, rule))| (numbered(&whole, way, n), verdict(rule))).collect()
        }
        PolicyKind::SecurityGroup => {
            let whole = Decider::whole(Kind::SecurityGroup, &state.policy);
            let id = SecurityGroupId::from(Arc::<str>::from(&*state.policy));
            let Some(group) = cluster.security.groups.get(&id) else { return Vec::new() };
            let isolates = (whole.clone(), Verdict::Denied);
            let rules = both.flat_map(|way| group.rules(way)).map(|rule| {
                (Decider { rule: Some(name(rule).into()), ..whole.clone() }, Verdict::Allowed)
            });
            [isolates].into_iter().chain(rules).collect()
        }
    }
}

fn rules(policy: &Policy, way: Direction) -> usize {
    match policy.isolation(way) {
        Isolation::Open => 0,
        Isolation::Isolated(rules) => rules.len(),
    }
}

fn tier_rules(policy: &TierPolicy, way: Direction) -> &[TierRule] {
    match way {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

fn name(rule: &GroupRule) -> &str {
    rule.id.as_deref().unwrap_or(NAMELESS)
}

/// The direction and the number in `ingress[0]`.
fn numbered(rule: &str) -> Option<(Direction, usize)> {
    let (way, number) = rule.strip_suffix(']')?.split_once('[')?;
    let way = Direction::BOTH.into_iter().find(|one| one.to_string() == way)?;
    Some((way, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use netpolc_kube_sync::{Input, load};
    use netpolc_lower::{Scope, compile};

    use super::{super::super::policy_status::policy_status, *};

    const OBJECTS: &str = r#"
kind: Pod
apiVersion: v1
metadata: {name: db, namespace: data, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db, namespace: data}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 5432}]}, {ports: [{port: 9187}]}]
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: of-nobody, namespace: data}
spec: {podSelector: {matchLabels: {app: x}}, ingress: [{}]}
---
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: {name: base}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{networks: [10.0.0.0/8]}]}
  - {action: Deny, to: [{networks: [169.254.169.254/32]}]}
"#;

    #[test]
    fn rules_of_a_node_are_those_of_policies_that_select_its_pods() {
        let loaded = load([Input::Bytes { name: "test".into(), bytes: OBJECTS.into() }]);
        assert_eq!(loaded.problems, []);
        let compiler = compile(&loaded.cluster, Scope::Node("n1".into())).unwrap();
        let here = of(&loaded.cluster, &policy_status(&compiler));
        let said: Vec<String> =
            here.iter().map(|(rule, verdict)| format!("{rule} {verdict}")).collect();
        assert_eq!(
            said,
            [
                "ClusterNetworkPolicy base egress[0] allowed",
                "ClusterNetworkPolicy base egress[1] denied",
                "data/db denied",
                "data/db ingress[0] allowed",
                "data/db ingress[1] allowed",
            ]
        );
        assert!(here.iter().all(|(rule, _)| exists(&loaded.cluster, rule)));
        let gone = |kind, policy: &str, rule: &str| {
            let rule = Decider { rule: Some(rule.into()), ..Decider::whole(kind, policy) };
            !exists(&loaded.cluster, &rule)
        };
        assert!(gone(Kind::NetworkPolicy, "data/db", "ingress[2]"));
        assert!(gone(Kind::NetworkPolicy, "data/db", "egress[0]"));
        assert!(gone(Kind::NetworkPolicy, "data/other", "ingress[0]"));
        assert!(gone(Kind::ClusterNetworkPolicy, "base", "egress[2]"));
        assert!(gone(Kind::SecurityGroup, "sg-1", "rule"));
        assert!(!exists(
            &loaded.cluster,
            &Decider::whole(Kind::StagedKubernetesNetworkPolicy, "data/db")
        ));
    }
}
