//! Reads Services from trees: which addresses and ports lead to backends (S48), and for whoever
//! asks questions how clients see them. Which backends a Service has does not matter to a verdict,
//! since a packet is judged by the address to which it was translated. Not here: EndpointSlices
//! (`slice`).

use std::net::IpAddr;

use netpolc_policy::{
    Frontend, FrontendPort, IpFamily, Protocol, Reach, Service, ServicePort, Target,
};

use crate::{
    gather::Purpose,
    lenient::{self, address, map, protocol, required, text},
    problem::{Path, excerpt},
    source::Reader,
    strict,
    tree::Node,
};

/// Reads a Service. Whatever nodes do not translate is left out: headless Services, external names,
/// and load balancers of which the provider says that packets have to pass through them (ipMode:
/// Proxy). The second value is how clients see it, where somebody asks for that.
pub(crate) fn service(reader: &mut Reader, object: &Node) -> (Service, Option<Frontend>) {
    let root = Path::Root;
    let path = root.field("spec");
    let spec = map(reader, object.get("spec"), &path);
    let kind = text(reader, spec, &path, "type");
    let cluster_ip = spec.and_then(|s| s.get("clusterIP"));
    let asked = reader.purpose() == Purpose::Answer;
    let reach = match kind {
        Some("ExternalName") => {
            let name = spec.and_then(|spec| spec.text("externalName")).unwrap_or("another name");
            Reach::External(name.into())
        }
        _ if cluster_ip.and_then(Node::as_str) == Some("None") => Reach::Headless,
        _ => Reach::Translated,
    };
    if reach != Reach::Translated {
        let ports = if asked { ports(reader, spec, &path) } else { Vec::new() };
        let front = asked.then(|| frontend(reader, spec, &path, reach, &ports));
        return (Service::default(), front);
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
    let ports = ports(reader, spec, &path);
    let health_check = number(reader, spec, &path, "healthCheckNodePort");
    let front = asked.then(|| frontend(reader, spec, &path, reach, &ports));
    let ports = ports.into_iter().map(|(_, _, port)| port).collect();
    (Service { addresses, ports, health_check, ..Service::default() }, front)
}

/// The ports that can be read, each with its index and node.
fn ports<'n, 't>(
    reader: &mut Reader,
    spec: Option<&'n Node<'t>>,
    path: &Path,
) -> Vec<(usize, &'n Node<'t>, ServicePort)> {
    let path = path.field("ports");
    let list = strict::list(reader, spec.and_then(|s| s.get("ports")), &path).unwrap_or_default();
    let mut ports = Vec::new();
    for (index, node) in list.iter().enumerate() {
        if let Some(port) = service_port(reader, node, &path.index(index)) {
            ports.push((index, node, port));
        }
    }
    ports
}

/// How clients see the Service with these ports.
fn frontend(
    reader: &mut Reader,
    spec: Option<&Node>,
    path: &Path,
    reach: Reach,
    ports: &[(usize, &Node, ServicePort)],
) -> Frontend {
    let selector_path = path.field("selector");
    let selector = map(reader, spec.and_then(|s| s.get("selector")), &selector_path);
    // Without a part that cannot be read it would select more pods than it is meant to.
    let damaged = std::mem::replace(&mut reader.damaged, false);
    let selector = selector.map(|node| lenient::pairs(reader, node, &selector_path, None));
    let selector = selector.filter(|selector| !selector.is_empty() && !reader.damaged);
    reader.damaged |= damaged;
    let families_path = path.field("ipFamilies");
    let given = strict::list(reader, spec.and_then(|s| s.get("ipFamilies")), &families_path);
    let families = given.unwrap_or_default().iter().enumerate().filter_map(|(index, item)| {
        match strict::string(reader, item, &families_path.index(index))? {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            other => {
                let message = format!("`{}` is not one of IPv4 and IPv6", excerpt(other));
                reader.error(item.at, &families_path.index(index), message);
                None
            }
        }
    });
    let families = families.collect();
    let ports_path = path.field("ports");
    let ports = ports.iter().filter_map(|(index, node, port)| {
        let path = ports_path.index(*index);
        let name = text(reader, Some(node), &path, "name").filter(|name| !name.is_empty());
        // Nothing translates the ports of a headless Service (API of Service, `targetPort`).
        let target = match node.get("targetPort") {
            Some(given) if reach == Reach::Translated => {
                target(reader, given, &path.field("targetPort"), port.number)?
            }
            _ => Target::Number(port.number),
        };
        let name = name.map(|name| reader.interner.string(name));
        Some(FrontendPort { name, protocol: port.protocol, number: port.number, target })
    });
    let ports = ports.collect();
    Frontend { reach, selector, families, ports, slices: Vec::new() }
}

/// Reads a targetPort; 0 and an empty name stand for the Service's own port, as for the API server.
fn target(reader: &mut Reader, node: &Node, path: &Path, own: u16) -> Option<Target> {
    match node.as_str() {
        Some("") => Some(Target::Number(own)),
        Some(name) => Some(Target::Name(reader.interner.string(name))),
        None => match strict::integer(reader, node, path, 0, u16::MAX)? {
            0 => Some(Target::Number(own)),
            number => Some(Target::Number(number)),
        },
    }
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
