//! Services: which addresses and ports are deferred, because they lead to backends (S48).
//!
//! Each such address and port has an entry in `service_v4` or `service_v6`, and the address is a
//! member of an atom that says which of its ports these are: what a rule grants its class leaves
//! them out ([`crate::grants`]), so that the tables deny them and a packet comes to the entry. A
//! node's addresses have nodePorts and hostPorts, for the pods of that node only.
//!
//! A Service that is set aside ([`crate::Shares`]) has no entries: its ports are left out of what
//! the address is granted, a range instead of each, and nothing is deferred.
//!
//! Under [`Scope::Everywhere`] the addresses of nodes have no entries: whether a port of one is
//! translated depends on the node that asks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{ObjectKey, Pod, Protocol, Service};
use netpolc_table::{
    ActionId, Entry, Origin, TableId,
    schema::{self, Family, service_key},
};

use crate::{
    event::Scope,
    index::AtomId,
    interval::PortRange,
    membership::{Atom, Membership},
    nodes::Nodes,
    output::Output,
    worklist::{ServiceMarks, Worklist},
};

/// A port of an address.
type ServicePort = (Protocol, u16);
/// Who has it, as `Service namespace/name`: Services, or pods with a hostPort. Sorted.
type Users = Vec<Arc<str>>;
type PortUsers = BTreeMap<ServicePort, Users>;
type Ranges = BTreeSet<PortRange>;
/// Ranges that Services which are set aside close on an address, and how many do.
type ClosedPorts = BTreeMap<PortRange, usize>;
/// The ports of an address for everybody (None), or for the pods of one node whose address it is.
type Places<T> = BTreeMap<Option<Arc<str>>, T>;

/// The owner of the tables `service_v4` and `service_v6`, and of `Service` atoms.
#[derive(Debug, Default)]
pub(crate) struct Services {
    objects: BTreeMap<ObjectKey, Service>,
    addresses: HashMap<IpAddr, PortUsers>,
    closed: HashMap<IpAddr, ClosedPorts>,
    node_ports: PortUsers,
    /// Of the pods on each node.
    host_ports: HashMap<Arc<str>, PortUsers>,
    /// How many Services have each healthCheckNodePort.
    health_checks: BTreeMap<u16, usize>,
    /// The atom of each place that has ports, by address.
    atoms: HashMap<IpAddr, Places<AtomId>>,
    /// What the tables have for an address.
    entries: HashMap<IpAddr, PortUsers>,
}

/// Whether something comes or goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Up,
    Down,
}

/// Adds or removes a user of a port.
fn count(ports: &mut PortUsers, port: ServicePort, user: &Arc<str>, count: Count) {
    match count {
        Count::Up => join(ports.entry(port).or_default(), user),
        Count::Down => {
            let users = ports.get_mut(&port).expect("counted up before");
            users.retain(|other| other != user);
            if users.is_empty() {
                ports.remove(&port);
            }
        }
    }
}

fn join(users: &mut Users, user: &Arc<str>) {
    if let Err(place) = users.binary_search(user) {
        users.insert(place, user.clone());
    }
}

impl Services {
    /// Ports on which every node answers load balancers; none of them is the node's for its pods
    /// (S45).
    pub(crate) fn health_checks(&self) -> Vec<u16> {
        self.health_checks.keys().copied().collect()
    }

    /// The atoms that an address is a member of.
    pub(crate) fn atoms_of<'a>(
        &'a self,
        address: IpAddr,
        nodes: impl Iterator<Item = &'a Arc<str>>,
    ) -> impl Iterator<Item = AtomId> {
        let places = std::iter::once(None).chain(nodes.map(|n| Some(n.clone())));
        let here = self.atoms.get(&address);
        places.filter_map(move |place| here?.get(&place).copied())
    }

    /// A Service is there, changed or is gone (None). True: its health check node port did, too.
    pub(crate) fn set(
        &mut self,
        key: &ObjectKey,
        service: Option<Service>,
        work: &mut Worklist,
    ) -> bool {
        let before = match &service {
            Some(new) => self.objects.insert(key.clone(), new.clone()),
            None => self.objects.remove(key),
        };
        if before == service {
            return false;
        }
        let has_node_ports = |s: &Service| s.ports.iter().any(|p| p.node_port.is_some());
        if before.iter().chain(&service).any(has_node_ports) {
            work.touch_service_nodes();
        }
        if let Some(old) = &before {
            self.count(key, old, Count::Down, work);
        }
        if let Some(new) = &service {
            self.count(key, new, Count::Up, work);
        }
        let check = |s: &Option<Service>| s.as_ref().and_then(|s| s.health_check);
        let (old, new) = (check(&before), check(&service));
        if let Some(port) = new {
            *self.health_checks.entry(port).or_default() += 1;
        }
        if let Some(port) = old {
            let users = self.health_checks.get_mut(&port).expect("counted up before");
            *users -= 1;
            if *users == 0 {
                self.health_checks.remove(&port);
            }
        }
        old != new
    }

    /// The hostPorts of a policed pod come or go: on its node's addresses they are like nodePorts.
    pub(crate) fn count_host_ports(&mut self, pod: &Pod, way: Count, work: &mut Worklist) {
        let ports = pod.ports.iter().filter_map(|p| Some((p.protocol, p.host_port?)));
        let ports: BTreeSet<ServicePort> = ports.collect();
        let Some(node) = pod.node.as_ref().filter(|_| !ports.is_empty()) else { return };
        let user: Arc<str> = format!("Service {}", pod.key).into();
        let here = self.host_ports.entry(node.clone()).or_default();
        ports.into_iter().for_each(|port| count(here, port, &user, way));
        if here.is_empty() {
            self.host_ports.remove(node);
        }
        work.touch_service_node(node);
    }

    fn count(&mut self, key: &ObjectKey, service: &Service, way: Count, work: &mut Worklist) {
        let user: Arc<str> = format!("Service {key}").into();
        let numbers: BTreeSet<ServicePort> =
            service.ports.iter().map(|p| (p.protocol, p.number)).collect();
        for address in service.addresses.iter().collect::<BTreeSet<_>>() {
            let ports = self.addresses.entry(*address).or_default();
            numbers.iter().for_each(|port| count(ports, *port, &user, way));
            if ports.is_empty() {
                self.addresses.remove(address);
            }
            work.touch_service_address(*address);
        }
        for address in service.closed.addresses.iter().collect::<BTreeSet<_>>() {
            let closed = self.closed.entry(*address).or_default();
            for range in service.closed.ports.iter().collect::<BTreeSet<_>>() {
                let users = closed.entry(*range).or_default();
                *users = if way == Count::Up { *users + 1 } else { *users - 1 };
                if *users == 0 {
                    closed.remove(range);
                }
            }
            if closed.is_empty() {
                self.closed.remove(address);
            }
            work.touch_service_address(*address);
        }
        let node_ports: BTreeSet<ServicePort> =
            service.ports.iter().filter_map(|p| Some((p.protocol, p.node_port?))).collect();
        node_ports.iter().for_each(|port| count(&mut self.node_ports, *port, &user, way));
    }
    /// Brings entries and atoms of the addresses up to date that the marks are about.
    pub(crate) fn refresh(
        &mut self,
        scope: &Scope,
        nodes: &Nodes,
        membership: &mut Membership,
        out: &mut Output,
        work: &mut Worklist,
    ) {
        for address in touched(work.take_services(), scope, nodes) {
            let mut entries = self.addresses.get(&address).cloned().unwrap_or_default();
            let mut everybody: Ranges = entries.keys().map(single).collect();
            everybody.extend(self.closed.get(&address).into_iter().flat_map(BTreeMap::keys));
            let mut places = Places::from([(None, everybody)]);
            for node in nodes.at(address).filter(|node| scope.includes(node)) {
                let ports = self.ports_of_node(node);
                places.insert(Some(node.clone()), ports.keys().map(single).collect());
                if *scope != Scope::Everywhere {
                    for (port, users) in ports {
                        let here = entries.entry(port).or_default();
                        users.iter().for_each(|user| join(here, user));
                    }
                }
            }
            self.put_entries(address, entries, out);
            self.put_atoms(address, places, membership, work);
        }
    }

    /// Every Service's nodePorts, and the hostPorts of the pods there.
    fn ports_of_node(&self, node: &str) -> PortUsers {
        let mut ports = self.node_ports.clone();
        for (port, users) in self.host_ports.get(node).into_iter().flatten() {
            let here = ports.entry(*port).or_default();
            users.iter().for_each(|user| join(here, user));
        }
        ports
    }

    fn put_entries(&mut self, address: IpAddr, ports: PortUsers, out: &mut Output) {
        let table = TableId::service(Family::of(address));
        let key = |port: &ServicePort| service_key(address, port.0.number(), port.1);
        let before = self.entries.remove(&address).unwrap_or_default();
        for port in before.keys().filter(|port| !ports.contains_key(port)) {
            out.take(table, key(port));
        }
        // Neighbours have the same users, and then share the list of origins.
        let mut last: Option<(&Users, Entry)> = None;
        for (port, users) in ports.iter().filter(|(port, users)| before.get(port) != Some(users)) {
            let entry = match &last {
                Some((same, entry)) if *same == users => entry.clone(),
                _ => {
                    let origins = users.iter().map(|user| Origin::Implied { reason: user.clone() });
                    schema::plain(ActionId::Defer).from(origins)
                }
            };
            last = Some((users, entry.clone()));
            out.put(table, key(port), entry);
        }
        if !ports.is_empty() {
            self.entries.insert(address, ports);
        }
    }

    /// The places of an address that have atoms, and those that have no longer. New atoms come
    /// first, so that one which stays is not made anew.
    fn put_atoms(
        &mut self,
        address: IpAddr,
        places: Places<Ranges>,
        membership: &mut Membership,
        work: &mut Worklist,
    ) {
        let before = self.atoms.remove(&address).unwrap_or_default();
        let mut now = Places::new();
        for (node, ports) in places.into_iter().filter(|(_, ports)| !ports.is_empty()) {
            let atom = Atom::Service { node: node.clone(), ports: ports.into_iter().collect() };
            now.insert(node, membership.acquire(atom, work));
        }
        if !now.is_empty() {
            self.atoms.insert(address, now);
        }
        work.touch_address(address);
        before.into_values().for_each(|atom| membership.release(atom, work));
    }
}

/// The addresses whose ports the marks of an update are about, in order. Nodes out of scope have
/// ports that no pod of this node asks about.
fn touched(marks: ServiceMarks, scope: &Scope, nodes: &Nodes) -> BTreeSet<IpAddr> {
    let ServiceMarks { mut addresses, nodes: some, every_node } = marks;
    let every = nodes.names().filter(|_| every_node);
    for node in every.chain(&some).filter(|node| scope.includes(node)) {
        addresses.extend(nodes.addresses(node));
    }
    addresses
}

fn single(port: &ServicePort) -> PortRange {
    (port.0, port.1, port.1)
}
