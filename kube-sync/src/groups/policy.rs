//! Reads a SecurityGroupPolicy, strictly. A pod without groups is not policed by them, so a policy
//! that cannot be understood still selects every pod that it can be seen to select, and gives them
//! a group that permits nothing.
//!
//! Sources: the CRD of amazon-vpc-resource-controller-k8s (config/crd), and its
//! pkg/utils/helper.go.

use netpolc_policy::{ObjectKey, SecurityGroupId, SecurityGroupPolicy, Selector};

use super::{pod::is_id, unreadable};
use crate::{
    problem::{Path, excerpt},
    selector::selector,
    source::Reader,
    strict::{self, Health},
    tier::Trust,
    tree::{Node, Value},
};

/// How many groups a policy may name.
const MOST_GROUPS: usize = 5;

/// Reads the policy `key`.
pub(crate) fn policy(
    reader: &mut Reader,
    key: ObjectKey,
    object: &Node,
    trust: Trust,
) -> SecurityGroupPolicy {
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    let ([.., spec, _], mut health) = strict::fields(reader, object, &Path::Root, top);
    let path = Path::Root.field("spec");
    let empty = Node { at: object.at, value: Value::Map(Vec::new()) };
    let spec = spec.unwrap_or(&empty);
    let names = ["podSelector", "serviceAccountSelector", "securityGroups"];
    let ([pods, accounts, groups], spec_health) = strict::fields(reader, spec, &path, names);
    health = health.and(spec_health);
    let mut read = |node: Option<&Node>, field: &str| {
        let (selector, sound) = selector(reader, node?, &path.field(field));
        health = health.and(sound);
        Some(selector)
    };
    let (mut pods, accounts) =
        (read(pods, "podSelector"), read(accounts, "serviceAccountSelector"));
    if pods.is_none() && accounts.is_none() {
        if health == Health::Sound {
            let message = "podSelector and serviceAccountSelector are both absent, so every pod of \
                the namespace gets a group that permits nothing; write one of them";
            reader.error(spec.at, &path, message);
        }
        health = Health::Broken;
        pods = Some(Selector::default());
    }
    let mut groups = match groups {
        Some(node) => group_ids(reader, node, &path.field("securityGroups")),
        None => {
            if health == Health::Sound {
                let message = "the field is required but missing; write `groupIds` with ids in it";
                reader.error(spec.at, &path.field("securityGroups"), message);
            }
            Vec::new()
        }
    };
    // Where the policy selects more pods than intended, they must not get its groups.
    if health == Health::Broken || trust == Trust::Doubtful || groups.is_empty() {
        groups = vec![unreadable()];
    }
    SecurityGroupPolicy { key, pods, accounts, groups }
}

/// What contradicts the policy of the same name that counts: the pods that it selects get a group
/// that permits nothing.
pub(crate) fn twin(policy: SecurityGroupPolicy, key: ObjectKey) -> SecurityGroupPolicy {
    SecurityGroupPolicy { key, groups: vec![unreadable()], ..policy }
}

/// The sound ids in `securityGroups`, each once. Fewer groups permit less.
fn group_ids(reader: &mut Reader, node: &Node, path: &Path) -> Vec<SecurityGroupId> {
    let ([ids], health) = strict::fields(reader, node, path, ["groupIds"]);
    let path = path.field("groupIds");
    let items = strict::list(reader, ids, &path).unwrap_or_default();
    if items.is_empty()
        && health == Health::Sound
        && !matches!(ids, Some(Node { value, .. }) if !matches!(value, Value::List(_)))
    {
        let message = "no group is named; write the ids of one to five security groups";
        reader.error(node.at, &path, message);
    }
    if items.len() > MOST_GROUPS {
        let message = format!(
            "there are {} groups, but at most {MOST_GROUPS} may be, and the first ones count; \
             write a second policy",
            items.len()
        );
        reader.error(items[MOST_GROUPS].at, &path, message);
    }
    let mut groups: Vec<SecurityGroupId> = Vec::new();
    for (index, item) in items.iter().take(MOST_GROUPS).enumerate() {
        let path = path.index(index);
        let Some(text) = strict::string(reader, item, &path) else { continue };
        if !is_id(text) {
            let message =
                format!("`{}` is not the id of a group; write one such as sg-0a1b", excerpt(text));
            reader.error(item.at, &path, message);
            continue;
        }
        let id = reader.interner.string(text).into();
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    if health == Health::Sound { groups } else { Vec::new() }
}
