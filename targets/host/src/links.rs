//! The links and addresses of a network namespace, and where their other ends are.
//!
//! [`Link`] is all that netpolc reads from the kernel's message about a link, for everybody who
//! needs any of it. sysfs would show the links of the namespace that it was mounted in, and not the
//! calling thread's.
//!
//! Not here: which link is a pod's (the agent), routes ([`super::routes`]), bridges
//! ([`super::switch`]). Sources: rtnetlink(7), include/uapi/linux/{if_link,if_tunnel,
//! net_namespace}.h; net/core/rtnetlink.c, rtnl_fill_ifinfo (parent devices since Linux 5.14).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use super::{
    netlink::{self, Protocol, Socket, attribute, be16_at, text, u32_at},
    netns::Namespace,
    switch::Mac,
};

/// Length of struct ifinfomsg: family, pad, type u16, index i32, flags u32, change u32.
const IFINFOMSG: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_PHYS_SWITCH_ID: u16 = 36;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PHYS_PORT_NAME: u16 = 38;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
/// Length of struct ifaddrmsg: family, prefixlen, flags, scope, index u32.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTM_GETNSID: u16 = 90;

/// Link, route and filter changes: RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_TC.
const GROUPS: u32 = 0x1 | 0x40 | 0x400 | 0x8;

/// Is this kind of message of [`monitor`] one to act upon? New qdiscs, classes and filters are not:
/// netpolc's own are among them.
pub fn concerns(kind: u16) -> bool {
    ![libc::RTM_NEWQDISC, libc::RTM_NEWTCLASS, libc::RTM_NEWTFILTER].contains(&kind)
}

/// A socket that becomes readable when a link, a route or a filter of the calling thread's
/// namespace changes.
///
/// # Errors
/// As [`Socket::subscribed`].
pub fn monitor() -> io::Result<Socket> {
    Socket::subscribed(Protocol::Route, GROUPS)
}

/// The interfaces of the calling thread's namespace but loopback and `known`.
///
/// # Errors
/// The C library could not list them: there was no memory, or the kernel refused.
pub fn others(known: &BTreeSet<u32>) -> io::Result<BTreeSet<u32>> {
    const LOOPBACK: u32 = 1;
    // SAFETY: the function takes no arguments; what it returns is freed below by its counterpart.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut found = BTreeSet::new();
    for at in 0.. {
        // SAFETY: the list is not null, and ends with an entry whose index is 0 (if_nameindex(3)),
        // at which this loop ends.
        let index = unsafe { (*list.add(at)).if_index };
        if index == 0 {
            break;
        }
        found.insert(index);
    }
    // SAFETY: the list is if_nameindex's, is freed once, and nobody uses it from here on.
    unsafe { libc::if_freenameindex(list) };
    found.remove(&LOOPBACK);
    Ok(&found - known)
}

/// The attribute of a device's own data that holds the UDP port which it, or its peer, unwraps, in
/// network order.
const PORTS: [(&str, u16); 9] = [
    ("vxlan", 15),     // IFLA_VXLAN_PORT
    ("geneve", 5),     // IFLA_GENEVE_PORT
    ("bareudp", 1),    // IFLA_BAREUDP_PORT
    ("ipip", 18), // IFLA_IPTUN_ENCAP_DPORT: FOU and GUE; nodes are alike, so the port is this node's too
    ("sit", 18),  // IFLA_IPTUN_ENCAP_DPORT
    ("ip6tnl", 18), // IFLA_IPTUN_ENCAP_DPORT
    ("gre", 17),  // IFLA_GRE_ENCAP_DPORT
    ("gretap", 17), // IFLA_GRE_ENCAP_DPORT
    ("ip6gretap", 17), // IFLA_GRE_ENCAP_DPORT
];

/// What is another thing's master even while it has no ports, by the kernel's name of its kind.
const MASTERS: [&str; 6] = ["bridge", "bond", "team", "vrf", "openvswitch", "hsr"];

/// A link of the calling thread's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, which is unique in its namespace.
    pub index: u32,
    /// As `ip link` shows it.
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
    /// phys_switch_id in hexadecimal: ports with the same one belong to one switch.
    pub switch_id: Option<String>,
    /// phys_port_name: `p0`, `pf0vf3`.
    pub port_name: Option<String>,
    /// The device that it is an interface of.
    pub device: Option<Device>,
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

/// A bus and a name on it, written as devlink does: `pci/0000:03:00.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `pci`, `auxiliary`, `platform`.
    pub bus: String,
    /// The name on the bus.
    pub name: String,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bus, self.name)
    }
}

/// All links here, in order of their numbers. Afterwards the kernel has numbers for the namespaces
/// of their peers.
///
/// # Errors
/// As [`Socket::open`] and [`Socket::dump`].
pub fn all() -> io::Result<Vec<Link>> {
    let mut links =
        Socket::open(Protocol::Route)?.dump(libc::RTM_GETLINK, &[0; IFINFOMSG], link)?;
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// All links here by their numbers: see [`all`].
///
/// # Errors
/// As [`all`].
pub fn by_index() -> io::Result<BTreeMap<u32, Link>> {
    Ok(all()?.into_iter().map(|link| (link.index, link)).collect())
}

/// The link in the body of an RTM_NEWLINK message.
pub(crate) fn link(body: &[u8]) -> Option<Link> {
    let attributes = body.get(IFINFOMSG..)?;
    let number = |kind| attribute(attributes, kind).and_then(|v| u32_at(v, 0));
    let word = |kind| attribute(attributes, kind).map(text).filter(|text| !text.is_empty());
    let peer = number(IFLA_LINK).zip(number(IFLA_LINK_NETNSID));
    let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_KIND).map(text);
    let own = PORTS.iter().find(|(name, _)| kind.as_deref() == Some(*name));
    let port = own
        .and_then(|(_, number)| be16_at(attribute(attribute(info, IFLA_INFO_DATA)?, *number)?, 0));
    let switch_id = attribute(attributes, IFLA_PHYS_SWITCH_ID).filter(|id| !id.is_empty());
    let device = word(IFLA_PARENT_DEV_BUS_NAME).zip(word(IFLA_PARENT_DEV_NAME));
    Some(Link {
        index: u32_at(body, 4)?,
        name: word(IFLA_IFNAME)?,
        mac: attribute(attributes, IFLA_ADDRESS).and_then(|a| Mac::try_from(a).ok()),
        kind,
        master: number(IFLA_MASTER),
        peer: peer.map(|(index, namespace)| Peer { index, namespace: namespace as i32 }),
        loopback: u32_at(body, 8)? & libc::IFF_LOOPBACK as u32 != 0,
        unwraps: port.filter(|port| *port != 0),
        switch_id: switch_id.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        port_name: word(IFLA_PHYS_PORT_NAME),
        device: device.map(|(bus, name)| Device { bus, name }),
    })
}

/// Those of `links`, which are all of a namespace, that may be a pod's: not loopback, and nothing
/// that is another thing's master.
pub fn fit_for_pods(links: &[Link]) -> impl Iterator<Item = &Link> {
    let masters: BTreeSet<u32> = links.iter().filter_map(|link| link.master).collect();
    links.iter().filter(move |link| {
        let master = link.kind.as_deref().is_some_and(|kind| MASTERS.contains(&kind))
            || masters.contains(&link.index);
        !master && !link.loopback
    })
}

/// The number that the calling thread's namespace has for another one; None where no link leads
/// there. `socket` is one of [`Protocol::Route`].
///
/// # Errors
/// As [`Socket::ask`].
pub fn number_of(socket: &mut Socket, namespace: &Namespace) -> io::Result<Option<i32>> {
    // struct rtgenmsg: family, padded
    let mut request = vec![0; 4];
    netlink::put(&mut request, NETNSA_FD, &namespace.as_fd().as_raw_fd().to_ne_bytes());
    let number = socket.ask(RTM_GETNSID, &request, |body| {
        attribute(body.get(4..)?, NETNSA_NSID).and_then(|id| u32_at(id, 0)).map(|id| id as i32)
    })?;
    Ok(number.filter(|number| *number >= 0))
}

/// An address that an interface of the calling thread's namespace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The number of the interface.
    pub index: u32,
    /// The interface's own address.
    pub address: IpAddr,
    /// An address on its link: the other end's where the link has two ends, else the same.
    pub on_link: IpAddr,
    /// How many leading bits those on the link have in common with [`Assigned::on_link`].
    pub prefix: u8,
}

/// The addresses of all interfaces here.
///
/// # Errors
/// As [`Socket::open`] and [`Socket::dump`].
pub fn addresses() -> io::Result<Vec<Assigned>> {
    Socket::open(Protocol::Route)?.dump(libc::RTM_GETADDR, &[0; IFADDRMSG], assigned)
}

/// The address in the body of an RTM_NEWADDR message.
pub(crate) fn assigned(body: &[u8]) -> Option<Assigned> {
    let attributes = body.get(IFADDRMSG..)?;
    let address = |kind| attribute(attributes, kind).and_then(netlink::address);
    let own = address(IFA_LOCAL).or_else(|| address(IFA_ADDRESS))?;
    Some(Assigned {
        index: u32_at(body, 4)?,
        address: own,
        on_link: address(IFA_ADDRESS).unwrap_or(own),
        prefix: *body.get(1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_listed_and_its_interface_is_no_pods() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        // A fresh namespace may have the interface down and without addresses.
        for found in addresses().unwrap() {
            assert!(found.address != loopback || found.index == 1);
        }
        let links = all().unwrap();
        assert!(links.is_sorted_by_key(|link| link.index));
        assert!(links.iter().any(|link| link.index == 1 && link.loopback), "{links:?}");
        assert!(fit_for_pods(&links).all(|link| link.index != 1));
    }

    #[test]
    fn masters_are_no_pods_and_their_ports_may_be() {
        let link = |index, kind: &str, master| Link {
            index,
            kind: Some(kind.into()),
            master,
            ..Link::default()
        };
        let links = [
            link(2, "bridge", None),
            link(3, "veth", Some(2)),
            link(4, "gre", None),
            link(5, "veth", Some(4)),
        ];
        assert_eq!(fit_for_pods(&links).map(|link| link.index).collect::<Vec<_>>(), [3, 5]);
    }

    /// The fixed part of a message about link 9.
    fn nine() -> Vec<u8> {
        [0u32, 9, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    #[test]
    fn a_link_is_read_attribute_by_attribute() {
        let mut body = nine();
        netlink::put_text(&mut body, IFLA_IFNAME, "veth9");
        netlink::put(&mut body, IFLA_LINK, &2u32.to_ne_bytes());
        netlink::put(&mut body, IFLA_LINK_NETNSID, &0u32.to_ne_bytes());
        netlink::put(&mut body, IFLA_MASTER, &4u32.to_ne_bytes());
        let plain = body.clone();
        netlink::nest(&mut body, IFLA_LINKINFO, |to| netlink::put_text(to, IFLA_INFO_KIND, "veth"));
        let read = link(&body).unwrap();
        assert_eq!(
            (read.index, read.name.as_str(), read.kind.as_deref()),
            (9, "veth9", Some("veth"))
        );
        assert_eq!(
            (read.master, read.peer, read.loopback),
            (Some(4), Some(Peer { index: 2, namespace: 0 }), false)
        );
        assert_eq!((read.unwraps, read.switch_id, read.device), (None, None, None));
        let mut body = plain;
        netlink::nest(&mut body, IFLA_LINKINFO, |to| {
            netlink::put_text(to, IFLA_INFO_KIND, "vxlan");
            netlink::nest(to, IFLA_INFO_DATA, |to| netlink::put(to, 15, &4789u16.to_be_bytes()));
        });
        assert_eq!(link(&body).unwrap().unwraps, Some(4789));
    }

    #[test]
    fn a_representor_is_read() {
        let mut body = nine();
        netlink::put_text(&mut body, IFLA_IFNAME, "enp3s0f0_1");
        netlink::put(&mut body, IFLA_PHYS_SWITCH_ID, &[0x02, 0xab, 0x00]);
        netlink::put_text(&mut body, IFLA_PHYS_PORT_NAME, "pf0vf1");
        netlink::put_text(&mut body, IFLA_PARENT_DEV_NAME, "0000:03:00.0");
        netlink::put_text(&mut body, IFLA_PARENT_DEV_BUS_NAME, "pci");
        let link = link(&body).unwrap();
        assert_eq!(
            (link.index, link.name.as_str(), link.switch_id.as_deref()),
            (9, "enp3s0f0_1", Some("02ab00"))
        );
        assert_eq!(link.port_name.as_deref(), Some("pf0vf1"));
        assert_eq!(link.device.unwrap().to_string(), "pci/0000:03:00.0");
    }

    #[test]
    fn the_loopback_interface_is_the_first_and_of_no_switch() {
        let (all, by_index) = (all().unwrap(), by_index().unwrap());
        assert_eq!((all[0].index, all[0].name.as_str(), all[0].master), (1, "lo", None));
        assert_eq!((&all[0].switch_id, &all[0].port_name, &all[0].device), (&None, &None, &None));
        assert_eq!(by_index[&1], all[0]);
    }

    #[test]
    fn the_address_of_a_link_with_two_ends_is_its_own() {
        let (own, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut body = vec![libc::AF_INET as u8, 31, 0, 0, 7, 0, 0, 0];
        netlink::put(&mut body, IFA_ADDRESS, &[10, 0, 0, 2]);
        let shared = Assigned {
            index: u32::from_ne_bytes([7, 0, 0, 0]),
            address: other,
            on_link: other,
            prefix: 31,
        };
        assert_eq!(assigned(&body), Some(shared));
        netlink::put(&mut body, IFA_LOCAL, &[10, 0, 0, 1]);
        assert_eq!(assigned(&body), Some(Assigned { address: own, ..shared }));
    }
}
