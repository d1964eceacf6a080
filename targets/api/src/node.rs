//! What a target needs beyond tables to enforce on a node: the interfaces whose packets it sees,
//! the connections that run already, and what it keeps besides the tables.
//!
//! Not here: which interface belongs to which pod, and when a connection is adopted (the agent).

use std::collections::{BTreeMap, BTreeSet};

use netpolc_host::{Connection, Opener};
use netpolc_table::{EndpointId, IfIndex, Incarnation, Program};
use serde::{Deserialize, Serialize};

use crate::{Error, Recorder, Target};

/// A target that sees the packets of a node's interfaces: what an agent enforces with. Where a
/// method has a default, a target without that ability leaves it out. [`crate::example`] implements
/// it.
pub trait NodeTarget: Target {
    /// The pods' interfaces whose packets the target sees now. An interface that is gone is not
    /// among them.
    fn attached(&self) -> BTreeSet<IfIndex>;

    /// Has the target see the packets of this interface, in the calling thread's network namespace,
    /// from now on.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses the program, or the interface is gone.
    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error>;

    /// Has the target see the interface's packets no more. An interface that is gone already is not
    /// an error.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses to take the program off.
    fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error>;

    /// Prepares what [`NodeTarget::adopt`] needs, so that adoption takes no time while packets wait
    /// for a verdict.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses to create it.
    fn prepare(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Lets no new connection go on to a Service until [`NodeTarget::cover`] is done.
    ///
    /// # Errors
    /// The target was opened to look only.
    fn hold(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Has the target see packets to Services where they leave the node, at every interface that
    /// there is now (S48). Called whenever interfaces may have appeared.
    ///
    /// # Errors
    /// [`Error::System`] where an interface cannot be attached to. New connections to Services stay
    /// held then.
    fn cover(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Checks that everything the target put into the kernel is still there and restores what is
    /// not. Returns a line for each thing that was restored.
    ///
    /// # Errors
    /// Something is missing and could not be restored.
    fn check(&mut self) -> Result<Vec<String>, Error> {
        Ok(vec![])
    }

    /// Whether work is under way that the next [`NodeTarget::check`] may finish, so that the check
    /// should come soon.
    fn under_way(&self) -> bool {
        false
    }

    /// Grows all tables at once to what `program` needs, where that is needed and possible, before
    /// the program is written. Without this call each table would grow by itself, entry after
    /// entry, while pods wait for their policies.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses larger tables. What does not fit is not an error
    /// here: the write that exceeds a table is refused later.
    fn make_room(&mut self, _program: &Program) -> Result<(), Error> {
        Ok(())
    }

    /// Called now and then while there is nothing else to do, with what the tables hold: prepares
    /// what later updates would otherwise have to wait for.
    ///
    /// # Errors
    /// The preparation failed; what enforces now goes on enforcing.
    fn look_ahead(&mut self, _program: &Program) -> Result<(), Error> {
        Ok(())
    }

    /// Called when the tables hold all that they should, with that program: updates what is kept
    /// besides them, such as a NIC's filters.
    ///
    /// # Errors
    /// The update failed and enforcement depends on it. A failure that costs speed only is not an
    /// error.
    fn follow(&mut self, _program: &Program) -> Result<(), Error> {
        Ok(())
    }

    /// The reader of the target's records; None for a target that does not record.
    ///
    /// # Errors
    /// [`Error::System`] where it cannot be made.
    fn recorder(&mut self) -> Result<Option<Box<dyn Recorder>>, Error>;

    /// Reads what the target really holds by a view of its own, in whatever thread calls it and for
    /// as long as that takes, while this one goes on enforcing. None for a target that has no such
    /// view. Where the target changes meanwhile, the answer means nothing, not even an error.
    fn reader(&self) -> Option<Reader> {
        None
    }

    /// Called where somebody else has changed what the target holds, which should be `program`:
    /// afterwards [`Target::read`] says what is there, and writes take effect again.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses what is needed. What enforces now goes on.
    fn mend(&mut self, _damage: Damage, _program: &Program) -> Result<(), Error> {
        Ok(())
    }

    /// Whether an agent before this one left enforcement behind.
    ///
    /// # Errors
    /// As [`Target::read`].
    fn holds(&self) -> Result<bool, Error> {
        Ok(!self.read()?.is_empty())
    }

    /// What NICs do for this target, one record per interface with filters, for status and metrics.
    fn offload(&self) -> Vec<OffloadRecord> {
        vec![]
    }

    /// Asks `amend` about each of an endpoint's live connections and changes the entry as it
    /// answers.
    ///
    /// # Errors
    /// [`Error::System`] where the endpoint's table of connections cannot be opened.
    fn amend(
        &mut self,
        _endpoint: EndpointId,
        _amend: &dyn Fn(&Connection) -> Amendment,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// Makes room for so many connections of an endpoint, IPv4 and IPv6 in this order, as far as
    /// that is possible, and returns how many there is room for now.
    ///
    /// # Errors
    /// A larger table cannot be created; the endpoint keeps the one that it has.
    fn reserve(
        &mut self,
        _endpoint: EndpointId,
        _connections: [u32; 2],
    ) -> Result<[u32; 2], Error> {
        Ok([self.capabilities().connections; 2])
    }

    /// Takes over a running connection. Where it has an entry already, the entry gets the opener
    /// that is known now. `incarnation` is that of the remote.
    ///
    /// # Errors
    /// [`Error::System`] where the endpoint's table of connections cannot be opened.
    fn adopt(
        &mut self,
        endpoint: EndpointId,
        incarnation: Incarnation,
        connection: &Connection,
        origin: Origin,
    ) -> Result<Taken, Error>;
}

/// Reads the program that a target holds, as [`Target::read`] does, but in another thread.
pub type Reader = Box<dyn FnOnce() -> Result<Program, Error> + Send>;

/// How what a target holds differs from what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It can be decoded, and is another program.
    Differs,
    /// It cannot be decoded.
    Unreadable,
}

/// What is to become of a connection's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amendment {
    /// The entry stays as it is.
    Keep,
    /// The entry stays, and this side is recorded as the one that opened the connection.
    Opener(Opener),
    /// The entry goes; the connection's next packet is judged as new.
    Forget,
}

/// Where a connection was opened, which S44 treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By a socket of the pod's own node.
    Node,
    /// In a pod, or outside the node.
    Elsewhere,
}

/// What became of a connection that was to be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The state table has an entry for it.
    Known,
    /// The endpoint has no room for it; its packets are judged as new.
    NoRoom,
}

/// What the status says of one interface with flower filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffloadRecord {
    /// The interface's name.
    pub interface: String,
    /// `representor`, `prefilter` or `software`.
    pub mode: String,
    /// The name of the interface's driver, as ethtool reports it.
    pub driver: String,
    /// How many filters are installed.
    pub filters: usize,
    /// How many filters eBPF stands in for, by the reason why they are not installed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spilled: BTreeMap<String, u32>,
    /// How many filters the kernel or the NIC refused, by its message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u32>,
}
