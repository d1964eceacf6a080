//! What a target needs beyond tables to enforce on a node: the interfaces whose packets it sees, the
//! connections that run already, and what it keeps besides the tables.
//!
//! Not here: which interface is which pod's, when a connection is taken over (the agent).

use std::collections::{BTreeMap, BTreeSet};

use netpolc_host::{Connection, Opener};
use netpolc_table::{EndpointId, IfIndex, Incarnation, Program};
use serde::{Deserialize, Serialize};

use crate::{Error, Target};

/// A target that sees the packets of interfaces.
pub trait NodeTarget: Target {
    /// Interfaces whose packets it sees.
    fn attached(&self) -> BTreeSet<IfIndex>;

    /// Sees the packets of this interface of the calling thread's namespace from now on.
    ///
    /// # Errors
    /// The kernel refuses, or the interface is gone.
    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error>;

    /// The opposite; an interface that is gone is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error>;

    /// Makes what [`NodeTarget::adopt`] needs, so that it takes no time while packets wait for a verdict.
    ///
    /// # Errors
    /// The kernel refuses.
    fn prepare(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Lets no new packet go on to a Service until [`NodeTarget::cover`] is done.
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

    /// Whether something is being made that the next [`NodeTarget::check`] may finish, so that it
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
    fn amend(&mut self, _endpoint: EndpointId, _amend: &dyn Fn(&Connection) -> Amendment) -> Result<(), Error> {
        Ok(())
    }

    /// Makes room for so many connections of an endpoint, IPv4 and IPv6, where that is possible;
    /// says how many there is room for now.
    ///
    /// # Errors
    /// A larger table cannot be made; the endpoint keeps the one that it has.
    fn reserve(&mut self, _endpoint: EndpointId, _connections: [u32; 2]) -> Result<[u32; 2], Error> {
        Ok([self.capabilities().connections; 2])
    }

    /// Takes over a running connection; an entry that it has already gets the opener that is known now. `incarnation` is that of the
    /// remote.
    ///
    /// # Errors
    /// The kernel refuses.
    fn adopt(
        &mut self,
        endpoint: EndpointId,
        incarnation: Incarnation,
        connection: &Connection,
        origin: Origin,
    ) -> Result<Taken, Error>;
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amendment {
    /// It stays.
    Keep,
    /// This one opened it.
    Opener(Opener),
    /// It was never there; the next packet is judged as new.
    Forget,
}

/// Where a connection was opened, for S44.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the pod's own node.
    Node,
    /// In a pod or outside.
    Elsewhere,
}

/// What became of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the state table.
    Known,
    /// The endpoint has no room for it.
    NoRoom,
}

/// One interface with flower filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffloadRecord {
    /// Its name.
    pub interface: String,
    /// `representor`, `prefilter` or `software`.
    pub mode: String,
    /// Its driver.
    pub driver: String,
    /// Filters that are installed.
    pub filters: usize,
    /// Filters' worth of work that eBPF does instead, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spilled: BTreeMap<String, u32>,
    /// Filters that the kernel or NIC refused, by its message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u32>,
}
