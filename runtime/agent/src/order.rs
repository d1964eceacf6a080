//! Orders changes that arrived together: a namespace with large policies comes after the others, so
//! that nobody else waits for it.
//!
//! Only changes of policies are postponed. The policies of a namespace judge the packets of its own
//! pods, so only these keep the old verdicts for a moment longer. Other objects on which a policy
//! depends must not change before it: the policy might isolate a pod that starts, or no longer
//! allow a label that some pod gets.
//!
//! Not here: how the changes are applied ([`super`]).

use std::{collections::BTreeMap, sync::Arc};

use netpolc_kube_sync::{Change, Object, Resource};
use netpolc_policy::{
    Cluster, Direction, Isolation, Namespaces, ObjectKey, Peer, Peers, Policy, Ports,
};

/// The total number of rules, peers, excepts and ports up to which policies take no noticeable
/// time.
const SMALL: usize = 256;

/// What a batch changes in the policies of one namespace.
#[derive(Default)]
struct Tenant {
    size: usize,
    /// Whether a policy has peers in other namespaces, which a selector chooses.
    has_foreign_peers: bool,
}

/// Cuts changes into steps, to be applied one after another. Each step after the first consists of
/// changes of one namespace's policies, smaller namespaces before larger ones. `cluster` is the
/// cluster before the changes. Changes of one object keep their order.
pub fn steps(changes: Vec<Change>, cluster: &Cluster) -> Vec<Vec<Change>> {
    let large = large(&changes, cluster);
    let mut steps: Vec<Vec<Change>> = Vec::new();
    steps.resize_with(large.len() + 1, Vec::new);
    for change in changes {
        let policy = change.resource == Resource::Policy;
        let step = large.iter().position(|namespace| policy && *namespace == change.key.namespace);
        steps[step.map_or(0, |place| place + 1)].push(change);
    }
    steps.retain(|step| !step.is_empty());
    steps
}

/// The namespaces whose policies are postponed, in the order of their sizes.
fn large(changes: &[Change], cluster: &Cluster) -> Vec<Arc<str>> {
    let mut tenants: BTreeMap<&Arc<str>, Tenant> = BTreeMap::new();
    for change in changes {
        if change.resource != Resource::Policy {
            continue;
        }
        let tenant = tenants.entry(&change.key.namespace).or_default();
        let after = match &change.object {
            Some(Object::Policy(policy)) => Some(policy),
            _ => None,
        };
        for policy in cluster.policies.get(&change.key).into_iter().chain(after) {
            tenant.size += size(policy);
            tenant.has_foreign_peers |= peers(policy)
                .any(|peer| matches!(peer, Peer::Pods { namespaces: Namespaces::Matching(_), .. }));
        }
    }
    let may_wait = |namespace: &Arc<str>, tenant: &Tenant| {
        changes.iter().all(|Change { resource, key: ObjectKey { namespace: of, name }, .. }| {
            match resource {
                Resource::Pod => of != namespace && !tenant.has_foreign_peers,
                // It may also say what becomes of its own pods without the policy (S90).
                Resource::Namespace => !tenant.has_foreign_peers && name != namespace,
                // These may change who is a peer, or what is decided before the policy.
                Resource::Node
                | Resource::Tier
                | Resource::AwsTier
                | Resource::GroupPolicy
                | Resource::Account
                | Resource::Group => false,
                Resource::Policy
                | Resource::Service
                | Resource::EndpointSlice
                | Resource::Staged => true,
            }
        })
    };
    let mut large: Vec<(usize, &Arc<str>)> = tenants
        .iter()
        .filter(|(namespace, tenant)| tenant.size > SMALL && may_wait(namespace, tenant))
        .map(|(namespace, tenant)| (tenant.size, *namespace))
        .collect();
    large.sort();
    large.into_iter().map(|(_, namespace)| namespace.clone()).collect()
}

fn peers(policy: &Policy) -> impl Iterator<Item = &Peer> {
    rules(policy).flat_map(|rule| match &rule.peers {
        Peers::Any => &[][..],
        Peers::Listed(peers) => peers,
    })
}

fn rules(policy: &Policy) -> impl Iterator<Item = &netpolc_policy::Rule> {
    Direction::BOTH.into_iter().flat_map(|direction| match policy.isolation(direction) {
        Isolation::Open => &[][..],
        Isolation::Isolated(rules) => rules,
    })
}

fn size(policy: &Policy) -> usize {
    let ports = rules(policy).map(|rule| match &rule.ports {
        Ports::Any => 1,
        Ports::Listed(ports) => 1 + ports.len(),
    });
    let peers = peers(policy).map(|peer| match peer {
        Peer::Block(block) => 1 + block.except.len(),
        Peer::Pods { .. } | Peer::Nothing => 1,
    });
    ports.chain(peers).sum()
}

#[cfg(test)]
mod tests {
    use netpolc_policy::{Namespace, Rule, Selector};
    use netpolc_testbed::offenders::{block, bystanders, pod, policy, selector};

    use super::*;

    fn of(policy: &Policy) -> Change {
        let object = Some(Object::Policy(policy.clone()));
        Change { resource: Resource::Policy, key: policy.key.clone(), object }
    }

    fn rule(peers: Vec<Peer>) -> Rule {
        Rule { peers: Peers::Listed(peers), ports: Ports::Any }
    }

    fn large(namespace: &str, blocks: usize) -> Policy {
        let blocks = (0..blocks).map(|i| block(&format!("11.{}.{}.0/24", i / 256, i % 256)));
        policy(namespace, "large", Selector::default(), vec![rule(blocks.collect())])
    }

    fn names(steps: &[Vec<Change>]) -> Vec<Vec<String>> {
        steps
            .iter()
            .map(|step| step.iter().map(|change| change.key.to_string()).collect())
            .collect()
    }

    fn moved() -> Change {
        let pod = pod("shop", "web", "10.1.0.99");
        Change { resource: Resource::Pod, key: pod.key.clone(), object: Some(Object::Pod(pod)) }
    }

    #[test]
    fn s33_large_policies_come_last_by_size_and_those_of_one_namespace_together() {
        let small = |name: &str| policy("evil", name, Selector::default(), vec![]);
        let shop = policy("shop", "db", selector("app", "db"), vec![]);
        let batch = vec![
            of(&large("worse", 900)),
            of(&small("a")),
            of(&large("evil", 300)),
            of(&shop),
            moved(),
        ];
        let steps = steps(batch, &bystanders());
        let expected = [&["shop/db", "shop/web"][..], &["evil/a", "evil/large"], &["worse/large"]];
        assert_eq!(names(&steps), expected);
    }

    #[test]
    fn s33_a_large_policy_that_goes_waits_too() {
        let mut cluster = bystanders();
        let gone = large("evil", 300);
        cluster.policies.insert(gone.key.clone(), gone.clone());
        let gone = Change { object: None, ..of(&gone) };
        let shop = policy("shop", "db", selector("app", "db"), vec![]);
        assert_eq!(names(&steps(vec![gone, of(&shop)], &cluster)), [["shop/db"], ["evil/large"]]);
    }

    #[test]
    fn s56_s57_nothing_changes_earlier_than_a_policy_that_depends_on_it() {
        let shop = policy("shop", "db", selector("app", "db"), vec![]);
        let evil = large("evil", 300);
        let together =
            |batch: Vec<Change>| assert_eq!(steps(batch.clone(), &bystanders()), [batch]);
        // A pod that its policies are to isolate before its first packet.
        let own = pod("evil", "new", "10.1.0.77");
        let own = Change {
            resource: Resource::Pod,
            key: own.key.clone(),
            object: Some(Object::Pod(own)),
        };
        together(vec![own, of(&evil), of(&shop)]);
        let node = Change { resource: Resource::Node, key: ObjectKey::new("", "n1"), object: None };
        together(vec![node, of(&evil), of(&shop)]);
        // Labels that a selector of the large policy may ask for.
        let mut abroad = evil.clone();
        let anywhere = Peer::Pods {
            namespaces: Namespaces::Matching(Selector::default()),
            pods: selector("a", "b"),
        };
        abroad.ingress =
            Isolation::Isolated(vec![rule((0..300).map(|_| anywhere.clone()).collect())]);
        let relabelled = |namespace: &str| Change {
            resource: Resource::Namespace,
            key: ObjectKey::new("", namespace),
            object: Some(Object::Namespace(namespace.into(), Namespace::default())),
        };
        together(vec![moved(), of(&abroad), of(&shop)]);
        together(vec![relabelled("shop"), of(&abroad), of(&shop)]);
        // What isolates by default may go together with the policy that is to isolate instead.
        together(vec![relabelled("evil"), of(&evil), of(&shop)]);
        // Also where only the version before this one asks for it.
        let mut cluster = bystanders();
        cluster.policies.insert(abroad.key.clone(), abroad);
        let batch = vec![moved(), of(&evil), of(&shop)];
        assert_eq!(steps(batch.clone(), &cluster), [batch]);
        // Address blocks and pods of the own namespace are nobody else's.
        let batch = vec![moved(), relabelled("shop"), of(&evil), of(&shop)];
        assert_eq!(steps(batch, &bystanders()).len(), 2);
    }
}
