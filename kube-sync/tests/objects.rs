//! Pods, Namespaces and Nodes: what is read of them, and that the fast way and the thorough way
//! give the same. A comment before JSON makes it YAML, which only the thorough way reads.

use netpolc_kube_sync::{Input, Loaded, load};
use netpolc_policy::{ContainerPort, Grouping, ObjectKey, Phase, Pod, PodNetwork, Protocol};

/// Loads JSON in both ways.
fn both(json: &str) -> Loaded {
    let fast = load([Input::bytes("f", json)]);
    let thorough = load([Input::bytes("f", format!("# YAML\n{json}"))]);
    assert_eq!(fast.cluster, thorough.cluster, "{json}");
    let texts = |loaded: &Loaded| {
        loaded.problems.iter().map(|p| (p.field.clone(), p.message.clone())).collect::<Vec<_>>()
    };
    assert_eq!(texts(&fast), texts(&thorough), "{json}");
    fast
}

fn pod(json: &str) -> Pod {
    let loaded = both(json);
    assert_eq!(loaded.problems, [], "{json}");
    loaded.cluster.pods.values().next().unwrap().clone()
}

#[test]
fn s24_s30_a_pod_with_everything() {
    let pod = pod(r#"{"apiVersion":"v1","kind":"Pod",
            "metadata":{"name":"a","namespace":"n","uid":"1-2","labels":{"app":"x","b":""},"annotations":{"c":"d"}},
            "spec":{"nodeName":"node-1","priority":5,
                "initContainers":[
                    {"name":"once","ports":[{"containerPort":1,"name":"once"}]},
                    {"name":"side","restartPolicy":"Always","ports":[{"containerPort":2,"name":"web"}]}],
                "containers":[
                    {"name":"c","ports":[{"containerPort":3,"name":"web","protocol":"UDP","hostPort":30},{"containerPort":4,"hostPort":0}]},
                    {"name":"d"},{"name":"e","ports":null}]},
            "status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}]}}"#);
    let port = |name: Option<&str>, protocol, number, host_port| ContainerPort {
        name: name.map(Into::into),
        protocol,
        number,
        host_port,
    };
    let expected = Pod {
        key: ObjectKey::new("n", "a"),
        uid: Some("1-2".into()),
        node: Some("node-1".into()),
        labels: [("app", "x"), ("b", "")].into_iter().collect(),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![
            port(Some("web"), Protocol::Udp, 3, Some(30)),
            port(None, Protocol::Tcp, 4, None),
            port(Some("web"), Protocol::Tcp, 2, None),
        ],
        grouping: Grouping::default(),
        owner: None,
    };
    assert_eq!(pod, expected);
}

#[test]
fn s13_s14_s15_phases_and_networks() {
    let make = |metadata: &str, spec: &str, status: &str| {
        pod(&format!(
            r#"{{"kind":"Pod","metadata":{{"name":"a"{metadata}}},"spec":{spec},"status":{status}}}"#
        ))
    };
    for (phase, expected) in [
        (r#"{"phase":"Pending"}"#, Phase::Active),
        (r#"{"phase":"Unknown"}"#, Phase::Active),
        ("null", Phase::Active),
        (r#"{"phase":"Succeeded"}"#, Phase::Finished),
        (r#"{"phase":"Failed"}"#, Phase::Finished),
    ] {
        assert_eq!(make("", "null", phase).phase, expected);
    }
    let terminating =
        make(r#","deletionTimestamp":"2026-01-01T00:00:00Z""#, "{}", r#"{"phase":"Running"}"#);
    assert_eq!(terminating.phase, Phase::Active);
    assert_eq!(make("", r#"{"hostNetwork":true}"#, "{}").network, PodNetwork::Host);
    assert_eq!(make("", r#"{"hostNetwork":false,"nodeName":""}"#, "{}").network, PodNetwork::Own);
    assert_eq!(make("", "{}", r#"{"podIP":"10.0.0.1"}"#).addresses.len(), 1);
    assert_eq!(make("", "{}", r#"{"podIP":"","podIPs":[]}"#).addresses.len(), 0);
}

#[test]
fn an_odd_part_of_a_pod_is_said_and_left_out_and_the_pod_stays() {
    for (part, field) in [
        (r#""spec":"x""#, "spec"),
        (r#""spec":{"hostNetwork":"true"}"#, "spec.hostNetwork"),
        (r#""spec":{"nodeName":5}"#, "spec.nodeName"),
        (r#""spec":{"containers":{}}"#, "spec.containers"),
        (
            r#""spec":{"containers":[{"ports":[{"containerPort":70000}]}]}"#,
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            r#""spec":{"containers":[{"ports":[{"containerPort":"x"}]}]}"#,
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            r#""spec":{"containers":[{"ports":[{"name":"x"}]}]}"#,
            "spec.containers[0].ports[0].containerPort",
        ),
        (
            r#""spec":{"containers":[{"ports":[{"containerPort":1,"protocol":"tcp"}]}]}"#,
            "spec.containers[0].ports[0].protocol",
        ),
        (r#""status":{"podIPs":[{"ip":"10.0.0.256"}]}"#, "status.podIPs[0].ip"),
        (r#""status":{"podIP":5}"#, "status.podIP"),
        (r#""status":[]"#, "status"),
    ] {
        let loaded = both(&format!(
            r#"{{"kind":"Pod","metadata":{{"name":"a","labels":{{"app":"x"}}}},{part}}}"#
        ));
        assert_eq!(loaded.cluster.pods.len(), 1, "{part}");
        let pod = loaded.cluster.pods.values().next().unwrap();
        assert!(pod.is_policed() && pod.labels.get("app") == Some("x"));
        assert_eq!(loaded.problems.len(), 1, "{part} {:?}", loaded.problems);
        assert_eq!(loaded.problems[0].field.as_deref(), Some(field));
    }
}

#[test]
fn labels_that_are_no_strings_count_as_their_text() {
    let loaded =
        both(r#"{"kind":"Pod","metadata":{"name":"a","labels":{"n":5,"b":true,"z":null,"l":[]}}}"#);
    let labels = &loaded.cluster.pods.values().next().unwrap().labels;
    assert_eq!(
        (labels.get("n"), labels.get("b"), labels.get("z"), labels.get("l")),
        (Some("5"), Some("true"), Some(""), None)
    );
    assert_eq!(loaded.problems.len(), 3);
}

#[test]
fn nodes_have_internal_and_external_addresses() {
    let loaded = both(
        r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"node-1"},"status":{"addresses":[
            {"type":"InternalIP","address":"172.16.0.1"},{"type":"ExternalIP","address":"2001:db8::1"},
            {"type":"Hostname","address":"node-1"},{"type":"InternalIP","address":"172.16.0.1"}]}}"#,
    );
    assert_eq!(loaded.problems, []);
    let addresses: Vec<String> =
        loaded.cluster.nodes["node-1"].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["172.16.0.1", "2001:db8::1"]);
}

#[test]
fn namespaces_have_the_label_that_the_api_server_sets() {
    let loaded = both(
        r#"{"kind":"List","items":[{"kind":"Namespace","metadata":{"name":"n","labels":{"a":"b","kubernetes.io/metadata.name":"x"}}},
            {"kind":"Pod","metadata":{"name":"p","namespace":"m"}}]}"#,
    );
    let label = |name: &str| {
        let labels = &loaded.cluster.namespaces[name].labels;
        labels.get("kubernetes.io/metadata.name").map(str::to_owned)
    };
    assert_eq!((label("n").as_deref(), label("m").as_deref()), (Some("n"), Some("m")));
    assert_eq!(loaded.cluster.namespaces["n"].labels.get("a"), Some("b"));
}

#[test]
fn both_ways_give_the_same_for_thousands_of_odd_objects() {
    let seed = std::cell::Cell::new(7_u64);
    let next = |bound: usize| {
        seed.set(seed.get().wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407));
        (seed.get() >> 33) as usize % bound
    };
    let values = [
        "null",
        "5",
        "0",
        "70000",
        "-1",
        "true",
        "false",
        "\"\"",
        "\"x\"",
        "\"10.0.0.1\"",
        "\"fd00::1\"",
        "\"Always\"",
        "\"TCP\"",
        "\"UDP\"",
        "\"Failed\"",
        "[]",
        "{}",
        "[{}]",
        "[null]",
        "\"a\\nb\"",
        "[{\"ip\":\"10.0.0.2\"}]",
    ];
    let item = |i: usize| {
        let value = |usual: &str| {
            if next(12) == 0 { values[next(values.len())].to_owned() } else { usual.to_owned() }
        };
        let port = format!(
            r#"{{"containerPort":{},"name":{},"protocol":{},"hostPort":{}}}"#,
            value("80"),
            value("\"web\""),
            value("\"TCP\""),
            value("8080")
        );
        let ports = value(&format!("[{port}]"));
        let containers =
            value(&format!(r#"[{{"ports":{ports},"restartPolicy":{}}}]"#, value("\"Always\"")));
        let spec = value(&format!(
            r#"{{"nodeName":{},"hostNetwork":{},"containers":{containers},"initContainers":{containers}}}"#,
            value("\"node\""),
            value("false")
        ));
        let status = value(&format!(
            r#"{{"phase":{},"podIP":{},"podIPs":{},"addresses":[{{"type":"InternalIP","address":{}}}]}}"#,
            value("\"Running\""),
            value("\"10.0.0.1\""),
            value(r#"[{"ip":"10.0.0.1"}]"#),
            value("\"172.16.0.1\"")
        ));
        let metadata = value(&format!(
            r#"{{"name":{},"namespace":{},"uid":{},"labels":{}}}"#,
            value(&format!("\"a{i}\"")),
            value("\"n\""),
            value("\"u\""),
            value(&format!(r#"{{"app":{}}}"#, value("\"x\"")))
        ));
        let kind = value(["\"Pod\"", "\"Node\"", "\"Namespace\""][i % 3]);
        format!(
            r#"{{"apiVersion":{},"kind":{kind},"metadata":{metadata},"spec":{spec},"status":{status}}}"#,
            value("\"v1\"")
        )
    };
    for round in 0..300 {
        let items: Vec<String> = (0..10).map(|i| item(round * 10 + i)).collect();
        both(&format!(r#"{{"kind":"List","apiVersion":"v1","items":[{}]}}"#, items.join(",")));
    }
}

#[test]
fn s48_services_are_addresses_and_ports_that_nodes_translate() {
    let service = |spec: &str, status: &str| {
        let json = format!(
            r#"{{"kind":"Service","metadata":{{"name":"s","namespace":"n"}},"spec":{spec},"status":{status}}}"#
        );
        let loaded = both(&json);
        assert_eq!(loaded.problems, [], "{json}");
        loaded.cluster.services[&ObjectKey::new("n", "s")].clone()
    };
    let addresses =
        |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<std::net::IpAddr>>();
    let full = service(
        r#"{"type":"LoadBalancer","clusterIP":"10.96.0.7","clusterIPs":["10.96.0.7","fd00:96::7"],"externalIPs":["192.0.2.1"],
            "healthCheckNodePort":31999,"selector":{"app":"x"},
            "ports":[{"port":80,"targetPort":"web","nodePort":30080},{"port":53,"protocol":"UDP","nodePort":0}]}"#,
        r#"{"loadBalancer":{"ingress":[{"ip":"198.51.100.1"},{"ip":"198.51.100.2","ipMode":"Proxy"},{"hostname":"x.example"},
            {"ip":"198.51.100.3","ipMode":"VIP"}]}}"#,
    );
    let port =
        |protocol, number, node_port| netpolc_policy::ServicePort { protocol, number, node_port };
    assert_eq!(
        full.addresses,
        addresses(&["10.96.0.7", "fd00:96::7", "192.0.2.1", "198.51.100.1", "198.51.100.3"])
    );
    assert_eq!(full.ports, [port(Protocol::Tcp, 80, Some(30080)), port(Protocol::Udp, 53, None)]);
    assert_eq!(full.health_check, Some(31999));
    assert_eq!(
        service(r#"{"clusterIP":"10.96.0.8"}"#, "null").addresses,
        addresses(&["10.96.0.8"]),
        "an old server's"
    );
    let none = netpolc_policy::Service::default();
    assert_eq!(
        service(r#"{"clusterIP":"None","clusterIPs":["None"],"ports":[{"port":80}]}"#, "{}"),
        none
    );
    assert_eq!(
        service(
            r#"{"type":"ExternalName","externalName":"x.example","ports":[{"port":80}]}"#,
            "{}"
        ),
        none
    );

    let odd = both(
        r#"{"kind":"Service","metadata":{"name":"s"},"spec":{"clusterIP":"10.96.0.9","ports":[{"port":0},{"port":1}]}}"#,
    );
    assert_eq!(odd.problems[0].field.as_deref(), Some("spec.ports[0].port"));
    assert_eq!(
        odd.cluster.services[&ObjectKey::new("default", "s")].ports,
        [port(Protocol::Tcp, 1, None)]
    );
}
