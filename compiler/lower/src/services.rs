//! Services: which addresses and ports are deferred, because they lead to backends (S48).
//!
//! Each such address and port has an entry in `service_v4` or `service_v6`, and the address is a member of an atom that says which of its
//! ports these are: what a rule grants its class leaves them out ([`crate::rows`]), so that the tables deny them and a
//! packet comes to the entry. A node's addresses have nodePorts and hostPorts, for the pods of that node only.
//!
//! A Service that is set aside ([`crate::Shares`]) has no entries: its ports are left out of what the address is granted, a range
//! instead of each, and nothing is deferred.
//!
//! Under [`Scope::Everywhere`] the addresses of nodes have no entries: whether a port of one is translated depends on the node that asks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{ObjectKey, Protocol, Service};
use netpolc_table::{
    ActionId, Entry, Origin, TableId,
    schema::{self, Family, service_key},
};

use crate::{
    Scope,
    atoms::{Atom, AtomId},
    blocks::Prefix,
    compiler::Compiler,
};

/// A port of an address.
pub(crate) type ServicePort = (Protocol, u16);
/// Who has it, as `Service namespace/name`: Services, or pods with a hostPort. Sorted.
type Users = Vec<Arc<str>>;
type PortUsers = BTreeMap<ServicePort, Users>;
/// Ranges of ports, first and last.
type Ranges = BTreeSet<(Protocol, u16, u16)>;
/// Ranges that Services which are set aside close on an address, and how many do.
type ClosedPorts = BTreeMap<(Protocol, u16, u16), usize>;

#[derive(Debug, Default)]
pub(crate) struct Services {
    objects: BTreeMap<ObjectKey, Service>,
    addresses: HashMap<IpAddr, PortUsers>,
    closed: HashMap<IpAddr, ClosedPorts>,
    node_ports: PortUsers,
    /// By node.
    host_ports: HashMap<Arc<str>, PortUsers>,
    /// How many Services have each healthCheckNodePort.
    health_checks: BTreeMap<u16, usize>,
    /// The atom of each place that has ports, by address: for everybody (None), or for the pods of one node.
    atoms: HashMap<IpAddr, BTreeMap<Option<Arc<str>>, AtomId>>,
    /// What the tables have for an address.
    entries: HashMap<IpAddr, PortUsers>,
    stale: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    Up,
    Down,
}

/// Adds or removes a user; true where the port comes or goes, or is another's.
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
    /// Ports on which every node answers load balancers; none of them is the node's for its pods (S45).
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

    fn count(&mut self, key: &ObjectKey, service: &Service, way: Count) {
        let user: Arc<str> = format!("Service {key}").into();
        let numbers: BTreeSet<ServicePort> = service.ports.iter().map(|p| (p.protocol, p.number)).collect();
        for address in service.addresses.iter().collect::<BTreeSet<_>>() {
            let ports = self.addresses.entry(*address).or_default();
            numbers.iter().for_each(|port| count(ports, *port, &user, way));
            if ports.is_empty() {
                self.addresses.remove(address);
            }
            self.stale.insert(*address);
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
            self.stale.insert(*address);
        }
        let node_ports: BTreeSet<ServicePort> =
            service.ports.iter().filter_map(|p| Some((p.protocol, p.node_port?))).collect();
        node_ports.iter().for_each(|port| count(&mut self.node_ports, *port, &user, way));
    }
}

impl Compiler {
    /// A Service is there, changed, or is gone.
    pub(crate) fn set_service(&mut self, key: &ObjectKey, service: Option<Service>) {
        let before = match &service {
            Some(new) => self.services.objects.insert(key.clone(), new.clone()),
            None => self.services.objects.remove(key),
        };
        if before == service {
            return;
        }
        let has_node_ports = |s: &Service| s.ports.iter().any(|p| p.node_port.is_some());
        if before.iter().chain(&service).any(has_node_ports) {
            self.stale_nodes();
        }
        let checks = |s: &Option<Service>| s.as_ref().and_then(|s| s.health_check);
        let (old, new) = (checks(&before), checks(&service));
        // The new one first, so that what both need stays.
        if let Some(service) = &service {
            if let Some(old) = &before {
                self.services.count(key, old, Count::Down);
            }
            self.services.count(key, service, Count::Up);
        } else if let Some(old) = &before {
            self.services.count(key, old, Count::Down);
        }
        if old != new {
            let checks = &mut self.services.health_checks;
            if let Some(port) = new {
                *checks.entry(port).or_default() += 1;
            }
            if let Some(port) = old {
                let users = checks.get_mut(&port).expect("counted up before");
                *users -= 1;
                if *users == 0 {
                    checks.remove(&port);
                }
            }
            self.stale.extend(self.endpoints.keys().cloned());
        }
    }

    /// The hostPorts of a policed pod come or go.
    pub(crate) fn set_host_ports(
        &mut self,
        node: &Arc<str>,
        pod: &Arc<str>,
        came: &[ServicePort],
        went: &[ServicePort],
    ) {
        if came == went {
            return;
        }
        let ports = self.services.host_ports.entry(node.clone()).or_default();
        went.iter().for_each(|port| count(ports, *port, pod, Count::Down));
        came.iter().for_each(|port| count(ports, *port, pod, Count::Up));
        if ports.is_empty() {
            self.services.host_ports.remove(node);
        }
        self.stale_node(node);
    }

    fn in_scope(&self, node: &str) -> bool {
        match &self.scope {
            Scope::Everywhere => true,
            Scope::Node(name) => **name == *node,
        }
    }

    fn stale_nodes(&mut self) {
        for node in self.nodes.keys().filter(|n| self.in_scope(n)).cloned().collect::<Vec<_>>() {
            self.stale_node(&node);
        }
    }

    /// A node's addresses, or the ports on them, change.
    pub(crate) fn stale_node(&mut self, node: &Arc<str>) {
        if self.in_scope(node)
            && let Some(addresses) = self.nodes.get(node)
        {
            self.services.stale.extend(addresses.iter().copied());
        }
    }

    /// An address is, or was, a node's.
    pub(crate) fn stale_service_address(&mut self, address: IpAddr) {
        self.services.stale.insert(address);
    }

    /// Brings entries and atoms of the addresses that changed up to date.
    pub(crate) fn refresh_services(&mut self) {
        for address in std::mem::take(&mut self.services.stale) {
            let mut entries = self.services.addresses.get(&address).cloned().unwrap_or_default();
            let mut here: Ranges = entries.keys().map(single).collect();
            here.extend(self.services.closed.get(&address).into_iter().flat_map(BTreeMap::keys));
            let mut places = BTreeMap::from([(None, here)]);
            let nodes = self.node_addresses.get(&address).cloned().unwrap_or_default();
            for node in nodes.into_iter().filter(|n| self.in_scope(n)) {
                let mut ports = self.services.node_ports.clone();
                for (port, users) in self.services.host_ports.get(&node).into_iter().flatten() {
                    users.iter().for_each(|user| join(ports.entry(*port).or_default(), user));
                }
                places.insert(Some(node), ports.keys().map(single).collect());
                if self.scope != Scope::Everywhere {
                    for (port, users) in ports {
                        users.iter().for_each(|user| join(entries.entry(port).or_default(), user));
                    }
                }
            }
            self.put_service_entries(address, entries);
            self.put_service_atoms(address, places);
        }
    }

    fn put_service_entries(&mut self, address: IpAddr, ports: PortUsers) {
        let table = TableId::service(Family::of(address));
        let before = self.services.entries.remove(&address).unwrap_or_default();
        for port in before.keys().filter(|port| !ports.contains_key(port)) {
            self.take(table, service_key(address, port.0.number(), port.1));
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
            self.put(table, service_key(address, port.0.number(), port.1), entry);
        }
        if !ports.is_empty() {
            self.services.entries.insert(address, ports);
        }
    }

    /// The places of an address that have atoms, and those that have no longer.
    fn put_service_atoms(&mut self, address: IpAddr, places: BTreeMap<Option<Arc<str>>, Ranges>) {
        let before = self.services.atoms.remove(&address).unwrap_or_default();
        let mut now = BTreeMap::new();
        for (node, ports) in places.into_iter().filter(|(_, ports)| !ports.is_empty()) {
            let atom = Atom::Service { node: node.clone(), ports: ports.into_iter().collect() };
            now.insert(node, self.acquire_atom(atom));
        }
        if !now.is_empty() {
            self.services.atoms.insert(address, now);
        }
        self.dirty.insert(Prefix::address(address));
        before.into_values().for_each(|atom| self.release_atom(atom));
    }
}

fn single(port: &ServicePort) -> (Protocol, u16, u16) {
    (port.0, port.1, port.1)
}
