//! Real packets between the sites of a namespace cluster: echo servers, single questions and whole
//! matrices of them, and connections that stay open to be poked later.
//!
//! A socket belongs to the namespace of the thread that made it, whoever uses it later. So a thread
//! enters each namespace only to make sockets, and one loop waits for all of them at once: a
//! matrix costs one patience however many packets are dropped.

mod ask;
mod connection;
mod server;
mod socket;

use std::{net::IpAddr, time::Duration};

pub use ask::{ask, ask_until};
pub use connection::Connection;
pub use server::Servers;

use crate::netns::Site;

/// How long a question waits for its answer unless told otherwise. Shorter than the second after
/// which TCP repeats a SYN, much longer than any path between namespaces.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// What is asked of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// Connect to this TCP port and get some bytes echoed.
    Tcp(u16),
    /// Send a datagram to this UDP port and get it back.
    Udp(u16),
    /// An echo request of ICMP or ICMPv6.
    Ping,
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ask::Tcp(port) => write!(f, "TCP {port}"),
            Ask::Udp(port) => write!(f, "UDP {port}"),
            Ask::Ping => f.write_str("ping"),
        }
    }
}

/// One question: may `from` reach `to`?
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Where the question is asked from.
    pub from: &'a Site,
    /// The source address, where the kernel shall not choose it.
    pub source: Option<IpAddr>,
    /// The address that is asked.
    pub to: IpAddr,
    /// The protocol and port that are asked.
    pub ask: Ask,
}

impl<'a> Question<'a> {
    /// A question whose source address the kernel chooses.
    pub fn new(from: &'a Site, to: IpAddr, ask: Ask) -> Self {
        Self { from, source: None, to, ask }
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The echo came back.
    Echo,
    /// The destination answered that nothing listens there: packets pass both ways.
    Refused,
    /// The network says so (errno): no route, or an ICMP error.
    Unreachable(i32),
    /// Nothing came back in time.
    Silent,
}

impl Answer {
    /// Did a packet reach the destination and its answer come back?
    pub fn passed(self) -> bool {
        matches!(self, Answer::Echo | Answer::Refused)
    }
}
