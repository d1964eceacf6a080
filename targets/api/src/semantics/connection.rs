//! What packets mean to a connection, how far it has come, and how long its entry lives.
//!
//! Not here: when an entry is made or consulted (the judgement in [`super`]).

use super::{ip, sctp, tcp};

/// What a packet means to a state entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// TCP SYN without ACK, SCTP INIT, an ICMP request: always an opening, never a reply.
    Open,
    /// UDP and everything else: an opening where no live entry exists, otherwise part of it.
    Datagram,
    /// TCP SYN with ACK, SCTP INIT ACK.
    Accept,
    /// Anything else of a connection; ICMP replies.
    Data,
    /// TCP FIN, SCTP SHUTDOWN and its answers.
    Finish,
    /// TCP RST, SCTP ABORT.
    Reset,
}

impl Event {
    /// What a TCP packet with these flags means. A bare SYN is an opening whatever else is set
    /// (S38). Otherwise RST, FIN and SYN count, in this order.
    pub const fn of_tcp(flags: u8) -> Self {
        if flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
            Event::Open
        } else if flags & tcp::RST != 0 {
            Event::Reset
        } else if flags & tcp::FIN != 0 {
            Event::Finish
        } else if flags & tcp::SYN != 0 {
            Event::Accept
        } else {
            Event::Data
        }
    }

    /// What an SCTP packet means whose first chunk has this type.
    pub const fn of_sctp(chunk: u8) -> Self {
        match chunk {
            sctp::INIT => Event::Open,
            sctp::INIT_ACK => Event::Accept,
            sctp::ABORT => Event::Reset,
            sctp::SHUTDOWN | sctp::SHUTDOWN_ACK | sctp::SHUTDOWN_COMPLETE => Event::Finish,
            _ => Event::Data,
        }
    }

    /// What an ICMP (family 4) or ICMPv6 (family 6) message of this type means; None where it has
    /// no tuple.
    pub const fn of_icmp(family: u8, kind: u8) -> Option<Self> {
        match (family, kind) {
            (4, 8 | 13) | (6, 128) => Some(Event::Open),
            (4, 0 | 14) | (6, 129) => Some(Event::Data),
            _ => None,
        }
    }
}

/// How far a connection has come. Only ever grows, except when the entry is created anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// The opening was seen, and no answer.
    Opening = 1,
    /// SYN+ACK or INIT ACK seen, or the first answer to a datagram. Of TCP it lives as long as an
    /// established one, since further packets need not be looked up. It yields its place where
    /// there is no other room: a SYN flood must not fill a quota for days, and questions that were
    /// answered not for minutes.
    Replied = 2,
    /// Packets went both ways.
    Established = 3,
    /// A FIN or SHUTDOWN was seen.
    Closing = 4,
    /// An RST or ABORT was seen.
    Reset = 5,
}

impl Phase {
    /// All phases, in the order in which a connection may pass them.
    pub const ALL: [Phase; 5] =
        [Phase::Opening, Phase::Replied, Phase::Established, Phase::Closing, Phase::Reset];

    /// The phase after `event` from `side`: the later of the present one and the one that the event
    /// leads to.
    pub fn after(self, event: Event, side: Side) -> Phase {
        let reached = match (event, side) {
            (Event::Reset, _) => Phase::Reset,
            (Event::Finish, _) => Phase::Closing,
            (Event::Data, Side::Other) => Phase::Established,
            (Event::Data | Event::Datagram, Side::Opener) if self == Phase::Replied => {
                Phase::Established
            }
            (Event::Accept | Event::Datagram, Side::Other) => Phase::Replied,
            _ => Phase::Opening,
        };
        self.max(reached)
    }
}

/// Which side of a connection sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The side whose packet created the entry.
    Opener,
    /// The side that answers.
    Other,
}

/// How many seconds after the last packet that touched it an entry dies: as in Linux's connection
/// tracking (nf_conntrack_proto_*.c), with fewer phases. A connection that was reset lives longer
/// than there, since a hook cannot tell a forged reset: its place goes to others first, and its own
/// sides go on. `protocol` is that of the tuple.
pub const fn seconds(protocol: u8, phase: Phase) -> u32 {
    match (protocol, phase) {
        (ip::TCP, Phase::Opening | Phase::Closing) => 120,
        (ip::TCP | ip::SCTP, Phase::Reset) => 120,
        (ip::TCP, Phase::Replied | Phase::Established) => 432_000,
        (ip::SCTP, Phase::Established) => 210,
        (ip::SCTP, Phase::Closing) => 10,
        (ip::SCTP, _) => 30,
        // One question and one answer live no longer than a question; a stream does.
        (ip::UDP, Phase::Opening | Phase::Replied) => 30,
        (ip::UDP, _) => 120,
        (ip::ICMP | ip::ICMPV6, _) => 30,
        _ => 600,
    }
}

/// An entry in phase Replied gives way to new connections where room is short and it has no more
/// than so many seconds left. A TCP connection of which only the handshake was seen, since the
/// opener's packets need no entry, therefore keeps its place for two minutes; a query that was
/// answered yields at once.
pub const YIELDING_SECONDS: u32 = seconds(ip::TCP, Phase::Replied) - 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s38_a_bare_syn_is_an_opening_whatever_else_is_set() {
        for other in 0..=255u8 {
            let flags = other & !(tcp::SYN | tcp::ACK) | tcp::SYN;
            assert_eq!(Event::of_tcp(flags), Event::Open, "{flags:#x}");
            assert_ne!(Event::of_tcp(flags | tcp::ACK), Event::Open, "{flags:#x}");
        }
    }

    #[test]
    fn phases_only_grow_and_closed_ones_stay_closed() {
        let events =
            [Event::Open, Event::Datagram, Event::Accept, Event::Data, Event::Finish, Event::Reset];
        for phase in Phase::ALL {
            for (event, side) in events.iter().flat_map(|e| [(*e, Side::Opener), (*e, Side::Other)])
            {
                assert!(phase.after(event, side) >= phase);
            }
        }
        assert_eq!(Phase::Opening.after(Event::Data, Side::Opener), Phase::Opening);
        assert_eq!(Phase::Replied.after(Event::Data, Side::Opener), Phase::Established);
        assert_eq!(Phase::Opening.after(Event::Datagram, Side::Other), Phase::Replied);
        assert_eq!(Phase::Replied.after(Event::Datagram, Side::Other), Phase::Replied);
        assert_eq!(Phase::Replied.after(Event::Datagram, Side::Opener), Phase::Established);
        assert_eq!(Phase::Closing.after(Event::Data, Side::Other), Phase::Closing);
    }
}
