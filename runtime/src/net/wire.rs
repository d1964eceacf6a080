//! The node's own devices, as far as they concern its pods: where tunnels end, and the link of a bridge.
//!
//! Sources: rtnetlink(7), include/uapi/linux/{if_link,if_tunnel}.h. Not here: what follows from it.

use std::{collections::BTreeSet, io, net::IpAddr};

use ipnetwork::Ipv6Network;
use netpolc_lower::{Tunnel, Wire};
use netpolc_target::semantics::TUNNEL_PROTOCOLS;

use super::netlink::{self, Protocol, Socket, attribute, u32_at};

const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFA_ADDRESS: u16 = 1;

/// The attribute of a device's own data that holds the UDP port which it, or its peer, unwraps, in network order.
const PORTS: [(&str, u16); 9] = [
    ("vxlan", 15),     // IFLA_VXLAN_PORT
    ("geneve", 5),     // IFLA_GENEVE_PORT
    ("bareudp", 1),    // IFLA_BAREUDP_PORT
    ("ipip", 18),      // IFLA_IPTUN_ENCAP_DPORT: FOU and GUE; nodes are alike, so the port is this node's too
    ("sit", 18),       // IFLA_IPTUN_ENCAP_DPORT
    ("ip6tnl", 18),    // IFLA_IPTUN_ENCAP_DPORT
    ("gre", 17),       // IFLA_GRE_ENCAP_DPORT
    ("gretap", 17),    // IFLA_GRE_ENCAP_DPORT
    ("ip6gretap", 17), // IFLA_GRE_ENCAP_DPORT
];

/// What the devices of the calling thread's namespace are. The IP protocols that a node may unwrap count whatever
/// devices it has: another node may have others.
///
/// # Errors
/// The kernel's.
pub fn look() -> io::Result<Wire> {
    let mut wire = Wire { tunnels: TUNNEL_PROTOCOLS.map(Tunnel::Protocol).into(), ..Wire::default() };
    let mut socket = Socket::open(Protocol::Route)?;
    // struct ifinfomsg: family, pad, type u16, index i32, ...; 16 bytes.
    let links = socket.dump(libc::RTM_GETLINK, &[0; 16], |to: &mut Vec<Link>, _, body| {
        to.extend(u32_at(body, 4).map(|index| Link::of(index, body.get(16..).unwrap_or_default())));
    })?;
    let bridges: BTreeSet<u32> = links.iter().filter(|link| link.kind == Kind::Bridge).map(|link| link.index).collect();
    wire.tunnels.extend(links.iter().filter_map(|link| link.unwraps).map(Tunnel::Udp));
    let ports = links.iter().filter(|link| link.master.is_some_and(|master| bridges.contains(&master)));
    wire.bridged = ports.map(|link| link.index).collect();
    // struct ifaddrmsg: family, prefixlen, flags, scope, index
    let addresses = socket.dump(libc::RTM_GETADDR, &[0; 8], |to: &mut Vec<(u32, Ipv6Network)>, _, body| {
        let address = attribute(body.get(8..).unwrap_or_default(), IFA_ADDRESS).and_then(netlink::address);
        if let (Some(IpAddr::V6(address)), Some(index), Some(length)) = (address, u32_at(body, 4), body.get(1)) {
            // Nobody else on the link may speak for the node's own link-local address; the prefix is no answer.
            let length = if address.is_unicast_link_local() { 128 } else { *length };
            to.extend(Ipv6Network::new(address, length).ok().map(|prefix| (index, prefix)));
        }
    })?;
    // A prefix of one address is no link.
    let linked = addresses.into_iter().filter(|(index, prefix)| {
        bridges.contains(index) && (prefix.prefix() < 128 || prefix.ip().is_unicast_link_local())
    });
    let (own, links): (Vec<_>, Vec<_>) = linked.map(|(_, prefix)| prefix).partition(|p| p.prefix() == 128);
    let networks = own.into_iter().chain(links).filter_map(|p| Ipv6Network::new(p.network(), p.prefix()).ok());
    wire.on_link = networks.take(MOST_LINKS).collect();
    Ok(wire)
}

/// More links than targets have places for are judged as far.
const MOST_LINKS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bridge,
    Other,
}

struct Link {
    index: u32,
    kind: Kind,
    master: Option<u32>,
    /// The UDP port of the tunnel that ends there.
    unwraps: Option<u16>,
}

impl Link {
    fn of(index: u32, attributes: &[u8]) -> Self {
        let master = attribute(attributes, IFLA_MASTER).and_then(|m| u32_at(m, 0));
        let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
        let name = attribute(info, IFLA_INFO_KIND).and_then(|k| std::str::from_utf8(k).ok()).unwrap_or_default();
        let name = name.trim_end_matches('\0');
        let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
        let port = PORTS.iter().find(|(kind, _)| *kind == name).and_then(|(_, number)| attribute(data, *number));
        let port = port.and_then(|p| Some(u16::from_be_bytes(p.get(..2)?.try_into().ok()?)));
        let kind = if name == "bridge" { Kind::Bridge } else { Kind::Other };
        Link { index, kind, master, unwraps: port.filter(|p| *p != 0) }
    }
}
