//! Which host-side interface leads to a pod, by the pod's address.
//!
//! Three ways, the cheapest first: a host route (/32, /128) to the address names the interface; where
//! pods hang on a bridge, the pod's own namespace has the address on an interface whose peer is ours; and where that interface has
//! no peer, since it is a NIC's virtual function, the bridge knows behind which representor its hardware address is.
//! Sources: rtnetlink(7), include/uapi/linux/{if_link,net_namespace}.h.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
};

use super::{
    netlink::{self, Protocol, Socket, attribute, u32_at},
    netns::Namespace,
    switch::{self, Mac},
};

const IFLA_ADDRESS: u16 = 1;
const IFLA_LINK: u16 = 5;
const IFLA_LINK_NETNSID: u16 = 37;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RT_TABLE_LOCAL: u32 = 255;
const RTN_UNICAST: u8 = 1;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTM_GETNSID: u16 = 90;

/// Link and route changes: RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x40 | 0x400;

/// A socket that becomes readable when a link or a route of the calling thread's namespace changes.
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

/// Finds the host-side interfaces that lead to addresses; remembers what it saw in pods' namespaces, so that one more pod
/// does not cost a look into all of them.
#[derive(Debug, Default)]
pub struct Ways {
    /// By namespace: addresses in it that were asked for.
    seen: HashMap<(u64, u64), Inside>,
}

/// What a pod's namespace has.
#[derive(Debug, Default)]
struct Inside {
    /// Addresses with the index of their interface's peer here.
    peers: Vec<(IpAddr, u32)>,
    /// Addresses on interfaces without a peer, with the interface's hardware address.
    alone: Vec<(IpAddr, Mac)>,
}

impl Ways {
    /// The interfaces that lead to `addresses` from the calling thread's namespace. An address without one is left out.
    ///
    /// # Errors
    /// A netlink call fails here; a namespace that vanishes while it is read is left out.
    pub fn find(&mut self, addresses: &[IpAddr]) -> io::Result<BTreeMap<IpAddr, u32>> {
        let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let routes = host_routes()?.into_iter().filter(|(address, _)| wanted.contains(address));
        let mut found: BTreeMap<IpAddr, u32> = routes.collect();
        if wanted.iter().all(|a| found.contains_key(a)) {
            return Ok(found);
        }
        let own = Namespace::current()?;
        let all: Vec<Namespace> = Namespace::all().into_iter().filter(|n| *n != own).collect();
        // A namespace's number may be another's by now; an interface's is not given again for a long time.
        let here = indices()?;
        let ids: BTreeSet<(u64, u64)> = all.iter().map(Namespace::id).collect();
        self.seen.retain(|id, inside| ids.contains(id) && inside.peers.iter().all(|(_, index)| here.contains(index)));
        self.take(&wanted, &mut found);
        if wanted.iter().all(|a| found.contains_key(a)) {
            return Ok(found);
        }
        for namespace in &all {
            if self.seen.contains_key(&namespace.id()) {
                continue;
            }
            let mut inside = inside(namespace, &own).unwrap_or_default();
            inside.peers.retain(|(address, _)| wanted.contains(address));
            inside.alone.retain(|(address, _)| wanted.contains(address));
            // One without an address yet is looked into again.
            if !inside.peers.is_empty() || !inside.alone.is_empty() {
                self.seen.insert(namespace.id(), inside);
            }
        }
        self.take(&wanted, &mut found);
        let alone = self.seen.values().flat_map(|inside| &inside.alone);
        let mut alone =
            alone.filter(|(address, _)| wanted.contains(address) && !found.contains_key(address)).peekable();
        if alone.peek().is_some() {
            let ports = switch::ports()?;
            let behind: Vec<_> = alone.filter_map(|(address, mac)| Some((*address, *ports.get(mac)?))).collect();
            found.extend(behind);
        }
        Ok(found)
    }

    fn take(&self, wanted: &BTreeSet<IpAddr>, found: &mut BTreeMap<IpAddr, u32>) {
        let peers = self.seen.values().flat_map(|inside| &inside.peers);
        for (address, index) in peers.filter(|(address, _)| wanted.contains(address)) {
            found.entry(*address).or_insert(*index);
        }
    }
}

/// The numbers of all interfaces here.
fn indices() -> io::Result<BTreeSet<u32>> {
    let found = Socket::open(Protocol::Route)?
        .dump(libc::RTM_GETLINK, &[0; 16], |to: &mut Vec<u32>, _, body| to.extend(u32_at(body, 4)))?;
    Ok(found.into_iter().collect())
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

/// Host routes: (address, interface).
fn host_routes() -> io::Result<Vec<(IpAddr, u32)>> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags u32
    Socket::open(Protocol::Route)?.dump(libc::RTM_GETROUTE, &[0; 12], |to, _, body| {
        let [family, length, _, _, table, _, _, kind, ..] = *body else { return };
        let whole = match i32::from(family) {
            libc::AF_INET => 32,
            libc::AF_INET6 => 128,
            _ => return,
        };
        let attributes = body.get(12..).unwrap_or_default();
        let table = attribute(attributes, RTA_TABLE).and_then(|t| u32_at(t, 0)).unwrap_or(table.into());
        if length != whole || kind != RTN_UNICAST || table == RT_TABLE_LOCAL {
            return;
        }
        let destination = attribute(attributes, RTA_DST).and_then(netlink::address);
        let interface = attribute(attributes, RTA_OIF).and_then(|i| u32_at(i, 0));
        to.extend(destination.zip(interface));
    })
}

/// Addresses in `namespace` on interfaces whose peer is in `own`, or that have none.
fn inside(namespace: &Namespace, own: &Namespace) -> io::Result<Inside> {
    let mut found = Inside::default();
    let (links, own_id, addresses) = namespace.run(|| -> io::Result<_> {
        let mut socket = Socket::open(Protocol::Route)?;
        // struct ifinfomsg: family, pad, type u16, index i32, ...; 16 bytes.
        let links = socket.dump(libc::RTM_GETLINK, &[0; 16], |to, _, body| {
            let attributes = body.get(16..).unwrap_or_default();
            let number = |kind| attribute(attributes, kind).and_then(|v| u32_at(v, 0));
            let mac = attribute(attributes, IFLA_ADDRESS).and_then(|a| Mac::try_from(a).ok());
            if let (Some(index), Some(mac)) = (u32_at(body, 4), mac) {
                to.push((index, mac, number(IFLA_LINK).zip(number(IFLA_LINK_NETNSID))));
            }
        })?;
        // The dump above made the kernel number the peers' namespaces, so this id is known now.
        let mut request = vec![0; 4];
        netlink::put(&mut request, NETNSA_FD, &own.as_fd().as_raw_fd().to_ne_bytes());
        let own_id = socket.ask(RTM_GETNSID, &request, |_, body| {
            attribute(body.get(4..)?, NETNSA_NSID).and_then(|id| u32_at(id, 0))
        })?;
        Ok((links, own_id, self::addresses()?))
    })??;
    for (address, index) in addresses {
        for (_, mac, peer) in links.iter().filter(|(link, ..)| *link == index) {
            match peer {
                Some((peer, id)) if Some(*id) == own_id => found.peers.push((address, *peer)),
                Some(_) => {}
                None => found.alone.push((address, *mac)),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_listed_and_has_no_way() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        // A fresh namespace may have the interface down and without addresses.
        for (address, ifindex) in addresses().unwrap() {
            assert!(address != loopback || ifindex == 1);
        }
        assert_eq!(Ways::default().find(&[loopback]).unwrap(), BTreeMap::new());
    }
}
