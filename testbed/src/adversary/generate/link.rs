//! ARP and neighbour discovery, by anybody in anybody's name.

use std::net::IpAddr;

use super::{
    super::{
        Place,
        bytes::{self, Header, number},
        world,
    },
    Generator,
};

impl Generator {
    pub(super) fn arp(&mut self) {
        let mut draft = self.draft();
        let own = self.own(draft.from, false);
        let sender = if self.rng.chance(50) { own } else { self.any_address(false) };
        let hardware =
            if self.rng.chance(80) { self.world.mac(draft.from) } else { draft.from_mac };
        let target = self.any_address(false);
        if self.rng.chance(50) {
            draft.to_mac = [0xff; 6];
        }
        let operation = *self.rng.pick(&[1, 1, 2, 2, 2, 3, 8, 9]);
        let mark = self.stamp();
        let body = [&bytes::arp(operation, (hardware, sender), (draft.to_mac, target))[..], &mark]
            .concat();
        let frame = bytes::ethernet(draft.to_mac, draft.from_mac, &[], number::ARP, &body);
        self.push("ARP", draft.from, frame);
    }

    pub(super) fn discovery(&mut self) {
        let draft = self.draft();
        let from = draft.from;
        let own = self.own(from, true);
        let local = world::link_local(self.world.mac(from));
        let source = match self.rng.below(10) {
            0..5 => own,
            5..7 => local,
            7 => "::".parse().expect("an address"),
            _ => self.any_address(true),
        };
        let destination = match self.rng.below(10) {
            0..3 => "ff02::1".parse().expect("an address"),
            3..8 => {
                let to = self.place();
                self.own(to, true)
            }
            _ => self.any_address(true),
        };
        let kind = *self.rng.pick(&[133, 134, 135, 135, 136, 136, 136, 137, 138]);
        let target = match self.rng.below(10) {
            0..4 => own,
            4 => local,
            5..7 => destination,
            _ => self.any_address(true),
        };
        let mark = self.stamp();
        let mut body =
            bytes::icmp(kind, 0, if kind == 136 { [0x20, 0, 0, 0] } else { [0; 4] }, &[]);
        if let IpAddr::V6(target) = target
            && kind >= 135
        {
            body.extend(target.octets());
        }
        if kind == 134 {
            // Lifetime, reachable and retransmission times.
            body.extend([7, 8, 0, 0, 0, 0, 0, 0]);
        }
        // An option for the sender's or the target's hardware address.
        let option = if kind == 136 { 2 } else { 1 };
        body.extend([option, 1]);
        body.extend(self.world.mac(from));
        let padding = *self.rng.pick(&[0, 0, 0, 8, 600, 1300]);
        body.extend(vec![0x2e; padding]);
        body.extend(mark);
        let header =
            Header { hops: if self.rng.chance(85) { 255 } else { 64 }, ..Header::default() };
        let packet = if self.rng.chance(10) {
            let (next, front) = match self.rng.below(2) {
                0 => (number::FRAGMENT, bytes::fragment(number::ICMPV6, 0, false, self.id())),
                _ => (number::HOP_BY_HOP, bytes::extension(number::HOP_BY_HOP, number::ICMPV6, 0)),
            };
            bytes::ip(source, destination, next, &header, &[front, body].concat())
        } else {
            bytes::ip(source, destination, number::ICMPV6, &header, &body)
        };
        let to_mac = match destination {
            IpAddr::V6(a) if a.is_multicast() => [0x33, 0x33, 0, 0, 0, 1],
            address => self.world.places().find(|p| self.world.owns(*p, address)).map_or(
                draft.to_mac,
                |to| match to {
                    Place::Pod(_) if self.world.same_link(from, to) => self.world.mac(to),
                    _ => self.world.gateway(from),
                },
            ),
        };
        let frame = bytes::ethernet(to_mac, draft.from_mac, &[], number::IPV6, &packet);
        self.push("discovery", from, frame);
    }
}
