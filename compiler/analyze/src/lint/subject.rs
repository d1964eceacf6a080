//! Policies that select no pod, or stand in a namespace that is not there.
//!
//! Not here: the peers of their rules (`nobody`).

use std::{collections::BTreeSet, sync::Arc};

use netpolc_policy::{Labels, Phase, Pod, PodNetwork, Selector};

use super::{Check, Lint, Object, Says, Severity};
use crate::nearest::closest;

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    if !lint.has_pods() {
        let says = Says {
            what:
                "The input has no pod and no workload, so nothing is said of policies that select \
                   nobody, of peers that mean nobody, of port names, and of what may be reached."
                    .into(),
            change: "Give the manifests of workloads too, or add `kubectl get pods -A -o yaml`."
                .into(),
        };
        let has_policies = !lint.policies.is_empty() || !lint.tiers.is_empty();
        if has_policies {
            lint.report(Check::NotChecked, Object::Input, "", says);
        }
        return;
    }
    policies(lint);
    tiers(lint);
    groups(lint);
}

fn policies(lint: &mut Lint<'_, '_>) {
    let mut found = Vec::new();
    for of in lint.policies.iter().filter(|of| of.profiles.is_empty()) {
        let namespace = &of.policy.key.namespace;
        found.push(match absent(lint, namespace) {
            Some(says) => (Check::NoSuchNamespace, of.object.clone(), "metadata.namespace", says),
            None => {
                let says = selects_nobody(lint, namespace, &of.policy.selector);
                (Check::SelectsNoPod, of.object.clone(), "spec.podSelector", says)
            }
        });
    }
    for (check, object, field, says) in found {
        lint.report(check, object, field, says);
    }
}

/// Some where the input declares namespaces, and has neither this one nor a pod in it.
fn absent(lint: &Lint<'_, '_>, namespace: &Arc<str>) -> Option<Says> {
    let declared = &lint.facts.declared;
    let has_pods = lint.analysis.cluster().pods_of(namespace).next().is_some();
    if declared.is_empty() || declared.contains(namespace) || has_pods {
        return None;
    }
    let near = closest(namespace, declared.iter().map(|name| &**name));
    let change = match near {
        Some(near) => format!("Write `namespace: {near}`, which the input has."),
        None => format!("Add the Namespace {namespace} to the input, or write another one."),
    };
    let what = format!("The policy is in namespace {namespace}, which the input does not have.");
    Some(Says { what, change })
}

fn selects_nobody(lint: &Lint<'_, '_>, namespace: &Arc<str>, selector: &Selector) -> Says {
    let here: Vec<&Pod> = lint.analysis.cluster().pods_of(namespace).collect();
    let selected = here.iter().filter(|pod| selector.matches(&pod.labels));
    if let Some(says) = not_policed(&selected.copied().collect::<Vec<_>>(), "policy") {
        return says;
    }
    let labels: BTreeSet<&Labels> = here.iter().map(|pod| &pod.labels).collect();
    let whose = format!("pod of namespace {namespace}");
    why(selector, &labels.into_iter().collect::<Vec<_>>(), "The policy selects no pod", &whose)
}

/// Some where pods are meant, and all of them are such that policies do not apply to them.
pub(super) fn not_policed(pods: &[&Pod], noun: &str) -> Option<Says> {
    let active: Vec<_> = pods.iter().filter(|pod| pod.phase == Phase::Active).collect();
    let first = active.first()?;
    if active.iter().any(|pod| pod.network == PodNetwork::Own) {
        return None;
    }
    let what = format!(
        "The {noun} means only pods that use the network of their node, such as {}; selectors do \
         not mean their addresses.",
        first.key
    );
    let change = match noun {
        "policy" => "Remove the policy: NetworkPolicy cannot police these pods.".into(),
        _ => "Write an `ipBlock` with the addresses of the nodes.".into(),
    };
    Some(Says { what, change })
}

fn tiers(lint: &mut Lint<'_, '_>) {
    let mut found = Vec::new();
    let cluster = lint.analysis.cluster();
    for (policy, _) in lint.tiers.iter().filter(|(_, profiles)| profiles.is_empty()) {
        let subject = &policy.subject;
        let namespaces: Vec<_> = cluster
            .namespaces
            .iter()
            .filter(|(_, namespace)| subject.namespaces.matches(&namespace.labels))
            .map(|(name, _)| name)
            .collect();
        let says = if namespaces.is_empty() {
            let all: Vec<&Labels> = cluster.namespaces.values().map(|n| &n.labels).collect();
            why(&subject.namespaces, &all, "The policy is about no pod", "namespace")
        } else {
            let pods = namespaces.iter().flat_map(|name| cluster.pods_of(name));
            let labels: BTreeSet<&Labels> = pods.map(|pod| &pod.labels).collect();
            let labels: Vec<&Labels> = labels.into_iter().collect();
            why(&subject.pods, &labels, "The policy is about no pod", "pod of these namespaces")
        };
        found.push((Object::ClusterNetworkPolicy(policy.key.clone()), says));
    }
    for (object, says) in found {
        lint.report(Check::SelectsNoPod, object, "spec.subject", says);
    }
}

fn groups(lint: &mut Lint<'_, '_>) {
    let cluster = lint.analysis.cluster();
    for policy in cluster.security.policies.values() {
        let is_selected = |pod: &&Pod| {
            let account = netpolc_policy::ObjectKey {
                namespace: pod.key.namespace.clone(),
                name: pod.grouping.account.clone(),
            };
            let of_account = cluster.security.accounts.get(&account);
            pod.is_policed()
                && policy.pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
                && policy.accounts.as_ref().is_none_or(|selector| {
                    of_account.is_some_and(|labels| selector.matches(labels))
                })
        };
        let namespace = &policy.key.namespace;
        if cluster.pods_of(namespace).any(|pod| is_selected(&pod)) {
            continue;
        }
        let object = Object::SecurityGroupPolicy(policy.key.clone());
        if let Some(says) = absent(lint, namespace) {
            lint.report(Check::NoSuchNamespace, object, "metadata.namespace", says);
            continue;
        }
        let lead = "The policy gives its groups to no pod";
        let pods: BTreeSet<&Labels> = cluster.pods_of(namespace).map(|pod| &pod.labels).collect();
        let pods: Vec<&Labels> = pods.into_iter().collect();
        let by_pods = policy.pods.as_ref().filter(|s| !pods.iter().any(|l| s.matches(l)));
        let accounts = cluster.security.accounts.iter();
        let accounts = accounts.filter(|(key, _)| key.namespace == *namespace);
        let accounts: Vec<&Labels> = accounts.map(|(_, labels)| labels).collect();
        let (field, says) = match (by_pods, &policy.accounts) {
            (Some(selector), _) => {
                let whose = format!("pod of namespace {namespace}");
                ("spec.podSelector", why(selector, &pods, lead, &whose))
            }
            (None, Some(selector)) => {
                let whose = format!("ServiceAccount of namespace {namespace}");
                ("spec.serviceAccountSelector", why(selector, &accounts, lead, &whose))
            }
            (None, None) => {
                let what = format!("{lead}: namespace {namespace} has none that policies police.");
                let change = "Remove the policy, or move it to the namespace of its pods.".into();
                ("spec", Says { what, change })
            }
        };
        lint.report_as(Severity::Warning, Check::SelectsNoPod, object, field, says);
    }
}

/// Why a selector matches none of these labels, in a sentence that begins with `lead`, and what to
/// write instead.
pub(super) fn why(selector: &Selector, labels: &[&Labels], lead: &str, whose: &str) -> Says {
    if labels.is_empty() {
        let what = format!("{lead}: there is no {whose}.");
        let change = "Add the missing objects to the input, or mean others.".into();
        return Says { what, change };
    }
    let met_by_nobody =
        |wanted: &&netpolc_policy::Requirement| !labels.iter().any(|l| wanted.matches(l));
    if let Some(wanted) = selector.requirements.iter().find(met_by_nobody) {
        let (missing, change) = crate::nearest::nearest_labels(wanted, labels, whose);
        return Says { what: format!("{lead}: {missing}."), change };
    }
    let wanted: Vec<String> =
        selector.requirements.iter().map(crate::nearest::requirement).collect();
    match wanted.is_empty() {
        true => Says {
            what: format!("{lead}: there is no {whose} that policies police."),
            change: "Add the missing pods to the input, or mean others.".into(),
        },
        false => Says {
            what: format!("{lead}: no {whose} meets all of this at once: {}.", wanted.join(", ")),
            change: "Take out what the others do not need to meet.".into(),
        },
    }
}
