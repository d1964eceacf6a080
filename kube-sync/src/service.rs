//! Reads Services from trees: which addresses and ports lead to backends (S48). Not here:
//! EndpointSlices. Which backends a Service has does not matter, since a packet is judged by the
//! address to which it was translated.

use std::net::IpAddr;

use netpolc_policy::{Protocol, Service, ServicePort};

use crate::{
    lenient::{address, map, protocol, required, text},
    problem::Path,
    source::Reader,
    strict,
    tree::Node,
};

/// Reads a Service. Whatever nodes do not translate is left out: headless Services, external names,
/// and load balancers of which the provider says that packets have to pass through them (ipMode:
/// Proxy).
pub(crate) fn service(reader: &mut Reader, object: &Node) -> Service {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = map(reader, object.get("spec"), &path);
    let kind = text(reader, spec, &path, "type");
    let cluster_ip = spec.and_then(|s| s.get("clusterIP"));
    if kind == Some("ExternalName") || cluster_ip.and_then(Node::as_str) == Some("None") {
        return Service::default();
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for field in ["clusterIPs", "externalIPs"] {
        let path = path.field(field);
        let list = strict::list(reader, spec.and_then(|s| s.get(field)), &path).unwrap_or_default();
        for (index, item) in list.iter().enumerate() {
            address(reader, Some(item), &path.index(index), &mut addresses);
        }
        if field == "clusterIPs" {
            address(reader, cluster_ip, &path.field("clusterIP"), &mut addresses);
        }
    }
    let status = root.field("status");
    let balancer = status.field("loadBalancer");
    let ingress = balancer.field("ingress");
    let list = map(reader, object.get("status"), &status).and_then(|s| s.get("loadBalancer"));
    let list = map(reader, list, &balancer).and_then(|b| b.get("ingress"));
    for (index, item) in strict::list(reader, list, &ingress).unwrap_or_default().iter().enumerate()
    {
        let path = ingress.index(index);
        // Some load balancers have a host name and no address.
        let Some(ip) = map(reader, Some(item), &path).and_then(|item| item.get("ip")) else {
            continue;
        };
        if item.get("ipMode").and_then(Node::as_str) != Some("Proxy") {
            address(reader, Some(ip), &path.field("ip"), &mut addresses);
        }
    }
    let mut ports = Vec::new();
    let ports_path = path.field("ports");
    let list =
        strict::list(reader, spec.and_then(|s| s.get("ports")), &ports_path).unwrap_or_default();
    for (index, port) in list.iter().enumerate() {
        ports.extend(service_port(reader, port, &ports_path.index(index)));
    }
    let health_check = number(reader, spec, &path, "healthCheckNodePort");
    Service { addresses, ports, health_check, ..Service::default() }
}

fn service_port(reader: &mut Reader, port: &Node, path: &Path) -> Option<ServicePort> {
    let given = required(reader, port, path, "port")?;
    let number_path = path.field("port");
    let number_given = strict::integer(reader, given, &number_path, 1, u16::MAX)?;
    let protocol: Protocol = protocol(reader, port, path)?;
    Some(ServicePort {
        protocol,
        number: number_given,
        node_port: number(reader, Some(port), path, "nodePort"),
    })
}

/// A port that may be unset; 0 means unset, too.
fn number(reader: &mut Reader, parent: Option<&Node>, path: &Path, field: &str) -> Option<u16> {
    let node = parent?.get(field)?;
    strict::integer(reader, node, &path.field(field), 0, u16::MAX).filter(|number| *number != 0)
}
