//! One Kubernetes object, or a list of them, out of a tree: which kind it is, its name, and on to the
//! converter. Other kinds are ignored.

use std::sync::Arc;

use netpolc_policy::{Labels, Node as ClusterNode, ObjectKey, Pod, Policy, Service};

use crate::{
    lenient, policy,
    problem::{Path, excerpt},
    selector::is_dns_subdomain,
    service,
    source::Reader,
    strict,
    tree::{Node, Value},
};

/// A converted object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Namespace: its name and labels, `kubernetes.io/metadata.name` included.
    Namespace(Arc<str>, Labels),
    /// A Pod.
    Pod(Pod),
    /// A NetworkPolicy.
    Policy(Policy),
    /// A Node: its name and addresses.
    Node(Arc<str>, ClusterNode),
    /// A Service.
    Service(ObjectKey, Service),
}

/// Takes the objects in the order in which they are found, each with its position.
pub(crate) type Sink<'s> = dyn FnMut(&mut Reader, Object, u32) + 's;

/// The label that the API server sets on every namespace (NamespaceDefaultLabelName). Offline input
/// has seen no API server.
pub(crate) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// kind and apiVersion of the items of a typed list, whose items carry none.
#[derive(Clone, Copy)]
pub(crate) struct ItemType<'t> {
    pub kind: &'t str,
    pub api_version: Option<&'t str>,
}

/// What is done with an object of some kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Namespace,
    Pod,
    Policy,
    Node,
    Service,
    List,
    Ignored,
}

/// The kind that `kind` and `apiVersion` name, and what is wrong with them.
pub(crate) fn classify(kind: &str, api_version: Option<&str>) -> (Kind, Option<String>) {
    let core = |known| if matches!(api_version, None | Some("v1")) { (known, None) } else { (Kind::Ignored, None) };
    match kind {
        "NetworkPolicy" => match api_version {
            Some("networking.k8s.io/v1") => (Kind::Policy, None),
            None => (Kind::Policy, Some("no apiVersion; write networking.k8s.io/v1".into())),
            Some(version @ ("extensions/v1beta1" | "networking.k8s.io/v1beta1")) => {
                (Kind::Policy, Some(format!("{version} is read as networking.k8s.io/v1; write that")))
            }
            Some(version) => {
                let message = format!("ignored: {} is another kind than networking.k8s.io/v1", excerpt(version));
                (Kind::Ignored, Some(message))
            }
        },
        "Pod" => core(Kind::Pod),
        "Namespace" => core(Kind::Namespace),
        "Node" => core(Kind::Node),
        "Service" => core(Kind::Service),
        _ if kind.ends_with("List") => (Kind::List, None),
        _ if strict::distance(kind, "NetworkPolicy") <= 2 => {
            (Kind::Ignored, Some(format!("ignored: unknown kind {}; did you mean NetworkPolicy?", excerpt(kind))))
        }
        _ => (Kind::Ignored, None),
    }
}

/// Lists may stand in lists, within reason.
const MAX_LIST_DEPTH: usize = 4;

/// Hands the object at `node`, or each item of the list that it is, to `sink`.
pub(crate) fn object(reader: &mut Reader, node: &Node, item_type: Option<ItemType>, depth: usize, sink: &mut Sink) {
    reader.leave();
    reader.source.advance(node.at as usize);
    let cut_short = node.get("").is_some();
    reader.lost |= cut_short;
    let path = Path::Root;
    if !matches!(node.value, Value::Map(_)) {
        strict::wrong_type(reader, node, &path, "a Kubernetes object");
        return;
    }
    let text = |name| node.get(name).and_then(Node::as_str);
    let Some(kind) = text("kind").or(item_type.map(|t| t.kind)) else {
        if !cut_short {
            reader.error(node.at, &path.field("kind"), "missing: this is no Kubernetes object, and it is ignored");
        }
        return;
    };
    let api_version = text("apiVersion").or(item_type.and_then(|t| t.api_version));
    let (known, complaint) = classify(kind, api_version);
    if let Some(complaint) = complaint {
        reader.enter(kind, &display_name(node));
        if known == Kind::Policy && api_version.is_none() && !cut_short {
            reader.error(node.at, &path.field("apiVersion"), complaint);
        } else if known == Kind::Ignored && kind != "NetworkPolicy" {
            reader.error(node.at, &path.field("kind"), complaint);
        } else {
            reader.warning(node.at, &path.field("apiVersion"), complaint);
        }
    }
    match known {
        Kind::Ignored => {}
        Kind::List => {
            let items_path = path.field("items");
            let Some(items) = strict::list(reader, node.get("items"), &items_path) else {
                reader.lost = true;
                return;
            };
            if depth >= MAX_LIST_DEPTH {
                reader.lost = true;
                reader.error(node.at, &items_path, "too many lists within lists; put the objects into one");
                return;
            }
            let item_type = item_type_of(kind, api_version);
            for item in items.iter().filter(|item| item.value != Value::Broken) {
                object(reader, item, item_type, depth + 1, sink);
            }
        }
        // What is missing of these could be what matters; only a policy isolates by what is left.
        Kind::Pod | Kind::Namespace | Kind::Node | Kind::Service if cut_short => {}
        Kind::Pod | Kind::Namespace | Kind::Node | Kind::Service | Kind::Policy => {
            let found = single(reader, node, known, kind);
            match found {
                Some(found) => sink(reader, found, node.at),
                None => reader.lost |= known == Kind::Policy,
            }
        }
    }
    reader.leave();
}

/// The items of a `PodList` are Pods; those of a `List` say what they are.
pub(crate) fn item_type_of<'t>(list_kind: &'t str, api_version: Option<&'t str>) -> Option<ItemType<'t>> {
    let kind = list_kind.strip_suffix("List").filter(|kind| !kind.is_empty())?;
    Some(ItemType { kind, api_version })
}

/// What to call the object in messages.
pub(crate) fn display_name(node: &Node) -> String {
    let metadata = node.get("metadata");
    let text = |name| metadata.and_then(|m| m.get(name)).and_then(Node::as_str);
    match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{}/{}", excerpt(namespace), excerpt(name)),
        (None, Some(name)) => excerpt(name),
        _ => String::new(),
    }
}

fn single(reader: &mut Reader, node: &Node, known: Kind, kind: &str) -> Option<Object> {
    reader.enter(kind, &display_name(node));
    let path = Path::Root.field("metadata");
    let metadata = node.get("metadata");
    let name = match metadata.and_then(|m| m.get("name")) {
        Some(name) => strict::string(reader, name, &path.field("name")).map(|text| (name.at, text)),
        None => None,
    };
    let name = match (name, known) {
        (Some((at, name)), _) => checked_name(reader, at, &path.field("name"), name),
        (None, Kind::Policy) => {
            // It isolates all the same, provided that its namespace can be told.
            let line = reader.source.line(node.at as usize);
            let name = format!("unnamed.line-{line}");
            let message = format!("missing or unreadable; give the policy a name (it is kept as {name})");
            reader.error(metadata.unwrap_or(node).at, &path.field("name"), message);
            name.into()
        }
        (None, _) => {
            reader.error(
                metadata.unwrap_or(node).at,
                &path.field("name"),
                "missing or unreadable; the object is ignored",
            );
            return None;
        }
    };
    if matches!(known, Kind::Namespace | Kind::Node) {
        return Some(match known {
            Kind::Node => Object::Node(name.clone(), lenient::node(reader, node)),
            _ => {
                let labels = lenient::labels(reader, metadata, Some((NAMESPACE_NAME_LABEL, &name)));
                Object::Namespace(name, labels)
            }
        });
    }
    let namespace = match metadata.and_then(|m| m.get("namespace")) {
        Some(node) => {
            let namespace_path = path.field("namespace");
            let text = strict::string(reader, node, &namespace_path)?;
            checked_name(reader, node.at, &namespace_path, text)
        }
        // A document that broke off may have had one further on.
        None if metadata.is_none_or(|m| !matches!(m.value, Value::Map(_)) || m.get("").is_some()) => {
            if node.get("").is_none() {
                reader.error(
                    node.at,
                    &path,
                    "missing or unreadable, so that the namespace is unknown; the object is ignored",
                );
            }
            return None;
        }
        None => reader.interner.string("default"),
    };
    let key = ObjectKey { namespace, name };
    reader.enter(kind, &key.to_string());
    Some(match known {
        Kind::Policy => Object::Policy(policy::policy(reader, key, node)),
        Kind::Service => Object::Service(key, service::service(reader, node)),
        _ => Object::Pod(lenient::pod(reader, key, node)),
    })
}

/// Names go into every later output; what the API server would not have let through is made legible.
fn checked_name(reader: &mut Reader, at: u32, path: &Path, name: &str) -> Arc<str> {
    if is_dns_subdomain(name) {
        return reader.interner.string(name);
    }
    let legible = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let kept: String = name.chars().take(253).map(legible).collect();
    let kept = if kept.is_empty() { "empty".to_owned() } else { kept };
    let message = format!("`{}` is no DNS name; the object is kept as {kept}", excerpt(name));
    reader.error(at, path, message);
    kept.into()
}
