//! Ports of a bridge, the hardware addresses behind them, and the interfaces that lead away from the node.
//!
//! Not here: what a NIC does with them. Sources: rtnetlink(7), include/uapi/linux/{if_link,neighbour}.h.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// A hardware address.
pub type Mac = [u8; 6];

use super::netlink::{Protocol, Socket, attribute, u16_at, u32_at};

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const NDA_LLADDR: u16 = 2;
const RTA_OIF: u16 = 4;
/// An address of the port itself.
const NUD_PERMANENT: u16 = 0x80;
const RTM_GETNEIGH: u16 = 30;

/// A link of the calling thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The bridge (or bond) that it is a port of.
    pub master: Option<u32>,
}

/// All links by index.
///
/// # Errors
/// The kernel's.
pub fn links() -> io::Result<BTreeMap<u32, Link>> {
    // struct ifinfomsg: family, pad, type u16, index i32, ...; 16 bytes.
    let list = Socket::open(Protocol::Route)?.dump(libc::RTM_GETLINK, &[0; 16], |to, _, body| {
        let attributes = body.get(16..).unwrap_or_default();
        let name =
            attribute(attributes, IFLA_IFNAME).map(|n| String::from_utf8_lossy(n.strip_suffix(b"\0").unwrap_or(n)));
        let master = attribute(attributes, IFLA_MASTER).and_then(|m| u32_at(m, 0));
        to.extend(u32_at(body, 4).zip(name).map(|(index, name)| (index, Link { name: name.into_owned(), master })));
    })?;
    Ok(list.into_iter().collect())
}

/// The hardware address that a bridge learned behind each of its ports; ports behind which there are several, such as an
/// uplink, are left out.
///
/// # Errors
/// The kernel's.
pub fn learned() -> io::Result<BTreeMap<u32, Mac>> {
    let mut behind = BTreeMap::<u32, BTreeSet<Mac>>::new();
    for (port, address) in forwarding()? {
        behind.entry(port).or_default().insert(address);
    }
    let one = |(port, all): (u32, BTreeSet<Mac>)| (all.len() == 1).then_some((port, *all.first()?));
    Ok(behind.into_iter().filter_map(one).collect())
}

/// The port of a bridge behind which each hardware address is; addresses behind several, of different bridges, are left out.
///
/// # Errors
/// The kernel's.
pub fn ports() -> io::Result<BTreeMap<Mac, u32>> {
    let mut ports = BTreeMap::<Mac, BTreeSet<u32>>::new();
    for (port, address) in forwarding()? {
        ports.entry(address).or_default().insert(port);
    }
    let one = |(address, all): (Mac, BTreeSet<u32>)| (all.len() == 1).then_some((address, *all.first()?));
    Ok(ports.into_iter().filter_map(one).collect())
}

/// What bridges learned or were told: (port, hardware address behind it).
fn forwarding() -> io::Result<Vec<(u32, Mac)>> {
    // struct ndmsg: family, pad 3, ifindex i32, state u16, flags u8, type u8; 12 bytes.
    let mut request = [0; 12];
    request[0] = libc::AF_BRIDGE as u8;
    Socket::open(Protocol::Route)?.dump(RTM_GETNEIGH, &request, |to, _, body| {
        let attributes = body.get(12..).unwrap_or_default();
        let address = attribute(attributes, NDA_LLADDR).and_then(|a| Mac::try_from(a).ok());
        let learned = u16_at(body, 8).is_some_and(|state| state & NUD_PERMANENT == 0);
        to.extend(u32_at(body, 4).filter(|_| learned).zip(address));
    })
}

/// The interfaces of the default routes.
///
/// # Errors
/// The kernel's.
pub fn uplinks() -> io::Result<BTreeSet<u32>> {
    // struct rtmsg: family, dst_len, ...; 12 bytes.
    let list = Socket::open(Protocol::Route)?.dump(libc::RTM_GETROUTE, &[0; 12], |to, _, body| {
        if body.get(1) == Some(&0) {
            let attributes = body.get(12..).unwrap_or_default();
            to.extend(attribute(attributes, RTA_OIF).and_then(|i| u32_at(i, 0)));
        }
    })?;
    // The loopback interface has an unreachable default route of IPv6.
    Ok(list.into_iter().filter(|index| *index != 1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_a_link_without_master() {
        let links = links().unwrap();
        assert_eq!(links[&1], Link { name: "lo".into(), master: None });
        assert!(!uplinks().unwrap().contains(&1));
        learned().unwrap();
    }
}
