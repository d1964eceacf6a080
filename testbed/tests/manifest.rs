//! Model to Kubernetes objects and back: the decoder must give the model again.

use netpolc_kube_sync::{Input, load};
use netpolc_policy::{Action, Mode, Port, Ports, TierApi, TierPeer, TierPolicy, TierRule};
use netpolc_testbed::{
    manifest,
    random::{self, Rng, Shape, cluster},
};

/// Whether the API has a form for the rule, or one that is read as this. A broken Deny or Pass is
/// read as one that denies everything, and the API of neither group has every port of a protocol.
fn has_a_form(rule: &TierRule, api: TierApi) -> bool {
    let ports = match &rule.ports {
        Ports::Any => &[][..],
        Ports::Listed(ports) => ports,
    };
    let all_ports = ports.iter().all(|port| match port {
        Port::Range { .. } | Port::Name(_) => true,
        Port::Nothing => rule.action == Action::Accept,
        Port::Every(_) | Port::Named { .. } => false,
    });
    let all_peers = rule.peers.iter().all(|peer| match peer {
        TierPeer::Nodes(_) => api == TierApi::Upstream,
        TierPeer::Nobody => rule.action == Action::Accept,
        TierPeer::Anybody => false,
        TierPeer::Pods { .. } | TierPeer::Networks(_) => true,
    });
    let named = ports.iter().any(|port| matches!(port, Port::Name(_)));
    let nameless = |peer| matches!(peer, &TierPeer::Networks(_) | &TierPeer::Nodes(_));
    let fits = api == TierApi::Aws || !named || !rule.peers.iter().any(nameless);
    let denies_everything = rule.action == Action::Deny
        && rule.peers == [TierPeer::Anybody]
        && rule.ports == Ports::Any;
    all_ports && all_peers && fits || denies_everything
}

fn with_a_form(policy: TierPolicy) -> TierPolicy {
    let api = policy.key.api;
    let keep = |rules: Vec<TierRule>| rules.into_iter().filter(|r| has_a_form(r, api)).collect();
    TierPolicy { ingress: keep(policy.ingress), egress: keep(policy.egress), ..policy }
}

#[test]
fn random_clusters_survive_writing_and_decoding() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let shape = Shape { pods: 20, policies: 20, tiers: 5, groups: false, ..Shape::default() };
        let mut model = cluster(&mut rng, &shape);
        random::security(&mut rng, &mut model);
        random::staged(&mut rng, &mut model);
        for policy in model.tiers.values_mut() {
            *policy = with_a_form(policy.clone());
        }
        for node in model.nodes.values_mut() {
            node.labels = random::labels(&mut rng);
        }
        for policy in model.policies.values_mut() {
            policy.mode = if rng.chance(20) { Mode::Audited } else { Mode::Enforced };
        }
        // What the API server adds, so that it is there on both sides.
        for pod in model.pods.values() {
            model.namespaces.entry(pod.key.namespace.clone()).or_default();
        }
        for (name, namespace) in &mut model.namespaces {
            let all = namespace.labels.iter().map(|(k, v)| (k.clone(), v.clone()));
            let own = ("kubernetes.io/metadata.name".into(), name.clone());
            namespace.labels = all.chain([own]).collect();
        }
        let text = manifest::cluster(&model).to_string();
        let loaded = load([Input::bytes("random.json", text.as_bytes())]);
        assert_eq!(loaded.incomplete, [] as [std::sync::Arc<str>; 0]);
        assert_eq!(loaded.cluster.namespaces, model.namespaces, "seed {seed}");
        assert_eq!(loaded.cluster.nodes, model.nodes, "seed {seed}");
        assert_eq!(loaded.cluster.pods, model.pods, "seed {seed}");
        assert_eq!(loaded.cluster.services, model.services, "seed {seed}");
        assert_eq!(loaded.cluster.tiers, model.tiers, "seed {seed}");
        assert_eq!(loaded.cluster.security, model.security, "seed {seed}");
        assert_eq!(loaded.cluster.staged, model.staged, "seed {seed}");
        for (key, policy) in &model.policies {
            assert_eq!(
                loaded.cluster.policies.get(key),
                Some(policy),
                "seed {seed}: {}",
                manifest::policy(policy)
            );
        }
    }
}
