//! What an agent's loop says of a cluster with every kind of policy, by a server within the
//! process: the NodePolicyStatus of its node, and the Event about policies that contradict each
//! other.

mod common;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{Host, Net};
use netpolc_agent::serve::{Options, cluster_loop, metrics::Metrics, record::Record};
use netpolc_kube_sync::{
    Families,
    watch::{self, Lists},
};
use netpolc_testbed::kube::fake::Fake;
use serde_json::{Value, json};

fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "c"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
}

fn policy(name: &str, app: &str, annotations: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop", "generation": 2,
            "annotations": annotations},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}})
}

fn tier(name: &str, action: &str, network: &str) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name, "generation": 3},
        "spec": {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}},
            "egress": [{"action": action, "to": [{"networks": [network]}]}]}})
}

/// S64, S76, S84: the kinds of policy are counted, and the pair of one priority is a problem of the
/// node and an Event on the one whose answer does not count.
#[tokio::test]
async fn s64_s76_s84_a_node_says_which_policies_it_has_and_which_contradict_each_other() {
    let fake = Fake::new();
    for kind in ["ClusterNetworkPolicy", "SecurityGroupPolicy", "SecurityGroup"] {
        fake.install(kind);
    }
    fake.install("CiliumNetworkPolicy");
    fake.put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}));
    fake.put(&pod("web", "n1", "10.9.0.1"));
    fake.put(&pod("db", "n1", "10.9.0.2"));
    fake.put(&pod("far", "n2", "10.9.0.3"));
    let tried = || json!({"netpolc.io/mode": "audit"});
    fake.put(&policy("db", "db", json!({})));
    fake.put(&policy("tried", "web", tried()));
    fake.put(&policy("tried-elsewhere", "far", tried()));
    fake.put(&tier("allow", "Accept", "203.0.113.0/24"));
    fake.put(&tier("deny", "Deny", "203.0.113.128/25"));
    let meta = |name: &str| json!({"name": name, "namespace": "shop"});
    fake.put(&json!({"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy",
        "metadata": meta("p"), "spec": {"podSelector": {"matchLabels": {"app": "web"}},
            "securityGroups": {"groupIds": ["sg-1"]}}}));
    fake.put(&json!({"apiVersion": "ec2.services.k8s.aws/v1alpha1", "kind": "SecurityGroup",
        "metadata": meta("g"), "status": {"id": "sg-1"},
        "spec": {"name": "web", "egressRules": [
            {"ipProtocol": "tcp", "fromPort": 443, "toPort": 443,
                "ipRanges": [{"cidrIP": "0.0.0.0/0"}]}]}}));
    fake.put(&json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": meta("c"), "spec": {}}));

    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpolc-test-status-{}", std::process::id()));
    let options = Options::new("n1", pin_dir.clone());
    let source = watch::Options {
        access: fake.access(),
        node: Some("n1".into()),
        lists: Lists::Automatic,
        families: Families { tiers: true, groups: true, staged: true },
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let metrics = Metrics::new(pin_dir.clone());
    let agent = cluster_loop::serve(&options, source, metrics, Host::new(), Net, async {
        drop(stopped.await)
    });
    let story = async {
        let newest = || fake.written("/nodepolicystatuses/n1/status").pop().unwrap_or_default();
        let began = Instant::now();
        let foreign = "1 CiliumNetworkPolicy (cilium.io/v2) in total";
        let named = |status: &Value, part: &str| {
            status["problems"].as_array().is_some_and(|problems| {
                problems.iter().any(|problem| problem.as_str().unwrap().contains(part))
            })
        };
        let status = loop {
            let status = newest()["status"].clone();
            if named(&status, foreign) && status["policyCount"] == 4 {
                break status;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let count = |field: &str| status[field].as_u64().unwrap();
        assert_eq!(count("networkPolicyCount"), 1, "{status}");
        assert_eq!(count("clusterNetworkPolicyCount"), 2, "{status}");
        assert_eq!(count("securityGroupCount"), 1, "{status}");
        assert_eq!(count("auditedPolicyCount"), 1, "{status}");
        let policies = status["policies"].as_array().unwrap();
        let of = |name: &str| policies.iter().find(|p| p["policy"] == name).unwrap();
        assert_eq!(
            (&of("allow")["kind"], &of("allow")["generation"]),
            (&"ClusterNetworkPolicy".into(), &3.into())
        );
        assert_eq!(
            (&of("shop/db")["kind"], &of("shop/db")["generation"]),
            (&"NetworkPolicy".into(), &2.into())
        );
        assert_eq!(of("sg-1")["kind"], "SecurityGroup");
        let conflict = "deny and allow have one priority and answer differently for ";
        assert!(named(&status, conflict), "{status}");
        let overruled = || {
            let events = fake.written("/events").into_iter();
            events.filter(|event| event["reason"] == "Overruled").collect::<Vec<Value>>()
        };
        while overruled().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "no Event");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let events = overruled();
        assert_eq!(events.len(), 1, "{events:?}");
        let about = &events[0]["regarding"];
        assert_eq!(
            (&about["kind"], &about["name"]),
            (&"ClusterNetworkPolicy".into(), &"allow".into())
        );
        assert_eq!(about["apiVersion"], "policy.networking.k8s.io/v1alpha2");
        assert!(events[0]["note"].as_str().unwrap().starts_with(conflict), "{events:?}");
        stop.send(()).unwrap();
    };
    let (outcome, ()) = tokio::join!(agent, story);
    outcome.unwrap();
    Record::remove(&pin_dir).unwrap();
}
