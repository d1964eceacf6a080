//! The kinds of object that are watched, with their names, groups and versions in the API. Not
//! here: how they are watched (`watch`).

use std::fmt;

use netpolc_policy::TierApi;

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Namespaces of the whole cluster.
    Namespace,
    /// Nodes: the one on which the agent runs, and the others where a ClusterNetworkPolicy names
    /// nodes.
    Node,
    /// Services of the whole cluster.
    Service,
    /// EndpointSlices, which say which Services have backends on this node.
    EndpointSlice,
    /// NetworkPolicies of the whole cluster.
    Policy,
    /// ClusterNetworkPolicies of policy.networking.k8s.io.
    Tier,
    /// ClusterNetworkPolicies of networking.k8s.aws.
    AwsTier,
    /// StagedKubernetesNetworkPolicies of the whole cluster.
    Staged,
    /// SecurityGroupPolicies of the whole cluster.
    GroupPolicy,
    /// ServiceAccounts of the whole cluster, for SecurityGroupPolicies.
    Account,
    /// SecurityGroups of the AWS Controllers for Kubernetes.
    Group,
    /// Pods of the whole cluster.
    Pod,
}

impl Resource {
    /// The kinds that every cluster has, those with few objects first.
    pub const ALL: [Resource; 6] = [
        Resource::Namespace,
        Resource::Node,
        Resource::Service,
        Resource::EndpointSlice,
        Resource::Policy,
        Resource::Pod,
    ];

    /// The kinds that a cluster has only where somebody has installed them, and ServiceAccounts,
    /// which matter only together with those: see [`Families`].
    pub const OPTIONAL: [Resource; 6] = [
        Resource::Tier,
        Resource::AwsTier,
        Resource::Staged,
        Resource::GroupPolicy,
        Resource::Account,
        Resource::Group,
    ];

    /// How many kinds there are, watched or not.
    #[cfg(feature = "watch")]
    pub(crate) const COUNT: usize = Resource::Pod as usize + 1;

    /// The kind of the ClusterNetworkPolicies of this group.
    pub fn of_tiers(api: TierApi) -> Self {
        match api {
            TierApi::Upstream => Resource::Tier,
            TierApi::Aws => Resource::AwsTier,
        }
    }

    /// The kind's name, as objects carry it in `kind`.
    pub fn kind(self) -> &'static str {
        match self {
            Resource::Namespace => "Namespace",
            Resource::Node => "Node",
            Resource::Service => "Service",
            Resource::EndpointSlice => "EndpointSlice",
            Resource::Policy => "NetworkPolicy",
            Resource::Tier | Resource::AwsTier => "ClusterNetworkPolicy",
            Resource::Staged => "StagedKubernetesNetworkPolicy",
            Resource::GroupPolicy => "SecurityGroupPolicy",
            Resource::Account => "ServiceAccount",
            Resource::Group => "SecurityGroup",
            Resource::Pod => "Pod",
        }
    }

    /// The kind's name in URLs and RBAC rules.
    pub fn plural(self) -> &'static str {
        match self {
            Resource::Namespace => "namespaces",
            Resource::Node => "nodes",
            Resource::Service => "services",
            Resource::EndpointSlice => "endpointslices",
            Resource::Policy => "networkpolicies",
            Resource::Tier | Resource::AwsTier => "clusternetworkpolicies",
            Resource::Staged => "stagedkubernetesnetworkpolicies",
            Resource::GroupPolicy => "securitygrouppolicies",
            Resource::Account => "serviceaccounts",
            Resource::Group => "securitygroups",
            Resource::Pod => "pods",
        }
    }

    /// The kind's name in metrics: as in URLs, with the group where another kind has that name too.
    pub fn label(self) -> &'static str {
        match self {
            Resource::AwsTier => "clusternetworkpolicies.networking.k8s.aws",
            _ => self.plural(),
        }
    }

    /// The kind's API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Resource::Policy => "networking.k8s.io",
            Resource::EndpointSlice => "discovery.k8s.io",
            Resource::Tier => "policy.networking.k8s.io",
            Resource::AwsTier => "networking.k8s.aws",
            Resource::Staged => "projectcalico.org",
            Resource::GroupPolicy => "vpcresources.k8s.aws",
            Resource::Group => "ec2.services.k8s.aws",
            Resource::Namespace
            | Resource::Node
            | Resource::Service
            | Resource::Account
            | Resource::Pod => "",
        }
    }
}

/// Which of the optional kinds are watched. Those that the cluster does not have are looked for
/// again and again, and followed when they appear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// ClusterNetworkPolicies of both groups.
    pub tiers: bool,
    /// SecurityGroupPolicies, ServiceAccounts where the cluster has these, and SecurityGroups of
    /// the AWS Controllers for Kubernetes.
    pub groups: bool,
    /// StagedKubernetesNetworkPolicies.
    pub staged: bool,
}

impl Families {
    /// Whether this kind is watched; those that every cluster has always are.
    pub fn has(self, resource: Resource) -> bool {
        match resource {
            Resource::Tier | Resource::AwsTier => self.tiers,
            Resource::GroupPolicy | Resource::Account | Resource::Group => self.groups,
            Resource::Staged => self.staged,
            Resource::Namespace
            | Resource::Node
            | Resource::Service
            | Resource::EndpointSlice
            | Resource::Policy
            | Resource::Pod => true,
        }
    }

    /// All kinds that are watched, in order.
    pub fn watched(self) -> impl Iterator<Item = Resource> {
        let mut kinds = [Resource::ALL, Resource::OPTIONAL].concat();
        kinds.sort();
        kinds.into_iter().filter(move |resource| self.has(*resource))
    }
}

#[cfg(feature = "watch")]
impl Resource {
    /// Whether the cluster may lack the kind without that being a mistake.
    pub(crate) fn is_optional(self) -> bool {
        Resource::OPTIONAL.contains(&self)
    }

    /// Versions of the API that have the fields that are read, the preferred one first.
    /// discovery.k8s.io/v1 came with Kubernetes 1.21.
    pub(crate) fn versions(self) -> &'static [&'static str] {
        match self {
            Resource::EndpointSlice => &["v1", "v1beta1"],
            Resource::Tier => &["v1alpha2", "v1beta1"],
            Resource::AwsTier | Resource::Group => &["v1alpha1"],
            Resource::GroupPolicy => &["v1beta1"],
            Resource::Staged => &["v3"],
            Resource::Namespace
            | Resource::Node
            | Resource::Service
            | Resource::Policy
            | Resource::Account
            | Resource::Pod => &["v1"],
        }
    }

    /// The description by which the client asks for `version` of this kind.
    pub(crate) fn api(self, version: &str) -> kube::core::ApiResource {
        let group = self.group();
        let api_version =
            if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        kube::core::ApiResource {
            group: group.into(),
            version: version.into(),
            api_version,
            kind: self.kind().into(),
            plural: self.plural().into(),
        }
    }
}

/// Prints the name that RBAC and kubectl use: `networkpolicies.networking.k8s.io`, `pods`.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())?;
        if !self.group().is_empty() {
            write!(f, ".{}", self.group())?;
        }
        Ok(())
    }
}
