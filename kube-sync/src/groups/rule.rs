//! Reads the rules of security groups, as the EC2 API and the AWS Controllers for Kubernetes write
//! them: with the same parts under other names. A rule only permits, so what is broken of it is
//! reported and left out (S77). Fields that are not known may be there: the cloud adds some.
//!
//! Source: the shapes IpPermission and SecurityGroupRule of the EC2 API, 2016-11-15.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netpolc_policy::{GroupPeer, GroupRule, IcmpVersion, IpFamily, Protocol, Traffic};

use super::pod::is_id;
use crate::{
    cidr::network,
    lenient::map,
    problem::{Path, excerpt},
    repeated,
    source::Reader,
    strict,
    tree::{Node, Value},
};

/// How an API names the parts of a rule: of lists the field, and the field in an item.
pub(super) struct Names {
    pub protocol: &'static str,
    pub first: &'static str,
    pub last: &'static str,
    pub v4: (&'static str, &'static str),
    pub v6: (&'static str, &'static str),
    pub lists: (&'static str, &'static str),
    pub groups: (&'static str, &'static str),
}

/// The names of EC2, in the output of `aws ec2`.
pub(super) const EC2: Names = Names {
    protocol: "IpProtocol",
    first: "FromPort",
    last: "ToPort",
    v4: ("IpRanges", "CidrIp"),
    v6: ("Ipv6Ranges", "CidrIpv6"),
    lists: ("PrefixListIds", "PrefixListId"),
    groups: ("UserIdGroupPairs", "GroupId"),
};

/// The names of the AWS Controllers for Kubernetes.
pub(super) const ACK: Names = Names {
    protocol: "ipProtocol",
    first: "fromPort",
    last: "toPort",
    v4: ("ipRanges", "cidrIP"),
    v6: ("ipv6Ranges", "cidrIPv6"),
    lists: ("prefixListIDs", "prefixListID"),
    groups: ("userIDGroupPairs", "groupID"),
};

/// The rules in a list of permissions, in order; a broken one is left out.
pub(super) fn permissions(
    reader: &mut Reader,
    list: Option<&Node>,
    path: &Path,
    names: &Names,
) -> Vec<GroupRule> {
    let items = strict::list(reader, list, path).unwrap_or_default();
    let each = |(index, item)| permission(reader, item, &path.index(index), names);
    items.iter().enumerate().filter_map(each).collect()
}

fn permission(reader: &mut Reader, node: &Node, path: &Path, names: &Names) -> Option<GroupRule> {
    let node = map(reader, Some(node), path)?;
    let traffic = traffic(reader, node, path, names);
    let mut peers = Vec::new();
    for (list, field) in [names.v4, names.v6, names.lists, names.groups] {
        let list_path = path.field(list);
        let items = strict::list(reader, node.get(list), &list_path).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let item_path = list_path.index(index);
            let Some(item) = map(reader, Some(item), &item_path) else { continue };
            if list == names.groups.0 && stale(reader, item, &item_path, "PeeringStatus") {
                continue;
            }
            let Some(given) = item.get(field) else {
                let message = "the field is missing, so this peer matches nothing; write it";
                reader.error(item.at, &item_path.field(field), message);
                continue;
            };
            let path = item_path.field(field);
            let peer = if list == names.lists.0 {
                id(reader, given, &path).map(|id| GroupPeer::PrefixList(id.into()))
            } else if list == names.groups.0 {
                id(reader, given, &path).map(|id| GroupPeer::Group(id.into()))
            } else {
                let of = if list == names.v4.0 { IpFamily::V4 } else { IpFamily::V6 };
                family(reader, given, &path, of).map(GroupPeer::Network)
            };
            peers.extend(peer);
        }
    }
    Some(GroupRule { id: None, traffic: traffic?, peers })
}

/// Whether a reference to a group leads over a peering that is no more: it matches nothing.
pub(super) fn stale(reader: &mut Reader, item: &Node, path: &Path, field: &str) -> bool {
    let Some(status) = item.text(field).filter(|status| *status != "active") else { return false };
    let message =
        format!("the peering is `{}`, so the group behind it matches nothing", excerpt(status));
    reader.warning(item.at, &path.field(field), message);
    true
}

/// Reads a CIDR of one family.
pub(super) fn family(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    family: IpFamily,
) -> Option<IpNetwork> {
    let read = network(reader, node, path)?;
    if IpFamily::of(read.ip()) != family {
        let message = format!("{read} is of the other family; put it into the list for that");
        reader.error(node.at, path, message);
        return None;
    }
    Some(read)
}

/// Reads an id of the cloud.
pub(super) fn id(reader: &mut Reader, node: &Node, path: &Path) -> Option<std::sync::Arc<str>> {
    let text = strict::string(reader, node, path)?;
    if !is_id(text) {
        reader.error(node.at, path, format!("`{}` is not an id", excerpt(text)));
        return None;
    }
    Some(reader.interner.string(text))
}

/// Reads an address as the network of it alone.
pub(super) fn address(reader: &mut Reader, node: &Node, path: &Path) -> Option<IpNetwork> {
    let text = strict::string(reader, node, path)?;
    let read = text.parse::<IpAddr>().ok().map(IpNetwork::from);
    if read.is_none() {
        let message = format!("`{}` is not a valid IP address; it is ignored", excerpt(text));
        reader.error(node.at, path, message);
    }
    read
}

/// Reads protocol and ports; None, with a report, where they cannot be understood.
pub(super) fn traffic(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    names: &Names,
) -> Option<Traffic> {
    let protocol_path = path.field(names.protocol);
    let Some(protocol) = node.get(names.protocol) else {
        let message = "the field is required but missing; write -1 for every protocol";
        reader.error(node.at, &protocol_path, message);
        return None;
    };
    // What is given twice has been reported. Either may be meant, and a rule only permits.
    if is_repeated(node, &[names.protocol, names.first, names.last]) {
        return None;
    }
    // A number is written in quotes by the API, and by hand often without.
    let text = match &protocol.value {
        Value::Number(text) => text,
        _ => strict::string(reader, protocol, &protocol_path)?,
    };
    match text.to_ascii_lowercase().as_str() {
        "-1" => Some(Traffic::Everything),
        "tcp" | "6" => ports(reader, node, path, names, Protocol::Tcp),
        "udp" | "17" => ports(reader, node, path, names, Protocol::Udp),
        "icmp" | "1" => icmp(reader, node, path, names, IcmpVersion::V4),
        "icmpv6" | "58" => icmp(reader, node, path, names, IcmpVersion::V6),
        other => {
            // As numbers are written and not otherwise: `06` would be all of TCP.
            let number = other.parse::<u8>().ok().filter(|number| number.to_string() == other);
            if number.is_none() {
                let message = format!(
                    "`{}` is not a protocol; write tcp, udp, icmp, icmpv6, -1 or a number from 0 \
                     to 255",
                    excerpt(text)
                );
                reader.error(protocol.at, &protocol_path, message);
            }
            number.map(Traffic::Protocol)
        }
    }
}

/// Does one of these fields occur twice?
fn is_repeated(node: &Node, names: &[&str]) -> bool {
    let Value::Map(fields) = &node.value else { return false };
    repeated::of(fields).iter().any(|&(index, _)| names.contains(&&*fields[index].name))
}

fn ports(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    names: &Names,
    protocol: Protocol,
) -> Option<Traffic> {
    let mut end = |field: &str| match node.get(field) {
        Some(given) => number(reader, given, &path.field(field), 0, u16::MAX.into()),
        None => {
            let message = "the field is required but missing; write 0 to 65535 for every port";
            reader.error(node.at, &path.field(field), message);
            None
        }
    };
    let (first, last) = (end(names.first), end(names.last));
    let (first, last) = (u16::try_from(first?).ok()?, u16::try_from(last?).ok()?);
    if last < first {
        let message = format!("{last} is less than {} {first}", names.first);
        reader.error(node.at, &path.field(names.last), message);
        return None;
    }
    Some(Traffic::Ports { protocol, first, last })
}

/// Type and code of ICMP; -1 is any.
fn icmp(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    names: &Names,
    version: IcmpVersion,
) -> Option<Traffic> {
    // Of ICMPv6 the API itself may leave out both.
    let is_any = version == IcmpVersion::V6
        && [names.first, names.last].iter().all(|field| node.get(field).is_none());
    let mut part = |field: &str| match node.get(field) {
        None if is_any => Some(-1),
        Some(given) => number(reader, given, &path.field(field), -1, u8::MAX.into()),
        None => {
            let message = "the field is required but missing; write -1 for every type and code";
            reader.error(node.at, &path.field(field), message);
            None
        }
    };
    let (kind, code) = (part(names.first), part(names.last));
    let (kind, code) = (u8::try_from(kind?).ok(), u8::try_from(code?).ok());
    if kind.is_none() && code.is_some() {
        let message = "a code needs a type; write -1 for every code";
        reader.error(node.at, &path.field(names.last), message);
        return None;
    }
    Some(Traffic::Icmp { version, kind, code })
}

/// An integer from `least` to `greatest`; None, with a report, otherwise.
fn number(reader: &mut Reader, node: &Node, path: &Path, least: i32, greatest: i32) -> Option<i32> {
    let Value::Number(text) = &node.value else {
        strict::wrong_type(reader, node, path, "a number");
        return None;
    };
    let read = text.parse().ok().filter(|number| (least..=greatest).contains(number));
    if read.is_none() {
        let message = format!("{} is not an integer from {least} to {greatest}", excerpt(text));
        reader.error(node.at, path, message);
    }
    read
}
