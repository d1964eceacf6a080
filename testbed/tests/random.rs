//! The generators: the same seed gives the same, and everything they can say is said.

use std::collections::BTreeSet;

use netpolc_policy::{
    Action, Cluster, Enforcement, GroupPeer, Isolation, Mode, Namespaces, Peer, Peers, Phase,
    PodNetwork, Port, Ports, Tier, TierPeer, Traffic, Unselected, oracle,
};
use netpolc_testbed::random::{Change, Claims, Rng, Shape, change, cluster, questions};

fn run(seed: u64) -> (Cluster, Vec<Change>, Vec<oracle::Question>) {
    let (mut rng, shape) = (Rng::new(seed), Shape::default());
    let start = cluster(&mut rng, &shape);
    let mut now = start;
    let changes: Vec<Change> = (0..100)
        .map(|_| {
            let change = change(&mut rng, &shape, &now);
            change.apply(&mut now);
            change
        })
        .collect();
    let questions = questions(&mut rng, &now, 200);
    (now, changes, questions)
}

#[test]
fn the_same_seed_gives_the_same_and_another_seed_something_else() {
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn clusters_keep_their_size_and_active_pods_their_own_addresses() {
    for seed in 0..20 {
        let (cluster, _, _) = run(seed);
        assert!((4..30).contains(&cluster.pods.len()), "{}", cluster.pods.len());
        let mut seen = BTreeSet::new();
        for pod in cluster.pods.values().filter(|p| p.is_policed()) {
            for address in &pod.addresses {
                assert!(seen.insert(*address), "seed {seed}: {address} of {} is taken", pod.key);
            }
        }
    }
    let shape = Shape { claims: Claims::Contested, pods: 60, ..Shape::default() };
    let cluster = cluster(&mut Rng::new(3), &shape);
    let claimed: Vec<_> =
        cluster.pods.values().filter(|p| p.is_policed()).flat_map(|p| &p.addresses).collect();
    assert!(claimed.iter().collect::<BTreeSet<_>>().len() < claimed.len());
}

#[test]
fn every_feature_of_the_model_occurs_and_verdicts_are_mixed() {
    let mut seen = BTreeSet::new();
    let (mut allowed, mut denied) = (0, 0);
    for seed in 0..60 {
        let (cluster, changes, questions) = run(seed);
        seen.extend(changes.iter().map(|c| match c {
            Change::ByDefault(_) => "default",
            Change::Namespace { namespace, .. } => {
                if namespace.is_some() {
                    "namespace"
                } else {
                    "namespace gone"
                }
            }
            Change::Pod { pod, .. } => {
                if pod.is_some() {
                    "pod"
                } else {
                    "pod gone"
                }
            }
            Change::Policy { policy, .. } => {
                if policy.is_some() {
                    "policy"
                } else {
                    "policy gone"
                }
            }
            Change::Service { service, .. } => {
                if service.is_some() {
                    "service"
                } else {
                    "service gone"
                }
            }
            Change::Tier { policy, .. } => {
                if policy.is_some() {
                    "tier"
                } else {
                    "tier gone"
                }
            }
            Change::Staged { staged, .. } => {
                if staged.is_some() {
                    "staged"
                } else {
                    "staged gone"
                }
            }
            Change::SecurityGroup { .. } => "group",
            Change::PrefixList { .. } => "prefix list",
            Change::CloudInterface { .. } => "cloud interface",
            Change::SecurityGroupPolicy { .. } => "group policy",
            Change::Account { .. } => "account",
            Change::Enforcement(_) => "enforcement",
            Change::Node { node, .. } => {
                if node.is_some() {
                    "node"
                } else {
                    "node gone"
                }
            }
        }));
        features(&cluster, &mut seen);
        for question in questions {
            if oracle::judge(&cluster, &question).allowed { allowed += 1 } else { denied += 1 }
        }
    }
    assert_eq!(seen.len(), 18 + 18 + 13 + 11 + 6 + 2 + 3, "{seen:?}");
    assert!(allowed > 1000 && denied > 1000, "{allowed} allowed, {denied} denied");
}

fn features(cluster: &Cluster, seen: &mut BTreeSet<&'static str>) {
    seen.insert(match cluster.by_default.unselected {
        Unselected::Open => "open by default",
        Unselected::Isolated => "isolated by default",
    });
    if !cluster.by_default.except.is_empty() {
        seen.insert("exempt by default");
    }
    seen.extend(cluster.namespaces.values().map(|namespace| match namespace.unselected {
        None => "default of the node",
        Some(Unselected::Open) => "open by its namespace",
        Some(Unselected::Isolated) => "isolated by its namespace",
    }));
    for pod in cluster.pods.values() {
        seen.insert(if pod.phase == Phase::Active { "active" } else { "finished" });
        seen.insert(if pod.network == PodNetwork::Own { "own network" } else { "host network" });
    }
    seen.insert(match cluster.security.enforcement {
        Enforcement::Strict => "strict",
        Enforcement::Standard => "standard",
    });
    let groups = cluster.security.groups.values();
    for rule in groups.flat_map(|group| group.ingress.iter().chain(&group.egress)) {
        seen.insert(match rule.traffic {
            Traffic::Everything => "group: everything",
            Traffic::Ports { .. } => "group: ports",
            Traffic::Icmp { .. } => "group: ICMP",
            Traffic::Protocol(_) => "group: protocol",
        });
        seen.extend(rule.peers.iter().map(|peer| match peer {
            GroupPeer::Network(_) => "group: network",
            GroupPeer::PrefixList(_) => "group: prefix list",
            GroupPeer::Group(_) => "group: group",
        }));
    }
    for pod in cluster.pods.values() {
        seen.insert(if pod.grouping.interfaces.is_empty() { "no interface" } else { "interface" });
        seen.insert(if pod.grouping.fargate.is_empty() { "no Fargate" } else { "Fargate" });
    }
    for policy in cluster.tiers.values() {
        seen.insert(if policy.tier == Tier::Admin { "admin" } else { "baseline" });
        seen.insert(if policy.mode == Mode::Enforced { "enforced" } else { "audited" });
        for rule in policy.ingress.iter().chain(&policy.egress) {
            seen.insert(match rule.action {
                Action::Accept => "accept",
                Action::Deny => "deny",
                Action::Pass => "pass",
            });
            seen.extend(rule.peers.iter().map(|peer| match peer {
                TierPeer::Pods { .. } => "tier pods",
                TierPeer::Networks(_) => "networks",
                TierPeer::Nodes(_) => "nodes",
                TierPeer::Anybody => "anybody",
                TierPeer::Nobody => "nobody",
            }));
            if let Ports::Listed(ports) = &rule.ports
                && ports.iter().any(|port| matches!(port, Port::Name(_)))
            {
                seen.insert("named in any protocol");
            }
        }
    }
    for isolation in cluster.policies.values().flat_map(|p| [&p.ingress, &p.egress]) {
        let Isolation::Isolated(rules) = isolation else {
            seen.insert("open");
            continue;
        };
        seen.insert(if rules.is_empty() { "deny all" } else { "rules" });
        for rule in rules {
            match &rule.peers {
                Peers::Any => seen.extend(["any peer"]),
                Peers::Listed(peers) => seen.extend(peers.iter().map(|p| match p {
                    Peer::Pods { namespaces: Namespaces::Own, .. } => "own namespace",
                    Peer::Pods { .. } => "namespaces",
                    Peer::Block(b) if b.except.is_empty() => "block",
                    Peer::Block(_) => "block with except",
                    Peer::Nothing => "no peer",
                })),
            }
            match &rule.ports {
                Ports::Any => seen.extend(["any port"]),
                Ports::Listed(ports) => seen.extend(ports.iter().map(|p| match p {
                    Port::Every(_) => "every port",
                    Port::Range { .. } => "range",
                    Port::Named { .. } => "named",
                    Port::Name(_) => unreachable!("NetworkPolicies have no such port"),
                    Port::Nothing => "no port",
                })),
            }
        }
    }
}
