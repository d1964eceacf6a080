//! Records of what a hook decided about single packets (S87 to S89): what is recorded, and how.
//!
//! A target that records puts one record for each packet of which [`Noted`] says so, as long as the
//! endpoint's budget lasts; whatever it does not record it counts all the same. Recording changes
//! no verdict. Not here: whose policies a record names (`runtime/agent`), and when a packet is what
//! ([`crate::semantics`], *Records*).

use std::time::SystemTime;

use netpolc_table::{
    EndpointId,
    schema::{Leaf, Word},
};

use crate::{DropReason, Error, Hook};

/// The bytes of a packet that a record has at most, from the Ethernet header on: enough for two
/// VLAN tags, IPv6 with some extension headers, and the ports; for most errors of ICMP the inner
/// headers, too.
pub const SNAPSHOT: usize = 120;

/// Why a packet is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Noted {
    /// It was dropped.
    Dropped(DropReason),
    /// It opened a connection.
    Opened,
    /// What is only tried would have judged it otherwise (S85).
    Differs,
}

impl Noted {
    /// How many there may be: the number of counters of an endpoint in one direction.
    pub const SLOTS: usize = 16;

    /// The number of its counter among those of an endpoint in one direction.
    pub const fn slot(self) -> usize {
        match self {
            Noted::Dropped(reason) => reason as usize,
            Noted::Differs => Self::SLOTS - 2,
            Noted::Opened => Self::SLOTS - 1,
        }
    }

    /// What is counted under this number; None where nothing is.
    pub fn of_slot(slot: usize) -> Option<Self> {
        let others = [Noted::Differs, Noted::Opened];
        let dropped = DropReason::ALL.into_iter().map(Noted::Dropped);
        dropped.chain(others).find(|noted| noted.slot() == slot)
    }
}

/// What the tables were asked about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The endpoint's word, with its sets. A gated packet (S82) has the born set in the place of
    /// the ingress set.
    pub word: Word,
    /// The class and incarnation of the remote.
    pub remote: Leaf,
}

impl Noted {
    /// Have the tables been asked about such a packet, where its endpoint is known?
    pub fn is_judged(self) -> bool {
        match self {
            Noted::Dropped(reason) => {
                matches!(reason, DropReason::Policy | DropReason::StateFull)
            }
            Noted::Opened | Noted::Differs => true,
        }
    }
}

/// What a hook decided about one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by the system's clock; by its own of a target whose clock is moved by hand.
    pub at: SystemTime,
    /// Why it is recorded.
    pub noted: Noted,
    /// Where the packet was judged.
    pub hook: Hook,
    /// For whom: the pod of the interface, at `translated` the sender. 0 where nobody knows the
    /// sender of a packet that was to be judged there.
    pub endpoint: EndpointId,
    /// By what it was judged; None where it was dropped before the tables were asked.
    pub judged: Option<Judged>,
    /// How often the tables had been changed ([`Recorder::set_epoch`]).
    pub epoch: u32,
    /// How long the frame is.
    pub length: u32,
    /// How the frame begins: up to [`SNAPSHOT`] bytes.
    pub frame: Vec<u8>,
}

/// How many packets there were, by endpoint, hook and why they are noted: recorded ones and others.
pub type Noticed = Vec<(EndpointId, Hook, Noted, u64)>;

/// The reader of a target's records. It may be in a thread of its own.
pub trait Recorder: Send {
    /// Reads the records that there are, in the order in which they were made, up to `limit` of
    /// them; returns how many there were.
    ///
    /// # Errors
    /// [`Error::System`] where they cannot be read.
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record)) -> Result<usize, Error>;

    /// Lets each endpoint make so many more records for each reason and direction, and no more
    /// until the next call. Without calls, records stop and verdicts do not.
    fn refill(&mut self, budget: u32);

    /// How many packets there were that are to be recorded. What is missing among the records was
    /// not recorded.
    fn noticed(&self) -> Noticed;

    /// Says that the tables have changed for so many times: records that are made from now on say
    /// so, too.
    fn set_epoch(&mut self, epoch: u32);
}
