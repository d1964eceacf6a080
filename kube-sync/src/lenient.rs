//! Reads Pods, Namespaces and Nodes from trees: only what policy needs; anything else may be there.
//! A part that cannot be read is reported and left out, and the object stays, because a pod that is
//! not known is a pod that is not isolated. `typed` does the same faster for objects without
//! mistakes.

use std::{net::IpAddr, sync::Arc};

use netpolc_policy::{
    ContainerPort, Labels, Node as ClusterNode, ObjectKey, Phase, Pod, PodNetwork, Protocol,
};

use crate::{
    groups, owner,
    problem::{Path, excerpt},
    source::Reader,
    strict,
    tree::{Node, Value},
};

/// Reads the pod `key` from its tree, which is a Pod or the template of one; it stands at `root` in
/// its object.
pub(crate) fn pod(reader: &mut Reader, key: ObjectKey, object: &Node, root: &Path) -> Pod {
    let metadata = object.get("metadata");
    let labels = labels(reader, metadata, root, None);
    let uid = metadata.and_then(|m| m.text("uid")).map(Arc::from);
    let hash = labels.get(owner::HASH);
    let reference = owner::reference(metadata);
    let owner = reference.and_then(|found| owner::of(reader.interner, found, hash));
    let spec_path = root.field("spec");
    let spec = map(reader, object.get("spec"), &spec_path);
    let node = text(reader, spec, &spec_path, "nodeName").filter(|name| !name.is_empty());
    let node = node.map(|name| reader.interner.string(name));
    // `serviceAccount` is the field's old name, which API servers still fill in.
    let mut account = |field| text(reader, spec, &spec_path, field).filter(|name| !name.is_empty());
    let account = account("serviceAccountName").or_else(|| account("serviceAccount"));
    let account = reader.interner.string(account.unwrap_or(groups::pod::ACCOUNT));
    let network = match spec.and_then(|s| s.get("hostNetwork")) {
        None => PodNetwork::Own,
        Some(Node { value: Value::Bool(host), .. }) => {
            if *host {
                PodNetwork::Host
            } else {
                PodNetwork::Own
            }
        }
        Some(other) => {
            // An unreadable value counts as false: then policies isolate the pod.
            strict::wrong_type(reader, other, &spec_path.field("hostNetwork"), "a boolean");
            PodNetwork::Own
        }
    };
    let mut ports = Vec::new();
    for field in ["containers", "initContainers"] {
        let path = spec_path.field(field);
        let containers =
            strict::list(reader, spec.and_then(|s| s.get(field)), &path).unwrap_or_default();
        for (index, container) in containers.iter().enumerate() {
            let Some(container) = map(reader, Some(container), &path.index(index)) else {
                continue;
            };
            // S30: all other init containers have ended before the pod serves.
            let keeps_running =
                container.get("restartPolicy").and_then(Node::as_str) == Some("Always");
            if field == "containers" || keeps_running {
                container_ports(reader, container, &path.index(index), &mut ports);
            }
        }
    }
    let status_path = root.field("status");
    let status = map(reader, object.get("status"), &status_path);
    let phase = match text(reader, status, &status_path, "phase") {
        Some("Succeeded" | "Failed") => Phase::Finished,
        _ => Phase::Active,
    };
    Pod {
        key,
        uid,
        node,
        labels,
        addresses: pod_addresses(reader, status, &status_path),
        network,
        phase,
        ports,
        grouping: groups::pod::grouping(reader, object, root, account),
        owner,
    }
}

fn pod_addresses(reader: &mut Reader, status: Option<&Node>, path: &Path) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let list_path = path.field("podIPs");
    let list =
        strict::list(reader, status.and_then(|s| s.get("podIPs")), &list_path).unwrap_or_default();
    for (index, item) in list.iter().enumerate() {
        let item_path = list_path.index(index);
        let ip = required(reader, item, &item_path, "ip");
        address(reader, ip, &item_path.field("ip"), &mut addresses);
    }
    address(reader, status.and_then(|s| s.get("podIP")), &path.field("podIP"), &mut addresses);
    addresses
}

/// Reads the node's InternalIP and ExternalIP addresses; host names are ignored.
pub(crate) fn node(reader: &mut Reader, object: &Node) -> ClusterNode {
    let root = Path::Root;
    let status = root.field("status");
    let path = status.field("addresses");
    let list = map(reader, object.get("status"), &status).and_then(|s| s.get("addresses"));
    let list = strict::list(reader, list, &path).unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let item_path = path.index(index);
        let kind = required(reader, item, &item_path, "type").and_then(Node::as_str);
        if matches!(kind, Some("InternalIP" | "ExternalIP")) {
            let given = required(reader, item, &item_path, "address");
            address(reader, given, &item_path.field("address"), &mut addresses);
        }
    }
    let labels = labels(reader, object.get("metadata"), &root, None);
    ClusterNode { labels, addresses }
}

/// A field that every item of a list must have; None, with a report, where it is missing.
pub(crate) fn required<'n, 't>(
    reader: &mut Reader,
    item: &'n Node<'t>,
    path: &Path,
    field: &str,
) -> Option<&'n Node<'t>> {
    let found = map(reader, Some(item), path)?.get(field);
    if found.is_none() && item.get("").is_none() {
        reader.error(item.at, &path.field(field), "the field is required but missing");
    }
    found
}

/// Adds the address to `into` unless it is there. An empty text means that there is none.
pub(crate) fn address(
    reader: &mut Reader,
    node: Option<&Node>,
    path: &Path,
    into: &mut Vec<IpAddr>,
) {
    let Some(node) = node else { return };
    let Some(text) = strict::string(reader, node, path) else { return };
    match text.parse() {
        Ok(address) if !into.contains(&address) => into.push(address),
        Ok(_) => {}
        Err(_) if text.is_empty() => {}
        Err(_) => {
            // Tools that collect files for support redact addresses. That is not an error, but the
            // address is missing all the same.
            reader.damaged = true;
            reader.warning(
                node.at,
                path,
                format!("`{}` is not a valid IP address; it is ignored", excerpt(text)),
            );
        }
    }
}

fn container_ports(
    reader: &mut Reader,
    container: &Node,
    path: &Path,
    into: &mut Vec<ContainerPort>,
) {
    let path = path.field("ports");
    let ports = strict::list(reader, container.get("ports"), &path).unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let number_path = path.field("containerPort");
        let Some(number) = required(reader, port, &path, "containerPort") else { continue };
        let Some(number) = strict::integer(reader, number, &number_path, 1, u16::MAX) else {
            continue;
        };
        let Some(protocol) = protocol(reader, port, &path) else { continue };
        let name = text(reader, Some(port), &path, "name").filter(|name| !name.is_empty());
        let name = name.map(|name| reader.interner.string(name));
        // An unset port is sometimes written as 0.
        let host_port = port.get("hostPort").and_then(|node| {
            strict::integer(reader, node, &path.field("hostPort"), 0, u16::MAX)
                .filter(|number| *number != 0)
        });
        into.push(ContainerPort { name, protocol, number, host_port });
    }
}

/// A port's protocol; None, with a report, where it cannot be read: then the port is ignored.
pub(crate) fn protocol(reader: &mut Reader, port: &Node, path: &Path) -> Option<Protocol> {
    let name = match text(reader, Some(port), path, "protocol") {
        None | Some("") => return Some(Protocol::Tcp),
        Some(name) => name,
    };
    let found = Protocol::ALL.into_iter().find(|p| p.to_string() == name);
    if found.is_none() {
        let message =
            format!("`{}` is not one of TCP, UDP and SCTP; the port is ignored", excerpt(name));
        reader.warning(port.at, &path.field("protocol"), message);
    }
    found
}

/// Reads metadata.labels of what stands at `root`, and adds `extra`. A number or a boolean counts
/// as the text that was written: without the label, a policy might no longer select the pod.
pub(crate) fn labels(
    reader: &mut Reader,
    metadata: Option<&Node>,
    root: &Path,
    extra: Option<(&str, &str)>,
) -> Labels {
    let metadata_path = root.field("metadata");
    let path = metadata_path.field("labels");
    match map(reader, metadata.and_then(|m| m.get("labels")), &path) {
        Some(node) => pairs(reader, node, &path, extra),
        None => reader.interner.labels(extra),
    }
}

/// The word at an offset, as it is written: YAML knows several for each boolean.
fn written(source: &[u8], at: u32) -> &str {
    let rest = source.get(at as usize..).unwrap_or_default();
    let end = rest.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(rest.len());
    std::str::from_utf8(&rest[..end]).unwrap_or_default()
}

/// Reads a map from labels to values, and adds `extra`.
pub(crate) fn pairs(
    reader: &mut Reader,
    node: &Node,
    path: &Path,
    extra: Option<(&str, &str)>,
) -> Labels {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    if let Value::Map(fields) = &node.value {
        for field in fields {
            let value = match &field.node.value {
                Value::String(text) => text,
                Value::Null => "",
                other => {
                    let taken = match other {
                        Value::Number(text) => text,
                        Value::Bool(_) => written(reader.source.text, field.node.at),
                        _ => {
                            strict::wrong_type(
                                reader,
                                &field.node,
                                &path.field(&field.name),
                                "a string",
                            );
                            continue;
                        }
                    };
                    strict::wrong_type(reader, &field.node, &path.field(&field.name), "a string");
                    taken
                }
            };
            pairs.push((&field.name, value));
        }
    }
    pairs.extend(extra);
    reader.interner.labels(pairs)
}

pub(crate) fn map<'n, 't>(
    reader: &mut Reader,
    node: Option<&'n Node<'t>>,
    path: &Path,
) -> Option<&'n Node<'t>> {
    let node = node?;
    if !matches!(node.value, Value::Map(_)) {
        strict::wrong_type(reader, node, path, "an object");
        return None;
    }
    Some(node)
}

pub(crate) fn text<'n>(
    reader: &mut Reader,
    parent: Option<&'n Node>,
    path: &Path,
    field: &str,
) -> Option<&'n str> {
    let node = parent?.get(field)?;
    strict::string(reader, node, &path.field(field))
}
