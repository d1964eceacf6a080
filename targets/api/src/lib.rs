//! What every target is: the trait, its capabilities as a value, its errors, and frames for those
//! that can be asked about single packets.
//!
//! - [`semantics`]: what a hook does with a packet, to the byte, and the numbers in it
//! - [`limits`](Capabilities::check): whether a write makes sense and its ids fit
//! - [`execute`](mod@execute): carries a plan out on a target, grace periods included
//! - [`decorate`]: targets around targets that trace, count, or fail on purpose
//! - [`frame`]: builds frames, well-formed and malformed ones
//! - [`random`]: seeded random numbers
//! - [`record`]: what is recorded of single packets, and by whom it is read
//! - [`conformance`]: the suite that every target must pass
//! - [`example`]: a complete target of a hundred lines, to begin another one from
//!
//! Not here: any target that ships. The runtime is the only place that lists them.

pub mod conformance;
pub mod decorate;
pub mod example;
pub mod execute;
pub mod frame;
mod limits;
mod node;
pub mod random;
pub mod record;
pub mod semantics;

pub use decorate::{Counted, Counts, Faults, Faulty, Traced};
pub use execute::{Execution, Failed, execute, fill};
pub use node::{Amendment, Damage, NodeTarget, OffloadRecord, Origin, Reader, Taken};
pub use record::{Judged, Noted, Record, Recorder};
pub use semantics::DropReason;

use std::collections::BTreeMap;

use netpolc_table::{IfIndex, PortClassId, Program, RowId, TableId, Write};

/// Counts of packets, by the row and port class of an entry of the table `tried`.
pub type Compared = BTreeMap<(RowId, PortClassId), u64>;

/// Something that holds a program and applies it to packets.
///
/// A target knows no policy and no Kubernetes: it stores the entries it is given and answers for
/// packets as [`semantics`] says. [`fill`] puts a first program into it, [`execute()`] carries out
/// the plan of an update, and both go through [`Target::write`] alone, so that a target implements
/// the five calls here and nothing else.
///
/// # Examples
///
/// ```
/// use netpolc_table::{EndpointId, IfIndex, Program, TableId, Write, schema};
/// use netpolc_target::Target as _;
/// use netpolc_target_mem::Mem;
///
/// // The pod behind interface 7 is endpoint 1.
/// let entry = schema::set_endpoint(EndpointId::new(1));
/// let write = Write::put(TableId::Interface, schema::interface_key(IfIndex::new(7)), entry);
///
/// let mut program = Program::default();
/// program.apply(&write);
///
/// let mut target = Mem::default();
/// netpolc_target::fill(&mut target, &program)?;
/// assert_eq!(target.read()?, program, "a target gives back exactly what it was given");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Target {
    /// The name by which users choose the target and messages speak of it: `mem`, `ebpf`.
    fn name(&self) -> &'static str;

    /// How much the target can hold now; a target that grows may answer more later.
    fn capabilities(&self) -> &Capabilities;

    /// The program that the target holds, decoded from its own memory, without origins.
    ///
    /// # Errors
    /// [`Error::Installed`] where the memory cannot be understood, and [`Error::System`] where it
    /// cannot be read.
    fn read(&self) -> Result<Program, Error>;

    /// Does one write; each packet sees the table before it or after it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the write makes no sense for its table, [`Error::Full`] where it
    /// does not fit, [`Error::System`] where the kernel or device refuses. An error leaves every
    /// packet's answer as it was.
    fn write(&mut self, write: &Write) -> Result<(), Error>;

    /// How many packets the comparison with what is only tried has counted, by the entry of `tried`
    /// that they met, since that entry was put; None where the target does not compare (S86).
    ///
    /// # Errors
    /// [`Error::System`] where the counters cannot be read.
    fn compared(&self) -> Result<Option<Compared>, Error> {
        Ok(None)
    }

    /// Waits for a grace period: returns when no packet is under way that began before the call.
    /// What no entry leads to may be reused from then on.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel cannot be asked to wait. Nothing may be reused then.
    fn settle(&mut self) -> Result<(), Error>;
}

/// How much a target can hold. A program that exceeds it is refused with [`Error::Full`], never
/// truncated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How many endpoints there may be at once; their ids are below this.
    pub endpoints: u32,
    /// How many policy sets there may be at once; their ids are below this.
    pub sets: u32,
    /// How many IPv4 classes there may be, class 0 included; their ids are below this.
    pub classes_v4: u32,
    /// How many IPv6 classes there may be, class 0 included; their ids are below this.
    pub classes_v6: u32,
    /// How many rows there may be; their ids are below this.
    pub rows: u32,
    /// How many port classes there may be, class 0 included; their ids are below this.
    pub port_classes: u32,
    /// How many live connections one endpoint may have in one family. A target that places them by
    /// a hash holds a few more or less, depending on their addresses and ports.
    pub connections: u32,
}

/// Why a target did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table has no room; nothing was changed.
    #[error("table {}: full at {capacity} ({what})", .table.spec().name)]
    Full {
        /// The table that is full.
        table: TableId,
        /// Its capacity, in the unit that `what` names.
        capacity: u64,
        /// What does not fit, and what to do about it.
        what: String,
    },
    /// The write makes no sense for this table; nothing was changed.
    #[error("table {}: {reason}", .table.spec().name)]
    Invalid {
        /// The table that was to be written.
        table: TableId,
        /// What is wrong with the write.
        reason: String,
    },
    /// A value that the caller gave is outside what the target takes; nothing was changed.
    #[error("{0}")]
    Argument(String),
    /// The kernel or device refused a call.
    #[error("{call}: {source}")]
    System {
        /// What was tried, and on what.
        call: String,
        /// What the kernel or device answered.
        source: std::io::Error,
    },
    /// The kernel's verifier refused a generated program, or the generator could not finish it.
    #[error("the kernel refuses program {program} at {at}: {log}")]
    Verifier {
        /// The program's name in the kernel.
        program: String,
        /// The table or step that the refused instructions were generated from.
        at: String,
        /// The last lines of the verifier's log.
        log: String,
    },
    /// What is installed cannot be understood: it has another layout, or a table is corrupted.
    #[error("installed state: {0}")]
    Installed(String),
    /// Another process holds what only one process may hold.
    #[error("{what} is in use by another netpolc process: {source}")]
    InUse {
        /// What is held, such as a directory of pins.
        what: String,
        /// Why it could not be taken.
        source: std::io::Error,
    },
    /// The target was opened to look at what another process writes, and refuses to change it.
    #[error("opened to look only: what is installed belongs to another process")]
    ReadOnly,
    /// This target cannot do what was asked, on this kernel or at all.
    #[error("{what}; {remedy}")]
    Unsupported {
        /// What cannot be done, and why.
        what: String,
        /// What to do instead.
        remedy: String,
    },
}

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Towards the pod: egress of its host-side interface.
    ToPod,
    /// From the pod: ingress of its host-side interface.
    FromPod,
    /// Out of the node, after translation: egress of its other layer-3 interfaces (S48).
    Translated,
}

impl Hook {
    /// The name that programs, pins and counters have in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Hook::ToPod => "to_pod",
            Hook::FromPod => "from_pod",
            Hook::Translated => "translated",
        }
    }

    /// The hook that judges the packets that go the other way.
    pub fn other(self) -> Self {
        match self {
            Hook::ToPod => Hook::FromPod,
            Hook::FromPod | Hook::Translated => Hook::ToPod,
        }
    }
}

/// A packet as a hook sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The host-side interface of the pod.
    pub interface: IfIndex,
    /// How it came to the node.
    pub arrival: Arrival,
    /// Whether the packet carries the mark of a deferred judgement.
    pub mark: Mark,
    /// The packet's bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// How a packet came to be on the node: what tells traffic of the node itself from forwarded
/// traffic (S44).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It came in by the interface of this index (never 0).
    At(IfIndex),
    /// A socket of the node sent it: the kernel knows no interface, and the socket is still on the
    /// packet.
    Born,
    /// The kernel knows neither an interface nor a socket: it has cut a forwarded packet anew
    /// (`ip6_copy_metadata`, net/ipv6/ip6_output.c).
    Forgotten,
}

impl From<IfIndex> for Arrival {
    /// The packet came in by this interface, which must not be 0.
    fn from(ifindex: IfIndex) -> Self {
        Arrival::At(ifindex)
    }
}

impl Arrival {
    /// What `ingress_ifindex` in `struct __sk_buff` would say: 0 where there was no interface.
    pub fn ifindex(self) -> IfIndex {
        match self {
            Arrival::At(ifindex) => ifindex,
            Arrival::Born | Arrival::Forgotten => IfIndex::default(),
        }
    }
}

/// What a hook says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on to the next program or to the stack, without the mark.
    Next,
    /// The packet is dropped.
    Drop,
    /// The packet goes on, with the mark: its egress is still to be judged.
    Defer,
}

/// The bit of a packet's mark that says that its egress is still to be judged (S48).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// The bit is not set: nothing is left to judge.
    #[default]
    Clear,
    /// The bit is set: the packet was let go on towards a Service.
    Deferred,
}

/// A target that can be asked about single packets, which may change its state tables as real ones
/// do.
pub trait Datapath {
    /// Judges one packet.
    ///
    /// # Errors
    /// The target could not be asked, which says nothing about the packet.
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error>;

    /// Moves forward the clock by which connections and fragment records expire.
    ///
    /// # Errors
    /// The clock cannot be moved, for example since the target was opened to look only.
    fn advance(&mut self, by: std::time::Duration) -> Result<(), Error>;

    /// Why the last packet was dropped, for messages and for finding where two datapaths disagree.
    /// None where it was not dropped, or where the target keeps no reasons.
    fn explain_last(&self) -> Option<DropReason> {
        None
    }

    /// The records of the packets since the last call, oldest first; None where the target does not
    /// record.
    ///
    /// # Errors
    /// The records cannot be read.
    fn records(&mut self) -> Result<Option<Vec<Record>>, Error> {
        Ok(None)
    }
}

impl<T: Target + ?Sized> Target for &mut T {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn capabilities(&self) -> &Capabilities {
        (**self).capabilities()
    }

    fn read(&self) -> Result<Program, Error> {
        (**self).read()
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        (**self).write(write)
    }

    fn compared(&self) -> Result<Option<Compared>, Error> {
        (**self).compared()
    }

    fn settle(&mut self) -> Result<(), Error> {
        (**self).settle()
    }
}
