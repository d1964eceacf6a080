//! The same accidents to files with ClusterNetworkPolicies: what they deny is denied afterwards
//! too.

use netpolc_kube_sync::{Merged, Places, merge_last_known};
use netpolc_policy::{Action, Cluster, Mode, ObjectKey, Port, Ports, Selector, TierPeer, TierRule};

use super::{
    edits::{Dice, accident},
    errors, text,
};

const NAMESPACES: &str = "apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {team: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: c, labels: {team: c}}
";

/// Denies what comes to the pods of a namespace, but for one port.
fn policy(version: &str, name: &str, namespace: &str, ports: &str) -> String {
    format!(
        "apiVersion: {version}
kind: ClusterNetworkPolicy
metadata:
  name: {name}
spec:
  tier: Admin
  priority: 7
  subject:
    namespaces:
      matchLabels:
        team: {namespace}
  ingress:
  - action: Accept
    from:
    - namespaces: {{}}
    {ports}
  - action: Deny
    from:
    - namespaces: {{}}
"
    )
}

/// Whether the rule is about every pod, and every port.
fn is_about_all(rule: &TierRule) -> bool {
    let everybody = |peer: &TierPeer| match peer {
        TierPeer::Anybody => true,
        TierPeer::Pods { namespaces, pods } => {
            *namespaces == Selector::default() && *pods == Selector::default()
        }
        _ => false,
    };
    rule.peers.iter().any(everybody) && rule.ports == Ports::Any
}

/// The namespaces to whose pods something is denied, with no more than port 80 before that.
fn denied(cluster: &Cluster) -> Vec<String> {
    let by = |name: &str| {
        let Some(namespace) = cluster.namespaces.get(name) else { return false };
        let policies = cluster.tiers.values().filter(|policy| policy.mode == Mode::Enforced);
        let about = policies.filter(|policy| policy.subject.namespaces.matches(&namespace.labels));
        let mut about = about.filter(|policy| policy.subject.pods == Selector::default());
        about.any(|policy| {
            let denies = policy
                .ingress
                .iter()
                .position(|rule| rule.action == Action::Deny && is_about_all(rule));
            denies.is_some_and(|at| {
                policy.ingress[..at].iter().all(|rule| match (&rule.action, &rule.ports) {
                    (Action::Deny, _) => true,
                    (Action::Accept, _) if rule.peers == [TierPeer::Nobody] => true,
                    (Action::Accept, Ports::Listed(ports)) => ports.iter().all(|port| {
                        matches!(port, Port::Range { first: 80, last: 80, .. } | Port::Nothing)
                    }),
                    _ => false,
                })
            })
        })
    };
    ["a", "c"].into_iter().filter(|name| by(name)).map(str::to_owned).collect()
}

#[test]
fn s61_s72_accidents_open_no_tier() {
    let upstream = "policy.networking.k8s.io/v1alpha2";
    let protocols = "protocols:\n    - tcp:\n        destinationPort:\n          number: 80";
    let a = policy(upstream, "first", "a", protocols);
    let ports = "ports:\n    - portNumber:\n        port: 80";
    let c = policy("networking.k8s.aws/v1alpha1", "second", "c", ports);
    let shapes = [
        format!("{NAMESPACES}---\n{a}---\n{c}"),
        format!("{a}---\n{c}---\n{NAMESPACES}"),
        format!("# chart\n---\n# Source: a\n{c}---\n# Source: b\n{NAMESPACES}---\n{a}"),
    ];
    let first = |shape: &String| {
        merge_last_known(text(shape.as_str()), &Cluster::default(), &Places::new())
    };
    let sound: Vec<Merged> = shapes.iter().map(first).collect();
    let mut dice = Dice(62);
    let mut opened = 0;
    for run in 0..4_000 {
        let which = dice.below(shapes.len());
        let before = &sound[which];
        assert_eq!(denied(&before.cluster), ["a", "c"]);
        let mut damaged = accident(&mut dice, &shapes[which]);
        if dice.below(4) == 0 {
            damaged = accident(&mut dice, &damaged);
        }
        let loaded = text(damaged.as_str());
        if denied(&loaded.cluster).len() < 2 {
            opened += 1;
            assert!(!errors(&loaded).is_empty(), "run {run}: opened without a word:\n{damaged}");
        }
        let problems = loaded.problems.clone();
        let after = merge_last_known(loaded, &before.cluster, &before.places);
        assert_eq!(denied(&after.cluster), ["a", "c"], "run {run}: {problems:?}\n{damaged}");
    }
    assert!(opened > 200, "only {opened} of the accidents did anything");
}

/// The key of an object is not lost with it.
#[test]
fn s61_what_is_gone_from_a_sound_file_is_gone() {
    let upstream = "policy.networking.k8s.io/v1alpha2";
    let both = [policy(upstream, "first", "a", ""), policy(upstream, "second", "c", "")];
    let before = merge_last_known(text(both.join("---\n")), &Cluster::default(), &Places::new());
    let after = merge_last_known(text(both[0].as_str()), &before.cluster, &before.places);
    assert_eq!((after.cluster.tiers.len(), after.retained.len()), (1, 0));
    assert!(!after.places.keys().any(|id| id.key == ObjectKey::new("", "second")));
}
