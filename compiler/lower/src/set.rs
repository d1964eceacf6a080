//! What a policy set is: everything that the policies say which decide about an endpoint in one
//! direction, as one list of rules. Where tiers are among them, its order is the order in which
//! rules are asked (S62).
//!
//! Not here: what decides about whom ([`crate::deciding`]), which sets there are ([`crate::sets`]),
//! and what one grants whom ([`crate::grants`]).

use std::{collections::BTreeSet, sync::Arc};

use ipnetwork::IpNetwork;
use netpolc_policy::{Action, Block, Direction, GroupPeer, Isolation, Peer, Peers, Tier, TierPeer};
use netpolc_table::{Origin, SetId, TierAction, TierName, schema::Family};

use crate::{
    deciding::{Blame, Deciding, Groups, SetKey},
    index::{AtomId, IdMap},
    membership::{Among, Atom, Atoms, Membership, NamespaceScope, PortName},
    policies::PolicySlot,
    rules::{
        Allowed, Ordered, Role, Rule, What, Who, allowed, node_ports, pods_atom, traffic,
        whole_family, without_names,
    },
    tiers::TierSlot,
    worklist::Worklist,
};

#[derive(Debug)]
enum Source {
    Policy {
        policy: Arc<str>,
        rule: u32,
    },
    Tier {
        tier: Tier,
        policy: Arc<str>,
        rule: u32,
        action: Action,
    },
    /// By its id, and its rule's where that is known.
    Group {
        group: Arc<str>,
        rule: Option<Arc<str>>,
    },
    Implied(Arc<str>),
}

/// How origins name the permission of what no rule of a tier decides (S62).
pub const NO_RULE_DECIDES: &str = "no rule decides (S62)";

/// Whom a rule is about, as one of its peers says it, and which atoms that needs.
enum Subject {
    Who(Who),
    Atom(Atom),
}

/// A set as it was made; nobody changes one.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) id: SetId,
    pub(crate) key: SetKey,
    /// The namespace of its NetworkPolicies; empty where it has none.
    pub(crate) namespace: Arc<str>,
    pub(crate) rules: Vec<Rule>,
    sources: Vec<Source>,
    /// Labels of the isolating policies.
    pub(crate) isolating: Vec<Arc<str>>,
    /// Ids of the security groups.
    gating: Vec<Arc<str>>,
    /// The protocols without ports that rules of the groups name, so that they are told apart from
    /// all others (S77).
    pub(crate) apart: BTreeSet<u8>,
    /// Rules that hold whatever the class.
    base: Vec<usize>,
    by_atom: IdMap<AtomId, Vec<usize>>,
    /// Those of what is tried included.
    names: BTreeSet<PortName>,
    /// What would hold if everything that is only tried were enforced, and who is behind it.
    pub(crate) tried: Option<Box<(Set, Blame)>>,
}

impl Set {
    /// All rules of these policies in the key's direction, in their order; acquires the atoms of
    /// their peers, each once, however many rules name it.
    pub(crate) fn flatten(
        id: SetId,
        key: SetKey,
        deciding: &Deciding,
        membership: &mut Membership,
        work: &mut Worklist,
    ) -> Self {
        let tried_key = key.tried.as_deref().cloned();
        let mut set = Self::empty(id, key, deciding);
        set.add_tier(Tier::Admin, &deciding.tiers, membership, work);
        set.add_policies(&deciding.policies, membership, work);
        set.add_tier(Tier::Baseline, &deciding.tiers, membership, work);
        if let Some(groups) = &deciding.groups {
            set.add_groups(groups, membership, work);
        }
        if let (Some(key), Some(tried)) = (tried_key, &deciding.tried) {
            let shadow = Self::flatten(id, key, &tried.deciding, membership, work);
            set.names.extend(shadow.names.iter().cloned());
            set.tried = Some(Box::new((shadow, Blame::of(tried))));
        }
        set
    }

    fn add_groups(&mut self, groups: &Groups, membership: &mut Membership, work: &mut Worklist) {
        let (direction, role) = (self.key.direction, Role::Group);
        for slot in &groups.slots {
            for rule in slot.group.rules(direction) {
                let group: Arc<str> = slot.id.as_str().into();
                let source = self.add_source(Source::Group { group, rule: rule.id.clone() });
                let ports = Arc::new(traffic(rule.traffic));
                for (i, peer) in rule.peers.iter().enumerate() {
                    let subject = match peer {
                        GroupPeer::Network(network) => network_subject(network),
                        GroupPeer::PrefixList(list) => match slot.lists.get(list) {
                            Some(list) => Subject::Atom(Atom::Networks(list.clone())),
                            None => continue,
                        },
                        GroupPeer::Group(id) => Subject::Atom(Atom::Group(id.clone())),
                    };
                    let who = self.who(subject, membership, work);
                    let (peer, ports) = (Some(i as u32), ports.clone());
                    self.push(Rule { who, role, source, peer, ports });
                }
            }
        }
        if direction == Direction::Egress {
            let resolvers = Subject::Atom(Atom::Networks(groups.resolvers.clone()));
            let who = self.who(resolvers, membership, work);
            let source = self.add_source(Source::Implied("the network's resolver (S81)".into()));
            self.push(Rule { who, role, source, peer: None, ports: Arc::new(Allowed::Any) });
        }
        if let Some(node) = &groups.exempt {
            self.exempt(node, membership, work);
        }
    }

    /// Lets through what stays on the pods' node (S82). What comes in from the node's own addresses
    /// is not meant: what the node has sent is known otherwise, and the rest was forwarded.
    fn exempt(&mut self, node: &Arc<str>, membership: &mut Membership, work: &mut Worklist) {
        let source = self.add_source(Source::Implied("stays on the node (S82)".into()));
        let pods = (Atom::PodsOn(node.clone()), Allowed::Any);
        let own = || (Atom::Node(node.clone()), node_ports(&self.key.health_checks));
        let own = (self.key.direction == Direction::Egress).then(own);
        for (atom, ports) in [pods].into_iter().chain(own) {
            let who = Who::Atom(self.acquire(atom, membership, work));
            let ports = Arc::new(ports);
            self.push(Rule { who, role: Role::Group, source, peer: None, ports });
        }
    }

    fn who(&mut self, subject: Subject, membership: &mut Membership, work: &mut Worklist) -> Who {
        match subject {
            Subject::Who(who) => who,
            Subject::Atom(atom) => Who::Atom(self.acquire(atom, membership, work)),
        }
    }

    fn add_tier(
        &mut self,
        tier: Tier,
        slots: &[Arc<TierSlot>],
        membership: &mut Membership,
        work: &mut Worklist,
    ) {
        let direction = self.key.direction;
        let here = slots.iter().enumerate().filter(|(_, slot)| slot.policy.tier == tier);
        for (number, slot) in here {
            for (index, rule) in slot.policy.rules(direction).iter().enumerate() {
                // An address that several pods claim gets no more than each of them would: a Pass
                // that is about some of them only denies.
                let steps: &[(Action, Among)] = match rule.action {
                    Action::Accept => &[(Action::Accept, Among::All)],
                    Action::Deny => &[(Action::Deny, Among::Any)],
                    Action::Pass => &[(Action::Pass, Among::All), (Action::Deny, Among::Any)],
                };
                for &(action, among) in steps {
                    let source = self.add_source(Source::Tier {
                        tier,
                        policy: slot.label.clone(),
                        rule: index as u32,
                        action,
                    });
                    let ordered =
                        Ordered { level: slot.policy.priority, policy: number as u32, action };
                    let role = match tier {
                        Tier::Admin => Role::Admin(ordered),
                        Tier::Baseline => Role::Baseline(ordered),
                    };
                    let ports = allowed(&rule.ports, direction, &self.key.resolved, among);
                    let ports = Arc::new(ports);
                    for (i, peer) in rule.peers.iter().enumerate() {
                        for subject in subjects(peer, among) {
                            let who = self.who(subject, membership, work);
                            let (peer, ports) = (Some(i as u32), ports.clone());
                            self.push(Rule { who, role, source, peer, ports });
                        }
                    }
                }
            }
        }
    }

    fn add_policies(
        &mut self,
        policies: &[Arc<PolicySlot>],
        membership: &mut Membership,
        work: &mut Worklist,
    ) {
        let set = self;
        for slot in policies {
            let Isolation::Isolated(rules) = slot.policy.isolation(set.key.direction) else {
                continue;
            };
            for (index, rule) in rules.iter().enumerate() {
                let source = Source::Policy { policy: slot.label.clone(), rule: index as u32 };
                let source = set.add_source(source);
                let (direction, resolved) = (set.key.direction, &set.key.resolved);
                let ports = Arc::new(allowed(&rule.ports, direction, resolved, Among::All));
                let role = Role::Policy;
                let listed = match &rule.peers {
                    Peers::Any => {
                        set.push(Rule { who: Who::Any, role, source, peer: None, ports });
                        continue;
                    }
                    Peers::Listed(list) => list,
                };
                for (i, peer) in listed.iter().enumerate() {
                    let mut atom = |atom| Who::Atom(set.acquire(atom, membership, work));
                    let lowered = lower(peer, &slot.policy.key.namespace, &ports, &mut atom);
                    let Some((who, ports)) = lowered else { continue };
                    set.push(Rule { who, role, source, peer: Some(i as u32), ports });
                }
            }
        }
        // What an egress set says of its pods' own node (S45) is a rule like those of policies.
        if let Some(node) = set.key.node.clone().filter(|_| set.key.is_isolated()) {
            let ports = Arc::new(node_ports(&set.key.health_checks));
            let who = Who::Atom(set.acquire(Atom::Node(node), membership, work));
            let source = set.add_source(Source::Implied("own node (S45)".into()));
            set.push(Rule { who, role: Role::Policy, source, peer: None, ports });
        }
    }

    /// The atom, counted once for the set.
    fn acquire(&self, atom: Atom, membership: &mut Membership, work: &mut Worklist) -> AtomId {
        let known = membership.atoms().find(&atom).filter(|id| self.by_atom.contains_key(id));
        known.unwrap_or_else(|| membership.acquire(atom, work))
    }

    fn empty(id: SetId, key: SetKey, deciding: &Deciding) -> Self {
        let policies = &deciding.policies;
        let groups = deciding.groups.iter().flat_map(|groups| &groups.slots);
        let tried = deciding.tried.iter().flat_map(|tried| &tried.deciding.policies);
        let namespace = policies.iter().chain(tried).next();
        let namespace = namespace.map(|slot| slot.policy.key.namespace.clone());
        Self {
            id,
            key,
            namespace: namespace.unwrap_or_else(|| "".into()),
            rules: Vec::new(),
            sources: vec![Source::Implied(NO_RULE_DECIDES.into())],
            isolating: policies.iter().map(|slot| slot.label.clone()).collect(),
            gating: groups.map(|slot| slot.id.as_str().into()).collect(),
            apart: BTreeSet::new(),
            base: Vec::new(),
            by_atom: IdMap::default(),
            names: BTreeSet::new(),
            tried: None,
        }
    }

    /// All rules, those that are only tried included.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().chain(self.tried.iter().flat_map(|tried| &tried.0.rules))
    }

    /// The rules that are about an address of this family which is a member of these atoms.
    pub(crate) fn rules_for(
        &self,
        family: Family,
        members: &[AtomId],
    ) -> impl Iterator<Item = &Rule> {
        self.indices_for(family, members).map(|rule| &self.rules[rule])
    }

    /// The indices of these rules, in no order.
    pub(crate) fn indices_for(
        &self,
        family: Family,
        members: &[AtomId],
    ) -> impl Iterator<Item = usize> {
        let base = self.base.iter().filter(move |rule| match self.rules[**rule].who {
            Who::Any => true,
            Who::Family(f) => f == family,
            Who::Atom(_) => false,
        });
        let by_atom = members.iter().filter_map(|atom| self.by_atom.get(atom)).flatten();
        base.chain(by_atom).copied()
    }

    /// The policy of a rule of a tier, as users name it.
    pub(crate) fn policy_of(&self, rule: &Rule) -> Arc<str> {
        match &self.sources[rule.source as usize] {
            Source::Tier { policy, .. } | Source::Policy { policy, .. } => policy.clone(),
            Source::Group { group, .. } => group.clone(),
            Source::Implied(reason) => reason.clone(),
        }
    }

    /// The policy of a source, as users name it; None: it is no policy's.
    pub(crate) fn policy_of_source(&self, source: u32) -> Option<Arc<str>> {
        match &self.sources[source as usize] {
            Source::Tier { policy, .. } | Source::Policy { policy, .. } => Some(policy.clone()),
            Source::Group { .. } | Source::Implied(_) => None,
        }
    }

    /// The source of what no rule decides, where nothing isolates.
    pub(crate) fn default_source(&self) -> u32 {
        0
    }

    /// Why what nothing permits is denied: the policies that isolate, or the default, and the
    /// security groups.
    pub(crate) fn closing(&self) -> impl Iterator<Item = Origin> {
        let isolates = self.isolating.iter().map(|p| Origin::Isolates { policy: p.clone() });
        let by_default = self.key.is_by_default().then_some(Origin::ByDefault);
        let gates = self.gating.iter().map(|g| Origin::Group { group: g.clone(), rule: None });
        let unknown = self.key.is_grouped() && self.gating.is_empty();
        let unknown = unknown.then(|| {
            let reason = "nothing is known of the pod's security groups (S79)";
            Origin::Implied { reason: reason.into() }
        });
        isolates.chain(by_default).chain(gates).chain(unknown)
    }

    /// Is what this source grants the doing of a namespace, and not of the cluster's tiers?
    pub(crate) fn is_of_namespace(&self, source: u32) -> bool {
        matches!(self.sources[source as usize], Source::Policy { .. })
    }

    /// The port names that its rules ask for, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &PortName> {
        self.names.iter()
    }

    /// The atoms that its rules name, those that are only tried included, each once.
    pub(crate) fn peers(&self) -> impl Iterator<Item = AtomId> {
        let tried = self.tried.iter().flat_map(|tried| tried.0.by_atom.keys());
        let tried = tried.filter(|atom| !self.by_atom.contains_key(*atom));
        self.by_atom.keys().chain(tried).copied()
    }

    /// The atoms as often as they are counted for the set.
    pub(crate) fn acquired(&self) -> impl Iterator<Item = AtomId> {
        let tried = self.tried.iter().flat_map(|tried| tried.0.by_atom.keys());
        self.by_atom.keys().chain(tried).copied()
    }

    /// All atoms that make a difference to it: those that it names, every number of its port names,
    /// and, since what it grants leaves the ports of Services out, those of Services.
    pub(crate) fn looks_at(&self, membership: &Membership) -> impl Iterator<Item = AtomId> {
        let ports = self.names.iter().flat_map(|name| membership.port_atoms(name));
        let is_egress = self.key.direction == Direction::Egress;
        let services = membership.atoms().services().filter(move |_| is_egress);
        self.peers().chain(ports).chain(services)
    }

    /// Those of a class's members that make a difference to it, in the class's order: the part of
    /// [`Set::looks_at`] that the class has.
    pub(crate) fn sees(&self, members: &[AtomId], atoms: &Atoms) -> Vec<AtomId> {
        let names = |atom: &AtomId| {
            let by_tried = |tried: &(Set, Blame)| tried.0.by_atom.contains_key(atom);
            self.by_atom.contains_key(atom) || self.tried.as_deref().is_some_and(by_tried)
        };
        let follows = |atom: &AtomId| match atoms.get(*atom) {
            Atom::Port { name, .. } => self.names.contains(name),
            Atom::Service { .. } => self.key.direction == Direction::Egress,
            _ => false,
        };
        members.iter().copied().filter(|atom| names(atom) || follows(atom)).collect()
    }

    /// The origin of a rule for a peer.
    pub(crate) fn origin(&self, rule: &Rule) -> Origin {
        match &self.sources[rule.source as usize] {
            Source::Policy { policy, rule: index } => {
                Origin::Rule { policy: policy.clone(), rule: *index, peer: rule.peer, port: None }
            }
            Source::Tier { tier, policy, rule, action } => {
                tier_origin(*tier, policy, *rule, *action)
            }
            Source::Group { group, rule } => group_origin(group, rule.as_ref()),
            Source::Implied(reason) => Origin::Implied { reason: reason.clone() },
        }
    }

    /// The origin of a granted port.
    pub(crate) fn source_origin(&self, source: u32, port: Option<u32>) -> Origin {
        match &self.sources[source as usize] {
            Source::Policy { policy, rule } => {
                Origin::Rule { policy: policy.clone(), rule: *rule, peer: None, port }
            }
            Source::Tier { tier, policy, rule, action } => {
                tier_origin(*tier, policy, *rule, *action)
            }
            Source::Group { group, rule } => group_origin(group, rule.as_ref()),
            Source::Implied(reason) => Origin::Implied { reason: reason.clone() },
        }
    }

    fn add_source(&mut self, source: Source) -> u32 {
        self.sources.push(source);
        self.sources.len() as u32 - 1
    }

    fn push(&mut self, rule: Rule) {
        let index = self.rules.len();
        match rule.who {
            Who::Any | Who::Family(_) => self.base.push(index),
            Who::Atom(atom) => self.by_atom.entry(atom).or_default().push(index),
        }
        self.names.extend(rule.listed().iter().filter_map(|(_, what)| match what {
            What::Named(name) => Some(name.clone()),
            What::Range(_) | What::Apart(_) | What::Portless => None,
        }));
        self.apart.extend(rule.listed().iter().filter_map(|(_, what)| match what {
            What::Apart((number, ..)) => Some(*number),
            What::Range(_) | What::Named(_) | What::Portless => None,
        }));
        self.rules.push(rule);
    }
}

fn group_origin(group: &Arc<str>, rule: Option<&Arc<str>>) -> Origin {
    // A rule without an id of its own is still a rule, and not the group as such.
    let rule = rule.cloned().unwrap_or_else(|| "rule".into());
    Origin::Group { group: group.clone(), rule: Some(rule) }
}

fn network_subject(network: &IpNetwork) -> Subject {
    match network.prefix() {
        0 => Subject::Who(Who::Family(Family::of(network.ip()))),
        _ => Subject::Atom(Atom::Block(Block { cidr: *network, except: Vec::new() })),
    }
}

fn tier_origin(tier: Tier, policy: &Arc<str>, rule: u32, action: Action) -> Origin {
    let tier = match tier {
        Tier::Admin => TierName::Admin,
        Tier::Baseline => TierName::Baseline,
    };
    let action = match action {
        Action::Accept => TierAction::Accept,
        Action::Deny => TierAction::Deny,
        Action::Pass => TierAction::Pass,
    };
    Origin::Tier { tier, policy: policy.clone(), rule, action }
}

/// Whom a tier's rule is about by one of its peers.
fn subjects(peer: &TierPeer, among: Among) -> Vec<Subject> {
    match peer {
        TierPeer::Nobody => Vec::new(),
        TierPeer::Anybody => vec![Subject::Who(Who::Any)],
        TierPeer::Nodes(selector) => vec![Subject::Atom(Atom::Nodes(selector.clone()))],
        TierPeer::Pods { namespaces, pods } => vec![Subject::Atom(Atom::Pods {
            namespaces: NamespaceScope::Matching(namespaces.clone()),
            pods: pods.clone(),
            among,
        })],
        TierPeer::Networks(networks) => networks.iter().map(network_subject).collect(),
    }
}

/// Whom a rule with this peer is about, and which of its ports apply to that. None: nobody.
fn lower(
    peer: &Peer,
    own: &Arc<str>,
    ports: &Arc<Allowed>,
    atom: &mut dyn FnMut(Atom) -> Who,
) -> Option<(Who, Arc<Allowed>)> {
    match (peer, whole_family(peer)) {
        (Peer::Nothing, _) => None,
        (_, Some(family)) => Some((Who::Family(family), without_names(ports))),
        (Peer::Block(block), None) => {
            Some((atom(Atom::Block(block.clone())), without_names(ports)))
        }
        (Peer::Pods { namespaces, pods }, None) => {
            Some((atom(pods_atom(namespaces, pods, own)), ports.clone()))
        }
    }
}
