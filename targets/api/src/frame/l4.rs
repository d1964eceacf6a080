//! Layer 4 of built frames: headers, checksums, and ICMP errors around an inner packet.
//!
//! Not here: IP and below (`frame`).

use std::net::IpAddr;

use netpolc_table::schema::Family;

use crate::semantics::ip;

use super::Packet;

/// A layer-4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer4 {
    /// A TCP header of 20 bytes.
    Tcp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
        /// The flags, which are byte 13.
        flags: u8,
    },
    /// A UDP header of 8 bytes.
    Udp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// The common header (12 bytes) and one chunk of 4 bytes; further bytes of the chunk are the
    /// payload.
    Sctp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
        /// The chunk's type.
        chunk: u8,
    },
    /// An ICMP header of 8 bytes in IPv4, one of ICMPv6 in IPv6.
    Icmp {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
        /// Bytes 4-7: identifier and sequence number, MTU, pointer, or unused.
        rest: u32,
    },
    /// No header, and the protocol with this number.
    Other(u8),
}

impl Layer4 {
    /// The protocol's number, which differs between the families for ICMP.
    pub(super) fn protocol(&self, family: Family) -> u8 {
        match self {
            Layer4::Tcp { .. } => ip::TCP,
            Layer4::Udp { .. } => ip::UDP,
            Layer4::Sctp { .. } => ip::SCTP,
            Layer4::Icmp { .. } => match family {
                Family::V4 => ip::ICMP,
                Family::V6 => ip::ICMPV6,
            },
            Layer4::Other(protocol) => *protocol,
        }
    }
}

/// Builds header and payload, with the checksum.
pub(super) fn build(
    layer4: &Layer4,
    source: IpAddr,
    destination: IpAddr,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + payload.len());
    let ports = |bytes: &mut Vec<u8>, source: u16, destination: u16| {
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
    };
    let checksum_at = match *layer4 {
        Layer4::Tcp { source, destination, flags } => {
            ports(&mut bytes, source, destination);
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            Some(16)
        }
        Layer4::Udp { source, destination } => {
            ports(&mut bytes, source, destination);
            bytes.extend((8 + payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
            Some(6)
        }
        // CRC32c is left 0: nothing that reads these frames verifies it.
        Layer4::Sctp { source, destination, chunk } => {
            ports(&mut bytes, source, destination);
            bytes.extend([0; 8]);
            bytes.extend([chunk, 0]);
            bytes.extend((4 + payload.len() as u16).to_be_bytes());
            None
        }
        Layer4::Icmp { kind, code, rest } => {
            bytes.extend([kind, code, 0, 0]);
            bytes.extend(rest.to_be_bytes());
            Some(2)
        }
        Layer4::Other(_) => None,
    };
    bytes.extend_from_slice(payload);
    if let Some(at) = checksum_at {
        let length = bytes.len() as u32;
        let protocol = layer4.protocol(Family::of(source));
        let pseudo = match (source, destination) {
            (IpAddr::V4(_), _) if protocol == ip::ICMP => vec![],
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                [&s.octets()[..], &d.octets(), &[0, protocol], &(length as u16).to_be_bytes()]
                    .concat()
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                [&s.octets()[..], &d.octets(), &length.to_be_bytes(), &[0, 0, 0, protocol]].concat()
            }
            _ => vec![],
        };
        let sum = checksum(&[&pseudo, &bytes]);
        // RFC 768: a UDP sum of 0 is sent as all ones.
        let sum = if protocol == ip::UDP && sum == 0 { 0xffff } else { sum };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// The Internet checksum (RFC 1071) over the parts, each padded to 16 bits.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts
        .iter()
        .flat_map(|p| p.chunks(2))
        .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// What an error quotes of a packet: its headers and the first `bytes` bytes behind them (8 by RFC
/// 792, more by RFC 1812).
pub fn quote(inner: &Packet, bytes: usize) -> Vec<u8> {
    let mut whole = inner.datagram();
    let headers = if whole[0] >> 4 == 4 {
        usize::from(whole[0] & 15) * 4
    } else {
        40 + inner.extensions.iter().map(|e| e.bytes.len()).sum::<usize>()
    };
    whole.truncate(headers + bytes);
    whole
}

/// An ICMP or ICMPv6 error from `router` to the source of `inner`, around `quoted` bytes. `rest` is
/// bytes 4-7: the MTU of "too big" and "fragmentation needed".
pub fn icmp_error(
    router: IpAddr,
    to: IpAddr,
    (kind, code): (u8, u8),
    rest: u32,
    quoted: &[u8],
) -> Packet {
    Packet::new(router, to).layer4(Layer4::Icmp { kind, code, rest }).payload(quoted)
}
