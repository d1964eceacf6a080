//! Frames as bytes, each layer a function of what it carries. Nothing is checked: a caller may ask
//! for what no honest stack sends.
//!
//! Lengths and the IPv4 header's checksum are right (routers look at them), other checksums are 0
//! (nobody on the way does).

use std::net::{IpAddr, Ipv6Addr};

use super::Mac;

/// EtherTypes and protocol numbers (IANA).
pub mod number {
    #![allow(missing_docs, reason = "names of IANA's registries")]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    pub const QINQ: u16 = 0x88a8;
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NONE: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    /// IPv4, IPv6, GRE and IPIP inside IP.
    pub const TUNNELS: [u8; 4] = [4, 41, 47, 94];
    /// Headers of IPv6 that another follows.
    pub const EXTENSIONS: [u8; 6] =
        [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY];
}

/// An Ethernet frame; `tags` are (type, id), the outermost first.
pub fn ethernet(to: Mac, from: Mac, tags: &[(u16, u16)], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for (kind, id) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    frame
}

/// What an IP header says besides addresses, protocol and lengths.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The TTL or hop limit.
    pub hops: u8,
    /// The identification that fragments of one packet share.
    pub id: u32,
    /// IPv4: flags and offset as they stand at byte 6.
    pub fragment: u16,
    /// IPv4: a multiple of 4 bytes, at most 40.
    pub options: Vec<u8>,
}

/// An IP packet of the addresses' family. Addresses of two families: the destination counts, the
/// source is all zeros.
pub fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    header: &Header,
    body: &[u8],
) -> Vec<u8> {
    match destination {
        IpAddr::V4(destination) => {
            let source = if let IpAddr::V4(a) = source { a.octets() } else { [0; 4] };
            let length = 20 + header.options.len();
            let mut packet = vec![0x40 | (length / 4) as u8, 0];
            packet.extend(((length + body.len()) as u16).to_be_bytes());
            packet.extend((header.id as u16).to_be_bytes());
            packet.extend(header.fragment.to_be_bytes());
            packet.extend([header.hops, protocol, 0, 0]);
            packet.extend(source);
            packet.extend(destination.octets());
            packet.extend(&header.options);
            seal(&mut packet);
            packet.extend(body);
            packet
        }
        IpAddr::V6(destination) => {
            let source = if let IpAddr::V6(a) = source { a } else { Ipv6Addr::UNSPECIFIED };
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((body.len() as u16).to_be_bytes());
            packet.extend([protocol, header.hops]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(body);
            packet
        }
    }
}

/// Writes the checksum of an IPv4 header (RFC 1071).
pub fn seal(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let words = header
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!sum as u16).to_be_bytes());
}

/// The EtherType of a packet that [`ip`] made.
pub fn ether_type(destination: IpAddr) -> u16 {
    if destination.is_ipv4() { number::IPV4 } else { number::IPV6 }
}

/// A UDP header with a body.
pub fn udp(source: u16, destination: u16, body: &[u8]) -> Vec<u8> {
    let length = (8 + body.len()) as u16;
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], body]
        .concat()
}

/// A TCP header without options, with a body.
pub fn tcp(source: u16, destination: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let rest = [
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        if flags & 0x10 == 0 { 0 } else { 1 },
        0x50,
        flags,
        0x10,
        0,
        0,
        0,
        0,
        0,
    ];
    [&ports[..], &rest, body].concat()
}

/// An SCTP header with one chunk.
pub fn sctp(source: u16, destination: u16, chunk: u8, body: &[u8]) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let length = ((4 + body.len()) as u16).to_be_bytes();
    [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, chunk, 0, length[0], length[1]], body].concat()
}

/// ICMP or ICMPv6: type, code, four bytes that depend on both.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0], &rest[..], body].concat()
}

/// An IPv6 extension header of `8 * (units + 1)` bytes, zeros and padding inside. `next` is what
/// follows it.
pub fn extension(kind: u8, next: u8, units: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8 * (usize::from(units) + 1)];
    bytes[0] = next;
    bytes[1] = units;
    match kind {
        // Of 4-byte words, less two.
        number::AUTHENTICATION => bytes[1] = 2 * units,
        number::HOP_BY_HOP | number::DESTINATION => {
            let mut at = 2;
            while at < bytes.len() {
                // PadN: 1, length, zeros.
                let n = (bytes.len() - at).min(257);
                if n > 1 {
                    bytes[at] = 1;
                    bytes[at + 1] = (n - 2) as u8;
                }
                at += n;
            }
        }
        _ => {}
    }
    bytes
}

/// A routing header: the first of its addresses is `via` where it has room, and the last too.
pub fn routing(next: u8, kind: u8, left: u8, units: u8, via: Ipv6Addr) -> Vec<u8> {
    let mut bytes = extension(number::ROUTING, next, units);
    bytes[2] = kind;
    bytes[3] = left;
    if kind == 4 {
        // Of a segment routing header (RFC 8754): the number of the last entry.
        bytes[4] = (units / 2).saturating_sub(1);
    }
    for slot in bytes[8..].chunks_exact_mut(16) {
        slot.copy_from_slice(&via.octets());
    }
    bytes
}

/// A fragment header of IPv6; `offset` in bytes.
pub fn fragment(next: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
    let field = (offset & !7 | u16::from(more)).to_be_bytes();
    [&[next, 0, field[0], field[1]][..], &id.to_be_bytes()].concat()
}

/// An ARP packet for Ethernet and IPv4.
pub fn arp(operation: u16, sender: (Mac, IpAddr), target: (Mac, IpAddr)) -> Vec<u8> {
    let octets = |address| if let IpAddr::V4(a) = address { a.octets() } else { [0; 4] };
    let operation = operation.to_be_bytes();
    let head = [0, 1, 8, 0, 6, 4, operation[0], operation[1]];
    [&head[..], &sender.0, &octets(sender.1), &target.0, &octets(target.1)].concat()
}

/// A VXLAN header with network identifier 1 (RFC 7348).
pub fn vxlan(inner: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, 1, 0][..], inner].concat()
}

/// The first bytes of a packet, as ICMP errors quote them: an IP header and eight bytes of ports.
pub fn quote(source: IpAddr, destination: IpAddr, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
    let body = match protocol {
        number::ICMP | number::ICMPV6 => {
            let id = ports.0.to_be_bytes();
            vec![if protocol == number::ICMP { 8 } else { 128 }, 0, 0, 0, id[0], id[1], 0, 1]
        }
        _ => [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &[0, 16, 0, 0]].concat(),
    };
    ip(source, destination, protocol, &Header { hops: 60, ..Header::default() }, &body)
}
