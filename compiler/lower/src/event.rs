//! What the compiler is told: for which node it works, and one change at a time.
//!
//! Not here: what follows from it ([`crate::Compiler::apply`]).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use netpolc_policy::{
    ByDefault, Enforcement, InterfaceId, Labels, Namespace, NetworkInterface, Node, ObjectKey, Pod,
    Policy, PrefixListId, SecurityGroup, SecurityGroupId, SecurityGroupPolicy, Service, Staged,
    TierKey, TierPolicy,
};
use netpolc_table::{IfIndex, schema::Mac};

use crate::wire::Wire;

/// Whose pods are endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of one node.
    Node(Arc<str>),
    /// All: for looking at a whole cluster offline.
    Everywhere,
}

impl Scope {
    /// Is this one of its nodes?
    pub(crate) fn includes(&self, node: &str) -> bool {
        match self {
            Scope::Everywhere => true,
            Scope::Node(name) => **name == *node,
        }
    }

    /// Is the pod on one of its nodes? Under [`Scope::Everywhere`] a pod need not have one.
    pub(crate) fn holds(&self, pod: &Pod) -> bool {
        match self {
            Scope::Everywhere => true,
            Scope::Node(name) => pod.node.as_ref() == Some(name),
        }
    }
}

/// Something changed. Each variant tells the whole new state of one object; None: it is gone.
///
/// Order does not matter, except between two events on one object: a policy may come before its
/// namespace, and a pod's interface before the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A namespace. One that was never told has no labels and says nothing.
    Namespace {
        /// As in the keys of what is in it.
        name: Arc<str>,
        /// With all its labels, not the difference.
        namespace: Option<Namespace>,
    },
    /// What becomes of pods that no policy isolates, where their namespaces do not say so.
    ByDefault(ByDefault),
    /// A pod of any node: peers are everywhere.
    Pod {
        /// Another pod may have it later, with another UID.
        key: ObjectKey,
        /// One that is not policed (S13, S15) is as good as gone.
        pod: Option<Pod>,
    },
    /// A policy, whether it selects a pod of this node or not.
    Policy {
        /// Its namespace is that of the pods that it selects.
        key: ObjectKey,
        /// As it is admitted ([`crate::Shares::admit`]).
        policy: Option<Policy>,
    },
    /// A StagedKubernetesNetworkPolicy: what would become of the NetworkPolicy of its key.
    Staged {
        /// Its namespace and name.
        key: ObjectKey,
        /// None: it is gone.
        staged: Option<Staged>,
    },
    /// A ClusterNetworkPolicy, whether it is about a pod of this node or not.
    Tier {
        /// Its API group and name.
        key: TierKey,
        /// None: it is gone.
        policy: Option<TierPolicy>,
    },
    /// A security group.
    SecurityGroup {
        /// As the cloud writes it.
        id: SecurityGroupId,
        /// One that is gone permits nothing to those that still have it (S79).
        group: Option<SecurityGroup>,
    },
    /// A managed prefix list, which rules of security groups name.
    PrefixList {
        /// As the cloud writes it.
        id: PrefixListId,
        /// All its entries; one that is gone matches nothing (S79).
        entries: Option<Vec<IpNetwork>>,
    },
    /// A network interface of the cloud.
    CloudInterface {
        /// As the cloud writes it.
        id: InterfaceId,
        /// Its addresses and groups.
        interface: Option<NetworkInterface>,
    },
    /// A SecurityGroupPolicy, which gives groups to pods.
    SecurityGroupPolicy {
        /// Its namespace is that of the pods that it selects.
        key: ObjectKey,
        /// Its selectors and groups.
        policy: Option<SecurityGroupPolicy>,
    },
    /// A ServiceAccount, whose labels SecurityGroupPolicies select.
    Account {
        /// Its namespace and name.
        key: ObjectKey,
        /// All its labels.
        labels: Option<Labels>,
    },
    /// The addresses of the network's resolver beside those that every VPC has (S81): all of them.
    Resolvers(BTreeSet<IpAddr>),
    /// Which packets of pods with security groups they judge (S82).
    Enforcement(Enforcement),
    /// A node of the cluster.
    Node {
        /// As pods say where they are.
        name: Arc<str>,
        /// With all its addresses and labels.
        node: Option<Node>,
    },
    /// A Service: its addresses and ports lead to backends.
    Service {
        /// Its namespace does not matter for policies.
        key: ObjectKey,
        /// As it is admitted ([`crate::Shares::admit`]).
        service: Option<Service>,
    },
    /// The host-side interface of a local pod.
    Interface {
        /// Need not be known yet.
        pod: ObjectKey,
        /// None while it has none, or none is known.
        interface: Option<Interface>,
    },
    /// The node's own devices; their tunnels as they were ([`crate::Compiler::wired`]).
    Wire(Wire),
}

/// The host-side interface of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// As the kernel numbers it in the namespace of the node.
    pub ifindex: IfIndex,
    /// The pod's hardware address, where the interface hangs on a bridge and the address is known:
    /// no frame may come from there under another one (S55).
    pub mac: Option<Mac>,
}

impl From<IfIndex> for Interface {
    fn from(ifindex: IfIndex) -> Self {
        Self { ifindex, mac: None }
    }
}
