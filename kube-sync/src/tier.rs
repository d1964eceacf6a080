//! Reads a ClusterNetworkPolicy of either group into the model, strictly. What cannot be understood
//! is reported and never widens access (S72, S74): a broken Accept permits what is left of it, and
//! a broken Deny or Pass denies everything. Where it cannot be told which pods a policy is about,
//! or at which place it stands, nothing of it permits any more, and what it passes on it denies.
//!
//! Source of the rules: `clusternetworkpolicy_types.go` of sigs.k8s.io/network-policy-api
//! (v1alpha2 and v1beta1), and of amazon-network-policy-controller-k8s for networking.k8s.aws. Not
//! here: the peers and ports of one rule (`tier_rule`).

use std::sync::Arc;

use netpolc_policy::{
    Action, Direction, Mode, Priority, Selector, Subject, Tier, TierApi, TierKey, TierPeer,
    TierPolicy, TierRule,
};

use crate::{
    annotation,
    problem::{Path, excerpt},
    selector::selector,
    source::Reader,
    strict::{self, Health},
    tier_rule,
    tree::{Node, Value},
};

/// How many rules of a direction the API takes.
fn most_rules(api: TierApi) -> usize {
    match api {
        TierApi::Upstream => 25,
        TierApi::Aws => 100,
    }
}

/// Whether the object is certainly what it is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Sure,
    /// Its kind or version is not quite one that is known, so that it may mean something else.
    Doubtful,
}

/// The fields of `spec`.
const SPEC: [&str; 5] = ["tier", "priority", "subject", "ingress", "egress"];

/// Reads the policy `key`, with everything that can be understood of `object`. None where the text
/// broke off before it is said which pods the policy is about: what such a policy denies would be
/// denied to every pod of the cluster.
pub(crate) fn policy(
    reader: &mut Reader,
    key: TierKey,
    object: &Node,
    trust: Trust,
) -> Option<TierPolicy> {
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    let ([.., given, _], health) = strict::fields(reader, object, &Path::Root, top);
    let path = Path::Root.field("spec");
    if given.is_none() && health == Health::Sound {
        let message = "the field is required but missing; write `tier`, `priority`, `subject` and \
            rules in it";
        reader.error(object.at, &path, message);
    }
    let empty = Node { at: object.at, value: Value::Map(Vec::new()) };
    let spec = given.unwrap_or(&empty);
    let ([tier, priority, subject, ingress, egress], spec_health) =
        strict::fields(reader, spec, &path, SPEC);
    // Of what was not read, nothing more is to be said than that.
    let whole = health.and(spec_health) == Health::Sound && given.is_some();
    let broke_off = object.get("").is_some() || spec.get("").is_some();
    reader.damaged |= broke_off;
    if broke_off && subject.is_none() {
        return None;
    }
    let mut need = |node: Option<&_>, field: &str, advice: &str| {
        if node.is_none() && whole {
            let message = format!("the field is required but missing; write {advice}");
            reader.error(spec.at, &path.field(field), message);
        }
    };
    need(tier, "tier", "Admin or Baseline");
    need(priority, "priority", "a number from 0 to 1000, the lower the earlier");
    need(subject, "subject", "`namespaces: {}` for every pod");
    let tier = tier.and_then(|node| read_tier(reader, node, &path.field("tier")));
    let priority_path = path.field("priority");
    let priority = priority
        .and_then(|node| strict::integer(reader, node, &priority_path, 0, Priority::MAX))
        .and_then(Priority::new);
    let subject = match subject {
        Some(node) => read_subject(reader, node, &path.field("subject"), key.api),
        None => (Subject::default(), Health::Broken),
    };
    let understood = whole
        && trust == Trust::Sure
        && tier.is_some()
        && priority.is_some()
        && subject.1 == Health::Sound;
    let lost = may_hold_rules(spec) || broke_off;
    let mut read = |node: Option<&Node>, field, direction| match node {
        None if lost => vec![tier_rule::deny_everything(None)],
        _ => rules(reader, node, &path.field(field), direction, key.api),
    };
    let policy = TierPolicy {
        ingress: read(ingress, "ingress", Direction::Ingress),
        egress: read(egress, "egress", Direction::Egress),
        tier: tier.unwrap_or(Tier::Admin),
        priority: priority.unwrap_or_default(),
        subject: subject.0,
        mode: annotation::mode(reader, object),
        key,
    };
    Some(if understood { policy } else { closed(policy) })
}

/// Whether `spec` has a part that was not understood and that may be a direction's rules: a list
/// under an unknown name, or the rest of a text that broke off. Then the direction that is missing
/// is denied.
fn may_hold_rules(spec: &Node) -> bool {
    match &spec.value {
        Value::Map(fields) => fields.iter().any(|field| {
            !SPEC.contains(&&*field.name)
                && matches!(field.node.value, Value::List(_) | Value::Broken)
        }),
        _ => true,
    }
}

/// The policy without anything that permits: an Accept matches nobody, and a Pass denies.
pub(crate) fn closed(policy: TierPolicy) -> TierPolicy {
    let close = |rules: Vec<TierRule>| rules.into_iter().map(closed_rule).collect();
    TierPolicy { ingress: close(policy.ingress), egress: close(policy.egress), ..policy }
}

fn closed_rule(rule: TierRule) -> TierRule {
    match rule.action {
        Action::Accept => TierRule { peers: vec![TierPeer::Nobody], ..rule },
        Action::Pass => TierRule { action: Action::Deny, ..rule },
        Action::Deny => rule,
    }
}

/// What contradicts the policy of the same name that counts: its denials hold too, and nothing of
/// it permits.
pub(crate) fn twin(policy: TierPolicy, name: Arc<str>, mode: Mode) -> TierPolicy {
    let key = TierKey { name, ..policy.key };
    closed(TierPolicy { key, mode, ..policy })
}

fn read_tier(reader: &mut Reader, node: &Node, path: &Path) -> Option<Tier> {
    let text = strict::string(reader, node, path)?;
    let found = Tier::ALL.into_iter().find(|tier| tier.to_string() == text);
    if found.is_none() {
        let message = format!("`{}` is not a tier; write Admin or Baseline", excerpt(text));
        reader.error(node.at, path, message);
    }
    found
}

/// The pods that the policy is about. A part that cannot be understood is left out, so that it is
/// about more pods and not about fewer.
fn read_subject(reader: &mut Reader, node: &Node, path: &Path, api: TierApi) -> (Subject, Health) {
    let ([namespaces, pods], health) = strict::fields(reader, node, path, ["namespaces", "pods"]);
    let in_namespaces = namespaces.map(|node| selector(reader, node, &path.field("namespaces")));
    let of_pods = pods.map(|node| tier_rule::pods(reader, node, &path.field("pods"), api));
    match (in_namespaces, of_pods) {
        (Some((namespaces, sound)), None) => {
            (Subject { namespaces, pods: Selector::default() }, health.and(sound))
        }
        (None, Some((namespaces, pods, sound))) => {
            (Subject { namespaces, pods }, health.and(sound))
        }
        (Some(_), Some(_)) => {
            let message = "`namespaces` and `pods` cannot be combined; write one of them";
            reader.error(node.at, path, message);
            (Subject::default(), Health::Broken)
        }
        (None, None) => {
            if health == Health::Sound {
                let message = "the subject is empty; write `namespaces: {}` for every pod";
                reader.error(node.at, path, message);
            }
            (Subject::default(), Health::Broken)
        }
    }
}

/// Reads the rules of a direction, in order. Where the list itself is broken, it may have held any
/// rule, so everything is denied.
fn rules(
    reader: &mut Reader,
    node: Option<&Node>,
    path: &Path,
    direction: Direction,
    api: TierApi,
) -> Vec<TierRule> {
    let Some(items) = strict::list(reader, node, path) else {
        return vec![tier_rule::deny_everything(None)];
    };
    let most = most_rules(api);
    if items.len() > most {
        let message = format!(
            "there are {} rules, but at most {most} may be; those behind do not permit or pass \
             anything; write a second policy with the next priority",
            items.len()
        );
        reader.error(items[most].at, path, message);
    }
    let mut read = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let rule = tier_rule::rule(reader, item, &path.index(index), direction, api);
        read.push(if index < most { rule } else { closed_rule(rule) });
    }
    read
}
