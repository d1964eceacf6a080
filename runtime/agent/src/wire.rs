//! Reads the node's own devices, as far as they concern its pods: where tunnels end, and the
//! networks of bridges.
//!
//! Not here: asking the kernel ([`netpolc_host::links`]), what follows from these devices
//! (netpolc-lower).

use std::{collections::BTreeSet, io, net::IpAddr};

use ipnetwork::Ipv6Network;
use netpolc_host::links;
use netpolc_lower::{Tunnel, Wire};
use netpolc_table::IfIndex;

/// Reads the devices of the calling thread's network namespace. The IP protocols of tunnels count
/// whatever devices the node has, since another node may have others.
///
/// # Errors
/// The kernel's links or addresses cannot be read.
pub fn look() -> io::Result<Wire> {
    let mut wire = Wire::of_every_node();
    let links = links::all()?;
    let bridges: BTreeSet<u32> =
        links.iter().filter(|link| link.is_bridge()).map(|link| link.index).collect();
    wire.tunnels.extend(links.iter().filter_map(|link| link.unwraps).map(Tunnel::Udp));
    let ports =
        links.iter().filter(|link| link.master.is_some_and(|master| bridges.contains(&master)));
    wire.bridged = ports.map(|link| IfIndex::new(link.index)).collect();
    let addresses = links::addresses()?.into_iter().filter_map(|found| {
        let IpAddr::V6(address) = found.on_link else { return None };
        // Of a link-local address only the address itself counts, since the prefix is the same on
        // every link.
        let length = if address.is_unicast_link_local() { 128 } else { found.prefix };
        Some((found.index, Ipv6Network::new(address, length).ok()?))
    });
    // A prefix of a single address is not a network on the link, except for a link-local address.
    let linked = addresses.filter(|(index, prefix)| {
        bridges.contains(index) && (prefix.prefix() < 128 || prefix.ip().is_unicast_link_local())
    });
    let (own, links): (Vec<_>, Vec<_>) =
        linked.map(|(_, prefix)| prefix).partition(|p| p.prefix() == 128);
    let networks =
        own.into_iter().chain(links).filter_map(|p| Ipv6Network::new(p.network(), p.prefix()).ok());
    wire.on_link = networks.take(MAX_LINKS).collect();
    Ok(wire)
}

/// How many networks on links targets have room for; addresses in further ones are judged as
/// remote.
const MAX_LINKS: usize = 16;
