//! Who there is: places with their addresses and hardware addresses, and the cluster without its
//! policies.
//!
//! Addresses are of the alphabet of [`crate::random`], so that the blocks of random policies cut
//! through them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpolc_policy::{Cluster, Grouping, Labels, Node, ObjectKey, Phase, Pod, PodNetwork};

use crate::random::{self, Rng};

/// A hardware address of Ethernet.
pub type Mac = [u8; 6];

/// Where frames are sent and seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A pod of the node, by its number.
    Pod(usize),
    /// Behind the uplink: another node, its pods, and the rest of the world.
    Outside,
    /// The node itself; it sends by ordinary sockets.
    Node,
}

/// How a pod hangs on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A route of its own, as with Calico or the AWS CNI.
    Routed,
    /// A port of a bridge, as with flannel.
    Bridged,
}

/// A pod as the adversary knows it.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The pod's namespace and name in the cluster.
    pub key: ObjectKey,
    /// Its IPv4 address, then its IPv6 address.
    pub addresses: [IpAddr; 2],
    /// The hardware address of its interface.
    pub mac: Mac,
    /// How it hangs on the node.
    pub shape: Shape,
}

/// How many pods there are of each shape.
pub const EACH: usize = 3;
/// The node's end of routed pods.
pub const ROUTER_MAC: Mac = [0xee; 6];
/// The hardware address of the bridge.
pub const BRIDGE_MAC: Mac = [0xee, 0xee, 0xee, 0, 0, 1];
/// The hardware address of the node's uplink.
pub const UPLINK_MAC: Mac = [2, 0, 0, 0, 1, 1];
/// The hardware address of the interface outside.
pub const OUTSIDE_MAC: Mac = [2, 0, 0, 0, 1, 2];
/// The hardware address of the node's overlay device.
pub const OVERLAY_MAC: Mac = [2, 0, 0, 0, 1, 3];
/// The other node's overlay device.
pub const FAR_OVERLAY_MAC: Mac = [2, 0, 0, 0, 1, 4];
/// Where the overlay device listens.
pub const OVERLAY_PORT: u16 = 8472;
/// The address that belongs to a routed pod's gateway.
const ROUTER_V6: &str = "fe80::ecee:eeff:feee:eeee";

/// The parties of every round, with their addresses.
#[derive(Clone, Debug)]
pub struct World {
    /// Pods of the node, by number.
    pub pods: Vec<Actor>,
    /// The node's addresses in its Node object.
    pub node: [IpAddr; 2],
    /// The bridge's IPv4 address, then its IPv6 address.
    pub bridge: [IpAddr; 2],
    /// Every address of the node, link-local ones included.
    pub nodes_own: Vec<IpAddr>,
    /// The other node's IPv4 address, then its IPv6 address.
    pub far_node: [IpAddr; 2],
    /// A pod of the other node, reached by the uplink.
    pub far: [IpAddr; 2],
    /// A pod of the other node, reached by the overlay.
    pub overlaid: [IpAddr; 2],
    /// A host of the Internet.
    pub stranger: [IpAddr; 2],
}

fn pair(v4: [u8; 4], v6: &str) -> [IpAddr; 2] {
    [v4.into(), v6.parse::<Ipv6Addr>().expect("an address").into()]
}

impl Default for World {
    fn default() -> Self {
        let routed = (1..=EACH as u8).map(|n| ([10, 0, 0, n], format!("fd00::{n}"), Shape::Routed));
        // On both sides of the blocks' edges.
        let bridged = [4, 9, 13].map(|n| ([10, 0, 1, n], format!("fd00::1:{n:x}"), Shape::Bridged));
        let pods = routed.chain(bridged).enumerate().map(|(i, (v4, v6, shape))| Actor {
            key: ObjectKey::new(format!("n{}", i % 2), format!("p{i}")),
            addresses: pair(v4, &v6),
            mac: [2, 0, 0, 0, 0, 0x10 + i as u8],
            shape,
        });
        let mut world = World {
            pods: pods.collect(),
            node: pair([192, 168, 0, 1], "fd00:1::1"),
            bridge: pair([10, 0, 1, 15], "fd00::1:f"),
            nodes_own: vec![],
            far_node: pair([192, 168, 0, 2], "fd00:1::2"),
            far: pair([10, 0, 2, 3], "fd00::2:3"),
            overlaid: pair([10, 0, 3, 5], "fd00::3:5"),
            stranger: pair([203, 0, 113, 9], "2001:db8::9"),
        };
        world.nodes_own.extend(world.node.iter().chain(&world.bridge));
        world.nodes_own.push(Ipv4Addr::new(10, 0, 1, 0).into());
        world.nodes_own.push(ROUTER_V6.parse().expect("an address"));
        world.nodes_own.extend([BRIDGE_MAC, UPLINK_MAC, OVERLAY_MAC].map(link_local));
        world
    }
}

/// The link-local address that the kernel makes of a hardware address (RFC 4291, appendix A).
pub fn link_local(mac: Mac) -> IpAddr {
    let word = |a: u8, b: u8| u16::from(a) << 8 | u16::from(b);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(mac[0] ^ 2, mac[1]),
        word(mac[2], 0xff),
        word(0xfe, mac[3]),
        word(mac[4], mac[5]),
    )
    .into()
}

impl World {
    /// A pod of the node.
    pub fn pod(&self, place: Place) -> Option<&Actor> {
        match place {
            Place::Pod(n) => self.pods.get(n),
            Place::Outside | Place::Node => None,
        }
    }

    /// All places that send and receive raw frames.
    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        (0..self.pods.len()).map(Place::Pod).chain([Place::Outside])
    }

    /// Is it one of the place's own addresses?
    pub fn owns(&self, place: Place, address: IpAddr) -> bool {
        match place {
            Place::Pod(n) => self.pods[n].addresses.contains(&address),
            Place::Node => self.nodes_own.contains(&address),
            Place::Outside => {
                !self.nodes_own.contains(&address)
                    && !self.pods.iter().any(|p| p.addresses.contains(&address))
            }
        }
    }

    /// Are both on the bridge?
    pub fn same_link(&self, a: Place, b: Place) -> bool {
        [a, b].into_iter().all(|p| self.pod(p).is_some_and(|pod| pod.shape == Shape::Bridged))
    }

    /// Where frames of `from` go that are not for a neighbour on the link.
    pub fn gateway(&self, from: Place) -> Mac {
        match self.pod(from).map(|pod| pod.shape) {
            Some(Shape::Routed) => ROUTER_MAC,
            Some(Shape::Bridged) => BRIDGE_MAC,
            None => UPLINK_MAC,
        }
    }

    /// The hardware address that a place sends from.
    pub fn mac(&self, place: Place) -> Mac {
        self.pod(place).map_or(OUTSIDE_MAC, |pod| pod.mac)
    }

    /// The cluster without policies. Labels and ports are random.
    pub fn cluster(&self, rng: &mut Rng) -> Cluster {
        let mut cluster = Cluster::default();
        for name in ["n0", "n1"] {
            cluster.namespaces.insert(name.into(), random::labels(rng).into());
        }
        for (name, addresses) in [("node1", self.node), ("node2", self.far_node)] {
            cluster
                .nodes
                .insert(name.into(), Node { addresses: addresses.to_vec(), ..Node::default() });
        }
        let far = [("far", self.far), ("overlaid", self.overlaid)];
        let far = far.map(|(name, addresses)| (ObjectKey::new("n0", name), addresses, "node2"));
        let local = self.pods.iter().map(|pod| (pod.key.clone(), pod.addresses, "node1"));
        for (key, addresses, node) in local.chain(far) {
            let own = [("id".into(), key.name.clone())];
            let labels: Labels = random::labels(rng)
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .chain(own)
                .collect();
            let pod = Pod {
                uid: Some(format!("uid-{}", key.name).into()),
                node: Some(node.into()),
                labels,
                addresses: addresses.to_vec(),
                network: PodNetwork::Own,
                phase: Phase::Active,
                ports: random::container_ports(rng),
                grouping: Grouping::default(),
                owner: None,
                key: key.clone(),
            };
            cluster.pods.insert(key, pod);
        }
        cluster
    }
}
