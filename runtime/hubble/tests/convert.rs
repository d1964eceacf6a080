//! One flow of each kind as Hubble has it: everything that a client is told.

use netpolc_flow::{Decider, Flow, Kind, Peer, Verdict};
use netpolc_hubble::{
    api::flow::{self as pb, layer4::Protocol},
    convert::Converter,
};
use netpolc_policy::Direction;

fn peer(address: &str, port: Option<u16>) -> Peer {
    Peer { address: Some(address.parse().unwrap()), port, ..Peer::default() }
}

fn pod(address: &str, port: Option<u16>, name: &str, app: &str) -> Peer {
    let labels = [("app", app), ("pod-template-hash", "7c9d")].into_iter().collect();
    let workload = Some(format!("Deployment {app}").into());
    Peer {
        pod: Some(name.into()),
        node: Some("n1".into()),
        workload,
        labels,
        ..peer(address, port)
    }
}

fn denied() -> Flow {
    Flow {
        time: 1_796_119_512_301_000_007,
        node: "n1".into(),
        verdict: Verdict::Denied,
        reason: Some("policy".into()),
        direction: Direction::Ingress,
        pod: Some("data/orders-0".into()),
        source: pod("10.7.0.3", Some(40312), "shop/checkout-7c9d", "checkout"),
        destination: pod("10.7.0.1", Some(5432), "data/orders-0", "orders"),
        protocol: "TCP".into(),
        tcp_flags: Some("SYN".into()),
        icmp: None,
        by: vec![Decider::whole(Kind::NetworkPolicy, "data/orders")],
        bytes: 74,
    }
}

fn hubbles(flow: &Flow) -> pb::Flow {
    Converter { cluster: "default".into() }.flow(flow)
}

#[test]
fn a_packet_that_policies_deny() {
    let said = hubbles(&denied());
    let emitter = pb::Emitter { name: "netpolc".into(), version: env!("CARGO_PKG_VERSION").into() };
    let endpoint = |identity, namespace: &str, pod: &str, app: &str| pb::Endpoint {
        id: 0,
        identity,
        namespace: namespace.into(),
        labels: vec![
            format!("k8s:app={app}"),
            "k8s:pod-template-hash=7c9d".into(),
            format!("k8s:io.kubernetes.pod.namespace={namespace}"),
        ],
        pod_name: pod.into(),
        workloads: vec![pb::Workload { name: app.into(), kind: "Deployment".into() }],
        cluster_name: "default".into(),
    };
    let expected = pb::Flow {
        time: Some(prost_types::Timestamp { seconds: 1_796_119_512, nanos: 301_000_007 }),
        verdict: pb::Verdict::Dropped.into(),
        drop_reason: 133,
        ip: Some(pb::Ip {
            source: "10.7.0.3".into(),
            destination: "10.7.0.1".into(),
            ip_version: pb::IpVersion::IPv4.into(),
        }),
        l4: Some(pb::Layer4 {
            protocol: Some(Protocol::Tcp(pb::Tcp {
                source_port: 40312,
                destination_port: 5432,
                flags: Some(pb::TcpFlags { syn: true, ..pb::TcpFlags::default() }),
            })),
        }),
        source: Some(endpoint(7_632_226, "shop", "checkout-7c9d", "checkout")),
        destination: Some(endpoint(12_502_683, "data", "orders-0", "orders")),
        r#type: pb::FlowType::L3L4.into(),
        node_name: "default/n1".into(),
        event_type: Some(pb::CiliumEventType { r#type: 1, sub_type: 133 }),
        traffic_direction: pb::TrafficDirection::Ingress.into(),
        policy_match_type: 0,
        drop_reason_desc: pb::DropReason::PolicyDenied.into(),
        is_reply: None,
        // Stable: another agent, or a later version, gives the same.
        uuid: "aad2bf85-f89e-8d46-add7-0fefd94c9e98".into(),
        emitter: Some(emitter),
        ingress_denied_by: vec![pb::Policy {
            name: "orders".into(),
            namespace: "data".into(),
            kind: "NetworkPolicy".into(),
            ..pb::Policy::default()
        }],
        summary: "TCP Flags: SYN; isolated by data/orders".into(),
        ..pb::Flow::default()
    };
    assert_eq!(said, expected);
}

#[test]
fn a_connection_that_a_rule_permits_on_its_way_to_a_service() {
    let rule = Decider {
        rule: Some("egress[1]".into()),
        peer: Some(0),
        port: Some(2),
        ..Decider::whole(Kind::NetworkPolicy, "shop/web")
    };
    let service = Peer { service: Some("shop/api".into()), ..peer("10.96.0.7", Some(80)) };
    let said = hubbles(&Flow {
        verdict: Verdict::Allowed,
        reason: None,
        direction: Direction::Egress,
        destination: service,
        protocol: "UDP".into(),
        tcp_flags: None,
        by: vec![rule],
        ..denied()
    });
    assert_eq!(said.verdict(), pb::Verdict::Forwarded);
    assert_eq!((said.drop_reason, said.drop_reason_desc()), (0, pb::DropReason::Unknown));
    assert_eq!(said.event_type, Some(pb::CiliumEventType { r#type: 5, sub_type: 0 }));
    assert_eq!((said.policy_match_type, said.is_reply), (2, Some(false)));
    assert_eq!(said.traffic_direction(), pb::TrafficDirection::Egress);
    let udp = pb::Udp { source_port: 40312, destination_port: 80 };
    assert_eq!(said.l4.unwrap().protocol, Some(Protocol::Udp(udp)));
    let destination = said.destination.unwrap();
    assert_eq!(
        (destination.identity, &destination.labels[..]),
        (2, &["reserved:world".into()][..])
    );
    let service = pb::Service { name: "api".into(), namespace: "shop".into() };
    assert_eq!((said.destination_service, said.source_service), (Some(service), None));
    assert_eq!(said.destination_names, ["api.shop.svc"]);
    let labels = ["netpolc:rule=egress[1]", "netpolc:peer=0", "netpolc:port=2"];
    assert_eq!(said.egress_allowed_by.len(), 1);
    assert_eq!(said.egress_allowed_by[0].labels, labels);
    assert_eq!(said.summary, "UDP; shop/web egress[1] to[0] ports[2]");
    let others = [said.egress_denied_by, said.ingress_allowed_by, said.ingress_denied_by];
    assert!(others.iter().all(Vec::is_empty));
}

#[test]
fn what_is_only_tried_and_what_a_protection_drops() {
    let tried = Flow {
        verdict: Verdict::Audit,
        reason: None,
        protocol: "SCTP".into(),
        tcp_flags: None,
        by: vec![Decider::whole(Kind::StagedKubernetesNetworkPolicy, "data/try")],
        ..denied()
    };
    let said = hubbles(&tried);
    assert_eq!(said.verdict(), pb::Verdict::Audit);
    assert_eq!(said.event_type, Some(pb::CiliumEventType { r#type: 5, sub_type: 0 }));
    assert_eq!(said.ingress_denied_by[0].kind, "StagedKubernetesNetworkPolicy");
    assert!(matches!(said.l4.unwrap().protocol, Some(Protocol::Sctp(_))));

    let spoofed = Flow {
        reason: Some("spoofed_source".into()),
        direction: Direction::Egress,
        source: peer("fd00::66", None),
        destination: Peer { node: Some("n2".into()), ..peer("fd00::2", None) },
        protocol: "ICMPv6".into(),
        tcp_flags: None,
        icmp: Some([128, 0]),
        by: vec![],
        ..denied()
    };
    let said = hubbles(&spoofed);
    assert_eq!(said.drop_reason_desc(), pb::DropReason::InvalidSourceIp);
    assert_eq!(said.ip.unwrap().ip_version(), pb::IpVersion::IPv6);
    let icmp = pb::IcmPv6 { r#type: 128, code: 0 };
    assert_eq!(said.l4.unwrap().protocol, Some(Protocol::IcmPv6(icmp)));
    let identities = (said.source.unwrap().identity, said.destination.unwrap().identity);
    assert_eq!(identities, (2, 6));
    assert_eq!(said.summary, "ICMPv6 type 128 code 0; spoofed_source");
}

#[test]
fn nodes_and_packets_that_cannot_be_read() {
    let said = hubbles(&Flow {
        reason: Some("not_ip".into()),
        source: Peer { node: Some("n1".into()), ..peer("192.168.7.1", None) },
        destination: Peer::default(),
        protocol: "unknown".into(),
        tcp_flags: None,
        by: vec![],
        ..denied()
    });
    let labels = |end: Option<pb::Endpoint>| end.unwrap().labels.concat();
    assert_eq!(labels(said.source), "reserved:host");
    assert_eq!(labels(said.destination), "reserved:unknown");
    assert_eq!((said.l4, said.ip.unwrap().destination), (None, String::new()));
    assert_eq!(said.summary, "unknown; not_ip");
    let none = hubbles(&Flow { source: Peer::default(), destination: Peer::default(), ..denied() });
    assert_eq!(none.ip, None);
}

/// Names come from whoever makes pods, and clients print them.
#[test]
fn no_text_of_others_controls_a_terminal() {
    let bad = "a\u{1b}[2J\u{202e}\n";
    let peer = |address| Peer {
        pod: Some(format!("{bad}/{bad}").into()),
        workload: Some(format!("Job {bad}").into()),
        labels: [(bad, bad)].into_iter().collect(),
        service: Some(format!("{bad}/{bad}").into()),
        ..peer(address, None)
    };
    let by = Decider {
        rule: Some(bad.into()),
        tier: Some(bad.into()),
        ..Decider::whole(Kind::NetworkPolicy, &format!("{bad}/{bad}"))
    };
    let (source, destination) = (peer("10.0.0.1"), peer("10.0.0.2"));
    let said = hubbles(&Flow { source, destination, by: vec![by], node: bad.into(), ..denied() });
    use prost::Message as _;
    let bytes = said.encode_to_vec();
    // A line break may be the length or the number of something, and so may these not.
    let marks: [&[u8]; 2] = [b"\x1b[", "\u{202e}".as_bytes()];
    for mark in marks {
        assert!(!bytes.windows(mark.len()).any(|window| window == mark), "{said:?}");
    }
    let texts = [said.summary, said.node_name, said.source.unwrap().labels.concat()];
    assert!(texts.iter().all(|text| text.contains("\\u{1b}") && !text.contains('\n')), "{texts:?}");
}

#[test]
fn flows_that_differ_have_different_ids() {
    let ids: std::collections::BTreeSet<String> = [
        denied(),
        Flow { time: 1, ..denied() },
        Flow { node: "n2".into(), ..denied() },
        Flow { direction: Direction::Egress, ..denied() },
        Flow { source: peer("10.7.0.3", Some(1)), ..denied() },
        Flow { verdict: Verdict::Audit, ..denied() },
    ]
    .iter()
    .map(|flow| hubbles(flow).uuid)
    .collect();
    assert_eq!(ids.len(), 6);
    assert!(ids.iter().all(|id| id.len() == 36 && id.as_bytes()[14] == b'8'));
}
