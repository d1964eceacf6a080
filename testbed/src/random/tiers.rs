//! Random ClusterNetworkPolicies, using every feature that they have, rules among them that could
//! not be understood.

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Action, Mode, Port, Ports, Priority, Subject, Tier, TierApi, TierKey, TierPeer, TierPolicy,
    TierRule,
};

use super::{
    Rng,
    objects::{CIDRS, NAMES, port, selector},
};

/// Few, so that policies meet at one priority.
const PRIORITIES: [u16; 4] = [0, 10, 10, 1000];

/// One of the few names that there may be.
pub fn key(rng: &mut Rng) -> TierKey {
    let api = if rng.chance(25) { TierApi::Aws } else { TierApi::Upstream };
    TierKey { api, name: format!("tier{}", rng.below(5)).into() }
}

/// A random policy of this name.
pub fn policy(rng: &mut Rng, key: TierKey) -> TierPolicy {
    let (ingress, egress) = (rng.below(4), rng.below(4));
    TierPolicy {
        key,
        tier: *rng.pick(&Tier::ALL),
        priority: Priority::new(*rng.pick(&PRIORITIES)).expect("the API takes it"),
        subject: Subject { namespaces: selector(rng), pods: selector(rng) },
        ingress: rng.list(ingress, |rng| rule(rng, ingress_peer)),
        egress: rng.list(egress, |rng| rule(rng, egress_peer)),
        mode: if rng.chance(10) { Mode::Audited } else { Mode::Enforced },
    }
}

fn rule(rng: &mut Rng, peer: impl FnMut(&mut Rng) -> TierPeer) -> TierRule {
    let (peers, ports) = (rng.within(1, 3), rng.within(1, 4));
    TierRule {
        name: rng.chance(30).then(|| "a rule".into()),
        action: *rng.pick(&[Action::Accept, Action::Deny, Action::Pass]),
        peers: rng.list(peers, peer),
        ports: match rng.chance(30) {
            true => Ports::Any,
            false => Ports::Listed(rng.list(ports, tier_port)),
        },
    }
}

fn tier_port(rng: &mut Rng) -> Port {
    match rng.below(100) {
        0..25 => Port::Name((*rng.pick(&NAMES)).into()),
        _ => match port(rng) {
            Port::Named { name, .. } => Port::Name(name),
            port => port,
        },
    }
}

fn ingress_peer(rng: &mut Rng) -> TierPeer {
    match rng.below(100) {
        0..3 => TierPeer::Nobody,
        3..6 => TierPeer::Anybody,
        _ => TierPeer::Pods { namespaces: selector(rng), pods: selector(rng) },
    }
}

fn egress_peer(rng: &mut Rng) -> TierPeer {
    match rng.below(100) {
        0..40 => {
            let count = rng.within(1, 2);
            TierPeer::Networks(rng.list(count, network))
        }
        40..55 => TierPeer::Nodes(selector(rng)),
        _ => ingress_peer(rng),
    }
}

fn network(rng: &mut Rng) -> IpNetwork {
    rng.pick(&CIDRS).parse().expect("the list holds prefixes")
}
