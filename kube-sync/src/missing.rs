//! What an answer would need and the input lacks: an input without Nodes, Services or the labels of
//! namespaces is read without a mistake, and gives verdicts that the cluster would not give.
//!
//! Not here: mistakes in what is there (`problem`).

use std::{collections::BTreeSet, fmt, sync::Arc};

use netpolc_policy::{
    Cluster, Direction, Isolation, Namespaces, ObjectKey, Peer, Peers, Phase, Pod, Policy,
    Selector, Staged, TierPeer, Unselected,
};

use crate::{ObjectId, ObjectKind, Survey, object::NAMESPACE_NAME_LABEL};

/// Something that the input lacks. Prints as a sentence with the command that adds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// There are policies, but no pods that they could be about.
    Pods,
    /// There are pods, but no policy of any kind.
    Policies,
    /// Nodes on which pods run, by name.
    Nodes(BTreeSet<Arc<str>>),
    /// There are pods and policies, but no Service.
    Services,
    /// Namespaces that have pods and are not declared, by name; policies select by labels of
    /// namespaces.
    Namespaces(BTreeSet<Arc<str>>),
    /// Pods have security groups, or policies give them some, and none is described.
    Groups,
    /// SecurityGroupPolicies select by the labels of ServiceAccounts, and there is none.
    Accounts,
}

/// How many names a sentence has at most.
const MAX_NAMED: usize = 3;

impl Missing {
    /// The command whose output adds what is missing.
    pub fn command(&self) -> &'static str {
        match self {
            Missing::Pods => "kubectl get pods -A -o yaml",
            Missing::Policies => "kubectl get networkpolicies -A -o yaml",
            Missing::Nodes(_) => "kubectl get nodes -o yaml",
            Missing::Services => "kubectl get services -A -o yaml",
            Missing::Namespaces(_) => "kubectl get namespaces -o yaml",
            Missing::Groups => "aws ec2 describe-security-groups",
            Missing::Accounts => "kubectl get serviceaccounts -A -o yaml",
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Pods => {
                f.write_str("the input has policies but no pods, so they select none")?
            }
            Missing::Policies => {
                f.write_str("the input has no policy, so everything is permitted")?
            }
            Missing::Nodes(names) => write!(
                f,
                "pods run on {}, which the input has no Node of, so what comes from and goes to \
                 their own node is judged as if it were any other address",
                named("node", names)
            )?,
            Missing::Services => f.write_str(
                "the input has no Service, so a packet to the address of one is judged as if it \
                 were any other address, and not by its backend",
            )?,
            Missing::Namespaces(names) => write!(
                f,
                "policies select namespaces by their labels, and the input does not declare {}, so \
                 no labels of it are known but its name",
                named("namespace", names)
            )?,
            Missing::Groups => f.write_str(
                "pods have security groups and the input describes none, so these permit nothing",
            )?,
            Missing::Accounts => f.write_str(
                "SecurityGroupPolicies select by ServiceAccounts and the input has none, so these \
                 give no groups",
            )?,
        }
        write!(f, "; add the output of `{}`", self.command())
    }
}

/// The first of these names, and how many there are beyond.
fn named(what: &str, names: &BTreeSet<Arc<str>>) -> String {
    let first: Vec<&str> = names.iter().take(MAX_NAMED).map(|name| &**name).collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    let plural = if names.len() == 1 { "" } else { "s" };
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{what}{plural} {}{rest}", first.join(", "))
}

/// What answers about this input would need and it lacks, in a fixed order. Nothing is missing that
/// could change no answer: where no policy is, no Node matters.
pub fn missing(survey: &Survey) -> Vec<Missing> {
    let cluster = &survey.loaded.cluster;
    let active = || cluster.pods.values().filter(|pod| pod.phase == Phase::Active);
    let has_policies = has_policies(cluster);
    if cluster.pods.is_empty() {
        return if has_policies { vec![Missing::Pods] } else { Vec::new() };
    }
    if !has_policies {
        return vec![Missing::Policies];
    }
    let mut found = Vec::new();
    let nodes = active().filter_map(|pod| pod.node.as_ref());
    let unknown = nodes.filter(|name| !cluster.nodes.contains_key(*name)).cloned();
    let unknown: BTreeSet<Arc<str>> = unknown.collect();
    if !unknown.is_empty() {
        found.push(Missing::Nodes(unknown));
    }
    if cluster.services.is_empty() {
        found.push(Missing::Services);
    }
    if reads_namespaces(cluster) {
        let declared = |name: &Arc<str>| {
            let key = ObjectKey::new("", name.clone());
            survey.loaded.places.contains_key(&ObjectId { kind: ObjectKind::Namespace, key })
        };
        let namespaces = active().map(|pod| &pod.key.namespace);
        let distinct: BTreeSet<&Arc<str>> = namespaces.collect();
        let unknown: BTreeSet<Arc<str>> =
            distinct.into_iter().filter(|name| !declared(name)).cloned().collect();
        if !unknown.is_empty() {
            found.push(Missing::Namespaces(unknown));
        }
    }
    let security = &cluster.security;
    let has_groups = !security.policies.is_empty() || active().any(names_groups);
    if has_groups && security.groups.is_empty() {
        found.push(Missing::Groups);
    }
    if security.accounts.is_empty() && security.policies.values().any(|p| p.accounts.is_some()) {
        found.push(Missing::Accounts);
    }
    found
}

/// Whether anything could be denied.
fn has_policies(cluster: &Cluster) -> bool {
    let isolates = |unselected| unselected == Some(Unselected::Isolated);
    !cluster.policies.is_empty()
        || !cluster.tiers.is_empty()
        || !cluster.staged.is_empty()
        || !cluster.security.policies.is_empty()
        || cluster.by_default.unselected == Unselected::Isolated
        || cluster.namespaces.values().any(|namespace| isolates(namespace.unselected))
        || cluster.pods.values().any(names_groups)
}

fn names_groups(pod: &Pod) -> bool {
    !pod.grouping.interfaces.is_empty() || !pod.grouping.fargate.is_empty()
}

/// Whether some policy asks for a label of namespaces that does not follow from their names.
fn reads_namespaces(cluster: &Cluster) -> bool {
    let staged = cluster.staged.values().filter_map(|staged| match staged {
        Staged::Set(policy) => Some(policy),
        Staged::Delete => None,
    });
    let mut policies = cluster.policies.values().chain(staged);
    let mut tiers = cluster.tiers.values();
    policies.any(|policy| peers(policy).any(by_labels))
        || tiers.any(|policy| {
            let rules = Direction::BOTH.into_iter().flat_map(|d| policy.rules(d));
            let mut peers = rules.flat_map(|rule| &rule.peers);
            asks(&policy.subject.namespaces)
                || peers.any(|peer| match peer {
                    TierPeer::Pods { namespaces, .. } => asks(namespaces),
                    _ => false,
                })
        })
}

fn peers(policy: &Policy) -> impl Iterator<Item = &Peer> {
    let rules =
        [&policy.ingress, &policy.egress].into_iter().flat_map(|isolation| match isolation {
            Isolation::Isolated(rules) => &rules[..],
            Isolation::Open => &[],
        });
    rules.flat_map(|rule| match &rule.peers {
        Peers::Listed(peers) => &peers[..],
        Peers::Any => &[],
    })
}

fn by_labels(peer: &Peer) -> bool {
    matches!(peer, Peer::Pods { namespaces: Namespaces::Matching(selector), .. } if asks(selector))
}

fn asks(selector: &Selector) -> bool {
    selector.requirements.iter().any(|requirement| &*requirement.key != NAMESPACE_NAME_LABEL)
}
