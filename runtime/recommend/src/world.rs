//! Who there is: the cluster, completed by the pods that flows name and the cluster does not have,
//! and the units of which policies speak.
//!
//! A unit is a workload, or several that no labels tell apart. Not here: what units need
//! ([`crate::need`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use netpolc_kube_sync::{NAMESPACE_NAME_LABEL, cron_job, is_port_name};
use netpolc_policy::{
    AddressBook, Cluster, Direction, Frontends, Grouping, IpFamily, Isolation, Labels, Mode,
    Namespace, ObjectKey, Owner, OwnerKind, Phase, Pod, PodNetwork, Policy, Protocol, Staged,
    Unselected,
};

use crate::{
    Known,
    evidence::{Appearance, Evidence, Remote},
    selector::{self, Chosen, Found, Sight},
};

/// A unit by its place in [`World::units`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UnitId(pub usize);

/// A workload: a Deployment or the like, or a pod that belongs to none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// The namespace of its pods.
    pub namespace: Arc<str>,
    /// Its kind, such as `Deployment`; `Pod` for a pod by itself.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Workload {
    fn of(pod: &Pod) -> Self {
        let namespace = pod.key.namespace.clone();
        match pod.owner.as_deref() {
            Some(Owner { kind, name }) => {
                match cron_job(name).filter(|_| *kind == OwnerKind::Job) {
                    Some(cron) => Self { namespace, kind: "CronJob".into(), name: cron.into() },
                    None => Self { namespace, kind: kind.name().into(), name: name.clone() },
                }
            }
            None => Self { namespace, kind: "Pod".into(), name: pod.key.name.clone() },
        }
    }

    /// As questions write it: `deployment/shop/web`.
    pub fn end(&self) -> String {
        format!("{}/{}/{}", self.kind.to_ascii_lowercase(), self.namespace, self.name)
    }
}

/// As in `Deployment shop/web`.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Pods that policies speak of as one.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub namespace: Arc<str>,
    /// The workloads, at least one.
    pub members: BTreeSet<Workload>,
    pub pods: BTreeSet<ObjectKey>,
    /// What selects them; None where nothing is known that does.
    pub selector: Option<Chosen>,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, member) in self.members.iter().take(4).enumerate() {
            write!(f, "{}{member}", if index == 0 { "" } else { ", " })?;
        }
        match self.members.len().saturating_sub(4) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Everybody.
pub(crate) struct World {
    /// The cluster, with pods that only flows know.
    pub cluster: Cluster,
    pub book: AddressBook,
    pub frontends: Frontends,
    pub sight: Sight,
    pub units: Vec<Unit>,
    by_pod: HashMap<ObjectKey, UnitId>,
    by_workload: HashMap<Workload, UnitId>,
    /// The workloads that the cluster has pods of.
    present: BTreeSet<Workload>,
    /// The units at addresses that flows name, where it is one only.
    by_address: HashMap<IpAddr, Option<UnitId>>,
}

impl World {
    pub fn new(evidence: &Evidence, known: Option<Known<'_>>) -> Self {
        let mut cluster = known.map(|known| known.cluster.clone()).unwrap_or_default();
        let frontends = known.map(|known| known.frontends.clone()).unwrap_or_default();
        let sight = match cluster.pods.values().any(Pod::is_policed) {
            true => Sight::Whole,
            false => Sight::Flows,
        };
        let policed = cluster.pods.values().filter(|pod| pod.is_policed());
        let present: BTreeSet<Workload> = policed.map(Workload::of).collect();
        let aliases = complete(&mut cluster, evidence, &present);
        let namespaces: BTreeSet<Arc<str>> =
            cluster.pods.keys().map(|key| key.namespace.clone()).collect();
        for name in namespaces {
            let space = cluster.namespaces.entry(name.clone()).or_default();
            if space.labels.get(NAMESPACE_NAME_LABEL).is_none() {
                // The API server gives every namespace this label.
                let own = space.labels.iter().map(|(k, v)| (k.clone(), v.clone()));
                let all = own.chain([(NAMESPACE_NAME_LABEL.into(), name)]);
                let labels: Labels = all.collect();
                *space = Namespace { labels, unselected: space.unselected };
            }
        }
        nodes(&mut cluster, evidence);
        let book = AddressBook::of(&cluster);
        let mut world = Self {
            cluster,
            book,
            frontends,
            sight,
            units: Vec::new(),
            by_pod: HashMap::new(),
            by_workload: HashMap::new(),
            present,
            by_address: HashMap::new(),
        };
        world.group();
        for (key, workload) in aliases {
            if let Some(unit) = world.by_workload.get(&workload) {
                world.by_pod.insert(key, *unit);
            }
        }
        for (key, appearance) in &evidence.pods {
            let Some(unit) = world.unit_of(key) else { continue };
            for address in &appearance.addresses {
                let known = world.by_address.entry(*address).or_insert(Some(unit));
                *known = known.filter(|other| *other == unit);
            }
        }
        world
    }

    /// Groups pods by workload, and workloads by whether labels tell them apart.
    fn group(&mut self) {
        let mut groups: BTreeMap<Workload, BTreeSet<ObjectKey>> = BTreeMap::new();
        for pod in self.cluster.pods.values().filter(|pod| pod.is_policed()) {
            groups.entry(Workload::of(pod)).or_default().insert(pod.key.clone());
        }
        let mut spaces: BTreeMap<Arc<str>, Vec<Unit>> = BTreeMap::new();
        for (workload, pods) in groups {
            let namespace = workload.namespace.clone();
            let (members, selector) = ([workload].into(), None);
            let unit = Unit { namespace: namespace.clone(), members, pods, selector };
            spaces.entry(namespace).or_default().push(unit);
        }
        for mut units in spaces.into_values() {
            separate(&self.cluster, &mut units, self.sight);
            self.units.extend(units);
        }
        for (index, unit) in self.units.iter().enumerate() {
            let id = UnitId(index);
            self.by_pod.extend(unit.pods.iter().map(|key| (key.clone(), id)));
            self.by_workload.extend(unit.members.iter().map(|member| (member.clone(), id)));
        }
    }

    pub fn unit(&self, id: UnitId) -> &Unit {
        &self.units[id.0]
    }

    /// The unit to which a pod belongs, or has belonged.
    pub fn unit_of(&self, pod: &ObjectKey) -> Option<UnitId> {
        self.by_pod.get(pod).copied()
    }

    /// The unit at an address that a node did not know: the one that has it.
    pub fn unit_at(&self, address: IpAddr) -> Option<UnitId> {
        let holders = self.book.holders(address).filter_map(|key| self.unit_of(key));
        let holders: BTreeSet<UnitId> = holders.collect();
        match holders.len() {
            0 => self.by_address.get(&address).copied().flatten(),
            1 => holders.first().copied(),
            _ => None,
        }
    }

    /// The pod of the unit that has this address.
    pub fn pod_at(&self, unit: UnitId, address: IpAddr) -> Option<ObjectKey> {
        let mut holders = self.book.holders(address);
        holders.find(|key| self.unit_of(key) == Some(unit)).cloned()
    }

    /// The node that has this address.
    pub fn node_at(&self, address: IpAddr) -> Option<&Arc<str>> {
        let mut nodes = self.cluster.nodes.iter();
        nodes.find(|(_, node)| node.addresses.contains(&address)).map(|(name, _)| name)
    }

    pub fn pods(&self, unit: UnitId) -> impl Iterator<Item = &Pod> {
        self.unit(unit).pods.iter().filter_map(|key| self.cluster.pods.get(key))
    }

    /// Has the cluster pods of this workload, beyond those that only flows name?
    pub fn is_present(&self, workload: &Workload) -> bool {
        self.present.contains(workload)
    }

    /// The workload of a pod, as far as it is known.
    pub fn workload(&self, pod: &ObjectKey) -> Option<Workload> {
        match self.cluster.pods.get(pod) {
            Some(pod) => Some(Workload::of(pod)),
            None => self.unit(self.unit_of(pod)?).members.first().cloned(),
        }
    }

    /// The name that stands for this number, and for no other, on every pod of the unit.
    pub fn port_name(&self, unit: UnitId, protocol: Protocol, number: u16) -> Option<Arc<str>> {
        let mut pods = self.pods(unit);
        let first = pods.next()?;
        let names =
            first.ports.iter().filter(|port| port.protocol == protocol && port.number == number);
        let mut names: Vec<&Arc<str>> = names.filter_map(|port| port.name.as_ref()).collect();
        names.sort();
        let is_it = |name: &&Arc<str>| {
            is_port_name(name)
                && self.pods(unit).all(|pod| pod.resolve_port(protocol, name) == [number])
        };
        names.into_iter().find(is_it).cloned()
    }

    /// Whether something isolates a direction of this pod, enforced or only tried.
    pub fn isolates(&self, pod: &Pod, direction: Direction) -> bool {
        let says = |policy: &Policy| {
            policy.selector.matches(&pod.labels)
                && matches!(policy.isolation(direction), Isolation::Isolated(_))
        };
        let by_staged = |staged: &Staged| match staged {
            Staged::Set(policy) => says(policy),
            Staged::Delete => false,
        };
        let name = &pod.key.namespace;
        let by_default = &self.cluster.by_default;
        let own = self.cluster.namespaces.get(name).and_then(|space| space.unselected);
        let unselected = own.unwrap_or(match by_default.except.contains(name) {
            true => Unselected::Open,
            false => by_default.unselected,
        });
        unselected == Unselected::Isolated
            || here(&self.cluster.policies, name).any(says)
            || here(&self.cluster.staged, name).any(by_staged)
    }

    /// The enforced policies that select pods of the unit and have a rule of their own.
    pub fn enforced(&self, unit: UnitId) -> BTreeSet<&ObjectKey> {
        let has_rules = |policy: &Policy| {
            let mut halves = Direction::BOTH.into_iter().map(|d| policy.isolation(d));
            halves.any(|half| match half {
                Isolation::Isolated(rules) => !rules.is_empty(),
                Isolation::Open => false,
            })
        };
        let namespace = &self.unit(unit).namespace;
        let here = here(&self.cluster.policies, namespace).filter(|policy| {
            policy.mode == Mode::Enforced
                && has_rules(policy)
                && self.pods(unit).any(|pod| policy.selector.matches(&pod.labels))
        });
        here.map(|policy| &policy.key).collect()
    }
}

/// The objects of a namespace.
fn here<'o, T>(
    objects: &'o BTreeMap<ObjectKey, T>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'o T> {
    let namespace = namespace.clone();
    let from = objects.range(ObjectKey::new(namespace.clone(), "")..);
    from.take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
}

/// Adds the pods of flows that the cluster does not have. Those whose workload has other pods there
/// are not added, but returned with it: today's pods say what its labels are.
fn complete(
    cluster: &mut Cluster,
    evidence: &Evidence,
    present: &BTreeSet<Workload>,
) -> Vec<(ObjectKey, Workload)> {
    let mut book = AddressBook::of(cluster);
    let mut aliases = Vec::new();
    let mut spare = Spare::default();
    for (key, appearance) in &evidence.pods {
        if cluster.pods.get(key).is_some_and(Pod::is_policed) {
            continue;
        }
        let mut pod = gone(key, appearance, cluster.pods.get(key));
        let workload = Workload::of(&pod);
        if present.contains(&workload) {
            aliases.push((key.clone(), workload));
            continue;
        }
        // An address that is another's by now would make that one a party to what was seen.
        let addresses = appearance.addresses.iter().map(|address| {
            let is_free = book.holders(*address).next().is_none();
            if is_free { *address } else { spare.address(IpFamily::of(*address)) }
        });
        pod.addresses = addresses.collect();
        book.set(None, Some(&pod));
        cluster.pods.insert(key.clone(), pod);
    }
    aliases
}

/// Adds the nodes of flows that the cluster does not have.
fn nodes(cluster: &mut Cluster, evidence: &Evidence) {
    let known = cluster.nodes.values().flat_map(|node| node.addresses.iter().copied());
    let mut known: BTreeSet<IpAddr> = known.collect();
    for contact in evidence.contacts.keys() {
        if let (Remote::Node(name), Some(address)) = (&contact.remote, contact.address)
            && known.insert(address)
        {
            cluster.nodes.entry(name.clone()).or_default().addresses.push(address);
        }
    }
}

/// A pod that is known by flows, or that has ended.
fn gone(key: &ObjectKey, appearance: &Appearance, ended: Option<&Pod>) -> Pod {
    let owner = appearance.owner.clone().map(Arc::new);
    Pod {
        key: key.clone(),
        uid: None,
        node: appearance.node.clone(),
        labels: ended.map_or(&appearance.labels, |pod| &pod.labels).clone(),
        addresses: Vec::new(),
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: ended.map(|pod| pod.ports.clone()).unwrap_or_default(),
        grouping: Grouping::default(),
        owner: ended.map_or(owner, |pod| pod.owner.clone()),
    }
}

/// Addresses that nobody has: those for benchmarks (RFC 2544, RFC 5180).
#[derive(Default)]
struct Spare(u16);

impl Spare {
    fn address(&mut self, family: IpFamily) -> IpAddr {
        self.0 += 1;
        let [high, low] = self.0.to_be_bytes();
        match family {
            IpFamily::V4 => IpAddr::from([198, 18, high, low]),
            IpFamily::V6 => IpAddr::from([0x2001, 2, 0, 0, 0, 0, 0, self.0]),
        }
    }
}

/// Finds a selector for each unit of a namespace, and joins those that no labels tell apart.
fn separate(cluster: &Cluster, units: &mut Vec<Unit>, sight: Sight) {
    let labels = |unit: &Unit| -> BTreeSet<Labels> {
        let pods = unit.pods.iter().filter_map(|key| cluster.pods.get(key));
        pods.map(|pod| pod.labels.clone()).collect()
    };
    let mut sets: Vec<BTreeSet<Labels>> = units.iter().map(labels).collect();
    let mut at = 0;
    while at < units.len() {
        let own: Vec<&Labels> = sets[at].iter().collect();
        let others = sets.iter().enumerate().filter(|(index, _)| *index != at);
        let others: Vec<(usize, &Labels)> =
            others.flat_map(|(index, set)| set.iter().map(move |labels| (index, labels))).collect();
        match selector::choose(&own, &others, sight) {
            Found::Exact(chosen) => {
                // What is not seen may have any labels, or none.
                let is_anybody = sight == Sight::Flows && chosen.labels.is_empty();
                units[at].selector = (!is_anybody).then_some(chosen);
                at += 1;
            }
            Found::Shared(with) => {
                for index in with.into_iter().rev() {
                    let (unit, set) = (units.remove(index), sets.remove(index));
                    let here = at - usize::from(index < at);
                    units[here].members.extend(unit.members);
                    units[here].pods.extend(unit.pods);
                    sets[here].extend(set);
                    at = here;
                }
                // Those before it were told from each of them already, and so from both.
            }
        }
    }
}
