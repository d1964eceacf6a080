//! What the shape of a rule says by itself: two peers where one was probably meant, and rules that
//! let the whole world in.
//!
//! Not here: what may be reached in the end (`reach`), although a rule that something else closes
//! is not reported as open.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Block, Direction, GroupPeer, Mode, Namespaces, Peer, Peers, Protocol, Rule, Selector,
};

use super::{Check, Lint, Object, Says, Selecting, Severity, count, listed};
use crate::{
    Analysis, list,
    ports::{Listed, of_group},
    traffic::TrafficSet,
    universe::{ProfileId, RemoteId},
};

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    either(lint);
    open(lint);
    open_groups(lint);
}

/// The selectors of a peer that has only the one or only the other.
enum Half<'p> {
    Namespaces(&'p Selector),
    Pods(&'p Selector),
}

fn half(peer: &Peer) -> Option<Half<'_>> {
    match peer {
        // The pods of the own namespace are often meant beside those of others.
        Peer::Pods { namespaces: Namespaces::Own, pods } => {
            (!pods.requirements.is_empty()).then_some(Half::Pods(pods))
        }
        Peer::Pods { namespaces: Namespaces::Matching(namespaces), pods } => {
            pods.requirements.is_empty().then_some(Half::Namespaces(namespaces))
        }
        Peer::Block(_) | Peer::Nothing => None,
    }
}

fn either(lint: &mut Lint<'_, '_>) {
    let mut found = Vec::new();
    for of in &lint.policies {
        for (place, rule) in of.rules() {
            let peers: Vec<_> = listed(rule).collect();
            for pair in peers.windows(2) {
                let (namespaces, pods) = match (half(pair[0].1), half(pair[1].1)) {
                    (Some(Half::Namespaces(n)), Some(Half::Pods(p)))
                    | (Some(Half::Pods(p)), Some(Half::Namespaces(n))) => (n, p),
                    _ => continue,
                };
                let severity = suspicion(lint.analysis, of, namespaces, pods);
                let says = Says {
                    what:
                        "Two peers stand beside each other, one with a namespaceSelector and one \
                           with a podSelector, so every pod of these namespaces is meant, and \
                           besides them pods of the policy's own namespace."
                            .into(),
                    change: "Remove the hyphen of the second one if pods with these labels in \
                             these namespaces are meant; separate the two rules if not."
                        .into(),
                };
                found.push((severity, of.object.clone(), place.peer(pair[1].0), says));
            }
        }
    }
    for (severity, object, field, says) in found {
        lint.report_as(severity, Check::OrInsteadOfAnd, object, field, says);
    }
}

/// A warning where one of two signs is there that both selectors were meant together: such pods are
/// in other namespaces that are meant, or none is in the policy's own.
fn suspicion(
    analysis: &mut Analysis<'_>,
    of: &Selecting<'_>,
    namespaces: &Selector,
    pods: &Selector,
) -> Severity {
    let own = &of.policy.key.namespace;
    let universe = analysis.universe();
    let has = |profiles: &[ProfileId]| {
        profiles.iter().any(|id| pods.matches(&universe.profile(*id).pod.labels))
    };
    let elsewhere = universe.namespaces().any(|(name, profiles)| {
        let labels = profiles.first().map(|id| universe.profile(*id).namespace);
        *name != **own && labels.is_some_and(|l| namespaces.matches(l)) && has(profiles)
    });
    match elsewhere || !has(universe.profiles_in(own)) {
        true => Severity::Warning,
        false => Severity::Note,
    }
}

/// What a rule lets in from everywhere.
fn is_everybody(rule: &Rule) -> Option<Option<usize>> {
    match &rule.peers {
        Peers::Any => Some(None),
        Peers::Listed(peers) => {
            let mut blocks = peers.iter().enumerate().filter_map(|(i, peer)| match peer {
                Peer::Block(block) => Some((i, block)),
                Peer::Pods { .. } | Peer::Nothing => None,
            });
            blocks.find(|(_, block)| is_whole(block)).map(|(i, _)| Some(i))
        }
    }
}

/// Has the block every address that the internet routes?
fn is_whole(block: &Block) -> bool {
    block.cidr.prefix() == 0 && !block.except.iter().any(list::is_public)
}

/// On how many ports a rule lets everybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Open {
    /// On some.
    SomePorts,
    /// On every port of a protocol that has ports.
    EveryPort,
}

impl Open {
    fn on(set: &TrafficSet) -> Self {
        let every = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .any(|protocol| set.covers(&TrafficSet::ports(protocol, 1, u16::MAX)));
        if every { Open::EveryPort } else { Open::SomePorts }
    }

    fn severity(self) -> Severity {
        match self {
            Open::EveryPort => Severity::Warning,
            Open::SomePorts => Severity::Note,
        }
    }

    fn says(self, pods: usize) -> Says {
        let pods = count(pods, "pod");
        match self {
            Open::EveryPort => Says {
                what: format!("The rule lets every address outside in, on every port of {pods}."),
                change: "List the peers that are meant, or the ports.".into(),
            },
            Open::SomePorts => Says {
                what: format!("The rule lets every address outside in, on some ports of {pods}."),
                change: "Leave it where the whole internet is meant; list blocks of addresses if \
                         not."
                    .into(),
            },
        }
    }
}

/// The remotes outside of the cluster that no narrower prefix has.
fn world(analysis: &Analysis<'_>) -> BTreeSet<RemoteId> {
    let universe = analysis.universe();
    let whole = |region: &_| universe.regions.prefix(*region).prefix() == 0;
    let regions = universe.regions.ids().filter(whole);
    regions.map(|region| universe.outside_of(region)).collect()
}

fn open(lint: &mut Lint<'_, '_>) {
    let world = world(lint.analysis);
    let mut found = Vec::new();
    for of in lint.policies.iter().filter(|of| matches!(of.object, Object::NetworkPolicy(_))) {
        let rules = of.rules().filter(|(place, _)| place.direction == Direction::Ingress);
        for (place, rule) in rules {
            let Some(peer) = is_everybody(rule) else { continue };
            // What is only tried opens nothing.
            if of.policy.mode == Mode::Audited {
                continue;
            }
            let reached = of.profiles.iter().filter(|id| is_open(lint.analysis, **id, &world));
            let reached: Vec<ProfileId> = reached.copied().collect();
            if reached.is_empty() {
                continue;
            }
            let open = Open::on(&Listed::of(&rule.ports).known);
            let pods = reached.iter().map(|id| lint.pods[id.index()]).sum();
            let field = peer.map_or(place.to_string(), |peer| place.peer(peer));
            found.push((open.severity(), of.object.clone(), field, open.says(pods)));
        }
    }
    for (severity, object, field, says) in found {
        lint.report_as(severity, Check::OpenToWorld, object, field, says);
    }
}

/// May somebody outside open anything to the pods of the profile?
fn is_open(analysis: &mut Analysis<'_>, id: ProfileId, world: &BTreeSet<RemoteId>) -> bool {
    let side = analysis.side(id, Direction::Ingress);
    world.iter().any(|remote| {
        let permitted = side.with(*remote, &analysis.universe, &mut analysis.traffic);
        permitted != crate::traffic::TrafficId::NOTHING
    })
}

fn open_groups(lint: &mut Lint<'_, '_>) {
    let cluster = lint.analysis.cluster();
    let world = world(lint.analysis);
    for (id, group) in &cluster.security.groups {
        let profiles = lint.universe().profiles();
        let has = profiles.filter(|(_, p)| p.groups.as_ref().is_some_and(|g| g.contains(id)));
        let has: Vec<ProfileId> = has.map(|(id, _)| id).collect();
        let open: Vec<ProfileId> =
            has.into_iter().filter(|id| is_open(lint.analysis, *id, &world)).collect();
        if open.is_empty() {
            continue;
        }
        let pods: usize = open.iter().map(|id| lint.pods[id.index()]).sum();
        let rules = group.ingress.iter().filter(|rule| {
            rule.peers.iter().any(|peer| match peer {
                GroupPeer::Network(network) => network.prefix() == 0,
                GroupPeer::PrefixList(list) => {
                    let entries = cluster.security.prefix_lists.get(list).into_iter().flatten();
                    entries.into_iter().any(|network: &IpNetwork| network.prefix() == 0)
                }
                GroupPeer::Group(_) => false,
            })
        });
        let open = rules.map(|rule| Open::on(&of_group(rule.traffic)));
        if let Some(open) = open.max() {
            let object = Object::SecurityGroup(id.clone());
            lint.report_as(
                open.severity(),
                Check::OpenToWorld,
                object,
                "IpPermissions",
                open.says(pods),
            );
        }
    }
}
