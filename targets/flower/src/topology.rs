//! Which endpoint is behind which port, and what else of the node lowering must know; a made-up one
//! for looking at filters without a node.
//!
//! Not here: finding it out (runtime).

use netpolc_table::{EndpointId, IfIndex};
use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;

/// The node as flower sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Endpoint id -> its port. Endpoints of the program that are missing here are not enforced by
    /// flower.
    pub pods: BTreeMap<EndpointId, PodPort>,
    /// Ports through which other nodes and the outside reach pods: the physical function or the
    /// uplink representor.
    pub uplinks: Vec<Port>,
    /// The node's own addresses: what they send from the host itself is always allowed in (S44).
    pub node_addresses: Vec<IpAddr>,
    /// Destinations that are translated later (Service and node-port addresses): no filter in
    /// hardware drops packets to them, since policy judges the backend (S48).
    pub translated: Vec<IpNetwork>,
    /// How packets get from one pod's port to another's.
    pub forwarding: Forwarding,
}

/// Made-up interfaces of pods are numbered from here.
const FIRST_MADE_UP: u32 = 1000;

impl Topology {
    /// A node that does not exist: each endpoint's port has the endpoint's name and a locally
    /// administered address, and there is one uplink, without addresses of the node. Packets are
    /// forwarded as on a node with an agent.
    pub fn made_up(pods: impl IntoIterator<Item = (EndpointId, String)>, uplink: Port) -> Self {
        let pods = pods.into_iter().map(|(endpoint, name)| {
            let port =
                Port { ifindex: IfIndex::new(FIRST_MADE_UP + u32::from(endpoint.get())), name };
            let [high, low] = endpoint.get().to_be_bytes();
            (endpoint, PodPort { port, mac: Some([2, 0, 0, 0, high, low]) })
        });
        let (pods, uplinks) = (pods.collect(), vec![uplink]);
        Self { pods, uplinks, forwarding: Forwarding::Translating, ..Self::default() }
    }
}

/// A network interface that filters may sit on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The kernel's index of it, in the agent's network namespace.
    pub ifindex: IfIndex,
    /// The name, which messages and records show.
    pub name: String,
}

/// The host-side interface of a pod: a veth end or a representor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// The interface on the host's side.
    pub port: Port,
    /// The pod's own hardware address, where it is known.
    pub mac: Option<[u8; 6]>,
}

/// How packets get from one pod's port to another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// By the host's routing: headers change on the way, so hardware cannot forward by itself.
    #[default]
    Routed,
    /// By a switch, but the host may translate addresses, as kube-proxy does for Services: a reply
    /// may have to get the Service's address back, and nothing in it tells. A packet of the side
    /// that opened the connection tells: it goes to the pod's own address, so nothing translates
    /// it. Only such packets go past the host.
    Translating,
    /// By a switch, and nothing translates: a frame to a pod's hardware address leaves by that
    /// pod's port as it is.
    Switched,
}
