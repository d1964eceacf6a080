//! The node's own devices, as far as they concern its pods: where tunnels end, and the link of a bridge.
//!
//! Sources: rtnetlink(7). Not here: what follows from it.

use std::{collections::BTreeSet, io, net::IpAddr};

use ipnetwork::Ipv6Network;
use netpolc_host::{
    links,
    netlink::{self, Protocol, Socket, attribute, u32_at},
};
use netpolc_lower::{Tunnel, Wire};
use netpolc_target::semantics::TUNNEL_PROTOCOLS;

const IFA_ADDRESS: u16 = 1;

/// What the devices of the calling thread's namespace are. The IP protocols that a node may unwrap count whatever
/// devices it has: another node may have others.
///
/// # Errors
/// The kernel's.
pub fn look() -> io::Result<Wire> {
    let mut wire = Wire { tunnels: TUNNEL_PROTOCOLS.map(Tunnel::Protocol).into(), ..Wire::default() };
    let links = links::all()?;
    let bridges: BTreeSet<u32> = links.iter().filter(|link| link.is_bridge()).map(|link| link.index).collect();
    wire.tunnels.extend(links.iter().filter_map(|link| link.unwraps).map(Tunnel::Udp));
    let ports = links.iter().filter(|link| link.master.is_some_and(|master| bridges.contains(&master)));
    wire.bridged = ports.map(|link| link.index).collect();
    // struct ifaddrmsg: family, prefixlen, flags, scope, index
    let mut socket = Socket::open(Protocol::Route)?;
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
