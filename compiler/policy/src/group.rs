//! Security Groups for Pods: what a cloud's groups permit, which pods have them, and which packets
//! they judge (S75-S83).
//!
//! Here: groups, prefix lists and network interfaces as the EC2 API describes them, and the
//! SecurityGroupPolicies that give groups to pods. Not here: what follows for a packet (the oracle,
//! and the lowering).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer};

use crate::{Direction, Labels, ObjectKey, Protocol, Selector};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as the cloud writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<Arc<str>>> From<T> for $name {
            fn from(id: T) -> Self {
                Self(id.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
    };
}

name! {
    /// The id of a security group, such as `sg-0a1b`.
    SecurityGroupId
}

name! {
    /// The id of a managed prefix list, such as `pl-0a1b`.
    PrefixListId
}

name! {
    /// The id of a network interface of the cloud, such as `eni-0a1b`.
    InterfaceId
}

/// What is known of a cloud's groups and of who has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityGroups {
    /// Groups by id.
    pub groups: BTreeMap<SecurityGroupId, SecurityGroup>,
    /// Prefix lists by id, with their current entries.
    pub prefix_lists: BTreeMap<PrefixListId, Vec<IpNetwork>>,
    /// Network interfaces by id, those of pods and those of others (nodes, databases, balancers).
    pub interfaces: BTreeMap<InterfaceId, NetworkInterface>,
    /// SecurityGroupPolicies by namespace and name.
    pub policies: BTreeMap<ObjectKey, SecurityGroupPolicy>,
    /// The labels of ServiceAccounts by namespace and name.
    pub accounts: BTreeMap<ObjectKey, Labels>,
    /// Addresses of the network's own resolver, beside [`RESOLVERS`]: groups never block them
    /// (S81).
    pub resolvers: BTreeSet<IpAddr>,
    /// Which packets of a pod with groups they judge (S82).
    pub enforcement: Enforcement,
}

/// Which packets of a pod with groups they judge (S82). The names are those of the VPC CNI's
/// `POD_SECURITY_GROUP_ENFORCING_MODE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// Every packet at the pod's interface, also from the pods of its node and from the node
    /// itself.
    #[default]
    Strict,
    /// Those that come from elsewhere than the pod's node, or go elsewhere.
    Standard,
}

/// The addresses of a VPC's resolver that are the same in each of them (S81).
pub const RESOLVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253)),
];

/// What a pod says of its groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grouping {
    /// spec.serviceAccountName; `default` where the pod has none.
    pub account: Arc<str>,
    /// The interfaces in the annotation `vpc.amazonaws.com/pod-eni`.
    pub interfaces: Vec<InterfaceId>,
    /// The groups in the annotation `fargate.amazonaws.com/pod-sg`.
    pub fargate: Vec<SecurityGroupId>,
}

impl Default for Grouping {
    fn default() -> Self {
        Self { account: "default".into(), interfaces: Vec::new(), fargate: Vec::new() }
    }
}

/// A security group: what it permits, and nothing else (S76).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SecurityGroup {
    /// The group's name, where it is known.
    pub name: Option<Arc<str>>,
    /// What it permits towards those that have it.
    pub ingress: Vec<GroupRule>,
    /// What it permits from them.
    pub egress: Vec<GroupRule>,
}

impl SecurityGroup {
    /// The rules about `direction`.
    pub fn rules(&self, direction: Direction) -> &[GroupRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Traffic that is of this kind AND with one of the peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupRule {
    /// The rule's id (`sgr-0a1b`), where it is known.
    pub id: Option<Arc<str>>,
    /// Protocol and ports.
    pub traffic: Traffic,
    /// Joined by OR.
    pub peers: Vec<GroupPeer>,
}

/// The protocol of a group's rule, with what it says beyond that (S77).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// Every protocol, every port: `-1`.
    Everything,
    /// Ports of the destination; TCP and UDP.
    Ports {
        /// TCP or UDP.
        protocol: Protocol,
        /// `FromPort`.
        first: u16,
        /// `ToPort`.
        last: u16,
    },
    /// ICMP or ICMPv6 (IP protocol 1 or 58) messages.
    Icmp {
        /// Which of the two protocols.
        version: IcmpVersion,
        /// `FromPort`; None: every type.
        kind: Option<u8>,
        /// `ToPort`; None: every code.
        code: Option<u8>,
    },
    /// All of the IP protocol with this number, SCTP included.
    Protocol(u8),
}

/// Which ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IcmpVersion {
    /// ICMP, IP protocol 1.
    V4,
    /// ICMPv6, IP protocol 58.
    V6,
}

impl IcmpVersion {
    /// The IP protocol number (IANA).
    pub fn number(self) -> u8 {
        match self {
            IcmpVersion::V4 => 1,
            IcmpVersion::V6 => 58,
        }
    }
}

/// Whom a group's rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupPeer {
    /// Every address in this one. Host bits are 0.
    Network(IpNetwork),
    /// Every address in the list's entries.
    PrefixList(PrefixListId),
    /// The private addresses of everything that has the group (S78).
    Group(SecurityGroupId),
}

/// A network interface of the cloud.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NetworkInterface {
    /// Private addresses: primary and secondary ones, and delegated prefixes. Host bits are 0.
    pub addresses: Vec<IpNetwork>,
    /// The groups that it has.
    pub groups: Vec<SecurityGroupId>,
}

/// A SecurityGroupPolicy: gives groups to pods of its namespace (S75).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecurityGroupPolicy {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// spec.podSelector; None where there is none. Where both selectors are there, both match.
    pub pods: Option<Selector>,
    /// spec.serviceAccountSelector, of the labels of the pod's ServiceAccount.
    pub accounts: Option<Selector>,
    /// spec.securityGroups.groupIds, each once.
    pub groups: Vec<SecurityGroupId>,
}
