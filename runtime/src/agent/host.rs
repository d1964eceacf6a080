//! What the agent needs of the machine: something that enforces, and answers about the network. Traits,
//! so that the agent can be tested without a kernel; and the real ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use netpolc_lower::Wire;
use netpolc_table::Program;
use netpolc_target::{Error, Target};

use super::{
    adopt::{Amendment, Origin, Taken},
    record::OffloadRecord,
};
use crate::net::{
    Connection,
    conntrack::{self, Tracked},
    links,
    netlink::{Protocol, Socket},
    netns::Namespace,
    sockets,
    ways::{self, Answer, Wanted},
    wire,
};

/// A target that sees the packets of interfaces.
pub trait Enforcer: Target {
    /// Interfaces whose packets it sees.
    fn attached(&self) -> BTreeSet<u32>;

    /// Sees the packets of this interface of the calling thread's namespace from now on.
    ///
    /// # Errors
    /// The kernel refuses, or the interface is gone.
    fn attach(&mut self, ifindex: u32) -> Result<(), Error>;

    /// The opposite; an interface that is gone is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    fn detach(&mut self, ifindex: u32) -> Result<(), Error>;

    /// Makes what [`Enforcer::adopt`] needs, so that it takes no time while packets wait for a verdict.
    ///
    /// # Errors
    /// The kernel refuses.
    fn prepare(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Lets no new packet go on to a Service until [`Enforcer::cover`] is done.
    ///
    /// # Errors
    /// The kernel refuses.
    fn hold(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Sees packets to Services where they leave the node, too, by whatever interface there is now (S48). Called whenever interfaces
    /// may have come.
    ///
    /// # Errors
    /// The kernel refuses.
    fn cover(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Sees whether what it put into the kernel is still there, and brings back what is not; says what that was, a line each.
    ///
    /// # Errors
    /// Something is missing and stays so.
    fn check(&mut self) -> Result<Vec<String>, Error> {
        Ok(vec![])
    }

    /// Whether something is being made that the next [`Enforcer::check`] may finish, so that it
    /// should come soon.
    fn under_way(&self) -> bool {
        false
    }

    /// Grows, where that is needed and possible, to what `program` needs in one go, before it is written: entry by entry
    /// each table would grow by itself, again and again, while packets' owners wait.
    ///
    /// # Errors
    /// The kernel refuses. What does not fit is no error here.
    fn make_room(&mut self, _program: &Program) -> Result<(), Error> {
        Ok(())
    }

    /// Called now and then while nothing else is to do, with what the tables hold: makes ready what
    /// later updates would have to wait for.
    ///
    /// # Errors
    /// What comes next cannot be made; what judges now goes on judging.
    fn look_ahead(&mut self, _program: &Program) -> Result<(), Error> {
        Ok(())
    }

    /// Called when the tables are in step, with what they hold: brings along what is kept besides them, such as a
    /// NIC's filters.
    ///
    /// # Errors
    /// Only where enforcement depends on it.
    fn follow(&mut self, _program: &Program) -> Result<(), Error> {
        Ok(())
    }

    /// Did an agent before this one leave enforcement behind?
    ///
    /// # Errors
    /// What is there cannot be read.
    fn holds(&self) -> Result<bool, Error> {
        Ok(!self.read()?.is_empty())
    }

    /// What a NIC does for this target, for the record.
    fn offload(&self) -> Vec<OffloadRecord> {
        vec![]
    }

    /// Asks of each of an endpoint's entries what is to become of it, and does that.
    ///
    /// # Errors
    /// The kernel refuses.
    fn amend(&mut self, _endpoint: u16, _amend: &dyn Fn(&Connection) -> Amendment) -> Result<(), Error> {
        Ok(())
    }

    /// Makes room for so many connections of an endpoint, IPv4 and IPv6, where that is possible;
    /// says how many there is room for now.
    ///
    /// # Errors
    /// A larger table cannot be made; the endpoint keeps the one that it has.
    fn reserve(&mut self, _endpoint: u16, _connections: [u32; 2]) -> Result<[u32; 2], Error> {
        Ok([self.capabilities().connections; 2])
    }

    /// Takes over a running connection; an entry that it has already gets the opener that is known now. `incarnation` is that of the
    /// remote.
    ///
    /// # Errors
    /// The kernel refuses.
    fn adopt(
        &mut self,
        endpoint: u16,
        incarnation: u16,
        connection: &Connection,
        origin: Origin,
    ) -> Result<Taken, Error>;
}

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
    fn sockets(&mut self, _interfaces: &BTreeSet<u32>) -> io::Result<BTreeMap<u32, Vec<Connection>>> {
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

    fn sockets(&mut self, interfaces: &BTreeSet<u32>) -> io::Result<BTreeMap<u32, Vec<Connection>>> {
        // Whose namespace it is tells the host's end of the interface: addresses inside are what the pod says.
        let ends = links::all()?.into_iter().filter(|link| interfaces.contains(&link.index));
        let ends: BTreeMap<i32, u32> = ends.filter_map(|link| Some((link.peer?.namespace, link.index))).collect();
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
        Ok(links::addresses()?.into_iter().map(|(address, _)| address).collect())
    }
}
