//! Who is meant by a contact: the pods of a Service for its address (S48), nobody for the own node
//! (S44, S45) and for the pod itself (S47).
//!
//! Not here: what is needed of them ([`crate::need`]).

use std::net::IpAddr;

use netpolc_policy::{
    Direction, ObjectKey, Protocol,
    frontend::{Backend, PortChoice, backends},
    oracle::Transport,
};

use crate::{
    evidence::{Contact, Counts, Remote},
    selector::Sight,
    world::{UnitId, World},
};

/// The other end of a need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Other {
    Unit(UnitId),
    Address(IpAddr),
}

/// One of those who are meant, on this port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub other: Other,
    /// The pod, where it is one.
    pub pod: Option<ObjectKey>,
    pub protocol: Protocol,
    pub port: u16,
    /// The Service whose address was used, with that address and port.
    pub via: Option<(ObjectKey, IpAddr, u16)>,
}

/// Why a contact makes no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Not {
    /// It passes in any case.
    Needed,
    /// No rule can say it, or none that would be right.
    Writable(String),
}

/// Who is meant by a contact, at least one.
pub(crate) fn meant(world: &World, contact: &Contact, counts: &Counts) -> Result<Vec<Meant>, Not> {
    let is_own_node = matches!(&contact.remote, Remote::Node(name) if *name == contact.node);
    match &contact.remote {
        Remote::Pod(key) if *key == contact.pod => return Err(Not::Needed),
        // What a socket of the node has sent passes and is compared with nothing. What is judged
        // under a node's address was forwarded, and came from outside.
        Remote::Node(_)
            if is_own_node
                && contact.direction == Direction::Ingress
                && counts.audit + counts.by_rule + counts.denied == 0 =>
        {
            return Err(Not::Needed);
        }
        Remote::Node(_)
            if is_own_node
                && contact.direction == Direction::Egress
                && node_port(world, contact).is_none() =>
        {
            return Err(Not::Needed);
        }
        _ => {}
    }
    let protocol = contact.protocol.protocol().ok_or_else(|| Not::Writable(portless(contact)))?;
    let port = contact.port.ok_or_else(|| {
        Not::Writable("its port is not in the flow, so no rule can name it".to_owned())
    })?;
    let one = |other, pod| Meant { other, pod, protocol, port, via: None };
    let at = |address: IpAddr| match world.unit_at(address) {
        Some(unit) => one(Other::Unit(unit), world.pod_at(unit, address)),
        None => one(Other::Address(address), None),
    };
    let address = || {
        let none = || Not::Writable("its address is not in the flow".to_owned());
        contact.address.ok_or_else(none)
    };
    match &contact.remote {
        Remote::Pod(key) => match world.unit_of(key) {
            Some(unit) => Ok(vec![one(Other::Unit(unit), Some(key.clone()))]),
            None => Err(Not::Writable(format!("nothing is known of the pod {key}"))),
        },
        Remote::Service(key) => behind(world, contact, key, protocol, port),
        Remote::Node(_) if is_own_node && contact.direction == Direction::Egress => {
            match node_port(world, contact) {
                Some((key, number)) => behind(world, contact, &key, protocol, number),
                None => Err(Not::Needed),
            }
        }
        Remote::Node(_) => Ok(vec![one(Other::Address(address()?), None)]),
        Remote::Address => Ok(vec![at(address()?)]),
    }
}

/// Why there is no rule about a protocol without ports.
fn portless(contact: &Contact) -> String {
    let name = traffic(contact);
    format!(
        "NetworkPolicy has no rules about {name}: only a rule without ports, for everything, \
         would permit it"
    )
}

/// Protocol and port, as in `TCP 80`.
pub(crate) fn traffic(contact: &Contact) -> String {
    let protocol = match contact.protocol {
        Transport::Tcp => "TCP".to_owned(),
        Transport::Udp => "UDP".to_owned(),
        Transport::Sctp => "SCTP".to_owned(),
        Transport::Other(1) => "ICMP".to_owned(),
        Transport::Other(58) => "ICMPv6".to_owned(),
        Transport::Other(number) => format!("protocol {number}"),
    };
    match contact.port {
        Some(port) => format!("{protocol} {port}"),
        None => protocol,
    }
}

/// The Service and its port that a port of every node leads to.
fn node_port(world: &World, contact: &Contact) -> Option<(ObjectKey, u16)> {
    let (protocol, port) = (contact.protocol.protocol()?, contact.port?);
    world.cluster.services.iter().find_map(|(key, service)| {
        let mut ports = service.ports.iter();
        let found = ports.find(|p| (p.protocol, p.node_port) == (protocol, Some(port)))?;
        Some((key.clone(), found.number))
    })
}

/// What is behind a port of a Service.
fn behind(
    world: &World,
    contact: &Contact,
    key: &ObjectKey,
    protocol: Protocol,
    port: u16,
) -> Result<Vec<Meant>, Not> {
    let found = backends(&world.cluster, &world.frontends, key, &PortChoice::Number(port))
        .map_err(|why| {
            Not::Writable(match world.sight {
                Sight::Whole => format!("what is behind Service {key} is not known: {why}"),
                Sight::Flows => format!(
                    "what is behind Service {key} is judged, and only the cluster says what that \
                     is: name it by -f or --context"
                ),
            })
        })?;
    let is_own = |backend: &&Backend| backend.pod.as_ref() != Some(&contact.pod);
    let mut all: Vec<Meant> = Vec::new();
    for backend in
        found.iter().filter(|backend| backend.frontend.protocol == protocol).filter(is_own)
    {
        let unit = backend.pod.as_ref().and_then(|pod| world.unit_of(pod));
        let unit = unit.or_else(|| world.unit_at(backend.address));
        if unit.is_none() && world.node_at(backend.address) == Some(&contact.node) {
            continue;
        }
        let via = contact.address.map(|address| (key.clone(), address, port));
        let one = Meant {
            other: unit.map_or(Other::Address(backend.address), Other::Unit),
            pod: unit.and(backend.pod.clone()),
            protocol,
            port: backend.port,
            via,
        };
        let is_known = |known: &Meant| (known.other, known.port) == (one.other, one.port);
        if !all.iter().any(is_known) {
            all.push(one);
        }
    }
    if all.is_empty() { Err(Not::Needed) } else { Ok(all) }
}
