//! Filters against a second reading of what Hubble says they mean, which knows each value that is
//! asked for by heart; and filters that are refused.

use std::collections::BTreeSet;

use super::*;
use crate::api::flow::{
    CiliumEventType, Endpoint, HttpHeader, IcmPv4, Ip, Layer4, NetworkInterface, Service, Tcp, Udp,
    Workload, flow_filter::Experimental,
};

/// A value of a filter, and whether it fits; of texts, which are all that filters and flows have.
type Known = (&'static str, fn(&str) -> bool);

/// Addresses, as source and as destination.
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.1.1", "203.0.113.9", "fd00::1"];
const BLOCKS: [Known; 6] = [
    ("10.0.0.1", |ip| ip == "10.0.0.1"),
    ("10.0.0.0/16", |ip| ip.starts_with("10.0.")),
    ("10.0.1.7/24", |ip| ip.starts_with("10.0.1.")),
    ("0.0.0.0/0", |ip| ip.contains('.')),
    ("fd00:0:0::1", |ip| ip == "fd00::1"),
    ("fd00::/8", |ip| ip.contains(':')),
];
/// Pods and Services.
const NAMES: [&str; 5] = ["default/web-1", "default/api", "shop/web-2", "shop/", ""];
const PREFIXES: [Known; 5] = [
    ("web", |name| name == "default/web-1"),
    ("shop/", |name| name.starts_with("shop/")),
    ("shop/web-2", |name| name == "shop/web-2"),
    ("/web", |name| matches!(name, "default/web-1" | "shop/web-2")),
    ("default/api", |name| name == "default/api"),
];
const LABELS: [&str; 3] = ["k8s:app=web", "k8s:app=api", "reserved:world"];
const SELECTORS: [Known; 6] = [
    ("app=web", |label| label == "k8s:app=web"),
    ("app", |label| label.starts_with("k8s:app")),
    ("!app", |label| label == "reserved:world"),
    ("k8s:app!=web", |label| label != "k8s:app=web"),
    ("reserved:world", |label| label == "reserved:world"),
    ("app in (api,web),app notin (web)", |label| label == "k8s:app=api"),
];
const NODES: [&str; 2] = ["default/n1", "default/n2"];
const NODE_PATTERNS: [Known; 4] = [
    ("n1", |node| node == "default/n1"),
    ("default/*", |_| true),
    ("other/", |_| false),
    ("*2", |node| node == "default/n2"),
];
const PORTS: [u32; 3] = [80, 443, 40_000];
/// How many fields [`Numbers::part`] knows.
const FIELDS: usize = 19;

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % count
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// None, one or two values, which is seldom none.
    fn some<T: Copy>(&mut self, of: &[T]) -> Vec<T> {
        (0..self.below(3)).map(|_| self.one(of)).collect()
    }

    fn endpoint(&mut self) -> Endpoint {
        let (namespace, pod) = self.one(&NAMES).split_once('/').unwrap_or_default();
        let workload = self.one(&["Deployment web", "Job web", ""]).split_once(' ');
        let workload =
            workload.map(|(kind, name)| Workload { name: name.into(), kind: kind.into() });
        Endpoint {
            identity: self.one(&[2, 300]),
            namespace: namespace.into(),
            labels: vec![self.one(&LABELS).into()],
            pod_name: pod.into(),
            workloads: workload.into_iter().collect(),
            cluster_name: self.one(&["default", ""]).into(),
            ..Endpoint::default()
        }
    }

    fn service(&mut self) -> Option<Service> {
        let (namespace, name) = self.one(&NAMES).split_once('/')?;
        Some(Service { name: name.into(), namespace: namespace.into() })
    }

    fn flow(&mut self) -> Flow {
        let (source_port, destination_port) = (self.one(&PORTS), self.one(&PORTS));
        let flags = TcpFlags { syn: true, ack: self.below(2) == 0, ..TcpFlags::default() };
        let flags = Some(flags);
        let protocol = match self.below(4) {
            0 => Some(Protocol::Tcp(Tcp { source_port, destination_port, flags })),
            1 => Some(Protocol::Udp(Udp { source_port, destination_port })),
            2 => Some(Protocol::IcmPv4(IcmPv4 { r#type: 8, code: 0 })),
            _ => None,
        };
        let ip = (self.below(5) > 0).then(|| Ip {
            source: self.one(&ADDRESSES).into(),
            destination: self.one(&ADDRESSES).into(),
            ip_version: self.one(&[1, 2]),
        });
        Flow {
            verdict: self.one(&[1, 2, 4]),
            ip,
            l4: protocol.map(|protocol| Layer4 { protocol: Some(protocol) }),
            source: Some(self.endpoint()),
            destination: Some(self.endpoint()),
            node_name: self.one(&NODES).into(),
            event_type: Some(CiliumEventType {
                r#type: self.one(&[1, 5]),
                sub_type: self.one(&[0, 133]),
            }),
            source_service: self.service(),
            destination_service: self.service(),
            destination_names: vec![self.one(&["api.shop.svc", "web.shop.svc"]).into()],
            traffic_direction: self.one(&[1, 2]),
            drop_reason_desc: self.one(&[0, 133]),
            is_reply: self.one(&[Some(false), Some(true), None]),
            uuid: self.one(&["a", "b"]).into(),
            ..Flow::default()
        }
    }

    /// One field of a filter, and what it means.
    fn part(&mut self, field: usize, filter: &mut FlowFilter) -> Meaning {
        let texts = |values: &[Known]| values.iter().map(|(text, _)| (*text).to_owned()).collect();
        match field {
            0 => {
                let some = self.some(&BLOCKS);
                filter.source_ip = texts(&some);
                one_of(some, |flow| flow.ip.as_ref().map(|ip| ip.source.clone()))
            }
            1 => {
                let some = self.some(&BLOCKS);
                filter.destination_ip = texts(&some);
                one_of(some, |flow| flow.ip.as_ref().map(|ip| ip.destination.clone()))
            }
            2 => {
                let some = self.some(&PREFIXES);
                filter.source_pod = texts(&some);
                one_of(some, |flow| flow.source.as_ref().map(pod))
            }
            3 => {
                let some = self.some(&PREFIXES);
                filter.destination_pod = texts(&some);
                one_of(some, |flow| flow.destination.as_ref().map(pod))
            }
            4 => {
                let some = self.some(&PREFIXES);
                filter.destination_service = texts(&some);
                one_of(some, |flow| {
                    flow.destination_service.as_ref().map(|s| format!("{}/{}", s.namespace, s.name))
                })
            }
            5 => {
                let some = self.some(&SELECTORS);
                filter.source_label = texts(&some);
                one_of(some, |flow| flow.source.as_ref().map(|end| end.labels[0].clone()))
            }
            6 => {
                let some = self.some(&SELECTORS);
                filter.destination_label = texts(&some);
                one_of(some, |flow| flow.destination.as_ref().map(|end| end.labels[0].clone()))
            }
            7 => {
                let some = self.some(&NODE_PATTERNS);
                filter.node_name = texts(&some);
                one_of(some, |flow| Some(flow.node_name.clone()))
            }
            8 => {
                filter.verdict = self.some(&[1, 2, 4]);
                equal(&filter.verdict, |flow| flow.verdict)
            }
            9 => {
                filter.traffic_direction = self.some(&[1, 2]);
                equal(&filter.traffic_direction, |flow| flow.traffic_direction)
            }
            10 => {
                filter.drop_reason_desc = self.some(&[0, 133, 181]);
                equal(&filter.drop_reason_desc, |flow| flow.drop_reason_desc)
            }
            11 => {
                filter.source_identity = self.some(&[2, 300, 301]);
                equal(&filter.source_identity, |flow| flow.source.as_ref().unwrap().identity)
            }
            12 => {
                let ports = self.some(&PORTS);
                filter.destination_port = ports.iter().map(u32::to_string).collect();
                equal(&ports, |flow| match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
                    Some(Protocol::Tcp(tcp)) => tcp.destination_port,
                    Some(Protocol::Udp(udp)) => udp.destination_port,
                    _ => u32::MAX,
                })
            }
            13 => {
                let names = self.some(&["TCP", "udp", "icmp", "sctp"]);
                filter.protocol = names.iter().map(|name| (*name).to_owned()).collect();
                equal(&names, |flow| match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
                    Some(Protocol::Tcp(_)) => "TCP",
                    Some(Protocol::Udp(_)) => "udp",
                    Some(Protocol::IcmPv4(_)) => "icmp",
                    _ => "",
                })
            }
            14 => {
                filter.reply = self.some(&[false, true]);
                let wanted = filter.reply.clone();
                Box::new(move |flow| {
                    wanted.is_empty()
                        || match (flow.is_reply, flow.verdict) {
                            (Some(reply), _) => wanted.contains(&reply),
                            (None, 2) => wanted.contains(&false),
                            (None, _) => false,
                        }
                })
            }
            15 => {
                let kinds = self.some(&[(1, 133), (5, -1), (0, 133)]);
                let wanted = kinds.iter().map(|(kind, sub_type)| EventTypeFilter {
                    r#type: *kind,
                    match_sub_type: *sub_type >= 0,
                    sub_type: *sub_type,
                });
                filter.event_type = wanted.collect();
                Box::new(move |flow| {
                    let event = flow.event_type.as_ref().unwrap();
                    let fits = |one: &(i32, i32)| match one {
                        (1, _) => (event.r#type, event.sub_type) == (1, 133),
                        (5, _) => event.r#type == 5,
                        _ => event.sub_type == 133,
                    };
                    kinds.is_empty() || kinds.iter().any(fits)
                })
            }
            16 => {
                let wanted = self.some(&[("web", ""), ("", "Job"), ("web", "Deployment")]);
                let all = wanted.iter();
                filter.source_workload = all
                    .map(|(name, kind)| Workload { name: (*name).into(), kind: (*kind).into() })
                    .collect();
                Box::new(move |flow| {
                    let of = flow.source.as_ref().unwrap().workloads.first();
                    let fits = |one: &(&str, &str)| match (*one, of.map(|w| &*w.kind)) {
                        (_, None) => false,
                        (("web", ""), _) => true,
                        (("", _), Some(kind)) => kind == "Job",
                        (_, Some(kind)) => kind == "Deployment",
                    };
                    wanted.is_empty() || wanted.iter().any(fits)
                })
            }
            17 => {
                let acks = self.some(&[false, true]);
                let flags = |ack: &bool| TcpFlags { syn: true, ack: *ack, ..TcpFlags::default() };
                filter.tcp_flags = acks.iter().map(flags).collect();
                Box::new(move |flow| {
                    let protocol = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref());
                    let Some(Protocol::Tcp(tcp)) = protocol else { return acks.is_empty() };
                    let ack = tcp.flags.unwrap().ack;
                    acks.is_empty() || acks.iter().any(|wanted| ack || !wanted)
                })
            }
            _ => {
                let names: [Known; 3] = [
                    ("*.shop.svc", |_| true),
                    ("API.*.", |name| name.starts_with("api.")),
                    ("shop", |_| false),
                ];
                let some = self.some(&names);
                filter.destination_fqdn = texts(&some);
                one_of(some, |flow| flow.destination_names.first().cloned())
            }
        }
    }
}

type Meaning = Box<dyn Fn(&Flow) -> bool>;

fn pod(end: &Endpoint) -> String {
    match (&*end.namespace, &*end.pod_name) {
        ("", "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn one_of(some: Vec<Known>, of: fn(&Flow) -> Option<String>) -> Meaning {
    Box::new(move |flow| {
        some.is_empty() || of(flow).is_some_and(|text| some.iter().any(|(_, fits)| fits(&text)))
    })
}

fn equal<T: PartialEq + Clone + 'static>(values: &[T], of: fn(&Flow) -> T) -> Meaning {
    let values = values.to_vec();
    Box::new(move |flow| values.is_empty() || values.contains(&of(flow)))
}

#[test]
fn filters_find_what_a_second_reading_finds() {
    let mut numbers = Numbers(7);
    let flows: Vec<Flow> = (0..200).map(|_| numbers.flow()).collect();
    let (mut found, mut asked) = (0, 0);
    for _ in 0..3000 {
        let mut lists = [vec![], vec![]];
        let mut meanings: [Vec<Vec<Meaning>>; 2] = [vec![], vec![]];
        for (list, meant) in lists.iter_mut().zip(&mut meanings) {
            for _ in 0..numbers.below(3) {
                let (mut filter, mut parts) = (FlowFilter::default(), vec![]);
                // A field that is drawn twice would have the second values alone.
                let fields: BTreeSet<usize> =
                    (0..numbers.below(3)).map(|_| numbers.below(FIELDS)).collect();
                for field in fields {
                    parts.push(numbers.part(field, &mut filter));
                }
                list.push(filter);
                meant.push(parts);
            }
        }
        let filters = Filters::read(&lists[0], &lists[1]).unwrap();
        let finds = |all: &Vec<Meaning>, flow: &Flow| all.iter().all(|part| part(flow));
        for flow in &flows {
            let wanted = meanings[0].is_empty() || meanings[0].iter().any(|all| finds(all, flow));
            let meant = wanted && !meanings[1].iter().any(|all| finds(all, flow));
            assert_eq!(filters.find(flow), meant, "{lists:#?}\n{flow:#?}");
            found += usize::from(meant);
            asked += 1;
        }
    }
    assert!(found > asked / 20 && found < asked * 9 / 10, "{found} of {asked}");
}

#[test]
fn what_netpolc_does_not_know_is_refused_with_what_to_write() {
    let text = || vec!["x".to_owned()];
    let none = FlowFilter::default;
    for (filter, why) in [
        (FlowFilter { http_status_code: text(), ..none() }, "filter by port and protocol"),
        (FlowFilter { http_method: text(), ..none() }, "http_method"),
        (FlowFilter { http_path: text(), ..none() }, "http_path"),
        (FlowFilter { http_url: text(), ..none() }, "http_url"),
        (FlowFilter { http_header: vec![HttpHeader::default()], ..none() }, "http_header"),
        (FlowFilter { dns_query: text(), ..none() }, "dns_query"),
        (FlowFilter { trace_id: text(), ..none() }, "trace_id"),
        (FlowFilter { ip_trace_id: vec![1], ..none() }, "filter by uuid"),
        (FlowFilter { source_ip_xlated: text(), ..none() }, "filter by source_ip"),
        (FlowFilter { interface: vec![NetworkInterface::default()], ..none() }, "interface"),
        (FlowFilter { node_labels: text(), ..none() }, "filter by node_name"),
        (FlowFilter { encrypted: vec![true], ..none() }, "encrypted"),
        (
            FlowFilter { experimental: Some(Experimental { cel_expression: text() }), ..none() },
            "cel_expression",
        ),
        (FlowFilter { source_ip: text(), ..none() }, "write one such as 10.0.0.1"),
        (FlowFilter { source_pod: vec![String::new()], ..none() }, "write NAMESPACE/NAME"),
        (FlowFilter { destination_service: vec!["/".into()], ..none() }, "write NAMESPACE/NAME"),
        (FlowFilter { source_port: vec!["80-90".into()], ..none() }, "write a number"),
        (FlowFilter { destination_port: vec!["65536".into()], ..none() }, "write a number"),
        (FlowFilter { protocol: vec!["http".into()], ..none() }, "write tcp, udp"),
        (FlowFilter { source_label: vec!["a>1".into()], ..none() }, "write key=value"),
        (FlowFilter { node_name: vec!["a/b/c".into()], ..none() }, "write NODE"),
        (FlowFilter { source_fqdn: vec!["a b".into()], ..none() }, "a pattern consists of"),
        (FlowFilter { source_cluster_name: vec![String::new()], ..none() }, "give a name"),
    ] {
        let refused = Filters::read(std::slice::from_ref(&filter), &[]).err().unwrap();
        assert!(refused.starts_with("whitelist: ") && refused.contains(why), "{refused}");
        let refused = Filters::read(&[], &[filter]).err().unwrap();
        assert!(refused.starts_with("blacklist: "), "{refused}");
    }
}
