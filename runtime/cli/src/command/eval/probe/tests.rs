//! Probes and the questions that they are.

use netpolc_policy::{Labels, Phase, Pod};
use serde_json::json;

use super::*;

pub(in crate::command::eval) fn cluster() -> Cluster {
    let pod = |name: &str, addresses: &[&str]| Pod {
        key: ObjectKey::new("shop", name),
        uid: None,
        node: None,
        labels: Labels::default(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Default::default(),
        owner: None,
    };
    let pods = [
        pod("ui", &["10.0.0.1", "fd00::1"]),
        pod("carts", &["10.0.0.2", "fd00::2"]),
        pod("new", &[]),
    ];
    Cluster { pods: pods.into_iter().map(|p| (p.key.clone(), p)).collect(), ..Cluster::default() }
}

fn ask(probe: Value) -> Result<Question, String> {
    question(&cluster(), &serde_json::from_value(probe).unwrap())
}

#[test]
fn s24_the_family_chooses_between_the_addresses_of_dual_stack_pods() {
    let q = ask(json!({"src": "shop/ui", "dst": "shop/carts", "port": 80})).unwrap();
    assert_eq!((q.source.address(), q.protocol), ("10.0.0.1".parse().unwrap(), Transport::Tcp));
    let timestamp = json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "type": 13});
    assert_eq!(ask(timestamp).unwrap().port, Some(13 << 8), "S77: code 0 where none is named");
    let q =
        ask(json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "family": 6})).unwrap();
    assert_eq!(
        (q.destination.address(), q.protocol),
        ("fd00::2".parse().unwrap(), Transport::Other(58))
    );
    let q =
        ask(json!({"src": "2001:db8::1", "dst": "shop/carts", "proto": 17, "port": "53"})).unwrap();
    assert_eq!((q.destination.address(), q.port), ("fd00::2".parse().unwrap(), Some(53)));
}

#[test]
fn wrong_probes_name_the_key_and_what_it_should_be() {
    for (probe, part) in [
        (json!({"dst": "shop/ui"}), "src: the key is missing"),
        (json!({"src": "ui", "dst": "shop/ui"}), "neither"),
        (json!({"src": "shop/x", "dst": "shop/ui"}), "no pod shop/x"),
        (json!({"src": "shop/new", "dst": "shop/ui"}), "has no address"),
        (json!({"src": "shop/ui", "dst": "shop/carts"}), "port: the key is missing"),
        (json!({"src": "shop/ui", "dst": "shop/carts", "port": 65536}), "port: 65536"),
        (
            json!({"src": "shop/ui", "dst": "shop/carts", "proto": "tpc", "port": 1}),
            "proto: \"tpc\"",
        ),
        (
            json!({"src": "shop/ui", "srcIP": "10.9.9.9", "dst": "shop/carts", "port": 1}),
            "no address 10.9.9.9",
        ),
        (json!({"src": "10.0.0.1", "dst": "fd00::2", "port": 1}), "in common"),
        (json!({"src": "shop/ui", "dst": "shop/carts", "port": 1, "family": 5}), "family"),
        (json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "code": 1}), "type"),
        (json!({"src": "shop/ui", "dst": "shop/carts", "proto": 47, "type": 1}), "type"),
        (json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "type": 256}), "type"),
        (json!({"src": "shop/ui", "dst": "shop/carts", "proto": "icmp", "type": 3}), "error"),
    ] {
        let error = ask(probe.clone()).unwrap_err();
        assert!(error.contains(part), "{probe}: {error}");
    }
}
