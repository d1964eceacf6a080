//! The links and addresses of a network namespace, and where their other ends are.
//!
//! Not here: which link is a pod's ([`super::ways`]), routes ([`super::routes`]), bridges ([`super::switch`]).
//! Sources: rtnetlink(7), include/uapi/linux/{if_link,if_tunnel,net_namespace}.h.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use super::{
    netlink::{self, Protocol, Socket, attribute, u32_at},
    netns::Namespace,
    switch::Mac,
};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_LINK_NETNSID: u16 = 37;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTM_GETNSID: u16 = 90;

/// Link, route and filter changes: RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_TC.
const GROUPS: u32 = 0x1 | 0x40 | 0x400 | 0x8;

/// Is this kind of message of [`monitor`] one to act upon? New qdiscs, classes and filters are not: netpolc's own are among them.
pub fn concerns(kind: u16) -> bool {
    ![libc::RTM_NEWQDISC, libc::RTM_NEWTCLASS, libc::RTM_NEWTFILTER].contains(&kind)
}

/// A socket that becomes readable when a link, a route or a filter of the calling thread's namespace changes.
///
/// # Errors
/// The kernel's.
pub fn monitor() -> io::Result<Socket> {
    Socket::subscribed(Protocol::Route, GROUPS)
}

/// The interfaces of the calling thread's namespace but loopback and `known`.
///
/// # Errors
/// The kernel's.
pub fn others(known: &BTreeSet<u32>) -> io::Result<BTreeSet<u32>> {
    const LOOPBACK: u32 = 1;
    // SAFETY: what it returns is freed below, by its own function.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut found = BTreeSet::new();
    for at in 0.. {
        // SAFETY: the list ends with an entry whose index is 0 (if_nameindex(3)).
        let index = unsafe { (*list.add(at)).if_index };
        if index == 0 {
            break;
        }
        found.insert(index);
    }
    // SAFETY: the list is if_nameindex's and nobody uses it from here on.
    unsafe { libc::if_freenameindex(list) };
    found.remove(&LOOPBACK);
    Ok(&found - known)
}

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

/// What is another thing's master even while it has no ports, by the kernel's name of its kind.
const MASTERS: [&str; 6] = ["bridge", "bond", "team", "vrf", "openvswitch", "hsr"];

/// A link of the calling thread's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// `veth`, `bridge` and the like; None for what has no such name, as a NIC.
    pub kind: Option<String>,
    /// The bridge, bond or such that it is a port of.
    pub master: Option<u32>,
    /// Its other end, where that is in another namespace.
    pub peer: Option<Peer>,
    /// It leads back here.
    pub loopback: bool,
    /// The UDP port whose packets it, or its peer on another node, unwraps.
    pub unwraps: Option<u16>,
}

impl Link {
    /// Does it switch between its ports?
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }
}

/// The other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its number in its namespace.
    pub index: u32,
    /// Its namespace, as the link's own namespace numbers it ([`number_of`]).
    pub namespace: i32,
}

/// All links here, in order of their numbers. Afterwards the kernel has numbers for the namespaces of their peers.
///
/// # Errors
/// The kernel's.
pub fn all() -> io::Result<Vec<Link>> {
    let mut links =
        Socket::open(Protocol::Route)?
            .dump(libc::RTM_GETLINK, &[0; 16], |to: &mut Vec<Link>, _, body| to.extend(link(body)))?;
    links.sort_by_key(|link| link.index);
    Ok(links)
}

fn link(body: &[u8]) -> Option<Link> {
    // struct ifinfomsg: family, pad, type u16, index i32, flags u32, change u32; 16 bytes.
    let attributes = body.get(16..)?;
    let number = |kind| attribute(attributes, kind).and_then(|v| u32_at(v, 0));
    let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned();
    let peer = number(IFLA_LINK).zip(number(IFLA_LINK_NETNSID));
    let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_KIND).map(text);
    let own = PORTS.iter().find(|(name, _)| kind.as_deref() == Some(*name));
    let port = own.and_then(|(_, number)| attribute(attribute(info, IFLA_INFO_DATA)?, *number));
    let port = port.and_then(|p| Some(u16::from_be_bytes(p.get(..2)?.try_into().ok()?)));
    Some(Link {
        index: u32_at(body, 4)?,
        name: attribute(attributes, IFLA_IFNAME).map(text)?,
        mac: attribute(attributes, IFLA_ADDRESS).and_then(|a| Mac::try_from(a).ok()),
        kind,
        master: number(IFLA_MASTER),
        peer: peer.map(|(index, namespace)| Peer { index, namespace: namespace as i32 }),
        loopback: u32_at(body, 8)? & libc::IFF_LOOPBACK as u32 != 0,
        unwraps: port.filter(|port| *port != 0),
    })
}

/// Those of `links`, which are all of a namespace, that may be a pod's: not loopback, and nothing that is another thing's
/// master.
pub fn fit_for_pods(links: &[Link]) -> impl Iterator<Item = &Link> {
    let masters: BTreeSet<u32> = links.iter().filter_map(|link| link.master).collect();
    links.iter().filter(move |link| {
        let master = link.kind.as_deref().is_some_and(|kind| MASTERS.contains(&kind)) || masters.contains(&link.index);
        !master && !link.loopback
    })
}

/// The number that the calling thread's namespace has for another one; None where no link leads there.
///
/// # Errors
/// The kernel's.
pub fn number_of(socket: &mut Socket, namespace: &Namespace) -> io::Result<Option<i32>> {
    // struct rtgenmsg: family, padded
    let mut request = vec![0; 4];
    netlink::put(&mut request, NETNSA_FD, &namespace.as_fd().as_raw_fd().to_ne_bytes());
    let number = socket.ask(RTM_GETNSID, &request, |_, body| {
        attribute(body.get(4..)?, NETNSA_NSID).and_then(|id| u32_at(id, 0)).map(|id| id as i32)
    })?;
    Ok(number.filter(|number| *number >= 0))
}

/// The addresses of all interfaces here, with the interface's index.
///
/// # Errors
/// The kernel's.
pub fn addresses() -> io::Result<Vec<(IpAddr, u32)>> {
    // struct ifaddrmsg: family, prefixlen, flags, scope, index
    Socket::open(Protocol::Route)?.dump(libc::RTM_GETADDR, &[0; 8], |to, _, body| {
        let attributes = body.get(8..).unwrap_or_default();
        let local = attribute(attributes, IFA_LOCAL).or(attribute(attributes, IFA_ADDRESS));
        to.extend(local.and_then(netlink::address).zip(u32_at(body, 4)));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_listed_and_its_interface_is_no_pods() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        // A fresh namespace may have the interface down and without addresses.
        for (address, ifindex) in addresses().unwrap() {
            assert!(address != loopback || ifindex == 1);
        }
        let links = all().unwrap();
        assert!(links.iter().any(|link| link.index == 1 && link.loopback), "{links:?}");
        assert!(fit_for_pods(&links).all(|link| link.index != 1));
    }

    #[test]
    fn masters_are_no_pods_and_their_ports_may_be() {
        let link = |index, kind: &str, master| Link { index, kind: Some(kind.into()), master, ..Link::default() };
        let links = [link(2, "bridge", None), link(3, "veth", Some(2)), link(4, "gre", None), link(5, "veth", Some(4))];
        assert_eq!(fit_for_pods(&links).map(|link| link.index).collect::<Vec<_>>(), [3, 5]);
    }

    #[test]
    fn a_link_is_read_attribute_by_attribute() {
        let mut body = vec![0; 4];
        body.extend(9u32.to_ne_bytes());
        body.extend(0u32.to_ne_bytes());
        body.extend(0u32.to_ne_bytes());
        netlink::put(&mut body, IFLA_IFNAME, b"veth9\0");
        netlink::put(&mut body, IFLA_LINK, &2u32.to_ne_bytes());
        netlink::put(&mut body, IFLA_LINK_NETNSID, &0u32.to_ne_bytes());
        netlink::put(&mut body, IFLA_MASTER, &4u32.to_ne_bytes());
        let plain = body.clone();
        let mut info = Vec::new();
        netlink::put(&mut info, IFLA_INFO_KIND, b"veth\0");
        netlink::put(&mut body, IFLA_LINKINFO, &info);
        let read = link(&body).unwrap();
        assert_eq!((read.index, read.name.as_str(), read.kind.as_deref()), (9, "veth9", Some("veth")));
        assert_eq!((read.master, read.peer, read.loopback), (Some(4), Some(Peer { index: 2, namespace: 0 }), false));
        assert_eq!(read.unwraps, None);
        let (mut body, mut info, mut data) = (plain, Vec::new(), Vec::new());
        netlink::put(&mut data, 15, &4789u16.to_be_bytes());
        netlink::put(&mut info, IFLA_INFO_KIND, b"vxlan\0");
        netlink::put(&mut info, IFLA_INFO_DATA, &data);
        netlink::put(&mut body, IFLA_LINKINFO, &info);
        assert_eq!(link(&body).unwrap().unwraps, Some(4789));
    }
}
