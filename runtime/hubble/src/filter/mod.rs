//! Which flows a client wants, as Hubble's filters say it.
//!
//! A filter finds a flow if of each of its lists that are not empty something fits. A flow is shown
//! if one filter of the whitelist finds it, or there is none, and no filter of the blacklist does.
//! What netpolc's flows never say cannot be asked for: such a filter is refused, since a client
//! that got all flows, or none, would draw wrong conclusions. Here: the filters that look at a flow
//! as a whole. Those that look at one end are in `end`, selectors of labels in `labels`, and
//! patterns in `pattern`. Not here: how many flows a client wants ([`crate::query`]).

mod end;
mod labels;
mod pattern;

use crate::api::flow::{EventTypeFilter, Flow, FlowFilter, TcpFlags, Verdict, layer4::Protocol};
use end::End;

/// Whether a flow fits.
type Test = Box<dyn Fn(&Flow) -> bool + Send + Sync>;

/// The filters of a request.
#[derive(Default)]
pub struct Filters {
    whitelist: Vec<Filter>,
    blacklist: Vec<Filter>,
}

/// Tests that must all hold.
struct Filter(Vec<Test>);

impl Filters {
    /// Reads the filters of a request.
    ///
    /// # Errors
    /// One makes no sense, or asks for what netpolc does not know. The message says what to write.
    pub fn read(whitelist: &[FlowFilter], blacklist: &[FlowFilter]) -> Result<Self, String> {
        let all = |list: &[FlowFilter], name: &str| {
            let filters = list.iter().map(Filter::read).collect::<Result<_, _>>();
            filters.map_err(|why| format!("{name}: {why}"))
        };
        let (whitelist, blacklist) = (all(whitelist, "whitelist")?, all(blacklist, "blacklist")?);
        Ok(Self { whitelist, blacklist })
    }

    /// Is the flow to be shown?
    pub fn find(&self, flow: &Flow) -> bool {
        let finds = |filter: &Filter| filter.0.iter().all(|test| test(flow));
        (self.whitelist.is_empty() || self.whitelist.iter().any(finds))
            && !self.blacklist.iter().any(finds)
    }
}

impl Filter {
    fn read(filter: &FlowFilter) -> Result<Self, String> {
        // Each field is named, so that none is forgotten.
        let FlowFilter {
            source_ip,
            source_pod,
            destination_ip,
            destination_pod,
            verdict,
            event_type,
            source_fqdn,
            destination_fqdn,
            http_status_code,
            source_label,
            destination_label,
            protocol,
            source_port,
            destination_port,
            reply,
            source_service,
            destination_service,
            dns_query,
            source_identity,
            destination_identity,
            http_method,
            http_path,
            tcp_flags,
            node_name,
            ip_version,
            source_workload,
            destination_workload,
            trace_id,
            uuid,
            traffic_direction,
            http_url,
            http_header,
            drop_reason_desc,
            source_ip_xlated,
            interface,
            node_labels,
            source_cluster_name,
            destination_cluster_name,
            ip_trace_id,
            encrypted,
            experimental,
        } = filter;
        let cel = experimental.as_ref().map(|e| e.cel_expression.len()).unwrap_or_default();
        for (name, values, instead) in [
            ("http_status_code", http_status_code.len(), L7),
            ("http_method", http_method.len(), L7),
            ("http_path", http_path.len(), L7),
            ("http_url", http_url.len(), L7),
            ("http_header", http_header.len(), L7),
            ("dns_query", dns_query.len(), L7),
            ("trace_id", trace_id.len(), L7),
            ("ip_trace_id", ip_trace_id.len(), "its flows name no trace; filter by uuid"),
            ("source_ip_xlated", source_ip_xlated.len(), "filter by source_ip"),
            ("interface", interface.len(), "filter by source_pod or destination_pod"),
            ("node_labels", node_labels.len(), "filter by node_name"),
            ("encrypted", encrypted.len(), "it does not see whether packets are encrypted"),
            ("cel_expression", cel, "use the other filters"),
        ] {
            if values > 0 {
                return Err(format!("netpolc does not know {name}: {instead}"));
            }
        }
        let mut tests = Tests::default();
        let Tests(all) = &mut tests;
        for (end, ip, pod, service, workload) in [
            (End::Source, source_ip, source_pod, source_service, source_workload),
            (
                End::Destination,
                destination_ip,
                destination_pod,
                destination_service,
                destination_workload,
            ),
        ] {
            all.extend(end::addresses(end, ip)?);
            all.extend(end::pods(end, pod)?);
            all.extend(end::services(end, service)?);
            all.extend(end::workloads(end, workload));
        }
        for (end, fqdn, label, port, identity, cluster) in [
            (
                End::Source,
                source_fqdn,
                source_label,
                source_port,
                source_identity,
                source_cluster_name,
            ),
            (
                End::Destination,
                destination_fqdn,
                destination_label,
                destination_port,
                destination_identity,
                destination_cluster_name,
            ),
        ] {
            all.extend(end::names(end, fqdn)?);
            all.extend(end::labels(end, label)?);
            all.extend(end::ports(end, port)?);
            all.extend(end::identities(end, identity));
            all.extend(end::clusters(end, cluster)?);
        }
        tests.one_of(verdict, |flow| flow.verdict);
        tests.one_of(drop_reason_desc, |flow| flow.drop_reason_desc);
        tests.one_of(traffic_direction, |flow| flow.traffic_direction);
        tests.one_of(ip_version, |flow| {
            flow.ip.as_ref().map(|ip| ip.ip_version).unwrap_or_default()
        });
        tests.one_of(uuid, |flow| flow.uuid.clone());
        let Tests(all) = &mut tests;
        all.extend(event_types(event_type));
        all.extend(protocols(protocol)?);
        all.extend(replies(reply));
        all.extend(flags(tcp_flags));
        all.extend(nodes(node_name)?);
        Ok(Self(tests.0))
    }
}

/// Why requests about the contents of packets are refused.
const L7: &str = "it does not read what packets carry; filter by port and protocol";

/// Tests that are being gathered.
#[derive(Default)]
struct Tests(Vec<Test>);

impl Tests {
    /// Adds that a flow has one of these values, if there are any.
    fn one_of<T>(&mut self, values: &[T], of: impl Fn(&Flow) -> T + Send + Sync + 'static)
    where
        T: Clone + PartialEq + Send + Sync + 'static,
    {
        let values = values.to_vec();
        if !values.is_empty() {
            self.0.push(Box::new(move |flow| values.contains(&of(flow))));
        }
    }
}

/// A test where there are values; the reader is asked about each of them.
fn test_of<T, U>(
    values: &[T],
    read: impl Fn(&T) -> Result<U, String>,
    test: impl FnOnce(Vec<U>) -> Test,
) -> Result<Option<Test>, String> {
    if values.is_empty() {
        return Ok(None);
    }
    Ok(Some(test(values.iter().map(read).collect::<Result<_, _>>()?)))
}

fn event_types(types: &[EventTypeFilter]) -> Option<Test> {
    let types = types.to_vec();
    (!types.is_empty()).then(|| -> Test {
        Box::new(move |flow| {
            let Some(event) = &flow.event_type else { return false };
            let fits = |wanted: &EventTypeFilter| {
                (wanted.r#type == 0 || wanted.r#type == event.r#type)
                    && (!wanted.match_sub_type || wanted.sub_type == event.sub_type)
            };
            types.iter().any(fits)
        })
    })
}

/// Which protocols a name means.
type OfProtocol = fn(&Protocol) -> bool;

fn protocols(names: &[String]) -> Result<Option<Test>, String> {
    let read = |name: &String| -> Result<OfProtocol, String> {
        Ok(match &*name.to_ascii_lowercase() {
            "tcp" => |protocol| matches!(protocol, Protocol::Tcp(_)),
            "udp" => |protocol| matches!(protocol, Protocol::Udp(_)),
            "sctp" => |protocol| matches!(protocol, Protocol::Sctp(_)),
            "icmp" => |protocol| matches!(protocol, Protocol::IcmPv4(_) | Protocol::IcmPv6(_)),
            "icmpv4" => |protocol| matches!(protocol, Protocol::IcmPv4(_)),
            "icmpv6" => |protocol| matches!(protocol, Protocol::IcmPv6(_)),
            _ => {
                return Err(format!(
                    "protocol {name:?}: write tcp, udp, sctp, icmp, icmpv4 or icmpv6; netpolc \
                    knows no others, and does not read what packets carry"
                ));
            }
        })
    };
    test_of(names, read, |wanted| {
        Box::new(move |flow| {
            let protocol = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref());
            protocol.is_some_and(|protocol| wanted.iter().any(|of| of(protocol)))
        })
    })
}

/// Of what was dropped it is not known whether it is a reply; it counts as none.
fn replies(values: &[bool]) -> Option<Test> {
    let values = values.to_vec();
    (!values.is_empty()).then(|| -> Test {
        Box::new(move |flow| {
            let dropped = flow.verdict == i32::from(Verdict::Dropped);
            let reply = flow.is_reply.or(dropped.then_some(false));
            reply.is_some_and(|reply| values.contains(&reply))
        })
    })
}

/// All flags of one of these are set, and perhaps others.
fn flags(wanted: &[TcpFlags]) -> Option<Test> {
    let wanted = wanted.to_vec();
    (!wanted.is_empty()).then(|| -> Test {
        Box::new(move |flow| {
            let protocol = flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref());
            let Some(Protocol::Tcp(tcp)) = protocol else { return false };
            let Some(set) = &tcp.flags else { return false };
            wanted.iter().any(|wanted| bits(wanted) & !bits(set) == 0)
        })
    })
}

fn bits(flags: &TcpFlags) -> u16 {
    let TcpFlags { fin, syn, rst, psh, ack, urg, ece, cwr, ns } = *flags;
    let all = [fin, syn, rst, psh, ack, urg, ece, cwr, ns];
    all.iter().enumerate().map(|(bit, set)| u16::from(*set) << bit).sum()
}

fn nodes(patterns: &[String]) -> Result<Option<Test>, String> {
    let read = |text: &String| {
        pattern::Node::read(text).map_err(|why| format!("node_name {text:?}: {why}"))
    };
    test_of(patterns, read, |patterns| {
        Box::new(move |flow| patterns.iter().any(|pattern| pattern.fits(&flow.node_name)))
    })
}

#[cfg(test)]
mod tests;
