//! The oracle: a verdict for one question, straight from the model. Short, slow and obviously
//! right; it shares nothing with the lowering, so that the two can be held against each other.
//!
//! Here: new connections between two concrete addresses (S1-S34), with the offline answers for the
//! node, the own node, tunnels and the pod itself (S44-S47); the order of tiers around them is in
//! `tiers` (S62-S74). Not here: replies, fragments and everything else that is a property of a
//! packet and not of the policies.

mod groups;
mod tiers;

use std::{fmt, net::IpAddr};

use serde::Serialize;

use self::groups::Gate;
pub use self::{
    groups::{is_peer as is_group_peer, of_pod as groups_of},
    tiers::TierPlace,
};
use crate::{
    Cluster, Direction, Enforcement, Isolation, Labels, Mode, Namespaces, ObjectKey, Peer, Peers,
    Pod, Policy, Port, Ports, Protocol, Rule, SecurityGroupId, Selector, Unselected,
};

/// The IP protocols that a node may unwrap, so that no pod may send them: IPv4, IPv6, GRE, IPIP
/// (94), EtherIP, L2TP, MPLS in IP (S45). A tunnel in UDP is not here: which ports it has depends
/// on the devices of each node.
pub const TUNNELS: [u8; 7] = [4, 41, 47, 94, 97, 115, 137];

/// May `source` open this connection (or send this packet) to `destination`?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who sends the packet.
    pub source: Party,
    /// Who receives; after Service translation (S48).
    pub destination: Party,
    /// The protocol above IP.
    pub protocol: Transport,
    /// The destination port. None: unknown or none, then only ports that cover all of the protocol
    /// match. Of the two ICMPs it is type << 8 | code, and None is an echo request.
    pub port: Option<u16>,
    /// The address and port that the source sent it to, where they are not the destination's: those
    /// of a Service.
    pub via: Option<(IpAddr, u16)>,
}

/// One end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// This pod under this one of its addresses: its own policies apply, others see the address.
    Pod(ObjectKey, IpAddr),
    /// An address. Where an active pod with a network of its own has it, that pod is meant.
    Address(IpAddr),
}

impl Party {
    /// The address in the packet.
    pub fn address(&self) -> IpAddr {
        match self {
            Party::Pod(_, address) | Party::Address(address) => *address,
        }
    }
}

/// A protocol above IP, as policy tells them apart (S32, S34).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
    /// Any other IP protocol number (ICMP is 1, ICMPv6 is 58).
    Other(u8),
}

impl Transport {
    /// The one with this IP protocol number (IANA).
    pub fn from_number(number: u8) -> Self {
        match number {
            6 => Transport::Tcp,
            17 => Transport::Udp,
            132 => Transport::Sctp,
            other => Transport::Other(other),
        }
    }

    /// The IP protocol number (IANA).
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
            Transport::Other(number) => number,
        }
    }

    /// The protocol that a NetworkPolicyPort can name, where it is one.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Transport::Tcp => Some(Protocol::Tcp),
            Transport::Udp => Some(Protocol::Udp),
            Transport::Sctp => Some(Protocol::Sctp),
            Transport::Other(_) => None,
        }
    }
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        Transport::from_number(protocol.number())
    }
}

/// The answer: both sides must allow (S7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// True where both sides allow it.
    pub allowed: bool,
    /// What the source's egress policies say.
    pub egress: Side,
    /// What the destination's ingress policies say.
    pub ingress: Side,
}

/// The verdict of one side, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// The pod whose policies were asked; None where the party is not a pod that policies apply to.
    pub pod: Option<ObjectKey>,
    /// Why the side allows or denies it.
    pub reason: Reason,
    /// The rules of tiers that passed the packet on before that, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<TierPlace>,
}

/// What decided about one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// No active pod with a network of its own: policy does not speak about it (S13, S15).
    NotPoliced,
    /// Neither a policy nor the default isolates the pod in this direction, and no rule of a tier
    /// matches.
    NotIsolated,
    /// Source and destination are one pod (S47).
    Own,
    /// Traffic with the pod's own node (S44, S45).
    Node,
    /// An address and port of a Service: the backend decides (S48), and nobody said which. Only a
    /// rule for every address, port and protocol allows it all the same.
    Service,
    /// This policy allows it.
    Allowed(Place),
    /// These policies isolate the pod and none allows it. Never empty, ordered by key.
    Denied(Vec<ObjectKey>),
    /// No policy isolates the pod in this direction, and its namespace isolates by default (S90).
    ByDefault,
    /// This rule of a tier accepts it (S63).
    Accepted(TierPlace),
    /// These rules of a tier deny it, one of each policy of one priority (S64). Never empty.
    Refused(Vec<TierPlace>),
    /// The address and port belong to a Service that is set aside (S33), and no policy isolates the
    /// pod.
    Closed,
    /// The protocol leads into a tunnel, which every node denies its pods, whatever permits it
    /// (S45).
    Tunnel,
    /// The pod's security groups, in order, and none of them permits it (S76). Empty where the pod
    /// names groups and nothing is known of them (S79).
    Gated(Vec<SecurityGroupId>),
}

impl Reason {
    /// Does this side let the packet through?
    pub fn allows(&self) -> bool {
        !matches!(
            self,
            Reason::Denied(_)
                | Reason::ByDefault
                | Reason::Service
                | Reason::Refused(_)
                | Reason::Closed
                | Reason::Tunnel
                | Reason::Gated(_)
        )
    }
}

/// A place in a policy; indices count from 0 as in the API object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The policy that holds the rule.
    pub policy: ObjectKey,
    /// The index of the rule in `ingress` or `egress`.
    pub rule: usize,
    /// Index into `from` or `to`; None where the rule lists no peers.
    pub peer: Option<usize>,
    /// Index into `ports`; None where the rule lists no ports.
    pub port: Option<usize>,
}

/// Answers `question` for `cluster`. Total: a party that does not exist is an address like any
/// other.
///
/// An address that several active pods claim is a member only of peers that select all of them, and
/// the policies of all of them apply, so that a conflict never widens.
pub fn judge(cluster: &Cluster, question: &Question) -> Judgement {
    let (destination, port) = (question.destination.address(), question.port);
    let egress = match question.via {
        // S48: by the backend, where it is a Service's address that it was sent to.
        Some((address, port))
            if !side(cluster, Direction::Egress, question, address, Some(port)).is_service() =>
        {
            side(cluster, Direction::Egress, question, address, Some(port))
        }
        _ => side(cluster, Direction::Egress, question, destination, port),
    };
    let ingress = side(cluster, Direction::Ingress, question, question.source.address(), port);
    Judgement { allowed: egress.reason.allows() && ingress.reason.allows(), egress, ingress }
}

/// What becomes of a packet to this pod that its own node has sent, under whatever address (S44).
pub fn born(
    cluster: &Cluster,
    pod: &ObjectKey,
    remote: IpAddr,
    protocol: Transport,
    port: Option<u16>,
) -> Reason {
    let Some(pod) = cluster.pods.get(pod).filter(|pod| pod.is_policed()) else {
        return Reason::NotPoliced;
    };
    let case = Case { cluster, direction: Direction::Ingress, pod, remote, protocol, port };
    from_node(&case, groups::gate(&case))
}

/// S82: nobody but security groups judges what the node has sent, and they only where what stays
/// on the node is not exempt.
fn from_node(case: &Case, gate: Gate) -> Reason {
    match (gate, case.cluster.security.enforcement) {
        (Gate::Denies(groups), Enforcement::Strict) => Reason::Gated(groups),
        _ => Reason::Node,
    }
}

impl Side {
    fn is_service(&self) -> bool {
        self.reason == Reason::Service
    }
}

/// One side of a question: its party talks with `remote`, and the destination's port is `port`.
fn side(
    cluster: &Cluster,
    direction: Direction,
    question: &Question,
    remote: IpAddr,
    port: Option<u16>,
) -> Side {
    let party = match direction {
        Direction::Egress => &question.source,
        Direction::Ingress => &question.destination,
    };
    let subjects: Vec<&Pod> = match party {
        Party::Pod(key, _) => {
            cluster.pods.get(key).filter(|pod| pod.is_policed()).into_iter().collect()
        }
        Party::Address(address) => cluster.claimants(*address),
    };
    let sides = subjects.iter().map(|pod| {
        let case = Case { cluster, direction, pod, remote, protocol: question.protocol, port };
        let (reason, passed) = decide(&case);
        Side { pod: Some(pod.key.clone()), reason, passed }
    });
    let sides: Vec<Side> = sides.collect();
    let denial = sides.iter().find(|side| !side.reason.allows());
    denial.or(sides.first()).cloned().unwrap_or(Side {
        pod: None,
        reason: Reason::NotPoliced,
        passed: Vec::new(),
    })
}

/// One pod, one direction, one remote, one port: everything a rule can ask about.
struct Case<'a> {
    cluster: &'a Cluster,
    direction: Direction,
    pod: &'a Pod,
    remote: IpAddr,
    protocol: Transport,
    port: Option<u16>,
}

/// The answer of one side, and the rules of tiers that passed the packet on before it.
fn decide(case: &Case) -> (Reason, Vec<TierPlace>) {
    if case.direction == Direction::Egress && TUNNELS.contains(&case.protocol.number()) {
        return (Reason::Tunnel, Vec::new());
    }
    let gate = groups::gate(case);
    if !tiers::concern(case) && gate == Gate::Absent {
        return (by_policies(case).unwrap_or(Reason::NotIsolated), Vec::new());
    }
    // S47, S44: own traffic and what is born on the node come before any tier.
    if case.pod.addresses.contains(&case.remote) {
        return (Reason::Own, Vec::new());
    }
    if case.direction == Direction::Ingress && with_own_node(case) {
        return (from_node(case, gate), Vec::new());
    }
    // S48: a Service's address is judged by the backend, whatever a tier or a policy says of it.
    if is_service(case) {
        return (Reason::Service, Vec::new());
    }
    if is_closed(case) {
        return (Reason::Closed, Vec::new());
    }
    let (reason, passed) = tiers::decide(case, || by_policies(case));
    match gate {
        Gate::Denies(groups) if reason.allows() => (Reason::Gated(groups), passed),
        _ => (reason, passed),
    }
}

/// What the NetworkPolicies say; None where none of them isolates the pod (S65), and nothing does
/// by default (S90).
fn by_policies(case: &Case) -> Option<Reason> {
    let selecting = case.cluster.policies.values().filter(|policy| selects(policy, case.pod));
    let mut isolating = Vec::new();
    let closed = is_closed(case);
    let service = closed || is_service(case);
    for policy in selecting {
        let Isolation::Isolated(rules) = policy.isolation(case.direction) else { continue };
        for (index, rule) in rules.iter().enumerate() {
            let allows = if service {
                allows_everything(case, rule)
            } else {
                rule_allows(case, policy, rule)
            };
            if let Some((peer, port)) = allows {
                return Some(Reason::Allowed(Place {
                    policy: policy.key.clone(),
                    rule: index,
                    peer,
                    port,
                }));
            }
        }
        isolating.push(policy.key.clone());
    }
    if isolating.is_empty() && isolated_by_default(case) == Unselected::Open {
        return None;
    }
    let denied = if isolating.is_empty() { Reason::ByDefault } else { Reason::Denied(isolating) };
    Some(if case.pod.addresses.contains(&case.remote) {
        Reason::Own
    } else if closed && !is_service(case) {
        denied
    } else if service {
        Reason::Service
    } else if with_own_node(case) {
        Reason::Node
    } else {
        denied
    })
}

/// S90: what becomes of the pod where no policy isolates it. What its namespace says counts first.
fn isolated_by_default(case: &Case) -> Unselected {
    let name = &case.pod.key.namespace;
    let own = case.cluster.namespaces.get(name).and_then(|namespace| namespace.unselected);
    let by_default = &case.cluster.by_default;
    own.unwrap_or(match by_default.except.contains(name) {
        true => Unselected::Open,
        false => by_default.unselected,
    })
}

/// S1, S13, S15: pods of the policy's own namespace that run in a network of their own. Policies
/// that are only tried decide nothing (S84).
fn selects(policy: &Policy, pod: &Pod) -> bool {
    policy.mode == Mode::Enforced
        && pod.is_policed()
        && pod.key.namespace == policy.key.namespace
        && policy.selector.matches(&pod.labels)
}

/// Is the remote an address of the pod's own node?
fn on_own_node(case: &Case) -> bool {
    let node = case.pod.node.as_ref().and_then(|name| case.cluster.nodes.get(name));
    node.is_some_and(|node| node.addresses.contains(&case.remote))
}

/// S44 (as seen offline) and S45: the remote is an address of the pod's own node, and for egress
/// the port is not where nodes tell load balancers how a Service is.
fn with_own_node(case: &Case) -> bool {
    let asks = |port: u16| case.protocol == Transport::Tcp && case.port == Some(port);
    let health_check = case.cluster.services.values().filter_map(|s| s.health_check).any(asks);
    on_own_node(case) && (case.direction == Direction::Ingress || !health_check)
}

/// S48: for egress, does the remote with its port stand for backends? Those of a Service; and on
/// the own node's addresses nodePorts and the hostPorts of its pods. (Other nodes' are translated
/// there, not here: S46.)
fn is_service(case: &Case) -> bool {
    let (Direction::Egress, Some(protocol), Some(number)) =
        (case.direction, case.protocol.protocol(), case.port)
    else {
        return false;
    };
    let services = || case.cluster.services.values();
    let own = on_own_node(case);
    let by_address = services().any(|s| {
        s.addresses.contains(&case.remote)
            && s.ports.iter().any(|p| (p.protocol, p.number) == (protocol, number))
    });
    let by_node_port = || {
        let mut ports = services().flat_map(|s| &s.ports);
        ports.any(|p| (p.protocol, p.node_port) == (protocol, Some(number)))
    };
    let by_host_port = || {
        let here =
            case.cluster.pods.values().filter(|pod| pod.is_policed() && pod.node == case.pod.node);
        here.flat_map(|pod| &pod.ports)
            .any(|p| (p.protocol, p.host_port) == (protocol, Some(number)))
    };
    by_address || (own && (by_node_port() || by_host_port()))
}

/// S33: for egress, do the remote and its port belong to a Service that is set aside?
fn is_closed(case: &Case) -> bool {
    let (Direction::Egress, Some(protocol), Some(number)) =
        (case.direction, case.protocol.protocol(), case.port)
    else {
        return false;
    };
    let within = |(p, first, last): &(Protocol, u16, u16)| {
        *p == protocol && (*first..=*last).contains(&number)
    };
    let closed = case.cluster.services.values().map(|service| &service.closed);
    closed.into_iter().any(|c| c.addresses.contains(&case.remote) && c.ports.iter().any(within))
}

/// A rule for every address of the family, on every port of every protocol, allows whatever the
/// backend is.
fn allows_everything(case: &Case, rule: &Rule) -> Option<(Option<usize>, Option<usize>)> {
    let Ports::Any = rule.ports else { return None };
    let Peers::Listed(peers) = &rule.peers else { return Some((None, None)) };
    let whole = |peer: &Peer| match peer {
        Peer::Block(b) => {
            b.except.is_empty() && b.cidr.prefix() == 0 && b.cidr.is_ipv4() == case.remote.is_ipv4()
        }
        _ => false,
    };
    peers.iter().position(whole).map(|peer| (Some(peer), None))
}

/// The indices of a peer and a port that allow it together, None standing for a list that is
/// absent.
fn rule_allows(
    case: &Case,
    policy: &Policy,
    rule: &Rule,
) -> Option<(Option<usize>, Option<usize>)> {
    let peers: Vec<(Option<usize>, Option<&Peer>)> = match &rule.peers {
        Peers::Any => vec![(None, None)],
        Peers::Listed(peers) => {
            peers.iter().enumerate().map(|(i, peer)| (Some(i), Some(peer))).collect()
        }
    };
    for (peer_index, peer) in peers {
        if !peer.is_none_or(|peer| peer_matches(case, policy, peer)) {
            continue;
        }
        match &rule.ports {
            Ports::Any => return Some((peer_index, None)),
            Ports::Listed(ports) => {
                if let Some(port_index) =
                    ports.iter().position(|port| port_matches(case, peer, port))
                {
                    return Some((peer_index, Some(port_index)));
                }
            }
        }
    }
    None
}

fn peer_matches(case: &Case, policy: &Policy, peer: &Peer) -> bool {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let claimants = case.cluster.claimants(case.remote);
            let selects = |pod: &&Pod| match namespaces {
                Namespaces::Own => {
                    pod.key.namespace == policy.key.namespace && pods.matches(&pod.labels)
                }
                Namespaces::Matching(selector) => selected(case.cluster, pod, selector, pods),
            };
            !claimants.is_empty() && claimants.iter().all(selects)
        }
        Peer::Block(block) => block.contains(case.remote),
        Peer::Nothing => false,
    }
}

/// Is the pod, with its namespace, what these two select?
fn selected(cluster: &Cluster, pod: &Pod, namespaces: &Selector, pods: &Selector) -> bool {
    let none = Labels::default();
    let labels = cluster.namespaces.get(&pod.key.namespace).map_or(&none, |n| &n.labels);
    namespaces.matches(labels) && pods.matches(&pod.labels)
}

/// Does the listed `port` match, given that the rule's `peer` (None: any) does?
fn port_matches(case: &Case, peer: Option<&Peer>, port: &Port) -> bool {
    // S34: a protocol without ports is matched by no port.
    let Some(asked) = case.protocol.protocol() else { return false };
    match port {
        Port::Every(protocol) => *protocol == asked,
        Port::Range { protocol, first, last } => {
            *protocol == asked && case.port.is_some_and(|number| (*first..=*last).contains(&number))
        }
        Port::Named { protocol, name } => {
            let Some(number) = case.port.filter(|_| *protocol == asked) else { return false };
            let stands_for = |pod: &Pod| pod.resolve_port(*protocol, name).contains(&number);
            match case.direction {
                Direction::Ingress => stands_for(case.pod),
                // S31: the destination must be a pod, and not by way of an address block.
                Direction::Egress if matches!(peer, Some(Peer::Block(_))) => false,
                Direction::Egress => {
                    let destinations = case.cluster.claimants(case.remote);
                    !destinations.is_empty() && destinations.into_iter().all(stands_for)
                }
            }
        }
        // NetworkPolicies have no such port.
        Port::Name(_) | Port::Nothing => false,
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        write!(f, "{verdict}; egress: {}; ingress: {}", self.egress.reason, self.ingress.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotPoliced => f.write_str("not a pod that policy speaks about"),
            Reason::NotIsolated => f.write_str("not isolated"),
            Reason::Own => f.write_str("the pod itself"),
            Reason::Node => f.write_str("the pod's own node"),
            Reason::Service => f.write_str("a Service's address: its backend decides"),
            Reason::Allowed(place) => write!(f, "allowed by {place}"),
            Reason::Accepted(place) => write!(f, "accepted by {place}"),
            Reason::Refused(places) => {
                f.write_str("denied by ")?;
                for (i, place) in places.iter().enumerate() {
                    write!(f, "{}{place}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Reason::Gated(groups) if groups.is_empty() => {
                f.write_str("denied: nothing is known of the pod's security groups")
            }
            Reason::Gated(groups) => {
                f.write_str("denied by ")?;
                for (i, group) in groups.iter().enumerate() {
                    write!(f, "{}{group}", if i == 0 { "" } else { " and " })?;
                }
                Ok(())
            }
            Reason::ByDefault => f.write_str(
                "denied: isolated by default: no policy selects the pod for this direction",
            ),
            Reason::Tunnel => f.write_str("denied: the protocol leads into a tunnel (S45)"),
            Reason::Closed => f.write_str("denied: the address of a Service that is set aside"),
            Reason::Denied(policies) => {
                f.write_str("denied: isolated by ")?;
                for (i, policy) in policies.iter().enumerate() {
                    write!(f, "{}{policy}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}", self.policy, self.rule)?;
        if let Some(peer) = self.peer {
            write!(f, " peer {peer}")?;
        }
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        Ok(())
    }
}
