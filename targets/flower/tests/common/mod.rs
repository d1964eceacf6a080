//! What tests of lowering share: clusters as programs with a made-up topology.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod plain;

use netpolc_table::{EndpointId, IfIndex};
use std::net::IpAddr;

use netpolc_kube_sync::{Input, load};
use netpolc_lower::{Compiler, Scope, compile};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_target_flower::{
    filter::Filter,
    lowered::Lowered,
    topology::{PodPort, Port, Topology},
};

/// The cluster in a YAML text.
pub fn cluster(yaml: &str) -> Cluster {
    let loaded = load([Input::bytes("test.yaml", yaml)]);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    loaded.cluster
}

/// Compiled, with every pod an endpoint; pods' ports are 1000 + endpoint.
pub fn compiled(cluster: &Cluster) -> (Compiler, Topology) {
    let compiler = compile(cluster, Scope::Everywhere).expect("it fits");
    let pods = compiler.endpoints().map(|(key, id)| {
        let port =
            Port { ifindex: IfIndex::new(1000 + u32::from(id.get())), name: key.name.to_string() };
        (id, PodPort { port, mac: Some([2, 0, 0, 0, (id.get() >> 8) as u8, id.get() as u8]) })
    });
    let pods = pods.collect();
    let uplinks = vec![Port { ifindex: IfIndex::new(2), name: "eth0".into() }];
    (compiler, Topology { pods, uplinks, ..Topology::default() })
}

/// The endpoint of a pod, which is named as `namespace/name`.
pub fn endpoint(compiler: &Compiler, pod: &str) -> EndpointId {
    let (namespace, name) = pod.split_once('/').expect("namespace/name");
    compiler.endpoint(&ObjectKey::new(namespace, name)).expect("an endpoint")
}

/// The filters on an endpoint's port.
pub fn filters(lowered: &Lowered, endpoint: EndpointId) -> Vec<Filter> {
    let port = lowered
        .ports
        .iter()
        .find(|(port, _)| port.ifindex == IfIndex::new(1000 + u32::from(endpoint.get())));
    port.map(|(_, list)| list.iter().map(|p| p.filter.clone()).collect()).unwrap_or_default()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
