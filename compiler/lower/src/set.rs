//! What a policy set is: everything that the policies isolating an endpoint in one direction say,
//! as one list of rules.
//!
//! Not here: which sets there are ([`crate::sets`]), and what one grants whom ([`crate::grants`]).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use netpolc_policy::{Direction, Isolation, Peer, Peers, Pod, Policy};
use netpolc_table::{Origin, SetId, schema::Family};

use crate::{
    content::fingerprint,
    index::AtomId,
    interval::PortRange,
    membership::{Atom, Membership, PortName},
    policies::PolicySlot,
    rules::{
        Allowed, Resolved, Rule, What, Who, allowed, node_ports, pods_atom, whole_family,
        without_names,
    },
    wire::Wire,
    worklist::Worklist,
};

/// Everything that a set's meaning depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetKey {
    pub(crate) direction: Direction,
    /// Versions of the isolating policies, in name order.
    policies: Vec<u32>,
    /// Ingress: what the named ports are on the pod itself.
    resolved: Resolved,
    /// Egress: the pod's node (S45), and the TCP ports of its addresses that are not the node's
    /// own.
    pub(crate) node: Option<Arc<str>>,
    health_checks: Vec<u16>,
    /// Egress: UDP ports of tunnels, which only a rule that names them opens (S45).
    pub(crate) tunnels: BTreeSet<PortRange>,
}

impl SetKey {
    /// Of the policies that isolate a pod from what comes in. A port name in their rules is about
    /// this pod, so pods that have other numbers for it have other sets.
    pub(crate) fn ingress(pod: &Pod, isolating: &[Arc<PolicySlot>]) -> Self {
        let names = isolating.iter().flat_map(|slot| &slot.ingress_names);
        let names: BTreeSet<PortName> = names.cloned().collect();
        let resolve = |(protocol, name): PortName| {
            let numbers = pod.resolve_port(protocol, &name);
            (protocol, name, numbers)
        };
        Self {
            direction: Direction::Ingress,
            policies: versions(isolating),
            resolved: names.into_iter().map(resolve).collect(),
            node: None,
            health_checks: Vec::new(),
            tunnels: BTreeSet::new(),
        }
    }

    /// Of the policies that isolate a pod in what it sends.
    pub(crate) fn egress(
        pod: &Pod,
        isolating: &[Arc<PolicySlot>],
        health_checks: Vec<u16>,
        wire: &Wire,
    ) -> Self {
        Self {
            direction: Direction::Egress,
            policies: versions(isolating),
            resolved: Vec::new(),
            node: pod.node.clone(),
            health_checks,
            tunnels: wire.ports(),
        }
    }

    /// Of the content and not of versions, which another process counts otherwise. Tunnels are left
    /// out: where they change, everything is compiled anew.
    pub(crate) fn fingerprint(&self, policies: &[Arc<PolicySlot>]) -> u64 {
        let content: Vec<&Policy> = policies.iter().map(|slot| &slot.policy).collect();
        fingerprint(&(self.direction, content, &self.resolved, &self.node, &self.health_checks))
    }
}

fn versions(policies: &[Arc<PolicySlot>]) -> Vec<u32> {
    policies.iter().map(|slot| slot.version).collect()
}

#[derive(Debug)]
enum Source {
    Policy { policy: Arc<str>, rule: u32 },
    Implied(Arc<str>),
}

/// A set as it was made; nobody changes one.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) id: SetId,
    pub(crate) key: SetKey,
    /// That all its policies are of.
    pub(crate) namespace: Arc<str>,
    pub(crate) rules: Vec<Rule>,
    sources: Vec<Source>,
    /// Labels of the isolating policies.
    pub(crate) isolating: Vec<Arc<str>>,
    /// Rules that hold whatever the class.
    base: Vec<usize>,
    by_atom: HashMap<AtomId, Vec<usize>>,
    names: BTreeSet<PortName>,
}

impl Set {
    /// All rules of these policies in the key's direction; acquires the atoms of their peers, each
    /// once, however many rules name it.
    pub(crate) fn flatten(
        id: SetId,
        key: SetKey,
        policies: &[Arc<PolicySlot>],
        membership: &mut Membership,
        work: &mut Worklist,
    ) -> Self {
        let mut set = Self::empty(id, key, policies);
        for slot in policies {
            let Isolation::Isolated(rules) = slot.policy.isolation(set.key.direction) else {
                continue;
            };
            for (index, rule) in rules.iter().enumerate() {
                let source = Source::Policy { policy: slot.label.clone(), rule: index as u32 };
                let source = set.add_source(source);
                let ports = Arc::new(allowed(&rule.ports, set.key.direction, &set.key.resolved));
                let listed = match &rule.peers {
                    Peers::Any => {
                        set.push(Rule { who: Who::Any, source, peer: None, ports });
                        continue;
                    }
                    Peers::Listed(list) => list,
                };
                for (i, peer) in listed.iter().enumerate() {
                    let mut atom = |atom| Who::Atom(set.acquire(atom, membership, work));
                    let lowered = lower(peer, &slot.policy.key.namespace, &ports, &mut atom);
                    let Some((who, ports)) = lowered else { continue };
                    set.push(Rule { who, source, peer: Some(i as u32), ports });
                }
            }
        }
        // What an egress set says of its pods' own node (S45) is a rule like those of policies.
        if let Some(node) = &set.key.node {
            let ports = Arc::new(node_ports(&set.key.health_checks));
            let who = Who::Atom(set.acquire(Atom::Node(node.clone()), membership, work));
            let source = set.add_source(Source::Implied("own node (S45)".into()));
            set.push(Rule { who, source, peer: None, ports });
        }
        set
    }

    /// The atom, counted once for the set.
    fn acquire(&self, atom: Atom, membership: &mut Membership, work: &mut Worklist) -> AtomId {
        let known = membership.atoms().find(&atom).filter(|id| self.by_atom.contains_key(id));
        known.unwrap_or_else(|| membership.acquire(atom, work))
    }

    fn empty(id: SetId, key: SetKey, policies: &[Arc<PolicySlot>]) -> Self {
        let namespace = policies.first().map(|slot| slot.policy.key.namespace.clone());
        Self {
            id,
            key,
            namespace: namespace.unwrap_or_else(|| "".into()),
            rules: Vec::new(),
            sources: Vec::new(),
            isolating: policies.iter().map(|slot| slot.label.clone()).collect(),
            base: Vec::new(),
            by_atom: HashMap::new(),
            names: BTreeSet::new(),
        }
    }

    /// The rules that are about an address of this family which is a member of these atoms.
    pub(crate) fn rules_for(
        &self,
        family: Family,
        members: &[AtomId],
    ) -> impl Iterator<Item = &Rule> {
        let base =
            self.base.iter().map(|rule| &self.rules[*rule]).filter(move |rule| match rule.who {
                Who::Any => true,
                Who::Family(f) => f == family,
                Who::Atom(_) => false,
            });
        let by_atom = members.iter().filter_map(|atom| self.by_atom.get(atom)).flatten();
        base.chain(by_atom.map(|rule| &self.rules[*rule]))
    }

    /// The port names that its rules ask for, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &PortName> {
        self.names.iter()
    }

    /// The atoms that its rules name.
    pub(crate) fn peers(&self) -> impl Iterator<Item = AtomId> {
        self.by_atom.keys().copied()
    }

    /// All atoms that make a difference to it: those that it names, every number of its port names,
    /// and, since what it grants leaves the ports of Services out, those of Services.
    pub(crate) fn looks_at(&self, membership: &Membership) -> impl Iterator<Item = AtomId> {
        let ports = self.names.iter().flat_map(|name| membership.port_atoms(name));
        let is_egress = self.key.direction == Direction::Egress;
        let services = membership.atoms().services().filter(move |_| is_egress);
        self.peers().chain(ports).chain(services)
    }

    /// The origin of a rule for a peer.
    pub(crate) fn origin(&self, rule: &Rule) -> Origin {
        match &self.sources[rule.source as usize] {
            Source::Policy { policy, rule: index } => {
                Origin::Rule { policy: policy.clone(), rule: *index, peer: rule.peer, port: None }
            }
            Source::Implied(reason) => Origin::Implied { reason: reason.clone() },
        }
    }

    /// The origin of a granted port.
    pub(crate) fn source_origin(&self, source: u32, port: Option<u32>) -> Origin {
        match &self.sources[source as usize] {
            Source::Policy { policy, rule } => {
                Origin::Rule { policy: policy.clone(), rule: *rule, peer: None, port }
            }
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
            What::Range(_) | What::Portless => None,
        }));
        self.rules.push(rule);
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
