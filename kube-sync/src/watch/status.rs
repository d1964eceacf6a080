//! A node's state as it is published in the cluster: the resource NodePolicyStatus, one object for
//! each node, of bounded size.
//!
//! Not here: when it is written ([`super::publish`]), the resource's definition (the manifests).

use k8s_openapi::jiff::Timestamp;
use kube::core::ApiResource;
use serde_json::{Value, json};

use crate::{PolicyKind, PolicyState};

/// How many policies are listed; the others are only counted.
pub const MAX_POLICIES: usize = 200;
/// How many problems are listed; the others are only counted.
pub const MAX_PROBLEMS: usize = 20;
/// The longest message, in bytes.
const MAX_MESSAGE_LEN: usize = 512;

/// The state of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// The version of netpolc that the agent runs.
    pub version: String,
    /// Why the kernel does not enforce the current policies; None where it does.
    pub behind: Option<String>,
    /// Why the cluster's changes are not seen at the moment; None where they are.
    pub blind: Option<String>,
    /// Pods, as `namespace/name`, that a policy selects and that have no interface here, so that
    /// nothing is enforced for them.
    pub unfound: Vec<String>,
    /// Policies and Services, as `Kind namespace/name`, that exceed their namespace's share.
    pub aside: Vec<String>,
    /// How many pods of this node policies may select.
    pub pods: usize,
    /// How many of them some policy selects.
    pub isolated: usize,
    /// Policies and security groups that decide about a pod of this node, in order of their names.
    pub policies: Vec<PolicyState>,
    /// How many policies that are only tried are about a pod of this node.
    pub audited: usize,
    /// What is wrong with the input, one line each.
    pub problems: Vec<String>,
}

/// One condition of the resource: its type, and its reason (one word) and message, both where it is
/// False (`wrong`) and where it is True (`fine`).
pub(crate) struct State {
    pub kind: &'static str,
    pub wrong: Option<(&'static str, String)>,
    fine: (&'static str, &'static str),
}

impl NodeStatus {
    /// The conditions, the one that sums them up first.
    pub(crate) fn states(&self) -> [State; 4] {
        let behind = self.behind.clone().map(|why| ("Behind", why));
        let blind = self.blind.clone().map(|why| ("Blind", why));
        let unfound = (!self.unfound.is_empty()).then(|| {
            let pods = self.unfound.join(", ");
            (
                "InterfaceMissing",
                format!(
                    "these pods are selected by a policy, but have no interface on this node: \
                    {pods}"
                ),
            )
        });
        let aside = (!self.aside.is_empty()).then(|| {
            let objects = self.aside.join(", ");
            (
                "SetAside",
                format!(
                    "these objects exceed their namespaces' shares of this node, and allow \
                    nothing: {objects}"
                ),
            )
        });
        // Objects that are set aside do not count in the summary, or one tenant's object would
        // decide how the whole node looks.
        let all = behind.or(blind.clone()).or(unfound.clone());
        [
            State {
                kind: "InStep",
                wrong: all,
                fine: ("Enforced", "the kernel enforces the cluster's current policies"),
            },
            State {
                kind: "Watching",
                wrong: blind,
                fine: ("Watching", "the cluster's changes are seen"),
            },
            State {
                kind: "InterfacesFound",
                wrong: unfound,
                fine: ("Found", "every isolated pod's interface is known"),
            },
            State {
                kind: "WithinShares",
                wrong: aside,
                fine: ("Admitted", "no namespace takes more than its share of this node"),
            },
        ]
    }

    /// The `status` of the resource. `since` gives the last transition of each condition.
    pub(crate) fn value(&self, since: impl Fn(&State) -> Timestamp, now: Timestamp) -> Value {
        // Policies with errors are listed first, so that they are not among those that are left
        // out.
        let mut policies: Vec<&PolicyState> = self.policies.iter().collect();
        policies.sort_by_key(|p| (p.errors == 0, &p.policy));
        policies.truncate(MAX_POLICIES);
        policies.sort_by_key(|p| &p.policy);
        let problems: Vec<&str> =
            self.problems.iter().take(MAX_PROBLEMS).map(|p| bounded(p)).collect();
        let conditions = self.states().map(|state| {
            let (status, (reason, message)) = match &state.wrong {
                None => ("True", state.fine),
                Some((reason, message)) => ("False", (*reason, message.as_str())),
            };
            json!({"type": state.kind, "status": status, "reason": reason, "message": bounded(message),
                "lastTransitionTime": seconds(since(&state))})
        });
        let of = |kind: PolicyKind| self.policies.iter().filter(|p| p.kind == kind).count();
        json!({
            "agentVersion": self.version,
            "lastUpdated": seconds(now),
            "conditions": conditions,
            "pods": self.pods,
            "isolatedPods": self.isolated,
            "policyCount": self.policies.len(),
            "networkPolicyCount": of(PolicyKind::NetworkPolicy),
            "clusterNetworkPolicyCount": of(PolicyKind::ClusterNetworkPolicy),
            "securityGroupCount": of(PolicyKind::SecurityGroup),
            "auditedPolicyCount": self.audited,
            "policies": policies,
            "policiesOmitted": self.policies.len() - policies.len(),
            "problemCount": self.problems.len(),
            "problems": problems,
            "problemsOmitted": self.problems.len() - problems.len(),
        })
    }
}

/// RFC 3339 without fractions, as the API server writes times.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_MESSAGE_LEN)]
}

/// The description of the resource, as the manifests define it.
pub(crate) fn resource() -> ApiResource {
    ApiResource {
        group: "netpolc.dev".into(),
        version: "v1alpha1".into(),
        api_version: "netpolc.dev/v1alpha1".into(),
        kind: "NodePolicyStatus".into(),
        plural: "nodepolicystatuses".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_bounded_and_says_what_it_leaves_out() {
        let policy = |i: usize| PolicyState {
            policy: format!("{}/{i:05}", "n".repeat(63)),
            errors: usize::from(i == 4_999),
            ..PolicyState::default()
        };
        let status = NodeStatus {
            policies: (0..5_000).map(policy).collect(),
            problems: (0..300).map(|i| format!("{i} {}", "ü".repeat(4_000))).collect(),
            behind: Some("x".repeat(100_000)),
            ..NodeStatus::default()
        };
        let value = status.value(|_| Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        assert!(value.to_string().len() < 64 << 10, "{}", value.to_string().len());
        assert_eq!(
            (&value["policyCount"], &value["policiesOmitted"]),
            (&5_000.into(), &4_800.into())
        );
        assert_eq!((&value["problemCount"], &value["problemsOmitted"]), (&300.into(), &280.into()));
        let listed = value["policies"].as_array().unwrap();
        assert_eq!(listed[199]["errors"], 1, "the one with an error is listed");
        assert!(listed.is_sorted_by_key(|p| p["policy"].as_str()));
        let condition = &value["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["lastTransitionTime"]),
            (&"False".into(), &"1970-01-01T00:00:00Z".into())
        );
    }

    #[test]
    fn s84_policies_are_counted_by_kind_and_those_that_are_tried_apart() {
        let kinds = [
            (PolicyKind::NetworkPolicy, 3),
            (PolicyKind::ClusterNetworkPolicy, 2),
            (PolicyKind::SecurityGroup, 1),
        ];
        let policies = kinds.into_iter().flat_map(|(kind, count)| {
            (0..count).map(move |i| PolicyState {
                policy: format!("{kind:?}{i}"),
                kind,
                ..Default::default()
            })
        });
        let status = NodeStatus { policies: policies.collect(), audited: 4, ..Default::default() };
        let value = status.value(|_| Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let count = |field: &str| value[field].as_u64().unwrap();
        assert_eq!(count("policyCount"), 6);
        assert_eq!(count("networkPolicyCount"), 3);
        assert_eq!(count("clusterNetworkPolicyCount"), 2);
        assert_eq!((count("securityGroupCount"), count("auditedPolicyCount")), (1, 4));
        assert_eq!(value["policies"][0]["kind"], "ClusterNetworkPolicy");
    }

    #[test]
    fn what_is_set_aside_is_a_condition_of_its_own() {
        let aside = vec!["NetworkPolicy evil/p".into(), "Service evil/s".into()];
        let status = NodeStatus { aside, ..NodeStatus::default() };
        let value = status.value(|_| Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let conditions = value["conditions"].as_array().unwrap();
        let wrong: Vec<&Value> = conditions.iter().filter(|c| c["status"] == "False").collect();
        assert_eq!(wrong.len(), 1, "the node is in step all the same: {conditions:?}");
        assert_eq!(
            (&wrong[0]["type"], &wrong[0]["reason"]),
            (&"WithinShares".into(), &"SetAside".into())
        );
        let message = wrong[0]["message"].as_str().unwrap();
        assert!(message.ends_with(": NetworkPolicy evil/p, Service evil/s"), "{message}");
    }
}
