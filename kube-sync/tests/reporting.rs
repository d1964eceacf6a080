//! What agents write about objects into the cluster: the condition of ClusterNetworkPolicies, and
//! Events.

use std::{sync::Arc, time::Duration};

use netpolc_kube_sync::{
    Families,
    watch::{Lists, Options, Update, Watch},
};
use netpolc_policy::Cluster;
use netpolc_testbed::kube::fake::Fake;
use serde_json::{Value, json};

const ALL: Families = Families { tiers: true, groups: true, staged: true };
/// Longer than the longest turn.
const LONG: Duration = Duration::from_secs(25);
/// Longer than it takes until the agents have seen what one of them has written.
const SHORT: Duration = Duration::from_secs(2);

/// Agents, each with its thread and its connections.
fn agents(fake: &Arc<Fake>, count: usize) {
    for number in 0..count {
        let node = Some(format!("n{number}").into());
        let options =
            Options { access: fake.access(), node, lists: Lists::Automatic, families: ALL };
        let mut watch = Watch::start(options).unwrap();
        tokio::spawn(async move {
            let mut cluster = Cluster::default();
            loop {
                match watch.next(&cluster).await {
                    Update::Ended => panic!("the watching thread is gone"),
                    Update::First(first) => cluster = first,
                    Update::Changes(changes) => {
                        changes.into_iter().for_each(|change| change.apply(&mut cluster));
                    }
                }
            }
        });
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn tier(name: &str, generation: i64, to: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": generation},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "egress": [{"action": "Deny", "to": to}]}})
}

/// The condition that netpolc has written.
fn condition(fake: &Fake, name: &str) -> Value {
    let object = fake.get("ClusterNetworkPolicy", "", name).unwrap();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == "netpolc.dev/Accepted").unwrap_or_default()
}

/// The same object with another generation, and the status that it has.
fn edited(fake: &Fake, name: &str, generation: i64, to: Value) -> Value {
    let mut object = fake.get("ClusterNetworkPolicy", "", name).unwrap();
    object["metadata"]["generation"] = generation.into();
    object["spec"]["egress"][0]["to"] = to;
    object
}

#[tokio::test]
async fn s72_many_agents_write_one_condition_for_each_generation() {
    let fake = Fake::new();
    fake.install("ClusterNetworkPolicy");
    fake.put(&tier("a", 1, json!([{"namespaces": {}}])));
    let mut other = tier("b", 7, json!([{"domainNames": ["example.com"]}]));
    other["status"] = json!({"conditions": [{"type": "Ready-In-Zone-x", "status": "True"}]});
    fake.put(&other);
    agents(&fake, 8);
    until("both have the condition", || {
        ["a", "b"].iter().all(|name| condition(&fake, name) != Value::Null)
    })
    .await;
    let (a, b) = (condition(&fake, "a"), condition(&fake, "b"));
    assert_eq!((&a["status"], &a["reason"]), (&"True".into(), &"Accepted".into()), "{a}");
    assert_eq!(a["observedGeneration"], 1);
    assert_eq!((&b["status"], &b["reason"]), (&"False".into(), &"PartlyInvalid".into()), "{b}");
    let message = b["message"].as_str().unwrap();
    assert!(message.starts_with("spec.egress[0].to[0].domainNames: "), "{message}");
    let conditions = fake.get("ClusterNetworkPolicy", "", "b").unwrap();
    assert_eq!(conditions["status"]["conditions"][0]["type"], "Ready-In-Zone-x", "it stays");

    // An edit that mends it is another generation.
    fake.put(&edited(&fake, "b", 8, json!([{"namespaces": {}}])));
    until("the new generation", || condition(&fake, "b")["observedGeneration"] == 8).await;
    assert_eq!(condition(&fake, "b")["status"], "True");
    // One who starts later finds nothing to write, but what an older version has said.
    let mut outdated = fake.get("ClusterNetworkPolicy", "", "a").unwrap();
    let since = json!("2026-01-01T00:00:00Z");
    outdated["status"]["conditions"][0]["message"] = "words of an older version".into();
    outdated["status"]["conditions"][0]["lastTransitionTime"] = since.clone();
    fake.put(&outdated);
    tokio::time::sleep(SHORT).await;
    let sent = |name: &str| fake.written(&format!("/clusternetworkpolicies/{name}/status")).len();
    assert_eq!(condition(&fake, "a")["message"], "words of an older version");
    agents(&fake, 2);
    until("the words are new", || condition(&fake, "a")["message"] == a["message"]).await;
    assert_eq!(condition(&fake, "a")["lastTransitionTime"], since, "the status is the same");
    tokio::time::sleep(SHORT).await;
    // What was refused because somebody else was first counts here too.
    assert!((2..=4).contains(&sent("a")), "{}", sent("a"));
    assert!((2..=4).contains(&sent("b")), "{}", sent("b"));
    let version = |name: &str| {
        let object = fake.get("ClusterNetworkPolicy", "", name).unwrap();
        object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    // The server counts every write that it accepts: four by this test, and four by agents.
    assert_eq!(version("a").max(version("b")), 10 + 4 + 4);
}

#[tokio::test]
async fn rights_to_write_that_are_missing_stop_nothing() {
    let fake = Fake::new();
    fake.install("ClusterNetworkPolicy");
    fake.forbid_writes("ClusterNetworkPolicy");
    fake.put(&tier("a", 1, json!([{"namespaces": {}}])));
    agents(&fake, 1);
    until("it has tried", || !fake.written("/a/status").is_empty()).await;
    fake.put(&tier("b", 1, json!([{"domainNames": ["example.com"]}])));
    until("Events go on", || !fake.written("/events").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!((fake.written("/a/status").len(), fake.written("/b/status").len()), (1, 0));
}

/// S61, S72: each kind of policy that could not be taken whole gets one Event, however many agents
/// there are and however often the object is seen.
#[tokio::test]
async fn s61_s72_every_kind_of_policy_that_is_broken_has_one_event() {
    let fake = Fake::new();
    for kind in ["ClusterNetworkPolicy", "StagedKubernetesNetworkPolicy", "SecurityGroupPolicy"] {
        fake.install(kind);
    }
    let meta = |name: &str| json!({"name": name, "namespace": "shop", "uid": name});
    let ports = json!([{"ports": [{"protocol": "TCP", "port": 70000}]}]);
    fake.put(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": meta("policy"), "spec": {"podSelector": {}, "ingress": ports}}));
    fake.put(
        &json!({"apiVersion": "projectcalico.org/v3", "kind": "StagedKubernetesNetworkPolicy",
        "metadata": meta("staged"), "spec": {"podSelector": {}, "ingress": ports}}),
    );
    fake.put(&json!({"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy",
        "metadata": meta("groups"), "spec": {"podSelector": {}}}));
    fake.put(&tier("tier", 1, json!([{"domainNames": ["example.com"]}])));
    fake.put(&tier("sound", 1, json!([{"namespaces": {}}])));
    agents(&fake, 2);
    until("four Events", || fake.written("/events").len() >= 4).await;
    // The condition changes the object, which is no reason for another Event.
    until("the condition", || condition(&fake, "tier") != Value::Null).await;
    tokio::time::sleep(SHORT).await;
    let mut events: Vec<(String, String, String)> = fake
        .written("/events")
        .iter()
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let about = &event["regarding"];
            (text(&about["kind"]), text(&about["name"]), text(&event["metadata"]["namespace"]))
        })
        .collect();
    events.sort();
    let owned = |(kind, name, namespace): (&str, &str, &str)| {
        (kind.to_owned(), name.to_owned(), namespace.to_owned())
    };
    let expected = [
        ("ClusterNetworkPolicy", "tier", "default"),
        ("NetworkPolicy", "policy", "shop"),
        ("SecurityGroupPolicy", "groups", "shop"),
        ("StagedKubernetesNetworkPolicy", "staged", "shop"),
    ];
    assert_eq!(events, expected.map(owned));
    let notes = fake.written("/events");
    assert!(notes.iter().all(|event| event["reason"] == "NotUnderstood"), "{notes:?}");
}
