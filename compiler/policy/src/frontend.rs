//! Services as their clients see them: which pods are behind a Service, and on which of their
//! ports. Verdicts do not depend on it, since a packet is judged by the backend that it was
//! translated to (S48); it answers questions about a Service by its name.
//!
//! Here: what a Service and its EndpointSlices say, and the backends that follow. Not here: which
//! addresses and ports nodes translate ([`crate::Service`]), and the reading (kube-sync).

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use crate::{Cluster, Labels, ObjectKey, Pod, Protocol};

/// The Services of a cluster as their clients see them, by key.
pub type Frontends = BTreeMap<ObjectKey, Frontend>;

/// A Service as its clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// How clients reach what is behind it.
    pub reach: Reach,
    /// spec.selector, which a pod of the Service's namespace must have among its labels; None where
    /// it is absent or empty, so that somebody else says what is behind the Service.
    pub selector: Option<Labels>,
    /// The families of addresses that it has; empty where the object does not say.
    pub families: Vec<IpFamily>,
    /// spec.ports.
    pub ports: Vec<FrontendPort>,
    /// Its EndpointSlices. Where there are any, they say what is behind the Service, and the
    /// selector does not.
    pub slices: Vec<Slice>,
}

/// How clients reach what is behind a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// By addresses of its own, which nodes translate.
    #[default]
    Translated,
    /// By the addresses of its pods, which DNS gives (`clusterIP: None`).
    Headless,
    /// By another name, this one (`type: ExternalName`).
    External(Arc<str>),
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// Both families, IPv4 first.
    pub const BOTH: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
    }
}

/// A port of a Service, with the one of its pods that it leads to. Prints as `http (TCP 80)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendPort {
    /// Its name; a Service with one port need not name it.
    pub name: Option<Arc<str>>,
    /// The protocol; TCP where the object has none.
    pub protocol: Protocol,
    /// The Service's `port`.
    pub number: u16,
    /// `targetPort`; the Service's own port where the object has none, or is headless.
    pub target: Target,
}

impl fmt::Display for FrontendPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({} {})", self.protocol, self.number),
            None => write!(f, "{} {}", self.protocol, self.number),
        }
    }
}

/// The port of a pod that a Service's port leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// This number, whatever the pod declares.
    Number(u16),
    /// The container port of this name, for each pod by itself.
    Name(Arc<str>),
}

/// An EndpointSlice of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The ports of its endpoints, which belong to the Service's ports of the same names.
    pub ports: Vec<SlicePort>,
    /// What is behind the Service, ready or not: readiness changes by the minute.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Option<Arc<str>>,
    /// The protocol; TCP where the object has none.
    pub protocol: Protocol,
    /// The endpoints' port.
    pub number: u16,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
    /// The pod that it is, where `targetRef` names one.
    pub pod: Option<ObjectKey>,
}

/// Which ports of a Service a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortChoice {
    /// All of them.
    All,
    /// The one of this name.
    Name(Arc<str>),
    /// Those of this number, of whatever protocol.
    Number(u16),
}

impl PortChoice {
    /// The port that a name or a number means.
    pub fn named(text: &str) -> Self {
        text.parse().map_or_else(|_| PortChoice::Name(text.into()), PortChoice::Number)
    }

    fn chooses(&self, port: &FrontendPort) -> bool {
        match self {
            PortChoice::All => true,
            PortChoice::Name(name) => port.name.as_ref() == Some(name),
            PortChoice::Number(number) => port.number == *number,
        }
    }
}

/// One way on which a Service's clients may be sent: an address and port behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The pod that has the address; None where an EndpointSlice names no pod of the cluster.
    pub pod: Option<ObjectKey>,
    /// The address behind the Service.
    pub address: IpAddr,
    /// The port behind the Service.
    pub port: u16,
    /// The Service's port that leads there.
    pub frontend: FrontendPort,
    /// The Service's address and port of this family, which clients send to; None where it has
    /// none, is headless, or was not given one yet.
    pub via: Option<(IpAddr, u16)>,
}

/// Why nothing is known to be behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBackends {
    /// There is no such Service.
    #[error("there is no Service {0} in the input")]
    Unknown(ObjectKey),
    /// The Service is another name.
    #[error("Service {0} is an ExternalName, which stands for {1}; ask about its address")]
    External(ObjectKey, Arc<str>),
    /// The Service has no such port; its ports follow.
    #[error("Service {0} has no port {1}; its ports are {2}")]
    Port(ObjectKey, String, String),
    /// The Service has no ports at all, so no client can say which it wants.
    #[error("Service {0} has no ports; ask about its pods by their names")]
    Portless(ObjectKey),
    /// Neither a selector nor an EndpointSlice says what is behind it.
    #[error(
        "Service {0} has no selector, and the input has no EndpointSlice of it; add `kubectl get \
         endpointslices -n {ns} -o yaml`",
        ns = .0.namespace
    )]
    Unselected(ObjectKey),
    /// No pod matches the selector, or no endpoint is in a slice.
    #[error("no pod with an address is behind Service {0}")]
    Nobody(ObjectKey),
    /// The pods behind it do not have the container port that it names.
    #[error("no pod behind Service {0} has a container port for its port {1}")]
    Unnamed(ObjectKey, FrontendPort),
}

/// What is behind the ports of the Service `key` that `choice` means, in order, each once.
///
/// # Errors
/// Nothing is known to be behind one of these ports; the message says why, and what to do.
pub fn backends(
    cluster: &Cluster,
    frontends: &Frontends,
    key: &ObjectKey,
    choice: &PortChoice,
) -> Result<Vec<Backend>, NoBackends> {
    let frontend = frontends.get(key).ok_or_else(|| NoBackends::Unknown(key.clone()))?;
    if let Reach::External(name) = &frontend.reach {
        return Err(NoBackends::External(key.clone(), name.clone()));
    }
    if frontend.ports.is_empty() {
        return Err(NoBackends::Portless(key.clone()));
    }
    let ports: Vec<&FrontendPort> = frontend.ports.iter().filter(|p| choice.chooses(p)).collect();
    if ports.is_empty() {
        let asked = match choice {
            PortChoice::All => String::new(),
            PortChoice::Name(name) => name.to_string(),
            PortChoice::Number(number) => number.to_string(),
        };
        let there: Vec<String> = frontend.ports.iter().map(ToString::to_string).collect();
        return Err(NoBackends::Port(key.clone(), asked, there.join(", ")));
    }
    let own = cluster.services.get(key).map(|service| &service.addresses[..]).unwrap_or_default();
    let ends = ends(cluster, frontend, key)?;
    let mut found = Vec::new();
    for port in ports {
        let before = found.len();
        for end in &ends {
            let Some(number) = end.number(port) else { continue };
            let family = IpFamily::of(end.address);
            let address = own.iter().find(|own| IpFamily::of(**own) == family);
            found.push(Backend {
                pod: end.pod.map(|pod| pod.key.clone()),
                address: end.address,
                port: number,
                frontend: port.clone(),
                via: address.map(|address| (*address, port.number)),
            });
        }
        if found.len() == before {
            return Err(NoBackends::Unnamed(key.clone(), port.clone()));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// An address behind a Service, with what says which of its ports is meant.
struct End<'c> {
    pod: Option<&'c Pod>,
    address: IpAddr,
    /// The ports of the EndpointSlice; None where the pod was found by the selector.
    ports: Option<&'c [SlicePort]>,
}

impl End<'_> {
    /// The number that `port` of the Service has here; None where it does not lead here.
    fn number(&self, port: &FrontendPort) -> Option<u16> {
        if let Some(ports) = self.ports {
            let same = |p: &&SlicePort| p.name == port.name && p.protocol == port.protocol;
            return ports.iter().find(same).map(|p| p.number);
        }
        match &port.target {
            Target::Number(number) => Some(*number),
            // Where several containers have the name, Kubernetes takes the first (FindPort of
            // k8s.io/endpointslice).
            Target::Name(name) => {
                let named = |p: &&crate::ContainerPort| {
                    p.protocol == port.protocol && p.name.as_ref() == Some(name)
                };
                self.pod?.ports.iter().find(named).map(|p| p.number)
            }
        }
    }
}

fn ends<'c>(
    cluster: &'c Cluster,
    frontend: &'c Frontend,
    key: &ObjectKey,
) -> Result<Vec<End<'c>>, NoBackends> {
    let mut ends = Vec::new();
    for slice in &frontend.slices {
        for endpoint in &slice.endpoints {
            let pod = endpoint.pod.as_ref().and_then(|key| cluster.pods.get(key));
            let ports = Some(&slice.ports[..]);
            ends.extend(endpoint.addresses.iter().map(|&address| End { pod, address, ports }));
        }
    }
    if frontend.slices.is_empty() {
        let Some(selector) = &frontend.selector else {
            return Err(NoBackends::Unselected(key.clone()));
        };
        let wanted = |address: &IpAddr| {
            frontend.families.is_empty() || frontend.families.contains(&IpFamily::of(*address))
        };
        for pod in cluster.pods_of(&key.namespace).filter(|pod| pod.is_behind(selector)) {
            let addresses = cluster.addresses(pod).iter().filter(|address| wanted(address));
            ends.extend(addresses.map(|&address| End { pod: Some(pod), address, ports: None }));
        }
    }
    if ends.is_empty() {
        return Err(NoBackends::Nobody(key.clone()));
    }
    Ok(ends)
}

#[cfg(test)]
mod tests;
