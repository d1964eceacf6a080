//! Frames as the judge reads them: once, leniently, and sharing nothing with any datapath.
//!
//! What is cut short is read as far as it goes. Not here: any opinion about what was read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Mac, bytes::number, world::OVERLAY_PORT};

/// An Ethernet frame, as far as the judge reads it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The hardware address that it is for.
    pub destination: Mac,
    /// The hardware address that it claims to come from.
    pub source: Mac,
    /// What it carries behind any number of tags.
    pub content: Content,
}

/// What a frame carries, by its ethertype.
#[derive(Clone, Debug)]
pub enum Content {
    /// ARP for Ethernet and IPv4.
    Arp {
        /// The sender's IP address, as the message claims it.
        sender: Ipv4Addr,
    },
    /// An IP packet of either family.
    Ip(Packet),
    /// Neither; the type, or the length of an LLC frame.
    Other(u16),
    /// It ends before it says.
    Short,
}

/// An IP packet of either family.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The TTL or hop limit.
    pub hops: u8,
    /// Above IP and its extension headers; of a later fragment what its fragment header says.
    pub protocol: u8,
    /// What its fragment header says; None where there is none.
    pub fragment: Option<Fragment>,
    /// Layer 4, as far as it is there.
    pub body: Vec<u8>,
    /// The headers could be read to their end.
    pub sound: bool,
}

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What follows its header, as all fragments of one packet say it.
    pub protocol: u8,
    /// Where the fragment begins in the packet, in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// The identification that fragments of one packet share.
    pub id: u32,
}

/// A packet's place in a connection; ports of protocols without any are 0, of echoes the
/// identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The IP protocol number.
    pub protocol: u8,
    /// The source's address and port.
    pub source: (IpAddr, u16),
    /// The destination's address and port.
    pub destination: (IpAddr, u16),
}

impl Flow {
    /// The tuple of packets in the other direction.
    pub fn reverse(self) -> Self {
        Flow { source: self.destination, destination: self.source, ..self }
    }
}

/// What a packet does to a connection (S38).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The packet can only be the first of its connection.
    Opens,
    /// The packet can only be a later one.
    Continues,
    /// The packet may be either: UDP, and protocols without ports.
    Either,
    /// The packet belongs to no connection.
    Alone,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The 16-bit number at an offset; None behind the end.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_be_bytes)
}

/// Reads a frame. None: shorter than an Ethernet header.
pub fn frame(bytes: &[u8]) -> Option<Frame> {
    let (destination, source) = (field(bytes, 0)?, field(bytes, 6)?);
    let mut at = 12;
    let content = loop {
        match word(bytes, at) {
            Some(number::VLAN | number::QINQ) => at += 4,
            Some(kind) => break content(kind, &bytes[at + 2..]),
            None => break Content::Short,
        }
    };
    Some(Frame { destination, source, content })
}

fn content(kind: u16, body: &[u8]) -> Content {
    match kind {
        number::ARP => field::<4>(body, 14)
            .map_or(Content::Short, |sender| Content::Arp { sender: sender.into() }),
        number::IPV4 => ipv4(body).map_or(Content::Short, Content::Ip),
        number::IPV6 => ipv6(body).map_or(Content::Short, Content::Ip),
        other => Content::Other(other),
    }
}

/// Reads an IPv4 packet. None: shorter than its addresses.
pub fn ipv4(bytes: &[u8]) -> Option<Packet> {
    let source: [u8; 4] = field(bytes, 12)?;
    let destination: [u8; 4] = field(bytes, 16)?;
    let length = 4 * usize::from(bytes[0] & 15);
    let total = usize::from(word(bytes, 2)?);
    let field = word(bytes, 6)?;
    let (offset, more) = ((field & 0x1fff) << 3, field & 0x2000 != 0);
    let fragment = Fragment { protocol: bytes[9], offset, more, id: word(bytes, 4)?.into() };
    let options = bytes.get(20..length.max(20)).is_some_and(options_are_sound);
    let sound =
        bytes[0] >> 4 == 4 && length >= 20 && total >= length && total <= bytes.len() && options;
    let end = total.clamp(20, bytes.len());
    Some(Packet {
        source: Ipv4Addr::from(source).into(),
        destination: Ipv4Addr::from(destination).into(),
        hops: bytes[8],
        protocol: bytes[9],
        fragment: (offset != 0 || more).then_some(fragment),
        body: bytes.get(length.max(20)..end).unwrap_or_default().to_vec(),
        sound,
    })
}

/// Does each option have a length that is one, up to the end of the list (RFC 791)?
fn options_are_sound(mut rest: &[u8]) -> bool {
    loop {
        rest = match *rest {
            [] | [0, ..] => return true,
            [1, ref rest @ ..] => rest,
            [_, length, ..] if length >= 2 && usize::from(length) <= rest.len() => {
                &rest[length.into()..]
            }
            _ => return false,
        };
    }
}

/// Reads an IPv6 packet with any number of extension headers. None: shorter than its addresses.
pub fn ipv6(bytes: &[u8]) -> Option<Packet> {
    let source: [u8; 16] = field(bytes, 8)?;
    let destination: [u8; 16] = field(bytes, 24)?;
    let total = 40 + usize::from(word(bytes, 4)?);
    let end = total.min(bytes.len());
    let mut packet = Packet {
        source: Ipv6Addr::from(source).into(),
        destination: Ipv6Addr::from(destination).into(),
        hops: bytes[7],
        protocol: bytes[6],
        fragment: None,
        body: vec![],
        sound: bytes[0] >> 4 == 6 && total <= bytes.len(),
    };
    let mut rest = &bytes[40..end.max(40)];
    while number::EXTENSIONS.contains(&packet.protocol) {
        let size = match (packet.protocol, rest.get(1)) {
            (number::FRAGMENT, _) => 8,
            (number::AUTHENTICATION, Some(n)) => 4 * (usize::from(*n) + 2),
            (_, Some(n)) => 8 * (usize::from(*n) + 1),
            (_, None) => usize::MAX,
        };
        if size > rest.len() {
            packet.sound = false;
            break;
        }
        let kind = std::mem::replace(&mut packet.protocol, rest[0]);
        if kind == number::FRAGMENT {
            let (place, id) = (word(rest, 2)?, field(rest, 4).map(u32::from_be_bytes)?);
            packet.fragment = Some(Fragment {
                protocol: packet.protocol,
                offset: place & !7,
                more: place & 1 != 0,
                id,
            });
        }
        rest = &rest[size..];
        if packet.fragment.is_some_and(|f| f.offset != 0) {
            break;
        }
    }
    packet.body = rest.to_vec();
    Some(packet)
}

impl Packet {
    /// Is it an IPv4 packet?
    pub fn is_v4(&self) -> bool {
        self.destination.is_ipv4()
    }

    /// Is it a fragment that does not begin its packet?
    pub fn is_later(&self) -> bool {
        self.fragment.is_some_and(|f| f.offset != 0)
    }

    /// ICMP of its own family.
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.is_v4() { number::ICMP } else { number::ICMPV6 }
    }

    /// Does it tell of an error with another packet?
    pub fn is_error(&self) -> bool {
        let errors: &[u8] = if self.is_v4() { &[3, 4, 5, 11, 12] } else { &[1, 2, 3, 4] };
        self.is_icmp()
            && !self.is_later()
            && self.body.first().is_some_and(|kind| errors.contains(kind))
    }

    /// The packet that an error tells of.
    pub fn quoted(&self) -> Option<Packet> {
        let quoted = self.body.get(8..)?;
        let mut inner = if self.is_v4() { ipv4(quoted) } else { ipv6(quoted) }?;
        // Its length says nothing: it is cut by nature.
        if self.is_v4() {
            let length = 4 * usize::from(quoted[0] & 15);
            inner.body = quoted.get(length.max(20)..).unwrap_or_default().to_vec();
        }
        Some(inner)
    }

    /// Neighbour discovery (RFC 4861): its type.
    pub fn discovery(&self) -> Option<u8> {
        self.discovery_after(0)
    }

    /// The same, where it has met so many routers since.
    fn discovery_after(&self, routers: u8) -> Option<u8> {
        let kind = *self.body.first()?;
        let is = !self.is_v4()
            && self.is_icmp()
            && self.hops == 255 - routers
            && self.fragment.is_none();
        (is && (133..=137).contains(&kind)).then_some(kind)
    }

    /// Was it neighbour discovery, of a size that passes, before a router took it on?
    pub fn was_discovery(&self) -> bool {
        self.body.len() <= 128 && self.discovery_after(1).is_some()
    }

    /// The source and destination port, where the protocol has ports and they are there.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has =
            [number::TCP, number::UDP, number::SCTP].contains(&self.protocol) && !self.is_later();
        has.then(|| Some((word(&self.body, 0)?, word(&self.body, 2)?))).flatten()
    }

    /// Are all bytes there that say what connection it belongs to and what it does to it?
    pub fn is_complete(&self) -> bool {
        let needed = match self.protocol {
            number::TCP => 14,
            number::UDP => 8,
            number::SCTP => 16,
            _ if self.is_icmp() => 8,
            _ => 0,
        };
        self.sound && (self.is_later() || self.body.len() >= needed)
    }

    /// Its connection, and what it does to it. None for a later fragment.
    pub fn flow(&self) -> Option<(Flow, Event)> {
        if self.is_later() {
            return None;
        }
        let (from, to) = self.ports().unwrap_or((0, 0));
        let mut flow = Flow {
            protocol: self.protocol,
            source: (self.source, from),
            destination: (self.destination, to),
        };
        let event = match (self.protocol, self.body.first()) {
            // SYN without ACK, whatever else is set (S38).
            (number::TCP, _) if self.body.get(13).is_some_and(|f| f & 0x12 == 2) => Event::Opens,
            (number::SCTP, _) if self.body.get(12) == Some(&1) => Event::Opens,
            (number::TCP | number::SCTP, _) => Event::Continues,
            (_, kind) if self.is_icmp() => {
                let (requests, replies): (&[u8], &[u8]) =
                    if self.is_v4() { (&[8, 13], &[0, 14]) } else { (&[128], &[129]) };
                let is = |list: &[u8]| kind.is_some_and(|kind| list.contains(kind));
                let event = match (is(requests), is(replies)) {
                    (true, _) => Event::Opens,
                    (_, true) => Event::Continues,
                    _ => return Some((flow, Event::Alone)),
                };
                let id = word(&self.body, 4).unwrap_or(0);
                (flow.source.1, flow.destination.1) = (id, id);
                event
            }
            _ => Event::Either,
        };
        Some((flow, event))
    }

    /// What it carries to an overlay device.
    pub fn overlaid(&self) -> Option<Frame> {
        let is = self.protocol == number::UDP && self.ports()?.1 == OVERLAY_PORT;
        is.then(|| frame(self.body.get(16..)?)).flatten()
    }
}
