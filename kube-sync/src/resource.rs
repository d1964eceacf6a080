//! The kinds that are watched, and how the API server knows them.

use std::fmt;

/// A kind that policy depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Namespaces.
    Namespace,
    /// Nodes: the own one alone.
    Node,
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// NetworkPolicies.
    Policy,
    /// Pods.
    Pod,
}

impl Resource {
    /// All, small ones first.
    pub const ALL: [Resource; 6] = [
        Resource::Namespace,
        Resource::Node,
        Resource::Service,
        Resource::EndpointSlice,
        Resource::Policy,
        Resource::Pod,
    ];

    /// `kind` as objects carry it.
    pub fn kind(self) -> &'static str {
        match self {
            Resource::Namespace => "Namespace",
            Resource::Node => "Node",
            Resource::Service => "Service",
            Resource::EndpointSlice => "EndpointSlice",
            Resource::Policy => "NetworkPolicy",
            Resource::Pod => "Pod",
        }
    }

    /// Its name in URLs and RBAC rules.
    pub fn plural(self) -> &'static str {
        match self {
            Resource::Namespace => "namespaces",
            Resource::Node => "nodes",
            Resource::Service => "services",
            Resource::EndpointSlice => "endpointslices",
            Resource::Policy => "networkpolicies",
            Resource::Pod => "pods",
        }
    }

    /// Its API group; empty for the core group.
    pub fn group(self) -> &'static str {
        match self {
            Resource::Policy => "networking.k8s.io",
            Resource::EndpointSlice => "discovery.k8s.io",
            Resource::Namespace | Resource::Node | Resource::Service | Resource::Pod => "",
        }
    }
}

#[cfg(feature = "watch")]
impl Resource {
    /// Versions with the fields that are read, the best one first. discovery.k8s.io/v1 came with 1.21.
    pub(crate) fn versions(self) -> &'static [&'static str] {
        match self {
            Resource::EndpointSlice => &["v1", "v1beta1"],
            _ => &["v1"],
        }
    }

    /// What the client needs to know to ask for `version` of it.
    pub(crate) fn api(self, version: &str) -> kube::core::ApiResource {
        let group = self.group();
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        kube::core::ApiResource {
            group: group.into(),
            version: version.into(),
            api_version,
            kind: self.kind().into(),
            plural: self.plural().into(),
        }
    }
}

/// As RBAC and kubectl write it: `networkpolicies.networking.k8s.io`, `pods`.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())?;
        if !self.group().is_empty() {
            write!(f, ".{}", self.group())?;
        }
        Ok(())
    }
}
