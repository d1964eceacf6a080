//! Quotas of the cloud that security groups exceed. They are those that AWS gives to new accounts,
//! and some of them can be raised.
//!
//! Source: "Amazon VPC quotas", security groups. Not here: what groups permit.

use std::collections::{BTreeMap, BTreeSet};

use netpolc_policy::{Direction, GroupPeer, SecurityGroup, SecurityGroupId, SecurityGroups};

use super::{Check, Lint, Object, Says, count};

/// How many groups an interface may have.
const GROUPS: usize = 5;
/// How many rules of a direction a group may have, for each family of addresses.
const RULES: usize = 60;
/// How many rules all groups of an interface may have together; this cannot be raised.
const PRODUCT: usize = 1000;

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    let cluster = lint.analysis.cluster();
    let security = &cluster.security;
    let mut most: BTreeMap<&SecurityGroupId, usize> = BTreeMap::new();
    for (id, group) in &security.groups {
        for direction in Direction::BOTH {
            let rules = rules(security, group, direction);
            let known = most.entry(id).or_default();
            *known = rules.max(*known);
            if rules <= RULES {
                continue;
            }
            let says = Says {
                what: format!(
                    "The group has {rules} {direction} rules of one family, of which AWS takes \
                     {RULES} unless the quota was raised; each peer of a rule counts, and of a \
                     prefix list each entry."
                ),
                change: "Join blocks of addresses, or name other groups in place of addresses."
                    .into(),
            };
            let field = match direction {
                Direction::Ingress => "IpPermissions",
                Direction::Egress => "IpPermissionsEgress",
            };
            lint.report(Check::GroupQuota, Object::SecurityGroup(id.clone()), field, says);
        }
    }
    let mut seen: BTreeMap<BTreeSet<SecurityGroupId>, (usize, netpolc_policy::ObjectKey)> =
        BTreeMap::new();
    for (id, profile) in lint.universe().profiles() {
        let Some(groups) = &profile.groups else { continue };
        let entry = seen.entry(groups.clone()).or_insert((0, profile.pod.key.clone()));
        entry.0 += lint.pods[id.index()];
    }
    for (groups, (pods, example)) in seen {
        let (pods, names) = (count(pods, "pod"), names(&groups));
        let rules = groups.iter().filter_map(|id| most.get(id)).max().copied().unwrap_or(0);
        let object = giver(lint, &example);
        if groups.len() > GROUPS {
            let says = Says {
                what: format!(
                    "{pods}, such as {example}, would have {} groups, of which AWS puts {GROUPS} \
                     on \
                     an interface unless the quota was raised: {names}.",
                    groups.len()
                ),
                change: "Let fewer SecurityGroupPolicies select a pod, or join groups.".into(),
            };
            lint.report(Check::GroupQuota, object.clone(), "spec.securityGroups", says);
        }
        if groups.len() * rules > PRODUCT {
            let says = Says {
                what: format!(
                    "{pods}, such as {example}, would have {} groups of up to {rules} rules; AWS \
                     takes at most {PRODUCT} as the product of the two: {names}.",
                    groups.len()
                ),
                change: "Give the pods fewer groups, or the groups fewer rules.".into(),
            };
            lint.report(Check::GroupQuota, object, "spec.securityGroups", says);
        }
    }
}

fn names(groups: &BTreeSet<SecurityGroupId>) -> String {
    super::few(&groups.iter().map(ToString::to_string).collect())
}

/// The policy that gives the pod its groups, where one does.
fn giver(lint: &Lint<'_, '_>, pod: &netpolc_policy::ObjectKey) -> Object {
    let cluster = lint.analysis.cluster();
    let labels = cluster.pods.get(pod).map(|pod| &pod.labels);
    let mut policies = cluster.security.policies.values().filter(|policy| {
        policy.key.namespace == pod.namespace
            && policy.pods.as_ref().is_none_or(|s| labels.is_some_and(|labels| s.matches(labels)))
    });
    let found = policies.next().map(|policy| Object::SecurityGroupPolicy(policy.key.clone()));
    found.unwrap_or_else(|| Object::Namespace(pod.namespace.clone()))
}

/// How many rules of a direction AWS counts, for the family that has more.
fn rules(security: &SecurityGroups, group: &SecurityGroup, direction: Direction) -> usize {
    let (mut v4, mut v6) = (0, 0);
    for peer in group.rules(direction).iter().flat_map(|rule| &rule.peers) {
        match peer {
            GroupPeer::Network(network) if network.is_ipv4() => v4 += 1,
            GroupPeer::Network(_) => v6 += 1,
            // A group counts in both families.
            GroupPeer::Group(_) => (v4, v6) = (v4 + 1, v6 + 1),
            GroupPeer::PrefixList(id) => {
                let entries = security.prefix_lists.get(id).map_or(&[][..], |list| list);
                let of_v4 = entries.iter().filter(|network| network.is_ipv4()).count();
                (v4, v6) = (v4 + of_v4, v6 + entries.len() - of_v4);
            }
        }
    }
    v4.max(v6)
}
