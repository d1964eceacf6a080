//! What is sent: cases of one to some twenty frames, each frame with a mark of its own.
//!
//! - `honest`: packets that policy allows, and their replies: they must arrive
//! - `layers`: packets of every kind and in every disguise, from anybody in anybody's name
//! - `pieces`: fragments
//! - `link`: ARP and neighbour discovery
//! - `planted`: connections that are made up in one round and used in the next one
//! - `tunnel`: packets inside packets
//!
//! Not here: whether anything may arrive ([`super::judge`]).

mod honest;
mod layers;
mod link;
mod pieces;
mod planted;
mod tunnel;

use std::net::IpAddr;

pub use planted::{Planted, planted};

use super::{
    Mac, Place, World, bytes,
    judge::{Judge, Sent},
    parse::Flow,
};
use crate::random::{self, Rng};

/// How many bytes a mark has.
pub const MARK: usize = 8;
/// What marks begin with; it stands nowhere else.
const MAGIC: [u8; 3] = [0xa7, 0x5e, 0xd1];

/// Fragmented packets of a round at most. An identification that comes again while a verdict on its
/// packet stands (S50: 30 seconds) would make the one look like the other; IPv4 has 65,536 of them.
const IDS: u32 = 512;

/// The mark of a round's first frame.
pub fn first_mark(round: u64) -> u64 {
    round << 20
}

/// A frame to be sent.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its number among all of the campaign.
    pub mark: u64,
    /// Frames of a later wave are sent when those of the earlier ones have arrived.
    pub wave: usize,
    /// The frame; of the node the payload of a datagram.
    pub sent: Sent,
    /// Where it must arrive; None where it need not arrive anywhere.
    pub wanted: Option<Place>,
    /// Whom a datagram of the node is for.
    pub datagram: Option<IpAddr>,
}

/// A mark as it stands in a frame.
pub fn mark(number: u64) -> [u8; MARK] {
    let [_, _, _, rest @ ..] = number.to_be_bytes();
    let mut bytes = [0; MARK];
    bytes[..3].copy_from_slice(&MAGIC);
    bytes[3..].copy_from_slice(&rest);
    bytes
}

/// The marks in a frame.
pub fn marks(frame: &[u8]) -> impl Iterator<Item = u64> {
    frame.windows(MARK).filter(|w| w[..3] == MAGIC).map(|w| {
        let mut number = [0; 8];
        number[3..].copy_from_slice(&w[3..]);
        u64::from_be_bytes(number)
    })
}

/// Who sends what to whom, before it is wrapped.
#[derive(Clone, Debug)]
struct Draft {
    from: Place,
    source: IpAddr,
    destination: IpAddr,
    from_mac: Mac,
    to_mac: Mac,
    ports: (u16, u16),
}

/// Makes the cases of a round.
#[derive(Debug)]
pub struct Generator {
    rng: Rng,
    world: World,
    round: u64,
    /// Destination ports at which policy changes its mind.
    ports: Vec<u16>,
    next_mark: u64,
    next_case: u64,
    next_id: u32,
    /// Connections that were opened with leave, as their openers see them.
    known: Vec<(Place, Place, Flow)>,
    out: Vec<Planned>,
}

impl Generator {
    /// Makes the cases of a round, which are the same in a replay.
    pub fn new(rng: Rng, world: World, round: u64) -> Self {
        Generator {
            rng,
            world,
            round,
            ports: vec![],
            next_mark: first_mark(round),
            next_case: first_mark(round),
            next_id: round as u32 * IDS,
            known: vec![],
            out: vec![],
        }
    }

    /// Other policies stand from now on.
    pub fn turn(&mut self, judge: &Judge) {
        let edges = random::ports(judge.cluster());
        self.ports = edges.into_iter().filter_map(|(_, port)| port).collect();
        self.ports.sort_unstable();
        self.ports.dedup();
        self.known.clear();
    }

    /// The frames of some cases.
    pub fn cases(&mut self, count: usize, judge: &Judge) -> Vec<Planned> {
        for _ in 0..count {
            self.next_case += 1;
            match self.rng.below(100) {
                0..22 => self.honest(judge),
                22..24 => self.born(),
                24..62 => self.hostile(),
                62..78 => self.pieces(),
                78..82 => self.arp(),
                82..90 => self.discovery(),
                _ => self.tunnelled(),
            }
        }
        std::mem::take(&mut self.out)
    }

    /// A new mark, for a frame that [`Generator::push`] takes next.
    fn stamp(&mut self) -> [u8; MARK] {
        mark(self.next_mark)
    }

    /// Plans a frame with the mark that was stamped last.
    fn push(&mut self, label: &'static str, from: Place, bytes: Vec<u8>) -> &mut Planned {
        let mark = self.next_mark;
        self.next_mark += 1;
        let sent = Sent { place: from, case: self.next_case, label, bytes };
        self.out.push(Planned { mark, wave: 0, sent, wanted: None, datagram: None });
        self.out.last_mut().expect("pushed above")
    }

    fn place(&mut self) -> Place {
        match self.rng.below(10) {
            0..3 => Place::Outside,
            _ => Place::Pod(self.rng.below(self.world.pods.len())),
        }
    }

    /// An address that belongs to the place.
    fn own(&mut self, place: Place, v6: bool) -> IpAddr {
        let World { far, overlaid, far_node, stranger, .. } = &self.world;
        let pair = match self.world.pod(place) {
            Some(pod) => pod.addresses,
            None => *self.rng.pick(&[*far, *overlaid, *far_node, *stranger]),
        };
        pair[usize::from(v6)]
    }

    /// Any address that means something.
    fn any_address(&mut self, v6: bool) -> IpAddr {
        let odd: &[&str] = if v6 {
            &[
                "::",
                "::1",
                "fe80::1",
                "ff02::1",
                "fe80::ecee:eeff:feee:eeee",
                "::ffff:10.0.0.1",
                "fec0::1",
                "2001:db8::77",
            ]
        } else {
            &[
                "0.0.0.0",
                "127.0.0.1",
                "224.0.0.1",
                "255.255.255.255",
                "10.0.1.255",
                "169.254.1.1",
                "240.0.0.1",
                "198.51.100.7",
            ]
        };
        match self.rng.below(10) {
            0..5 => {
                let place = self.place();
                self.own(place, v6)
            }
            5 => self.world.node[usize::from(v6)],
            6 => self.world.bridge[usize::from(v6)],
            _ => self.rng.pick(odd).parse().expect("the lists hold addresses"),
        }
    }

    fn destination_port(&mut self) -> u16 {
        if self.ports.is_empty() || self.rng.chance(20) {
            return *self.rng.pick(&[53, 67, 68, 80, 99, 546, 547, 8472, 40_000]);
        }
        *self.rng.pick(&self.ports)
    }

    /// The hardware address that leads from one place to another.
    fn way(&mut self, from: Place, to: Place) -> Mac {
        let neighbours = self.world.same_link(from, to);
        // Over the bridge's own address the node routes it.
        if neighbours && !self.rng.chance(15) {
            self.world.mac(to)
        } else {
            self.world.gateway(from)
        }
    }

    /// Somebody sends something to somebody, by chance in another's name.
    fn draft(&mut self) -> Draft {
        if !self.known.is_empty() && self.rng.chance(12) {
            return self.intruder();
        }
        let v6 = self.rng.chance(50);
        let from = self.place();
        let mut to = self.place();
        while to == from {
            to = self.place();
        }
        let destination = if self.rng.chance(88) { self.own(to, v6) } else { self.any_address(v6) };
        let source = match self.rng.below(10) {
            0..6 => self.own(from, v6),
            // The receiver's own.
            6 => destination,
            _ => self.any_address(v6),
        };
        let from_mac = match self.rng.below(20) {
            0 => self.world.mac(to),
            1 => [2, 0, 0, 0, 9, self.rng.below(250) as u8],
            2 => self.world.gateway(to),
            _ => self.world.mac(from),
        };
        let to_mac = match (self.rng.below(20), destination) {
            (0, _) => [0xff; 6],
            (1, _) => [2, 0, 0, 0, 9, 9],
            (_, IpAddr::V4(a)) if a.is_multicast() => [1, 0, 0x5e, 0, 0, 1],
            (_, IpAddr::V4(a)) if a.is_broadcast() => [0xff; 6],
            (_, IpAddr::V6(a)) if a.is_multicast() => [0x33, 0x33, 0, 0, 0, 1],
            _ => self.way(from, to),
        };
        let ports = match self.rng.below(25) {
            0 => *self.rng.pick(&[(68, 67), (67, 68), (546, 547), (547, 546), (53, 53), (0, 0)]),
            _ => (1024 + self.rng.below(64) as u16, self.destination_port()),
        };
        Draft { from, source, destination, from_mac, to_mac, ports }
    }

    /// Somebody sends on a connection that was opened, in either direction: one of its ends, or
    /// anybody.
    fn intruder(&mut self) -> Draft {
        let at = self.rng.below(self.known.len());
        let (mut from, mut to, mut flow) = self.known[at];
        if self.rng.chance(60) {
            (from, to, flow) = (to, from, flow.reverse());
        }
        if self.rng.chance(40) {
            from = self.place();
        }
        let to_mac = self.way(from, to);
        let ports = (flow.source.1, flow.destination.1);
        let from_mac = self.world.mac(from);
        Draft {
            from,
            source: flow.source.0,
            destination: flow.destination.0,
            from_mac,
            to_mac,
            ports,
        }
    }

    /// A number for the fragments of one packet.
    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// The frame of a draft without tags.
    fn plain_frame(&self, draft: &Draft, packet: &[u8]) -> Vec<u8> {
        bytes::ethernet(
            draft.to_mac,
            draft.from_mac,
            &[],
            bytes::ether_type(draft.destination),
            packet,
        )
    }
}
