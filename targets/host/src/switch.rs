//! What bridges know of hardware addresses, and the interfaces that lead away from the node.
//!
//! Not here: the ports themselves ([`super::links`]), what a NIC does with them (the targets).
//! Sources: rtnetlink(7), include/uapi/linux/{neighbour,rtnetlink}.h.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::netlink::{Protocol, Socket, attribute, u16_at, u32_at};

/// A hardware address.
pub type Mac = [u8; 6];

/// Length of struct ndmsg: family, pad 3, ifindex i32, state u16, flags u8, type u8.
const NDMSG: usize = 12;
const NDA_LLADDR: u16 = 2;
/// An address of the port itself.
const NUD_PERMANENT: u16 = 0x80;
/// Length of struct rtmsg: family, dst_len, ..., flags u32.
const RTMSG: usize = 12;
const RTA_OIF: u16 = 4;

/// The hardware address that a bridge learned behind each of its ports; ports behind which there
/// are several, such as an uplink, are left out.
///
/// # Errors
/// As [`Socket::open`] and [`Socket::dump`].
pub fn learned() -> io::Result<BTreeMap<u32, Mac>> {
    let mut behind = BTreeMap::<u32, BTreeSet<Mac>>::new();
    for (port, address) in forwarding()? {
        behind.entry(port).or_default().insert(address);
    }
    let one = |(port, all): (u32, BTreeSet<Mac>)| (all.len() == 1).then_some((port, *all.first()?));
    Ok(behind.into_iter().filter_map(one).collect())
}

/// The port of a bridge behind which each hardware address is; addresses behind several, of
/// different bridges, are left out.
///
/// # Errors
/// As [`Socket::open`] and [`Socket::dump`].
pub fn ports() -> io::Result<BTreeMap<Mac, u32>> {
    let mut ports = BTreeMap::<Mac, BTreeSet<u32>>::new();
    for (port, address) in forwarding()? {
        ports.entry(address).or_default().insert(port);
    }
    let one =
        |(address, all): (Mac, BTreeSet<u32>)| (all.len() == 1).then_some((address, *all.first()?));
    Ok(ports.into_iter().filter_map(one).collect())
}

/// What bridges learned or were told: (port, hardware address behind it).
fn forwarding() -> io::Result<Vec<(u32, Mac)>> {
    let mut request = [0; NDMSG];
    request[0] = libc::AF_BRIDGE as u8;
    Socket::open(Protocol::Route)?.dump(libc::RTM_GETNEIGH, &request, neighbour)
}

/// Port and hardware address in the body of an RTM_NEWNEIGH message; None for the port's own
/// address.
pub(crate) fn neighbour(body: &[u8]) -> Option<(u32, Mac)> {
    let address = attribute(body.get(NDMSG..)?, NDA_LLADDR)?;
    let learned = u16_at(body, 8)? & NUD_PERMANENT == 0;
    Some((u32_at(body, 4)?, Mac::try_from(address).ok()?)).filter(|_| learned)
}

/// The interfaces of the default routes.
///
/// # Errors
/// As [`Socket::open`] and [`Socket::dump`].
pub fn uplinks() -> io::Result<BTreeSet<u32>> {
    let list = Socket::open(Protocol::Route)?.dump(libc::RTM_GETROUTE, &[0; RTMSG], uplink)?;
    // The loopback interface has an unreachable default route of IPv6.
    Ok(list.into_iter().filter(|index| *index != 1).collect())
}

/// The interface in the body of an RTM_NEWROUTE message about a default route.
pub(crate) fn uplink(body: &[u8]) -> Option<u32> {
    let everywhere = *body.get(1)? == 0;
    let interface = attribute(body.get(RTMSG..)?, RTA_OIF)?;
    u32_at(interface, 0).filter(|_| everywhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_no_uplink() {
        assert!(!uplinks().unwrap().contains(&1));
        learned().unwrap();
    }
}
