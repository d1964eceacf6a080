//! Netlink, for everything in netpolc that speaks it: links, routes and filters (rtnetlink),
//! tracked connections, sockets, and devlink (generic netlink).
//!
//! - [`Socket`]: dumps, single requests, and notifications of changes
//! - [`BatchSocket`]: many changes in one system call, each with an answer of its own
//! - [`Refusal`]: why the kernel did not do what it was asked for
//! - [`attributes()`], [`attribute()`] and the numbers in them read messages; [`message()`],
//!   [`put()`] and [`nest()`] build them
//!
//! **Why a socket of our own.** The crates of the field were looked at in November 2026.
//!
//! - netlink-sys 0.9 wraps the system calls and is well kept. It would spare us five of them:
//!   socket, bind, send, recv, setsockopt. It has no recvmmsg, which takes all answers of a batch
//!   in one call. What stands above the system calls would stay here: sequence numbers,
//!   acknowledgements with their texts, dumps that a change interrupted.
//! - netlink-packet-route 0.34 makes owned values of all of a message's attributes, where a dump of
//!   100,000 connections (for which there is another crate) wants a few borrowed bytes of each
//!   message. Of filters it has flower's keys, but neither the actions gact and ct nor the
//!   classifier basic.
//! - netlink-socket2 0.3 has types that are generated from the kernel's own descriptions, and
//!   chains of requests. The first refusal ends a chain, whereas a batch of filters wants the
//!   answer to each.
//!
//! What netpolc says and reads is some ten kinds of messages, which need less code than any of
//! these would around them. A test of targets/flower has netlink-packet-route read what is written
//! here, and a test here feeds the readers random bytes.
//!
//! Not here: what the messages mean. Sources: netlink(7), include/uapi/linux/netlink.h.

mod answer;
mod batch;
#[cfg(test)]
mod fuzz;
mod message;
mod read;
mod socket;

pub use answer::{Done, Refusal};
pub use batch::{BATCH, BatchSocket};
pub use message::{message, nest, put, put_text};
pub use read::{address, attribute, attributes, be16_at, text, u16_at, u32_at};
pub use socket::Socket;

/// A part of the kernel that speaks netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours and filters.
    Route,
    /// Sockets.
    SockDiag,
    /// Tracked connections.
    Netfilter,
    /// Families that are found by name, such as devlink.
    Generic,
}

impl Protocol {
    fn number(self) -> i32 {
        match self {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::SockDiag => libc::NETLINK_SOCK_DIAG,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
            Protocol::Generic => libc::NETLINK_GENERIC,
        }
    }
}

/// Flags of a request (NLM_F_*). REQUEST is not among them: [`message()`] sets it always.
pub mod flags {
    /// The kernel acknowledges, also where there is nothing else to say.
    pub const ACK: u16 = 0x4;
    /// The kernel sends the object back as it is after the change.
    pub const ECHO: u16 = 0x8;
    /// All objects that fit the request.
    pub const DUMP: u16 = 0x300;
    /// The object must be new.
    pub const EXCLUSIVE: u16 = 0x200;
    /// The object may be new.
    pub const CREATE: u16 = 0x400;
}

/// Length of a message header in bytes (struct nlmsghdr).
const HEADER: usize = 16;
/// NLMSG_ERROR, which is also an acknowledgement.
const ERROR: u16 = 2;
/// NLMSG_DONE, the end of a dump.
const DONE: u16 = 3;
