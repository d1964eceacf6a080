//! Model to Kubernetes objects and back: the decoder must give the model again.

use netpolc_kube_sync::{Input, load};
use netpolc_testbed::{
    manifest,
    random::{Rng, Shape, cluster},
};

#[test]
fn random_clusters_survive_writing_and_decoding() {
    for seed in 0..100 {
        let mut model =
            cluster(&mut Rng::new(seed), &Shape { pods: 20, policies: 20, ..Shape::default() });
        // What the API server adds, so that it is there on both sides.
        for pod in model.pods.values() {
            model.namespaces.entry(pod.key.namespace.clone()).or_default();
        }
        for (name, labels) in &mut model.namespaces {
            let all = labels.iter().map(|(k, v)| (k.clone(), v.clone()));
            *labels = all.chain([("kubernetes.io/metadata.name".into(), name.clone())]).collect();
        }
        let text = manifest::cluster(&model).to_string();
        let loaded = load([Input::bytes("random.json", text.as_bytes())]);
        assert_eq!(loaded.incomplete, [] as [std::sync::Arc<str>; 0]);
        assert_eq!(loaded.cluster.namespaces, model.namespaces, "seed {seed}");
        assert_eq!(loaded.cluster.nodes, model.nodes, "seed {seed}");
        assert_eq!(loaded.cluster.pods, model.pods, "seed {seed}");
        assert_eq!(loaded.cluster.services, model.services, "seed {seed}");
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
