//! Reads SecurityGroups of the AWS Controllers for Kubernetes (`ec2.services.k8s.aws/v1alpha1`):
//! what a cluster says of the groups that it makes. Not here: the rules (`rule`).
//!
//! Source: apis/v1alpha1/security_group.go of aws-controllers-k8s/ec2-controller.

use netpolc_policy::SecurityGroup;

use super::rule::{ACK, id, permissions};
use crate::{
    Object,
    lenient::{map, text},
    problem::Path,
    source::Reader,
    tree::Node,
};

/// Reads a SecurityGroup; None, with a warning, where the cloud has not given it an id yet: then
/// nobody has it.
pub(crate) fn group(reader: &mut Reader, object: &Node) -> Option<Object> {
    let root = Path::Root;
    let (spec_path, status_path) = (root.field("spec"), root.field("status"));
    let status = map(reader, object.get("status"), &status_path);
    let path = status_path.field("id");
    let Some(given) = status.and_then(|status| status.get("id")) else {
        let message = "the group has no id yet, so no pod has it and it is ignored; see the \
            object's status.conditions";
        reader.warning(object.at, &path, message);
        return None;
    };
    let id = id(reader, given, &path)?;
    let spec = map(reader, object.get("spec"), &spec_path);
    let name = text(reader, spec, &spec_path, "name").map(|name| reader.interner.string(name));
    let mut rules = |field: &str| {
        let list = spec.and_then(|spec| spec.get(field));
        permissions(reader, list, &spec_path.field(field), &ACK)
    };
    let (ingress, egress) = (rules("ingressRules"), rules("egressRules"));
    Some(Object::Group(id.into(), SecurityGroup { name, ingress, egress }))
}
