//! A cluster that is read once, through an API server within the process.

use netpolc_kube_sync::{Absent, Input, MadeUp, ObjectId, ObjectKind, watch::survey_cluster};
use netpolc_policy::{
    ObjectKey,
    frontend::{PortChoice, backends},
};
use netpolc_testbed::kube::fake::Fake;
use serde_json::{Value, json};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": version, "kind": kind,
        "metadata": {"name": name, "namespace": "shop"}});
    for (field, value) in rest.as_object().unwrap() {
        match field.as_str() {
            "metadata" => value.as_object().unwrap().iter().for_each(|(name, value)| {
                object["metadata"][name] = value.clone();
            }),
            _ => object[field] = value.clone(),
        }
    }
    object
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c",
        "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

fn fill(fake: &Fake) {
    let policy = "networking.k8s.io/v1";
    for object in [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        object(
            "v1",
            "Pod",
            "web-5d8f-x",
            json!({"metadata": {"labels": {"app": "web", "pod-template-hash": "5d8f"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": "web-5d8f", "controller": true, "uid": "1"}]},
                "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http",
                    "containerPort": 8080}]}]},
                "status": {"podIP": "10.0.0.1"}}),
        ),
        object("apps/v1", "Deployment", "web", json!({"spec": {"template": template("web")}})),
        object("apps/v1", "Deployment", "idle", json!({"spec": {"template": template("idle")}})),
        object(
            "v1",
            "Service",
            "web",
            json!({"spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}),
        ),
        object(policy, "NetworkPolicy", "all", json!({"spec": {"podSelector": {}}})),
        object(
            policy,
            "NetworkPolicy",
            "odd",
            json!({"spec": {"podSelector": {}, "ingress": [{"form": []}]}}),
        ),
    ] {
        fake.put(&object);
    }
}

#[test]
fn a_cluster_is_read_as_files_are() {
    let fake = Fake::new();
    fill(&fake);
    let found = survey_cluster(&fake.access(), [], Absent::MadeUp).unwrap();
    let cluster = &found.loaded.cluster;
    assert_eq!((cluster.policies.len(), cluster.nodes.len(), cluster.pods.len()), (2, 1, 2));
    assert_eq!(found.made_up, [(key("idle"), MadeUp::Pod)].into());
    let owner = |name: &str| cluster.pods[&key(name)].owner.as_ref().map(ToString::to_string);
    assert_eq!(owner("web-5d8f-x").as_deref(), Some("Deployment web"));
    let said: Vec<String> = found.loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("kubernetes: NetworkPolicy shop/odd: spec.ingress[0].form:"),
        "{said:?}"
    );
    let all = ObjectId { kind: ObjectKind::Policy, key: key("all") };
    let line = found.lines.field(&all, "spec.podSelector").unwrap();
    assert_eq!((line.to_string().as_str(), line.number), ("kubernetes", None));
    assert!(line.text.contains(r#""podSelector":{}"#), "{}", line.text);
    let ends = backends(cluster, &found.frontends, &key("web"), &PortChoice::All).unwrap();
    assert_eq!((ends.len(), ends[0].port), (1, 8080));
    assert_eq!(ends[0].via, Some(("10.96.0.1".parse().unwrap(), 80)));
    // Every kind is listed once and never watched, those that the cluster does not have too.
    assert_eq!(fake.asked("watch=").len(), 0);
    for kind in
        ["/apis/networking.k8s.io", "/apis/networking.k8s.aws", "cronjobs", "serviceaccounts"]
    {
        assert_eq!(fake.asked(kind).len(), 1, "{kind}");
    }
}

#[test]
fn what_is_installed_is_read_and_files_add_to_it() {
    let fake = Fake::new();
    fill(&fake);
    fake.install("ClusterNetworkPolicy");
    fake.put(&json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy", "metadata": {"name": "all"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}));
    let groups = r#"{"SecurityGroups": [{"GroupId": "sg-1", "IpPermissions": []}]}"#;
    let files = [Input::bytes("groups.json", groups)];
    let found = survey_cluster(&fake.access(), files, Absent::Absent).unwrap();
    assert_eq!(found.loaded.cluster.tiers.len(), 1);
    assert_eq!(found.loaded.cluster.security.groups.len(), 1);
    assert!(found.made_up.is_empty() && found.loaded.cluster.pods.len() == 1);
}

#[test]
fn a_kind_that_cannot_be_listed_is_an_error_and_no_answer_is_given() {
    let fake = Fake::new();
    fake.forbid("NetworkPolicy");
    let error = survey_cluster(&fake.access(), [], Absent::Absent).unwrap_err().to_string();
    assert!(
        error.starts_with("networkpolicies.networking.k8s.io cannot be listed: Forbidden; ")
            && error.contains("verb list"),
        "{error}"
    );
    // No verdict depends on a workload, so what is secret is said, and the rest is answered.
    let fake = Fake::new();
    fill(&fake);
    fake.forbid("Deployment");
    let found = survey_cluster(&fake.access(), [], Absent::MadeUp).unwrap();
    let said = found.loaded.problems.last().unwrap().line();
    assert!(said.contains("warning: kubernetes: deployments.apps cannot be listed"), "{said}");
    assert!(found.made_up.is_empty() && found.loaded.cluster.pods.len() == 1);
    assert_eq!(fake.asked("/apis/apps").len(), 4);
    let found = survey_cluster(&fake.access(), [], Absent::Absent).unwrap();
    assert_eq!((found.loaded.problems.len(), fake.asked("/apis/apps").len()), (1, 4));
    let fake = Fake::new();
    fake.go_away();
    let error = survey_cluster(&fake.access(), [], Absent::Absent).unwrap_err().to_string();
    assert!(error.contains("connection refused"), "{error}");
}
