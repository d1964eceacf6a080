//! Rules that list the port of a Service where its pods listen on another one. Policies see packets
//! behind the translation of Services, so that such a rule allows nothing that was meant (S48).
//!
//! Not here: names of ports (`port`).

use std::collections::{BTreeMap, BTreeSet};

use netpolc_policy::{
    Direction, ObjectKey, Peers, Port, Ports, Protocol, Reach,
    frontend::{self, PortChoice},
};

use super::{Check, Lint, Says, listed};
use crate::{
    Analysis,
    peers::Claimants,
    ports::{Listed, resolved},
    traffic::TrafficSet,
    universe::{ProfileId, Universe},
};

/// A port of a Service that leads to another port of some pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Translated {
    service: ObjectKey,
    /// The pods' port.
    behind: u16,
    /// The pods behind it.
    pods: BTreeSet<ProfileId>,
}

/// Translated ports by protocol and the Service's number.
type Index = BTreeMap<(Protocol, u16), Vec<Translated>>;

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    let index = index(lint);
    if index.is_empty() {
        return;
    }
    let mut found = Vec::new();
    let analysis = &mut *lint.analysis;
    for of in &lint.policies {
        for (place, rule) in of.rules() {
            let Ports::Listed(ports) = &rule.ports else { continue };
            let numbers = ports.iter().enumerate().filter_map(|(at, port)| match port {
                Port::Range { protocol, first, last } if first == last => {
                    Some((at, index.get(&(*protocol, *first))?, *protocol, *first))
                }
                _ => None,
            });
            let numbers: Vec<_> = numbers.collect();
            if numbers.is_empty() {
                continue;
            }
            let whose = match place.direction {
                Direction::Ingress => of.profiles.iter().copied().collect(),
                Direction::Egress => destinations(analysis, &of.policy.key.namespace, rule),
            };
            let all = Listed::of(&rule.ports).known;
            for (at, translated, protocol, number) in numbers {
                let concerned = translated.iter().find(|it| {
                    let here: Vec<_> = it.pods.intersection(&whose).copied().collect();
                    !here.is_empty()
                        && !all.contains(protocol.number(), it.behind)
                        && !listens(analysis.universe(), &here, &index, protocol, number)
                        && !names_cover(analysis.universe(), &here, ports, protocol, it.behind)
                });
                let Some(Translated { service, behind, .. }) = concerned else { continue };
                let says = Says {
                    what: format!(
                        "The rule lists {protocol} {number}, which is the port of Service \
                         {service}; its pods listen on {behind}, and policies see the port of the \
                         pod."
                    ),
                    change: format!("Write `port: {behind}`."),
                };
                found.push((of.object.clone(), format!("{place}.ports[{at}]"), says));
            }
        }
    }
    for (object, field, says) in found {
        lint.report(Check::ServicePort, object, field, says);
    }
}

fn index(lint: &Lint<'_, '_>) -> Index {
    let (cluster, universe) = (lint.analysis.cluster(), lint.universe());
    let mut index = Index::new();
    for (key, service) in &lint.facts.frontends {
        if service.reach != Reach::Translated {
            continue;
        }
        // A Service of which nothing is known to be behind it leads nowhere.
        let backends = frontend::backends(cluster, &lint.facts.frontends, key, &PortChoice::All);
        let mut behind: BTreeMap<(Protocol, u16, u16), BTreeSet<ProfileId>> = BTreeMap::new();
        for backend in backends.into_iter().flatten() {
            let class = backend.pod.as_ref().and_then(|pod| universe.class_of(pod));
            let Some(class) = class.filter(|_| backend.port != backend.frontend.number) else {
                continue;
            };
            let port = (backend.frontend.protocol, backend.frontend.number, backend.port);
            behind.entry(port).or_default().insert(universe.class(class).profile);
        }
        for ((protocol, number, behind), pods) in behind {
            let translated = Translated { service: key.clone(), behind, pods };
            index.entry((protocol, number)).or_default().push(translated);
        }
    }
    index
}

fn destinations(
    analysis: &mut Analysis<'_>,
    namespace: &std::sync::Arc<str>,
    rule: &netpolc_policy::Rule,
) -> BTreeSet<ProfileId> {
    // A rule for everybody on port 80 is seldom about one Service.
    if rule.peers == Peers::Any {
        return BTreeSet::new();
    }
    let mut profiles = BTreeSet::new();
    for (_, peer) in listed(rule) {
        if !matches!(peer, netpolc_policy::Peer::Pods { .. }) {
            continue;
        }
        let meant = analysis.peers.of_policy(&analysis.universe, namespace, peer);
        let universe = &analysis.universe;
        let meant = meant.among(Claimants::Any).iter();
        profiles.extend(meant.flat_map(|remote| universe.remote(*remote).claimants.iter()));
    }
    profiles
}

/// Do the pods listen on the number themselves, as far as they declare it or another Service says?
fn listens(
    universe: &Universe<'_>,
    profiles: &[ProfileId],
    index: &Index,
    protocol: Protocol,
    number: u16,
) -> bool {
    let declares = |id: &ProfileId| {
        let ports = &universe.profile(*id).pod.ports;
        ports.iter().any(|port| port.protocol == protocol && port.number == number)
    };
    let leads_there = |id: &ProfileId| {
        let same = index.iter().filter(|((p, _), _)| *p == protocol);
        same.flat_map(|(_, all)| all).any(|it| it.behind == number && it.pods.contains(id))
    };
    profiles.iter().any(|id| declares(id) || leads_there(id))
}

/// Does a name in the rule's list stand for the port that the pods listen on?
fn names_cover(
    universe: &Universe<'_>,
    profiles: &[ProfileId],
    ports: &[Port],
    protocol: Protocol,
    behind: u16,
) -> bool {
    let mut covered = TrafficSet::nothing();
    for port in ports {
        let Port::Named { protocol: of, name } = port else { continue };
        for id in profiles {
            covered = covered.union(&resolved(universe.profile(*id).pod, Some(*of), name));
        }
    }
    covered.contains(protocol.number(), behind)
}
