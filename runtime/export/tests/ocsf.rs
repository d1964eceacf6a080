//! Every event that netpolc writes is one of the published schema of OCSF, of which `data` has the
//! part that matters: no attribute but those of its class, profiles and objects, each of its type,
//! with what is required and with numbers that mean what their names say.

use netpolc_export::ocsf;
use netpolc_flow::{
    Decider, Flow, Kind, Peer, Verdict,
    line::{Line, Unrecorded},
};
use netpolc_policy::{Direction, Labels};
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("data/ocsf-1.5.0.json");
const NOW: u64 = 1_796_090_400_999_000_000;

fn denied() -> Flow {
    let source = Peer {
        address: Some("10.7.0.2".parse().unwrap()),
        port: Some(40312),
        pod: Some("shop/ui-6d5f".into()),
        workload: Some("Deployment ui".into()),
        labels: Labels::from_iter([("app", "ui"), ("tier", "front")]),
        node: Some("n2".into()),
        ..Peer::default()
    };
    let destination = Peer {
        address: Some("10.7.0.1".parse().unwrap()),
        port: Some(5432),
        pod: Some("data/db-0".into()),
        ..Peer::default()
    };
    Flow {
        time: 1_796_090_400_123_456_789,
        node: "n1".into(),
        verdict: Verdict::Denied,
        reason: Some("policy".into()),
        direction: Direction::Ingress,
        pod: Some("data/db-0".into()),
        source,
        destination,
        protocol: "TCP".into(),
        tcp_flags: Some("SYN".into()),
        icmp: None,
        by: vec![Decider::whole(Kind::NetworkPolicy, "data/db")],
        bytes: 74,
    }
}

/// Flows with all there may be in them and with nothing.
fn all() -> Vec<Flow> {
    let rule = Decider {
        rule: Some("egress[0]".into()),
        peer: Some(1),
        tier: Some("Admin".into()),
        action: Some("Accept".into()),
        ..Decider::whole(Kind::ClusterNetworkPolicy, "base")
    };
    let service = Peer {
        address: Some("fd00::10".parse().unwrap()),
        service: Some("shop/api".into()),
        ..Peer::default()
    };
    let allowed = Flow {
        verdict: Verdict::Allowed,
        reason: None,
        direction: Direction::Egress,
        destination: service,
        by: vec![rule, Decider::whole(Kind::SecurityGroup, "sg-1")],
        ..denied()
    };
    let ping = Flow {
        protocol: "ICMPv6".into(),
        icmp: Some([128, 0]),
        tcp_flags: None,
        source: Peer { node: Some("n1".into()), ..Peer::default() },
        by: vec![Decider::whole(Kind::IsolatedByDefault, "")],
        ..denied()
    };
    let forged = Flow { reason: Some("spoofed_source".into()), by: vec![], ..denied() };
    let tried = Flow {
        verdict: Verdict::Audit,
        reason: None,
        by: vec![Decider::whole(Kind::StagedKubernetesNetworkPolicy, "data/next")],
        ..denied()
    };
    let unread = Flow {
        source: Peer::default(),
        destination: Peer::default(),
        protocol: "unknown".into(),
        tcp_flags: None,
        pod: None,
        by: vec![Decider::whole(Kind::Implied, "own node (S45)")],
        ..denied()
    };
    vec![denied(), allowed, ping, forged, tried, unread]
}

fn events(line: &Line) -> Vec<Value> {
    let text = ocsf::text(line, NOW).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is wrong with an object by the schema of its class or kind.
fn wrong(schema: &Value, entry: &Value, path: &str, object: &Value) -> Vec<String> {
    let (mut found, attributes) = (Vec::new(), entry["attributes"].as_object().unwrap());
    let object = object.as_object().unwrap();
    for (name, attribute) in attributes {
        if attribute["requirement"] == "required" && !object.contains_key(name) {
            found.push(format!("{path}.{name} is required"));
        }
    }
    if let Some(some) = entry["constraints"]["at_least_one"].as_array()
        && !some.iter().any(|name| object.contains_key(name.as_str().unwrap()))
    {
        found.push(format!("{path} has none of {some:?}"));
    }
    for (name, value) in object {
        let path = format!("{path}.{name}");
        let Some(attribute) = attributes.get(name) else {
            found.push(format!("{path} is no attribute"));
            continue;
        };
        let values = match (attribute.get("isArray").is_some(), value.as_array()) {
            (true, Some(values)) => values.clone(),
            (false, None) => vec![value.clone()],
            _ => {
                found.push(format!("{path} is {value}"));
                continue;
            }
        };
        for value in &values {
            found.extend(wrong_value(schema, attribute, &path, value));
        }
        // A number that has a name beside it is called so.
        let sibling = name.strip_suffix("_id").or(name.strip_suffix("_uid"));
        let sibling = sibling.map(|name| match name {
            "activity" | "category" | "class" | "type" if path.matches('.').count() == 1 => {
                format!("{name}_name")
            }
            name => name.to_owned(),
        });
        let called = sibling.and_then(|sibling| object.get(&sibling));
        let caption = attribute["enum"].get(value.to_string());
        if let (Some(called), Some(caption)) = (called, caption)
            && called != caption
            && caption != "Other"
        {
            found.push(format!("{path} is {value}, {caption}, and called {called}"));
        }
    }
    found
}

fn wrong_value(schema: &Value, attribute: &Value, path: &str, value: &Value) -> Vec<String> {
    let is_right = match attribute["type"].as_str().unwrap() {
        "integer_t" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        "long_t" => value.is_i64(),
        "string_t" => value.is_string(),
        "boolean_t" => value.is_boolean(),
        "object_t" => {
            let kind = attribute["object"].as_str().unwrap();
            if kind == "object" {
                return Vec::new();
            }
            let entry = &schema["objects"][kind];
            assert!(entry.is_object(), "{path}: the schema lacks {kind}");
            return wrong(schema, entry, path, value);
        }
        other => panic!("{path} has the type {other}"),
    };
    let is_known = attribute["enum"]
        .as_object()
        .is_none_or(|known| known.contains_key(value.as_str().unwrap_or(&value.to_string())));
    let fits = attribute["range"].as_array().is_none_or(|range| {
        let number = value.as_i64();
        number >= range[0].as_i64() && number <= range[1].as_i64()
    });
    match is_right && is_known && fits {
        true => Vec::new(),
        false => vec![format!("{path} is {value}, against {attribute}")],
    }
}

fn wrong_event(event: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let class = event["class_uid"].to_string();
    let entry = &schema["classes"][&class];
    assert!(entry.is_object(), "class {class}");
    let mut found = wrong(&schema, entry, "event", event);
    let number = |name: &str| event[name].as_u64().unwrap();
    if number("type_uid") != number("class_uid") * 100 + number("activity_id") {
        found.push("type_uid is not of class and activity".into());
    }
    if event["metadata"]["version"] != schema["version"] {
        found.push("metadata.version is another schema's".into());
    }
    found
}

#[test]
fn every_event_is_one_of_the_published_schema() {
    let unrecorded = |pod: Option<&str>, direction, reason: &str| Unrecorded {
        pod: pod.map(Into::into),
        direction,
        reason: reason.into(),
        packets: 7,
    };
    let others = [
        Line::Lost(3),
        Line::Unrecorded(vec![
            unrecorded(Some("data/db-0"), Direction::Ingress, "policy"),
            unrecorded(None, Direction::Egress, "allowed"),
        ]),
    ];
    let flows = all().into_iter().map(|flow| Line::Flow(Box::new(flow)));
    let mut count = 0;
    for line in flows.chain(others) {
        for event in events(&line) {
            let wrong = wrong_event(&event);
            assert!(wrong.is_empty(), "{wrong:#?} in {event:#}");
            count += 1;
        }
    }
    assert_eq!(count, 9);
    assert_eq!(ocsf::text(&Line::Live(true), NOW), None);
}

/// The check by itself finds what is wrong.
#[test]
fn an_event_that_is_not_of_the_schema_is_found() {
    let good = ocsf::of_flow(&denied());
    assert_eq!(wrong_event(&good), [] as [String; 0]);
    for (path, value, finds) in [
        ("/activity_id", json!(8), "event.activity_id is 8"),
        ("/action_id", json!(1), "event.action_id is 1, \"Allowed\", and called \"Denied\""),
        ("/src_endpoint/port", json!(70000), "event.src_endpoint.port is 70000"),
        ("/dst_endpoint/container", json!({}), "event.dst_endpoint.container has none of"),
        ("/metadata", json!({"version": "1.5.0"}), "event.metadata.product is required"),
        ("/traffic", json!({"frames": 1}), "event.traffic.frames is no attribute"),
        ("/policy/is_applied", json!("yes"), "event.policy.is_applied is \"yes\""),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value;
        let wrong = wrong_event(&bad);
        assert!(wrong.iter().any(|one| one.starts_with(finds)), "{finds}: {wrong:?}");
    }
}

#[test]
fn an_event_says_who_what_and_why() {
    let event = ocsf::of_flow(&denied());
    let at = |path: &str| event.pointer(path).unwrap_or_else(|| panic!("{path}")).clone();
    for (path, expected) in [
        ("/type_uid", json!(400_105)),
        ("/time", json!(1_796_090_400_123_u64)),
        ("/severity_id", json!(2)),
        ("/action_id", json!(2)),
        ("/disposition_id", json!(2)),
        ("/status_detail", json!("policy")),
        ("/src_endpoint/ip", json!("10.7.0.2")),
        ("/src_endpoint/hostname", json!("ui-6d5f")),
        ("/src_endpoint/container/labels", json!(["app=ui", "tier=front"])),
        ("/src_endpoint/container/tags/0", json!({"name": "k8s.namespace.name", "value": "shop"})),
        ("/src_endpoint/container/tags/1", json!({"name": "k8s.deployment.name", "value": "ui"})),
        ("/dst_endpoint/name", json!("data/db-0")),
        ("/dst_endpoint/port", json!(5432)),
        ("/device/hostname", json!("n1")),
        ("/connection_info/direction_id", json!(1)),
        ("/connection_info/protocol_num", json!(6)),
        ("/connection_info/protocol_ver_id", json!(4)),
        ("/connection_info/tcp_flags", json!(2)),
        ("/traffic", json!({"bytes": 74, "packets": 1})),
        ("/policy/name", json!("data/db")),
        ("/policy/is_applied", json!(true)),
        ("/firewall_rule/name", json!("data/db")),
        ("/unmapped/decided_by", json!(["isolated by data/db"])),
    ] {
        assert_eq!(at(path), expected, "{path}");
    }
    let severities: Vec<Value> =
        all().iter().map(|flow| ocsf::of_flow(flow)["severity_id"].clone()).collect();
    assert_eq!(json!(severities), json!([2, 1, 2, 3, 1, 2]));
}

/// Whatever names consist of, an event is one line that controls no terminal.
#[test]
fn names_are_safe() {
    let evil = "ui\n\u{1b}[2J\u{202e}x";
    let mut flow = denied();
    flow.source.pod = Some(format!("shop/{evil}").into());
    flow.by = vec![Decider::whole(Kind::NetworkPolicy, &format!("data/{evil}"))];
    let text = ocsf::text(&Line::Flow(Box::new(flow)), NOW).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(!text.trim_end().contains(netpolc_kube_sync::controls), "{text}");
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["src_endpoint"]["hostname"], json!(evil));
}
