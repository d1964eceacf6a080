//! Port names that no container of the pods concerned has: of the selected pods for ingress, and of
//! the peers for egress (S29, S69).
//!
//! Not here: numbers of ports (`service`).

use std::{collections::BTreeSet, sync::Arc};

use netpolc_policy::{Direction, Peer, Peers, Port, Ports, Protocol, TierApi, TierPeer};

use super::{Check, Lint, Object, Place, Says};
use crate::{
    Analysis,
    nearest::closest,
    peers::{Claimants, Meant},
    universe::{ProfileId, Universe},
};

/// A port by name, and where it stands in the rule's list.
struct Name<'r> {
    at: usize,
    protocol: Option<Protocol>,
    name: &'r Arc<str>,
}

fn names(ports: &Ports) -> impl Iterator<Item = Name<'_>> {
    let list = match ports {
        Ports::Any => &[][..],
        Ports::Listed(list) => list,
    };
    list.iter().enumerate().filter_map(|(at, port)| match port {
        Port::Named { protocol, name } => Some(Name { at, protocol: Some(*protocol), name }),
        Port::Name(name) => Some(Name { at, protocol: None, name }),
        Port::Every(_) | Port::Range { .. } | Port::Nothing => None,
    })
}

/// Whose ports a rule's names stand for.
enum Whose {
    Pods(Vec<ProfileId>),
    /// Addresses, to which no name applies (S31).
    Blocks,
    /// Nobody, which is said elsewhere.
    Nobody,
}

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    if !lint.has_pods() {
        return;
    }
    let mut found = Vec::new();
    let analysis = &mut *lint.analysis;
    for of in &lint.policies {
        for (place, rule) in of.rules() {
            let mut names = names(&rule.ports).peekable();
            if names.peek().is_none() {
                continue;
            }
            let whose = match place.direction {
                Direction::Ingress => Whose::Pods(of.profiles.clone()),
                Direction::Egress => destinations(analysis, &of.policy.key.namespace, &rule.peers),
            };
            for name in names {
                let field = format!("{place}.ports[{}]", name.at);
                if let Some(says) = unknown(analysis.universe(), &whose, &name) {
                    found.push((of.object.clone(), field, says));
                }
            }
        }
    }
    for (policy, about) in &lint.tiers {
        let list = match policy.key.api {
            TierApi::Upstream => "protocols",
            TierApi::Aws => "ports",
        };
        for direction in Direction::BOTH {
            for (rule, it) in policy.rules(direction).iter().enumerate() {
                let mut names = names(&it.ports).peekable();
                if names.peek().is_none() {
                    continue;
                }
                let whose = match direction {
                    Direction::Ingress => Whose::Pods(about.clone()),
                    Direction::Egress => of_tier(analysis, &it.peers),
                };
                for name in names {
                    let field = format!("{}.{list}[{}]", Place { direction, rule }, name.at);
                    if let Some(says) = unknown(analysis.universe(), &whose, &name) {
                        let object = Object::ClusterNetworkPolicy(policy.key.clone());
                        found.push((object, field, says));
                    }
                }
            }
        }
    }
    for (object, field, says) in found {
        lint.report(Check::UnknownPortName, object, field, says);
    }
}

fn destinations(analysis: &mut Analysis<'_>, namespace: &Arc<str>, peers: &Peers) -> Whose {
    let Peers::Listed(peers) = peers else { return everybody(analysis.universe()) };
    let pods = peers.iter().filter(|peer| matches!(peer, Peer::Pods { .. }));
    let pods: Vec<&Peer> = pods.collect();
    if pods.is_empty() {
        let has_block = peers.iter().any(|peer| matches!(peer, Peer::Block(_)));
        return if has_block { Whose::Blocks } else { Whose::Nobody };
    }
    let mut profiles = BTreeSet::new();
    for peer in pods {
        let meant = analysis.peers.of_policy(&analysis.universe, namespace, peer);
        profiles.extend(claimants(analysis.universe(), &meant));
    }
    some_of(profiles)
}

fn of_tier(analysis: &mut Analysis<'_>, peers: &[TierPeer]) -> Whose {
    let mut profiles = BTreeSet::new();
    for peer in peers {
        match analysis.peers.of_tier(&analysis.universe, peer) {
            None => return everybody(analysis.universe()),
            Some(meant) => {
                for meant in meant {
                    profiles.extend(claimants(analysis.universe(), &meant));
                }
            }
        }
    }
    some_of(profiles)
}

fn everybody(universe: &Universe<'_>) -> Whose {
    Whose::Pods(universe.profiles().map(|(id, _)| id).collect())
}

fn some_of(profiles: BTreeSet<ProfileId>) -> Whose {
    match profiles.is_empty() {
        true => Whose::Nobody,
        false => Whose::Pods(profiles.into_iter().collect()),
    }
}

fn claimants(universe: &Universe<'_>, meant: &Meant) -> Vec<ProfileId> {
    let remotes = meant.among(Claimants::Any).iter();
    remotes.flat_map(|remote| universe.remote(*remote).claimants.iter().copied()).collect()
}

/// Some where the name stands for no port of those whom it is about.
fn unknown(universe: &Universe<'_>, whose: &Whose, wanted: &Name<'_>) -> Option<Says> {
    let name = wanted.name;
    let profiles = match whose {
        Whose::Nobody => return None,
        Whose::Blocks => {
            return Some(Says {
                what: format!(
                    "The port name {name:?} means nothing here, since the rule's peers are blocks \
                     of addresses and only pods have names of ports."
                ),
                change: "Write the number of the port.".into(),
            });
        }
        // That the policy selects nobody is said elsewhere.
        Whose::Pods(profiles) if profiles.is_empty() => return None,
        Whose::Pods(profiles) => profiles,
    };
    let ports = || {
        let pods = profiles.iter().map(|id| universe.profile(*id).pod);
        pods.flat_map(|pod| &pod.ports)
    };
    let is_it = |port: &&netpolc_policy::ContainerPort| {
        port.name.as_ref() == Some(name) && wanted.protocol.is_none_or(|p| p == port.protocol)
    };
    if ports().any(|port| is_it(&port)) {
        return None;
    }
    let what = format!("No container of the pods concerned has a port with the name {name:?}");
    if let Some(other) = ports().find(|port| port.name.as_ref() == Some(name)) {
        let is = other.protocol;
        return Some(Says {
            what: format!("{what} under the protocol of the rule; it is a port of {is}."),
            change: format!("Write `protocol: {is}` beside the name."),
        });
    }
    let there: BTreeSet<&str> = ports().filter_map(|port| port.name.as_deref()).collect();
    let shown: Vec<&str> = there.iter().take(4).copied().collect();
    let change = match closest(name, there.iter().copied()) {
        Some(near) => format!("Write {near:?}, which there is."),
        None if there.is_empty() => {
            "Write the number of the port, or name it in the containers' `ports`.".into()
        }
        None => format!("Write a name that there is, such as {}.", shown.join(", ")),
    };
    Some(Says { what: format!("{what}."), change })
}
