//! A flow of netpolc's as one of Hubble's.
//!
//! Here: the flow as a whole. Its ends are in `end`, and what has decided is in `policy`. Not
//! here: which flows a client gets ([`crate::filter`], [`crate::query`]).

mod end;
mod policy;

use std::sync::Arc;

use netpolc_flow::{Flow, Verdict};
use netpolc_kube_sync::plain;
use netpolc_policy::Direction;
use prost_types::Timestamp;

use crate::api::flow::{self as pb, layer4};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The kinds of Cilium's events that flows are like: a packet that was dropped, and a verdict of
/// policies about a packet.
const DROP: i32 = 1;
const POLICY_VERDICT: i32 = 5;

/// What makes Hubble's flows of netpolc's.
#[derive(Clone, Debug)]
pub struct Converter {
    /// The cluster's name.
    pub cluster: Arc<str>,
}

impl Converter {
    /// A node's name, as Hubble writes it in flows.
    pub fn node(&self, node: &str) -> String {
        shown(&format!("{}/{node}", self.cluster))
    }

    /// The flow as Hubble has it.
    pub fn flow(&self, flow: &Flow) -> pb::Flow {
        let verdict = match flow.verdict {
            Verdict::Allowed => pb::Verdict::Forwarded,
            Verdict::Denied => pb::Verdict::Dropped,
            Verdict::Audit => pb::Verdict::Audit,
        };
        let reason = policy::reason(flow);
        let direction = match flow.direction {
            Direction::Ingress => pb::TrafficDirection::Ingress,
            Direction::Egress => pb::TrafficDirection::Egress,
        };
        let (kind, sub_type) = match flow.verdict {
            Verdict::Denied => (DROP, reason as i32),
            Verdict::Allowed | Verdict::Audit => (POLICY_VERDICT, 0),
        };
        let policies = policy::Policies::of(flow);
        let mut said = pb::Flow {
            time: Some(time(flow.time)),
            verdict: verdict.into(),
            drop_reason: reason as u32,
            ip: ip(flow),
            l4: layer4(flow),
            source: Some(end::endpoint(&flow.source, flow, &self.cluster)),
            destination: Some(end::endpoint(&flow.destination, flow, &self.cluster)),
            r#type: pb::FlowType::L3L4.into(),
            node_name: self.node(&flow.node),
            source_names: end::names(&flow.source),
            destination_names: end::names(&flow.destination),
            event_type: Some(pb::CiliumEventType { r#type: kind, sub_type }),
            source_service: end::service(&flow.source),
            destination_service: end::service(&flow.destination),
            traffic_direction: direction.into(),
            policy_match_type: policy::match_type(flow),
            drop_reason_desc: reason.into(),
            // Whether a packet that was dropped is a reply is known only if it opens a connection.
            is_reply: (flow.verdict != Verdict::Denied).then_some(false),
            uuid: end::uuid(flow),
            emitter: Some(pb::Emitter { name: "netpolc".into(), version: VERSION.into() }),
            summary: summary(flow),
            ..pb::Flow::default()
        };
        let policy::Policies { allowed, denied } = policies;
        match flow.direction {
            Direction::Ingress => {
                (said.ingress_allowed_by, said.ingress_denied_by) = (allowed, denied);
            }
            Direction::Egress => {
                (said.egress_allowed_by, said.egress_denied_by) = (allowed, denied);
            }
        }
        said
    }
}

/// Nanoseconds since 1970 as Hubble writes them.
pub fn time(nanos: u64) -> Timestamp {
    const SECOND: u64 = 1_000_000_000;
    // Both fit: a u64 has less than 2^35 seconds.
    Timestamp { seconds: (nanos / SECOND) as i64, nanos: (nanos % SECOND) as i32 }
}

fn ip(flow: &Flow) -> Option<pb::Ip> {
    let (source, destination) = (flow.source.address, flow.destination.address);
    let version = match source.or(destination)? {
        std::net::IpAddr::V4(_) => pb::IpVersion::IPv4,
        std::net::IpAddr::V6(_) => pb::IpVersion::IPv6,
    };
    let text = |address: Option<std::net::IpAddr>| {
        address.map(|address| address.to_string()).unwrap_or_default()
    };
    let (source, destination) = (text(source), text(destination));
    Some(pb::Ip { source, destination, ip_version: version.into() })
}

fn layer4(flow: &Flow) -> Option<pb::Layer4> {
    let port = |port: Option<u16>| port.map(u32::from).unwrap_or_default();
    let (source_port, destination_port) = (port(flow.source.port), port(flow.destination.port));
    let [kind, code] = flow.icmp.unwrap_or_default().map(u32::from);
    let protocol = match &*flow.protocol {
        "TCP" => {
            let flags = flow.tcp_flags.as_deref().map(tcp_flags);
            layer4::Protocol::Tcp(pb::Tcp { source_port, destination_port, flags })
        }
        "UDP" => layer4::Protocol::Udp(pb::Udp { source_port, destination_port }),
        "SCTP" => layer4::Protocol::Sctp(pb::Sctp { source_port, destination_port }),
        "ICMP" => layer4::Protocol::IcmPv4(pb::IcmPv4 { r#type: kind, code }),
        "ICMPv6" => layer4::Protocol::IcmPv6(pb::IcmPv6 { r#type: kind, code }),
        _ => return None,
    };
    Some(pb::Layer4 { protocol: Some(protocol) })
}

fn tcp_flags(names: &str) -> pb::TcpFlags {
    let has = |flag| names.split(',').any(|name| name == flag);
    pb::TcpFlags {
        fin: has("FIN"),
        syn: has("SYN"),
        rst: has("RST"),
        psh: has("PSH"),
        ack: has("ACK"),
        urg: has("URG"),
        ece: false,
        cwr: false,
        ns: false,
    }
}

/// What the packet is, in Hubble's words, and behind it why it was decided so, in netpolc's.
fn summary(flow: &Flow) -> String {
    let packet = match (&*flow.protocol, &flow.tcp_flags, flow.icmp) {
        ("TCP", Some(flags), _) => format!("TCP Flags: {}", flags.replace(',', ", ")),
        ("ICMP", _, Some([kind, code])) => format!("ICMPv4 type {kind} code {code}"),
        (protocol @ "ICMPv6", _, Some([kind, code])) => {
            format!("{protocol} type {kind} code {code}")
        }
        (protocol, ..) => protocol.to_owned(),
    };
    let reason = flow.reason.as_deref().filter(|reason| *reason != policy::POLICY);
    let why = reason.map(str::to_owned).into_iter().chain(flow.decided());
    let all: Vec<String> = std::iter::once(packet).chain(why).collect();
    shown(&all.join("; "))
}

/// Text of others as clients may print it.
fn shown(text: &str) -> String {
    plain(text).into_owned()
}
