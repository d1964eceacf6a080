//! Reads `metadata` from trees: names and namespaces, strictly, because an object under another
//! name than the intended one is another object, and the intended one is missing. Not here: labels
//! (`lenient`).

use std::sync::Arc;

use crate::{
    kind::Kind,
    object::unknown_field,
    problem::{Path, excerpt},
    repeated,
    selector::is_dns_subdomain,
    source::Reader,
    strict,
    tree::{Field, Node, Value},
};

/// The fields of ObjectMeta, those of old servers included (k8s.io/apimachinery meta/v1 types.go).
pub(crate) const FIELDS: [&str; 17] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "generateName",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
    "clusterName",
    "initializers",
];

/// The `metadata` of an object.
pub(crate) struct Metadata<'n, 't> {
    object: &'n Node<'t>,
    node: Option<&'n Node<'t>>,
    /// A field that was probably meant to be `namespace`.
    misspelt: Option<&'n Field<'t>>,
}

/// The name by which messages refer to the object; empty where it has none.
pub(crate) fn display_name(node: &Node) -> String {
    let metadata = node.get("metadata");
    let text = |name| metadata.and_then(|m| m.text(name));
    match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => format!("{}/{}", excerpt(namespace), excerpt(name)),
        (None, Some(name)) => excerpt(name),
        _ => String::new(),
    }
}

impl<'n, 't> Metadata<'n, 't> {
    /// The metadata of `object`. Reports every field that no API server knows.
    pub fn of(reader: &mut Reader, object: &'n Node<'t>) -> Self {
        let node = object.get("metadata");
        let mut misspelt = None;
        let path = Path::Root.field("metadata");
        if let Some(Node { value: Value::Map(fields), .. }) = node {
            for field in fields.iter().filter(|f| !f.name.is_empty() && !FIELDS.contains(&&*f.name))
            {
                unknown_field(reader, field, &path, &FIELDS);
                let near = strict::distance(&field.name, "namespace") <= 3
                    || field.name.eq_ignore_ascii_case("ns");
                misspelt = misspelt.or(Some(field).filter(|_| near));
            }
            // Where there are two names or namespaces, the other one names an object that is lost.
            let other = |&(index, before): &(usize, usize)| {
                matches!(&*fields[index].name, "name" | "namespace")
                    && !fields[before].node.same(&fields[index].node)
            };
            reader.lost |= repeated::of(fields).iter().any(other);
        }
        Self { object, node, misspelt }
    }

    /// The object's name; None, with a report, where it cannot be told.
    pub fn name(&self, reader: &mut Reader, kind: Kind) -> Option<Arc<str>> {
        let metadata = Path::Root.field("metadata");
        let path = metadata.field("name");
        let given = self.node.and_then(|m| m.get("name")).filter(|name| name.as_str() != Some(""));
        if let Some(given) = given
            && let Some(text) = text(reader, given, &path)
        {
            let role = match kind {
                Kind::Namespace | Kind::Node | Kind::Account => NameRole::Reference,
                _ => NameRole::Label,
            };
            return Some(checked(reader, given.at, &path, &text, role));
        }
        let at = self.node.unwrap_or(self.object).at;
        if !matches!(kind, Kind::Policy | Kind::Tier(_) | Kind::GroupPolicy) {
            reader.error(at, &path, "the field is missing or unreadable; the object is ignored");
            return None;
        }
        // A policy without a name isolates all the same, provided that its namespace can be told.
        let line = reader.source.line(self.object.at as usize);
        let name = format!("unnamed.line-{line}");
        reader.error(
            at,
            &path,
            format!(
                "the field is missing or unreadable; give the policy a name (it is kept as {name})"
            ),
        );
        Some(name.into())
    }

    /// The object's namespace; None, with a report, where it cannot be told.
    pub fn namespace(&self, reader: &mut Reader) -> Option<Arc<str>> {
        let metadata = Path::Root.field("metadata");
        let path = metadata.field("namespace");
        let given = self.node.and_then(|m| m.get("namespace"));
        if let Some(given) = given {
            let text = text(reader, given, &path)?;
            // To the API server an empty namespace is an absent one.
            let text = if text.is_empty() { "default" } else { &text };
            return Some(checked(reader, given.at, &path, text, NameRole::Reference));
        }
        if let Some(text) = self
            .misspelt
            .and_then(|field| field.node.as_str())
            .filter(|text| is_dns_subdomain(text))
        {
            return Some(reader.interner.string(text));
        }
        // A document that broke off may have had a namespace further on.
        if self.node.is_none_or(|m| !matches!(m.value, Value::Map(_)) || m.get("").is_some()) {
            if self.object.get("").is_none() {
                let message = "the field is missing or unreadable, so the namespace is unknown; \
                    the object is ignored";
                reader.error(self.object.at, &metadata, message);
            }
            return None;
        }
        Some(reader.interner.string("default"))
    }
}

/// The text of a string. A number or a boolean is reported and read as it was written: an object
/// without its namespace would be lost.
fn text(reader: &mut Reader, node: &Node, path: &Path) -> Option<String> {
    if let Some(text) = strict::string(reader, node, path) {
        return Some(text.to_owned());
    }
    if !matches!(node.value, Value::Number(_) | Value::Bool(_)) {
        return None;
    }
    let written = reader.source.text.get(node.at as usize..)?;
    let plain = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'+');
    let written = written.iter().take(253).take_while(plain).map(|b| char::from(*b)).collect();
    Some(written)
}

/// What depends on a name besides its own object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameRole {
    /// Other objects refer to the name: under another one, the object that they mean is missing.
    Reference,
    /// The name only tells objects apart: what a policy or a pod does depends on its other fields.
    Label,
}

/// Checks a name. Names go into every later output, so one that the API server would have rejected
/// is made legible, and reported.
fn checked(reader: &mut Reader, at: u32, path: &Path, name: &str, role: NameRole) -> Arc<str> {
    if is_dns_subdomain(name) {
        return reader.interner.string(name);
    }
    reader.lost |= role == NameRole::Reference;
    let legible =
        |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let kept: String = name.chars().take(253).map(legible).collect();
    let message =
        format!("`{}` is not a valid DNS name; the object is kept as {kept}", excerpt(name));
    reader.error(at, path, message);
    kept.into()
}
