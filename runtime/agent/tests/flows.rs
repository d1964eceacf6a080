//! What the agent says of packets: which it hears of, and whose rule each record names, also where
//! policies come and go meanwhile.

mod common;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use common::{Host, Net, PODS, POLICY, cluster, interface};
use netpolc_agent::Agent;
use netpolc_flow::{Flow, Verdict};
use netpolc_policy::ObjectKey;
use netpolc_target::{
    Arrival, DropReason, Frame, Hook, Mark, Noted, Verdict as Judged, frame::Packet,
};

const MORE: &str = "
---
kind: Pod
metadata: {name: other, namespace: default, labels: {role: other}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.3}]}
";

/// The cluster with db, ui and other, and these policies.
fn with(policies: &str) -> netpolc_policy::Cluster {
    cluster(&format!("{PODS}{MORE}{policies}"))
}

/// An agent that observes, on a node with db, ui and other.
fn observing(policies: &str) -> (Agent<Host, Net>, Host) {
    let host = Host::new();
    let mut agent = Agent::new("n1".into(), host.clone(), Net).unwrap();
    agent.update(with(policies)).unwrap();
    assert!(agent.observe().unwrap());
    (agent, host)
}

fn opening(from: &str, to: &str, port: u16) -> Frame {
    let [from, to]: [IpAddr; 2] = [from, to].map(|address| address.parse().unwrap());
    let bytes = Packet::new(from, to).tcp(4000, port, 0x02).build();
    Frame {
        interface: interface(to),
        arrival: Arrival::At(interface(from)),
        mark: Mark::Clear,
        bytes,
    }
}

const DB: &str = "10.0.0.1";
const UI: &str = "10.0.0.2";
const OTHER: &str = "10.0.0.3";

#[test]
fn s88_a_flow_names_both_ends_and_what_decided() {
    let (mut agent, host) = observing(POLICY);
    assert_eq!(host.packet(Hook::ToPod, &opening(UI, DB, 6379)), Judged::Next);
    assert_eq!(host.packet(Hook::ToPod, &opening(OTHER, DB, 6379)), Judged::Drop);
    assert_eq!(host.packet(Hook::ToPod, &opening("192.0.2.9", DB, 80)), Judged::Drop);
    let flows = agent.take_flows();
    let told: Vec<_> = flows
        .iter()
        .map(|flow| (flow.verdict, flow.source.name(), flow.destination.name(), flow.decided()))
        .collect();
    let db = || "default/db".to_owned();
    let isolated = vec!["isolated by default/db".to_owned()];
    assert_eq!(
        told,
        [
            (
                Verdict::Allowed,
                "default/ui".to_owned(),
                db(),
                vec!["default/db ingress[0] from[0] ports[0]".to_owned()]
            ),
            (Verdict::Denied, "default/other".to_owned(), db(), isolated.clone()),
            (Verdict::Denied, "192.0.2.9".to_owned(), db(), isolated),
        ]
    );
    let denied = &flows[1];
    assert_eq!(denied.reason.as_deref(), Some("policy"));
    assert_eq!((denied.source.port, denied.destination.port), (Some(4000), Some(6379)));
    assert_eq!((&*denied.protocol, denied.tcp_flags.as_deref()), ("TCP", Some("SYN")));
    assert_eq!(denied.policies(), ["default/db"]);
    assert_eq!(denied.destination.labels.get("role"), Some("db"));
    let json = serde_json::to_string(denied).unwrap();
    assert_eq!(serde_json::from_str::<Flow>(&json).unwrap(), *denied, "{json}");
    assert!(agent.take_flows().is_empty());
}

/// S88: a policy goes and another one takes its ids; whatever is read afterwards names the one that
/// decided.
#[test]
fn s88_a_record_names_the_policy_of_its_moment() {
    let named = |name: &str| POLICY.replace("{name: db,", &format!("{{name: {name},"));
    let (mut agent, host) = observing(&named("old"));
    for round in 0..6 {
        let (old, new) = if round % 2 == 0 { ("old", "new") } else { ("new", "old") };
        assert_eq!(host.packet(Hook::ToPod, &opening(OTHER, DB, 6379)), Judged::Drop);
        agent.update(with(&named(new))).unwrap();
        assert_eq!(host.packet(Hook::ToPod, &opening(OTHER, DB, 6379)), Judged::Drop);
        let named: Vec<_> =
            agent.take_flows().into_iter().flat_map(|flow| flow.policies()).collect();
        assert_eq!(named, [format!("default/{old}"), format!("default/{new}")]);
    }
}

/// S88: packets that come between any two steps of an update.
#[test]
fn s88_a_record_that_is_made_during_an_update_names_a_policy_that_decides_so() {
    let (mut agent, host) = observing(POLICY);
    let other = POLICY.replace("{name: db,", "{name: wide,").replace("role: ui", "role: other");
    let judged = Arc::new(Mutex::new(Vec::new()));
    let (wire, seen) = (host.wire(), judged.clone());
    agent.set_pulse(move || {
        let verdict = wire.packet(Hook::ToPod, &opening(OTHER, DB, 6379));
        seen.lock().unwrap().push(verdict);
    });
    for policies in [&other, POLICY, &other] {
        agent.update(with(policies)).unwrap();
    }
    let flows = agent.take_flows();
    let judged = judged.lock().unwrap();
    assert!(judged.len() > 3 && flows.len() == judged.len(), "{} of {}", flows.len(), judged.len());
    for (flow, judged) in flows.iter().zip(judged.iter()) {
        // The policy `wide` permits other, and `db` does not.
        let expected = match judged {
            Judged::Drop => "isolated by default/db",
            _ => "default/wide ingress[0] from[0] ports[0]",
        };
        assert_eq!(flow.decided(), [expected], "{judged:?}");
    }
}

/// S87: a flood takes the room of nobody else, and what is not recorded is counted exactly.
#[test]
fn s87_a_flood_hides_no_other_pod_and_every_missing_record_is_counted() {
    let ui = POLICY.replace("{name: db,", "{name: ui,").replace("{role: db}", "{role: ui}");
    let (mut agent, host) = observing(&format!("{POLICY}---{ui}"));
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    let mut missing = 0;
    for _ in 0..5 {
        for _ in 0..1_000 {
            assert_eq!(host.packet(Hook::ToPod, &opening(OTHER, DB, 80)), Judged::Drop);
        }
        for _ in 0..10 {
            assert_eq!(host.packet(Hook::ToPod, &opening(OTHER, UI, 80)), Judged::Drop);
        }
        for flow in agent.take_flows() {
            *told.entry(flow.destination.name()).or_default() += 1;
        }
        for ((pod, hook, noted), count) in agent.take_unrecorded() {
            assert_eq!(pod, Some(ObjectKey::new("default", "db")));
            assert_eq!((hook, noted), (Hook::ToPod, Noted::Dropped(DropReason::Policy)));
            missing += count;
        }
    }
    assert_eq!(told["default/ui"], 50);
    assert!(told["default/db"] < 1_000, "{told:?}");
    assert_eq!(told["default/db"] + missing, 5_000);
    assert_eq!(agent.take_unrecorded(), BTreeMap::new());
}

/// S89: nobody reads, and packets are judged all the same.
#[test]
fn s89_without_a_reader_records_stop_and_verdicts_do_not() {
    let (mut agent, host) = observing(POLICY);
    for _ in 0..10_000 {
        assert_eq!(host.packet(Hook::ToPod, &opening(OTHER, DB, 6379)), Judged::Drop);
    }
    let flows = agent.take_flows().len() as u64;
    let missing: u64 = agent.take_unrecorded().into_values().sum();
    assert!(flows < 1_000 && flows + missing == 10_000, "{flows} and {missing}");
}
