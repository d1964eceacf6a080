//! Reads the published lists and those of `netpolc list -o json` into the same form: ports of TCP,
//! UDP and SCTP but port 0, workloads, and IPv4 addresses outside. Not here: what is compared.

use std::{fmt, net::Ipv4Addr};

use anyhow::Context;
use ipnetwork::IpNetwork;
use netpolc_analyze::traffic::TrafficSet;
use netpolc_policy::Protocol;
use serde_json::Value;

/// An end of a connection: a workload, or addresses from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// By its namespace and name.
    Workload(String),
    /// The first and the last one, of IPv4.
    Outside(u32, u32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Workload(name) => f.write_str(name),
            End::Outside(first, last) => {
                write!(f, "{}-{}", Ipv4Addr::from(*first), Ipv4Addr::from(*last))
            }
        }
    }
}

/// What may be sent, line by line.
pub type List = Vec<Line>;

/// Who may send what to whom.
pub type Line = (End, End, TrafficSet);

/// Everything that the published lists tell apart. Port 0 is not in it.
fn all() -> TrafficSet {
    let each = Protocol::ALL.into_iter().map(|protocol| TrafficSet::ports(protocol, 1, u16::MAX));
    each.fold(TrafficSet::nothing(), |sum, set| sum.union(&set))
}

/// Traffic as either list writes it, in `parts` such as `TCP 80-90`, `81` (of the protocol before)
/// or `ICMP`. None for a part that is a port name.
fn traffic<'t>(parts: impl IntoIterator<Item = &'t str>) -> Vec<Option<TrafficSet>> {
    let mut protocol = "";
    let mut part = |part: &'t str| {
        if matches!(part, "everything" | "All Connections") {
            return Some(all());
        }
        let ports = match part.split_once(' ') {
            Some((named, ports)) => {
                protocol = named;
                ports
            }
            None if part.starts_with(|c: char| c.is_ascii_uppercase()) => {
                protocol = part;
                "0-65535"
            }
            None => part,
        };
        let known = Protocol::ALL.into_iter().find(|known| known.to_string() == protocol);
        let Some(known) = known else { return Some(TrafficSet::nothing()) };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        Some(TrafficSet::ports(known, first.parse().ok()?, last.parse().ok()?))
    };
    parts.into_iter().map(|text| part(text.trim())).collect()
}

/// The sum of the parts, as far as the published lists tell it apart.
fn sum<'a>(parts: impl IntoIterator<Item = &'a TrafficSet>) -> TrafficSet {
    parts.into_iter().fold(TrafficSet::nothing(), |sum, set| sum.union(set)).intersection(&all())
}

/// Whether a published line has a port name that no container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasPortName {
    Yes,
    No,
}

/// A published line; None where an ingress controller sends.
pub fn published(line: &str) -> anyhow::Result<Option<(Line, HasPortName)>> {
    let ends = line.split_once(" => ").and_then(|(source, rest)| {
        rest.split_once(" : ").map(|(destination, text)| (source, destination, text))
    });
    let (source, destination, text) =
        ends.with_context(|| format!("{line:?} is no line of a connectivity list"))?;
    if source.starts_with('{') {
        return Ok(None);
    }
    let parts = traffic(text.split(',').filter(|_| text != "No Connections"));
    let set = sum(parts.iter().flatten());
    let has_name = if parts.contains(&None) { HasPortName::Yes } else { HasPortName::No };
    Ok(Some(((end(source), end(destination), set), has_name)))
}

/// `ns/name[Kind]`, or `first-last[External]`.
fn end(text: &str) -> End {
    let name = text.split_once('[').map_or(text, |(name, _)| name);
    let range = name.split_once('-').and_then(|(first, last)| {
        let number = |text: &str| text.parse::<Ipv4Addr>().ok().map(u32::from);
        Some(End::Outside(number(first)?, number(last)?))
    });
    range.unwrap_or_else(|| End::Workload(name.into()))
}

/// What `netpolc list -o json` says, without nodes and without IPv6.
pub fn ours(json: &Value) -> anyhow::Result<List> {
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.map(Into::into).collect()
    };
    let ends = |value: &Value| -> anyhow::Result<Vec<End>> {
        let mut found: Vec<End> =
            value["pods"].as_str().into_iter().map(|name| End::Workload(name.into())).collect();
        for prefix in texts(&value["outside"]) {
            if let IpNetwork::V4(prefix) = prefix.parse()? {
                found.push(End::Outside(prefix.network().into(), prefix.broadcast().into()));
            }
        }
        Ok(found)
    };
    let mut list = List::new();
    for connection in json.as_array().context("it is no list")? {
        let parts = texts(&connection["traffic"]);
        let set = sum(traffic(parts.iter().map(String::as_str)).iter().flatten());
        for source in ends(&connection["source"])? {
            for destination in ends(&connection["destination"])? {
                list.push((source.clone(), destination, set.clone()));
            }
        }
    }
    Ok(list)
}
