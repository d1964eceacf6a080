//! Passes one object, of a kind that is known, to the converter of that kind. Not here: how the
//! kind is found, and lists (`object`).

use netpolc_policy::{Namespace, ObjectKey, TierKey};

use crate::{
    Object, annotation, groups,
    kind::Kind,
    lenient, metadata,
    object::{NAMESPACE_NAME_LABEL, unknown_field},
    policy,
    problem::Path,
    repeated, service,
    source::Reader,
    tier::{self, Trust},
    tree::{Node, Value},
};

/// What an object turned out to be.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and mostly it is an object")]
pub(crate) enum Single {
    Object(Object),
    /// It was read, and nothing follows from it.
    Without,
    /// It cannot be told which object it is.
    Lost,
}

/// The name of a kind, as objects carry it.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "Namespace",
        Kind::Node => "Node",
        Kind::Pod => "Pod",
        Kind::Service => "Service",
        Kind::Tier(_) => "ClusterNetworkPolicy",
        Kind::Staged => "StagedKubernetesNetworkPolicy",
        Kind::GroupPolicy => "SecurityGroupPolicy",
        Kind::Account => "ServiceAccount",
        Kind::Group => "SecurityGroup",
        Kind::Policy
        | Kind::Workload
        | Kind::Slice
        | Kind::List
        | Kind::Ignored
        | Kind::Foreign
        | Kind::Unknown => "NetworkPolicy",
    }
}

/// Reads one object of the kind `known`.
pub(crate) fn single(reader: &mut Reader, node: &Node, known: Kind, trust: Trust) -> Single {
    let Value::Map(fields) = &node.value else { return Single::Lost };
    let kind = kind_name(known);
    reader.enter(kind, &metadata::display_name(node));
    repeated::report(reader, node, &Path::Root);
    // The converter of a policy reports its unknown fields itself.
    let strictly = matches!(known, Kind::Policy | Kind::Tier(_) | Kind::Staged | Kind::GroupPolicy);
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    let account = ["secrets", "imagePullSecrets", "automountServiceAccountToken"];
    let mut allowed = top.to_vec();
    if known == Kind::Account {
        allowed.extend(account);
    }
    for field in
        fields.iter().filter(|f| !strictly && !f.name.is_empty() && !allowed.contains(&&*f.name))
    {
        unknown_field(reader, field, &Path::Root, &allowed);
    }
    let about = metadata::Metadata::of(reader, node);
    let Some(name) = about.name(reader, known) else { return Single::Lost };
    let root = Path::Root;
    let object = match known {
        Kind::Node => Object::Node(name, lenient::node(reader, node)),
        Kind::Namespace => {
            let labels = lenient::labels(
                reader,
                node.get("metadata"),
                &root,
                Some((NAMESPACE_NAME_LABEL, &name)),
            );
            let unselected = annotation::unselected(reader, node);
            Object::Namespace(name, Namespace { labels, unselected })
        }
        Kind::Tier(api) => match tier::policy(reader, TierKey { api, name }, node, trust) {
            Some(policy) => Object::Tier(policy),
            None => return Single::Lost,
        },
        _ => {
            let Some(namespace) = about.namespace(reader) else { return Single::Lost };
            let key = ObjectKey { namespace, name };
            reader.name(kind, &key);
            match known {
                Kind::Service => {
                    let (service, frontend) = service::service(reader, node);
                    if let Some(gathered) = reader.gathered.as_deref_mut() {
                        gathered.pending.frontend = frontend;
                    }
                    Object::Service(key, service)
                }
                Kind::Pod => Object::Pod(lenient::pod(reader, key, node, &root)),
                Kind::Account => {
                    let labels = lenient::labels(reader, node.get("metadata"), &root, None);
                    Object::Account(key, labels)
                }
                Kind::GroupPolicy => {
                    Object::GroupPolicy(groups::policy::policy(reader, key, node, trust))
                }
                Kind::Staged => match policy::staged(reader, key.clone(), node) {
                    Some(staged) => Object::Staged(key, staged),
                    None => return Single::Without,
                },
                Kind::Group => match groups::ack::group(reader, node) {
                    Some(group) if trust == Trust::Sure => group,
                    _ => return Single::Without,
                },
                _ => Object::Policy(policy::policy(reader, key, node)),
            }
        }
    };
    if strictly || known == Kind::Group {
        reader.gather_lines(node);
    }
    if strictly || matches!(known, Kind::Group | Kind::Namespace) {
        reader.gather_lint_allow(node);
    }
    Single::Object(object)
}
