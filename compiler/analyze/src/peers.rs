//! Which remotes a peer of a rule means, worked out once for each distinct peer.
//!
//! Not here: ports, and what a rule does to those whom it means.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use netpolc_policy::{
    Block, Cluster, GroupPeer, Namespaces, Peer, SecurityGroupId, Selector, TierPeer,
};

use crate::universe::{Profile, ProfileId, RemoteId, Universe};

/// The remotes that a peer means, in order. Of an address that several pods claim, what permits
/// asks for all of them, and what denies for any (S43, S64).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// All pods that claim the address are meant.
    pub all: Vec<RemoteId>,
    /// At least one is. None: as `all`.
    any: Option<Vec<RemoteId>>,
}

/// How many of the pods that claim an address have to be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimants {
    /// Every one of them.
    All,
    /// At least one.
    Any,
}

impl Meant {
    pub(crate) fn exactly(mut remotes: Vec<RemoteId>) -> Self {
        remotes.sort_unstable();
        remotes.dedup();
        Self { all: remotes, any: None }
    }

    /// Those of whose claimants so many are meant.
    pub fn among(&self, claimants: Claimants) -> &[RemoteId] {
        match claimants {
            Claimants::All => &self.all,
            Claimants::Any => self.any.as_ref().unwrap_or(&self.all),
        }
    }

    /// Is this one of them?
    pub fn has(&self, remote: RemoteId, claimants: Claimants) -> bool {
        self.among(claimants).binary_search(&remote).is_ok()
    }
}

/// A distinct peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    Pods { namespaces: Where, pods: Selector },
    Block(Block),
    Nodes(Selector),
    Group(SecurityGroupId),
}

/// The namespaces in which pods are looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Where {
    Here(std::sync::Arc<str>),
    Matching(Selector),
}

/// Remembers whom each distinct peer means.
#[derive(Clone, Debug, Default)]
pub struct PeerIndex {
    known: HashMap<Question, Rc<Meant>>,
    of_groups: HashMap<GroupPeer, Vec<Rc<Meant>>>,
}

impl PeerIndex {
    /// Whom a peer of a NetworkPolicy of this namespace means.
    pub fn of_policy(
        &mut self,
        universe: &Universe<'_>,
        namespace: &std::sync::Arc<str>,
        peer: &Peer,
    ) -> Rc<Meant> {
        match peer {
            Peer::Pods { namespaces, pods } => {
                let namespaces = match namespaces {
                    Namespaces::Own => Where::Here(namespace.clone()),
                    Namespaces::Matching(selector) => Where::Matching(selector.clone()),
                };
                self.ask(universe, Question::Pods { namespaces, pods: pods.clone() })
            }
            Peer::Block(block) => self.ask(universe, Question::Block(block.clone())),
            Peer::Nothing => Rc::default(),
        }
    }

    /// Whom a peer of a ClusterNetworkPolicy means; None for everybody.
    pub fn of_tier(&mut self, universe: &Universe<'_>, peer: &TierPeer) -> Option<Vec<Rc<Meant>>> {
        Some(match peer {
            TierPeer::Pods { namespaces, pods } => {
                let namespaces = Where::Matching(namespaces.clone());
                vec![self.ask(universe, Question::Pods { namespaces, pods: pods.clone() })]
            }
            TierPeer::Networks(networks) => {
                let block = |cidr: &_| Question::Block(Block { cidr: *cidr, except: vec![] });
                networks.iter().map(|network| self.ask(universe, block(network))).collect()
            }
            TierPeer::Nodes(selector) => {
                vec![self.ask(universe, Question::Nodes(selector.clone()))]
            }
            TierPeer::Anybody => return None,
            TierPeer::Nobody => Vec::new(),
        })
    }

    /// Whom a peer of a security group's rule means.
    pub fn of_group(
        &mut self,
        universe: &Universe<'_>,
        cluster: &Cluster,
        peer: &GroupPeer,
    ) -> Vec<Rc<Meant>> {
        // Finding the interfaces of a group takes a look at all of them.
        if let Some(known) = self.of_groups.get(peer) {
            return known.clone();
        }
        let meant = self.find_group(universe, cluster, peer);
        self.of_groups.insert(peer.clone(), meant.clone());
        meant
    }

    fn find_group(
        &mut self,
        universe: &Universe<'_>,
        cluster: &Cluster,
        peer: &GroupPeer,
    ) -> Vec<Rc<Meant>> {
        let block = |cidr: &_| Question::Block(Block { cidr: *cidr, except: vec![] });
        match peer {
            GroupPeer::Network(network) => vec![self.ask(universe, block(network))],
            GroupPeer::PrefixList(id) => {
                let networks = cluster.security.prefix_lists.get(id).into_iter().flatten();
                networks.map(|network| self.ask(universe, block(network))).collect()
            }
            GroupPeer::Group(id) => {
                let interfaces = cluster.security.interfaces.values();
                let of_group = interfaces.filter(|interface| interface.groups.contains(id));
                let mut meant: Vec<Rc<Meant>> = of_group
                    .flat_map(|interface| &interface.addresses)
                    .map(|network| self.ask(universe, block(network)))
                    .collect();
                meant.push(self.ask(universe, Question::Group(id.clone())));
                meant
            }
        }
    }

    fn ask(&mut self, universe: &Universe<'_>, question: Question) -> Rc<Meant> {
        if let Some(known) = self.known.get(&question) {
            return known.clone();
        }
        let meant = Rc::new(answer(universe, &question));
        self.known.insert(question, meant.clone());
        meant
    }
}

fn answer(universe: &Universe<'_>, question: &Question) -> Meant {
    match question {
        Question::Pods { namespaces, pods } => {
            let mut profiles: BTreeSet<ProfileId> = BTreeSet::new();
            let mut look = |ids: &[ProfileId]| {
                let matches = |id: &&ProfileId| pods.matches(&universe.profile(**id).pod.labels);
                profiles.extend(ids.iter().filter(matches));
            };
            match namespaces {
                Where::Here(namespace) => look(universe.profiles_in(namespace)),
                Where::Matching(selector) => {
                    for (_, ids) in universe.namespaces() {
                        let namespace = ids.first().map(|id| universe.profile(*id).namespace);
                        if namespace.is_some_and(|labels| selector.matches(labels)) {
                            look(ids);
                        }
                    }
                }
            }
            claimed(universe, &profiles)
        }
        Question::Block(block) => {
            let regions = universe.regions.ids();
            let within = regions.filter(|region| universe.regions.is_in_block(*region, block));
            let remotes = within.flat_map(|region| universe.remotes_in(region)).copied();
            Meant::exactly(remotes.collect())
        }
        Question::Nodes(selector) => {
            let has_node = |remote: &crate::universe::Remote| {
                remote.nodes.iter().any(|labels| selector.matches(labels))
            };
            let remotes = universe.remotes().filter(|(_, remote)| has_node(remote));
            Meant::exactly(remotes.map(|(id, _)| id).collect())
        }
        Question::Group(group) => {
            let has = |profile: &Profile<'_>| {
                profile.groups.as_ref().is_some_and(|groups| groups.contains(group))
            };
            let profiles = universe.profiles().filter(|(_, profile)| has(profile));
            let meant = claimed(universe, &profiles.map(|(id, _)| id).collect());
            Meant { any: None, ..meant }
        }
    }
}

/// The remotes that pods of these profiles claim.
fn claimed(universe: &Universe<'_>, profiles: &BTreeSet<ProfileId>) -> Meant {
    let any = profiles.iter().flat_map(|profile| universe.remotes_of(*profile)).copied();
    let any = Meant::exactly(any.collect()).all;
    let is_sole = |id: &RemoteId| {
        universe.remote(*id).claimants.iter().all(|claimant| profiles.contains(claimant))
    };
    let all: Vec<RemoteId> = any.iter().copied().filter(is_sole).collect();
    match all.len() == any.len() {
        true => Meant { all, any: None },
        false => Meant { all, any: Some(any) },
    }
}
