//! Flows as log records of OpenTelemetry.
//!
//! Names of attributes are those of the semantic conventions where these have one: addresses,
//! ports, `network.*`, and `k8s.*` for the pod for which the packet was judged. The rest begins
//! with `netpolc.`. Not here: how a request is sent.

use std::sync::Arc;

use netpolc_flow::{
    Decider, Flow, Peer, Verdict,
    line::{Line, Unrecorded},
};
use netpolc_kube_sync::plain;
use netpolc_policy::Direction;
use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use prost::Message as _;

use crate::known;

/// The conventions that attributes follow.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/1.34.0";
/// How many labels of a pod a record has at most.
const LABELS: usize = 32;

/// A request with all of these lines.
pub fn request(lines: &[Arc<Line>], resource: &Resource, now: u64) -> ExportLogsServiceRequest {
    let log_records = lines.iter().flat_map(|line| records(line, now)).collect();
    let scope_logs = ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() };
    let resource_logs = ResourceLogs {
        resource: Some(resource.clone()),
        scope_logs: vec![scope_logs],
        schema_url: SCHEMA.into(),
    };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

/// How many records an answer says were rejected.
pub fn rejected(answer: &[u8]) -> u64 {
    let partial = ExportLogsServiceResponse::decode(answer).ok().and_then(|a| a.partial_success);
    partial.map_or(0, |partial| u64::try_from(partial.rejected_log_records).unwrap_or(0))
}

pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "netpolc".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// One attribute.
pub(super) fn pair(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn records(line: &Line, now: u64) -> Vec<LogRecord> {
    match line {
        Line::Flow(flow) => vec![of_flow(flow, now)],
        Line::Unrecorded(all) => all.iter().map(|one| of_unrecorded(one, now)).collect(),
        Line::Lost(count) => vec![of_lost(*count, now)],
        Line::Live(_) | Line::Error(_) => vec![],
    }
}

/// The attributes of one record.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, text: Option<&str>) {
        self.0.extend(text.map(|text| pair(key, Value::StringValue(text.to_owned()))));
    }

    fn number(&mut self, key: &str, number: Option<impl Into<i64>>) {
        self.0.extend(number.map(|number| pair(key, Value::IntValue(number.into()))));
    }

    fn texts(&mut self, key: &str, texts: impl IntoIterator<Item = String>) {
        let value = |text| AnyValue { value: Some(Value::StringValue(text)) };
        let values: Vec<AnyValue> = texts.into_iter().map(value).collect();
        if !values.is_empty() {
            self.0.push(pair(key, Value::ArrayValue(ArrayValue { values })));
        }
    }

    fn pod(&mut self, pod: &str) {
        self.text("k8s.namespace.name", pod.split_once('/').map(|(namespace, _)| namespace));
        self.text("k8s.pod.name", Some(known::bare(pod)));
    }

    /// One end, under the names of the conventions and of netpolc.
    fn end(&mut self, side: &str, peer: &Peer) {
        let address = peer.address.map(|address| address.to_string());
        self.text(&format!("{side}.address"), address.as_deref());
        self.number(&format!("{side}.port"), peer.port);
        self.text(&format!("netpolc.{side}.namespace"), peer.namespace());
        self.text(&format!("netpolc.{side}.pod"), peer.pod.as_deref().map(known::bare));
        self.text(&format!("netpolc.{side}.workload"), peer.workload.as_deref());
        self.text(&format!("netpolc.{side}.service"), peer.service.as_deref().map(known::bare));
        self.text(&format!("netpolc.{side}.node"), peer.node.as_deref());
    }
}

fn of_flow(flow: &Flow, now: u64) -> LogRecord {
    let mut all = Attributes::default();
    let (own, address) = match flow.direction {
        Direction::Ingress => (&flow.destination, flow.destination.address),
        Direction::Egress => (&flow.source, flow.source.address),
    };
    if let Some(pod) = &flow.pod {
        all.pod(pod);
    }
    if let Some((kind, name)) = known::workload(own) {
        all.text(&format!("k8s.{kind}.name"), Some(name));
    }
    for (key, value) in own.labels.iter().take(LABELS) {
        all.text(&format!("k8s.pod.label.{key}"), Some(value));
    }
    all.end("source", &flow.source);
    all.end("destination", &flow.destination);
    let protocol = known::protocol(&flow.protocol);
    all.text("network.transport", protocol.map(|(_, name)| name));
    let family = address.map(|address| if address.is_ipv4() { "ipv4" } else { "ipv6" });
    all.text("network.type", family);
    all.text("network.io.direction", Some(io_direction(flow.direction)));
    all.text("netpolc.verdict", Some(flow.verdict.name()));
    all.text("netpolc.direction", Some(&flow.direction.to_string()));
    all.text("netpolc.reason", flow.reason.as_deref());
    all.texts("netpolc.policy", flow.policies());
    let rules = flow.by.iter().filter(|one| one.rule.is_some());
    all.texts("netpolc.rule", rules.map(Decider::to_string));
    all.text("netpolc.tcp.flags", flow.tcp_flags.as_deref());
    all.number("netpolc.icmp.type", flow.icmp.map(|icmp| icmp[0]));
    all.number("netpolc.icmp.code", flow.icmp.map(|icmp| icmp[1]));
    all.number("netpolc.bytes", Some(flow.bytes));
    record("netpolc.flow", flow.time, now, severity(flow.verdict), plain(&flow.words()).into(), all)
}

fn of_unrecorded(one: &Unrecorded, now: u64) -> LogRecord {
    let mut all = Attributes::default();
    if let Some(pod) = &one.pod {
        all.pod(pod);
    }
    all.text("network.io.direction", Some(io_direction(one.direction)));
    all.text("netpolc.direction", Some(&one.direction.to_string()));
    all.text("netpolc.reason", Some(&one.reason));
    all.number("netpolc.packets", i64::try_from(one.packets).ok());
    let pod = one.pod.as_deref().unwrap_or("an unknown pod");
    let body = format!(
        "{} more packets of {} ({}, {}) were counted and not recorded",
        one.packets,
        plain(pod),
        one.direction,
        one.reason
    );
    record("netpolc.unrecorded", now, now, SeverityNumber::Info, body, all)
}

fn of_lost(count: u64, now: u64) -> LogRecord {
    let mut all = Attributes::default();
    all.number("netpolc.lost", i64::try_from(count).ok());
    let body = format!("{count} flows are missing here, since they were not read fast enough");
    record("netpolc.lost", now, now, SeverityNumber::Warn, body, all)
}

fn record(
    name: &str,
    time: u64,
    now: u64,
    severity: SeverityNumber,
    body: String,
    attributes: Attributes,
) -> LogRecord {
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: now,
        severity_number: severity.into(),
        severity_text: if severity == SeverityNumber::Warn { "WARN" } else { "INFO" }.into(),
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        attributes: attributes.0,
        event_name: name.into(),
        ..LogRecord::default()
    }
}

fn severity(verdict: Verdict) -> SeverityNumber {
    match verdict {
        Verdict::Denied => SeverityNumber::Warn,
        Verdict::Allowed | Verdict::Audit => SeverityNumber::Info,
    }
}

/// Seen from the pod.
fn io_direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "receive",
        Direction::Egress => "transmit",
    }
}
