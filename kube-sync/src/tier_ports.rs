//! Reads the ports of a ClusterNetworkPolicy's rule: `protocols` as upstream has them, and `ports`
//! as AWS does. Not here: the rest of a rule (`tier_rule`).

use netpolc_policy::{Port, Ports, Protocol, TierApi};

use crate::{
    policy::{is_port_name, protocol_name},
    problem::{Path, excerpt},
    source::Reader,
    strict::{self, Health},
    tier_rule::items,
    tree::Node,
};

/// Reads the ports of a rule, at most `most`. A broken one matches nothing.
pub(crate) fn read_ports(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    most: usize,
    api: TierApi,
) -> (Ports, Health) {
    let advice = "omit it to match all traffic";
    let (items, mut health) = items(reader, node, path, most, advice);
    let mut ports = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let read = match api {
            TierApi::Upstream => protocol(reader, item, &path),
            TierApi::Aws => port(reader, item, &path),
        };
        if read.is_none() {
            health = Health::Broken;
        }
        ports.push(read.unwrap_or(Port::Nothing));
    }
    if ports.is_empty() {
        ports.push(Port::Nothing);
    }
    (Ports::Listed(ports), health)
}

/// The one field that is set of these; None, with a report, where there is none, or more than one,
/// or one that is not known.
fn exactly_one<'n, 't, const N: usize>(
    reader: &mut Reader,
    node: &'n Node<'t>,
    path: &Path,
    names: [&'static str; N],
) -> Option<(&'static str, &'n Node<'t>)> {
    let (found, health) = strict::fields(reader, node, path, names);
    let mut set = names.into_iter().zip(found).filter_map(|(name, node)| Some((name, node?)));
    let (first, second) = (set.next(), set.next());
    if health == Health::Sound && (first.is_none() || second.is_some()) {
        let message = format!("exactly one of {} must be given", names.join(", "));
        reader.error(node.at, path, message);
    }
    first.filter(|_| health == Health::Sound && second.is_none())
}

/// An item of `protocols`.
fn protocol(reader: &mut Reader, node: &Node, path: &Path) -> Option<Port> {
    let names = ["tcp", "udp", "sctp", "destinationNamedPort"];
    let (name, given) = exactly_one(reader, node, path, names)?;
    let path = path.field(name);
    if name == "destinationNamedPort" {
        return named(reader, given, &path);
    }
    let protocol = Protocol::ALL.into_iter().find(|p| p.to_string().eq_ignore_ascii_case(name))?;
    let (_, port) = exactly_one(reader, given, &path, ["destinationPort"])?;
    let path = path.field("destinationPort");
    let (name, port) = exactly_one(reader, port, &path, ["number", "range"])?;
    let path = path.field(name);
    if name == "number" {
        let number = strict::integer(reader, port, &path, 1, u16::MAX)?;
        return Some(Port::Range { protocol, first: number, last: number });
    }
    let ([start, end], health) = strict::fields(reader, port, &path, ["start", "end"]);
    range(reader, port, &path, protocol, (start, end)).filter(|_| health == Health::Sound)
}

/// An item of `ports`, as AWS has it.
fn port(reader: &mut Reader, node: &Node, path: &Path) -> Option<Port> {
    let (name, given) = exactly_one(reader, node, path, ["portNumber", "portRange", "namedPort"])?;
    let path = path.field(name);
    let protocol = |reader: &mut Reader, node: Option<&Node>| match node {
        None => Some(Protocol::Tcp),
        Some(node) => protocol_name(reader, node, &path.field("protocol")),
    };
    match name {
        "namedPort" => named(reader, given, &path),
        "portNumber" => {
            let ([kind, port], health) = strict::fields(reader, given, &path, ["protocol", "port"]);
            let protocol = protocol(reader, kind);
            let number_path = path.field("port");
            if port.is_none() && health == Health::Sound {
                let message = "the field is required but missing; write a number";
                reader.error(given.at, &number_path, message);
            }
            let number = strict::integer(reader, port?, &number_path, 1, u16::MAX)?;
            let protocol = protocol.filter(|_| health == Health::Sound)?;
            Some(Port::Range { protocol, first: number, last: number })
        }
        _ => {
            let ([kind, start, end], health) =
                strict::fields(reader, given, &path, ["protocol", "start", "end"]);
            let protocol = protocol(reader, kind);
            let read = range(reader, given, &path, protocol?, (start, end));
            read.filter(|_| health == Health::Sound)
        }
    }
}

fn named(reader: &mut Reader, node: &Node, path: &Path) -> Option<Port> {
    let text = strict::string(reader, node, path)?;
    if !is_port_name(text) {
        let message = format!(
            "`{}` is not a valid port name; use at most 15 of a-z, 0-9 and single `-`, with at \
             least one letter and no `-` first or last",
            excerpt(text)
        );
        reader.error(node.at, path, message);
        return None;
    }
    Some(Port::Name(reader.interner.string(text)))
}

/// A range of ports, both ends included.
fn range(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    protocol: Protocol,
    ends: (Option<&Node>, Option<&Node>),
) -> Option<Port> {
    let mut end = |given: Option<&Node>, field: &str| {
        let path = path.field(field);
        match given {
            Some(given) => strict::integer(reader, given, &path, 1, u16::MAX),
            None => {
                reader.error(node.at, &path, "the field is required but missing; write a number");
                None
            }
        }
    };
    let (first, last) = (end(ends.0, "start"), end(ends.1, "end"));
    let (first, last) = (first?, last?);
    if first >= last {
        let message =
            format!("start {first} is not less than end {last}; for one port write its number");
        reader.error(node.at, path, message);
        return None;
    }
    Some(Port::Range { protocol, first, last })
}
