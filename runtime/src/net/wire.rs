//! The node's own devices, as far as they concern its pods: where tunnels end, and the link of a bridge.
//!
//! Sources: rtnetlink(7), include/uapi/linux/{if_link,if_tunnel}.h. Not here: what follows from it.

use std::{collections::BTreeSet, io, net::IpAddr};

use ipnetwork::Ipv6Network;
use netpolc_lower::{Tunnel, Wire};
use netpolc_target::semantics::TUNNEL_PROTOCOLS;

use super::netlink::{self, Protocol, Socket, attribute, u32_at};

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
    let mut bridges: BTreeSet<u32> = BTreeSet::new();
    // struct ifinfomsg: family, pad, type u16, index i32, ...; 16 bytes.
    let links = socket.dump(libc::RTM_GETLINK, &[0; 16], |to: &mut Vec<Link>, _, body| {
        to.extend(u32_at(body, 4).zip(kind_and_port(body.get(16..).unwrap_or_default())));
    })?;
    for (index, (is_bridge, port)) in links {
        if is_bridge {
            bridges.insert(index);
        }
        wire.tunnels.extend(port.map(Tunnel::Udp));
    }
    // struct ifaddrmsg: family, prefixlen, flags, scope, index
    let addresses = socket.dump(libc::RTM_GETADDR, &[0; 8], |to: &mut Vec<(u32, Ipv6Network)>, _, body| {
        let address = attribute(body.get(8..).unwrap_or_default(), IFA_ADDRESS).and_then(netlink::address);
        if let (Some(IpAddr::V6(address)), Some(index), Some(length)) = (address, u32_at(body, 4), body.get(1))
            && !address.is_unicast_link_local()
        {
            to.extend(Ipv6Network::new(address, *length).ok().map(|prefix| (index, prefix)));
        }
    })?;
    // A prefix of one address is no link.
    let linked = addresses.into_iter().filter(|(index, prefix)| bridges.contains(index) && prefix.prefix() < 128);
    wire.on_link =
        linked.filter_map(|(_, p)| Ipv6Network::new(p.network(), p.prefix()).ok()).take(MOST_LINKS).collect();
    Ok(wire)
}

/// More links than targets have places for are judged as far.
const MOST_LINKS: usize = 16;

/// Index, whether it is a bridge, and the UDP port that it unwraps.
type Link = (u32, (bool, Option<u16>));

fn kind_and_port(attributes: &[u8]) -> Option<(bool, Option<u16>)> {
    let info = attribute(attributes, IFLA_LINKINFO)?;
    let kind = attribute(info, IFLA_INFO_KIND)?;
    let kind = std::str::from_utf8(kind).ok()?.trim_end_matches('\0');
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let port = PORTS.iter().find(|(k, _)| *k == kind).and_then(|(_, number)| attribute(data, *number));
    let port = port.and_then(|p| Some(u16::from_be_bytes(p.get(..2)?.try_into().ok()?)));
    Some((kind == "bridge", port.filter(|p| *p != 0)))
}
