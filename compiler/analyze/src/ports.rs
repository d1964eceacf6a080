//! What rules list as ports, as sets of traffic.
//!
//! Not here: the sets themselves ([`crate::traffic`]), and whom a rule is about.

use std::sync::Arc;

use netpolc_policy::{Pod, Port, Ports, Protocol, Traffic};

use crate::traffic::TrafficSet;

/// A port by name, of one protocol or of any.
pub(crate) type PortName = (Option<Protocol>, Arc<str>);

/// What a rule lists: what is known of it without any pod, and names that pods resolve.
pub(crate) struct Listed {
    /// The ports by number; everything where the rule lists none.
    pub(crate) known: TrafficSet,
    /// The others.
    pub(crate) names: Vec<PortName>,
}

impl Listed {
    pub(crate) fn of(ports: &Ports) -> Self {
        match ports {
            Ports::Any => Self { known: TrafficSet::everything(), names: Vec::new() },
            Ports::Listed(list) => Self::of_list(list),
        }
    }

    fn of_list(list: &[Port]) -> Self {
        let mut listed = Self { known: TrafficSet::nothing(), names: Vec::new() };
        for port in list {
            let set = match port {
                Port::Every(protocol) => TrafficSet::protocol(protocol.number()),
                Port::Range { protocol, first, last } => {
                    TrafficSet::ports(*protocol, *first, *last)
                }
                Port::Named { protocol, name } => {
                    listed.names.push((Some(*protocol), name.clone()));
                    continue;
                }
                Port::Name(name) => {
                    listed.names.push((None, name.clone()));
                    continue;
                }
                Port::Nothing => continue,
            };
            listed.known = listed.known.union(&set);
        }
        listed
    }
}

/// The ports that a name stands for on a pod (S29, S69).
pub fn resolved(pod: &Pod, protocol: Option<Protocol>, name: &str) -> TrafficSet {
    let protocols = Protocol::ALL.into_iter().filter(|p| protocol.is_none_or(|only| only == *p));
    let ports =
        protocols.flat_map(|p| pod.resolve_port(p, name).into_iter().map(move |port| (p, port)));
    ports.fold(TrafficSet::nothing(), |set, (p, port)| set.union(&TrafficSet::ports(p, port, port)))
}

/// What a security group's rule is about (S77).
pub(crate) fn of_group(traffic: Traffic) -> TrafficSet {
    match traffic {
        Traffic::Everything => TrafficSet::everything(),
        Traffic::Ports { protocol, first, last } => TrafficSet::ports(protocol, first, last),
        Traffic::Protocol(number) => TrafficSet::protocol(number),
        Traffic::Icmp { version, kind, code } => TrafficSet::icmp(version, kind, code),
    }
}
