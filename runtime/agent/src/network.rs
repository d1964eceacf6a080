//! What the agent asks about the network it is in: a trait, so that the agent can be tested without a
//! kernel, and the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use netpolc_host::{
    Connection,
    conntrack::{self, Tracked},
    links,
    netlink::{Protocol, Socket},
    netns::Namespace,
    sockets,
};
use netpolc_lower::Wire;
use netpolc_table::IfIndex;

use crate::{
    ways::{self, Answer, Wanted},
    wire,
};

/// Answers about the calling thread's network namespace and those of its pods.
pub trait Network {
    /// The interfaces of these pods, in their order.
    ///
    /// # Errors
    /// The kernel's.
    fn ways(&mut self, pods: &[Wanted]) -> io::Result<Vec<Answer>>;

    /// The node's own devices, as far as they concern its pods.
    ///
    /// # Errors
    /// The kernel's.
    fn wire(&mut self) -> io::Result<Wire> {
        Ok(Wire::default())
    }

    /// Connections that the host tracks with an end that has one of these addresses, and perhaps others; none where
    /// nobody opens any.
    ///
    /// # Errors
    /// The host tracks none, or not for this user.
    fn tracked(&mut self, _addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        Ok(vec![])
    }

    /// Connections of the sockets in the namespaces that the other ends of these interfaces are in, by interface.
    ///
    /// # Errors
    /// The kernel's; a namespace that vanishes meanwhile is no error.
    fn sockets(&mut self, _interfaces: &BTreeSet<IfIndex>) -> io::Result<BTreeMap<IfIndex, Vec<Connection>>> {
        Ok(BTreeMap::new())
    }

    /// The node's own addresses.
    ///
    /// # Errors
    /// The kernel's.
    fn own_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(BTreeSet::new())
    }
}

/// The network that this process is in.
#[derive(Debug)]
pub struct Kernel(());

impl Kernel {
    /// Asks everything once, so that the kernel loads modules now and not while packets wait for a verdict.
    pub fn new() -> Self {
        if let Err(error) = sockets::dump() {
            tracing::info!(%error, "the kernel lists no sockets");
        }
        if let Err(error) = conntrack::dump() {
            tracing::info!(%error, "the kernel lists no tracked connections");
        }
        Kernel(())
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Network for Kernel {
    fn ways(&mut self, pods: &[Wanted]) -> io::Result<Vec<Answer>> {
        ways::find(pods)
    }

    fn wire(&mut self) -> io::Result<Wire> {
        wire::look()
    }

    fn tracked(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        conntrack::of(addresses)
    }

    fn sockets(&mut self, interfaces: &BTreeSet<IfIndex>) -> io::Result<BTreeMap<IfIndex, Vec<Connection>>> {
        // Whose namespace it is tells the host's end of the interface: addresses inside are what the pod says.
        let ends = links::all()?.into_iter().filter(|link| interfaces.contains(&IfIndex::new(link.index)));
        let ends: BTreeMap<i32, IfIndex> =
            ends.filter_map(|link| Some((link.peer?.namespace, IfIndex::new(link.index)))).collect();
        let mut socket = Socket::open(Protocol::Route)?;
        let mut found = BTreeMap::new();
        for namespace in Namespace::all() {
            let number = links::number_of(&mut socket, &namespace).ok().flatten();
            let Some(ifindex) = number.and_then(|number| ends.get(&number)) else { continue };
            match namespace.run(sockets::dump).flatten() {
                Ok(connections) => drop(found.insert(*ifindex, connections)),
                Err(error) => tracing::warn!(namespace = %namespace.path().display(), %error, "its sockets"),
            }
        }
        Ok(found)
    }

    fn own_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(links::addresses()?.into_iter().map(|found| found.address).collect())
    }
}
