//! The incremental compiler: what it knows, the events it takes, and the order of one update.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{
    Cluster, Isolation, Labels, Node, ObjectKey, Pod, Policy, Port, Ports as PolicyPorts, Protocol, Service,
};
use netpolc_table::{Entry, Key, Program, TableId, delta::Changes, schema::Family};

use crate::{
    atoms::{Atom, Atoms, NamespaceScope},
    blocks::{Blocks, Prefix},
    classes::Classes,
    endpoints::Endpoint,
    ids::Ids,
    pods::{Group, GroupId, Pods},
    ports::Ports,
    services::Services,
    sets::{PolicySlot, Sets},
    wire::Wire,
};

/// Whose pods are endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of one node.
    Node(Arc<str>),
    /// All: for looking at a whole cluster offline.
    Everywhere,
}

/// Something changed. None: it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A namespace's labels.
    Namespace {
        /// Its name.
        name: Arc<str>,
        /// Its labels.
        labels: Option<Labels>,
    },
    /// A pod.
    Pod {
        /// Its key.
        key: ObjectKey,
        /// The pod.
        pod: Option<Pod>,
    },
    /// A policy.
    Policy {
        /// Its key.
        key: ObjectKey,
        /// The policy.
        policy: Option<Policy>,
    },
    /// A node.
    Node {
        /// Its name.
        name: Arc<str>,
        /// The node.
        node: Option<Node>,
    },
    /// A Service.
    Service {
        /// Its key.
        key: ObjectKey,
        /// The Service.
        service: Option<Service>,
    },
    /// The host-side interface of a local pod.
    Interface {
        /// The pod; need not be known yet.
        pod: ObjectKey,
        /// The interface's index.
        ifindex: Option<u32>,
    },
    /// The node's own devices.
    Wire(Wire),
}

/// No id is left. What is enforced stays as it is; this compiler answers nothing but this from now
/// on, and a new one may be tried after objects went away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {capacity} {what} on one node: fewer distinct policies or peers are needed")]
pub struct Overflow {
    pub(crate) what: &'static str,
    pub(crate) capacity: u32,
}

/// Something that users should know; enforcement is exact all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Diagnostic {
    /// Several active pods have one address: it is a member only of peers that select all of them.
    AddressConflict {
        /// The address.
        address: IpAddr,
        /// The pods, as `namespace/name`.
        pods: Vec<Arc<str>>,
    },
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Diagnostic::AddressConflict { address, pods } => {
                write!(
                    f,
                    "pods {} share the address {address}: only peers that select all of them match it",
                    pods.join(", ")
                )
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct NamespaceState {
    pub(crate) labels: Labels,
    pub(crate) groups: BTreeSet<GroupId>,
    pub(crate) policies: BTreeMap<Arc<str>, PolicySlot>,
}

/// Keeps the program of one node in step with events.
#[derive(Debug)]
pub struct Compiler {
    pub(crate) scope: Scope,
    pub(crate) program: Program,
    /// None while loading: the whole program is new then.
    changes: Option<Changes>,
    overflow: Option<Overflow>,
    versions: u32,
    pub(crate) namespaces: BTreeMap<Arc<str>, NamespaceState>,
    pub(crate) pods: Pods,
    pub(crate) atoms: Atoms,
    pub(crate) blocks: Blocks,
    pub(crate) classes: [Classes; 2],
    pub(crate) sets: Sets,
    pub(crate) ports: Ports,
    pub(crate) nodes: HashMap<Arc<str>, Vec<IpAddr>>,
    pub(crate) node_addresses: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    pub(crate) services: Services,
    pub(crate) wire: Wire,
    pub(crate) endpoint_ids: Ids,
    pub(crate) endpoints: BTreeMap<ObjectKey, Endpoint>,
    pub(crate) interfaces: HashMap<ObjectKey, u32>,
    // The work of the update under way.
    pub(crate) stale: BTreeSet<ObjectKey>,
    pub(crate) reworded: BTreeSet<ObjectKey>,
    pub(crate) released: Vec<u16>,
    pub(crate) dirty: BTreeSet<Prefix>,
}

/// Compiles a cluster from scratch.
///
/// # Errors
/// Where a node needs more ids than there are.
pub fn compile(cluster: &Cluster, scope: Scope) -> Result<Compiler, Overflow> {
    let mut compiler = Compiler::new(scope);
    compiler.load(cluster)?;
    Ok(compiler)
}

impl Compiler {
    /// Knows nothing yet; its program permits everything.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            program: Program::default(),
            changes: None,
            overflow: None,
            versions: 0,
            namespaces: BTreeMap::new(),
            pods: Pods::default(),
            atoms: Atoms::default(),
            blocks: Blocks::default(),
            classes: Family::BOTH.map(Classes::new),
            sets: Sets::new(),
            ports: Ports::new(),
            nodes: HashMap::new(),
            node_addresses: HashMap::new(),
            services: Services::default(),
            wire: Wire::default(),
            endpoint_ids: Ids::new("endpoints"),
            endpoints: BTreeMap::new(),
            interfaces: HashMap::new(),
            stale: BTreeSet::new(),
            reworded: BTreeSet::new(),
            released: Vec::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Takes in a whole cluster; once, before any event.
    ///
    /// # Errors
    /// Where ids run out.
    pub fn load(&mut self, cluster: &Cluster) -> Result<(), Overflow> {
        self.changes = None;
        self.cover_ports()?;
        for (name, labels) in &cluster.namespaces {
            self.namespaces.entry(name.clone()).or_default().labels = labels.clone();
        }
        for (name, node) in &cluster.nodes {
            self.set_node(name, Some(node));
        }
        for (key, pod) in &cluster.pods {
            self.set_pod(key, Some(pod.clone()))?;
        }
        for (key, policy) in &cluster.policies {
            self.set_policy(key, Some(policy.clone()));
        }
        for (key, service) in &cluster.services {
            self.set_service(key, Some(service.clone()));
        }
        let done = self.finish();
        self.changes = Some(Changes::default());
        done
    }

    /// Takes in one event and returns the entries that changed.
    ///
    /// # Errors
    /// Where ids run out: the program is of no use any more, see [`Overflow`].
    pub fn apply(&mut self, event: Event) -> Result<Changes, Overflow> {
        self.apply_all([event])
    }

    /// Takes in several events as one update.
    ///
    /// # Errors
    /// As [`Compiler::apply`].
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = Event>) -> Result<Changes, Overflow> {
        if let Some(overflow) = &self.overflow {
            return Err(overflow.clone());
        }
        self.wake();
        if self.changes.is_none() {
            self.cover_ports()?;
        }
        self.changes = Some(Changes::default());
        let mut done = events.into_iter().try_for_each(|event| self.take_in(event));
        if done.is_ok() {
            done = self.finish();
        }
        if let Err(overflow) = done {
            self.overflow = Some(overflow.clone());
            return Err(overflow);
        }
        Ok(self.changes.replace(Changes::default()).unwrap_or_default())
    }

    /// The program as of the last update.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What users should know, in order.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let conflicts = self.pods.conflicts().into_iter();
        conflicts.map(|(address, pods)| Diagnostic::AddressConflict { address, pods }).collect()
    }

    /// The endpoint id of a local pod.
    pub fn endpoint(&self, pod: &ObjectKey) -> Option<u16> {
        self.endpoints.get(pod).map(|e| e.id)
    }

    /// The local pods that are endpoints, in order.
    pub fn endpoints(&self) -> impl Iterator<Item = (&ObjectKey, u16)> {
        self.endpoints.iter().map(|(key, e)| (key, e.id))
    }

    fn wake(&mut self) {
        let [v4, v6] = &mut self.classes;
        let all = [&mut v4.ids, &mut v6.ids, &mut self.sets.ids, &mut self.sets.row_ids, &mut self.ports.ids];
        all.into_iter().for_each(Ids::wake);
        self.endpoint_ids.wake();
        self.atoms.wake();
    }

    fn take_in(&mut self, event: Event) -> Result<(), Overflow> {
        match event {
            Event::Namespace { name, labels } => self.set_namespace(&name, labels.unwrap_or_default()),
            Event::Pod { key, pod } => return self.set_pod(&key, pod),
            Event::Policy { key, policy } => self.set_policy(&key, policy),
            Event::Node { name, node } => self.set_node(&name, node.as_ref()),
            Event::Service { key, service } => self.set_service(&key, service),
            Event::Interface { pod, ifindex } => self.set_interface(pod, ifindex),
            Event::Wire(wire) => self.set_wire(wire),
        }
        Ok(())
    }

    /// New sets first, then what is not needed any more, then leaves and words.
    fn finish(&mut self) -> Result<(), Overflow> {
        self.refresh_services();
        for key in std::mem::take(&mut self.stale) {
            self.choose_sets(&key)?;
        }
        for set in std::mem::take(&mut self.released) {
            self.release_set(set);
        }
        for prefix in std::mem::take(&mut self.dirty) {
            self.refresh(prefix)?;
        }
        for key in std::mem::take(&mut self.reworded) {
            self.put_word(&key);
        }
        Ok(())
    }

    pub(crate) fn put(&mut self, table: TableId, key: Key, entry: Entry) {
        match &mut self.changes {
            Some(changes) => self.program.set(changes, table, key, Some(entry)),
            None => {
                self.program.table_mut(table).entries.insert(key, entry);
            }
        }
    }

    pub(crate) fn take(&mut self, table: TableId, key: Key) -> Option<Entry> {
        let before = self.program.table_mut(table).entries.remove(&key);
        if let (Some(changes), Some(entry)) = (&mut self.changes, &before) {
            changes.note(table, key, Some(entry.clone()), None);
        }
        before
    }

    /// Every leaf is made once at the end of a load, so members need not be marked one by one.
    pub(crate) fn is_loading(&self) -> bool {
        self.changes.is_none()
    }

    fn is_local(&self, pod: &Pod) -> bool {
        match &self.scope {
            Scope::Everywhere => true,
            Scope::Node(name) => pod.node.as_ref() == Some(name),
        }
    }

    fn set_namespace(&mut self, name: &Arc<str>, labels: Labels) {
        let state = self.namespaces.entry(name.clone()).or_default();
        let before = std::mem::replace(&mut state.labels, labels);
        if before == state.labels {
            return;
        }
        let (labels, groups) = (state.labels.clone(), state.groups.clone());
        for atom in self.atoms.matching.clone() {
            let Atom::Pods { namespaces, pods } = self.atoms.slot(atom).atom.clone() else { continue };
            match (namespaces.contains(name, &before), namespaces.contains(name, &labels)) {
                (false, true) => {
                    for &group in
                        groups.iter().filter(|g| pods.matches(&self.pods.group(**g).key.labels)).collect::<Vec<_>>()
                    {
                        self.join(group, atom);
                    }
                }
                (true, false) => {
                    for &group in
                        groups.iter().filter(|g| self.pods.group(**g).atoms.contains(&atom)).collect::<Vec<_>>()
                    {
                        self.leave(group, atom);
                    }
                }
                _ => {}
            }
        }
    }

    fn set_pod(&mut self, key: &ObjectKey, pod: Option<Pod>) -> Result<(), Overflow> {
        let pod = pod.filter(Pod::is_policed);
        let before = self.pods.find(key);
        if before.is_some_and(|id| pod.as_ref() == Some(&self.pods.slot(id).pod)) {
            return Ok(());
        }
        if let Some(id) = before {
            let old = self.pods.slot(id).pod.clone();
            self.count_host_ports(&old, HostPorts::Go);
        }
        let local = pod.as_ref().filter(|p| self.is_local(p)).cloned();
        // The new one comes first, so that what both need stays.
        if let Some(pod) = pod {
            self.dirty.extend(pod.addresses.iter().copied().map(Prefix::address));
            self.count_host_ports(&pod, HostPorts::Come);
            let (_, group, fresh) = self.pods.insert(pod);
            if fresh {
                self.place_group(group);
            }
        }
        if let Some(id) = before {
            let (slot, group) = self.pods.remove(id);
            self.dirty.extend(slot.pod.addresses.iter().copied().map(Prefix::address));
            if let Some(group) = group {
                self.displace_group(slot.group, group);
            }
        }
        match local {
            Some(pod) => self.put_endpoint(&pod),
            None => {
                self.drop_endpoint(key);
                Ok(())
            }
        }
    }

    /// Finds the atoms of a new group.
    fn place_group(&mut self, id: GroupId) {
        let key = self.pods.group(id).key.clone();
        let state = self.namespaces.entry(key.namespace.clone()).or_default();
        state.groups.insert(id);
        let own = self.atoms.by_namespace.get(&key.namespace).into_iter().flatten();
        let candidates: Vec<_> = own.chain(&self.atoms.matching).copied().collect();
        for atom in candidates {
            let Atom::Pods { namespaces, pods } = &self.atoms.slot(atom).atom else { continue };
            let here = match namespaces {
                NamespaceScope::Named(_) => true,
                NamespaceScope::Matching(s) => s.matches(&self.namespaces[&key.namespace].labels),
            };
            if here && pods.matches(&key.labels) {
                self.join(id, atom);
            }
        }
        let names: BTreeSet<_> = key.ports.iter().map(|(p, n, _)| (*p, n.clone())).collect();
        for name in names.into_iter().filter(|n| self.atoms.names.contains_key(n)).collect::<Vec<_>>() {
            self.join_port(id, &name);
        }
    }

    /// Takes a group that has no pods any more out of its atoms.
    fn displace_group(&mut self, id: GroupId, group: Group) {
        if let Some(state) = self.namespaces.get_mut(&group.key.namespace) {
            state.groups.remove(&id);
        }
        for atom in group.atoms {
            self.abandon(id, atom);
        }
    }

    fn count_host_ports(&mut self, pod: &Pod, way: HostPorts) {
        let ports = pod.ports.iter().filter_map(|p| Some((p.protocol, p.host_port?)));
        let ports: Vec<_> = ports.collect::<BTreeSet<_>>().into_iter().collect();
        let Some(node) = pod.node.as_ref().filter(|_| !ports.is_empty()) else { return };
        let user: Arc<str> = pod.key.to_string().into();
        match way {
            HostPorts::Come => self.set_host_ports(node, &user, &ports, &[]),
            HostPorts::Go => self.set_host_ports(node, &user, &[], &ports),
        }
    }

    fn set_policy(&mut self, key: &ObjectKey, policy: Option<Policy>) {
        let state = self.namespaces.entry(key.namespace.clone()).or_default();
        let before = match policy {
            Some(policy) => {
                if state.policies.get(&key.name).is_some_and(|slot| *slot.policy == policy) {
                    return;
                }
                self.versions += 1;
                let slot = PolicySlot {
                    label: key.to_string().into(),
                    ingress_names: ingress_names(&policy),
                    policy: Arc::new(policy),
                    version: self.versions,
                };
                state.policies.insert(key.name.clone(), slot)
            }
            None => state.policies.remove(&key.name),
        };
        let after = state.policies.get(&key.name);
        let from = ObjectKey { namespace: key.namespace.clone(), name: "".into() };
        let here = self.endpoints.range(from..).take_while(|(k, _)| k.namespace == key.namespace);
        let selected = here.filter(|(k, _)| {
            let Some(id) = self.pods.find(k) else { return false };
            let labels = &self.pods.slot(id).pod.labels;
            before.iter().chain(after).any(|slot| slot.policy.selector.matches(labels))
        });
        self.stale.extend(selected.map(|(k, _)| k.clone()));
    }

    fn set_node(&mut self, name: &Arc<str>, node: Option<&Node>) {
        let before = match node {
            Some(node) => self.nodes.insert(name.clone(), node.addresses.clone()),
            None => self.nodes.remove(name),
        };
        for address in before.into_iter().flatten() {
            self.dirty.insert(Prefix::address(address));
            self.stale_service_address(address);
            if let Some(nodes) = self.node_addresses.get_mut(&address) {
                nodes.remove(name);
                if nodes.is_empty() {
                    self.node_addresses.remove(&address);
                }
            }
        }
        for address in node.into_iter().flat_map(|n| &n.addresses) {
            self.dirty.insert(Prefix::address(*address));
            self.stale_service_address(*address);
            self.node_addresses.entry(*address).or_default().insert(name.clone());
        }
    }
}

enum HostPorts {
    Come,
    Go,
}

/// Port names that a policy's ingress rules ask for: they resolve on the selected pod itself.
fn ingress_names(policy: &Policy) -> Vec<(Protocol, Arc<str>)> {
    let Isolation::Isolated(rules) = &policy.ingress else { return Vec::new() };
    let ports = rules.iter().filter_map(|rule| match &rule.ports {
        PolicyPorts::Any => None,
        PolicyPorts::Listed(ports) => Some(ports),
    });
    let names = ports.flatten().filter_map(|port| match port {
        Port::Named { protocol, name } => Some((*protocol, name.clone())),
        _ => None,
    });
    names.collect()
}
