//! Probes: questions with their verdicts. Not here: the notation they are written in.

use std::net::IpAddr;

use netpolc_policy::{
    Cluster, ObjectKey,
    oracle::{Party, Question, Transport},
};

use super::notation::{Fields, Value};

/// A question and its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who asks whom what.
    pub question: Question,
    /// Whether it is allowed.
    pub allowed: bool,
    /// The item of the semantics that it proves.
    pub item: String,
    /// Line in the case's file.
    pub line: usize,
}

/// What a row says, lists not multiplied out yet.
#[derive(Default)]
struct Row {
    sources: Vec<String>,
    destinations: Vec<String>,
    protocols: Vec<String>,
    ports: Vec<String>,
    messages: Vec<String>,
    family: Option<String>,
    source_address: Option<String>,
    destination_address: Option<String>,
    via: Option<String>,
    allowed: Option<String>,
    item: Option<String>,
}

/// The probes of one row.
pub(super) fn resolve(
    line: usize,
    fields: &Fields,
    cluster: &Cluster,
    item: &str,
) -> Result<Vec<Probe>, String> {
    let row = read(fields)?;
    let allowed = match row.allowed.as_deref() {
        Some("true") => true,
        Some("false") => false,
        other => return Err(format!("allowed is true or false, not {other:?}")),
    };
    let item = row.item.clone().unwrap_or_else(|| item.to_owned());
    let mut probes = Vec::new();
    for source in &row.sources {
        for destination in &row.destinations {
            let (source, destination) = parties(&row, source, destination, cluster)?;
            for (protocol, port) in transports(&row, destination.address().is_ipv4())? {
                let via = row.via.as_deref().map(socket).transpose()?;
                let (source, destination) = (source.clone(), destination.clone());
                let question = Question { source, destination, protocol, port, via };
                probes.push(Probe { question, allowed, item: item.clone(), line });
            }
        }
    }
    if probes.is_empty() { Err("a probe needs src, dst and proto".into()) } else { Ok(probes) }
}

fn read(fields: &Fields) -> Result<Row, String> {
    let mut row = Row::default();
    for (key, value) in fields {
        let list = match value {
            Value::One(one) => vec![one.clone()],
            Value::List(list) => list.clone(),
            Value::Rows => return Err(format!("{key} is a scalar or a list")),
        };
        let one = || match list.as_slice() {
            [one] => Ok(Some(one.clone())),
            _ => Err(format!("{key} takes one value")),
        };
        match key.as_str() {
            "src" => row.sources = list,
            "dst" => row.destinations = list,
            "proto" => row.protocols = list,
            "port" => row.ports = list,
            "message" => row.messages = list,
            "family" => row.family = one()?,
            "srcIP" => row.source_address = one()?,
            "dstIP" => row.destination_address = one()?,
            "via" => row.via = one()?,
            "allowed" => row.allowed = one()?,
            "item" => row.item = one()?,
            _ => return Err(format!("unknown field {key}")),
        }
    }
    Ok(row)
}

/// Both ends with addresses of one family.
fn parties(
    row: &Row,
    source: &str,
    destination: &str,
    cluster: &Cluster,
) -> Result<(Party, Party), String> {
    let sources = candidates(source, row.source_address.as_deref(), cluster)?;
    let destinations = candidates(destination, row.destination_address.as_deref(), cluster)?;
    let families: &[bool] = match row.family.as_deref() {
        None => &[true, false],
        Some("4") => &[true],
        Some("6") => &[false],
        Some(other) => return Err(format!("family is 4 or 6, not {other}")),
    };
    let pick = |of: &[IpAddr], v4: bool| of.iter().copied().find(|a| a.is_ipv4() == v4);
    let chosen =
        families.iter().find_map(|v4| Some((pick(&sources, *v4)?, pick(&destinations, *v4)?)));
    let (from, to) = chosen
        .ok_or_else(|| format!("{source} and {destination} have no address family in common"))?;
    Ok((party(source, from), party(destination, to)))
}

fn party(name: &str, address: IpAddr) -> Party {
    match name.split_once('/') {
        Some((namespace, name)) => Party::Pod(ObjectKey::new(namespace, name), address),
        None => Party::Address(address),
    }
}

/// Reads an address and a port.
fn socket(text: &str) -> Result<(IpAddr, u16), String> {
    let socket: std::net::SocketAddr =
        text.parse().map_err(|_| format!("via: {text} is not a valid address with a port"))?;
    Ok((socket.ip(), socket.port()))
}

/// The addresses that a party may have in a packet.
fn candidates(name: &str, chosen: Option<&str>, cluster: &Cluster) -> Result<Vec<IpAddr>, String> {
    let Some((namespace, pod)) = name.split_once('/') else {
        return Ok(vec![
            name.parse().map_err(|_| format!("{name} is neither namespace/pod nor an address"))?,
        ]);
    };
    let pod = cluster
        .pods
        .get(&ObjectKey::new(namespace, pod))
        .ok_or_else(|| format!("no pod {name}"))?;
    let Some(chosen) = chosen else { return Ok(pod.addresses.clone()) };
    let chosen: IpAddr = chosen.parse().map_err(|_| format!("{chosen} is not a valid address"))?;
    if pod.addresses.contains(&chosen) {
        Ok(vec![chosen])
    } else {
        Err(format!("{name} has no address {chosen}"))
    }
}

/// Protocols and ports multiplied out, ICMP with its messages; those without ports once.
fn transports(row: &Row, v4: bool) -> Result<Vec<(Transport, Option<u16>)>, String> {
    let ports =
        row.ports.iter().map(|p| p.parse::<u16>().map_err(|_| format!("{p} is not a valid port")));
    let ports: Vec<u16> = ports.collect::<Result<_, _>>()?;
    let messages: Vec<u16> =
        row.messages.iter().map(|text| message(text)).collect::<Result<_, _>>()?;
    let mut transports = Vec::new();
    for name in &row.protocols {
        let protocol = match name.to_ascii_uppercase().as_str() {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            "ICMP" => Transport::Other(if v4 { 1 } else { 58 }),
            other => Transport::from_number(
                other.parse().map_err(|_| format!("{other} is not a valid protocol"))?,
            ),
        };
        match protocol {
            Transport::Other(1 | 58) if !messages.is_empty() => {
                transports.extend(messages.iter().map(|message| (protocol, Some(*message))));
            }
            Transport::Other(_) => transports.push((protocol, None)),
            _ if ports.is_empty() => return Err(format!("{name} needs a port")),
            _ => transports.extend(ports.iter().map(|p| (protocol, Some(*p)))),
        }
    }
    Ok(transports)
}

/// Reads type and code of an ICMP message, such as `8/0`.
fn message(text: &str) -> Result<u16, String> {
    let parts = text.split_once('/').and_then(|(kind, code)| {
        Some(u16::from_be_bytes([kind.parse().ok()?, code.parse().ok()?]))
    });
    parts.ok_or_else(|| format!("{text} is not a type and a code of ICMP"))
}
