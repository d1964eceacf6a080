//! Connections that are made up in one round and used in the next one (S40): while nothing isolates
//! a pod, the node's connection tracking is told that the pod opened a connection, or was asked for
//! one. Who isolates the pod then must not believe it.
//!
//! A plan is a function of the campaign's seed and of a round's number. A replay that begins at a
//! round knows what the one before it planted, but the node has not seen those frames: begin one
//! round earlier.

use super::{
    super::{
        Place, World,
        bytes::{self, Header, number},
        parse::Flow,
    },
    Generator,
};
use crate::random::Rng;

/// How many connections are made up in one round.
const EACH_ROUND: usize = 40;
/// The TCP flag SYN.
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const DATA: u8 = 0x18;
const RST: u8 = 0x04;

/// A connection that is made up.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Who seems to open the connection, by the source of its first packet.
    opener: Place,
    /// Who is asked for the connection.
    asked: Place,
    /// Who sends the opener's packets.
    forger: Place,
    /// The connection's addresses and ports, as in a packet of the opener.
    flow: Flow,
}

/// The connections that are made up in a round.
pub fn planted(seed: u64, round: u64, world: &World) -> Vec<Planted> {
    let mut rng =
        Rng::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(round) ^ 0x5bd1_e995_0000_0000);
    let owned = |rng: &mut Rng, place: Place, v6: bool| match world.pod(place) {
        Some(pod) => pod.addresses[usize::from(v6)],
        None => rng.pick(&[world.far, world.stranger])[usize::from(v6)],
    };
    rng.list(EACH_ROUND, |rng| {
        let v6 = rng.chance(50);
        let pods = world.pods.len();
        let pod = Place::Pod(rng.below(pods));
        let other = match rng.below(pods) {
            n if Place::Pod(n) == pod => Place::Outside,
            n => Place::Pod(n),
        };
        let (opener, asked) = if rng.chance(70) { (pod, other) } else { (other, pod) };
        // Most pods are guarded, what is outside is not.
        let forger = if rng.chance(80) { Place::Outside } else { asked };
        let protocol = *rng.pick(&[number::UDP, number::UDP, number::TCP, number::SCTP]);
        let (near, far) = (*rng.pick(&[22, 53, 98, 8080]), 7000 + rng.below(8) as u16);
        let (from, to) = if opener == pod { (near, far) } else { (far, near) };
        let source = (owned(rng, opener, v6), from);
        let destination = (owned(rng, asked, v6), to);
        Planted { opener, asked, forger, flow: Flow { protocol, source, destination } }
    })
}

impl Generator {
    /// Frames that plant: a whole handshake, as far as the forger can play the opener.
    pub fn plant(&mut self, plan: &[Planted]) -> Vec<super::Planned> {
        for Planted { opener, asked, forger, flow } in plan.iter().copied() {
            self.next_case += 1;
            self.planted_frame(0, forger, asked, flow, SYN, 1);
            self.planted_frame(1, asked, opener, flow.reverse(), SYN_ACK, 2);
            if flow.protocol == number::TCP && forger != opener {
                // The opener has sent nothing, and its kernel says so.
                self.planted_frame(2, opener, asked, flow, RST, 0);
            }
            self.planted_frame(2, forger, asked, flow, ACK, 10);
        }
        std::mem::take(&mut self.out)
    }

    /// Frames that use what was planted: both ends send as if the connection were there.
    pub fn harvest(&mut self, plan: &[Planted]) -> Vec<super::Planned> {
        for Planted { opener, asked, flow, .. } in plan.iter().copied() {
            self.next_case += 1;
            let flags = *self.rng.pick(&[ACK, DATA, SYN_ACK, SYN]);
            if self.rng.chance(50) {
                self.planted_frame(0, asked, opener, flow.reverse(), flags, 0);
            } else {
                self.planted_frame(0, opener, asked, flow, flags, 0);
            }
        }
        std::mem::take(&mut self.out)
    }

    fn planted_frame(
        &mut self,
        wave: usize,
        from: Place,
        to: Place,
        flow: Flow,
        flags: u8,
        chunk: u8,
    ) {
        let mark = self.stamp();
        let (local, remote) = (flow.source.1, flow.destination.1);
        let body = match flow.protocol {
            number::TCP => bytes::tcp(local, remote, flags, &mark),
            number::SCTP => bytes::sctp(local, remote, chunk, &mark),
            _ => bytes::udp(local, remote, &mark),
        };
        let header = Header { hops: 64, ..Header::default() };
        let packet = bytes::ip(flow.source.0, flow.destination.0, flow.protocol, &header, &body);
        let (to_mac, from_mac) = (self.way(from, to), self.world.mac(from));
        let kind = bytes::ether_type(flow.destination.0);
        let frame = bytes::ethernet(to_mac, from_mac, &[], kind, &packet);
        self.push("planted", from, frame).wave = wave;
    }
}
