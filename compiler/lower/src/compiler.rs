//! The incremental compiler: what it knows, the events it takes, and the order of one update.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{
    Cluster, Index, Isolation, Labels, Node, ObjectKey, Pod, Policy, Port, Ports as PolicyPorts, Protocol,
};
use netpolc_table::{EndpointId, Entry, Key, Program, SetId, TableId, delta::Changes};

use crate::{
    atoms::Atoms,
    blocks::{Blocks, Prefix},
    cells::Cells,
    classes::Classes,
    endpoints::Endpoint,
    event::{Event, Interface},
    ids::Ids,
    pods::{Group, GroupId, Pods},
    ports::Ports,
    services::Services,
    sets::{PolicySlot, Sets},
    shares::{Limits, Room, Shares},
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

/// No id is left. What is enforced stays as it is; this compiler answers nothing but this from now
/// on, and a new one may be tried after objects went away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {capacity} {what} on one node: fewer distinct policies or peers are needed")]
pub struct Overflow {
    /// What there are too many of.
    pub what: Numbered,
    /// How many there may be.
    pub capacity: u32,
}

/// What gets ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// Pods of the node.
    Endpoints,
    /// Policy sets.
    Sets,
    /// Classes of IPv4 addresses.
    ClassesV4,
    /// Classes of IPv6 addresses.
    ClassesV6,
    /// Rows.
    Rows,
    /// Port classes.
    PortClasses,
}

impl std::fmt::Display for Numbered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Numbered::Endpoints => "endpoints",
            Numbered::Sets => "policy sets",
            Numbered::ClassesV4 => "IPv4 classes",
            Numbered::ClassesV6 => "IPv6 classes",
            Numbered::Rows => "rows",
            Numbered::PortClasses => "port classes",
        })
    }
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
    /// The node has no endpoint for a pod: it is not enforced.
    NoEndpoint {
        /// The pod, as `namespace/name`.
        pod: Arc<str>,
        /// How many pods the target can hold.
        capacity: u32,
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
            Diagnostic::NoEndpoint { pod, capacity } => {
                write!(
                    f,
                    "pod {pod} is not enforced: the tables hold {capacity} pods of this node; make them with room for more"
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
    pub(crate) classes: Classes,
    pub(crate) sets: Sets,
    pub(crate) ports: Ports,
    pub(crate) cells: Cells,
    pub(crate) nodes: HashMap<Arc<str>, Vec<IpAddr>>,
    pub(crate) node_addresses: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    pub(crate) services: Services,
    pub(crate) wire: Wire,
    pub(crate) endpoint_ids: Ids<EndpointId>,
    pub(crate) endpoints: BTreeMap<ObjectKey, Endpoint>,
    pub(crate) interfaces: HashMap<ObjectKey, Interface>,
    /// Local pods for which there was no endpoint id, and how many there are.
    pub(crate) unplaced: BTreeSet<ObjectKey>,
    pub(crate) endpoint_capacity: u32,
    // The work of the update under way.
    pub(crate) stale: BTreeSet<ObjectKey>,
    pub(crate) reworded: BTreeSet<ObjectKey>,
    pub(crate) released: Vec<SetId>,
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
            classes: Classes::new(),
            sets: Sets::new(),
            ports: Ports::new(),
            cells: Cells::default(),
            nodes: HashMap::new(),
            node_addresses: HashMap::new(),
            services: Services::default(),
            wire: Wire::default(),
            endpoint_ids: Ids::new(Numbered::Endpoints),
            endpoints: BTreeMap::new(),
            interfaces: HashMap::new(),
            unplaced: BTreeSet::new(),
            endpoint_capacity: u32::from(u16::MAX) - 1,
            stale: BTreeSet::new(),
            reworded: BTreeSet::new(),
            released: Vec::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// The same for a target that has room for so many ids.
    pub fn within(scope: Scope, room: &Room) -> Self {
        let mut this = Self::new(scope);
        this.endpoint_ids.limit(room.endpoints);
        this.endpoint_capacity = room.endpoints.saturating_sub(1);
        this.sets.ids.limit(room.sets);
        this.sets.row_ids.limit(room.rows);
        this.ports.ids.limit(room.port_classes);
        let [v4, v6] = room.classes;
        this.classes.v4.ids.limit(v4);
        this.classes.v6.ids.limit(v6);
        this
    }

    /// Takes in a whole cluster; once, before any event.
    ///
    /// # Errors
    /// Where ids run out.
    pub fn load(&mut self, cluster: &Cluster) -> Result<(), Overflow> {
        self.load_admitted(cluster, &Shares::new(self.scope.clone(), Limits::default()))
    }

    /// The same as far as `shares` admits it, which has looked at this cluster.
    ///
    /// # Errors
    /// As [`Compiler::load`].
    pub fn load_admitted(&mut self, cluster: &Cluster, shares: &Shares) -> Result<(), Overflow> {
        self.changes = None;
        self.cover_ports()?;
        for (name, labels) in &cluster.namespaces {
            self.namespaces.entry(name.clone()).or_default().labels = labels.clone();
        }
        for (name, node) in &cluster.nodes {
            self.set_node(name, Some(node));
        }
        for (key, pod) in &cluster.pods {
            self.set_pod(key, Some(pod.clone()));
        }
        for (key, policy) in &cluster.policies {
            self.set_policy(key, Some(shares.policy(policy.clone())));
        }
        for (key, service) in &cluster.services {
            self.set_service(key, Some(shares.service(key, service.clone())));
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
        self.wake();
        self.apply_further(events)
    }

    /// Takes in more events as part of the last update: ids that it gave back stay unused, so the changes of both,
    /// added up, are those of one update.
    ///
    /// # Errors
    /// As [`Compiler::apply`].
    pub fn apply_further(&mut self, events: impl IntoIterator<Item = Event>) -> Result<Changes, Overflow> {
        if let Some(overflow) = &self.overflow {
            return Err(overflow.clone());
        }
        if self.changes.is_none() {
            self.cover_ports()?;
        }
        self.changes = Some(Changes::default());
        events.into_iter().for_each(|event| self.take_in(event));
        if let Err(overflow) = self.finish() {
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
        let conflicts = conflicts.map(|(address, pods)| Diagnostic::AddressConflict { address, pods });
        let capacity = self.endpoint_capacity;
        let unplaced = self.unplaced.iter().map(|pod| Diagnostic::NoEndpoint { pod: pod.to_string().into(), capacity });
        conflicts.chain(unplaced).collect()
    }

    /// The endpoint id of a local pod.
    pub fn endpoint(&self, pod: &ObjectKey) -> Option<EndpointId> {
        self.endpoints.get(pod).map(|e| e.id)
    }

    /// The local pods that are endpoints, in order.
    pub fn endpoints(&self) -> impl Iterator<Item = (&ObjectKey, EndpointId)> {
        self.endpoints.iter().map(|(key, e)| (key, e.id))
    }

    fn wake(&mut self) {
        self.classes.v4.ids.wake();
        self.classes.v6.ids.wake();
        self.sets.ids.wake();
        self.sets.row_ids.wake();
        self.ports.ids.wake();
        self.endpoint_ids.wake();
        self.atoms.wake();
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Namespace { name, labels } => self.set_namespace(&name, labels.unwrap_or_default()),
            Event::Pod { key, pod } => self.set_pod(&key, pod),
            Event::Policy { key, policy } => self.set_policy(&key, policy),
            Event::Node { name, node } => self.set_node(&name, node.as_ref()),
            Event::Service { key, service } => self.set_service(&key, service),
            Event::Interface { pod, interface } => self.set_interface(pod, interface),
            Event::Wire(wire) => self.set_wire(wire),
        }
    }

    /// New sets first, then what is not needed any more, then leaves and words.
    fn finish(&mut self) -> Result<(), Overflow> {
        self.refresh_services();
        for key in std::mem::take(&mut self.unplaced) {
            // Ids that were given back in this update rest until the next one.
            if let Some(pod) = self.pods.find(&key).map(|id| self.pods.slot(id).pod.clone()) {
                self.put_endpoint(&pod);
            }
        }
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
            let slot = self.atoms.slot(atom);
            match (slot.selects_namespace(name, &before), slot.selects_namespace(name, &labels)) {
                (false, true) => {
                    let here = groups.iter().filter(|g| slot.selects_pod(&self.pods.group(**g).key.labels));
                    here.copied().collect::<Vec<_>>().into_iter().for_each(|group| self.join(group, atom));
                }
                (true, false) => {
                    let here = groups.iter().filter(|g| self.pods.group(**g).atoms.contains(&atom));
                    here.copied().collect::<Vec<_>>().into_iter().for_each(|group| self.leave(group, atom));
                }
                _ => {}
            }
        }
    }

    fn set_pod(&mut self, key: &ObjectKey, pod: Option<Pod>) {
        let pod = pod.filter(Pod::is_policed);
        let before = self.pods.find(key);
        if before.is_some_and(|id| pod.as_ref() == Some(&self.pods.slot(id).pod)) {
            return;
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
        // A node knows pods by their addresses: without one there is nothing to enforce yet.
        match local.filter(|pod| !pod.addresses.is_empty() || self.scope == Scope::Everywhere) {
            Some(pod) => self.put_endpoint(&pod),
            None => self.drop_endpoint(key),
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
            let slot = self.atoms.slot(atom);
            let labels = &self.namespaces[&key.namespace].labels;
            if slot.selects_namespace(&key.namespace, labels) && slot.selects_pod(&key.labels) {
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
        let user: Arc<str> = format!("Service {}", pod.key).into();
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
                    index: Arc::new(Index::new(&policy.selector)),
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
            before.iter().chain(after).any(|slot| slot.selects(labels))
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
