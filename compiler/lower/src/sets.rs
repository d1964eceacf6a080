//! Policy sets: what the policies that isolate an endpoint in one direction say together.
//! Endpoints that the same policies select share a set (S16: and only those).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use netpolc_policy::{Direction, Index, Isolation, Labels, Namespaces, Peer, Peers, Policy, Port, Protocol, Selector};
use netpolc_table::{
    Class, Origin, RowId, SetId, TableId,
    schema::{Family, Named, base_key, directory_key, fingerprint},
};

use crate::{
    Overflow,
    atoms::{Atom, AtomId, NamespaceScope},
    cells,
    compiler::{Compiler, Numbered},
    ids::Ids,
    ports::Edge,
    rows::{Granted, Row, RowKey},
    seed::InstalledRows,
};

/// A known policy. A changed policy gets another version.
#[derive(Clone, Debug)]
pub(crate) struct PolicySlot {
    pub(crate) policy: Arc<Policy>,
    pub(crate) version: u32,
    /// `namespace/name`
    pub(crate) label: Arc<str>,
    /// Port names in its ingress rules.
    pub(crate) ingress_names: Vec<(Protocol, Arc<str>)>,
    /// Of its selector.
    pub(crate) index: Arc<Index>,
}

impl PolicySlot {
    /// Does it select pods of its namespace with these labels?
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.index.matches(&self.policy.selector, labels)
    }
}

/// Everything that a set's meaning depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetKey {
    pub(crate) direction: Direction,
    /// Versions of the isolating policies, in name order.
    pub(crate) policies: Vec<u32>,
    /// Ingress: what the named ports are on the pod itself (S29).
    pub(crate) resolved: Vec<(Protocol, Arc<str>, Vec<u16>)>,
    /// Egress: the pod's node (S45), and the TCP ports of its addresses that are not the node's own.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) health_checks: Vec<u16>,
}

/// Whom a rule is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Any,
    /// A block of the whole family without excepts: a property of the set, never of a class.
    Family(Family),
    Atom(AtomId),
}

/// What a rule grants.
#[derive(Debug)]
pub(crate) enum Ports {
    Any,
    /// With the port's index in the API object.
    Listed(Vec<(Option<u32>, What)>),
}

#[derive(Debug)]
pub(crate) enum What {
    Range(Protocol, u16, u16),
    /// Egress only: what it is on the destination pod.
    Named(Protocol, Arc<str>),
    /// Protocols that have no ports.
    Portless,
}

/// One peer of one rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) who: Who,
    /// Index into the set's sources.
    pub(crate) source: u32,
    pub(crate) peer: Option<u32>,
    pub(crate) ports: Arc<Ports>,
}

#[derive(Debug)]
enum Source {
    Policy { policy: Arc<str>, rule: u32 },
    Implied(Arc<str>),
}

#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) key: SetKey,
    refs: usize,
    /// That all its policies are of.
    pub(crate) namespace: Arc<str>,
    /// Of its own rules, see [`cells::edges`].
    pub(crate) edges: Vec<Edge>,
    pub(crate) rules: Vec<Rule>,
    sources: Vec<Source>,
    /// Labels of the isolating policies.
    pub(crate) isolating: Vec<Arc<str>>,
    /// Rules that hold whatever the class.
    pub(crate) base: Vec<usize>,
    pub(crate) by_atom: HashMap<AtomId, Vec<usize>>,
    names: BTreeSet<(Protocol, Arc<str>)>,
    pub(crate) base_grants: [Granted; 2],
    pub(crate) rows: HashMap<RowKey, RowId>,
    /// Classes with a row entry.
    pub(crate) entries: BTreeSet<Class>,
}

impl Set {
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
            Source::Policy { policy, rule } => Origin::Rule { policy: policy.clone(), rule: *rule, peer: None, port },
            Source::Implied(reason) => Origin::Implied { reason: reason.clone() },
        }
    }

    fn push(&mut self, rule: Rule) {
        let index = self.rules.len();
        match rule.who {
            Who::Any | Who::Family(_) => self.base.push(index),
            Who::Atom(atom) => self.by_atom.entry(atom).or_default().push(index),
        }
        self.rules.push(rule);
    }
}

#[derive(Debug)]
pub(crate) struct Sets {
    pub(crate) ids: Ids<SetId>,
    pub(crate) row_ids: Ids<RowId>,
    by_key: HashMap<SetKey, SetId>,
    pub(crate) sets: HashMap<SetId, Set>,
    pub(crate) rows: HashMap<RowId, Row>,
    pub(crate) installed_rows: InstalledRows,
}

impl Sets {
    pub(crate) fn new() -> Self {
        Self {
            ids: Ids::new(Numbered::Sets),
            row_ids: Ids::new(Numbered::Rows),
            by_key: HashMap::new(),
            sets: HashMap::new(),
            rows: HashMap::new(),
            installed_rows: InstalledRows::default(),
        }
    }

    pub(crate) fn get_mut(&mut self, id: SetId) -> &mut Set {
        self.sets.get_mut(&id).expect("a live set")
    }
}

/// A block of every address of a family.
fn whole_family(peer: &Peer) -> Option<Family> {
    match peer {
        Peer::Block(block) if block.cidr.prefix() == 0 && block.except.is_empty() => Some(Family::of(block.cidr.ip())),
        _ => None,
    }
}

impl Compiler {
    /// The set for these policies (those that isolate in the key's direction), made where it is new.
    pub(crate) fn acquire_set(&mut self, key: SetKey, policies: &[PolicySlot]) -> Result<SetId, Overflow> {
        if let Some(&id) = self.sets.by_key.get(&key) {
            self.sets.get_mut(id).refs += 1;
            return Ok(id);
        }
        let content: Vec<&Policy> = policies.iter().map(|p| &*p.policy).collect();
        let meaning = crate::fingerprint(&(key.direction, content, &key.resolved, &key.node, &key.health_checks));
        let id = self.sets.ids.take(Some(meaning))?;
        let set = self.flatten(&key, policies);
        for atom in set.by_atom.keys() {
            self.atoms.slot_mut(*atom).sets.insert(id);
        }
        let names = set.names.clone();
        let mut classes: BTreeSet<Class> = BTreeSet::new();
        if key.direction == Direction::Egress {
            self.atoms.egress.insert(id);
            classes.extend(self.atoms.services.iter().flat_map(|atom| &self.atoms.slot(*atom).classes));
        }
        for atom in set.by_atom.keys() {
            classes.extend(&self.atoms.slot(*atom).classes);
        }
        self.sets.by_key.insert(key, id);
        self.sets.sets.insert(id, set);
        for name in names {
            self.subscribe(id, name.clone());
            for atom in &self.atoms.names[&name].atoms {
                classes.extend(&self.atoms.slot(*atom).classes);
            }
        }
        self.put(TableId::Directory, directory_key(Named::Set(id)), fingerprint(meaning));
        for family in Family::BOTH {
            self.put_base(id, family)?;
        }
        for class in classes {
            self.put_row(id, class)?;
        }
        Ok(id)
    }

    /// Counts one endpoint less; the last one removes the set with all its rows and peers.
    pub(crate) fn release_set(&mut self, id: SetId) {
        let set = self.sets.get_mut(id);
        set.refs -= 1;
        if set.refs > 0 {
            return;
        }
        for class in set.entries.clone() {
            self.take_row(id, class);
            self.classes.get_mut(class).sets.remove(&id);
        }
        for family in Family::BOTH {
            let before = self.take(TableId::Base, base_key(id, family));
            self.release_row(before.as_ref());
        }
        self.take(TableId::Directory, directory_key(Named::Set(id)));
        let set = self.sets.sets.remove(&id).expect("a live set");
        self.atoms.egress.remove(&id);
        self.sets.by_key.remove(&set.key);
        for name in set.names {
            self.unsubscribe(id, &name);
        }
        let mut atoms: Vec<AtomId> = set.by_atom.into_keys().collect();
        atoms.sort_unstable();
        for atom in atoms {
            self.atoms.slot_mut(atom).sets.remove(&id);
            self.release_atom(atom);
        }
        self.sets.ids.give_back(id);
    }

    fn flatten(&mut self, key: &SetKey, policies: &[PolicySlot]) -> Set {
        let mut set = Set {
            key: key.clone(),
            refs: 1,
            namespace: policies.first().map_or_else(|| "".into(), |p| p.policy.key.namespace.clone()),
            edges: Vec::new(),
            rules: Vec::new(),
            sources: Vec::new(),
            isolating: policies.iter().map(|p| p.label.clone()).collect(),
            base: Vec::new(),
            by_atom: HashMap::new(),
            names: BTreeSet::new(),
            base_grants: [Granted::Nothing, Granted::Nothing],
            rows: HashMap::new(),
            entries: BTreeSet::new(),
        };
        for slot in policies {
            let Isolation::Isolated(rules) = slot.policy.isolation(key.direction) else { continue };
            for (index, rule) in rules.iter().enumerate() {
                let source = set.sources.len() as u32;
                set.sources.push(Source::Policy { policy: slot.label.clone(), rule: index as u32 });
                let ports = Arc::new(lower_ports(&rule.ports, key));
                let listed = match &rule.peers {
                    Peers::Any => {
                        set.push(Rule { who: Who::Any, source, peer: None, ports: ports.clone() });
                        &[][..]
                    }
                    Peers::Listed(list) => list,
                };
                for (i, peer) in listed.iter().enumerate() {
                    let whole = whole_family(peer);
                    let (who, ports) = match (peer, whole) {
                        (Peer::Nothing, _) => continue,
                        (_, Some(family)) => (Who::Family(family), without_names(&ports)),
                        (Peer::Block(block), None) => {
                            (Who::Atom(self.peer_atom(&set, Atom::Block(block.clone()))), without_names(&ports))
                        }
                        (Peer::Pods { namespaces, pods }, None) => {
                            let atom = pods_atom(namespaces, pods, slot);
                            (Who::Atom(self.peer_atom(&set, atom)), ports.clone())
                        }
                    };
                    set.push(Rule { who, source, peer: Some(i as u32), ports });
                }
            }
        }
        if let Some(node) = &key.node {
            let source = set.sources.len() as u32;
            set.sources.push(Source::Implied("own node (S45)".into()));
            let who = Who::Atom(self.peer_atom(&set, Atom::Node(node.clone())));
            set.push(Rule { who, source, peer: None, ports: Arc::new(node_ports(&key.health_checks)) });
        }
        for rule in &set.rules {
            if let Ports::Listed(ports) = &*rule.ports {
                let named = ports.iter().filter_map(|(_, what)| match what {
                    What::Named(protocol, name) => Some((*protocol, name.clone())),
                    _ => None,
                });
                set.names.extend(named);
            }
        }
        set.edges = cells::edges(&set.rules);
        set
    }

    /// The atom, counted once for each set that names it.
    fn peer_atom(&mut self, set: &Set, atom: Atom) -> AtomId {
        match self.atoms.find(&atom).filter(|id| set.by_atom.contains_key(id)) {
            Some(id) => id,
            None => self.acquire_atom(atom),
        }
    }
}

fn pods_atom(namespaces: &Namespaces, pods: &Selector, slot: &PolicySlot) -> Atom {
    let namespaces = match namespaces {
        Namespaces::Own => NamespaceScope::Named(slot.policy.key.namespace.clone()),
        Namespaces::Matching(selector) => NamespaceScope::Matching(selector.clone()),
    };
    Atom::Pods { namespaces, pods: pods.clone() }
}

fn lower_ports(ports: &netpolc_policy::Ports, key: &SetKey) -> Ports {
    let netpolc_policy::Ports::Listed(list) = ports else { return Ports::Any };
    let mut lowered = Vec::new();
    for (i, port) in list.iter().enumerate() {
        let index = Some(i as u32);
        match port {
            Port::Nothing => {}
            Port::Every(protocol) => lowered.push((index, What::Range(*protocol, 0, u16::MAX))),
            Port::Range { protocol, first, last } => lowered.push((index, What::Range(*protocol, *first, *last))),
            Port::Named { protocol, name } if key.direction == Direction::Egress => {
                lowered.push((index, What::Named(*protocol, name.clone())));
            }
            Port::Named { protocol, name } => {
                let found = key.resolved.iter().find(|(p, n, _)| p == protocol && n == name);
                for &number in found.map_or(&[][..], |(_, _, numbers)| numbers) {
                    lowered.push((index, What::Range(*protocol, number, number)));
                }
            }
        }
    }
    Ports::Listed(lowered)
}

/// A named port never matches an address block (S31).
fn without_names(ports: &Arc<Ports>) -> Arc<Ports> {
    let Ports::Listed(list) = &**ports else { return ports.clone() };
    if !list.iter().any(|(_, what)| matches!(what, What::Named(..))) {
        return ports.clone();
    }
    let kept = list.iter().filter_map(|(port, what)| match what {
        What::Range(protocol, first, last) => Some((*port, What::Range(*protocol, *first, *last))),
        What::Portless => Some((*port, What::Portless)),
        What::Named(..) => None,
    });
    Arc::new(Ports::Listed(kept.collect()))
}

/// Everything on the own node's addresses but the ports where it tells load balancers how Services are (S45).
fn node_ports(health_checks: &[u16]) -> Ports {
    if health_checks.is_empty() {
        return Ports::Any;
    }
    let mut list = vec![(None, What::Portless)];
    for protocol in Protocol::ALL {
        let closed = health_checks.iter().filter(|_| protocol == Protocol::Tcp).map(|port| (*port, *port));
        list.extend(without((0, u16::MAX), closed).map(|(first, last)| (None, What::Range(protocol, first, last))));
    }
    Ports::Listed(list)
}

/// What is left of an interval without some ranges, which are in ascending order of where they begin.
pub(crate) fn without(
    (first, last): (u16, u16),
    ranges: impl Iterator<Item = (u16, u16)>,
) -> impl Iterator<Item = (u16, u16)> {
    let (mut left, mut from) = (Vec::new(), u32::from(first));
    let end = u32::from(last) + 1;
    for (low, high) in ranges {
        if from < u32::from(low).min(end) {
            left.push((from as u16, (u32::from(low).min(end) - 1) as u16));
        }
        from = from.max(u32::from(high) + 1);
    }
    if from < end {
        left.push((from as u16, last));
    }
    left.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_without_ranges_is_what_they_leave() {
        let left = |interval, ranges: &[(u16, u16)]| without(interval, ranges.iter().copied()).collect::<Vec<_>>();
        assert_eq!(left((0, 65535), &[]), [(0, 65535)]);
        assert_eq!(left((0, 65535), &[(0, 0), (65535, 65535)]), [(1, 65534)]);
        assert_eq!(left((10, 20), &[(0, 5), (3, 12), (12, 11), (15, 15), (21, 30)]), [(13, 14), (16, 20)]);
        assert_eq!(left((10, 20), &[(8, 25)]), []);
        assert_eq!(left((10, 20), &[(30, 40)]), [(10, 20)]);
    }
}
