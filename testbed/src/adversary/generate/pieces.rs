//! Fragments: in order and not, overlapping, tiny, without a first one, with two first ones, with
//! long headers in front of the first one, of every protocol.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    super::{
        bytes::{self, Header, number},
        parse::Fragment,
    },
    Draft, Generator, MARK,
};

/// What is done to the pieces of a packet, each on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    InOrder,
    Reversed,
    Shuffled,
    NoFirst,
    OnlyFirst,
    Twice,
    /// Another first piece with other ports, after the first.
    SecondFirst,
    /// The second one begins inside the first.
    Overlap,
    /// The first has eight bytes, the flags come with the second.
    Tiny,
    /// The second one begins at byte 8.
    Overwrite,
    /// The later ones say another protocol.
    OtherProtocol,
    /// IPv6: a fragment header on a whole packet.
    Atomic,
}

const TRICKS: [Trick; 14] = [
    Trick::InOrder,
    Trick::InOrder,
    Trick::InOrder,
    Trick::Reversed,
    Trick::Shuffled,
    Trick::NoFirst,
    Trick::OnlyFirst,
    Trick::Twice,
    Trick::SecondFirst,
    Trick::Overlap,
    Trick::Tiny,
    Trick::Overwrite,
    Trick::OtherProtocol,
    Trick::Atomic,
];

impl Generator {
    pub(super) fn pieces(&mut self) {
        let draft = self.draft();
        let (protocol, whole) = self.layer4(&draft, &[0x2e; 8]);
        self.pieces_of(&draft, protocol, &whole);
    }

    /// Cuts a packet, with a trick.
    pub(super) fn pieces_of(&mut self, draft: &Draft, protocol: u8, head: &[u8]) {
        let trick = *self.rng.pick(&TRICKS);
        let size = match trick {
            Trick::Tiny => 8,
            _ => *self.rng.pick(&[24, 32, 64, 96, 200, 400]),
        };
        let count = self.rng.within(2, 5);
        let mut whole = head.to_vec();
        whole.resize((size * count).max(40), 0x2e);
        let id = self.id();
        let before = self.unfragmentable(draft);
        let mut parts: Vec<(u16, bool, Vec<u8>, u8)> = whole
            .chunks(size)
            .enumerate()
            .map(|(n, part)| {
                ((n * size) as u16, (n + 1) * size < whole.len(), part.to_vec(), protocol)
            })
            .collect();
        match trick {
            Trick::InOrder | Trick::Tiny => {}
            Trick::Reversed => parts.reverse(),
            Trick::Shuffled => (1..parts.len()).for_each(|i| parts.swap(i, self.rng.below(i + 1))),
            Trick::NoFirst => drop(parts.remove(0)),
            Trick::OnlyFirst => parts.truncate(1),
            Trick::Twice => parts = parts.iter().flat_map(|p| [p.clone(), p.clone()]).collect(),
            Trick::SecondFirst => {
                let mut second = parts[0].clone();
                let port = self.destination_port();
                second.2[2..4].copy_from_slice(&port.to_be_bytes());
                parts.insert(1, second);
                let again = parts[2..].to_vec();
                parts.extend(again);
            }
            Trick::Overlap => {
                parts[1].0 = parts[1].0.saturating_sub(16);
            }
            Trick::Overwrite => parts[1].0 = 8,
            Trick::OtherProtocol => {
                let other =
                    *self.rng.pick(&[number::TCP, number::UDP, number::SCTP, 0, 47, 60, 58, 1]);
                parts[1..].iter_mut().for_each(|p| p.3 = other);
            }
            Trick::Atomic => {
                parts = vec![(0, false, whole[..whole.len().min(200)].to_vec(), protocol)];
            }
        }
        for (offset, more, mut part, protocol) in parts {
            let mark = self.stamp();
            // Behind the ports of the first one, where there is room.
            if let Some(at) = part.len().checked_sub(MARK)
                && (offset != 0 || at >= 8)
            {
                part[at..].copy_from_slice(&mark);
            }
            let front: &[u8] = if offset == 0 { &before } else { &[] };
            let packet = self.piece(draft, Fragment { protocol, offset, more, id }, front, &part);
            let frame = self.plain_frame(draft, &packet);
            self.push("fragments", draft.from, frame);
        }
    }

    /// Headers before the fragment header, which every router reads; `unfragmentable` parts longer
    /// than a later fragment's headroom make the kernel that cuts a packet anew take new buffers
    /// (`ip6_fragment`, net/ipv6/ip6_output.c).
    fn unfragmentable(&mut self, draft: &Draft) -> Vec<u8> {
        if draft.destination.is_ipv4() || self.rng.chance(50) {
            return vec![];
        }
        let units = *self.rng.pick(&[0, 2, 7, 8, 15, 31, 63, 120, 127]);
        let via = if let IpAddr::V6(a) = draft.destination { a } else { Ipv6Addr::UNSPECIFIED };
        let kind = *self.rng.pick(&[253, 253, 253, 2, 4]);
        bytes::routing(number::FRAGMENT, kind, 0, units, via)
    }

    /// One fragment; `front` is a whole routing header or nothing.
    pub(super) fn piece(
        &mut self,
        draft: &Draft,
        fragment: Fragment,
        front: &[u8],
        part: &[u8],
    ) -> Vec<u8> {
        let Fragment { protocol, offset, more, id } = fragment;
        if draft.destination.is_ipv4() {
            let fragment = (offset / 8) | if more { 0x2000 } else { 0 };
            let header = Header { hops: 64, id, fragment, ..Header::default() };
            return bytes::ip(draft.source, draft.destination, protocol, &header, part);
        }
        let header = Header { hops: 64, ..Header::default() };
        let body = [front, &bytes::fragment(protocol, offset, more, id), part].concat();
        let next = if front.is_empty() { number::FRAGMENT } else { number::ROUTING };
        bytes::ip(draft.source, draft.destination, next, &header, &body)
    }
}
