//! Peers that mean nobody: no namespace matches, no pod matches, or no address is left.
//!
//! Not here: names of ports (`port`), and peers that cannot be understood, which the reader
//! reports.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use netpolc_policy::{Block, Labels, Namespaces, Peer, Pod, Selector, TierPeer};

use super::{
    Check, Lint, Object, Place, Says, listed,
    subject::{not_policed, why},
};
use crate::peers::{Claimants, Meant};

/// Where pods are looked for, and which.
#[derive(PartialEq, Eq, Hash)]
struct Wanted {
    here: Option<Arc<str>>,
    namespaces: Selector,
    pods: Selector,
}

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    let mut known: HashMap<Wanted, Says> = HashMap::new();
    let mut found: Vec<(Object, String, Says)> = Vec::new();
    let cluster = lint.analysis.cluster();
    // Peers that mean pods are looked at only where the input has some.
    let has_pods = lint.has_pods();
    let analysis = &mut *lint.analysis;
    for of in &lint.policies {
        for (place, rule) in of.rules() {
            for (index, peer) in listed(rule) {
                let own = &of.policy.key.namespace;
                let says = match peer {
                    Peer::Pods { namespaces, pods } if has_pods => {
                        let meant = analysis.peers.of_policy(&analysis.universe, own, peer);
                        if !is_nobody(&meant) {
                            continue;
                        }
                        let (here, namespaces) = match namespaces {
                            Namespaces::Own => (Some(own.clone()), Selector::default()),
                            Namespaces::Matching(selector) => (None, selector.clone()),
                        };
                        let wanted = Wanted { here, namespaces, pods: pods.clone() };
                        let says = |wanted: &Wanted| explain(cluster, wanted);
                        known.entry(wanted).or_insert_with_key(says).clone()
                    }
                    Peer::Block(block) => match empty(analysis, block) {
                        Some(says) => says,
                        None => continue,
                    },
                    Peer::Pods { .. } | Peer::Nothing => continue,
                };
                found.push((of.object.clone(), place.peer(index), says));
            }
        }
    }
    let mut is_nodeless = None;
    for (policy, _) in &lint.tiers {
        for direction in netpolc_policy::Direction::BOTH {
            for (rule, it) in policy.rules(direction).iter().enumerate() {
                for (index, peer) in it.peers.iter().enumerate() {
                    let meant = analysis.peers.of_tier(&analysis.universe, peer);
                    if meant.is_none_or(|meant| meant.iter().any(|meant| !is_nobody(meant))) {
                        continue;
                    }
                    let field = Place { direction, rule }.peer(index);
                    let object = Object::ClusterNetworkPolicy(policy.key.clone());
                    let says = match peer {
                        TierPeer::Pods { namespaces, pods } if has_pods => {
                            let (namespaces, pods) = (namespaces.clone(), pods.clone());
                            let wanted = Wanted { here: None, namespaces, pods };
                            let says = |wanted: &Wanted| explain(cluster, wanted);
                            known.entry(wanted).or_insert_with_key(says).clone()
                        }
                        TierPeer::Nodes(_) if cluster.nodes.is_empty() => {
                            is_nodeless = is_nodeless.or(Some((object, field)));
                            continue;
                        }
                        TierPeer::Nodes(selector) => {
                            let nodes: Vec<&Labels> =
                                cluster.nodes.values().map(|node| &node.labels).collect();
                            why(selector, &nodes, "The peer means nobody", "node")
                        }
                        _ => continue,
                    };
                    found.push((object, field, says));
                }
            }
        }
    }
    for (object, field, says) in found {
        lint.report(Check::PeerMeansNobody, object, field, says);
    }
    if let Some((object, field)) = is_nodeless {
        let says = Says {
            what: "The input has no Node, so nothing is said of peers that mean nodes.".into(),
            change: "Add `kubectl get nodes -o yaml` to the input.".into(),
        };
        lint.report(Check::NotChecked, object, field, says);
    }
}

fn is_nobody(meant: &Meant) -> bool {
    meant.among(Claimants::Any).is_empty()
}

/// Why nobody is meant.
fn explain(cluster: &netpolc_policy::Cluster, wanted: &Wanted) -> Says {
    const LEAD: &str = "The peer means nobody";
    let (names, whose) = match &wanted.here {
        Some(own) => (vec![own], format!("pod of namespace {own}")),
        None => {
            let all = cluster.namespaces.iter();
            let meant = all.filter(|(_, n)| wanted.namespaces.matches(&n.labels));
            let names: Vec<&Arc<str>> = meant.map(|(name, _)| name).collect();
            let whose = match names.as_slice() {
                [] => {
                    let all: Vec<&Labels> =
                        cluster.namespaces.values().map(|n| &n.labels).collect();
                    return why(&wanted.namespaces, &all, LEAD, "namespace of the input");
                }
                [name] => format!("pod of namespace {name}"),
                _ => "pod of the namespaces that it means".into(),
            };
            (names, whose)
        }
    };
    let here: Vec<&Pod> = names.into_iter().flat_map(|name| cluster.pods_of(name)).collect();
    let meant = here.iter().filter(|pod| wanted.pods.matches(&pod.labels));
    if let Some(says) = not_policed(&meant.copied().collect::<Vec<_>>(), "peer") {
        return says;
    }
    let labels: BTreeSet<&Labels> = here.iter().map(|pod| &pod.labels).collect();
    let says = why(&wanted.pods, &labels.into_iter().collect::<Vec<_>>(), LEAD, &whose);
    elsewhere(cluster, wanted).map_or(says.clone(), |change| Says { change, ..says })
}

/// What to write where the pods are in another namespace than the policy's own.
fn elsewhere(cluster: &netpolc_policy::Cluster, wanted: &Wanted) -> Option<String> {
    wanted.here.as_ref()?;
    let is_meant = |pod: &&Pod| pod.is_policed() && wanted.pods.matches(&pod.labels);
    let mut pods = cluster.pods.values().filter(is_meant);
    let found = &pods.next().filter(|_| !wanted.pods.requirements.is_empty())?.key;
    Some(format!(
        "Add a namespaceSelector to the peer if pods of other namespaces are meant, such as \
         {found}: \
         kubernetes.io/metadata.name: {}.",
        found.namespace
    ))
}

/// Some where a block has no address that it does not take out again.
fn empty(analysis: &crate::Analysis<'_>, block: &Block) -> Option<Says> {
    if block.except.is_empty() {
        return None;
    }
    let regions = &analysis.universe.regions;
    let within = regions.ids().filter(|region| regions.is_in_block(*region, block)).collect();
    if !regions.addresses(&within).is_empty() {
        return None;
    }
    let what = format!("The peer means nobody: its `except` takes out all of {}.", block.cidr);
    Some(Says { what, change: "Take the peer out, or narrow its `except`.".into() })
}
