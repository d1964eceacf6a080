//! The connections that the kernel tracks in this namespace, as a pod's interface sees them.
//!
//! Sources: include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack,nf_conntrack_tcp}.h.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use super::{
    Connection, Opener,
    netlink::{self, Protocol, Socket, attribute, be16_at, nest, put},
};

const CT_GET: u16 = 1 << 8 | 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
const CTA_PROTOINFO_STATE: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Of a filter's flags (net/netfilter/nf_internals.h): the source address of the tuple counts.
const CTA_FILTER_IP_SRC: u32 = 1;
/// For more addresses than this everything is read at once: each address makes the kernel walk its
/// table twice.
const ASKED_ALONE: usize = 8;
/// A packet was seen in each direction.
const IPS_SEEN_REPLY: u32 = 1 << 1;

/// One end-to-end tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// Who sends.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Or the ICMP identifier.
    pub source_port: u16,
    /// Or the ICMP identifier.
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// As the first packet came, before translation.
    pub original: Tuple,
    /// As the answers leave, before they are translated back.
    pub reply: Tuple,
    /// Packets went both ways; of TCP and SCTP, the handshake is complete.
    pub answered: bool,
    /// It is ending, or was refused.
    pub closing: bool,
}

impl Tracked {
    /// The connection as the interface of the pod with `address` sees it: the original tuple where
    /// the pod opened it, the inverted reply tuple where it was reached. None where the pod is no
    /// end of it.
    pub fn seen_by(&self, address: IpAddr) -> Option<Connection> {
        let (tuple, opener) = if self.original.source == address {
            (self.original, Opener::Pod)
        } else if self.reply.source == address {
            (self.reply, Opener::Remote)
        } else {
            return None;
        };
        Some(Connection {
            opener,
            protocol: tuple.protocol,
            local: address,
            local_port: tuple.source_port,
            remote: tuple.destination,
            remote_port: tuple.destination_port,
            answered: self.answered,
            origin: self.original.source,
        })
    }
}

/// All tracked connections of the calling thread's namespace that still live.
///
/// # Errors
/// EPROTONOSUPPORT or EINVAL where the kernel tracks nothing (no nf_conntrack); EPERM without root;
/// else as [`Socket::dump`].
pub fn dump() -> io::Result<Vec<Tracked>> {
    // struct nfgenmsg: family (0: all), version, resource id
    ask(&mut Socket::open(Protocol::Netfilter)?, &[0; 4])
}

/// Those with an end that has one of these addresses, and perhaps others: few are looked for by the
/// kernel, which takes a quarter of the time where it tracks 126,000. One before 5.8 ignores what
/// it is asked for.
///
/// # Errors
/// As [`dump`].
pub fn of(addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
    if tracks_nothing() {
        return Ok(vec![]);
    }
    if addresses.len() > ASKED_ALONE {
        return dump();
    }
    let mut socket = Socket::open(Protocol::Netfilter)?;
    // Found from both ends, some are found twice. One after the other: two walks through the table
    // at the same time keep each other waiting (by 70 % on two processors).
    let mut found = BTreeMap::new();
    for address in addresses {
        for (tuple, flags) in
            [(CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS), (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS)]
        {
            found.extend(
                ask(&mut socket, &question(*address, tuple, flags))?
                    .into_iter()
                    .map(|t| (t.original, t)),
            );
        }
    }
    Ok(found.into_values().collect())
}

/// Is the table of the calling thread's namespace empty? Walking through it takes ten milliseconds
/// even so.
fn tracks_nothing() -> bool {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")
        .is_ok_and(|count| count.trim() == "0")
}

fn ask(socket: &mut Socket, question: &[u8]) -> io::Result<Vec<Tracked>> {
    let all = socket.dump(CT_GET, question, tracked)?;
    Ok(all.into_iter().filter(|t| !t.closing).collect())
}

/// Those whose tuple of this direction comes from an address.
fn question(address: IpAddr, direction: u16, flags: u16) -> Vec<u8> {
    // CTA_IP_V4_SRC, CTA_IP_V6_SRC
    let (family, source, bytes) = match address {
        IpAddr::V4(a) => (libc::AF_INET, 1, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6, 3, a.octets().to_vec()),
    };
    let mut question = vec![family as u8, 0, 0, 0];
    nest(&mut question, direction, |to| nest(to, CTA_TUPLE_IP, |to| put(to, source, &bytes)));
    nest(&mut question, CTA_FILTER, |to| put(to, flags, &CTA_FILTER_IP_SRC.to_ne_bytes()));
    question
}

/// The connection in a message's body: struct nfgenmsg, then attributes.
pub(crate) fn tracked(body: &[u8]) -> Option<Tracked> {
    let attributes = body.get(4..)?;
    let status = attribute(attributes, CTA_STATUS)
        .and_then(|s| netlink::u32_at(s, 0))
        .map_or(0, u32::from_be);
    let original = tuple(attribute(attributes, CTA_TUPLE_ORIG)?)?;
    let state = |protocol| -> Option<u8> {
        let info = attribute(attribute(attributes, CTA_PROTOINFO)?, protocol)?;
        attribute(info, CTA_PROTOINFO_STATE)?.first().copied()
    };
    // A handshake that is not complete may be one that somebody else began in the opener's name.
    let complete = match original.protocol {
        // ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK
        6 => state(CTA_PROTOINFO_TCP).is_some_and(|s| (3..=6).contains(&s)),
        // ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT
        132 => state(CTA_PROTOINFO_SCTP).is_some_and(|s| (4..=7).contains(&s)),
        _ => true,
    };
    let closing = match original.protocol {
        // FIN_WAIT, CLOSE_WAIT and LAST_ACK still carry data or acknowledgements; TIME_WAIT (7) and
        // CLOSE (8) do not.
        6 => state(CTA_PROTOINFO_TCP).is_some_and(|s| s == 7 || s == 8),
        // CLOSED (1)
        132 => state(CTA_PROTOINFO_SCTP).is_some_and(|s| s == 1),
        _ => false,
    };
    Some(Tracked {
        original,
        reply: tuple(attribute(attributes, CTA_TUPLE_REPLY)?)?,
        answered: status & IPS_SEEN_REPLY != 0 && complete,
        closing,
    })
}

fn tuple(attributes: &[u8]) -> Option<Tuple> {
    let (ip, protocol) = (attribute(attributes, 1)?, attribute(attributes, 2)?);
    let address = |v4, v6| attribute(ip, v4).or(attribute(ip, v6)).and_then(netlink::address);
    let port = |kind| attribute(protocol, kind).and_then(|p| be16_at(p, 0));
    // CTA_PROTO_ICMP_ID 4, CTA_PROTO_ICMPV6_ID 7
    let identifier = || port(4).or(port(7)).unwrap_or(0);
    Some(Tuple {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        protocol: *attribute(protocol, 1)?.first()?,
        source_port: port(2).unwrap_or_else(identifier),
        destination_port: port(3).unwrap_or_else(identifier),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(
        source: [u8; 4],
        source_port: u16,
        destination: [u8; 4],
        destination_port: u16,
    ) -> Tuple {
        Tuple {
            source: source.into(),
            destination: destination.into(),
            protocol: 6,
            source_port,
            destination_port,
        }
    }

    /// S40: through a Service, the client's interface sees the Service and the backend's sees the
    /// backend.
    #[test]
    fn s40_each_end_sees_the_tuple_of_its_own_interface() {
        let (client, service, backend) = ([10, 0, 0, 2], [10, 96, 0, 1], [10, 0, 1, 3]);
        let tracked = Tracked {
            original: tuple(client, 40000, service, 80),
            reply: tuple(backend, 8080, client, 40000),
            answered: true,
            closing: false,
        };
        let at_client = tracked.seen_by(client.into()).unwrap();
        assert_eq!((at_client.opener, at_client.local_port), (Opener::Pod, 40000));
        assert_eq!((at_client.remote, at_client.remote_port), (service.into(), 80));
        let at_backend = tracked.seen_by(backend.into()).unwrap();
        assert_eq!((at_backend.opener, at_backend.local_port), (Opener::Remote, 8080));
        assert_eq!((at_backend.remote, at_backend.remote_port), (client.into(), 40000));
        assert_eq!(at_backend.origin, IpAddr::from(client));
        assert_eq!(tracked.seen_by(service.into()), None);
    }

    #[test]
    fn a_message_is_read_attribute_by_attribute() {
        let side = |to: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4], ports: [u16; 2]| {
            nest(to, CTA_TUPLE_IP, |to| {
                put(to, 1, &source);
                put(to, 2, &destination);
            });
            nest(to, 2, |to| {
                put(to, 1, &[6]);
                put(to, 2, &ports[0].to_be_bytes());
                put(to, 3, &ports[1].to_be_bytes());
            });
        };
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut body = vec![0; 4];
        nest(&mut body, CTA_TUPLE_ORIG, |to| side(to, a, b, [1000, 80]));
        nest(&mut body, CTA_TUPLE_REPLY, |to| side(to, b, a, [80, 1000]));
        put(&mut body, CTA_STATUS, &IPS_SEEN_REPLY.to_be_bytes());
        let with = |state: u8| {
            let mut body = body.clone();
            nest(&mut body, CTA_PROTOINFO, |to| {
                nest(to, CTA_PROTOINFO_TCP, |to| put(to, CTA_PROTOINFO_STATE, &[state]));
            });
            tracked(&body).unwrap()
        };
        let read = with(3);
        assert_eq!(read.original, tuple(a, 1000, b, 80));
        assert_eq!(read.reply, tuple(b, 80, a, 1000));
        assert!(read.answered && !read.closing);
        // SYN_RECV: anybody may have sent the SYN.
        assert!(!with(2).answered);
        assert!(with(7).closing);
    }
}
