//! Reads the unchanged output of `aws ec2 describe-security-groups`,
//! `describe-security-group-rules`, `describe-network-interfaces`,
//! `get-managed-prefix-list-entries`, `describe-managed-prefix-lists` and `describe-prefix-lists`.
//! Such a document has no kind: it is recognized by its top-level field.
//!
//! Fields that are not known may be there. What is broken is reported and left out: it permits
//! nothing, and belongs to no group. Source: the model of the EC2 API, 2016-11-15.

use std::{path::Path as FilePath, sync::Arc};

use netpolc_policy::{
    Direction, GroupPeer, GroupRule, IpFamily, NetworkInterface, PrefixListId, SecurityGroup,
    SecurityGroupId, Traffic,
};

use super::{
    rule::{EC2, address, family, id, permissions, stale, traffic},
    unreadable,
};
use crate::{
    Object,
    cidr::network,
    lenient::map,
    object::{Sink, unknown_field},
    problem::Path,
    source::Reader,
    strict,
    tree::{Node, Value},
};

/// The top-level fields by which a document is recognized.
const TOP: [&str; 5] =
    ["SecurityGroups", "SecurityGroupRules", "NetworkInterfaces", "PrefixLists", "Entries"];
/// What may stand beside them.
const BESIDE: [&str; 3] = ["NextToken", "PrefixListId", "ResponseMetadata"];

/// Whether a document without a kind is an output of the EC2 API.
pub(crate) fn is_output(document: &Node) -> bool {
    TOP.iter().any(|name| matches!(document.get(name), Some(Node { value: Value::List(_), .. })))
}

/// Hands every object in the output to `sink`.
pub(crate) fn output(reader: &mut Reader, document: &Node, sink: &mut Sink) {
    let Value::Map(fields) = &document.value else { return };
    let known = [&TOP[..], &BESIDE].concat();
    for field in fields.iter().filter(|f| !f.name.is_empty() && !known.contains(&&*f.name)) {
        unknown_field(reader, field, &Path::Root, &known);
    }
    if let Some(more) = document.get("NextToken") {
        let message = "the output is only a page, and the rest is not in this document; give the \
            other pages too, or call aws without --no-paginate and --max-items";
        reader.warning(more.at, &Path::Root.field("NextToken"), message);
    }
    for name in TOP {
        let path = Path::Root.field(name);
        let Some(node) = document.get(name) else { continue };
        if name == "Entries" {
            entries(reader, document, node, sink);
            continue;
        }
        let Some(items) = strict::list(reader, Some(node), &path) else {
            reader.lost = true;
            continue;
        };
        for (index, item) in items.iter().enumerate() {
            reader.leave();
            reader.damaged = false;
            reader.source.advance(item.at as usize);
            let Some(item) = map(reader, Some(item), &path.index(index)) else {
                reader.lost = true;
                continue;
            };
            let read = match name {
                "SecurityGroups" => group(reader, item),
                "SecurityGroupRules" => single_rule(reader, item),
                "NetworkInterfaces" => interface(reader, item),
                // Only the lists of AWS's own services have their entries here.
                _ if item.get("Cidrs").is_none() => continue,
                _ => service_list(reader, item),
            };
            if let Some(object) = read {
                reader.gather_lines(item);
                sink(reader, object, item.at);
            }
            reader.leave();
        }
    }
}

/// The id of an item, which the problems that follow are attributed to; None, with a report, where
/// it cannot be told: then the item is lost.
fn identity(reader: &mut Reader, item: &Node, kind: &str, field: &str) -> Option<Arc<str>> {
    let shown = item.text(field).unwrap_or_default().to_owned();
    reader.enter(kind, &crate::problem::excerpt(&shown));
    let path = Path::Root.field(field);
    let found = match item.get(field) {
        Some(node) => id(reader, node, &path),
        None => {
            reader.error(item.at, &path, "the field is required but missing");
            None
        }
    };
    reader.lost |= found.is_none();
    found
}

fn group(reader: &mut Reader, item: &Node) -> Option<Object> {
    let id = identity(reader, item, "SecurityGroup", "GroupId")?;
    let name = item.text("GroupName").map(|name| reader.interner.string(name));
    let mut rules =
        |field: &str| permissions(reader, item.get(field), &Path::Root.field(field), &EC2);
    let (ingress, egress) = (rules("IpPermissions"), rules("IpPermissionsEgress"));
    Some(Object::Group(id.into(), SecurityGroup { name, ingress, egress }))
}

/// Reads a rule of its own, with one peer. A broken one permits nothing, and is there all the same:
/// of a group with single rules these count, and not what its description permits (S79). Where it
/// cannot be told which group it belongs to, it is lost.
fn single_rule(reader: &mut Reader, item: &Node) -> Option<Object> {
    let rule_id = identity(reader, item, "SecurityGroupRule", "SecurityGroupRuleId");
    let path = Path::Root.field("GroupId");
    let group = match item.get("GroupId") {
        Some(node) => id(reader, node, &path),
        None => {
            reader.error(item.at, &path, "the field is required but missing");
            None
        }
    };
    reader.lost |= group.is_none();
    let group: SecurityGroupId = group?.into();
    let (direction, traffic, peers) = match direction_of(reader, item) {
        None => (Direction::Ingress, Traffic::Everything, Vec::new()),
        Some(direction) => match single_permission(reader, item) {
            Some((traffic, peer)) => (direction, traffic, vec![peer]),
            None => (direction, Traffic::Everything, Vec::new()),
        },
    };
    // Without its id it cannot be told from others: then it is closed, too.
    let (id, peers) = match rule_id {
        Some(id) => (id, peers),
        None => (unreadable().as_str().into(), Vec::new()),
    };
    Some(Object::GroupRule { group, direction, rule: GroupRule { id: Some(id), traffic, peers } })
}

fn direction_of(reader: &mut Reader, item: &Node) -> Option<Direction> {
    let path = Path::Root.field("IsEgress");
    match item.get("IsEgress") {
        Some(Node { value: Value::Bool(true), .. }) => Some(Direction::Egress),
        Some(Node { value: Value::Bool(false), .. }) => Some(Direction::Ingress),
        Some(other) => {
            strict::wrong_type(reader, other, &path, "a boolean");
            None
        }
        None => {
            reader.error(item.at, &path, "the field is required but missing");
            None
        }
    }
}

/// What a rule of its own permits, and to whom.
fn single_permission(reader: &mut Reader, item: &Node) -> Option<(Traffic, GroupPeer)> {
    let root = Path::Root;
    let traffic = traffic(reader, item, &root, &EC2)?;
    let fields = ["CidrIpv4", "CidrIpv6", "PrefixListId", "ReferencedGroupInfo"];
    let given: Vec<(&str, &Node)> =
        fields.into_iter().filter_map(|field| Some((field, item.get(field)?))).collect();
    let [(field, node)] = given[..] else {
        let message = format!("exactly one of {} must be given", fields.join(", "));
        reader.error(item.at, &root, message);
        return None;
    };
    let path = root.field(field);
    let peer = match field {
        "CidrIpv4" => GroupPeer::Network(family(reader, node, &path, IpFamily::V4)?),
        "CidrIpv6" => GroupPeer::Network(family(reader, node, &path, IpFamily::V6)?),
        "PrefixListId" => GroupPeer::PrefixList(id(reader, node, &path)?.into()),
        _ => {
            let info = map(reader, Some(node), &path)?;
            let stale = stale(reader, info, &path, "PeeringStatus");
            let Some(other) = info.get("GroupId").filter(|_| !stale) else {
                if !stale {
                    let message = "the field is required but missing";
                    reader.error(info.at, &path.field("GroupId"), message);
                }
                return None;
            };
            GroupPeer::Group(id(reader, other, &path.field("GroupId"))?.into())
        }
    };
    Some((traffic, peer))
}

fn interface(reader: &mut Reader, item: &Node) -> Option<Object> {
    let id = identity(reader, item, "NetworkInterface", "NetworkInterfaceId")?;
    let root = Path::Root;
    let mut addresses = Vec::new();
    let mut add = |read: Option<ipnetwork::IpNetwork>| {
        addresses.extend(read.filter(|read| !addresses.contains(read)));
    };
    let field = "PrivateIpAddress";
    if let Some(node) = item.get(field) {
        add(address(reader, node, &root.field(field)));
    }
    for (list, field) in [
        ("PrivateIpAddresses", "PrivateIpAddress"),
        ("Ipv6Addresses", "Ipv6Address"),
        ("Ipv4Prefixes", "Ipv4Prefix"),
        ("Ipv6Prefixes", "Ipv6Prefix"),
    ] {
        let path = root.field(list);
        let items = strict::list(reader, item.get(list), &path).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            let Some(node) = crate::lenient::required(reader, item, &path, field) else { continue };
            let path = path.field(field);
            add(match field {
                "Ipv4Prefix" => family(reader, node, &path, IpFamily::V4),
                "Ipv6Prefix" => family(reader, node, &path, IpFamily::V6),
                _ => address(reader, node, &path),
            });
        }
    }
    let path = root.field("Groups");
    let mut groups: Vec<SecurityGroupId> = Vec::new();
    // Without its groups an interface would not be policed, so an unreadable one counts as one that
    // permits nothing.
    let items = strict::list(reader, item.get("Groups"), &path);
    let mut broken = items.is_none();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let node = crate::lenient::required(reader, item, &path, "GroupId");
        match node.and_then(|node| super::rule::id(reader, node, &path.field("GroupId"))) {
            Some(id) => groups.push(id.into()),
            None => broken = true,
        }
    }
    if broken {
        groups.push(unreadable());
    }
    Some(Object::Interface(id.into(), NetworkInterface { addresses, groups }))
}

fn service_list(reader: &mut Reader, item: &Node) -> Option<Object> {
    let id = identity(reader, item, "PrefixList", "PrefixListId")?;
    let path = Path::Root.field("Cidrs");
    let items = strict::list(reader, item.get("Cidrs"), &path).unwrap_or_default();
    let each = |(index, item)| network(reader, item, &path.index(index));
    let networks = items.iter().enumerate().filter_map(each).collect();
    Some(Object::PrefixList(id.into(), networks))
}

/// Reads the entries of a managed list. They do not say which list it is, so its id stands beside
/// them, where somebody has put it, or in the name of the file.
fn entries(reader: &mut Reader, document: &Node, list: &Node, sink: &mut Sink) {
    reader.leave();
    reader.damaged = false;
    let path = Path::Root.field("Entries");
    let beside = document.get("PrefixListId");
    let id: Option<PrefixListId> = match beside {
        Some(node) => id(reader, node, &Path::Root.field("PrefixListId")).map(Into::into),
        None => of_file_name(&reader.source.name).map(Into::into),
    };
    let (Some(id), Some(items)) = (id, strict::list(reader, Some(list), &path)) else {
        reader.lost = true;
        if beside.is_none() {
            let message = "it is not said of which prefix list these are the entries; name the \
                file after it (pl-0a1b.json), or write `PrefixListId` beside `Entries`";
            reader.error(list.at, &path, message);
        }
        return;
    };
    reader.enter("PrefixList", id.as_str());
    let mut networks = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(node) = crate::lenient::required(reader, item, &path, "Cidr") else { continue };
        networks.extend(network(reader, node, &path.field("Cidr")));
    }
    reader.gather_lines(document);
    sink(reader, Object::PrefixList(id, networks), document.at);
}

/// The id of a prefix list at the beginning of a file's name.
fn of_file_name(name: &str) -> Option<Arc<str>> {
    let stem = FilePath::new(name).file_stem()?.to_str()?;
    let digits = stem.strip_prefix("pl-")?;
    let length = digits.bytes().take_while(u8::is_ascii_alphanumeric).count();
    (length > 0).then(|| stem[..3 + length].into())
}
