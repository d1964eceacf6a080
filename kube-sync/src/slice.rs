//! Reads EndpointSlices: what is behind a Service at the moment. Like Pods they may carry anything
//! else. Source: k8s.io/api discovery/v1 types.go.

use std::sync::Arc;

use netpolc_policy::{
    ObjectKey,
    frontend::{Slice, SliceEndpoint, SlicePort},
};

use crate::{
    kind::Kind,
    lenient::{self, address, map, protocol, text},
    metadata::{self, Metadata},
    problem::Path,
    source::Reader,
    strict,
    tree::Node,
};

/// The label that names the Service of a slice (k8s.io/api discovery/v1, LabelServiceName).
const SERVICE: &str = "kubernetes.io/service-name";

/// Reads an EndpointSlice and gathers it. One that belongs to no Service is left out.
pub(crate) fn read(reader: &mut Reader, node: &Node) {
    reader.enter("EndpointSlice", &metadata::display_name(node));
    let about = Metadata::of(reader, node);
    let (Some(name), Some(namespace)) = (about.name(reader, Kind::Slice), about.namespace(reader))
    else {
        reader.lost = true;
        return;
    };
    let key = ObjectKey { namespace, name };
    reader.name("EndpointSlice", &key);
    let labels = lenient::labels(reader, node.get("metadata"), &Path::Root, None);
    let Some(service) = labels.get(SERVICE).map(Arc::<str>::from) else { return };
    // Names in place of addresses (`addressType: FQDN`) lead to no pod.
    if node.text("addressType") == Some("FQDN") {
        return;
    }
    let slice = Slice { ports: ports(reader, node), endpoints: endpoints(reader, node, &key) };
    if let Some(gathered) = reader.gathered.as_deref_mut() {
        gathered.slices.entry(key).or_insert((service, slice));
    }
}

/// The ports that have a number. One without stands for all ports, which no Service has.
fn ports(reader: &mut Reader, node: &Node) -> Vec<SlicePort> {
    let path = Path::Root.field("ports");
    let list = strict::list(reader, node.get("ports"), &path).unwrap_or_default();
    let mut ports = Vec::new();
    for (index, port) in list.iter().enumerate() {
        let path = path.index(index);
        let Some(port) = map(reader, Some(port), &path) else { continue };
        let Some(number) = port.get("port") else { continue };
        let number = strict::integer(reader, number, &path.field("port"), 1, u16::MAX);
        let (Some(number), Some(protocol)) = (number, protocol(reader, port, &path)) else {
            continue;
        };
        let name = text(reader, Some(port), &path, "name").filter(|name| !name.is_empty());
        let name = name.map(|name| reader.interner.string(name));
        ports.push(SlicePort { name, protocol, number });
    }
    ports
}

fn endpoints(reader: &mut Reader, node: &Node, slice: &ObjectKey) -> Vec<SliceEndpoint> {
    let path = Path::Root.field("endpoints");
    let list = strict::list(reader, node.get("endpoints"), &path).unwrap_or_default();
    let mut endpoints = Vec::new();
    for (index, endpoint) in list.iter().enumerate() {
        let path = path.index(index);
        let Some(endpoint) = map(reader, Some(endpoint), &path) else { continue };
        let addresses_path = path.field("addresses");
        let given = strict::list(reader, endpoint.get("addresses"), &addresses_path);
        let mut addresses = Vec::new();
        for (index, item) in given.unwrap_or_default().iter().enumerate() {
            address(reader, Some(item), &addresses_path.index(index), &mut addresses);
        }
        let target = map(reader, endpoint.get("targetRef"), &path.field("targetRef"));
        let target = target.filter(|target| target.text("kind").is_none_or(|kind| kind == "Pod"));
        let pod = target.and_then(|target| target.text("name")).map(|name| {
            let namespace = target.and_then(|target| target.text("namespace"));
            let namespace = namespace.map_or(slice.namespace.clone(), Arc::from);
            ObjectKey { namespace, name: name.into() }
        });
        if !addresses.is_empty() {
            endpoints.push(SliceEndpoint { addresses, pod });
        }
    }
    endpoints
}
