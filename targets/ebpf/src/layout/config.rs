//! The config map: the clock's offset, lifetimes, and small constant tables in which the programs
//! look things up instead of branching. The tables are computed from `netpolc_target::semantics`,
//! so that the programs cannot disagree with it.
//!
//! Not here: the code that reads them (`program`).

use netpolc_target::semantics::{Event, FRAGMENT_SECONDS, Phase, Side, icmp, ip, seconds};

/// The size of the map's value in bytes.
pub const SIZE: usize = 4096;
/// u64: how many jiffies are added to the kernel's clock (`Datapath::advance`). This, [`HOLD`],
/// [`EPOCH`] and [`SECONDS`] are the only words that change after the map is made.
pub const TIME_OFFSET: usize = 0;
/// u64: not 0 while some interface does not carry the program that judges packets to Services. No
/// new connection goes on to one then.
pub const HOLD: usize = 16;
/// u64: how often the tables were changed, as records say.
pub const EPOCH: usize = 24;
/// u64: the time in seconds, as whoever reads records has said last.
pub const SECONDS: usize = 32;
/// u32: the lifetime of a fragment's verdict, in ticks.
pub const FRAGMENT_TICKS: usize = 8;
/// u32 `[8][8]`: the lifetime of an entry in ticks, by [`Protocol`] and phase.
pub const LIFETIMES: usize = 64;
/// u8 `[8][8][2]`: the next phase, by present phase, event code and side (0 opener, 1 other).
pub const AFTER: usize = 320;
/// u8 `[256]`: TCP flags -> event code.
pub const TCP_EVENTS: usize = 512;
/// u8 `[256]`: SCTP chunk type -> event code.
pub const SCTP_EVENTS: usize = 768;
/// u8 `[256]`: ICMP type -> event code.
pub const ICMP_EVENTS: usize = 1024;
/// u8 `[256]`: ICMPv6 type -> event code.
pub const ICMPV6_EVENTS: usize = 1280;
/// u8 `[256]`: for a set of ways (way 0 is bit 7) the last way of the set | the size of the set <<
/// 4.
pub const PICK: usize = 1536;
/// u8: [`code::DATAGRAM`], in a place from which programs load it without the verifier's knowing
/// the value.
pub const DATAGRAM_EVENT: usize = 1792;
/// u64 `[8]`: IP protocol number << 32 by [`Protocol`] (the place of `Icmp` has ICMP's, the next
/// one ICMPv6's, the last one 0).
pub const TAILS: usize = 1856;
/// u8 `[256]`: next header -> 0 no extension header, else [`extension`].
pub const EXTENSIONS: usize = 2048;

/// u8 `[256]`: ICMP type -> the type that its question has (`semantics::icmp::question`).
pub const ICMP_QUESTIONS: usize = 2304;
/// u8 `[256]`: the same of ICMPv6.
pub const ICMPV6_QUESTIONS: usize = 2560;
/// u64 `[8]`: by row of the port map ([`asked`]) the protocol's word, as far as it is the same for
/// all packets; from here, a program loads what the verifier does not know.
pub const WORDS: usize = 2816;

/// Rows of the port map: what it is asked about, and in which order.
pub mod asked {
    /// Ports of TCP, UDP and SCTP, which are the first rows, have the numbers of
    /// [`super::Protocol`]. Here: type << 8 | code of ICMP over IPv4.
    pub const ICMP: u8 = 3;
    /// The numbers of other protocols without ports, each in its own slot.
    pub const OTHER: u8 = 4;
    /// Type << 8 | code of ICMPv6 over IPv6.
    pub const ICMPV6: u8 = 5;
    /// How many rows there are.
    pub const ROWS: u8 = 6;
    /// No row, but the place in [`super::WORDS`] of ICMP over IPv6 and ICMPv6 over IPv4, which live
    /// as long as ICMP and are asked about as other protocols.
    pub const ICMP_ABROAD: u8 = 6;

    /// Whose slot of the port map: the bit of the protocol's word, on the stack, at which it
    /// begins. Below both is [`super::Protocol`]. Bit 63 is set where the protocol has ports: both
    /// are the first slot of its row then, and the port is added.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(i32)]
    pub enum Of {
        /// That of the packet itself.
        Packet = 8,
        /// That of what it answers: another one for replies of ICMP only.
        Question = 32,
    }
    /// The bits of a slot's number.
    pub const SLOT: i32 = 0x7_ffff;
}

/// How long an IPv6 extension header is.
pub mod extension {
    /// It has (byte 1 + 1) * 8 bytes, as most headers do.
    pub const EIGHTS: u8 = 1;
    /// It has (byte 1 + 2) * 4 bytes: the authentication header.
    pub const FOURS: u8 = 2;
    /// It has 8 bytes: the fragment header.
    pub const FRAGMENT: u8 = 3;
}

/// Event codes: those of `semantics::Event` in order, and then what else a packet may be.
pub mod code {
    /// `Event::Open`.
    pub const OPEN: u8 = 0;
    /// `Event::Datagram`.
    pub const DATAGRAM: u8 = 1;
    /// `Event::Accept`.
    pub const ACCEPT: u8 = 2;
    /// `Event::Data`, where a permitted packet touches no entry (TCP, ICMP).
    pub const DATA: u8 = 3;
    /// `Event::Finish`.
    pub const FINISH: u8 = 4;
    /// `Event::Reset`.
    pub const RESET: u8 = 5;
    /// `Event::Data` of SCTP: a permitted packet touches its entry.
    pub const SCTP_DATA: u8 = 6;
    /// No tuple: judged by the tables alone.
    pub const NO_TUPLE: u8 = 7;
    /// ICMP error: judged by its inner packet.
    pub const ERROR: u8 = 8;
    /// Neighbour discovery.
    pub const DISCOVERY: u8 = 9;
    /// Multicast listener discovery: no tuple, and an exception of the guard.
    pub const LISTENER: u8 = 10;
}

/// Rows of the lifetimes; the first three are those of the port map too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp = 0,
    /// IP protocol 17.
    Udp = 1,
    /// IP protocol 132.
    Sctp = 2,
    /// IP protocols 1 and 58, over either family.
    Icmp = 3,
    /// All other protocols.
    Other = 4,
}

impl Protocol {
    /// All rows, in the order of their numbers.
    pub const ALL: [Protocol; 5] =
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp, Protocol::Other];

    /// The row of an IP protocol.
    pub fn of(number: u8) -> Self {
        match number {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            1 | 58 => Protocol::Icmp,
            _ => Protocol::Other,
        }
    }

    /// An IP protocol that has this row.
    fn number(self) -> u8 {
        [6, 17, 132, 1, 255][self as usize]
    }
}

/// Time in the state tables: ticks of 1/16 to 1/8 of a second, (jiffies64 + offset) >> shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Jiffies per second: 10^9 / `clock_getres(CLOCK_MONOTONIC_COARSE)` in nanoseconds.
    pub hz: u32,
}

impl Clock {
    /// log2 of the jiffies in a tick.
    pub fn shift(self) -> u32 {
        self.hz.max(16).ilog2() - 3
    }

    /// How many ticks so many seconds have, rounded down, so that nothing lives longer than it
    /// should.
    pub fn ticks(self, seconds: u32) -> u32 {
        ((u64::from(seconds) * u64::from(self.hz)) >> self.shift()) as u32
    }
}

fn code_of(event: Event) -> u8 {
    match event {
        Event::Open => code::OPEN,
        Event::Datagram => code::DATAGRAM,
        Event::Accept => code::ACCEPT,
        Event::Data => code::DATA,
        Event::Finish => code::FINISH,
        Event::Reset => code::RESET,
    }
}

fn icmp_code(family: u8, kind: u8) -> u8 {
    if let Some(event) = Event::of_icmp(family, kind) {
        return code_of(event);
    }
    let discovery = icmp::DISCOVERY.0..=icmp::DISCOVERY.1;
    match family {
        4 if icmp::ERRORS_V4.contains(&kind) => code::ERROR,
        6 if icmp::ERRORS_V6.contains(&kind) => code::ERROR,
        6 if discovery.contains(&kind) => code::DISCOVERY,
        6 if icmp::LISTENER.contains(&kind) => code::LISTENER,
        _ => code::NO_TUPLE,
    }
}

/// The map's whole value, as it is when the map is made.
pub fn image(clock: Clock) -> Vec<u8> {
    let mut image = vec![0; SIZE];
    let word = |image: &mut Vec<u8>, at: usize, value: u32| {
        image[at..at + 4].copy_from_slice(&value.to_le_bytes())
    };
    word(&mut image, FRAGMENT_TICKS, clock.ticks(FRAGMENT_SECONDS));
    for protocol in Protocol::ALL {
        for phase in Phase::ALL {
            let at = LIFETIMES + (protocol as usize * 8 + phase as usize) * 4;
            word(&mut image, at, clock.ticks(seconds(protocol.number(), phase)));
        }
    }
    for phase in Phase::ALL {
        for event in
            [Event::Open, Event::Datagram, Event::Accept, Event::Data, Event::Finish, Event::Reset]
        {
            for (side, next) in [Side::Opener, Side::Other]
                .map(|side| phase.after(event, side))
                .into_iter()
                .enumerate()
            {
                image[AFTER + phase as usize * 16 + usize::from(code_of(event)) * 2 + side] =
                    next as u8;
                if event == Event::Data {
                    image[AFTER + phase as usize * 16 + usize::from(code::SCTP_DATA) * 2 + side] =
                        next as u8;
                }
            }
        }
    }
    for byte in 0..=255u8 {
        let at = usize::from(byte);
        image[TCP_EVENTS + at] = code_of(Event::of_tcp(byte));
        image[SCTP_EVENTS + at] = match Event::of_sctp(byte) {
            Event::Data => code::SCTP_DATA,
            event => code_of(event),
        };
        image[ICMP_EVENTS + at] = icmp_code(4, byte);
        image[ICMPV6_EVENTS + at] = icmp_code(6, byte);
        image[ICMP_QUESTIONS + at] = icmp::question(4, byte);
        image[ICMPV6_QUESTIONS + at] = icmp::question(6, byte);
        image[EXTENSIONS + at] = match byte {
            ip::FRAGMENT => extension::FRAGMENT,
            ip::AUTHENTICATION => extension::FOURS,
            _ if ip::EXTENSIONS.contains(&byte) => extension::EIGHTS,
            _ => 0,
        };
        image[PICK + at] =
            (7 - byte.trailing_zeros().min(7) as u8) | (byte.count_ones() as u8) << 4;
    }
    image[DATAGRAM_EVENT] = code::DATAGRAM;
    for (place, number) in [6u64, 17, 132, 1, 58].into_iter().enumerate() {
        image[TAILS + 8 * place..][..8].copy_from_slice(&(number << 32).to_le_bytes());
    }
    for (place, protocol, row) in [
        (Protocol::Tcp as u8, Protocol::Tcp, Protocol::Tcp as u8),
        (Protocol::Udp as u8, Protocol::Udp, Protocol::Udp as u8),
        (Protocol::Sctp as u8, Protocol::Sctp, Protocol::Sctp as u8),
        (asked::ICMP, Protocol::Icmp, asked::ICMP),
        (asked::OTHER, Protocol::Other, asked::OTHER),
        (asked::ICMPV6, Protocol::Icmp, asked::ICMPV6),
        (asked::ICMP_ABROAD, Protocol::Icmp, asked::OTHER),
    ] {
        let has_ports = u64::from(row == protocol as u8 && row < asked::ICMP) << 63;
        let slot = u64::from(row) << 16;
        let slots = slot << asked::Of::Packet as u64 | slot << asked::Of::Question as u64;
        let value = protocol as u64 | slots | has_ports;
        image[WORDS + 8 * usize::from(place)..][..8].copy_from_slice(&value.to_le_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_an_eighth_of_a_second_or_shorter_and_never_too_many() {
        for hz in [100, 250, 300, 1000] {
            let clock = Clock { hz };
            let per_second = f64::from(hz) / f64::from(1u32 << clock.shift());
            assert!((8.0..16.0).contains(&per_second), "{hz}");
            assert_eq!(clock.ticks(30), (30.0 * per_second).floor() as u32);
        }
    }

    #[test]
    fn pick_names_a_way_of_the_set() {
        let image = image(Clock { hz: 250 });
        for set in 1..256usize {
            let pick = image[PICK + set];
            assert!(set & (128 >> (pick & 7)) != 0, "{set:#b}");
            assert_eq!(u32::from(pick >> 4), set.count_ones());
        }
    }
}
