//! Who is named for a permission: rules that allow the packet, and no others.

use netpolc_lower::{Scope, compile};
use netpolc_policy::{
    Cluster, Direction, Enforcement, Isolation, ObjectKey, Policy,
    oracle::{self, Party, Question, Reason, Transport},
};
use netpolc_table::{
    Origin,
    eval::{Pipeline, Verdict, decide},
};
use netpolc_testbed::random::{self, Rng, Shape};

/// The cluster with this one rule of all policies.
fn with_one_rule(
    cluster: &Cluster,
    policy: &str,
    rule: u32,
    direction: Direction,
) -> Option<Cluster> {
    let (namespace, name) = policy.split_once('/')?;
    let found = cluster.policies.get(&ObjectKey::new(namespace, name))?;
    let Isolation::Isolated(rules) = found.isolation(direction) else { return None };
    let rule = rules.get(rule as usize)?.clone();
    let (mut ingress, mut egress) = (Isolation::Isolated(vec![]), Isolation::Isolated(vec![]));
    match direction {
        Direction::Ingress => ingress = Isolation::Isolated(vec![rule]),
        Direction::Egress => egress = Isolation::Isolated(vec![rule]),
    }
    let only = Policy { ingress, egress, ..found.clone() };
    // Services and nodes allow and deny by themselves; only rules are asked for here.
    let policies = [(only.key.clone(), only)].into_iter().collect();
    Some(Cluster { policies, nodes: Default::default(), ..cluster.clone() })
}

#[test]
fn a_permission_names_only_rules_that_allow_the_packet() {
    let mut asked = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let cluster = random::cluster(&mut rng, &Shape::default());
        let mut cluster = Cluster { services: Default::default(), ..cluster };
        // What stays on the node passes groups without a rule.
        cluster.security.enforcement = Enforcement::Strict;
        let compiler = compile(&cluster, Scope::Everywhere).unwrap();
        let (addresses, ports) = (random::addresses(&cluster), random::ports(&cluster));
        let pods: Vec<_> = compiler.endpoints().collect();
        for _ in 0..if pods.is_empty() { 0 } else { 250 } {
            let ((pod, endpoint), remote) = (*rng.pick(&pods), *rng.pick(&addresses));
            let (protocol, port): (Transport, Option<u16>) = *rng.pick(&ports);
            let pipeline = *rng.pick(&Pipeline::BOTH);
            let port = protocol.protocol().and(port);
            if protocol.protocol().is_some() && port.is_none()
                || cluster.pods[pod].addresses.contains(&remote)
                // A table of its own denies it, whatever these say (S45).
                || pipeline == Pipeline::FromPod && oracle::TUNNELS.contains(&protocol.number())
            {
                continue;
            }
            let decision =
                decide(compiler.program(), pipeline, endpoint, remote, protocol.number(), port);
            if decision.verdict != Verdict::Permit {
                continue;
            }
            for origin in decision.origins.as_slice() {
                let Origin::Rule { policy, rule, .. } = origin else { continue };
                let direction = if pipeline == Pipeline::ToPod {
                    Direction::Ingress
                } else {
                    Direction::Egress
                };
                let Some(one) = with_one_rule(&cluster, policy, *rule, direction) else {
                    panic!("seed {seed}: {origin} is no rule")
                };
                let us = Party::Pod(
                    pod.clone(),
                    cluster.pods[pod].addresses.first().copied().unwrap_or(remote),
                );
                let them = Party::Address(remote);
                let (source, destination) =
                    if direction == Direction::Ingress { (them, us) } else { (us, them) };
                let judged = oracle::judge(
                    &one,
                    &Question { source, destination, protocol, port, via: None },
                );
                let side =
                    if direction == Direction::Ingress { judged.ingress } else { judged.egress };
                let allows = matches!(side.reason, Reason::Allowed(_));
                assert!(
                    allows,
                    "seed {seed}: {pod} {pipeline:?} {remote} {protocol:?} {port:?} by {origin}: \
                     {}",
                    side.reason
                );
                asked += 1;
            }
        }
    }
    assert!(asked > 500, "{asked} rules were named");
}
