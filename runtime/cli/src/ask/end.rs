//! One end of a connection, as people write it: a pod, a workload, a Service, labels, an address.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use netpolc_analyze::nearest::closest;
use netpolc_kube_sync::Survey;
use netpolc_policy::{ObjectKey, Operator, OwnerKind, Phase, Pod, Requirement, Selector};

/// What an end means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// These pods, at least one.
    Pods(Vec<ObjectKey>),
    /// What is behind a Service.
    Service(ObjectKey),
    /// An address.
    Address(IpAddr),
    /// Every address of a prefix.
    Block(IpNetwork),
    /// The addresses that the internet routes.
    Internet,
    /// The addresses of a node.
    Node(String),
}

/// The ways to write an end, for messages.
const WAYS: &str = "write namespace/pod, namespace/workload, a Service's namespace/name or DNS \
                    name, labels such as shop/app=web, namespace/*, node/NAME, an address, a CIDR, \
                    or internet";

/// Finds what `text` means in the input.
///
/// # Errors
/// It means nothing, or several things; the message says what is near, or how to tell them apart.
pub fn find(survey: &Survey, text: &str) -> anyhow::Result<End> {
    if text == "internet" {
        return Ok(End::Internet);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(End::Address(address));
    }
    if let Ok(network) = text.parse::<IpNetwork>()
        && text.contains('/')
    {
        return Ok(End::Block(network));
    }
    if let Some(name) = text.strip_prefix("node/") {
        return node(survey, name);
    }
    if text.contains(['=', '!']) {
        return labels(survey, text);
    }
    if let Some(service) = dns_name(text) {
        return service_named(survey, service);
    }
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            named(survey, namespace, name)
        }
        [kind, namespace, name] => of_kind(survey, kind, &ObjectKey::new(namespace, name)),
        _ => anyhow::bail!("{text:?} is no end of a connection; {WAYS}"),
    }
}

fn node(survey: &Survey, name: &str) -> anyhow::Result<End> {
    let nodes = &survey.loaded.cluster.nodes;
    anyhow::ensure!(
        nodes.contains_key(name),
        "there is no Node {name} in the input{}",
        hint(name, nodes.keys().map(|n| &**n))
    );
    Ok(End::Node(name.into()))
}

/// The Service that `api.shop.svc` or `api.shop.svc.cluster.local` names.
fn dns_name(text: &str) -> Option<ObjectKey> {
    let mut labels = text.trim_end_matches('.').split('.');
    let (name, namespace, svc) = (labels.next()?, labels.next()?, labels.next()?);
    (svc == "svc" && !text.contains('/')).then(|| ObjectKey::new(namespace, name))
}

fn service_named(survey: &Survey, key: ObjectKey) -> anyhow::Result<End> {
    anyhow::ensure!(
        survey.frontends.contains_key(&key),
        "there is no Service {key} in the input{}",
        hint(&key.to_string(), survey.frontends.keys().map(ToString::to_string))
    );
    Ok(End::Service(key))
}

/// The pods with these labels: `app=web,tier!=x`, of one namespace where it stands in front.
fn labels(survey: &Survey, text: &str) -> anyhow::Result<End> {
    let cluster = &survey.loaded.cluster;
    // A namespace stands before the first /, unless that belongs to a label's key.
    let split = text.split_once('/').filter(|(before, _)| !before.contains(['=', '!', '.', ',']));
    let (namespace, labels) = split.map_or((None, text), |(n, rest)| (Some(n), rest));
    let selector = selector(labels)?;
    let pods = cluster.pods.values().filter(|pod| {
        namespace.is_none_or(|namespace| *pod.key.namespace == *namespace)
            && selector.matches(&pod.labels)
    });
    let pods: Vec<&Pod> = pods.collect();
    if pods.is_empty() {
        let here = namespace.map(|n| format!(" in namespace {n}")).unwrap_or_default();
        anyhow::bail!("no pod{here} has the labels {labels}{}", label_hint(survey, &selector));
    }
    group(pods)
}

/// A group of pods, at least one: those that have not ended, since no policy applies to the others.
fn group(pods: Vec<&Pod>) -> anyhow::Result<End> {
    let active = pods.iter().filter(|pod| pod.phase == Phase::Active);
    let active: Vec<ObjectKey> = active.map(|pod| pod.key.clone()).collect();
    anyhow::ensure!(
        !active.is_empty(),
        "all of these pods have ended (status.phase), so no policy applies to them; name one of \
         them, such as pod/{}, to be told about it",
        pods[0].key
    );
    Ok(End::Pods(active))
}

/// Parses labels as `kubectl -l` takes them: `app=web,tier!=x,!canary`.
///
/// # Errors
/// A part names no label.
pub fn selector(text: &str) -> anyhow::Result<Selector> {
    let requirement = |part: &str| {
        let (key, operator) = if let Some((key, value)) = part.split_once("!=") {
            (key, Operator::NotIn(vec![value.trim().into()]))
        } else if let Some((key, value)) = part.split_once("==").or(part.split_once('=')) {
            (key, Operator::In(vec![value.trim().into()]))
        } else if let Some(key) = part.strip_prefix('!') {
            (key, Operator::DoesNotExist)
        } else {
            (part, Operator::Exists)
        };
        anyhow::ensure!(!key.trim().is_empty(), "{part:?} has no label; write key=value");
        Ok(Requirement { key: key.trim().into(), operator })
    };
    let requirements = text.split(',').map(requirement).collect::<anyhow::Result<_>>()?;
    Ok(Selector { requirements })
}

/// The value that a label has somewhere and that is nearest to the one that was asked for.
fn label_hint(survey: &Survey, selector: &Selector) -> String {
    for requirement in &selector.requirements {
        let Operator::In(values) = &requirement.operator else { continue };
        let pods = survey.loaded.cluster.pods.values();
        let there: BTreeSet<&str> =
            pods.filter_map(|pod| pod.labels.get(&requirement.key)).collect();
        if there.is_empty() {
            return format!("; no pod has the label {}", requirement.key);
        }
        if let Some(near) = values.iter().find_map(|v| closest(v, there.iter().copied())) {
            return format!("; did you mean {}={near}?", requirement.key);
        }
    }
    String::new()
}

/// `shop/*`, or the pod, workload or Service of this name.
fn named(survey: &Survey, namespace: &str, name: &str) -> anyhow::Result<End> {
    let cluster = &survey.loaded.cluster;
    let here =
        || cluster.pods.values().filter(|pod| namespace == "*" || *pod.key.namespace == *namespace);
    if name == "*" {
        let pods: Vec<&Pod> = here().collect();
        anyhow::ensure!(
            !pods.is_empty(),
            "there is no pod in namespace {namespace}{}",
            hint(namespace, cluster.namespaces.keys().map(|n| &**n))
        );
        return group(pods);
    }
    let key = ObjectKey::new(namespace, name);
    if cluster.pods.contains_key(&key) {
        return Ok(End::Pods(vec![key]));
    }
    let is_owned = |pod: &&Pod| pod.owner.as_ref().is_some_and(|owner| *owner.name == *name);
    let kinds: BTreeSet<&OwnerKind> =
        here().filter(is_owned).filter_map(|pod| pod.owner.as_ref()).map(|o| &o.kind).collect();
    if kinds.len() > 1 {
        let ways: Vec<String> = kinds
            .iter()
            .map(|kind| format!("{}/{key}", kind.name().to_ascii_lowercase()))
            .collect();
        anyhow::bail!("{key} is the name of several workloads; write {}", ways.join(" or "));
    }
    if !kinds.is_empty() {
        return group(here().filter(is_owned).collect());
    }
    if survey.frontends.contains_key(&key) {
        return Ok(End::Service(key));
    }
    let mut known: BTreeSet<String> = survey.frontends.keys().map(ToString::to_string).collect();
    known.extend(cluster.pods.keys().map(ToString::to_string));
    let owned = cluster
        .pods
        .values()
        .filter_map(|pod| Some(format!("{}/{}", pod.key.namespace, pod.owner.as_ref()?.name)));
    known.extend(owned);
    anyhow::bail!(
        "there is no pod, workload or Service {key} in the input{}",
        hint(&key.to_string(), known)
    )
}

/// `deployment/shop/web`, `pod/shop/web-0`, `service/shop/web`.
fn of_kind(survey: &Survey, kind: &str, key: &ObjectKey) -> anyhow::Result<End> {
    let cluster = &survey.loaded.cluster;
    match kind.to_ascii_lowercase().as_str() {
        "pod" | "pods" | "po" => {
            anyhow::ensure!(
                cluster.pods.contains_key(key),
                "there is no pod {key} in the input{}",
                hint(&key.to_string(), cluster.pods.keys().map(ToString::to_string))
            );
            Ok(End::Pods(vec![key.clone()]))
        }
        "service" | "services" | "svc" => service_named(survey, key.clone()),
        kind => {
            let is_kind = |found: &OwnerKind| {
                let name = found.name().to_ascii_lowercase();
                let short = match found {
                    OwnerKind::Deployment => "deploy",
                    OwnerKind::StatefulSet => "sts",
                    OwnerKind::DaemonSet => "ds",
                    OwnerKind::ReplicaSet => "rs",
                    OwnerKind::ReplicationController => "rc",
                    OwnerKind::CronJob => "cj",
                    OwnerKind::Job | OwnerKind::Other(_) => "",
                };
                kind == name || kind == format!("{name}s") || kind == short
            };
            let owned = cluster.pods.values().filter(|pod| {
                let owner = pod.owner.as_ref().filter(|owner| is_kind(&owner.kind));
                pod.key.namespace == key.namespace && owner.is_some_and(|o| o.name == key.name)
            });
            let pods: Vec<&Pod> = owned.collect();
            anyhow::ensure!(
                !pods.is_empty(),
                "there is no pod of {kind} {key} in the input; {WAYS}"
            );
            group(pods)
        }
    }
}

/// What may have been meant, as the end of a message.
fn hint<T: AsRef<str>>(asked: &str, known: impl IntoIterator<Item = T>) -> String {
    let known: Vec<T> = known.into_iter().collect();
    let near = closest(asked, known.iter().map(AsRef::as_ref));
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
