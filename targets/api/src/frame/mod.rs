//! Frames for tests, `eval` and benchmarks: a builder that can also build what no honest stack
//! sends.
//!
//! Here are layers 2 and 3 ([`Packet`]), fragments and truncation; layer 4 is in `l4`. Not here:
//! parsing, which each datapath does by itself. Lengths and checksums are right unless a test says
//! otherwise; no datapath looks at checksums.
//!
//! # Examples
//!
//! ```
//! use std::net::Ipv4Addr;
//!
//! use netpolc_target::{
//!     frame::{Packet, Tag, truncate},
//!     semantics::tcp,
//! };
//!
//! let (client, server) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
//! let syn = Packet::new(client, server).tcp(40_000, 80, tcp::SYN);
//! assert_eq!(syn.build().len(), 14 + 20 + 20, "Ethernet, IPv4 and TCP headers");
//!
//! // The same packet in a VLAN, cut off in the middle of its TCP header.
//! let tagged = syn.clone().tag(Tag::vlan(7)).build();
//! let short = truncate(tagged, 14 + 4 + 20 + 10);
//! assert_eq!(short.len(), 48);
//!
//! // A datagram of 8 + 40 bytes in fragments of at most 16.
//! let parts = Packet::new(client, server).udp(40_000, 53).payload(&[0; 40]).fragments(1, 16);
//! assert_eq!(parts.len(), 3);
//! ```

mod l4;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use l4::{Layer4, icmp_error, quote};

use netpolc_table::schema::{Family, Mac};

use crate::semantics::{ether, ip};

/// An 802.1Q or 802.1ad tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// [`ether::VLAN`] or [`ether::QINQ`], or anything else.
    pub kind: u16,
    /// The VLAN's id, of 12 bits.
    pub id: u16,
}

impl Tag {
    /// A tag of 802.1Q with this VLAN id.
    pub fn vlan(id: u16) -> Self {
        Tag { kind: ether::VLAN, id }
    }

    /// A tag of 802.1ad with this VLAN id.
    pub fn qinq(id: u16) -> Self {
        Tag { kind: ether::QINQ, id }
    }
}

/// Which part of a fragmented packet this is; offsets are in 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The identification, which all fragments of a packet share (in IPv4 the low 16 bits).
    pub id: u32,
    /// Where the fragment begins; 0 for the first one.
    pub offset: u16,
    /// Whether there are more fragments behind it.
    pub more: More,
}

/// The more-fragments bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// The bit is set: more fragments follow.
    Follow,
    /// The bit is clear: the last fragment, or (in IPv6 with offset 0) an atomic one.
    Last,
}

/// An IPv6 extension header, or anything that looks like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The header's number in the next-header field before it.
    pub kind: u8,
    /// The header's bytes; byte 0, the next header, is filled in.
    pub bytes: Vec<u8>,
}

impl Extension {
    /// Hop-by-hop, routing, destination or mobility, of `8 * (units + 1)` bytes, padding inside.
    pub fn padded(kind: u8, units: u8) -> Self {
        let mut bytes = vec![0; 8 * (usize::from(units) + 1)];
        bytes[1] = units;
        if kind == ip::HOP_BY_HOP || kind == ip::DESTINATION {
            let mut rest = bytes.len() - 2;
            let mut at = 2;
            while rest > 0 {
                let n = rest.min(257);
                // Pad1 is one zero byte, PadN is 1, length, zeros.
                if n > 1 {
                    bytes[at] = 1;
                    bytes[at + 1] = (n - 2) as u8;
                }
                at += n;
                rest -= n;
            }
        }
        Extension { kind, bytes }
    }

    /// An authentication header with an integrity value of `4 * words` bytes (RFC 4302).
    pub fn authentication(words: u8) -> Self {
        let mut bytes = vec![0; 12 + 4 * usize::from(words)];
        bytes[1] = words + 1;
        Extension { kind: ip::AUTHENTICATION, bytes }
    }

    /// The fragment header that says this.
    pub fn fragment(fragment: Fragment) -> Self {
        let field = fragment.offset << 3 | u16::from(fragment.more == More::Follow);
        let mut bytes = vec![0; 8];
        bytes[2..4].copy_from_slice(&field.to_be_bytes());
        bytes[4..8].copy_from_slice(&fragment.id.to_be_bytes());
        Extension { kind: ip::FRAGMENT, bytes }
    }
}

/// A packet to be built. Every setter returns the packet; [`Packet::build`] makes the frame.
#[derive(Clone, Debug)]
pub struct Packet {
    tags: Vec<Tag>,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    options: Vec<u8>,
    extensions: Vec<Extension>,
    fragment: Option<Fragment>,
    layer4: Layer4,
    payload: Vec<u8>,
}

impl Packet {
    /// An IP packet; both addresses must be of one family (panics otherwise). Protocol 59 (none)
    /// without payload until a layer 4 is given.
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Self {
        let (source, destination) = (source.into(), destination.into());
        assert_eq!(
            source.is_ipv4(),
            destination.is_ipv4(),
            "{source} and {destination} are of two families"
        );
        Packet {
            tags: vec![],
            source,
            destination,
            hop_limit: 64,
            options: vec![],
            extensions: vec![],
            fragment: None,
            layer4: Layer4::Other(59),
            payload: vec![],
        }
    }

    /// One more VLAN tag, inside those before it.
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// Sets the TTL or hop limit; 64 without this call.
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// IPv4 options, padded to 4 bytes; at most 40 (panics otherwise).
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        assert!(self.options.len() <= 40 && self.source.is_ipv4());
        self
    }

    /// One more IPv6 extension header, behind those before it.
    pub fn extension(mut self, extension: Extension) -> Self {
        assert!(self.source.is_ipv6());
        self.extensions.push(extension);
        self
    }

    /// Marks the packet as a fragment: the payload stands as it is, with the layer-4 header before
    /// it where the offset is 0 and without one otherwise. IPv6: a fragment header behind the
    /// extension headers given so far.
    pub fn fragment(mut self, fragment: Fragment) -> Self {
        if self.source.is_ipv6() {
            self.extensions.push(Extension::fragment(fragment));
        }
        self.fragment = Some(fragment);
        self
    }

    /// Sets what is above IP.
    pub fn layer4(mut self, layer4: Layer4) -> Self {
        self.layer4 = layer4;
        self
    }

    /// Makes it a TCP packet with these ports and flags ([`crate::semantics::tcp`]).
    pub fn tcp(self, source: u16, destination: u16, flags: u8) -> Self {
        self.layer4(Layer4::Tcp { source, destination, flags })
    }

    /// Makes it a UDP packet with these ports.
    pub fn udp(self, source: u16, destination: u16) -> Self {
        self.layer4(Layer4::Udp { source, destination })
    }

    /// Makes it an SCTP packet with one chunk of this type ([`crate::semantics::sctp`]).
    pub fn sctp(self, source: u16, destination: u16, chunk: u8) -> Self {
        self.layer4(Layer4::Sctp { source, destination, chunk })
    }

    /// Makes it an ICMP or ICMPv6 packet, by the family, with an identifier (bytes 4-5).
    pub fn icmp(self, kind: u8, id: u16) -> Self {
        self.message([kind, 0], id)
    }

    /// The same, with a code besides the type.
    pub fn message(self, [kind, code]: [u8; 2], id: u16) -> Self {
        self.layer4(Layer4::Icmp { kind, code, rest: u32::from(id) << 16 | 1 })
    }

    /// Makes it a packet of another protocol, whose header, if any, is part of the payload.
    pub fn protocol(self, protocol: u8) -> Self {
        self.layer4(Layer4::Other(protocol))
    }

    /// Sets what is above layer 4.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Builds the frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame =
            ethernet(&self.tags, if self.source.is_ipv4() { ether::IPV4 } else { ether::IPV6 });
        frame.extend(self.datagram());
        frame
    }

    /// Builds the packet without Ethernet header and tags, as an ICMP error quotes it.
    pub fn datagram(&self) -> Vec<u8> {
        let later = self.fragment.is_some_and(|f| f.offset != 0);
        let body = if later {
            self.payload.clone()
        } else {
            l4::build(&self.layer4, self.source, self.destination, &self.payload)
        };
        let protocol = self.layer4.protocol(Family::of(self.source));
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source, destination, protocol, &body)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(source, destination, protocol, &body)
            }
            _ => unreachable!("new() refuses two families"),
        }
    }

    /// The frames of this packet cut into fragments whose layer-4 parts have at most `size` bytes
    /// (rounded down to 8s).
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Vec<u8>> {
        let size = size / 8 * 8;
        let whole = l4::build(&self.layer4, self.source, self.destination, &self.payload);
        let protocol = self.layer4.protocol(Family::of(self.source));
        let count = whole.len().div_ceil(size);
        let part = |(i, bytes): (usize, &[u8])| {
            let more = if i + 1 == count { More::Last } else { More::Follow };
            let fragment = Fragment { id, offset: (i * size / 8) as u16, more };
            self.clone().protocol(protocol).payload(bytes).fragment(fragment).build()
        };
        whole.chunks(size).enumerate().map(part).collect()
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut packet = vec![0; header];
        packet[0] = 0x40 | (header / 4) as u8;
        packet[2..4].copy_from_slice(&((header + body.len()) as u16).to_be_bytes());
        if let Some(f) = self.fragment {
            let more = if f.more == More::Follow { ip::MORE_FRAGMENTS } else { 0 };
            packet[4..6].copy_from_slice(&(f.id as u16).to_be_bytes());
            packet[6..8].copy_from_slice(&(more | f.offset & ip::FRAGMENT_OFFSET).to_be_bytes());
        }
        packet[8] = self.hop_limit;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        packet[20..].copy_from_slice(&self.options);
        let sum = l4::checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(body);
        packet
    }

    fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = self.extensions.first().map_or(protocol, |e| e.kind);
        packet[7] = self.hop_limit;
        packet[8..24].copy_from_slice(&source.octets());
        packet[24..40].copy_from_slice(&destination.octets());
        for (i, extension) in self.extensions.iter().enumerate() {
            let at = packet.len();
            packet.extend_from_slice(&extension.bytes);
            packet[at] = self.extensions.get(i + 1).map_or(protocol, |e| e.kind);
        }
        packet.extend_from_slice(body);
        let length = (packet.len() - 40) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet
    }
}

/// The hardware addresses of the frames that are made here: destination and source.
pub const MACS: [Mac; 2] = [[0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2]];

/// An Ethernet header with tags, between two made-up addresses ([`MACS`]).
pub fn ethernet(tags: &[Tag], kind: u16) -> Vec<u8> {
    let mut frame = MACS.concat();
    for tag in tags {
        frame.extend(tag.kind.to_be_bytes());
        frame.extend((tag.id & 0xfff).to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame
}

/// An ARP request for `target` by `sender`.
pub fn arp(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(&[], ether::ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MACS[1]);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// A neighbour discovery message of this type (133-137), hop limit 255, about `target`.
pub fn discovery(kind: u8, source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr) -> Packet {
    let layer4 = Layer4::Icmp { kind, code: 0, rest: 0 };
    Packet::new(source, destination).hop_limit(255).layer4(layer4).payload(&target.octets())
}

/// The frame's first `length` bytes; the headers inside go on saying what they said.
pub fn truncate(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

/// Shortens the frame by `bytes` and makes the IP length field agree (untagged frames only): a
/// packet that is short, not cut.
pub fn shorten(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.truncate(frame.len() - bytes);
    let v6 = frame[12..14] == ether::IPV6.to_be_bytes();
    let (field, length) = if v6 { (18, frame.len() - 54) } else { (16, frame.len() - 14) };
    frame[field..field + 2].copy_from_slice(&(length as u16).to_be_bytes());
    frame
}

/// Whether Linux's `BPF_PROG_TEST_RUN` takes this frame. It wants an Ethernet header with something
/// behind it, and the whole fixed header of an untagged IP packet (net/bpf/test_run.c). Frames that
/// it refuses can be put only to datapaths outside of a kernel.
pub fn test_run_takes(frame: &[u8]) -> bool {
    match frame.get(12..14).map(|t| u16::from_be_bytes([t[0], t[1]])) {
        None => false,
        Some(ether::IPV4) => frame.len() >= 34,
        Some(ether::IPV6) => frame.len() >= 54,
        Some(_) => frame.len() >= 14,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn ipv4_header_and_checksum() {
        let frame = Packet::new(A, B).tcp(1000, 80, 2).build();
        assert_eq!((frame.len(), &frame[12..15]), (54, &[8, 0, 0x45][..]));
        assert_eq!(&frame[16..18], &[0, 40]);
        assert_eq!(l4::checksum(&[&frame[14..34]]), 0, "a right header sums to zero");
        assert_eq!(frame[34 + 13], 2);
    }

    #[test]
    fn extension_headers_chain() {
        let (a, b) =
            ("fd00::1".parse::<Ipv6Addr>().unwrap(), "fd00::2".parse::<Ipv6Addr>().unwrap());
        let packet = Packet::new(a, b)
            .extension(Extension::padded(0, 0))
            .extension(Extension::authentication(3));
        let frame = packet.udp(1, 2).tag(Tag::qinq(5)).tag(Tag::vlan(6)).build();
        let l3 = 22;
        assert_eq!(
            (frame[l3 + 6], frame[l3 + 40], frame[l3 + 48]),
            (0, ip::AUTHENTICATION, ip::UDP)
        );
        assert_eq!(frame.len(), l3 + 40 + 8 + 24 + 8);
        assert_eq!(&frame[l3 + 4..l3 + 6], &40u16.to_be_bytes());
    }

    #[test]
    fn fragments_add_up_to_the_packet() {
        let packet = Packet::new(A, B).udp(1, 2).payload(&[7; 40]);
        let parts = packet.fragments(9, 16);
        assert_eq!(parts.len(), 3);
        let whole: Vec<u8> = parts.iter().flat_map(|p| p[34..].to_vec()).collect();
        assert_eq!(whole, packet.build()[34..]);
        assert_eq!(parts[1][20..22], (ip::MORE_FRAGMENTS | 2).to_be_bytes());
        assert_eq!(parts[2][20..22], 4u16.to_be_bytes());
    }
}
