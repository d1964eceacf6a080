//! What every target is: the trait, its capabilities as a value, its errors, and frames for those
//! that can be asked about single packets.
//!
//! - [`semantics`]: what a hook does with a packet, to the byte, and the numbers in it
//! - [`limits`](Capabilities::check): does a write make sense, do its ids fit
//! - [`execute`](mod@execute): does a plan on a target, grace periods included
//! - [`decorate`]: targets around targets that trace, count, or fail on purpose
//! - [`frame`]: builds frames, honest and other ones
//! - [`random`]: seeded numbers
//! - [`conformance`]: the suite that every target must pass
//!
//! Not here: any target. The runtime is the only place that lists them.

pub mod conformance;
pub mod decorate;
pub mod execute;
pub mod frame;
mod limits;
mod node;
pub mod random;
pub mod semantics;

pub use decorate::{Counted, Counts, Faults, Faulty, Traced};
pub use execute::{Execution, Failed, execute, fill};
pub use node::{Amendment, NodeTarget, OffloadRecord, Origin, Taken};
pub use semantics::DropReason;

use netpolc_table::{IfIndex, Program, TableId, Write};

/// Something that holds a program and applies it to packets.
pub trait Target {
    /// As users know it: `mem`, `ebpf`.
    fn name(&self) -> &'static str;

    /// What it can hold.
    fn capabilities(&self) -> &Capabilities;

    /// The program it holds, decoded from its own memory (without origins).
    fn read(&self) -> Result<Program, Error>;

    /// Does one write; each packet sees the table before it or after it. An error leaves every
    /// packet's answer as it was.
    fn write(&mut self, write: &Write) -> Result<(), Error>;

    /// Returns when no packet is under way that began before the call: after it, what nothing
    /// reaches may be reused.
    fn settle(&mut self) -> Result<(), Error>;
}

/// What a target can hold. A program that exceeds it is refused with [`Error::Full`], never cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Endpoints at once; ids are below this.
    pub endpoints: u32,
    /// Policy sets at once; ids are below this.
    pub sets: u32,
    /// IPv4 classes; ids are below this.
    pub classes_v4: u32,
    /// IPv6 classes; ids are below this.
    pub classes_v6: u32,
    /// Rows; ids are below this.
    pub rows: u32,
    /// Port classes; ids are below this.
    pub port_classes: u32,
    /// Live connections of one endpoint and family, at least in practice: where a hash finds their places, a few more or less.
    pub connections: u32,
}

/// Why a target did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place; nothing was changed.
    #[error("table {}: full at {capacity} ({what})", .table.spec().name)]
    Full {
        /// Which.
        table: TableId,
        /// Its capacity, in the unit that `what` names.
        capacity: u64,
        /// What does not fit, and what to do.
        what: String,
    },
    /// The write makes no sense for this table; nothing was changed.
    #[error("table {}: {reason}", .table.spec().name)]
    Invalid {
        /// Which.
        table: TableId,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel or device refused a call.
    #[error("{call}: {source}")]
    System {
        /// What was tried, on what.
        call: String,
        /// Its error.
        source: std::io::Error,
    },
    /// The kernel's verifier refused a generated program.
    #[error("the kernel refuses program {program} at {at}: {log}")]
    Verifier {
        /// Which.
        program: String,
        /// The table or step it was generated from.
        at: String,
        /// The log's last lines.
        log: String,
    },
    /// What is installed cannot be understood (another layout, a corrupted table).
    #[error("installed state: {0}")]
    Installed(String),
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
    /// As programs, pins and counters are called.
    pub fn name(self) -> &'static str {
        match self {
            Hook::ToPod => "to_pod",
            Hook::FromPod => "from_pod",
            Hook::Translated => "translated",
        }
    }

    /// Where what answers its packets is judged.
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
    /// Its mark, as far as it matters here.
    pub mark: Mark,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// How a packet came to be on the node: what tells traffic of the node itself from forwarded traffic (S44).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It came in by the interface of this index (never 0).
    At(IfIndex),
    /// A socket of the node sent it: the kernel knows no interface, and the socket is still on the packet.
    Born,
    /// The kernel knows neither an interface nor a socket: it has cut a forwarded packet anew
    /// (`ip6_copy_metadata`, net/ipv6/ip6_output.c).
    Forgotten,
}

impl From<IfIndex> for Arrival {
    /// By this interface.
    fn from(ifindex: IfIndex) -> Self {
        Arrival::At(ifindex)
    }
}

impl Arrival {
    /// As `ingress_ifindex` in `struct __sk_buff`: 0 where there was no interface.
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
    /// The next program, or the stack; not marked.
    Next,
    /// Dropped.
    Drop,
    /// As `Next`, but marked: its egress is still to be judged.
    Defer,
}

/// The bit of a packet's mark that says that its egress is still to be judged (S48).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Not set.
    #[default]
    Clear,
    /// Set.
    Deferred,
}

/// A target that can be asked about single packets, which may change its state tables as real ones do.
pub trait Datapath {
    /// Judges one packet.
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error>;

    /// Moves the time that ageing sees forward.
    fn advance(&mut self, by: std::time::Duration) -> Result<(), Error>;

    /// Why the last packet was dropped, where the target knows without being asked beforehand; for
    /// messages and for finding where two datapaths part.
    fn explain_last(&self) -> Option<DropReason> {
        None
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

    fn settle(&mut self) -> Result<(), Error> {
        (**self).settle()
    }
}
