//! The cluster as policy sees it. Types that cannot confuse "absent" with "empty" (S5, S6, S11).
//!
//! Everything here is already defaulted and checked: the conversion from Kubernetes objects lives
//! in kube-sync, which replaces what it cannot understand by the `Nothing` variants and reports it.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer};

use crate::{
    ByDefault, Grouping, Labels, Mode, Owner, SecurityGroups, Selector, TierKey, TierPolicy,
    Unselected,
};

/// Namespace and name of a namespaced object; prints as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The object's metadata.namespace.
    pub namespace: Arc<str>,
    /// The object's metadata.name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// All objects that a verdict can depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Each namespace by name. A pod whose namespace is not listed has a namespace without labels,
    /// which says nothing.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// All pods that the API server knows, also those that have ended.
    pub pods: BTreeMap<ObjectKey, Pod>,
    /// Network policies by key.
    pub policies: BTreeMap<ObjectKey, Policy>,
    /// Nodes by name.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// Services by key.
    pub services: BTreeMap<ObjectKey, Service>,
    /// ClusterNetworkPolicies by group and name.
    pub tiers: BTreeMap<TierKey, TierPolicy>,
    /// Security groups, and who has them.
    pub security: SecurityGroups,
    /// StagedKubernetesNetworkPolicies: what would become of the NetworkPolicy of the same key
    /// (S84).
    pub staged: BTreeMap<ObjectKey, Staged>,
    /// What becomes of pods that no policy isolates, in namespaces that do not say so themselves.
    pub by_default: ByDefault,
}

impl Cluster {
    /// The active pods with a network of their own that have `address` (S43). It walks over all
    /// pods.
    pub fn claimants(&self, address: IpAddr) -> Vec<&Pod> {
        let claims = |pod: &&Pod| pod.is_policed() && pod.addresses.contains(&address);
        self.pods.values().filter(claims).collect()
    }

    /// The pods of a namespace, in the order of their names.
    pub fn pods_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Pod> {
        let first = ObjectKey::new(namespace.clone(), "");
        let pods = self.pods.range(first..);
        let namespace = namespace.clone();
        pods.map(|(_, pod)| pod).take_while(move |pod| pod.key.namespace == namespace)
    }

    /// The addresses of a pod. A hostNetwork pod may be listed without addresses, and then has
    /// those of its node.
    pub fn addresses<'c>(&'c self, pod: &'c Pod) -> &'c [IpAddr] {
        let node = pod.node.as_ref().filter(|_| pod.network == PodNetwork::Host);
        match node.and_then(|node| self.nodes.get(node)) {
            Some(node) if pod.addresses.is_empty() => &node.addresses,
            _ => &pod.addresses,
        }
    }
}

/// A namespace, as far as policy depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// The namespace's metadata.labels.
    pub labels: Labels,
    /// What becomes of its pods that no policy isolates; None: what holds by default (S90).
    pub unselected: Option<Unselected>,
}

impl From<Labels> for Namespace {
    /// A namespace that has labels alone.
    fn from(labels: Labels) -> Self {
        Self { labels, unselected: None }
    }
}

/// What a StagedKubernetesNetworkPolicy would do to the NetworkPolicy of its name (S85).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Staged {
    /// `stagedAction: Set`: this policy would be there, in place of the one of its name.
    Set(Policy),
    /// `stagedAction: Delete`: the policy of its name would be gone.
    Delete,
}

/// A Service as far as policy depends on it: which addresses and ports are not what they seem,
/// because they lead to backends (S48). Not which backends: a packet is judged by the one that it
/// was translated to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// clusterIPs, externalIPs and those of load balancers that the node translates; none where it
    /// is headless.
    pub addresses: Vec<IpAddr>,
    /// The ports that it offers.
    pub ports: Vec<ServicePort>,
    /// healthCheckNodePort: answered by every node itself, and yet not part of its services to pods
    /// (S45). TCP.
    pub health_check: Option<u16>,
    /// What is denied to pods whose egress is isolated, because there is too much of it to be
    /// judged by backend (S33).
    pub closed: Closed,
}

/// Addresses and ports of a Service that is set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The addresses that are denied.
    pub addresses: Vec<IpAddr>,
    /// Ranges that cover its ports on each of them, first and last.
    pub ports: Vec<(Protocol, u16, u16)>,
}

/// A port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The protocol; TCP where the object has none.
    pub protocol: Protocol,
    /// The Service's `port`; not the `targetPort` of its backends.
    pub number: u16,
    /// `nodePort`, which is open on the addresses of every node; None where there is none.
    pub node_port: Option<u16>,
}

/// A node: its addresses, as Node.status has them, and those of the interfaces that face its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The node's metadata.labels, by which tiers select it (S71).
    pub labels: Labels,
    /// The addresses of both families, without those of Services (S45).
    pub addresses: Vec<IpAddr>,
}

/// A pod, as far as policy depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The pod's namespace and name.
    pub key: ObjectKey,
    /// metadata.uid, where known: tells a re-created pod from the old one (S43).
    pub uid: Option<Arc<str>>,
    /// spec.nodeName; None where the pod is not scheduled yet.
    pub node: Option<Arc<str>>,
    /// The pod's metadata.labels.
    pub labels: Labels,
    /// status.podIPs (S24)
    pub addresses: Vec<IpAddr>,
    /// Whether it has a network of its own (S15).
    pub network: PodNetwork,
    /// Whether it still runs (S13, S14).
    pub phase: Phase,
    /// Ports of all containers, init containers with restartPolicy Always included (S30).
    pub ports: Vec<ContainerPort>,
    /// What says which security groups it has (S75).
    pub grouping: Grouping,
    /// The workload that it belongs to, for people; the pods of one workload share it.
    pub owner: Option<Arc<Owner>>,
}

impl Pod {
    /// May policies select this pod and its address: it runs, in a network of its own (S13, S15).
    pub fn is_policed(&self) -> bool {
        self.network == PodNetwork::Own && self.phase == Phase::Active
    }

    /// Is it behind a Service with this selector: it runs, and has these labels among its own?
    pub fn is_behind(&self, selector: &Labels) -> bool {
        self.phase == Phase::Active
            && selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// The numbers that `name` stands for on this pod under `protocol` (S29, S30), ascending, each
    /// once.
    pub fn resolve_port(&self, protocol: Protocol, name: &str) -> Vec<u16> {
        let named =
            self.ports.iter().filter(|p| p.protocol == protocol && p.name.as_deref() == Some(name));
        let mut numbers: Vec<u16> = named.map(|p| p.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// Whose network namespace a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodNetwork {
    /// The pod has a network namespace of its own.
    Own,
    /// The pod uses the node's (hostNetwork).
    Host,
}

/// Whether a pod counts for policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Pending, Running or terminating.
    Active,
    /// Succeeded or Failed: its address may belong to another pod.
    Finished,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// Its name, where it has one.
    pub name: Option<Arc<str>>,
    /// The protocol; TCP where the object has none.
    pub protocol: Protocol,
    /// containerPort, 1-65535.
    pub number: u16,
    /// hostPort, 1-65535, where set.
    pub host_port: Option<u16>,
}

/// A NetworkPolicy with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Its key; it selects pods of this namespace only (S1).
    pub key: ObjectKey,
    /// spec.podSelector. A requirement that cannot be understood is left out here, so that a broken
    /// policy isolates more and never less (S10).
    pub selector: Selector,
    /// What it says about traffic towards the pods it selects.
    pub ingress: Isolation,
    /// What it says about traffic from them.
    pub egress: Isolation,
    /// Whether it decides, or is only tried (S84).
    pub mode: Mode,
}

impl Policy {
    /// The half that speaks of `direction`.
    pub fn isolation(&self, direction: Direction) -> &Isolation {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// A direction of traffic, seen from the pod that a policy selects.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both directions, ingress first.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// The other direction.
    pub fn reverse(self) -> Self {
        match self {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// What a policy does to one direction of the pods it selects (S2, S3, S5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// The direction is not in `policyTypes`: this policy says nothing about it.
    Open,
    /// The direction is in `policyTypes`: only what a rule allows is allowed, and without rules
    /// nothing.
    Isolated(Vec<Rule>),
}

/// Traffic that is with one of the peers AND on one of the ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The rule's `from` or `to`.
    pub peers: Peers,
    /// The rule's `ports`, which are ports of the destination in both directions.
    pub ports: Ports,
}

/// The peers of a rule (S6, S8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// The list is absent or empty: everybody.
    Any,
    /// Joined by OR; indices are those of the API object.
    Listed(Vec<Peer>),
}

/// One entry of `from` or `to` (NetworkPolicyPeer).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods with these labels in these namespaces. Never hostNetwork or finished pods.
    Pods {
        /// The namespaces in which pods are looked for.
        namespaces: Namespaces,
        /// Which pods of these namespaces; the empty selector is every pod.
        pods: Selector,
    },
    /// Addresses, pods' and nodes' included (S25).
    Block(Block),
    /// Could not be understood: matches nothing (S10, S61).
    Nothing,
}

/// The namespaces of a pod peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// No namespaceSelector: the policy's own (S8).
    Own,
    /// The namespaces whose labels match; the empty selector is all of them (S9).
    Matching(Selector),
}

/// An ipBlock. Host bits are masked away already (S17); every except has the cidr's family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The block's `cidr`, with the bits behind the prefix cleared.
    pub cidr: IpNetwork,
    /// Subtracted from this block only (S18).
    pub except: Vec<IpNetwork>,
}

impl Block {
    /// Is `address` in the cidr and in no except? An address of the other family never is (S23).
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|e| e.contains(address))
    }
}

/// The ports of a rule (S6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The list is absent or empty: every port of every protocol, ICMP and the like included (S34).
    Any,
    /// Joined by OR; indices are those of the API object.
    Listed(Vec<Port>),
}

/// One entry of `ports` (NetworkPolicyPort).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// Every port of the protocol (S26).
    Every(Protocol),
    /// The ports from `first` to `last`, both included (S27).
    Range {
        /// The protocol; TCP where the object has none.
        protocol: Protocol,
        /// The first port: `port`.
        first: u16,
        /// The last port: `endPort`, or `port` again where there is none.
        last: u16,
    },
    /// Resolved on the destination pod by name and protocol (S29).
    Named {
        /// The protocol; TCP where the object has none.
        protocol: Protocol,
        /// The container port's name.
        name: Arc<str>,
    },
    /// Resolved on the destination pod by name, whatever the protocol of the container port;
    /// ClusterNetworkPolicies alone have it (S69).
    Name(Arc<str>),
    /// Could not be understood: matches nothing (S27, S61).
    Nothing,
}

/// The protocols that have ports in NetworkPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl Protocol {
    /// All, in the order of the enum.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The IP protocol number (IANA).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol with this IP protocol number, where it is one that has ports here.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}
