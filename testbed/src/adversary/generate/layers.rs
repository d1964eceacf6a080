//! Packets of every kind and in every disguise: layer 4, the IP header and what may stand behind
//! it, the frame.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    super::bytes::{self, Header, number},
    Draft, Generator, MARK,
};

impl Generator {
    /// Adds one packet, wrapped in headers that may hide it.
    pub(super) fn hostile(&mut self) {
        let draft = self.draft();
        let mark = self.stamp();
        let (protocol, body) = self.layer4(&draft, &mark);
        let (label, packet) = self.layer3(&draft, protocol, &body);
        let (kind, tags, packet) = self.layer2(&draft, packet);
        let frame = bytes::ethernet(draft.to_mac, draft.from_mac, &tags, kind, &packet);
        self.push(label, draft.from, frame);
    }

    /// Anything above IP that carries `mark`.
    pub(super) fn layer4(&mut self, draft: &Draft, mark: &[u8]) -> (u8, Vec<u8>) {
        let (local, remote) = draft.ports;
        let v6 = !draft.destination.is_ipv4();
        let icmp = if v6 { number::ICMPV6 } else { number::ICMP };
        if matches!(draft.ports, (67, 68) | (68, 67) | (546, 547) | (547, 546))
            && self.rng.chance(80)
        {
            return (number::UDP, bytes::udp(local, remote, mark));
        }
        match self.rng.below(100) {
            0..32 => (number::UDP, bytes::udp(local, remote, mark)),
            32..45 => (number::TCP, bytes::tcp(local, remote, 2, mark)),
            45..60 => (number::TCP, bytes::tcp(local, remote, self.rng.below(256) as u8, mark)),
            60..68 => {
                let chunk = *self.rng.pick(&[0, 1, 1, 2, 6, 7, 8, 10, 14, 192]);
                (number::SCTP, bytes::sctp(local, remote, chunk, mark))
            }
            68..78 => {
                let usual: &[u8] = if v6 {
                    &[128, 129, 130, 131, 132, 133, 143, 138, 139]
                } else {
                    &[0, 8, 9, 10, 13, 14, 15, 17]
                };
                let kind = if self.rng.chance(70) {
                    *self.rng.pick(usual)
                } else {
                    self.rng.below(256) as u8
                };
                (
                    icmp,
                    bytes::icmp(
                        kind,
                        0,
                        [local.to_be_bytes()[0], local.to_be_bytes()[1], 0, 1],
                        mark,
                    ),
                )
            }
            78..92 => (icmp, self.error(draft, mark)),
            _ => {
                let protocol = *self
                    .rng
                    .pick(&[2, 4, 41, 47, 50, 59, 88, 94, 103, 112, 115, 136, 253, 255, 1, 58]);
                let head = [number::NONE, 0, 0, 0, 0, 0, 0, 0];
                (protocol, [&head[..], mark].concat())
            }
        }
    }

    /// An error about a packet that was, or never was.
    fn error(&mut self, draft: &Draft, mark: &[u8]) -> Vec<u8> {
        let v4 = draft.destination.is_ipv4();
        let kinds: &[u8] = if v4 { &[3, 3, 4, 5, 11, 12] } else { &[1, 2, 3, 4] };
        let kind = *self.rng.pick(kinds);
        let known = self.known.len();
        let flow = (known > 0 && self.rng.chance(40)).then(|| self.known[self.rng.below(known)].2);
        let quote = match flow.filter(|f| f.source.0.is_ipv4() == v4) {
            // A live connection, the right way round or not.
            Some(flow) => {
                let flow = if self.rng.chance(50) { flow } else { flow.reverse() };
                bytes::quote(
                    flow.source.0,
                    flow.destination.0,
                    flow.protocol,
                    (flow.source.1, flow.destination.1),
                )
            }
            None => {
                let protocol = *self.rng.pick(&[
                    number::UDP,
                    number::TCP,
                    number::SCTP,
                    number::ICMP,
                    number::ICMPV6,
                    47,
                ]);
                let (a, b) = match self.rng.below(4) {
                    0..2 => (draft.destination, draft.source),
                    2 => (draft.source, draft.destination),
                    _ => (self.any_address(!v4), draft.source),
                };
                bytes::quote(a, b, protocol, (draft.ports.1, draft.ports.0))
            }
        };
        let mut body = [&quote[..], mark].concat();
        if self.rng.chance(15) {
            // As much as fits, in front of the mark.
            let length = *self.rng.pick(&[576, 700, 1280, 1350]);
            body = [&quote[..], &vec![0x2e; length - quote.len()], mark].concat();
        }
        let code = if kind == 3 && v4 { *self.rng.pick(&[0, 1, 3, 4]) } else { 0 };
        bytes::icmp(kind, code, [0, 0, 5, 0], &body)
    }

    /// An IP packet around `body`, and what is odd about it.
    pub(super) fn layer3(
        &mut self,
        draft: &Draft,
        protocol: u8,
        body: &[u8],
    ) -> (&'static str, Vec<u8>) {
        let header =
            Header { hops: *self.rng.pick(&[64, 64, 64, 64, 255, 255, 2, 1]), ..Header::default() };
        let Draft { source, destination, .. } = *draft;
        let plain = |header: &Header| bytes::ip(source, destination, protocol, header, body);
        match self.rng.below(20) {
            0..9 => ("plain", plain(&header)),
            9..12 if destination.is_ipv4() => {
                let options = self.options(draft);
                ("options", plain(&Header { options, ..header }))
            }
            9..12 => ("extensions", self.extended(draft, protocol, body, &header)),
            12..15 => ("source route", self.routed(draft, protocol, body, &header)),
            15..18 => {
                let mut packet = plain(&header);
                self.damage(&mut packet);
                ("damaged", packet)
            }
            _ => {
                // A length that ends inside the headers, the rest behind it.
                let mut packet = plain(&header);
                let cut = self.rng.below(24) as u16 + if destination.is_ipv4() { 20 } else { 0 };
                let at = if destination.is_ipv4() { 2 } else { 4 };
                packet[at..at + 2].copy_from_slice(&cut.to_be_bytes());
                if destination.is_ipv4() {
                    bytes::seal(&mut packet[..20]);
                }
                ("truncated", packet)
            }
        }
    }

    fn options(&mut self, draft: &Draft) -> Vec<u8> {
        let IpAddr::V4(own) = draft.source else { return vec![] };
        let o = own.octets();
        let list: [&[u8]; 7] = [
            &[1; 40],
            &[0x94, 4, 0, 0],
            &[7, 39, 4],
            &[0x44, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xff, 2],
            &[0x83, 7, 8, o[0], o[1], o[2], o[3]],
        ];
        let mut options = self.rng.pick(&list).to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        options
    }

    /// A chain of one to ten extension headers, sometimes with a fragment header in it.
    fn extended(&mut self, draft: &Draft, protocol: u8, body: &[u8], header: &Header) -> Vec<u8> {
        let count =
            if self.rng.chance(80) { self.rng.within(1, 3) } else { self.rng.within(7, 10) };
        let kinds = [
            number::HOP_BY_HOP,
            number::ROUTING,
            number::AUTHENTICATION,
            number::DESTINATION,
            number::MOBILITY,
        ];
        let mut chain = self.rng.list(count, |rng| *rng.pick(&kinds));
        if self.rng.chance(15) {
            chain.push(number::FRAGMENT);
        }
        if self.rng.chance(10) {
            // Numbers that are not extension headers to anybody here, or only to some.
            chain.push(*self.rng.pick(&[139, 140, 253, 50]));
        }
        let mut whole = body.to_vec();
        let mut next = protocol;
        for kind in chain.into_iter().rev() {
            let front = match kind {
                number::FRAGMENT => bytes::fragment(next, 0, false, self.id()),
                number::ROUTING => bytes::routing(next, 253, 0, 2, Ipv6Addr::LOCALHOST),
                _ => bytes::extension(kind, next, 2 * self.rng.below(3) as u8),
            };
            whole = [front, whole].concat();
            next = kind;
        }
        bytes::ip(draft.source, draft.destination, next, header, &whole)
    }

    /// To the node or another waypoint, with the destination in a source route.
    fn routed(&mut self, draft: &Draft, protocol: u8, body: &[u8], header: &Header) -> Vec<u8> {
        let v6 = !draft.destination.is_ipv4();
        let via = match self.rng.below(4) {
            0..2 => self.world.node[usize::from(v6)],
            2 => self.world.bridge[usize::from(v6)],
            _ => self.any_address(v6),
        };
        match draft.destination {
            IpAddr::V4(last) => {
                let o = last.octets();
                let kind = *self.rng.pick(&[0x83, 0x89]);
                let options = vec![kind, 7, 4, o[0], o[1], o[2], o[3], 0];
                let header = Header { options, ..header.clone() };
                bytes::ip(draft.source, via, protocol, &header, body)
            }
            IpAddr::V6(last) => {
                let kind = *self.rng.pick(&[0, 1, 2, 3, 4, 4, 4, 5, 253]);
                let (units, left) = (*self.rng.pick(&[2, 4]), *self.rng.pick(&[0, 1, 1, 2, 255]));
                let front = bytes::routing(protocol, kind, left, units, last);
                bytes::ip(draft.source, via, number::ROUTING, header, &[&front[..], body].concat())
            }
        }
    }

    /// A few fields that are not what they should be.
    fn damage(&mut self, packet: &mut Vec<u8>) {
        let v4 = packet[0] >> 4 == 4;
        match self.rng.below(6) {
            0 => packet[0] = (packet[0] & 0x0f) | (self.rng.below(16) as u8) << 4,
            1 if v4 => packet[0] = 0x40 | self.rng.below(16) as u8,
            2 => {
                let length = self.rng.below(65536) as u16;
                let at = if v4 { 2 } else { 4 };
                packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
            }
            3 => packet[1] = self.rng.below(256) as u8,
            4 => {
                // Not in the mark, or it would be another frame's.
                let at = self.rng.below((packet.len() - MARK).min(60));
                packet[at] = self.rng.below(256) as u8;
            }
            _ => packet.extend([0; 46]),
        }
        if v4 && packet.len() >= 20 {
            bytes::seal(&mut packet[..20]);
        }
    }

    /// The frame's type and tags; what is not Ethernet's usual is put in front of the packet.
    fn layer2(&mut self, draft: &Draft, packet: Vec<u8>) -> (u16, Vec<(u16, u16)>, Vec<u8>) {
        let kind = bytes::ether_type(draft.destination);
        let tags = match self.rng.below(5) {
            0 => {
                let count = self.rng.within(1, 8);
                let mixed = self.rng.chance(20);
                let first = *self.rng.pick(&[number::VLAN, number::VLAN, number::QINQ]);
                self.rng.list(count, |rng| {
                    let kind = if mixed { *rng.pick(&[number::VLAN, number::QINQ]) } else { first };
                    (kind, if rng.chance(85) { 0 } else { 5 })
                })
            }
            _ => vec![],
        };
        if !self.rng.chance(6) {
            return (kind, tags, packet);
        }
        match self.rng.below(4) {
            // LLC with SNAP, by length.
            0 => {
                let [a, b] = kind.to_be_bytes();
                let body = [&[0xaa, 0xaa, 3, 0, 0, 0, a, b][..], &packet].concat();
                (body.len() as u16, tags, body)
            }
            // PPPoE session with IPv4 or IPv6 in PPP.
            1 => {
                let ppp: u16 = if draft.destination.is_ipv4() { 0x21 } else { 0x57 };
                let length = (packet.len() as u16 + 2).to_be_bytes();
                let body =
                    [&[0x11, 0, 0, 1, length[0], length[1]][..], &ppp.to_be_bytes(), &packet]
                        .concat();
                (0x8864, tags, body)
            }
            // MPLS, bottom of stack.
            2 => (0x8847, tags, [&[0, 1, 1, 64][..], &packet].concat()),
            _ => (
                *self.rng.pick(&[0x88e7, 0x9100, 0x6558, 0x0003, 0x0600, 0xffff, 0x86dd, 0x0800]),
                tags,
                packet,
            ),
        }
    }
}
