//! Probes about Services.

use netpolc_kube_sync::{Absent, Input, Survey, survey};

use super::*;

const SHOP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: ui, namespace: shop}
spec: {template: {metadata: {labels: {app: ui}}, spec: {containers: [{name: c}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: api-0, namespace: shop, labels: {app: api}}
spec: {containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {app: api}
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {app: ui}}}], ports: [{port: web}]}]
";

fn shop() -> Survey {
    let survey = survey([Input::bytes("f", SHOP)], Absent::MadeUp);
    assert_eq!(survey.loaded.problems, []);
    survey
}

fn ask(probe: Value) -> Result<Routes, String> {
    let shop = shop();
    let probe = serde_json::from_value(probe).unwrap();
    routes(&shop.loaded.cluster, &shop.frontends, &probe).map(|found| found.unwrap())
}

#[test]
fn s48_a_service_is_asked_about_by_its_backends() {
    for probe in [
        json!({"src": "shop/ui", "service": "shop/api", "port": "http"}),
        json!({"src": "shop/ui", "service": "shop/api", "port": 80}),
        json!({"src": "shop/ui", "service": "shop/api:80", "proto": "tcp"}),
        json!({"src": "shop/ui", "dst": "svc/shop/api:http"}),
        json!({"src": "shop/ui", "dst": "svc/shop/api", "port": "80"}),
    ] {
        let found = ask(probe.clone()).unwrap();
        assert_eq!(found.len(), 2, "{probe}: both families");
        let (shown, question) = &found[0];
        let expected = json!({"pod": "shop/api-0", "address": "10.1.0.1", "proto": "tcp",
            "port": 8080, "servicePort": 80});
        assert_eq!(Value::Object(shown.clone()), expected, "{probe}");
        let pod = Party::Pod(ObjectKey::new("shop", "api-0"), "10.1.0.1".parse().unwrap());
        assert_eq!((&question.destination, question.port), (&pod, Some(8080)));
        assert_eq!(question.via, Some(("10.96.0.7".parse().unwrap(), 80)));
        assert!(found[1].1.source.address().is_ipv6() && found[1].1.via.is_none());
    }
    let count = |probe| ask(probe).unwrap().len();
    assert_eq!(count(json!({"src": "shop/ui", "service": "shop/api"})), 4);
    assert_eq!(count(json!({"src": "shop/ui", "service": "shop/api", "family": 6})), 2);
    assert_eq!(count(json!({"src": "192.0.2.1", "service": "shop/api", "proto": "udp"})), 1);
}

#[test]
fn a_probe_about_no_service_is_left_to_others() {
    let shop = shop();
    let probe = serde_json::from_value(json!({"src": "shop/ui", "dst": "shop/api-0"})).unwrap();
    assert!(routes(&shop.loaded.cluster, &shop.frontends, &probe).unwrap().is_none());
}

#[test]
fn wrong_probes_about_services_name_the_key_and_what_it_should_be() {
    for (probe, part) in [
        (json!({"src": "shop/ui", "service": "api"}), "service: \"api\" is not the name"),
        (json!({"src": "shop/ui", "dst": "svc/api:http"}), "svc/namespace/name:port"),
        (json!({"src": "shop/ui", "service": 5}), "service: 5 is not a string"),
        (json!({"src": "shop/ui", "service": "shop/x"}), "no Service shop/x"),
        (json!({"src": "shop/ui", "service": "shop/api", "dst": "shop/api-0"}), "one of them"),
        (json!({"src": "shop/ui", "dst": "svc/shop/api:https"}), "http (TCP 80), dns (UDP 53)"),
        (json!({"src": "shop/ui", "dst": "svc/shop/api:"}), "is empty"),
        (json!({"src": "shop/ui", "dst": "svc/shop/api:80", "port": 80}), "write it once"),
        (json!({"src": "shop/ui", "service": "shop/api", "port": true}), "port: true"),
        (json!({"src": "shop/ui", "service": "shop/api", "via": "10.96.0.7:80"}), "via: "),
        (json!({"src": "shop/ui", "service": "shop/api", "proto": "icmp"}), "proto: "),
        (json!({"src": "shop/ui", "service": "shop/api:80", "proto": "udp"}), "for UDP"),
        (json!({"service": "shop/api"}), "src: the key is missing"),
    ] {
        let error = ask(probe.clone()).unwrap_err();
        assert!(error.contains(part), "{probe}: {error}");
    }
}
