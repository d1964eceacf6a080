//! Packets inside packets, to the own node, to the other one, to anybody.

use super::{
    super::{
        Place,
        bytes::{self, Header, number},
        world::{BRIDGE_MAC, FAR_OVERLAY_MAC, OVERLAY_MAC, OVERLAY_PORT},
    },
    Draft, Generator,
};

impl Generator {
    pub(super) fn tunnelled(&mut self) {
        let mut outer = self.draft();
        let from = outer.from;
        let v6 = !outer.destination.is_ipv4();
        let world = &self.world;
        let ends =
            [world.node, world.node, world.node, world.far_node, world.far_node, world.bridge];
        if self.rng.chance(85) {
            outer.destination = self.rng.pick(&ends)[usize::from(v6)];
        }
        if self.rng.chance(80) {
            outer.source = self.own(from, v6);
        }
        outer.from_mac = self.world.mac(from);
        outer.to_mac = self.world.gateway(from);
        let inner = self.inner(from);
        let mark = self.stamp();
        let (protocol, body) = self.layer4(&inner, &mark);
        let header = Header { hops: 64, ..Header::default() };
        let packet = bytes::ip(inner.source, inner.destination, protocol, &header, &body);
        let (protocol, body) = self.wrap(&inner, packet);
        let whole = bytes::ip(outer.source, outer.destination, protocol, &header, &body);
        let frame = self.plain_frame(&outer, &whole);
        self.push("tunnel", from, frame);
    }

    /// What is inside: often the sender's own address to somebody, often another's.
    fn inner(&mut self, from: Place) -> Draft {
        let mut inner = self.draft();
        if self.rng.chance(50) {
            inner.source = self.own(from, !inner.destination.is_ipv4());
        }
        inner
    }

    /// In VXLAN nine times of ten, since that is what the node has a device for.
    fn wrap(&mut self, inner: &Draft, packet: Vec<u8>) -> (u8, Vec<u8>) {
        if self.rng.chance(70) {
            let to = *self.rng.pick(&[
                OVERLAY_MAC,
                OVERLAY_MAC,
                OVERLAY_MAC,
                FAR_OVERLAY_MAC,
                BRIDGE_MAC,
                [0xff; 6],
            ]);
            let kind = bytes::ether_type(inner.destination);
            let frame = bytes::ethernet(to, [2, 0x11, 0x22, 0x33, 0x44, 0x55], &[], kind, &packet);
            let port = if self.rng.chance(90) { OVERLAY_PORT } else { 4789 };
            return (
                number::UDP,
                bytes::udp(40_000 + self.rng.below(8) as u16, port, &bytes::vxlan(&frame)),
            );
        }
        let kind = bytes::ether_type(inner.destination).to_be_bytes();
        match *self.rng.pick(&number::TUNNELS) {
            47 => (47, [&[0, 0, kind[0], kind[1]][..], &packet].concat()),
            4 | 41 if inner.destination.is_ipv4() => (4, packet),
            4 | 41 => (41, packet),
            other => (other, packet),
        }
    }
}
