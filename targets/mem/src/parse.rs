//! Steps 2 to 6: from bytes to headers. Every function returns the reason why it cannot go on.
//!
//! Not here: whether that reason means Drop or Next, which the caller decides (`datapath`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpolc_table::schema::Family;
use netpolc_target::{
    DropReason::{self, Malformed, SourceRoute, Truncated},
    semantics::{Event, HAS_PORTS, SOURCE_ROUTES, ether, icmp, ip, needed},
};

/// What follows the Ethernet header and its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer3 {
    /// ARP, at this offset.
    Arp(usize),
    /// IP, at this offset.
    Ip(Family, usize),
    /// Anything else.
    Other,
}

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it, with its ports. An atomic fragment counts as whole.
    Whole,
    /// The first fragment: its offset is 0, and more follow.
    First(Piece),
    /// A later fragment: its offset is not 0.
    Later(Piece),
}

/// What identifies a fragmented packet besides its addresses, and where the fragment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// In IPv4 the packet's protocol, in IPv6 the next header of the fragment header, which may be
    /// an extension header.
    pub protocol: u8,
    pub id: u32,
    /// In units of 8 bytes.
    pub offset: u16,
}

/// An IP packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// The protocol of layer 4; in a later fragment that of the piece.
    pub protocol: u8,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where layer 4 begins.
    pub l4: usize,
    /// Where the packet ends.
    pub end: usize,
    pub hop_limit: u8,
    pub part: Part,
    /// Whether the guard takes it for a fragment. In IPv6 an atomic one is one too.
    pub fragmented: bool,
}

/// What layer 4 says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transport {
    pub source_port: u16,
    pub destination_port: u16,
    /// What the packet means to a connection; None for an ICMP message that has no tuple.
    pub event: Option<Event>,
    /// The type of an ICMP message of the packet's own family; None for all other packets.
    pub icmp: Option<u8>,
    /// The code of such a message.
    pub code: u8,
}

impl Transport {
    /// What the tables tell apart of an ICMP message: its type and code.
    pub fn message(&self) -> Option<u16> {
        Some(u16::from_be_bytes([self.icmp?, self.code]))
    }

    /// The same of the message that opened the exchange to which this one belongs.
    pub fn question(&self, family: Family) -> Option<u16> {
        let kind = icmp::question(family.number(), self.icmp?);
        Some(u16::from_be_bytes([kind, self.code]))
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The reason `Truncated`, unless `upto` bytes lie before `end`.
fn within(upto: usize, end: usize) -> Result<(), DropReason> {
    if upto <= end { Ok(()) } else { Err(Truncated) }
}

/// Step 2: the Ethernet header, with up to two tags.
pub(crate) fn ethernet(frame: &[u8]) -> Result<Layer3, DropReason> {
    within(14, frame.len())?;
    let mut at = 12;
    for _ in 0..ether::MAX_TAGS {
        if !matches!(u16_at(frame, at), ether::VLAN | ether::QINQ) {
            break;
        }
        at += 4;
        within(at + 2, frame.len())?;
    }
    Ok(match u16_at(frame, at) {
        ether::ARP => Layer3::Arp(at + 2),
        ether::IPV4 => Layer3::Ip(Family::V4, at + 2),
        ether::IPV6 => Layer3::Ip(Family::V6, at + 2),
        _ => Layer3::Other,
    })
}

/// Step 3 up to the guard: source and destination of the header at `at`, all of which lies before
/// `end`.
pub(crate) fn addresses(
    bytes: &[u8],
    family: Family,
    at: usize,
    end: usize,
) -> Result<(IpAddr, IpAddr), DropReason> {
    match family {
        Family::V4 => {
            within(at + 20, end)?;
            if bytes[at] >> 4 != 4 || bytes[at] & 15 < 5 {
                return Err(Malformed);
            }
            let address = |i: usize| {
                let octets: [u8; 4] = bytes[at + i..at + i + 4].try_into().expect("4 bytes");
                IpAddr::V4(Ipv4Addr::from(octets))
            };
            Ok((address(12), address(16)))
        }
        Family::V6 => {
            within(at + 40, end)?;
            if bytes[at] >> 4 != 6 {
                return Err(Malformed);
            }
            let address = |i: usize| {
                let octets: [u8; 16] = bytes[at + i..at + i + 16].try_into().expect("16 bytes");
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            Ok((address(8), address(24)))
        }
    }
}

/// Steps 3 (behind the guard) and 4, on a header that [`addresses`] has accepted.
pub(crate) fn network(frame: &[u8], family: Family, l3: usize) -> Result<Network, DropReason> {
    match family {
        Family::V4 => ipv4(frame, l3),
        Family::V6 => {
            let payload = usize::from(u16_at(frame, l3 + 4));
            let end = l3 + 40 + payload;
            // Segmentation super-packets are longer than their length field can say.
            let end = if payload == 0 && frame.len() > end + 0xffff { frame.len() } else { end };
            within(end, frame.len())?;
            let walk = extensions(frame, frame[l3 + 6], l3 + 40, end, Routes::Refused)?;
            Ok(Network {
                protocol: walk.protocol,
                l3,
                l4: walk.at,
                end,
                hop_limit: frame[l3 + 7],
                part: walk.part,
                fragmented: walk.fragment_header,
            })
        }
    }
}

fn ipv4(frame: &[u8], l3: usize) -> Result<Network, DropReason> {
    let header = 4 * usize::from(frame[l3] & 15);
    within(l3 + header, frame.len())?;
    let total = usize::from(u16_at(frame, l3 + 2));
    let end = if total == 0 && frame.len() > l3 + 0xffff {
        frame.len()
    } else if total < header {
        return Err(Malformed);
    } else {
        l3 + total
    };
    within(end, frame.len())?;
    options(&frame[l3 + 20..l3 + header])?;
    let (field, protocol) = (u16_at(frame, l3 + 6), frame[l3 + 9]);
    let piece =
        Piece { protocol, id: u16_at(frame, l3 + 4).into(), offset: field & ip::FRAGMENT_OFFSET };
    let part = match (piece.offset, field & ip::MORE_FRAGMENTS) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First(piece),
        _ => Part::Later(piece),
    };
    Ok(Network {
        protocol,
        l3,
        l4: l3 + header,
        end,
        hop_limit: frame[l3 + 8],
        part,
        fragmented: part != Part::Whole,
    })
}

/// Refuses source routes among the options of IPv4, and options that are malformed (S49).
fn options(mut rest: &[u8]) -> Result<(), DropReason> {
    while let Some(&kind) = rest.first() {
        let length = match kind {
            0 => break,
            1 => 1,
            _ if SOURCE_ROUTES.contains(&kind) => return Err(SourceRoute),
            _ => rest.get(1).copied().filter(|n| *n >= 2).ok_or(Malformed)?.into(),
        };
        rest = rest.get(length..).ok_or(Malformed)?;
    }
    Ok(())
}

/// What a walk makes of a routing header with segments left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routes {
    /// The packet is refused.
    Refused,
    /// The header does not matter: a quoted packet goes nowhere any more.
    Quoted,
}

/// How a walk over extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    pub protocol: u8,
    pub at: usize,
    pub part: Part,
    pub fragment_header: bool,
}

/// Step 4: walks over extension headers, from the header `next` at `at` on.
pub(crate) fn extensions(
    bytes: &[u8],
    next: u8,
    at: usize,
    end: usize,
    routes: Routes,
) -> Result<Walk, DropReason> {
    let mut walk = Walk { protocol: next, at, part: Part::Whole, fragment_header: false };
    for count in 0.. {
        let kind = walk.protocol;
        if !ip::EXTENSIONS.contains(&kind) {
            break;
        }
        if count == ip::MAX_EXTENSIONS || (kind == ip::FRAGMENT && walk.fragment_header) {
            return Err(Malformed);
        }
        within(walk.at + 2, end)?;
        let length = usize::from(bytes[walk.at + 1]);
        let size = match kind {
            ip::FRAGMENT => 8,
            ip::AUTHENTICATION => 4 * (length + 2),
            _ => 8 * (length + 1),
        };
        within(walk.at + size, end)?;
        if kind == ip::ROUTING && routes == Routes::Refused && bytes[walk.at + 3] != 0 {
            return Err(SourceRoute);
        }
        walk.protocol = bytes[walk.at];
        if kind == ip::FRAGMENT {
            walk.fragment_header = true;
            let field = u16_at(bytes, walk.at + 2);
            let id =
                u32::from(u16_at(bytes, walk.at + 4)) << 16 | u32::from(u16_at(bytes, walk.at + 6));
            let piece = Piece { protocol: walk.protocol, id, offset: field >> 3 };
            walk.part = match (piece.offset, field & 1) {
                (0, 0) => Part::Whole,
                (0, _) => Part::First(piece),
                _ => Part::Later(piece),
            };
        }
        walk.at += size;
        // What follows the fragment header of a later fragment is payload.
        if matches!(walk.part, Part::Later(_)) {
            break;
        }
    }
    Ok(walk)
}

/// Step 6: layer 4 of a whole packet or a first fragment.
pub(crate) fn transport(
    frame: &[u8],
    family: Family,
    network: &Network,
) -> Result<Transport, DropReason> {
    within(network.l4 + needed(network.protocol, family.number()), network.end)?;
    Ok(upper(&frame[network.l4..network.end], family, network.protocol))
}

/// Ports and event of a layer 4 that is long enough. Inner packets of ICMP errors have at least 8
/// bytes, so that what lies behind those (TCP flags, SCTP chunks) may be missing, and the event
/// with it.
pub(crate) fn upper(l4: &[u8], family: Family, protocol: u8) -> Transport {
    let mut found = Transport {
        source_port: 0,
        destination_port: 0,
        event: Some(Event::Datagram),
        icmp: None,
        code: 0,
    };
    if HAS_PORTS.contains(&protocol) {
        (found.source_port, found.destination_port) = (u16_at(l4, 0), u16_at(l4, 2));
    }
    let byte = |i: usize| l4.get(i).copied();
    match (protocol, family) {
        (ip::TCP, _) => found.event = byte(13).map(Event::of_tcp),
        (ip::SCTP, _) => found.event = byte(12).map(Event::of_sctp),
        (ip::ICMP, Family::V4) | (ip::ICMPV6, Family::V6) => {
            found.icmp = byte(0);
            found.code = l4[1];
            found.event = Event::of_icmp(family.number(), l4[0]);
            if found.event.is_some() {
                found.source_port = u16_at(l4, 4);
                found.destination_port = found.source_port;
            }
        }
        _ => {}
    }
    found
}

/// Whether this type of ICMP (or ICMPv6) message is an error.
pub(crate) fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => icmp::ERRORS_V4.contains(&kind),
        Family::V6 => icmp::ERRORS_V6.contains(&kind),
    }
}
