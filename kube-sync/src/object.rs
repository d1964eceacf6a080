//! Reads one Kubernetes object, or a list of them, from a tree: finds its kind and passes it to the
//! converter of that kind. Whatever does not yield the objects that it holds is marked as lost and
//! reported; other kinds are ignored.
//!
//! Not here: kinds and versions (`kind`), names (`metadata`), which converter reads what
//! (`single`).

use std::{borrow::Cow, sync::Arc};

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Direction, GroupRule, InterfaceId, Labels, Namespace, NetworkInterface, Node as ClusterNode,
    ObjectKey, OwnerKind, Pod, Policy, PrefixListId, SecurityGroup, SecurityGroupId,
    SecurityGroupPolicy, Service, Staged, TierPolicy,
};

use crate::{
    groups,
    kind::{Kind, guess},
    metadata,
    problem::{Path, Severity, excerpt},
    repeated,
    single::{Single, single},
    slice,
    source::{Origin, Reader},
    strict,
    tier::Trust,
    tree::{Field, Node, Value},
    workload,
};

/// A converted object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Namespace: its name, and its labels with `kubernetes.io/metadata.name` included.
    Namespace(Arc<str>, Namespace),
    /// A Pod, which carries its key.
    Pod(Pod),
    /// A NetworkPolicy, which carries its key.
    Policy(Policy),
    /// A Node: its name and addresses.
    Node(Arc<str>, ClusterNode),
    /// A Service under its key.
    Service(ObjectKey, Service),
    /// A ClusterNetworkPolicy, which carries its key.
    Tier(TierPolicy),
    /// A StagedKubernetesNetworkPolicy: what would become of the NetworkPolicy of this key.
    Staged(ObjectKey, Staged),
    /// A SecurityGroupPolicy, which carries its key.
    GroupPolicy(SecurityGroupPolicy),
    /// A ServiceAccount: its key and labels.
    Account(ObjectKey, Labels),
    /// A security group with its rules.
    Group(SecurityGroupId, SecurityGroup),
    /// One rule of a security group, which has an id. Where a group has such rules, they count
    /// instead of those that its description has.
    GroupRule {
        /// The group that has the rule.
        group: SecurityGroupId,
        /// Whether it is about what comes to those who have the group, or what they send.
        direction: Direction,
        /// The rule, with its id.
        rule: GroupRule,
    },
    /// The entries of a prefix list.
    PrefixList(PrefixListId, Vec<IpNetwork>),
    /// A network interface of the cloud.
    Interface(InterfaceId, NetworkInterface),
}

/// Receives the objects in the order in which they are found, each with its offset in bytes.
pub(crate) type Sink<'s> = dyn FnMut(&mut Reader, Object, u32) + 's;

/// The label that the API server sets on every namespace (NamespaceDefaultLabelName). Files may
/// never have passed through an API server, so it is added here.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The kind and apiVersion of the items of a typed list (such as `PodList`), whose items carry
/// neither.
#[derive(Clone, Copy)]
pub(crate) struct ItemType<'t> {
    pub kind: &'t str,
    pub api_version: Option<&'t str>,
}

/// How deeply lists may be nested.
const MAX_LIST_DEPTH: usize = 4;

/// Hands the object at `node`, or each item of the list that it is, to `sink`.
pub(crate) fn object(
    reader: &mut Reader,
    node: &Node,
    item_type: Option<ItemType>,
    depth: usize,
    sink: &mut Sink,
) {
    reader.leave();
    reader.source.advance(node.at as usize);
    reader.lost |= node.get("").is_some();
    match &node.value {
        Value::Map(fields) => {
            let parts = parts(reader, node, fields);
            let whole = if parts.len() == 1 { Whole::Yes } else { Whole::Perhaps };
            for part in parts {
                one(reader, &part, whole, item_type, depth, sink);
                reader.leave();
            }
        }
        // kubectl ignores an empty document too.
        Value::Null => {}
        Value::List(items) if depth == 0 => {
            reader.lost = true;
            reader.error(
                node.at,
                &Path::Root,
                "this is a list, not an object; put `---` between objects, or make it a `kind: \
                List`",
            );
            items.iter().for_each(|item| object(reader, item, None, depth + 1, sink));
        }
        Value::String(text) if depth == 0 => {
            reader.lost = true;
            let start = excerpt(text.lines().next().unwrap_or_default());
            let message = what_it_is(text)
                .map_or_else(|| format!("this is text, not an object: `{start}`"), str::to_owned);
            reader.error(node.at, &Path::Root, message);
        }
        _ => {
            reader.lost = true;
            strict::wrong_type(reader, node, &Path::Root, "a Kubernetes object");
        }
    }
}

/// How much of a text is examined to tell what it is, in bytes.
const EXCERPT: usize = 200;

/// Recognises text that is often found where an object should be, and returns a message about it.
pub(crate) fn what_it_is(text: &str) -> Option<&'static str> {
    let text = text.trim_start();
    if text.starts_with("version https://git-lfs") {
        Some("this is a Git LFS pointer, not an object; fetch the file itself with `git lfs pull`")
    } else if text.starts_with('<') {
        Some("this is HTML or XML, not an object; it may be a server's error page")
    } else if text.starts_with("Error from server") || text.starts_with("error: ") {
        Some("this is an error message of kubectl, not an object")
    } else if text.starts_with("{{") {
        Some("this is a template, not an object; render it first (helm template)")
    } else {
        None
    }
}

/// The fields with which every object begins, in some order.
const HEADER: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The objects that a document holds. There is more than one where the separator between them was
/// lost, so that a field of the header comes a second time. Where every repeated field has the same
/// value, the document is one object with careless repetitions.
fn parts<'n, 't>(
    reader: &mut Reader,
    node: &'n Node<'t>,
    fields: &[Field<'t>],
) -> Vec<Cow<'n, Node<'t>>> {
    let repeated = repeated::of(fields);
    let header = |index: usize| HEADER.contains(&&*fields[index].name);
    let differs =
        |&(index, before): &(usize, usize)| !fields[before].node.same(&fields[index].node);
    if !repeated.iter().any(|&(index, _)| header(index)) || !repeated.iter().any(differs) {
        return vec![Cow::Borrowed(node)];
    }
    let mut starts = vec![0];
    for (index, before) in repeated {
        if header(index) && starts.last().is_some_and(|start| before >= *start) {
            starts.push(index);
            reader.lost = true;
            let message = "the field is given twice: are these two documents without `---` between \
                them? Each is read as one";
            reader.error(fields[index].at, &Path::Root.field(&fields[index].name), message);
        }
    }
    let ends = starts.iter().skip(1).copied().chain([fields.len()]);
    let part = |(start, end): (&usize, usize)| {
        let fields = fields[*start..end].to_vec();
        Cow::Owned(Node { at: fields.first().map_or(node.at, |f| f.at), value: Value::Map(fields) })
    };
    starts.iter().zip(ends).map(part).collect()
}

/// Whether it is known where an object begins and ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    /// The document was split by a guess, so a part of the object may have gone to another one.
    Perhaps,
}

/// Passes on one object, or the items of a list.
fn one(
    reader: &mut Reader,
    node: &Node,
    whole: Whole,
    item_type: Option<ItemType>,
    depth: usize,
    sink: &mut Sink,
) {
    let cut_short = node.get("").is_some();
    let kind = header(reader, node, "kind").or(item_type.map(|t| t.kind));
    if kind.is_none() && item_type.is_none() && groups::aws::is_output(node) {
        reader.leave();
        repeated::report(reader, node, &Path::Root);
        groups::aws::output(reader, node, sink);
        return;
    }
    let api_version = header(reader, node, "apiVersion").or(item_type.and_then(|t| t.api_version));
    let (mut known, complaint) =
        kind.map_or((Kind::Unknown, None), |kind| reader.classify(kind, api_version));
    reader.enter(kind.unwrap_or_default(), &metadata::display_name(node));
    if kind.is_none() {
        reader.leave();
        reader.lost = true;
        if !cut_short && node.get("kind").is_none() {
            // The parser places the beginning of a map at its first `:`, but the whole line tells
            // what the text is.
            let (before, after) =
                reader.source.text.split_at(reader.source.text.len().min(node.at as usize));
            let before = before.rsplit(|b| *b == b'\n').next().unwrap_or_default();
            let start = [before, &after[..after.len().min(EXCERPT)]].concat();
            let known = what_it_is(&String::from_utf8_lossy(&start)).filter(|_| depth == 0);
            let message = known.unwrap_or(match guess(node) {
                Some(Kind::Policy) => {
                    "the field is missing; the object is read as a NetworkPolicy; state its kind"
                }
                Some(Kind::Tier(_)) => {
                    "the field is missing; the object is read as a ClusterNetworkPolicy that \
                    permits nothing; state its kind"
                }
                Some(Kind::GroupPolicy) => {
                    "the field is missing; the object is read as a SecurityGroupPolicy whose \
                    groups permit nothing; state its kind"
                }
                Some(_) => "the field is missing; the object is read as a Pod; state its kind",
                None => "the field is missing; this is not a Kubernetes object, and it is ignored",
            });
            reader.error(node.at, &Path::Root.field("kind"), message);
        }
    }
    let mut trust = if kind.is_some() { Trust::Sure } else { Trust::Doubtful };
    if let Some(complaint) = complaint {
        if complaint.severity == Severity::Error {
            trust = Trust::Doubtful;
        }
        reader.lost |= complaint.field == "kind";
        let path = Path::Root.field(complaint.field);
        match complaint.severity {
            Severity::Error if cut_short => {}
            Severity::Error => reader.error(node.at, &path, complaint.message),
            Severity::Warning => reader.warning(node.at, &path, complaint.message),
        }
    }
    if known == Kind::Unknown {
        let items = matches!(node.get("items"), Some(Node { value: Value::List(_), .. }));
        known = if items { Kind::List } else { guess(node).unwrap_or(Kind::Unknown) };
    }
    match known {
        Kind::Ignored => {}
        Kind::Unknown => reader.lost = true,
        Kind::Foreign => foreign(reader, node, kind.unwrap_or_default(), api_version),
        Kind::List => {
            let item_type = kind.and_then(|kind| item_type_of(kind, api_version));
            list(reader, node, item_type, depth, sink);
        }
        // The missing part of such an object could be what matters. Only a policy closes by what is
        // left of it, and a namespace that may isolate its pods.
        Kind::Pod
        | Kind::Node
        | Kind::Service
        | Kind::Account
        | Kind::Staged
        | Kind::Group
        | Kind::Workload
        | Kind::Slice
            if cut_short => {}
        Kind::Workload => {
            workload::read(reader, node, &OwnerKind::named(kind.unwrap_or_default()));
        }
        Kind::Slice => slice::read(reader, node),
        Kind::Pod
        | Kind::Namespace
        | Kind::Node
        | Kind::Service
        | Kind::Policy
        | Kind::Tier(_)
        | Kind::Staged
        | Kind::GroupPolicy
        | Kind::Account
        | Kind::Group => {
            reader.damaged = whole == Whole::Perhaps || cut_short;
            match single(reader, node, known, trust) {
                Single::Object(found) => sink(reader, found, node.at),
                Single::Without => {}
                Single::Lost => reader.lost = true,
            }
        }
    }
}

/// The text of a field of the header.
fn header<'n>(reader: &mut Reader, node: &'n Node, name: &str) -> Option<&'n str> {
    let node = node.get(name)?;
    if node.as_str().is_none() && node.value != Value::Broken {
        reader.lost = true;
        strict::wrong_type(reader, node, &Path::Root.field(name), "a string");
    }
    node.as_str()
}

/// Counts policies that another engine enforces.
fn foreign(reader: &mut Reader, node: &Node, kind: &str, api_version: Option<&str>) {
    let (kind, count) =
        match (kind.strip_suffix("List"), node.get("items").map(|items| &items.value)) {
            (Some(item), Some(Value::List(items))) => (item, items.len()),
            _ => (kind, 1),
        };
    reader.foreign(node.at, kind, api_version.unwrap_or("no apiVersion"), count);
}

fn list(
    reader: &mut Reader,
    node: &Node,
    item_type: Option<ItemType>,
    depth: usize,
    sink: &mut Sink,
) {
    reader.leave();
    let Value::Map(fields) = &node.value else { return };
    let path = Path::Root.field("items");
    if depth >= MAX_LIST_DEPTH {
        reader.lost = true;
        reader.error(node.at, &path, "lists are nested too deeply; put the objects into one list");
        return;
    }
    let known = ["apiVersion", "kind", "metadata", "items"];
    for field in fields.iter().filter(|f| !f.name.is_empty() && !known.contains(&&*f.name)) {
        unknown_field(reader, field, &Path::Root, &known);
    }
    if !fields.iter().any(|f| f.name == "items" || f.name.is_empty()) {
        reader.lost = true;
        reader.error(node.at, &path, "the field is missing; write an empty list as `items: []`");
    }
    // Where `items` is given twice, both are read: a policy that is read isolates.
    for field in fields.iter().filter(|f| f.name == "items" && f.node.value != Value::Null) {
        let Some(items) = strict::list(reader, Some(&field.node), &path) else {
            reader.lost = true;
            continue;
        };
        for item in items.iter().filter(|item| item.value != Value::Broken) {
            object(reader, item, item_type, depth + 1, sink);
        }
    }
    for (index, _) in repeated::of(fields) {
        reader.lost = true;
        let field = &fields[index];
        reader.error(
            field.at,
            &Path::Root.field(&field.name),
            "the field is given twice; keep one",
        );
    }
}

/// Reports a field that no API server knows. What an API server sends is not reported: a newer one
/// may have new fields.
pub(crate) fn unknown_field(reader: &mut Reader, field: &Field, path: &Path, known: &[&str]) {
    if reader.origin == Origin::File {
        reader.lost = true;
        let message = format!("unknown field; {}", strict::hint(&field.name, known));
        reader.error(field.at, &path.field(&field.name), message);
    }
}

/// The kind of a typed list's items: those of a `PodList` are Pods. None for a `List`, whose items
/// carry their kind.
pub(crate) fn item_type_of<'t>(
    list_kind: &'t str,
    api_version: Option<&'t str>,
) -> Option<ItemType<'t>> {
    let kind = list_kind.strip_suffix("List").filter(|kind| !kind.is_empty())?;
    Some(ItemType { kind, api_version })
}
