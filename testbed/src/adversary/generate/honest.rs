//! Packets that policy allows, sent by whom they say, and their replies; and what the node itself
//! sends. They must arrive.

use super::{
    super::{
        Place,
        bytes::{self, Header, number},
        judge::Judge,
        parse::{Flow, Fragment},
    },
    Draft, Generator, MARK, mark,
};

/// How an honest packet is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    /// IPv4 options, IPv6 extension headers.
    Options,
    /// One 802.1Q tag with id 0.
    Priority,
    /// A UDP datagram in fragments.
    Pieces,
}

impl Generator {
    /// A connection that both sides allow: it is opened, answered, continued.
    pub(super) fn honest(&mut self, judge: &Judge) {
        for _ in 0..12 {
            let v6 = self.rng.chance(50);
            let from = self.place();
            let mut to = self.place();
            while to == from {
                to = self.place();
            }
            let (source, destination) = (self.own(from, v6), self.own(to, v6));
            let icmp = if v6 { number::ICMPV6 } else { number::ICMP };
            let protocol = *self.rng.pick(&[
                number::UDP,
                number::UDP,
                number::TCP,
                number::TCP,
                number::SCTP,
                icmp,
            ]);
            let port = self.destination_port();
            let asked = if protocol == icmp { None } else { Some(port) };
            // Few, so that pods' shares of connections suffice for a whole campaign; away from DHCP
            // and overlays. Others than in the rounds before: whoever opened a connection by the
            // policies of then stays its opener while it lives (S40), and policy may not permit
            // that one any more. And of longer ago than the 30 seconds that an echo is remembered.
            let local = 1_200 + 4 * (self.round % 512) as u16 + self.rng.below(4) as u16;
            // Both ends of an echo have one number.
            let remote = if protocol == icmp { local } else { port };
            let flow =
                Flow { protocol, source: (source, local), destination: (destination, remote) };
            if !judge.allows(from, to, flow, asked) || port == 8472 {
                continue;
            }
            return self.converse(from, to, flow);
        }
    }

    fn converse(&mut self, from: Place, to: Place, flow: Flow) {
        let style = match self.rng.below(20) {
            0..2 => Style::Options,
            2 => Style::Priority,
            3..6 if flow.protocol == number::UDP => Style::Pieces,
            _ => Style::Plain,
        };
        let steps: [(Place, Place, Flow, u8, u8, u8); 3] = [
            // TCP flags, SCTP chunks, echo: asked, answered, continued.
            (from, to, flow, 0x02, 1, 8),
            (to, from, flow.reverse(), 0x12, 2, 0),
            (from, to, flow, 0x18, 0, 8),
        ];
        for (wave, (from, to, flow, flags, chunk, echo)) in steps.into_iter().enumerate() {
            let mark = self.stamp();
            let (local, remote) = (flow.source.1, flow.destination.1);
            let body = match flow.protocol {
                number::TCP => bytes::tcp(local, remote, flags, &mark),
                number::SCTP => bytes::sctp(local, remote, chunk, &mark),
                number::UDP => bytes::udp(local, remote, &mark),
                protocol => {
                    let id = local.to_be_bytes();
                    let kind =
                        if protocol == number::ICMP { echo } else { 128 + u8::from(echo == 0) };
                    bytes::icmp(kind, 0, [id[0], id[1], 0, 1], &mark)
                }
            };
            let draft = Draft {
                from,
                source: flow.source.0,
                destination: flow.destination.0,
                from_mac: self.world.mac(from),
                to_mac: self.way(from, to),
                ports: (local, remote),
            };
            if style == Style::Pieces {
                self.honest_pieces(&draft, to, wave);
                continue;
            }
            let packet = match style {
                Style::Options if flow.source.0.is_ipv4() => {
                    let header = Header { hops: 64, options: vec![1; 8], ..Header::default() };
                    bytes::ip(draft.source, draft.destination, flow.protocol, &header, &body)
                }
                Style::Options => {
                    let mut whole = bytes::extension(number::DESTINATION, flow.protocol, 1);
                    whole.extend(&body);
                    let header = Header { hops: 64, ..Header::default() };
                    bytes::ip(draft.source, draft.destination, number::DESTINATION, &header, &whole)
                }
                _ => {
                    let header = Header { hops: 64, ..Header::default() };
                    bytes::ip(draft.source, draft.destination, flow.protocol, &header, &body)
                }
            };
            let tags: &[(u16, u16)] =
                if style == Style::Priority { &[(number::VLAN, 0)] } else { &[] };
            let kind = bytes::ether_type(draft.destination);
            let frame = bytes::ethernet(draft.to_mac, draft.from_mac, tags, kind, &packet);
            let planned = self.push("honest", from, frame);
            (planned.wave, planned.wanted) = (wave, Some(to));
        }
        self.known.push((from, to, flow));
    }

    /// A datagram in pieces of one size, in order.
    fn honest_pieces(&mut self, draft: &Draft, to: Place, wave: usize) {
        let size = *self.rng.pick(&[64, 400, 1232]);
        let count = self.rng.within(2, 4);
        let whole = bytes::udp(draft.ports.0, draft.ports.1, &vec![0x2e; size * count - 8]);
        let id = self.id();
        for (n, part) in whole.chunks(size).enumerate() {
            let mut part = part.to_vec();
            let mark = self.stamp();
            let at = part.len() - MARK;
            part[at..].copy_from_slice(&mark);
            let offset = (n * size) as u16;
            let fragment = Fragment { protocol: number::UDP, offset, more: n + 1 < count, id };
            let packet = self.piece(draft, fragment, &[], &part);
            let frame = self.plain_frame(draft, &packet);
            let planned = self.push("honest pieces", draft.from, frame);
            (planned.wave, planned.wanted) = (wave, Some(to));
        }
    }

    /// A long datagram of the node to a pod: the node's kernel cuts it (S44).
    pub(super) fn born(&mut self) {
        let to = Place::Pod(self.rng.below(self.world.pods.len()));
        let v6 = self.rng.chance(50);
        let address = self.own(to, v6);
        let length = *self.rng.pick(&[100, 1400, 3000]);
        let mut payload = vec![0x2e; length];
        // In each part that the kernel may make of it.
        let places: Vec<usize> =
            [40, 1600, 2960].into_iter().filter(|at| at + MARK < length).collect();
        for (n, at) in places.iter().enumerate() {
            payload[*at..at + MARK].copy_from_slice(&mark(self.next_mark + n as u64));
        }
        for n in 0..places.len() {
            // One datagram with several marks: it goes out with the first of them.
            let bytes = if n == 0 { payload.clone() } else { vec![] };
            let planned = self.push("born on the node", Place::Node, bytes);
            (planned.wanted, planned.datagram) = (Some(to), Some(address));
        }
    }
}
