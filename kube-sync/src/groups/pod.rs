//! What a pod says of its groups, in annotations that the cloud's controllers write (S75). The
//! annotations are texts in texts; both ways of reading pods (`lenient`, `typed`) use the functions
//! here.
//!
//! Sources: pkg/provider/branch/trunk/trunk.go and webhooks/core/pod_webhook.go of
//! amazon-vpc-resource-controller-k8s.

use std::sync::Arc;

use netpolc_policy::{Grouping, InterfaceId, SecurityGroupId};
use serde::Deserialize;

use super::{unreadable, unreadable_interface};
use crate::{
    annotation::{self, Annotation},
    problem::{Path, excerpt},
    source::Reader,
    tree::Node,
};

/// The annotation that names a pod's own interfaces.
pub(crate) const ENI: &str = "vpc.amazonaws.com/pod-eni";
/// The annotation that names the groups of a pod on Fargate.
pub(crate) const FARGATE: &str = "fargate.amazonaws.com/pod-sg";
/// The account of a pod that names none.
pub(crate) const ACCOUNT: &str = "default";

/// One interface in the annotation; its other fields do not matter here.
#[derive(Deserialize)]
struct Eni {
    #[serde(rename = "eniId")]
    id: String,
}

/// The interfaces in the annotation [`ENI`]: JSON, a list of objects with `eniId`.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn interfaces(text: &str) -> Result<Vec<InterfaceId>, String> {
    let read: Vec<Eni> = serde_json::from_str(text)
        .map_err(|error| format!("`{}` is no list of interfaces: {error}", excerpt(text)))?;
    if read.iter().any(|eni| eni.id.is_empty()) {
        return Err("an interface has an empty eniId".into());
    }
    Ok(read.into_iter().map(|eni| InterfaceId::from(eni.id)).collect())
}

/// The groups in the annotation [`FARGATE`]: ids, joined by commas.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn groups(text: &str) -> Result<Vec<SecurityGroupId>, String> {
    let mut groups: Vec<SecurityGroupId> = Vec::new();
    for id in text.split(',').map(str::trim) {
        if !is_id(id) {
            return Err(format!("`{}` is no list of group ids, joined by commas", excerpt(text)));
        }
        let id = id.into();
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    Ok(groups)
}

/// Whether a text may be an id of the cloud.
pub(super) fn is_id(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Reads a pod's grouping from its tree, which stands at `root` in its object. `account` is the
/// name of its ServiceAccount.
pub(crate) fn grouping(
    reader: &mut Reader,
    object: &Node,
    root: &Path,
    account: Arc<str>,
) -> Grouping {
    let metadata = root.field("metadata");
    let path = metadata.field("annotations");
    let mut read = |name: &str| match annotation::find(reader, object, root, name) {
        Annotation::Absent => Err(false),
        Annotation::Unclear => Err(true),
        Annotation::Text(text, at) => Ok((text.to_owned(), at)),
    };
    let (eni, fargate) = (read(ENI), read(FARGATE));
    let mut report = |at, name: &str, error: String| {
        let message = format!("{error}; until it can be read, the pod is closed");
        reader.error(at, &path.field(name), message);
    };
    let interfaces = match eni {
        Err(unclear) => {
            if unclear {
                vec![unreadable_interface()]
            } else {
                Vec::new()
            }
        }
        Ok((text, at)) => interfaces(&text).unwrap_or_else(|error| {
            report(at, ENI, error);
            vec![unreadable_interface()]
        }),
    };
    let fargate = match fargate {
        Err(unclear) => {
            if unclear {
                vec![unreadable()]
            } else {
                Vec::new()
            }
        }
        Ok((text, at)) => groups(&text).unwrap_or_else(|error| {
            report(at, FARGATE, error);
            vec![unreadable()]
        }),
    };
    Grouping { account, interfaces, fargate }
}
