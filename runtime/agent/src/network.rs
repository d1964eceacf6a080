//! The agent's questions about its network: a trait, so that the agent can be tested without a
//! kernel, and its implementation for the real kernel. Not here: how interfaces are found
//! ([`super::discovery`]).

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
    discovery::{self, Discovery, PodFacts},
    wire,
};

/// Answers questions about the calling thread's network namespace and those of its pods.
pub trait Network {
    /// Finds the interfaces of these pods; the results are in the order of the pods.
    ///
    /// # Errors
    /// The kernel's links or routes cannot be read.
    fn find_interfaces(&mut self, pods: &[PodFacts]) -> io::Result<Vec<Discovery>>;

    /// Reads the node's own devices, as far as they concern its pods.
    ///
    /// # Errors
    /// The kernel's links or addresses cannot be read.
    fn wire(&mut self) -> io::Result<Wire> {
        Ok(Wire::default())
    }

    /// Lists the connections that the host's connection tracking knows and that have one of these
    /// addresses at an end. The list may contain others; by default it is empty.
    ///
    /// # Errors
    /// The host has no connection tracking, or this user may not read it.
    fn tracked(&mut self, _addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        Ok(vec![])
    }

    /// Lists the connections of the sockets in the namespaces that hold the other ends of these
    /// interfaces, by interface.
    ///
    /// # Errors
    /// The kernel's links cannot be read. A namespace that vanishes meanwhile is left out.
    fn sockets(
        &mut self,
        _interfaces: &BTreeSet<IfIndex>,
    ) -> io::Result<BTreeMap<IfIndex, Vec<Connection>>> {
        Ok(BTreeMap::new())
    }

    /// Reads the node's own addresses.
    ///
    /// # Errors
    /// The kernel's addresses cannot be read.
    fn own_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(BTreeSet::new())
    }
}

/// The network namespace of the thread that calls, asked of the kernel each time.
#[derive(Debug)]
pub struct Kernel(());

impl Kernel {
    /// The network of this process. Sockets and connections are listed once, so that the kernel
    /// loads the modules for that now and not while packets wait for a verdict.
    pub fn new() -> Self {
        if let Err(error) = sockets::dump() {
            tracing::info!(%error, "the kernel's sockets could not be listed");
        }
        if let Err(error) = conntrack::dump() {
            tracing::info!(%error, "the kernel's tracked connections could not be listed");
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
    fn find_interfaces(&mut self, pods: &[PodFacts]) -> io::Result<Vec<Discovery>> {
        discovery::find_interfaces(pods)
    }

    fn wire(&mut self) -> io::Result<Wire> {
        wire::look()
    }

    fn tracked(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<Vec<Tracked>> {
        conntrack::of(addresses)
    }

    fn sockets(
        &mut self,
        interfaces: &BTreeSet<IfIndex>,
    ) -> io::Result<BTreeMap<IfIndex, Vec<Connection>>> {
        // The host's end of an interface tells which pod a namespace belongs to. The addresses in
        // it do not, since the pod may set them.
        let ends =
            links::all()?.into_iter().filter(|link| interfaces.contains(&IfIndex::new(link.index)));
        let ends: BTreeMap<i32, IfIndex> = ends
            .filter_map(|link| Some((link.peer?.namespace, IfIndex::new(link.index))))
            .collect();
        let mut socket = Socket::open(Protocol::Route)?;
        let mut found = BTreeMap::new();
        for namespace in Namespace::all() {
            let number = links::number_of(&mut socket, &namespace).ok().flatten();
            let Some(ifindex) = number.and_then(|number| ends.get(&number)) else { continue };
            match namespace.run(sockets::dump).flatten() {
                Ok(connections) => drop(found.insert(*ifindex, connections)),
                Err(error) => {
                    tracing::warn!(namespace = %namespace.path().display(), %error, "the sockets \
                        of the namespace could not be listed")
                }
            }
        }
        Ok(found)
    }

    fn own_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(links::addresses()?.into_iter().map(|found| found.address).collect())
    }
}
