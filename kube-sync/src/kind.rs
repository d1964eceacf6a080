//! Finds which kind of object `kind` and `apiVersion` name, and what is wrong with them. An API
//! server accepts a kind in its own version only and rejects everything else. Here a mistake is an
//! error too, but an object whose intended kind can be guessed is read all the same, since a policy
//! that is not read isolates nothing (S61).
//!
//! Not here: what is done with the object (`object`).

pub(crate) mod asked;

use std::fmt;

use netpolc_policy::TierApi;

use crate::{
    problem::{Severity, excerpt},
    strict,
    tree::Node,
};

/// How an object is treated, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Namespace,
    Pod,
    Policy,
    Node,
    Service,
    /// A ClusterNetworkPolicy of this group.
    Tier(TierApi),
    /// A StagedKubernetesNetworkPolicy.
    Staged,
    /// A SecurityGroupPolicy.
    GroupPolicy,
    /// A ServiceAccount, whose labels a SecurityGroupPolicy may select.
    Account,
    /// A SecurityGroup of the AWS Controllers for Kubernetes.
    Group,
    /// A Deployment or the like, which makes pods.
    Workload,
    /// An EndpointSlice.
    Slice,
    List,
    /// A kind that has no meaning for policy.
    Ignored,
    /// A policy that another engine enforces, or a template with unknown contents: it is counted
    /// and reported, and not read.
    Foreign,
    /// A kind that no API server knows, so that the object may be of any.
    Unknown,
}

/// A mistake in `kind` or `apiVersion`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// The field that is wrong: `kind` or `apiVersion`.
    pub field: &'static str,
    pub severity: Severity,
    pub message: String,
}

impl Complaint {
    fn error(field: &'static str, message: String) -> Self {
        Self { field, severity: Severity::Error, message }
    }
}

const POLICY_VERSION: &str = "networking.k8s.io/v1";

/// The versions in which a ClusterNetworkPolicy of each group is read, all with the same fields.
/// The first one is advised.
fn tier_versions(api: TierApi) -> &'static [&'static str] {
    match api {
        TierApi::Upstream => {
            &["policy.networking.k8s.io/v1alpha2", "policy.networking.k8s.io/v1beta1"]
        }
        TierApi::Aws => &["networking.k8s.aws/v1alpha1"],
    }
}

/// The versions in which Calico's staged policies are read; both have the same fields.
const STAGED_VERSIONS: [&str; 2] = ["projectcalico.org/v3", "crd.projectcalico.org/v1"];
const GROUP_POLICY_VERSION: &str = "vpcresources.k8s.aws/v1beta1";
const GROUP_VERSION: &str = "ec2.services.k8s.aws/v1alpha1";

/// The kinds of networking.k8s.io that are not policies.
const NETWORKING: [&str; 5] =
    ["Ingress", "IngressClass", "IPAddress", "ServiceCIDR", "ClusterCIDR"];

/// The kinds of the core group that have no meaning for policy; and the kubeconfig (`Config`),
/// which is not an API object but calls itself v1.
const CORE: [&str; 16] = [
    "Binding",
    "ComponentStatus",
    "Config",
    "ConfigMap",
    "Endpoints",
    "Event",
    "Eviction",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "RangeAllocation",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "SerializedReference",
];

/// API groups of other engines that have a NetworkPolicy of their own.
const ENGINES: [&str; 9] = [
    "projectcalico.org",
    "antrea.io",
    "antrea.tanzu.vmware.com",
    "cilium.io",
    "kubeovn.io",
    "nsx.vmware.com",
    "crossplane.io",
    "k8s.cni.cncf.io",
    "policy.networking.k8s.io",
];

/// Groups with policies of their own, and their kinds that have no meaning here: any other kind in
/// them is a mistake, behind which a policy may be.
const OURS: [(&str, &[&str]); 3] = [
    ("policy.networking.k8s.io", &[]),
    ("networking.k8s.aws", &["PolicyEndpoint", "ClusterPolicyEndpoint"]),
    ("vpcresources.k8s.aws", &["CNINode"]),
];

/// Kinds of other engines that do not have NetworkPolicy in their name, and templates, each with
/// its group.
const FOREIGN: [(&str, &str); 7] = [
    ("EgressFirewall", "k8s.ovn.org"),
    ("Template", "template.openshift.io"),
    ("Template", ""),
    ("Tier", "projectcalico.org"),
    ("Tier", "crd.projectcalico.org"),
    ("Tier", "crd.antrea.io"),
    ("Tier", "crd.antrea.tanzu.vmware.com"),
];

/// The kinds that are read, with the short names that kubectl accepts: what an unknown kind may
/// stand for.
const READ: [(&str, Kind, &[&str]); 10] = [
    ("StagedKubernetesNetworkPolicy", Kind::Staged, &["stagedkubernetesnetworkpolicies"]),
    (
        "ClusterNetworkPolicy",
        Kind::Tier(TierApi::Upstream),
        &["cnp", "cnps", "clusternetworkpolicies"],
    ),
    ("SecurityGroupPolicy", Kind::GroupPolicy, &["sgp", "sgps", "securitygrouppolicies"]),
    ("ServiceAccount", Kind::Account, &["sa"]),
    ("NetworkPolicy", Kind::Policy, &["netpol", "netpols"]),
    ("Namespace", Kind::Namespace, &["ns"]),
    ("Service", Kind::Service, &["svc"]),
    ("Node", Kind::Node, &["no"]),
    ("List", Kind::List, &[]),
    ("Pod", Kind::Pod, &["po"]),
];

/// Returns the kind that `kind` and `apiVersion` name, and what is wrong with them.
pub(crate) fn classify(kind: &str, api_version: Option<&str>) -> (Kind, Option<Complaint>) {
    let group = api_version.map(group);
    match kind {
        "NetworkPolicy" => policy(api_version),
        "Pod" => core(kind, Kind::Pod, api_version),
        "Namespace" => core(kind, Kind::Namespace, api_version),
        "Node" => core(kind, Kind::Node, api_version),
        "Service" => core(kind, Kind::Service, api_version),
        "ServiceAccount" => core(kind, Kind::Account, api_version),
        "ClusterNetworkPolicy" => tier(api_version),
        "StagedKubernetesNetworkPolicy" => {
            versioned(kind, Kind::Staged, &STAGED_VERSIONS, api_version)
        }
        "SecurityGroupPolicy" => {
            versioned(kind, Kind::GroupPolicy, &[GROUP_POLICY_VERSION], api_version)
        }
        "SecurityGroup" if group == Some("ec2.services.k8s.aws") => {
            versioned(kind, Kind::Group, &[GROUP_VERSION], api_version)
        }
        "List" => core(kind, Kind::List, api_version),
        _ if is_foreign(kind, group) => (Kind::Foreign, None),
        _ => match kind.strip_suffix("List").filter(|item| !item.is_empty()) {
            Some(item) => list(item, kind, api_version),
            None => other(kind, api_version),
        },
    }
}

/// Classifies a NetworkPolicy. Unless its group is that of a known engine, it is taken for the one
/// of Kubernetes.
fn policy(api_version: Option<&str>) -> (Kind, Option<Complaint>) {
    let field = "apiVersion";
    match api_version {
        Some(POLICY_VERSION) => (Kind::Policy, None),
        None => (
            Kind::Policy,
            Some(Complaint::error(field, format!("the field is missing; write {POLICY_VERSION}"))),
        ),
        Some(version @ ("extensions/v1beta1" | "networking.k8s.io/v1beta1")) => {
            let message = format!("{version} is read as {POLICY_VERSION}; write that");
            (Kind::Policy, Some(Complaint { field, severity: Severity::Warning, message }))
        }
        Some(version) if is_engine(group(version)) => (Kind::Foreign, None),
        Some(version) => {
            let message = format!(
                "no API server has a NetworkPolicy in `{}`; it is read as {POLICY_VERSION}; write \
                 that",
                excerpt(version)
            );
            (Kind::Policy, Some(Complaint::error(field, message)))
        }
    }
}

/// Classifies a ClusterNetworkPolicy. Two groups have one; in any other custom group it is another
/// engine's.
fn tier(api_version: Option<&str>) -> (Kind, Option<Complaint>) {
    let near = |api: &TierApi| {
        let version = api_version.unwrap_or_default();
        group(version) == api.group() || strict::distance(group(version), api.group()) <= 2
    };
    let api = TierApi::ALL.into_iter().find(near);
    let custom = api_version.is_some_and(|version| group(version).contains('.'));
    match api {
        Some(api) => {
            versioned("ClusterNetworkPolicy", Kind::Tier(api), tier_versions(api), api_version)
        }
        None if custom && api_version.map(group) != Some("networking.k8s.io") => {
            (Kind::Foreign, None)
        }
        None => {
            let [upstream, aws] =
                [TierApi::Upstream, TierApi::Aws].map(|api| tier_versions(api)[0]);
            let message = match api_version {
                None => format!("the field is missing; write {upstream} or {aws}"),
                Some(version) => format!(
                    "no API server has a ClusterNetworkPolicy in `{}`; write {upstream} or {aws}; \
                     until then none of its rules permits or passes anything",
                    excerpt(version)
                ),
            };
            (Kind::Tier(TierApi::Upstream), Some(Complaint::error("apiVersion", message)))
        }
    }
}

/// Classifies a kind that is read in these versions of its group; the first one is advised.
fn versioned(
    kind: &str,
    known: Kind,
    versions: &[&str],
    api_version: Option<&str>,
) -> (Kind, Option<Complaint>) {
    let field = "apiVersion";
    let advised = versions[0];
    match api_version {
        Some(version) if versions.contains(&version) => (known, None),
        None => {
            (known, Some(Complaint::error(field, format!("the field is missing; write {advised}"))))
        }
        Some(version)
            if versions.iter().any(|v| strict::distance(group(version), group(v)) <= 2) =>
        {
            let message = format!(
                "a {kind} of `{}` is read as {advised}, which may differ; write that",
                excerpt(version)
            );
            (known, Some(Complaint::error(field, message)))
        }
        Some(version) if is_custom(group(version)) => {
            let policy = kind.ends_with("NetworkPolicy");
            (if policy { Kind::Foreign } else { Kind::Ignored }, None)
        }
        Some(version) => {
            let message = format!(
                "no API server has a {kind} in `{}`; it is read as {advised}; write that",
                excerpt(version)
            );
            (known, Some(Complaint::error(field, message)))
        }
    }
}

/// Classifies a kind of the core group. Custom groups may have one of the same name (Knative's
/// Service); other built-in groups do not.
fn core(kind: &str, known: Kind, api_version: Option<&str>) -> (Kind, Option<Complaint>) {
    match api_version {
        None | Some("v1") => (known, None),
        Some(version) if is_custom(group(version)) => (Kind::Ignored, None),
        Some(version) => {
            let message = format!(
                "no API server has a {kind} in `{}`; it is read as v1; write that",
                excerpt(version)
            );
            (known, Some(Complaint::error("apiVersion", message)))
        }
    }
}

/// Classifies a list of `item`s.
fn list(item: &str, kind: &str, api_version: Option<&str>) -> (Kind, Option<Complaint>) {
    match classify(item, api_version) {
        (known @ (Kind::Ignored | Kind::Foreign), None) => (known, None),
        (Kind::Unknown, _) => (Kind::Unknown, Some(unknown(kind, api_version))),
        (Kind::List, _) => other(kind, api_version),
        (_, complaint) => (Kind::List, complaint),
    }
}

/// Classifies any other kind. It is reported as misspelt where the group has no such kind, or where
/// the name is close enough to one that is read.
fn other(kind: &str, api_version: Option<&str>) -> (Kind, Option<Complaint>) {
    let unknown_to_the_server = match api_version {
        // kubectl rejects every object without a version. Here a ConfigMap without one is ignored
        // like any other, since no policy is lost with it.
        None | Some("v1") => !CORE.contains(&kind),
        Some(version) => match group(version) {
            "networking.k8s.io" => !NETWORKING.contains(&kind),
            "" => true,
            group => match OURS.iter().find(|(ours, _)| *ours == group) {
                Some((_, others)) => !others.contains(&kind),
                None => !is_custom(group) && meant(kind).is_some_and(|(_, known)| closes(known)),
            },
        },
    };
    let near = || {
        let close = |name: &str| strict::distance(kind, name) <= 2;
        meant(kind).filter(|(name, known)| closes(*known) && close(name))
    };
    if unknown_to_the_server || near().is_some() {
        let known = meant(kind).map_or(Kind::Unknown, |(_, known)| known);
        let aws = api_version.is_some_and(|version| group(version) == TierApi::Aws.group());
        let known =
            if matches!(known, Kind::Tier(_)) && aws { Kind::Tier(TierApi::Aws) } else { known };
        return (known, Some(unknown(kind, api_version)));
    }
    (Kind::Ignored, None)
}

/// Whether something is open that should not be where an object of this kind is not read.
fn closes(kind: Kind) -> bool {
    matches!(kind, Kind::Policy | Kind::Tier(_) | Kind::GroupPolicy)
}

fn unknown(kind: &str, api_version: Option<&str>) -> Complaint {
    if (kind, api_version) == ("Status", Some("v1")) {
        return Complaint::error(
            "kind",
            "this is an API server's response, possibly an error, and not an object".into(),
        );
    }
    let place = api_version
        .map_or_else(|| "without apiVersion".to_owned(), |v| format!("in `{}`", excerpt(v)));
    let hint = meant(kind).map(|(name, _)| format!("; did you mean {name}?")).unwrap_or_default();
    Complaint::error("kind", format!("`{}` {place} is not a known kind{hint}", excerpt(kind)))
}

/// The kind of which `kind` is a plural, a short name or a misspelling.
fn meant(kind: &str) -> Option<(&'static str, Kind)> {
    let near = |name: &str| match name.len() {
        ..=4 => 1,
        5..=9 => 2,
        _ => 3,
    };
    let found = READ.iter().find(|(name, _, short)| {
        short.contains(&&*kind.to_lowercase()) || strict::distance(kind, name) <= near(name)
    });
    found.map(|(name, known, _)| (*name, *known))
}

/// Guesses the kind of an object whose kind is missing or unknown, by the fields that only one kind
/// has in its spec.
pub(crate) fn guess(node: &Node) -> Option<Kind> {
    let spec = node.get("spec")?;
    if spec.get("subject").is_some() && spec.get("tier").is_some() {
        Some(Kind::Tier(TierApi::Upstream))
    } else if spec.get("securityGroups").is_some() {
        Some(Kind::GroupPolicy)
    } else if spec.get("podSelector").is_some() {
        Some(Kind::Policy)
    } else {
        spec.get("containers").map(|_| Kind::Pod)
    }
}

/// Whether this is the version of a custom kind, whose `items` may be anything.
pub(crate) fn is_custom_version(api_version: &str) -> bool {
    is_custom(group(api_version))
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Whether the group is a custom one. Custom groups are DNS names; those that end in `.k8s.io`
/// belong to Kubernetes.
fn is_custom(group: &str) -> bool {
    group.contains('.') && group != "k8s.io" && !group.ends_with(".k8s.io")
}

fn is_engine(group: &str) -> bool {
    ENGINES.iter().any(|engine| {
        group == *engine || group.strip_suffix(engine).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// Whether this is a policy that another engine enforces, or a template.
fn is_foreign(kind: &str, group: Option<&str>) -> bool {
    let group = group.unwrap_or_default();
    FOREIGN.contains(&(kind, group))
        || kind.ends_with("NetworkPolicy")
            && kind != "NetworkPolicy"
            && (group.contains('.') && group != "networking.k8s.io")
}

/// The message about policies that other engines enforce.
pub(crate) fn not_enforced(count: impl fmt::Display, kind: &str, version: &str) -> String {
    format!(
        "{count} {kind} ({version}) in total: netpolc does not enforce them, and verdicts ignore \
        them"
    )
}

#[cfg(test)]
mod tests;
