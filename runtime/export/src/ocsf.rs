//! Flows as events of the Open Cybersecurity Schema Framework (OCSF): class Network Activity
//! (4001), with the profiles for security controls, containers and hosts.
//!
//! Attributes and numbers are those of the published schema, against which a test holds every event
//! (`tests/ocsf.rs`). A flow about which OCSF has no attribute says the rest in `unmapped`. Not
//! here: which lines there are ([`netpolc_flow::line`]).

use netpolc_flow::{
    Decider, Flow, Peer, Verdict,
    line::{Line, Unrecorded},
};
use netpolc_kube_sync::{controls, plain};
use netpolc_policy::Direction;
use serde_json::{Map, Value, json};

use crate::known;

/// The version of OCSF.
pub const VERSION: &str = "1.5.0";
/// The class Network Activity.
const NETWORK_ACTIVITY: u32 = 4001;
/// Its category.
const NETWORK: u32 = 4;
/// The activity and type of the class Base Event for what has no other one.
const OTHER: u32 = 99;
const NANOS_IN_MILLI: u64 = 1_000_000;

/// What OCSF says of a verdict: the number of each attribute, with its name.
struct Said {
    activity: (u32, &'static str),
    action: (u32, &'static str),
    disposition: (u32, &'static str),
    status: (u32, &'static str),
}

impl Said {
    fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allowed => Said {
                activity: (1, "Open"),
                action: (1, "Allowed"),
                disposition: (1, "Allowed"),
                status: (1, "Success"),
            },
            Verdict::Denied => Said {
                activity: (5, "Refuse"),
                action: (2, "Denied"),
                disposition: (2, "Blocked"),
                status: (2, "Failure"),
            },
            Verdict::Audit => Said {
                activity: (6, "Traffic"),
                action: (3, "Observed"),
                disposition: (17, "Logged"),
                status: (99, "Other"),
            },
        }
    }
}

/// A line of flows as an event on a line, with a line break at its end; None: it says nothing
/// about traffic. `now`, in nanoseconds since 1970, is the time of what has none itself.
pub fn text(line: &Line, now: u64) -> Option<String> {
    let event = match line {
        Line::Flow(flow) => vec![of_flow(flow)],
        Line::Unrecorded(all) => all.iter().map(|one| of_unrecorded(one, now)).collect(),
        Line::Lost(count) => vec![of_lost(*count, now)],
        Line::Live(_) | Line::Error(_) => return None,
    };
    Some(event.iter().map(|event| safe(&event.to_string()) + "\n").collect())
}

/// What a string in JSON may hold and a terminal must not is escaped.
fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match controls(c) {
            true => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    safe.push_str(&format!("\\u{unit:04x}"));
                }
            }
            false => safe.push(c),
        }
    }
    safe
}

/// The event of a flow.
pub fn of_flow(flow: &Flow) -> Value {
    let said = Said::of(flow.verdict);
    let mut event = network_activity(&said, severity(flow), flow.time);
    let number = known::protocol(&flow.protocol);
    let (first, address) = (flow.by.first(), flow.source.address.or(flow.destination.address));
    fill(
        &mut event,
        [
            ("message", json!(plain(&flow.words()))),
            ("status_detail", json!(flow.reason)),
            ("src_endpoint", endpoint(&flow.source)),
            ("dst_endpoint", endpoint(&flow.destination)),
            ("device", pruned([("type_id", json!(1)), ("hostname", json!(flow.node))])),
            (
                "connection_info",
                pruned([
                    ("direction_id", json!(direction(flow.direction).0)),
                    ("direction", json!(direction(flow.direction).1)),
                    ("protocol_num", json!(number.map(|(number, _)| number))),
                    ("protocol_name", json!(number.map(|(_, name)| name))),
                    (
                        "protocol_ver_id",
                        json!(address.map_or(0, |address| if address.is_ipv4() { 4 } else { 6 })),
                    ),
                    ("tcp_flags", json!(flow.tcp_flags.as_deref().map(known::tcp_flags))),
                ]),
            ),
            ("traffic", json!({"bytes": flow.bytes, "packets": 1})),
            ("policy", first.map_or(Value::Null, |one| policy(one, flow.verdict))),
            ("firewall_rule", first.map_or(Value::Null, rule)),
            (
                "unmapped",
                pruned([
                    ("decided_by", of_some(flow.decided())),
                    ("icmp_type", json!(flow.icmp.map(|icmp| icmp[0]))),
                    ("icmp_code", json!(flow.icmp.map(|icmp| icmp[1]))),
                ]),
            ),
        ],
    );
    Value::Object(event)
}

/// The event of packets that were counted and not recorded.
fn of_unrecorded(one: &Unrecorded, now: u64) -> Value {
    let verdict = [Verdict::Allowed, Verdict::Audit].into_iter().find(|v| v.name() == &*one.reason);
    let said = Said::of(verdict.unwrap_or(Verdict::Denied));
    let mut event = network_activity(&said, (1, "Informational"), now);
    let pod = Peer { pod: one.pod.clone(), ..Peer::default() };
    let end = match one.direction {
        Direction::Ingress => "dst_endpoint",
        Direction::Egress => "src_endpoint",
    };
    let message = format!(
        "{} more packets of {} ({}, {}) were counted and not recorded",
        one.packets,
        pod.name(),
        one.direction,
        one.reason
    );
    let (way, way_name) = direction(one.direction);
    fill(
        &mut event,
        [
            ("message", json!(plain(&message))),
            ("status_detail", json!(one.reason)),
            (end, endpoint(&pod)),
            ("connection_info", json!({"direction_id": way, "direction": way_name})),
            ("traffic", json!({"packets": one.packets})),
        ],
    );
    Value::Object(event)
}

/// The event that says that others are missing.
fn of_lost(count: u64, now: u64) -> Value {
    json!({
        "class_uid": 0, "class_name": "Base Event", "category_uid": 0,
        "category_name": "Uncategorized", "activity_id": OTHER, "activity_name": "Lost",
        "type_uid": OTHER, "severity_id": 2, "severity": "Low",
        "time": now / NANOS_IN_MILLI, "metadata": metadata(&[]),
        "message": format!("{count} flows are missing here, since they were not read fast enough"),
    })
}

/// What every event of the class has.
fn network_activity(said: &Said, severity: (u32, &str), nanos: u64) -> Map<String, Value> {
    let mut event = Map::new();
    let (activity, activity_name) = said.activity;
    fill(
        &mut event,
        [
            ("class_uid", json!(NETWORK_ACTIVITY)),
            ("class_name", json!("Network Activity")),
            ("category_uid", json!(NETWORK)),
            ("category_name", json!("Network Activity")),
            ("activity_id", json!(activity)),
            ("activity_name", json!(activity_name)),
            ("type_uid", json!(NETWORK_ACTIVITY * 100 + activity)),
            ("type_name", json!(format!("Network Activity: {activity_name}"))),
            ("severity_id", json!(severity.0)),
            ("severity", json!(severity.1)),
            ("time", json!(nanos / NANOS_IN_MILLI)),
            ("metadata", metadata(&["security_control", "container", "host"])),
            ("action_id", json!(said.action.0)),
            ("action", json!(said.action.1)),
            ("disposition_id", json!(said.disposition.0)),
            ("disposition", json!(said.disposition.1)),
            ("status_id", json!(said.status.0)),
            ("status", json!(said.status.1)),
        ],
    );
    event
}

fn metadata(profiles: &[&str]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    pruned([
        ("version", json!(VERSION)),
        ("product", json!({"name": "netpolc", "vendor_name": "netpolc", "version": version})),
        ("profiles", of_some(profiles.to_vec())),
        ("log_name", json!("flows")),
    ])
}

/// Who breaks a policy may not know it; who forges an address mostly does.
fn severity(flow: &Flow) -> (u32, &'static str) {
    match (flow.verdict, flow.reason.as_deref()) {
        (Verdict::Denied, Some("policy") | None) => (2, "Low"),
        (Verdict::Denied, Some(_)) => (3, "Medium"),
        (Verdict::Allowed | Verdict::Audit, _) => (1, "Informational"),
    }
}

/// Seen from the pod for which the packet was judged.
fn direction(direction: Direction) -> (u32, &'static str) {
    match direction {
        Direction::Ingress => (1, "Inbound"),
        Direction::Egress => (2, "Outbound"),
    }
}

fn endpoint(peer: &Peer) -> Value {
    let (kind_id, kind) = match (&peer.pod, &peer.service, &peer.node) {
        (Some(_), ..) => (99, Some("Pod")),
        (None, Some(_), _) => (15, Some("Load Balancer")),
        (None, None, Some(_)) => (1, Some("Server")),
        (None, None, None) => (0, None),
    };
    let node = peer.node.as_deref().filter(|_| peer.pod.is_none() && peer.service.is_none());
    pruned([
        ("ip", json!(peer.address)),
        ("port", json!(peer.port)),
        ("name", json!(peer.name())),
        ("hostname", json!(peer.pod.as_deref().map(known::bare).or(node))),
        ("svc_name", json!(peer.service)),
        ("type_id", json!(kind_id)),
        ("type", json!(kind)),
        ("container", peer.pod.as_deref().map_or(Value::Null, |pod| container(pod, peer))),
    ])
}

/// OCSF has a place for labels at containers only, and none for namespaces and workloads but tags.
fn container(pod: &str, peer: &Peer) -> Value {
    let tag = |name: &str, value: &str| json!({"name": name, "value": value});
    let namespace = peer.namespace().map(|ns| tag("k8s.namespace.name", ns));
    let node = peer.node.as_deref().map(|node| tag("k8s.node.name", node));
    let workload = known::workload(peer).map(|(kind, name)| tag(&format!("k8s.{kind}.name"), name));
    let labels: Vec<String> =
        peer.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let tags: Vec<Value> = [namespace, workload, node].into_iter().flatten().collect();
    pruned([
        ("name", json!(known::bare(pod))),
        ("orchestrator", json!("kubernetes")),
        ("labels", of_some(labels)),
        ("tags", of_some(tags)),
    ])
}

/// The object that decided. A policy that is only tried is not applied.
fn policy(one: &Decider, verdict: Verdict) -> Value {
    json!({
        "name": if one.is_policy() { one.policy() } else { one.to_string() },
        "uid": format!("{}/{}", one.kind.name(), object(one)),
        "is_applied": verdict != Verdict::Audit,
    })
}

fn object(one: &Decider) -> String {
    match &one.namespace {
        Some(namespace) => format!("{namespace}/{}", one.name),
        None => one.name.to_string(),
    }
}

fn rule(one: &Decider) -> Value {
    pruned([
        ("name", json!(one.to_string())),
        ("uid", json!(one.rule.as_deref().map(|rule| format!("{}#{rule}", object(one))))),
        ("type", json!(one.kind.name())),
    ])
}

/// A list that is not empty.
fn of_some<T: serde::Serialize>(list: Vec<T>) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// An object of those that are there; null where none is.
fn pruned<const N: usize>(all: [(&str, Value); N]) -> Value {
    let mut map = Map::new();
    fill(&mut map, all);
    if map.is_empty() { Value::Null } else { Value::Object(map) }
}

fn fill<const N: usize>(map: &mut Map<String, Value>, all: [(&str, Value); N]) {
    let there = all.into_iter().filter(|(_, value)| !value.is_null());
    map.extend(there.map(|(name, value)| (name.to_owned(), value)));
}
