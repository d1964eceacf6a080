//! A question as it is written, `SOURCE` and `DESTINATION:PORT/PROTOCOL`, and what it means in the
//! input where it may mean several things.
//!
//! Here: Services by their addresses, names that pods and a Service share, and IPv6 addresses with
//! a port. Not here: single ends ([`super::end`]) and ports ([`super::port`]).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use netpolc_kube_sync::Survey;
use netpolc_policy::{
    ObjectKey, Protocol,
    frontend::{Frontend, FrontendPort, backends},
    oracle::Transport,
};

use super::{
    end::{self, End},
    port::{self, Port},
    story::Asked,
};

/// A question that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The question.
    pub asked: Asked,
    /// What was taken to be meant where something else may be, for standard error.
    pub note: Option<String>,
}

/// Reads a question about this input.
///
/// # Errors
/// An end means nothing, or what is meant cannot be told; the message says what to write.
pub fn read(survey: &Survey, source: &str, destination: &str) -> anyhow::Result<Reading> {
    let (text, port, protocol) = port::split(destination)?;
    let (source, end) = (end::find(survey, source)?, end::find(survey, text)?);
    let mut asked = Asked { source, destination: end, port, protocol, via: None };
    let mut note = None;
    match &asked.destination {
        // Services translate no protocol without ports.
        _ if protocol.is_some_and(|transport| transport.protocol().is_none()) => {}
        End::Address(address) => {
            let address = *address;
            if !destination.starts_with('[') {
                no_port_in(survey, address, text)?;
            }
            if let Some(key) = service_at(survey, address, &asked)? {
                note = Some(format!(
                    "{address} is an address of Service {key}, so its backends are judged, as for \
                     svc/{key}"
                ));
                (asked.destination, asked.via) = (End::Service(key), Some(address));
            }
        }
        End::Pods(pods) => {
            if let Some((key, taken)) = shared_name(survey, text, pods, &asked) {
                let rest = &destination[text.len()..];
                note = Some(match taken {
                    Taken::Service(pods) => {
                        asked.destination = End::Service(key.clone());
                        format!(
                            "{destination} is taken as Service {key}; for the pods of this \
                                 name, write {pods}{rest}"
                        )
                    }
                    Taken::Pods(pods) => format!(
                        "{destination} is taken as {pods}; for the Service of this name, write \
                         svc/{key}{rest}"
                    ),
                });
            }
        }
        End::Service(_) | End::Block(_) | End::Internet | End::Node(_) => {}
    }
    Ok(Reading { asked, note })
}

/// Refuses an IPv6 address without brackets that may be a shorter one with a port, unless somebody
/// in the input has it.
fn no_port_in(survey: &Survey, address: IpAddr, text: &str) -> anyhow::Result<()> {
    let cluster = &survey.loaded.cluster;
    let is_known = survey.book.holders(address).next().is_some()
        || cluster.nodes.values().any(|node| node.addresses.contains(&address))
        || cluster.services.values().any(|service| service.addresses.contains(&address));
    let parts = text.rsplit_once(':').filter(|_| !is_known);
    if let Some((before, port)) = parts
        && before.parse::<Ipv6Addr>().is_ok()
        && port.parse::<u16>().is_ok()
    {
        anyhow::bail!(
            "{text} may be an address, or {before} with port {port}; write [{before}]:{port}, or \
             [{text}] for that address"
        );
    }
    Ok(())
}

/// The Service that is asked about by this address; None where it is no Service's.
fn service_at(
    survey: &Survey,
    address: IpAddr,
    asked: &Asked,
) -> anyhow::Result<Option<ObjectKey>> {
    let cluster = &survey.loaded.cluster;
    let mut holders = survey.book.holders(address).filter_map(|key| cluster.pods.get(key));
    if holders.any(|pod| pod.is_policed()) {
        return Ok(None);
    }
    let here = cluster.services.iter().filter(|(_, known)| known.addresses.contains(&address));
    let here: Vec<(&ObjectKey, &Frontend)> =
        here.filter_map(|(key, _)| Some((key, survey.frontends.get(key)?))).collect();
    let is_node = cluster.nodes.values().any(|node| node.addresses.contains(&address));
    // The ports of a node that no Service of its address offers are its own.
    if here.is_empty() || is_node && asked.port.is_none() {
        return Ok(None);
    }
    let offering = here.iter().filter(|(_, frontend)| offers(frontend, asked));
    let offering: Vec<&ObjectKey> = offering.map(|(key, _)| *key).collect();
    match offering[..] {
        [key] => Ok(Some(key.clone())),
        [] if is_node => Ok(None),
        [] => {
            let of = |(key, frontend): &(&ObjectKey, &Frontend)| {
                let ports: Vec<String> = frontend.ports.iter().map(ToString::to_string).collect();
                format!("Service {key}, whose ports are {}", ports.join(", "))
            };
            let known: Vec<String> = here.iter().map(of).collect();
            anyhow::bail!(
                "{address} is an address of {}; there is nothing behind another port",
                known.join(", and of ")
            )
        }
        ref several => {
            let ways: Vec<String> = several.iter().map(|key| format!("svc/{key}")).collect();
            anyhow::bail!(
                "{address} is an address of several Services; write {}",
                ways.join(" or ")
            )
        }
    }
}

/// Has the Service a port that is asked about?
fn offers(frontend: &Frontend, asked: &Asked) -> bool {
    let is_asked = |port: &FrontendPort| {
        asked.protocol.is_none_or(|transport| transport == Transport::from(port.protocol))
            && match &asked.port {
                None => true,
                Some(Port::Number(number)) => *number == port.number,
                Some(Port::Range(first, last)) => (*first..=*last).contains(&port.number),
                Some(Port::Name(name)) => port.name.as_deref() == Some(name),
            }
    };
    frontend.ports.iter().any(is_asked)
}

/// What a name that pods and a Service share is taken for.
enum Taken {
    /// For the Service; the pods are written like this.
    Service(String),
    /// For the pods, which are written like this.
    Pods(String),
}

/// The Service that has the same name as these pods, if it may be meant as well and the answer may
/// then be another one.
fn shared_name(
    survey: &Survey,
    text: &str,
    pods: &[ObjectKey],
    asked: &Asked,
) -> Option<(ObjectKey, Taken)> {
    let (namespace, name) = text.split_once('/')?;
    let key = ObjectKey::new(namespace, name);
    let frontend = survey.frontends.get(&key)?;
    if !offers(frontend, asked) || matches!(asked.port, Some(Port::Range(..))) {
        return None;
    }
    let cluster = &survey.loaded.cluster;
    let known = || pods.iter().filter_map(|pod| cluster.pods.get(pod));
    if is_the_same(survey, &key, pods, asked) {
        return None;
    }
    let owner = known().next()?.owner.as_ref().filter(|_| !cluster.pods.contains_key(&key));
    let kind = owner.map_or("pod".to_owned(), |owner| owner.kind.name().to_ascii_lowercase());
    let way = format!("{kind}/{key}");
    let is_declared = known().flat_map(|pod| &pod.ports).any(|port| match &asked.port {
        Some(Port::Number(number)) => {
            let protocol = asked.protocol.map_or(Some(Protocol::Tcp), Transport::protocol);
            *number == port.number && Some(port.protocol) == protocol
        }
        Some(Port::Name(name)) => port.name.as_deref() == Some(name),
        Some(Port::Range(..)) | None => true,
    });
    let is_for_pods = is_declared || asked.port.is_none();
    Some((key, if is_for_pods { Taken::Pods(way) } else { Taken::Service(way) }))
}

/// Does the Service's port lead to the port of this number of all these pods, and of no others?
fn is_the_same(survey: &Survey, key: &ObjectKey, pods: &[ObjectKey], asked: &Asked) -> bool {
    let Some(Port::Number(number)) = asked.port else { return false };
    let choice = netpolc_policy::frontend::PortChoice::Number(number);
    let Ok(behind) = backends(&survey.loaded.cluster, &survey.frontends, key, &choice) else {
        return false;
    };
    let protocol = asked.protocol.map_or(Some(Protocol::Tcp), Transport::protocol);
    let is_direct = |port: u16, of: Protocol| port == number && Some(of) == protocol;
    let found: BTreeSet<Option<&ObjectKey>> = behind.iter().map(|b| b.pod.as_ref()).collect();
    behind.iter().all(|backend| is_direct(backend.port, backend.frontend.protocol))
        && found == pods.iter().map(Some).collect()
}
