//! Everybody who can be at one end of a packet, in classes of those whom no rule tells apart.
//!
//! Here: profiles of pods, classes of pods, and remotes. Not here: what rules say of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{
    Cluster, ContainerPort, Direction, Enforcement, IpFamily, Isolation, Labels, Namespaces,
    ObjectKey, Peer, Peers, Pod, Policy, Port, Ports, SecurityGroupId, Selector, Staged, TierPeer,
    oracle,
};

use crate::region::{RegionId, Regions};

/// Pods that every selector takes or leaves together: same namespace, same labels as far as some
/// selector asks, same security groups, same ports under the names that some rule uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(pub(crate) u32);

impl ProfileId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Pods of one profile whose addresses no rule tells apart either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodClassId(pub(crate) u32);

/// Addresses that no rule tells apart, as the far end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteId(pub(crate) u32);

/// A profile: one of its pods, and what was found out about all.
#[derive(Clone, Debug)]
pub struct Profile<'a> {
    /// Stands for all pods of the profile.
    pub pod: &'a Pod,
    /// The labels of its namespace.
    pub namespace: &'a Labels,
    /// The security groups of its pods; None where they have none (S75).
    pub groups: Option<BTreeSet<SecurityGroupId>>,
}

/// A class of pods.
#[derive(Clone, Debug)]
pub struct PodClass<'a> {
    /// What selectors see.
    pub profile: ProfileId,
    /// What its pods are as remotes, by family; None where they have no address of it.
    pub remotes: [Option<RemoteId>; 2],
    /// Its pods, in order.
    pub pods: Vec<&'a Pod>,
}

/// A class of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// The profiles of the pods that have such an address. Several where an address is claimed by
    /// several pods, and none where it is no pod's.
    pub claimants: Vec<ProfileId>,
    /// The nodes that have such an address, by the labels that some rule asks for.
    pub nodes: Vec<Labels>,
    /// Where the addresses are.
    pub region: RegionId,
}

/// Everybody in a cluster, and everywhere outside of it.
#[derive(Clone, Debug)]
pub struct Universe<'a> {
    /// Where addresses are.
    pub regions: Regions,
    profiles: Vec<Profile<'a>>,
    classes: Vec<PodClass<'a>>,
    remotes: Vec<Remote>,
    by_namespace: BTreeMap<&'a str, Vec<ProfileId>>,
    by_profile: Vec<Vec<RemoteId>>,
    by_region: Vec<Vec<RemoteId>>,
    outside: Vec<RemoteId>,
    nodes: Vec<(RemoteId, Vec<&'a str>)>,
    class_of: HashMap<&'a ObjectKey, PodClassId>,
    remote_of: HashMap<IpAddr, RemoteId>,
    asked: Asked,
}

impl<'a> Universe<'a> {
    /// Sorts a cluster's pods, nodes and the rest of the address space into classes.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self::asked(cluster, &[cluster])
    }

    /// The same, told apart as finely as the rules of any of these clusters ask.
    pub fn asked(cluster: &'a Cluster, by: &[&Cluster]) -> Self {
        let mut asked = Asked::default();
        by.iter().for_each(|cluster| asked.cluster(cluster));
        let mut maker = Maker::new(Regions::of_all(by));
        let policed = || cluster.pods.values().filter(|pod| pod.is_policed());
        let mut addresses: HashMap<IpAddr, (Vec<ProfileId>, Vec<Labels>)> = HashMap::new();
        let mut profile_of = HashMap::new();
        for pod in policed() {
            let profile = maker.profile(cluster, pod, &asked);
            profile_of.insert(&pod.key, profile);
            for address in &pod.addresses {
                addresses.entry(*address).or_default().0.push(profile);
            }
        }
        let mut node_names: BTreeMap<IpAddr, &'a str> = BTreeMap::new();
        for (name, node) in &cluster.nodes {
            let labels: Labels =
                asked.node_labels(&node.labels).map(|(k, v)| (k.clone(), v.clone())).collect();
            for address in &node.addresses {
                addresses.entry(*address).or_default().1.push(labels.clone());
                node_names.insert(*address, name);
            }
        }
        let mut remote_of: HashMap<IpAddr, RemoteId> = HashMap::new();
        let mut nodes: BTreeMap<RemoteId, BTreeSet<&'a str>> = BTreeMap::new();
        let mut sorted: Vec<_> = addresses.into_iter().collect();
        sorted.sort_unstable_by_key(|(address, _)| *address);
        for (address, (mut claimants, mut of_nodes)) in sorted {
            claimants.sort_unstable();
            claimants.dedup();
            of_nodes.sort_unstable();
            of_nodes.dedup();
            let region = maker.regions.containing(address);
            let is_pod = !claimants.is_empty();
            let id = maker.remote(Remote { claimants, nodes: of_nodes, region });
            remote_of.insert(address, id);
            if let Some(name) = node_names.get(&address).filter(|_| !is_pod) {
                nodes.entry(id).or_default().insert(name);
            }
        }
        for pod in policed() {
            let of_family = |family| {
                let mut own = pod.addresses.iter().filter(|a| IpFamily::of(**a) == family);
                own.next().map(|address| remote_of[address])
            };
            maker.add(profile_of[&pod.key], IpFamily::BOTH.map(of_family), pod);
        }
        let outside = maker.regions.ids().collect::<Vec<_>>().into_iter().map(|region| {
            maker.remote(Remote { claimants: Vec::new(), nodes: Vec::new(), region })
        });
        let outside = outside.collect();
        let nodes = nodes.into_iter().map(|(id, names)| (id, names.into_iter().collect()));
        maker.finish(outside, nodes.collect(), remote_of, asked)
    }

    /// All profiles.
    pub fn profiles(&self) -> impl Iterator<Item = (ProfileId, &Profile<'a>)> {
        self.profiles.iter().enumerate().map(|(i, profile)| (ProfileId(i as u32), profile))
    }

    /// The profile with this id.
    pub fn profile(&self, id: ProfileId) -> &Profile<'a> {
        &self.profiles[id.0 as usize]
    }

    /// The profiles of a namespace.
    pub fn profiles_in(&self, namespace: &str) -> &[ProfileId] {
        self.by_namespace.get(namespace).map_or(&[], |ids| ids)
    }

    /// Every namespace that has pods, with its profiles.
    pub fn namespaces(&self) -> impl Iterator<Item = (&'a str, &[ProfileId])> {
        self.by_namespace.iter().map(|(name, ids)| (*name, ids.as_slice()))
    }

    /// All classes of pods.
    pub fn classes(&self) -> impl Iterator<Item = (PodClassId, &PodClass<'a>)> {
        self.classes.iter().enumerate().map(|(i, class)| (PodClassId(i as u32), class))
    }

    /// The class with this id.
    pub fn class(&self, id: PodClassId) -> &PodClass<'a> {
        &self.classes[id.0 as usize]
    }

    /// The class of a pod; None where no policy applies to it (S13, S15).
    pub fn class_of(&self, pod: &ObjectKey) -> Option<PodClassId> {
        self.class_of.get(pod).copied()
    }

    /// All remotes.
    pub fn remotes(&self) -> impl Iterator<Item = (RemoteId, &Remote)> {
        self.remotes.iter().enumerate().map(|(i, remote)| (RemoteId(i as u32), remote))
    }

    /// The remote with this id.
    pub fn remote(&self, id: RemoteId) -> &Remote {
        &self.remotes[id.0 as usize]
    }

    /// The remotes whose addresses pods of this profile have.
    pub fn remotes_of(&self, profile: ProfileId) -> &[RemoteId] {
        &self.by_profile[profile.0 as usize]
    }

    /// The remotes whose addresses are in this region.
    pub fn remotes_in(&self, region: RegionId) -> &[RemoteId] {
        &self.by_region[region.index()]
    }

    /// The addresses of each region that are neither a pod's nor a node's.
    pub fn outside(&self) -> &[RemoteId] {
        &self.outside
    }

    /// The addresses of a region that are neither a pod's nor a node's.
    pub fn outside_of(&self, region: RegionId) -> RemoteId {
        self.outside[region.index()]
    }

    /// Does it matter to some rule on which node a pod is?
    pub fn tells_nodes_apart(&self) -> bool {
        self.asked.by_node
    }

    /// The labels of a pod that some selector asks about.
    pub fn asked_labels<'p>(
        &'p self,
        pod: &'p Pod,
    ) -> impl Iterator<Item = (&'p Arc<str>, &'p Arc<str>)> {
        pod.labels.iter().filter(|(key, _)| self.asked.pod_labels.contains(*key))
    }

    /// The remotes that are nodes, with the nodes' names.
    pub fn nodes(&self) -> &[(RemoteId, Vec<&'a str>)] {
        &self.nodes
    }

    /// The family of its addresses.
    pub fn family(&self, remote: RemoteId) -> IpFamily {
        self.regions.family(self.remote(remote).region)
    }

    /// The remote that an address belongs to, whoever has it.
    pub fn remote_at(&self, address: IpAddr) -> RemoteId {
        let known = self.remote_of.get(&address).copied();
        known.unwrap_or_else(|| self.outside[self.regions.containing(address).index()])
    }
}

/// What some selector or rule asks about, so that what nobody asks about keeps nobody apart.
#[derive(Clone, Debug, Default)]
struct Asked {
    pod_labels: BTreeSet<Arc<str>>,
    node_labels: BTreeSet<Arc<str>>,
    port_names: BTreeSet<Arc<str>>,
    /// Whether it matters on which node a pod is.
    by_node: bool,
}

impl Asked {
    fn cluster(&mut self, cluster: &Cluster) {
        // Groups may leave alone what stays on a node (S82).
        self.by_node |= cluster.security.enforcement == Enforcement::Standard;
        let staged = cluster.staged.values().filter_map(|staged| match staged {
            Staged::Set(policy) => Some(policy),
            Staged::Delete => None,
        });
        cluster.policies.values().chain(staged).for_each(|policy| self.policy(policy));
        for policy in cluster.tiers.values() {
            self.pods(&policy.subject.pods);
            for rule in policy.ingress.iter().chain(&policy.egress) {
                self.ports(&rule.ports);
                for peer in &rule.peers {
                    match peer {
                        TierPeer::Pods { pods, .. } => self.pods(pods),
                        TierPeer::Nodes(selector) => {
                            let keys = selector.requirements.iter().map(|r| r.key.clone());
                            self.node_labels.extend(keys);
                        }
                        TierPeer::Networks(_) | TierPeer::Anybody | TierPeer::Nobody => {}
                    }
                }
            }
        }
    }

    fn policy(&mut self, policy: &Policy) {
        self.pods(&policy.selector);
        for direction in Direction::BOTH {
            let Isolation::Isolated(rules) = policy.isolation(direction) else { continue };
            for rule in rules {
                self.ports(&rule.ports);
                let Peers::Listed(peers) = &rule.peers else { continue };
                for peer in peers {
                    if let Peer::Pods {
                        pods,
                        namespaces: Namespaces::Own | Namespaces::Matching(_),
                    } = peer
                    {
                        self.pods(pods);
                    }
                }
            }
        }
    }

    fn pods(&mut self, selector: &Selector) {
        self.pod_labels.extend(selector.requirements.iter().map(|r| r.key.clone()));
    }

    fn ports(&mut self, ports: &Ports) {
        let Ports::Listed(list) = ports else { return };
        self.port_names.extend(list.iter().filter_map(|port| match port {
            Port::Named { name, .. } | Port::Name(name) => Some(name.clone()),
            Port::Every(_) | Port::Range { .. } | Port::Nothing => None,
        }));
    }

    fn node_labels<'l>(
        &self,
        labels: &'l Labels,
    ) -> impl Iterator<Item = (&'l Arc<str>, &'l Arc<str>)> {
        labels.iter().filter(|(key, _)| self.node_labels.contains(*key))
    }
}

/// What keeps two profiles apart.
#[derive(PartialEq, Eq, Hash)]
struct ProfileKey {
    namespace: Arc<str>,
    labels: Vec<(Arc<str>, Arc<str>)>,
    ports: Vec<ContainerPort>,
    groups: Option<BTreeSet<SecurityGroupId>>,
    /// None where no rule asks for it.
    node: Option<Arc<str>>,
}

struct Maker<'a> {
    regions: Regions,
    profiles: Vec<Profile<'a>>,
    profile_ids: HashMap<ProfileKey, ProfileId>,
    remotes: Vec<Remote>,
    remote_ids: HashMap<Remote, RemoteId>,
    classes: Vec<PodClass<'a>>,
    class_ids: HashMap<(ProfileId, [Option<RemoteId>; 2]), PodClassId>,
    class_of: HashMap<&'a ObjectKey, PodClassId>,
    none: &'a Labels,
}

/// The labels of a namespace that nobody declared.
static NONE: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);

impl<'a> Maker<'a> {
    fn new(regions: Regions) -> Self {
        Self {
            regions,
            profiles: Vec::new(),
            profile_ids: HashMap::new(),
            remotes: Vec::new(),
            remote_ids: HashMap::new(),
            classes: Vec::new(),
            class_ids: HashMap::new(),
            class_of: HashMap::new(),
            none: &NONE,
        }
    }

    fn profile(&mut self, cluster: &'a Cluster, pod: &'a Pod, asked: &Asked) -> ProfileId {
        let labels = pod.labels.iter().filter(|(key, _)| asked.pod_labels.contains(*key));
        let is_asked = |name: &Arc<str>| asked.port_names.contains(name);
        let ports = pod.ports.iter().filter(|port| port.name.as_ref().is_some_and(is_asked));
        let mut ports: Vec<ContainerPort> =
            ports.map(|port| ContainerPort { host_port: None, ..port.clone() }).collect();
        ports.sort_by(|a, b| (&a.name, a.protocol, a.number).cmp(&(&b.name, b.protocol, b.number)));
        ports.dedup();
        let groups = oracle::groups_of(cluster, pod);
        let key = ProfileKey {
            namespace: pod.key.namespace.clone(),
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
            ports,
            groups: groups.clone(),
            node: pod.node.clone().filter(|_| asked.by_node),
        };
        let next = ProfileId(self.profiles.len() as u32);
        let id = *self.profile_ids.entry(key).or_insert(next);
        if id == next {
            let namespace = cluster.namespaces.get(&pod.key.namespace);
            let namespace = namespace.map_or(self.none, |namespace| &namespace.labels);
            self.profiles.push(Profile { pod, namespace, groups });
        }
        id
    }

    fn remote(&mut self, remote: Remote) -> RemoteId {
        let next = RemoteId(self.remotes.len() as u32);
        if let Some(id) = self.remote_ids.get(&remote) {
            return *id;
        }
        self.remotes.push(remote.clone());
        self.remote_ids.insert(remote, next);
        next
    }

    fn add(&mut self, profile: ProfileId, remotes: [Option<RemoteId>; 2], pod: &'a Pod) {
        let next = PodClassId(self.classes.len() as u32);
        let id = *self.class_ids.entry((profile, remotes)).or_insert(next);
        if id == next {
            self.classes.push(PodClass { profile, remotes, pods: Vec::new() });
        }
        self.classes[id.0 as usize].pods.push(pod);
        self.class_of.insert(&pod.key, id);
    }

    fn finish(
        self,
        outside: Vec<RemoteId>,
        nodes: Vec<(RemoteId, Vec<&'a str>)>,
        remote_of: HashMap<IpAddr, RemoteId>,
        asked: Asked,
    ) -> Universe<'a> {
        let mut by_namespace: BTreeMap<&'a str, Vec<ProfileId>> = BTreeMap::new();
        for (i, profile) in self.profiles.iter().enumerate() {
            by_namespace.entry(&profile.pod.key.namespace).or_default().push(ProfileId(i as u32));
        }
        let mut by_profile = vec![Vec::new(); self.profiles.len()];
        let mut by_region = vec![Vec::new(); self.regions.ids().count()];
        for (i, remote) in self.remotes.iter().enumerate() {
            let id = RemoteId(i as u32);
            by_region[remote.region.index()].push(id);
            for profile in &remote.claimants {
                by_profile[profile.0 as usize].push(id);
            }
        }
        Universe {
            regions: self.regions,
            profiles: self.profiles,
            classes: self.classes,
            remotes: self.remotes,
            by_namespace,
            by_profile,
            by_region,
            outside,
            nodes,
            class_of: self.class_of,
            remote_of,
            asked,
        }
    }
}
