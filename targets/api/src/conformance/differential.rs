//! Random packets, policies and pauses, put to two datapaths that must agree.
//!
//! The packets are those of [`super::world`], built from a few addresses and ports so that they
//! meet each other's state, and then often damaged: a byte or a length field changed, the end cut
//! off, IPv6 extension headers or tags put in. Times are multiples of 13 seconds, none of which is
//! within two seconds of a timeout, since a datapath may refresh only once a second and a kernel's
//! clock does not stand still.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use netpolc_table::{
    ActionId, PortClassId, Program, RowId, TableId, Write,
    schema::{self, Answer, SetPortClass, Word},
};

use super::{
    Subject,
    world::{
        A, B, Hosts, Pod, Policy, Talk, UPLINK, Unit, born_set, permit_tunnels, set_mac, set_word,
        tell_apart, word, world,
    },
};
use crate::{
    Arrival, Error, Frame, Hook, Mark, Record, Verdict,
    frame::{
        Extension, Fragment, MACS, More, Packet, Tag, arp, discovery, ethernet, icmp_error, quote,
        test_run_takes, truncate,
    },
    random::Random,
    semantics::ip,
};

/// A packet about which two datapaths give different answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The seed and the number of the event, from 0: [`compare`] with this seed and one event more
    /// shows it again.
    pub seed: u64,
    /// The number of the event, see `seed`.
    pub event: usize,
    /// The hook that saw the packet.
    pub hook: Hook,
    /// The packet about which the datapaths disagree.
    pub frame: Frame,
    /// What the first datapath answered, and why where it knows.
    pub left: String,
    /// What the second datapath answered, and why where it knows.
    pub right: String,
    /// What happened since both were empty, for people.
    pub history: Vec<String>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet comes to this hook.
    Packet(Hook, Frame),
    /// So much time passes.
    Advance(Duration),
    /// The tables change by this write.
    Write(Write),
}

/// Counts of a comparison that found nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Packets that both let pass.
    pub passed: usize,
    /// Packets that both dropped.
    pub dropped: usize,
    /// Packets that both counted as different from what is only tried; 0 where one of them does not
    /// compare.
    pub compared: usize,
    /// Records that both made; 0 where one of them does not record.
    pub recorded: usize,
}

/// Random events; equal seeds give equal ones.
#[derive(Clone, Debug)]
pub struct Events {
    random: Random,
    count: usize,
}

impl Events {
    /// The events of this seed, without end.
    pub fn new(seed: u64) -> Self {
        Events { random: Random::new(seed), count: 0 }
    }
}

/// After so many events a pod loses its endpoint and gets it again, so that its quota is never used
/// up.
const EPOCH: usize = 48;
const POLICIES: [Policy; 6] =
    [Policy::Open, Policy::Nothing, Policy::Some, Policy::Friends, Policy::Tcp, Policy::Everyone];
const PORTS: [u16; 8] = [80, 53, 36412, 81, 4000, 546, 68, 4789];
/// In units of 13 seconds: around every timeout.
const PAUSES: [u64; 10] = [1, 2, 3, 9, 10, 16, 17, 46, 47, 33_231];

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let count = self.count;
        self.count += 1;
        let pod = if (count / EPOCH).is_multiple_of(2) { A } else { B };
        Some(match count % EPOCH {
            0 => Event::Write(Write::remove(TableId::Endpoint, schema::endpoint_key(pod.endpoint))),
            1 => Event::Write(self.policy(pod)),
            _ => match self.random.below(16) {
                0 if self.random.once_in(3) => Event::Write(self.hardware(pod)),
                0 => Event::Write(self.policy(pod)),
                1 => Event::Advance(Duration::from_secs(13 * self.random.pick(&PAUSES))),
                _ => self.packet(pod),
            },
        })
    }
}

impl Events {
    fn policy(&mut self, pod: Pod) -> Write {
        let random = &mut self.random;
        let (ingress, egress) = (random.pick(&POLICIES), random.pick(&POLICIES));
        let mut word = word(pod, ingress, egress);
        if random.once_in(3) {
            word.born_set = born_set(pod, random.pick(&POLICIES));
        }
        match random.below(6) {
            0 => {
                let more = random.pick(&[Word::GUARD, Word::RECORD, Word::GUARD | Word::RECORD]);
                word.flags = (word.flags | more) ^ random.pick(&[0, Word::BRIDGED]);
            }
            1..=3 => {
                // Something is tried, beside what is enforced or alone.
                let tried = random.pick(&[Word::TRIED, Word::TRIED_INGRESS, Word::TRIED_EGRESS]);
                let open =
                    random.pick(&[0, 0, Word::INGRESS, Word::EGRESS, Word::INGRESS | Word::EGRESS]);
                word.flags = (word.flags | tried | Word::GUARD) & !open;
            }
            _ => {}
        }
        set_word(pod, word)
    }

    /// Mostly an address that frames of the other direction do not have either.
    fn hardware(&mut self, pod: Pod) -> Write {
        let [to, from] = MACS;
        let macs = [None, None, Some(to), Some(from), Some([0x02, 0, 0, 0, 0x80, 2])];
        set_mac(pod, self.random.pick(&macs))
    }

    fn packet(&mut self, pod: Pod) -> Event {
        let hosts = self.random.pick(&Hosts::both());
        let hook = self.random.pick(&[
            Hook::ToPod,
            Hook::ToPod,
            Hook::ToPod,
            Hook::FromPod,
            Hook::FromPod,
            Hook::FromPod,
            Hook::Translated,
        ]);
        let random = &mut self.random;
        let own = if pod == A { hosts.a } else { hosts.b };
        let local = if random.once_in(12) { hosts.stranger } else { own };
        let remote = random.pick(&[
            hosts.friend,
            hosts.friend,
            hosts.network,
            hosts.stranger,
            hosts.service,
            hosts.service,
            hosts.a,
            hosts.b,
        ]);
        // Few ports, so that packets belong to each other's connections.
        let talk = Talk::new(local, random.pick(&PORTS[..5]), remote, random.pick(&PORTS));
        let mut bytes = self.bytes(&hosts, own, hook, &talk);
        let damages = if self.random.once_in(3) { 1 + self.random.below(3) } else { 0 };
        for _ in 0..damages {
            bytes = damage(&mut self.random, bytes);
        }
        if !test_run_takes(&bytes) {
            bytes.resize(60, 0);
        }
        let random = &mut self.random;
        if random.once_in(3) {
            // The pod's as those of the other direction, or to many.
            let at = if hook == Hook::ToPod { 0 } else { 6 };
            let mac =
                random.pick(&[MACS[0], MACS[1], MACS[1], [0xff; 6], [0x02, 0, 0, 0, 0x80, 2]]);
            bytes[at..at + 6].copy_from_slice(&mac);
        }
        let pods = [A.interface, B.interface];
        let (interface, arrival) = match hook {
            Hook::ToPod if random.once_in(6) => {
                (pod.interface, random.pick(&[Arrival::Born, Arrival::Forgotten]))
            }
            Hook::ToPod if random.once_in(4) => (pod.interface, random.pick(&pods).into()),
            Hook::ToPod => (pod.interface, UPLINK.into()),
            Hook::FromPod => (pod.interface, pod.interface.into()),
            Hook::Translated => {
                let known = [pods[0], pods[0], pods[1], UPLINK].map(Arrival::At);
                let all = [known.as_slice(), &[Arrival::Born, Arrival::Forgotten]].concat();
                (UPLINK, random.pick(&all))
            }
        };
        let marked = match hook {
            Hook::ToPod => random.once_in(6),
            Hook::FromPod => false,
            Hook::Translated => !random.once_in(8),
        };
        let mark = if marked { Mark::Deferred } else { Mark::Clear };
        Event::Packet(hook, Frame { interface, arrival, mark, bytes })
    }

    fn bytes(&mut self, hosts: &Hosts, own: IpAddr, hook: Hook, talk: &Talk) -> Vec<u8> {
        let unit = self.unit();
        let inner = self.unit();
        let random = &mut self.random;
        let mut packet = match hook {
            Hook::ToPod => talk.back_packet(unit),
            Hook::FromPod | Hook::Translated => talk.out_packet(unit),
        };
        match random.below(14) {
            0 if !random.once_in(3) => {
                let sender = random.pick(&[[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 9, 9], [0; 4]]);
                return arp(sender.into(), [10, 0, 9, 9].into())
                    .into_iter()
                    .chain([0; 18])
                    .collect();
            }
            0 => {
                return ethernet(&[], random.pick(&[0x0806, 0x8847, 0x0026, 0x8864]))
                    .into_iter()
                    .chain([0; 46])
                    .collect();
            }
            1 | 2 => {
                let quoted = match hook {
                    Hook::ToPod => talk.out_packet(inner),
                    Hook::FromPod | Hook::Translated => talk.back_packet(inner),
                };
                let mut quoted =
                    quote(&decorated(random, quoted), random.pick(&[8, 8, 8, 8, 4, 20, 600, 1300]));
                let (from, to) = match hook {
                    Hook::ToPod => {
                        (random.pick(&[hosts.stranger, hosts.stranger, own]), talk.local.0)
                    }
                    Hook::FromPod | Hook::Translated => (talk.local.0, talk.remote.0),
                };
                if random.once_in(8) {
                    quoted = damage(random, [vec![0; 14], quoted].concat()).split_off(14);
                }
                let kind = random.pick(&[1, 2, 3, 4, 5, 11, 12]);
                packet = icmp_error(from, to, (kind, 0), 1280, &quoted);
                if random.once_in(8) {
                    let parts = packet.fragments(random.pick(&[1, 2]), 24);
                    return parts[random.below(parts.len().min(3))].clone();
                }
            }
            3 => {
                if let (IpAddr::V6(a), IpAddr::V6(b)) = (talk.local.0, talk.remote.0) {
                    let source = random.pick(&[
                        a,
                        std::net::Ipv6Addr::UNSPECIFIED,
                        "fe80::9".parse().expect("an address"),
                    ]);
                    let kind = random.pick(&[130, 133, 134, 135, 136, 136, 136, 137, 138, 143]);
                    let link = "fe80::7".parse().expect("an address");
                    let about = random.pick(&[a, a, b, link]);
                    let link = "fe80::7".parse().expect("an address");
                    let to = random.pick(&[b, b, link, "ff02::1".parse().expect("an address")]);
                    packet =
                        discovery(kind, source, to, about).hop_limit(random.pick(&[255, 255, 64]));
                    if random.once_in(4) {
                        packet = packet.payload(&vec![0; random.pick(&[0, 15, 16, 120, 121])]);
                    }
                } else {
                    packet =
                        Packet::new(std::net::Ipv4Addr::UNSPECIFIED, std::net::Ipv4Addr::BROADCAST)
                            .udp(68, random.pick(&[67, 53]));
                }
            }
            4 if random.once_in(6) => {
                let ports = random.pick(&[(67, 68), (547, 546), (68, 67), (67, 67)]);
                packet = Packet::new(talk.local.0, talk.remote.0).udp(ports.0, ports.1);
            }
            4 | 5 => {
                let id = random.pick(&[1, 2]);
                let size = random.pick(&[8, 16, 24, 32]);
                let parts = decorated(random, packet).payload(&[5; 48]).fragments(id, size);
                return parts[random.below(parts.len().min(3))].clone();
            }
            _ => {}
        }
        decorated(random, packet).build()
    }

    fn unit(&mut self) -> Unit {
        let random = &mut self.random;
        match random.below(10) {
            0..=3 => Unit::Tcp(random.pick(&[
                0x02, 0x02, 0x12, 0x10, 0x10, 0x11, 0x14, 0x04, 0x03, 0x06, 0x00, 0xc2, 0xff,
            ])),
            4 | 5 => Unit::Udp,
            6 => Unit::Sctp(random.pick(&[0, 1, 1, 2, 4, 6, 7, 8, 10, 14, 255])),
            7 => Unit::Icmp(random.pick(&[0, 8, 13, 14, 128, 129, 3, 1, 17, 255])),
            _ => Unit::Other(random.pick(&[47, 1, 58, 50, 59, 255, 4, 41])),
        }
    }
}

/// Tags, options, extension headers, now and then.
fn decorated(random: &mut Random, mut packet: Packet) -> Packet {
    let v6 = packet.datagram()[0] >> 4 == 6;
    while random.once_in(8) {
        packet =
            packet.tag(random.pick(&[Tag::vlan(7), Tag::qinq(8), Tag { kind: 0x9100, id: 9 }]));
    }
    if !v6 && random.once_in(5) {
        let options = [
            vec![1; random.pick(&[4, 8, 20, 40])],
            vec![7, 7, 4, 0, 0, 0, 0, 0],
            vec![1, random.pick(&[131, 137, 68]), 7, 4, 0, 0, 0, 0],
            vec![0, 131, 0, 0],
            vec![68, random.pick(&[0, 1, 2, 4, 8, 9]), 131, 2, 131, 7, 137, 0],
        ];
        packet = packet.options(&options[random.below(options.len())]);
    }
    if v6 && random.once_in(3) {
        for _ in 0..random.pick(&[1, 1, 2, 3, 8, 9]) {
            let extension = match random.below(6) {
                0 => Extension::authentication(random.pick(&[0, 3])),
                1 => {
                    let offset = random.pick(&[0, 0, 0, 1, 3]);
                    let more = random.pick(&[More::Last, More::Last, More::Follow]);
                    Extension::fragment(Fragment { id: random.pick(&[1, 2]), offset, more })
                }
                2 => {
                    let mut header = Extension::padded(ip::ROUTING, random.pick(&[0, 2]));
                    header.bytes[3] = random.pick(&[0, 0, 1, 9]);
                    header
                }
                _ => Extension::padded(
                    random.pick(&[ip::HOP_BY_HOP, ip::ROUTING, ip::DESTINATION, ip::MOBILITY]),
                    random.pick(&[0, 0, 1, 3]),
                ),
            };
            packet = packet.extension(extension);
        }
    }
    packet
}

/// Damages a frame behind its addresses.
fn damage(random: &mut Random, mut frame: Vec<u8>) -> Vec<u8> {
    // The headers are where a changed byte is most likely to mean something.
    let near = frame.len().min(100);
    match random.below(8) {
        0 | 1 => {
            let length = 14 + random.below(frame.len().max(15) - 13);
            frame = truncate(frame, length);
        }
        2 => frame.extend([0; 8]),
        3 if near > 20 => {
            // A length field: of IPv4, of IPv6, of an extension header.
            let at = random.pick(&[16, 17, 18, 19, 55, 63]).min(near - 1);
            frame[at] = random.pick(&[0, 1, 2, 20, 28, 40, 255]);
        }
        _ if near > 14 => {
            let at = 12 + random.below(near - 12);
            frame[at] = match random.below(3) {
                0 => random.bits() as u8,
                1 => frame[at] ^ 1 << random.below(8),
                _ => random.pick(&[0, 1, 6, 17, 44, 51, 58, 132, 0x45, 0x60, 255]),
            };
        }
        _ => {}
    }
    frame
}

/// Entries of `tried` for some of the rows and port classes of a program.
fn tried(program: &Program, seed: u64) -> Vec<Write> {
    let mut random = Random::new(seed);
    let entries = [TableId::Base, TableId::Row].map(|table| program.table(table).entries.values());
    let rows = entries.into_iter().flatten().filter_map(|entry| Answer::of(Some(entry)).row());
    let rows: BTreeSet<RowId> = rows.collect();
    let ports = program.table(TableId::Port).entries.values();
    let classes = ports.map(|entry| SetPortClass::of(entry).port_class);
    let classes: BTreeSet<PortClassId> = classes.chain([PortClassId::default()]).collect();
    let pairs = rows.iter().flat_map(|row| classes.iter().map(|class| (*row, *class)));
    let chosen = pairs.filter(|_| !random.once_in(4)).map(|(row, class)| {
        let key = schema::tried_key(row, class);
        Write::put(TableId::Tried, key, schema::plain(ActionId::Differs))
    });
    chosen.collect()
}

/// Puts `count` random events to both, which must be empty, and stops where they part.
///
/// # Errors
/// `Ok(Err(mismatch))` where they part; the outer error where one of them fails as a target.
pub fn compare(
    left: &mut dyn Subject,
    right: &mut dyn Subject,
    seed: u64,
    count: usize,
) -> Result<Result<Agreed, Box<Mismatch>>, Error> {
    let mut program = world(Policy::Some, Policy::Some);
    program.apply(&permit_tunnels());
    if seed.is_multiple_of(2) {
        tell_apart(&mut program);
    }
    for write in tried(&program, seed) {
        program.apply(&write);
    }
    super::fill(left, &program)?;
    super::fill(right, &program)?;
    // What was recorded before is nobody's here.
    left.records()?;
    right.records()?;
    let mut agreed = Agreed::default();
    let mut history: Vec<String> = vec![];
    for (event, happens) in Events::new(seed).take(count).enumerate() {
        match happens {
            Event::Advance(by) => {
                history.push(format!("{event}: {} s pass", by.as_secs()));
                left.advance(by)?;
                right.advance(by)?;
            }
            Event::Write(write) => {
                if !write.remove.is_empty() {
                    history.clear();
                }
                history.push(format!("{event}: {write:?}"));
                left.write(&write)?;
                right.write(&write)?;
            }
            Event::Packet(hook, frame) => {
                let (l, r) = (left.packet(hook, &frame)?, right.packet(hook, &frame)?);
                let explained = |verdict, by: &dyn Subject| match by.explain_last() {
                    Some(reason) if verdict == Verdict::Drop => format!("Drop ({})", reason.name()),
                    _ => format!("{verdict:?}"),
                };
                let counts = (left.compared()?, right.compared()?);
                let recorded = (timeless(left.records()?), timeless(right.records()?));
                let (mut left, mut right) = (explained(l, left), explained(r, right));
                let mut parted = l != r;
                if let (Some(a), Some(b)) = counts {
                    if a != b {
                        parted = true;
                        left.push_str(&format!(", compared {a:?}"));
                        right.push_str(&format!(", compared {b:?}"));
                    }
                    agreed.compared = a.values().sum::<u64>() as usize;
                }
                if let (Some(a), Some(b)) = recorded {
                    agreed.recorded += a.len();
                    if a != b {
                        parted = true;
                        left.push_str(&format!(", recorded {a:?}"));
                        right.push_str(&format!(", recorded {b:?}"));
                    }
                }
                if parted {
                    return Ok(Err(Box::new(Mismatch {
                        seed,
                        event,
                        hook,
                        frame,
                        left,
                        right,
                        history,
                    })));
                }
                history.push(format!(
                    "{event}: {hook:?} {:?} {:?} {left} {}",
                    frame.mark,
                    frame.arrival,
                    hex(&frame.bytes)
                ));
                match l {
                    Verdict::Next | Verdict::Defer => agreed.passed += 1,
                    Verdict::Drop => agreed.dropped += 1,
                }
            }
        }
    }
    Ok(Ok(agreed))
}

/// Puts a frame of any bytes to both, which hold the same program (see [`super::world`]) and the
/// same state. The first byte says how it comes: bit 0 the hook, bit 1 whether no interface is
/// known of it (bit 3: but a socket of the node), bit 2 whether it is marked and comes from pod B
/// (towards a pod) or leaves the node, and where all other bits are 0, that enough time passes
/// first for quotas to be free again; the frame is the rest. What fuzzing calls. Frames that the
/// kernel does not take for a test run are passed over.
///
/// # Errors
/// As [`compare`]: `Ok(Err(mismatch))` where the answers differ.
pub fn fuzz_frame(
    left: &mut dyn Subject,
    right: &mut dyn Subject,
    bytes: &[u8],
) -> Result<Result<(), Box<Mismatch>>, Error> {
    let Some((&how, bytes)) = bytes.split_first().filter(|(_, frame)| test_run_takes(frame)) else {
        return Ok(Ok(()));
    };
    if how & 0xf0 == 0 {
        left.advance(Duration::from_secs(700))?;
        right.advance(Duration::from_secs(700))?;
    }
    let (hook, from, mark) = match how & 5 {
        0 => (Hook::ToPod, UPLINK, Mark::Clear),
        1 => (Hook::FromPod, A.interface, Mark::Clear),
        4 => (Hook::ToPod, B.interface, Mark::Deferred),
        _ => (Hook::Translated, A.interface, Mark::Deferred),
    };
    let arrival = match how & 10 {
        0 | 8 => Arrival::At(from),
        2 => Arrival::Forgotten,
        _ => Arrival::Born,
    };
    let frame = Frame { interface: A.interface, arrival, mark, bytes: bytes.to_vec() };
    let (l, r) = (left.packet(hook, &frame)?, right.packet(hook, &frame)?);
    if l == r {
        return Ok(Ok(()));
    }
    let (left, right) = (format!("{l:?}"), format!("{r:?}"));
    Ok(Err(Box::new(Mismatch { seed: 0, event: 0, hook, frame, left, right, history: vec![] })))
}

/// Records without what differs from one datapath to the other.
fn timeless(records: Option<Vec<Record>>) -> Option<Vec<Record>> {
    let same = |record| Record { at: SystemTime::UNIX_EPOCH, epoch: 0, ..record };
    records.map(|all| all.into_iter().map(same).collect())
}

/// The bytes as hexadecimal digits, two for each.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Mismatch { seed, event, hook, frame, left, right, history } = self;
        writeln!(f, "seed {seed}, event {event}: {left} against {right}")?;
        for line in history {
            writeln!(f, "  {line}")?;
        }
        write!(f, "  {event}: {hook:?} {:?} {}", frame.arrival, hex(&frame.bytes))
    }
}
