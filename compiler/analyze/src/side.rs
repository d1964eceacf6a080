//! One end of a connection: what the policies of a pod permit with each remote.
//!
//! Here: the order of tiers, NetworkPolicies and security groups (S62), worked out for all ports at
//! once. Not here: both ends together ([`crate::Analysis::between`]), and what depends on more than
//! addresses: the pod itself (S47), its own node (S44, S45), and Services before their translation
//! (S48).

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use netpolc_policy::{
    Action, Cluster, Direction, Enforcement, Isolation, Mode, ObjectKey, Peers, Pod, Policy, Ports,
    Priority, Tier, TierPolicy, TierRule, Unselected,
};

use crate::{
    peers::{Claimants, Meant, PeerIndex},
    ports::{Listed, PortName, of_group, resolved},
    traffic::{Interner, TrafficId, TrafficSet},
    universe::{ProfileId, Remote, RemoteId, Universe},
};

/// What a direction of a profile permits, for all remotes: those that no rule names, and the
/// others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// With a remote that is not in `named`.
    pub base: TrafficId,
    /// With those that some rule names, in order.
    pub named: Vec<(RemoteId, TrafficId)>,
}

impl Row {
    /// What is permitted with this remote.
    pub fn with(&self, remote: RemoteId) -> TrafficId {
        let at = self.named.binary_search_by_key(&remote, |(id, _)| *id);
        at.map_or(self.base, |at| self.named[at].1)
    }
}

/// A direction of a profile, with its rules in the order in which they are asked.
#[derive(Clone, Debug)]
pub struct Side {
    direction: Direction,
    admin: Rc<[Level]>,
    policies: Option<Vec<Grant>>,
    baseline: Rc<[Level]>,
    gate: Option<Rc<[Grant]>>,
}

/// The ClusterNetworkPolicies of one tier and priority that are about the profile.
#[derive(Clone, Debug, Default)]
struct Level(Vec<Vec<(Action, Grant)>>);

/// Traffic, and those with whom a rule is about it.
#[derive(Clone, Debug)]
struct Grant {
    /// None: everybody.
    peers: Option<Vec<Rc<Meant>>>,
    /// Whatever the remote is.
    traffic: TrafficId,
    /// What stands for ports of the pod at the other end.
    names: Vec<PortName>,
    /// The peers by whom names mean nothing: blocks of addresses (S31).
    unnamed: Option<Vec<Rc<Meant>>>,
}

/// What a side is made from.
pub(crate) struct Sources<'w, 'a> {
    pub cluster: &'a Cluster,
    pub universe: &'w Universe<'a>,
    pub peers: &'w mut PeerIndex,
    pub traffic: &'w mut Interner,
    /// The NetworkPolicies of each namespace.
    pub policies: &'w BTreeMap<&'a str, Vec<&'a Policy>>,
}

impl Side {
    /// The rules about a direction of a profile. `without` leaves a policy out as if it were not
    /// there.
    pub(crate) fn of(
        sources: &mut Sources<'_, '_>,
        profile: ProfileId,
        direction: Direction,
        without: &Without,
    ) -> Self {
        Self {
            direction,
            admin: levels(sources, profile, direction, Tier::Admin, without).into(),
            policies: granted(sources, profile, direction, without),
            baseline: levels(sources, profile, direction, Tier::Baseline, without).into(),
            gate: gate(sources, profile, direction).map(Into::into),
        }
    }

    /// The same rules, with NetworkPolicies as if something of them were not there.
    pub(crate) fn without_policies(
        &self,
        sources: &mut Sources<'_, '_>,
        profile: ProfileId,
        without: &Without,
    ) -> Self {
        Self { policies: granted(sources, profile, self.direction, without), ..self.clone() }
    }

    /// Does anything isolate the profile in this direction, or order what it may do?
    pub fn is_open(&self) -> bool {
        self.admin.is_empty()
            && self.policies.is_none()
            && self.baseline.is_empty()
            && self.gate.is_none()
    }

    /// Does a NetworkPolicy isolate the profile in this direction, or the default of its namespace?
    pub fn is_isolated(&self) -> bool {
        self.policies.is_some()
    }

    /// What is permitted with a remote.
    pub(crate) fn with(
        &self,
        remote: RemoteId,
        universe: &Universe<'_>,
        traffic: &mut Interner,
    ) -> TrafficId {
        let mut cell = Cell { side: self, remote: Some(remote), universe, traffic };
        cell.permitted()
    }

    /// What NetworkPolicies grant with a remote, or with one that no rule names, whatever tiers and
    /// groups say of it; None where no policy isolates.
    pub(crate) fn granted(
        &self,
        remote: Option<RemoteId>,
        universe: &Universe<'_>,
        traffic: &mut Interner,
    ) -> Option<TrafficId> {
        let mut cell = Cell { side: self, remote, universe, traffic };
        self.policies.as_ref().map(|grants| cell.granted(grants))
    }

    /// What is permitted with a remote that no rule names.
    pub(crate) fn base(&self, universe: &Universe<'_>, traffic: &mut Interner) -> TrafficId {
        Cell { side: self, remote: None, universe, traffic }.permitted()
    }

    /// What a tier accepts with a remote, and what it leaves to others; None: a remote that no rule
    /// names.
    pub(crate) fn tier(
        &self,
        tier: Tier,
        remote: Option<RemoteId>,
        universe: &Universe<'_>,
        traffic: &mut Interner,
    ) -> TierAnswer {
        let levels = match tier {
            Tier::Admin => &self.admin,
            Tier::Baseline => &self.baseline,
        };
        let (mut left, mut accepted) = (TrafficId::EVERYTHING, TrafficId::NOTHING);
        let mut cell = Cell { side: self, remote, universe, traffic };
        cell.tier(levels, &mut left, &mut accepted);
        TierAnswer { accepted, left }
    }

    /// Those that the rules of a tier name, in order.
    pub(crate) fn named_by_tier(&self, tier: Tier, universe: &Universe<'_>) -> Vec<RemoteId> {
        let levels = match tier {
            Tier::Admin => &self.admin,
            Tier::Baseline => &self.baseline,
        };
        let grants = levels.iter().flat_map(|level| level.0.iter().flatten());
        self.named(grants.map(|(_, grant)| grant), universe)
    }

    /// What NetworkPolicies grant with anybody at all, whatever tiers and groups say of it; a port
    /// name counts as every port that has it on any pod, which `known` remembers.
    pub(crate) fn granted_with_anybody(
        &self,
        universe: &Universe<'_>,
        traffic: &mut Interner,
        known: &mut HashMap<PortName, TrafficId>,
    ) -> TrafficId {
        let mut all = TrafficId::NOTHING;
        for grant in self.policies.iter().flatten() {
            let has_peers =
                |peers: &Vec<Rc<Meant>>| peers.iter().any(|meant| !meant.all.is_empty());
            let is_meant = grant.peers.as_ref().is_none_or(has_peers);
            if is_meant || grant.unnamed.as_ref().is_some_and(has_peers) {
                all = traffic.union(all, grant.traffic);
            }
            for port in grant.names.iter().filter(|_| is_meant) {
                let ports = *known.entry(port.clone()).or_insert_with(|| {
                    let (protocol, name) = port;
                    let ports = universe.profiles().map(|(_, p)| resolved(p.pod, *protocol, name));
                    traffic.intern(ports.fold(TrafficSet::nothing(), |all, p| all.union(&p)))
                });
                all = traffic.union(all, ports);
            }
        }
        all
    }

    /// What is permitted with each remote.
    pub(crate) fn row(&self, universe: &Universe<'_>, traffic: &mut Interner) -> Row {
        let base = self.base(universe, traffic);
        let levels = self.admin.iter().chain(&*self.baseline);
        let of_tiers = levels.flat_map(|level| level.0.iter().flatten()).map(|(_, grant)| grant);
        let grants = self.policies.iter().flatten();
        let grants = grants.chain(self.gate.iter().flat_map(|gate| gate.iter()));
        let named = self.named(of_tiers.chain(grants), universe);
        let with = |remote: RemoteId| (remote, self.with(remote, universe, traffic));
        let mut named: Vec<(RemoteId, TrafficId)> = named.into_iter().map(with).collect();
        named.retain(|(_, permitted)| *permitted != base);
        Row { base, named }
    }

    /// Those that grants name, in order.
    fn named<'g>(
        &self,
        grants: impl Iterator<Item = &'g Grant>,
        universe: &Universe<'_>,
    ) -> Vec<RemoteId> {
        let mut named: Vec<RemoteId> = Vec::new();
        for grant in grants {
            for peers in grant.peers.iter().chain(&grant.unnamed) {
                let meant = peers.iter().flat_map(|meant| meant.among(Claimants::Any));
                named.extend(meant.copied());
            }
            // A name stands for ports of pods, so whoever is no pod answers otherwise.
            if !grant.names.is_empty() && self.direction == Direction::Egress {
                let pods = universe.remotes().filter(|(_, remote)| !remote.claimants.is_empty());
                named.extend(pods.map(|(id, _)| id));
            }
        }
        named.sort_unstable();
        named.dedup();
        named
    }
}

/// What a tier says of the traffic with a remote. What is neither accepted nor left is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TierAnswer {
    /// Accepted for good.
    pub accepted: TrafficId,
    /// Passed on, or not decided.
    pub left: TrafficId,
}

/// What is left out of a side: for finding out what it is there for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Without {
    /// Nothing is left out.
    #[default]
    Nothing,
    /// This NetworkPolicy.
    Policy(ObjectKey),
    /// This rule of it, by direction and index; the policy isolates all the same.
    Rule(ObjectKey, Direction, usize),
    /// This ClusterNetworkPolicy.
    Tier(netpolc_policy::TierKey),
    /// This rule of it, by direction and index.
    TierRule(netpolc_policy::TierKey, Direction, usize),
    /// All of these.
    Several(Vec<Without>),
}

impl Without {
    /// Is it all about NetworkPolicies?
    pub(crate) fn is_of_policies(&self) -> bool {
        match self {
            Without::Policy(_) | Without::Rule(..) => true,
            Without::Several(all) => all.iter().all(Without::is_of_policies),
            Without::Nothing | Without::Tier(_) | Without::TierRule(..) => false,
        }
    }

    /// Is this one left out?
    fn has(&self, is: &impl Fn(&Without) -> bool) -> bool {
        match self {
            Without::Several(all) => all.iter().any(|one| one.has(is)),
            one => is(one),
        }
    }
}

/// One side and one remote.
struct Cell<'w, 'a> {
    side: &'w Side,
    /// None: one that no rule names.
    remote: Option<RemoteId>,
    universe: &'w Universe<'a>,
    traffic: &'w mut Interner,
}

impl Cell<'_, '_> {
    fn permitted(&mut self) -> TrafficId {
        let side = self.side;
        let mut permitted = TrafficId::NOTHING;
        let mut left = TrafficId::EVERYTHING;
        self.tier(&side.admin, &mut left, &mut permitted);
        match &side.policies {
            Some(grants) => {
                let granted = self.granted(grants);
                let here = self.traffic.intersection(left, granted);
                permitted = self.traffic.union(permitted, here);
            }
            None => {
                self.tier(&side.baseline, &mut left, &mut permitted);
                permitted = self.traffic.union(permitted, left);
            }
        }
        match &side.gate {
            Some(grants) => {
                let through = self.granted(grants);
                self.traffic.intersection(permitted, through)
            }
            None => permitted,
        }
    }

    /// Takes from `left` what the tier decides, and adds to `permitted` what it accepts.
    fn tier(&mut self, levels: &[Level], left: &mut TrafficId, permitted: &mut TrafficId) {
        let mut passed = TrafficId::NOTHING;
        for level in levels {
            let (mut denied, mut accepted, mut on) =
                (TrafficId::NOTHING, TrafficId::NOTHING, TrafficId::NOTHING);
            for policy in &level.0 {
                // Each policy is asked by itself (S64); its first rule that matches decides.
                let mut open = *left;
                for (action, grant) in policy {
                    if open == TrafficId::NOTHING {
                        break;
                    }
                    let all = self.of(grant, Claimants::All);
                    let any = match action {
                        Action::Accept => all,
                        Action::Deny | Action::Pass => self.of(grant, Claimants::Any),
                    };
                    let (all, any) = (
                        self.traffic.intersection(all, open),
                        self.traffic.intersection(any, open),
                    );
                    match action {
                        Action::Accept => accepted = self.traffic.union(accepted, all),
                        Action::Deny => denied = self.traffic.union(denied, any),
                        // Where only some of the pods that claim an address are meant, it is
                        // denied.
                        Action::Pass => {
                            on = self.traffic.union(on, all);
                            let some = self.traffic.minus(any, all);
                            denied = self.traffic.union(denied, some);
                        }
                    }
                    open = self.traffic.minus(open, any);
                }
            }
            // Among the answers Deny wins, then Accept, then Pass.
            let accepted = self.traffic.minus(accepted, denied);
            *permitted = self.traffic.union(*permitted, accepted);
            let decided = self.traffic.union(accepted, denied);
            let on = self.traffic.minus(on, decided);
            passed = self.traffic.union(passed, on);
            let decided = self.traffic.union(decided, on);
            *left = self.traffic.minus(*left, decided);
        }
        *left = self.traffic.union(*left, passed);
    }

    fn granted(&mut self, grants: &[Grant]) -> TrafficId {
        let mut all = TrafficId::NOTHING;
        for grant in grants {
            if all == TrafficId::EVERYTHING {
                break;
            }
            let here = self.of(grant, Claimants::All);
            all = self.traffic.union(all, here);
        }
        all
    }

    /// What the rule is about with this remote.
    fn of(&mut self, grant: &Grant, claimants: Claimants) -> TrafficId {
        let is_meant = |peers: &[Rc<Meant>]| {
            let remote = self.remote;
            remote.is_some_and(|remote| peers.iter().any(|meant| meant.has(remote, claimants)))
        };
        let meant = grant.peers.as_ref().is_none_or(|peers| is_meant(peers));
        let unnamed = grant.unnamed.as_ref().is_some_and(|peers| is_meant(peers));
        if !meant && !unnamed {
            return TrafficId::NOTHING;
        }
        if grant.names.is_empty() || !meant {
            return grant.traffic;
        }
        let named = self.names(&grant.names, claimants);
        self.traffic.union(grant.traffic, named)
    }

    /// The ports that the names stand for on the remote.
    fn names(&mut self, names: &[PortName], claimants: Claimants) -> TrafficId {
        let Some(remote) = self.remote else { return TrafficId::NOTHING };
        let mut found = TrafficSet::nothing();
        for (protocol, name) in names {
            let of = |profile: &ProfileId| {
                resolved(self.universe.profile(*profile).pod, *protocol, name)
            };
            let mut each = self.universe.remote(remote).claimants.iter().map(of);
            let Some(first) = each.next() else { continue };
            let joined = each.fold(first, |so_far, next| match claimants {
                Claimants::All => so_far.intersection(&next),
                Claimants::Any => so_far.union(&next),
            });
            found = found.union(&joined);
        }
        self.traffic.intern(found)
    }
}

/// Splits a rule's ports into those that are known, and names that the remote's pod resolves.
fn split(ports: &Ports, own: &Pod, direction: Direction) -> (TrafficSet, Vec<PortName>) {
    let Listed { known, names } = Listed::of(ports);
    match direction {
        Direction::Egress => (known, names),
        Direction::Ingress => {
            let own = names.iter().map(|(protocol, name)| resolved(own, *protocol, name));
            (own.fold(known, |known, set| known.union(&set)), Vec::new())
        }
    }
}

/// Is the policy one that decides about the profile?
fn selects(policy: &Policy, pod: &netpolc_policy::Pod) -> bool {
    policy.mode == Mode::Enforced && policy.selector.matches(&pod.labels)
}

/// What NetworkPolicies grant; None where none isolates the profile in this direction (S65), and
/// nothing does by default (S90).
fn granted(
    sources: &mut Sources<'_, '_>,
    profile: ProfileId,
    direction: Direction,
    without: &Without,
) -> Option<Vec<Grant>> {
    let pod = sources.universe.profile(profile).pod;
    let policies = sources.policies.get(&*pod.key.namespace);
    let mut grants: Option<Vec<Grant>> = None;
    for policy in policies.into_iter().flatten().filter(|policy| selects(policy, pod)) {
        let Isolation::Isolated(rules) = policy.isolation(direction) else { continue };
        if without.has(&|out| matches!(out, Without::Policy(key) if *key == policy.key)) {
            continue;
        }
        let grants = grants.get_or_insert_default();
        for (index, rule) in rules.iter().enumerate() {
            let is_it = |out: &Without| {
                matches!(out, Without::Rule(key, d, rule)
                    if (key, *d, *rule) == (&policy.key, direction, index))
            };
            if without.has(&is_it) {
                continue;
            }
            let (known, names) = split(&rule.ports, pod, direction);
            let (mut peers, mut unnamed) = (None, None);
            if let Peers::Listed(listed) = &rule.peers {
                let (mut resolve, mut do_not) = (Vec::new(), Vec::new());
                for peer in listed {
                    let is_block = matches!(peer, netpolc_policy::Peer::Block(_));
                    let namespace = &policy.key.namespace;
                    let meant = sources.peers.of_policy(sources.universe, namespace, peer);
                    match is_block && !names.is_empty() {
                        true => do_not.push(meant),
                        false => resolve.push(meant),
                    }
                }
                peers = Some(resolve);
                unnamed = (!do_not.is_empty()).then_some(do_not);
            }
            let traffic = sources.traffic.intern(known);
            grants.push(Grant { peers, traffic, names, unnamed });
        }
    }
    let cluster = sources.cluster;
    let own = cluster.namespaces.get(&pod.key.namespace).and_then(|n| n.unselected);
    let by_default = own.unwrap_or(match cluster.by_default.except.contains(&pod.key.namespace) {
        true => Unselected::Open,
        false => cluster.by_default.unselected,
    });
    match by_default {
        Unselected::Open => grants,
        Unselected::Isolated => Some(grants.unwrap_or_default()),
    }
}

/// The policies of a tier that are about the profile, by priority.
fn levels(
    sources: &mut Sources<'_, '_>,
    profile: ProfileId,
    direction: Direction,
    tier: Tier,
    without: &Without,
) -> Vec<Level> {
    let pod = sources.universe.profile(profile).pod;
    let mut levels: BTreeMap<Priority, Level> = BTreeMap::new();
    let about = sources.cluster.tiers.values().filter(|policy| {
        policy.tier == tier
            && policy.mode == Mode::Enforced
            && !policy.rules(direction).is_empty()
            && policy.is_about(sources.cluster, pod)
            && !without.has(&|out| matches!(out, Without::Tier(key) if *key == policy.key))
    });
    for policy in about.collect::<Vec<&TierPolicy>>() {
        let rules = policy.rules(direction).iter().enumerate();
        let is_in = |(index, _): &(usize, &TierRule)| {
            !without.has(&|out| {
                matches!(out, Without::TierRule(key, d, rule)
                    if (key, *d, *rule) == (&policy.key, direction, *index))
            })
        };
        let rules: Vec<&TierRule> = rules.filter(is_in).map(|(_, rule)| rule).collect();
        let rules = rules.into_iter().map(|rule| {
            let (known, names) = split(&rule.ports, pod, direction);
            let mut peers = Some(Vec::new());
            for peer in &rule.peers {
                match (sources.peers.of_tier(sources.universe, peer), &mut peers) {
                    (Some(meant), Some(peers)) => peers.extend(meant),
                    _ => peers = None,
                }
            }
            let traffic = sources.traffic.intern(known);
            (rule.action, Grant { peers, traffic, names, unnamed: None })
        });
        let rules = rules.collect();
        levels.entry(policy.priority).or_default().0.push(rules);
    }
    levels.into_values().collect()
}

/// The remotes whose pods are all on the node of this profile's pods.
fn beside(universe: &Universe<'_>, profile: ProfileId) -> Rc<Meant> {
    let node = |profile: &ProfileId| universe.profile(*profile).pod.node.as_ref();
    let own = node(&profile);
    let is_beside = |remote: &Remote| {
        own.is_some()
            && !remote.claimants.is_empty()
            && remote.claimants.iter().all(|claimant| node(claimant) == own)
    };
    let remotes = universe.remotes().filter(|(_, remote)| is_beside(remote));
    Rc::new(Meant::exactly(remotes.map(|(id, _)| id).collect()))
}

/// What the profile's security groups permit; None where it has none (S76).
fn gate(
    sources: &mut Sources<'_, '_>,
    profile: ProfileId,
    direction: Direction,
) -> Option<Vec<Grant>> {
    let groups = sources.universe.profile(profile).groups.clone()?;
    let security = &sources.cluster.security;
    let mut grants = Vec::new();
    for rule in
        groups.iter().filter_map(|id| security.groups.get(id)).flat_map(|g| g.rules(direction))
    {
        let peers = rule.peers.iter();
        let meant =
            peers.flat_map(|p| sources.peers.of_group(sources.universe, sources.cluster, p));
        let peers = Some(meant.collect());
        let traffic = sources.traffic.intern(of_group(rule.traffic));
        grants.push(Grant { peers, traffic, names: Vec::new(), unnamed: None });
    }
    if security.enforcement == Enforcement::Standard {
        // S82: what stays on the pod's node is not judged by groups.
        let peers = Some(vec![beside(sources.universe, profile)]);
        let traffic = TrafficId::EVERYTHING;
        grants.push(Grant { peers, traffic, names: Vec::new(), unnamed: None });
    }
    if direction == Direction::Egress {
        // S81: the resolvers are never blocked.
        let fixed = netpolc_policy::group::RESOLVERS.iter().chain(&security.resolvers);
        let meant = fixed.map(|address| {
            let peer = netpolc_policy::GroupPeer::Network((*address).into());
            sources.peers.of_group(sources.universe, sources.cluster, &peer)
        });
        let peers = Some(meant.flatten().collect());
        let traffic = TrafficId::EVERYTHING;
        grants.push(Grant { peers, traffic, names: Vec::new(), unnamed: None });
    }
    Some(grants)
}
