//! The policy model: what Kubernetes says about who may talk to whom, and the oracle that answers
//! single questions straight from it.
//!
//! Here: the cluster as policy sees it ([`model`], with ClusterNetworkPolicies in [`tier`],
//! Security Groups in [`group`], and what no policy selects in [`by_default`], and an index of
//! its pods in [`address_book`]), what would hold if
//! what is only tried were enforced ([`audit`]), label sets and selectors ([`labels`],
//! [`selector`]), the oracle ([`oracle`]); and for people's questions the workloads of pods
//! ([`owner`]) and what is behind Services ([`frontend`]). Not here: decoding of Kubernetes objects
//! (kube-sync) and anything about tables (the other crates under `compiler/`). No clock, no IO.

pub mod address_book;
pub mod audit;
pub mod by_default;
pub mod frontend;
pub mod group;
pub mod labels;
pub mod model;
pub mod oracle;
pub mod owner;
pub mod selector;
pub mod tier;

pub use address_book::AddressBook;
pub use by_default::{ByDefault, Unselected};
pub use frontend::{Frontend, FrontendPort, Frontends, IpFamily, Reach, Target};
pub use group::{
    Enforcement, GroupPeer, GroupRule, Grouping, IcmpVersion, InterfaceId, NetworkInterface,
    PrefixListId, SecurityGroup, SecurityGroupId, SecurityGroupPolicy, SecurityGroups, Traffic,
};
pub use labels::Labels;
pub use model::*;
pub use owner::{Owner, OwnerKind};
pub use selector::{Index, Operator, Requirement, Selector};
pub use tier::{
    Action, Mode, Priority, Subject, Tier, TierApi, TierKey, TierPeer, TierPolicy, TierRule,
};
