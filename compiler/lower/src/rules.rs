//! Rules of policies as sets keep them: one peer each, with port names resolved as far as they can
//! be without looking at the destination.
//!
//! Not here: which rules a set consists of ([`crate::set`]), and what they add up to for a class
//! ([`crate::grants`]).

use std::sync::Arc;

use netpolc_policy::{
    Action, Direction, Namespaces, Peer, Port, Ports, Priority, Protocol, Selector, Traffic,
};
use netpolc_table::schema::Family;

use crate::{
    index::AtomId,
    interval::{PortRange, Stretch, without},
    membership::{Among, Atom, NamespaceScope, PortName},
};

/// Whom a rule is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Any,
    /// A block of the whole family without excepts: a property of the set, never of a class, so
    /// that no address needs a leaf for it.
    Family(Family),
    Atom(AtomId),
}

/// The ports that a rule allows.
#[derive(Debug)]
pub(crate) enum Allowed {
    Any,
    /// With the port's index in the API object.
    Listed(Vec<(Option<u32>, What)>),
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Range(PortRange),
    /// Egress only: what it is on the destination pod.
    Named(PortName),
    /// Of a protocol without ports that is told apart from the others: by number, types and codes
    /// of ICMP, and 0 to 65535 of any other.
    Apart(Stretch),
    /// Protocols that have no ports.
    Portless,
}

/// Where a rule stands among those of its set, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A rule of the Admin tier.
    Admin(Ordered),
    /// A rule of a NetworkPolicy, or one that is implied beside them: it permits, and has no place.
    Policy,
    /// A rule of the Baseline tier.
    Baseline(Ordered),
    /// A rule of a security group: what none of them permits is denied, whatever else permits it
    /// (S62).
    Group,
}

/// The place of a rule in its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub(crate) level: Priority,
    /// Tells policies of one level apart.
    pub(crate) policy: u32,
    pub(crate) action: Action,
}

impl Role {
    fn ordered(&self) -> Option<Ordered> {
        match self {
            Role::Admin(ordered) | Role::Baseline(ordered) => Some(*ordered),
            Role::Policy | Role::Group => None,
        }
    }

    /// The priority of its policy, in its tier.
    pub(crate) fn level(&self) -> Option<Priority> {
        self.ordered().map(|ordered| ordered.level)
    }

    pub(crate) fn policy(&self) -> Option<u32> {
        self.ordered().map(|ordered| ordered.policy)
    }

    pub(crate) fn action(&self) -> Option<Action> {
        self.ordered().map(|ordered| ordered.action)
    }
}

/// One peer of one rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) who: Who,
    pub(crate) role: Role,
    /// Index into the set's sources.
    pub(crate) source: u32,
    /// Index of the peer in the API object.
    pub(crate) peer: Option<u32>,
    pub(crate) ports: Arc<Allowed>,
}

impl Rule {
    /// The ports that it lists; nothing where it allows every one of every protocol.
    pub(crate) fn listed(&self) -> &[(Option<u32>, What)] {
        match &*self.ports {
            Allowed::Any => &[],
            Allowed::Listed(ports) => ports,
        }
    }
}

/// What a named port of an ingress rule is on the selected pod itself (S29).
pub(crate) type Resolved = Vec<(Protocol, Arc<str>, Vec<u16>)>;

/// The ports of a rule. A name of an egress rule stays one, since every destination pod has its own
/// number for it; one of an ingress rule is about the pod that the set is for.
pub(crate) fn allowed(
    ports: &Ports,
    direction: Direction,
    resolved: &Resolved,
    among: Among,
) -> Allowed {
    let Ports::Listed(list) = ports else { return Allowed::Any };
    let mut lowered = Vec::new();
    for (i, port) in list.iter().enumerate() {
        let index = Some(i as u32);
        match port {
            Port::Nothing => {}
            Port::Every(protocol) => lowered.push((index, What::Range((*protocol, 0, u16::MAX)))),
            Port::Range { protocol, first, last } => {
                lowered.push((index, What::Range((*protocol, *first, *last))));
            }
            Port::Named { protocol, name } => {
                let named = named(*protocol, name, direction, resolved, among);
                lowered.extend(named.into_iter().map(|what| (index, what)));
            }
            Port::Name(name) => {
                for protocol in Protocol::ALL {
                    let named = named(protocol, name, direction, resolved, among);
                    lowered.extend(named.into_iter().map(|what| (index, what)));
                }
            }
        }
    }
    Allowed::Listed(lowered)
}

fn named(
    protocol: Protocol,
    name: &Arc<str>,
    direction: Direction,
    resolved: &Resolved,
    among: Among,
) -> Vec<What> {
    if direction == Direction::Egress {
        return vec![What::Named(PortName { protocol, name: name.clone(), among })];
    }
    let found = resolved.iter().find(|(p, n, _)| (*p, n) == (protocol, name));
    let numbers = found.map_or(&[][..], |(.., numbers)| numbers);
    numbers.iter().map(|number| What::Range((protocol, *number, *number))).collect()
}

/// What a security group's rule is about (S77). The two ICMPs are kept by type and code; each of
/// them counts over its own family only (S83).
pub(crate) fn traffic(traffic: Traffic) -> Allowed {
    let what = match traffic {
        Traffic::Everything => return Allowed::Any,
        Traffic::Ports { protocol, first, last } => Some(What::Range((protocol, first, last))),
        Traffic::Protocol(number) => Some(match Protocol::from_number(number) {
            Some(protocol) => What::Range((protocol, 0, u16::MAX)),
            None => What::Apart((number, 0, u16::MAX)),
        }),
        Traffic::Icmp { version, kind, code } => {
            messages(kind, code).map(|(first, last)| What::Apart((version.number(), first, last)))
        }
    };
    Allowed::Listed(what.into_iter().map(|what| (None, what)).collect())
}

/// The interval of ICMP messages of a type and code, of which None is any; nothing where a code
/// has no type that it would belong to.
fn messages(kind: Option<u8>, code: Option<u8>) -> Option<(u16, u16)> {
    let of = |kind: u8, code: u8| u16::from_be_bytes([kind, code]);
    match (kind, code) {
        (None, None) => Some((0, u16::MAX)),
        (None, Some(_)) => None,
        (Some(kind), None) => Some((of(kind, 0), of(kind, u8::MAX))),
        (Some(kind), Some(code)) => Some((of(kind, code), of(kind, code))),
    }
}

/// A named port never matches an address block (S31).
pub(crate) fn without_names(ports: &Arc<Allowed>) -> Arc<Allowed> {
    let Allowed::Listed(list) = &**ports else { return ports.clone() };
    let is_number = |what: &What| !matches!(what, What::Named(_));
    if list.iter().all(|(_, what)| is_number(what)) {
        return ports.clone();
    }
    Arc::new(Allowed::Listed(list.iter().filter(|(_, what)| is_number(what)).cloned().collect()))
}

/// Everything on the own node's addresses but the ports where it tells load balancers how Services
/// are (S45).
pub(crate) fn node_ports(health_checks: &[u16]) -> Allowed {
    if health_checks.is_empty() {
        return Allowed::Any;
    }
    let mut list = vec![(None, What::Portless)];
    for protocol in Protocol::ALL {
        let closed = health_checks.iter().filter(|_| protocol == Protocol::Tcp);
        let open = without((0, u16::MAX), closed.map(|port| (*port, *port)));
        list.extend(open.map(|(first, last)| (None, What::Range((protocol, first, last)))));
    }
    Allowed::Listed(list)
}

/// A block of every address of a family.
pub(crate) fn whole_family(peer: &Peer) -> Option<Family> {
    match peer {
        Peer::Block(block) if block.cidr.prefix() == 0 && block.except.is_empty() => {
            Some(Family::of(block.cidr.ip()))
        }
        _ => None,
    }
}

/// The atom of a peer that is pods of a policy in this namespace.
pub(crate) fn pods_atom(namespaces: &Namespaces, pods: &Selector, own: &Arc<str>) -> Atom {
    let namespaces = match namespaces {
        Namespaces::Own => NamespaceScope::Named(own.clone()),
        Namespaces::Matching(selector) => NamespaceScope::Matching(selector.clone()),
    };
    Atom::Pods { namespaces, pods: pods.clone(), among: Among::All }
}
