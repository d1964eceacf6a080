//! Host routes: what the node's administrator or a CNI plugin says about the way to one address.
//!
//! Only what was put into a routing table counts. What the kernel keeps beside them was told by
//! whoever sends packets: exceptions of path MTU discovery and redirects (cloned routes), and
//! routes from router advertisements. A route by a gateway leads to another machine.
//!
//! Not here: what is made of them (the agent). Source: rtnetlink(7).

use std::{io, net::IpAddr};

use super::netlink::{self, Protocol, Socket, attribute, u32_at};

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
/// What only routes to other machines have.
const ELSEWHERE: [u16; 4] = [RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_ENCAP];
const RT_TABLE_LOCAL: u32 = 255;
const RTN_UNICAST: u8 = 1;
/// From an ICMP redirect.
const RTPROT_REDIRECT: u8 = 1;
/// Made with an address; for IPv6 also from the prefixes of router advertisements.
const RTPROT_KERNEL: u8 = 2;
/// From a router advertisement.
const RTPROT_RA: u8 = 9;
/// An exception, not a route.
const RTM_F_CLONED: u32 = 0x200;

/// Host routes of the calling thread's namespace: (address, interface).
///
/// # Errors
/// As [`Socket::open`] and [`Socket::dump`].
pub fn hosts() -> io::Result<Vec<(IpAddr, u32)>> {
    let mut socket = Socket::open(Protocol::Route)?.strict();
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags u32
        let mut request = [0; 12];
        request[0] = family as u8;
        let of_family = |body: &[u8]| host(body).filter(|_| body.first() == Some(&(family as u8)));
        found.extend(socket.dump(libc::RTM_GETROUTE, &request, of_family)?);
    }
    Ok(found)
}

/// The address and interface in the body of an RTM_NEWROUTE message about a host route; None for
/// any other route.
pub(crate) fn host(body: &[u8]) -> Option<(IpAddr, u32)> {
    let [family, length, _, _, table, protocol, _, kind, ..] = *body else { return None };
    let told: &[u8] = match i32::from(family) {
        libc::AF_INET if length == 32 => &[RTPROT_REDIRECT],
        libc::AF_INET6 if length == 128 => &[RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA],
        _ => return None,
    };
    let attributes = body.get(12..)?;
    let table = attribute(attributes, RTA_TABLE).and_then(|t| u32_at(t, 0)).unwrap_or(table.into());
    if u32_at(body, 8)? & RTM_F_CLONED != 0
        || kind != RTN_UNICAST
        || table == RT_TABLE_LOCAL
        || told.contains(&protocol)
        || netlink::attributes(attributes).any(|(kind, _)| ELSEWHERE.contains(&kind))
    {
        return None;
    }
    let destination = attribute(attributes, RTA_DST).and_then(netlink::address)?;
    Some((destination, attribute(attributes, RTA_OIF).and_then(|i| u32_at(i, 0))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Route {
        length: u8,
        table: u8,
        protocol: u8,
        kind: u8,
        flags: u32,
        more: Option<(u16, [u8; 4])>,
    }

    /// As Calico writes it.
    const STATIC: Route =
        Route { length: 32, table: 254, protocol: 4, kind: RTN_UNICAST, flags: 0, more: None };

    fn read(address: IpAddr, route: &Route) -> Option<(IpAddr, u32)> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut body =
            vec![family as u8, route.length, 0, 0, route.table, route.protocol, 0, route.kind];
        body.extend(route.flags.to_ne_bytes());
        match address {
            IpAddr::V4(a) => netlink::put(&mut body, RTA_DST, &a.octets()),
            IpAddr::V6(a) => netlink::put(&mut body, RTA_DST, &a.octets()),
        }
        netlink::put(&mut body, RTA_OIF, &7u32.to_ne_bytes());
        if let Some((kind, value)) = route.more {
            netlink::put(&mut body, kind, &value);
        }
        host(&body)
    }

    #[test]
    fn a_route_that_somebody_made_leads_to_its_interface() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert_eq!(read(v4, &STATIC), Some((v4, 7)));
        assert_eq!(read(v6, &Route { length: 128, ..STATIC }), Some((v6, 7)));
        assert_eq!(read(v4, &Route { length: 24, ..STATIC }), None);
        assert_eq!(read(v6, &Route { length: 32, ..STATIC }), None);
    }

    /// What a packet from a pod can make the kernel keep.
    #[test]
    fn what_packets_tell_the_kernel_is_no_route() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        for flags in [RTM_F_CLONED, RTM_F_CLONED | 0x40] {
            assert_eq!(read(v4, &Route { flags, ..STATIC }), None);
            assert_eq!(read(v6, &Route { flags, length: 128, ..STATIC }), None);
        }
        assert_eq!(read(v4, &Route { protocol: RTPROT_REDIRECT, ..STATIC }), None);
        for protocol in [RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA] {
            assert_eq!(read(v6, &Route { protocol, length: 128, ..STATIC }), None);
        }
    }

    #[test]
    fn ways_to_other_machines_and_to_this_one_are_no_pods() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        for kind in ELSEWHERE {
            assert_eq!(read(v4, &Route { more: Some((kind, [10, 0, 0, 254])), ..STATIC }), None);
        }
        assert_eq!(read(v4, &Route { table: 255, ..STATIC }), None);
        assert_eq!(
            read(v4, &Route { table: 0, more: Some((RTA_TABLE, 255u32.to_ne_bytes())), ..STATIC }),
            None
        );
        // Blackhole, prohibited and the like.
        assert_eq!(read(v4, &Route { kind: 6, ..STATIC }), None);
        assert_eq!(host(&[2, 32]), None);
    }

    #[test]
    fn the_kernel_understands_the_question() {
        for (address, interface) in hosts().unwrap() {
            assert!(interface != 0, "{address}");
        }
    }
}
