//! Honest and hostile frames for tests of single attacks: who sends to whom, and whether it
//! arrives.

use std::net::IpAddr;

use netpolc_testbed::adversary::{
    Place, World,
    bytes::{self, Header, number},
};

use super::stage::Stage;

pub const ROUTED: [usize; 3] = [0, 1, 2];
pub const BRIDGED: [usize; 3] = [3, 4, 5];
pub const SHAPES: [[usize; 3]; 2] = [ROUTED, BRIDGED];
pub const MARK: &[u8] = b"\xa7the-mark\xa7";

/// Isolates the pod in these directions, with these rules; its namespace is told by its number.
pub fn policy(pod: usize, spec: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p{pod}, namespace: n{}}}
spec: {{podSelector: {{matchLabels: {{id: p{pod}}}}}, {spec}}}
",
        pod % 2
    )
}

pub const BOTH: &str = "policyTypes: [Ingress, Egress]";
pub const EGRESS: &str = "policyTypes: [Egress]";

pub fn policies(pods: impl IntoIterator<Item = usize>, spec: &str) -> String {
    pods.into_iter().map(|pod| policy(pod, spec)).collect()
}

/// Who sends to whom, for frames.
#[derive(Clone, Copy)]
pub struct Way {
    pub from: Place,
    pub to: Place,
    pub source: IpAddr,
    pub destination: IpAddr,
}

impl Way {
    /// Under their own addresses. The outside is a stranger.
    pub fn new(world: &World, from: Place, to: Place, v6: bool) -> Self {
        let own =
            |place| world.pod(place).map_or(world.stranger, |pod| pod.addresses)[usize::from(v6)];
        Way { from, to, source: own(from), destination: own(to) }
    }

    pub fn under(self, source: IpAddr) -> Self {
        Way { source, ..self }
    }

    /// The frame of a packet, with tags.
    pub fn frame(&self, world: &World, tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
        let to = if world.same_link(self.from, self.to) {
            world.mac(self.to)
        } else {
            world.gateway(self.from)
        };
        bytes::ethernet(to, world.mac(self.from), tags, bytes::ether_type(self.destination), packet)
    }

    /// A whole packet.
    pub fn packet(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        bytes::ip(
            self.source,
            self.destination,
            protocol,
            &Header { hops: 64, ..Header::default() },
            body,
        )
    }

    pub fn udp(&self, world: &World, port: u16) -> Vec<u8> {
        self.frame(world, &[], &self.packet(number::UDP, &bytes::udp(4000, port, MARK)))
    }
}

/// Sends frames with the mark, and says where it went wrong unless so many of them arrive.
pub fn expect(stage: &mut Stage<'_>, way: Way, frames: &[Vec<u8>], wanted: usize, what: &str) {
    let arrived = stage.arrive(way.from, way.to, frames, MARK, wanted);
    assert_eq!(
        arrived, wanted,
        "{what}: {:?} as {} to {:?} {}",
        way.from, way.source, way.to, way.destination
    );
}
