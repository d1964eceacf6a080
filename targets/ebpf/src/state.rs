//! Connection state and counters as user space sees them: read, inserted (adoption, S40), purged (S43), counted.
//!
//! Packets write the same tables at the same time; an insertion claims its slot as a packet does. What the slots look
//! like is in [`crate::layout::state`], what the phases mean in `netpolc_target::semantics`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use netpolc_target::{
    Error, Hook,
    semantics::{DropReason, Phase, seconds},
};

use crate::{
    asm::{Alu, Asm, MapRef, Reg::*, Size},
    layout::{
        MapId, config,
        state::{
            BORN, BUSY, DEADLINE, DEFERRED, FROM_POD, KEY_V4, KEY_V6, PHASE_SHIFT, StateHash, TAG_SHIFT, Tuple, WAYS,
        },
    },
    loader::Loaded,
    maps::Maps,
    memory::{Window, map_error},
    sys::refused,
};

/// One connection of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// Whose.
    pub endpoint: u16,
    /// The other side.
    pub remote: IpAddr,
    /// The pod's address.
    pub local: IpAddr,
    /// 0 where the protocol has none; the identifier of an ICMP query.
    pub remote_port: u16,
    /// As `remote_port`.
    pub local_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// The hook that saw the opening packet: `FromPod` where the pod opened it.
    pub opener: Hook,
    /// Opened by a packet born on the node (S44).
    pub born: bool,
    /// How far it has come.
    pub phase: Phase,
    /// The remote's incarnation when it was opened; 0: not one pod's address.
    pub incarnation: u16,
}

/// A connection with its remaining life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Which.
    pub connection: Connection,
    /// Until it expires, unless a packet touches it; in whole seconds.
    pub seconds: u32,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is there now.
    New,
    /// A live entry was there, which stays.
    Kept,
    /// A live entry was there, and has another opener now.
    Corrected,
    /// Both buckets are full of live entries; counts as unknown (S40).
    NoRoom,
}

/// Reads the clock of the state tables, which only programs can.
#[derive(Debug)]
pub struct Ticker(Loaded);

impl Ticker {
    /// Loads a program that returns the time.
    pub fn load(maps: &Maps) -> Result<Self, Error> {
        const BPF_FUNC_JIFFIES64: i32 = 118;
        let mut a = Asm::new();
        a.note("clock");
        a.call(BPF_FUNC_JIFFIES64);
        a.map_value(R1, MapId::Config, config::TIME_OFFSET);
        a.load(Size::Dw, R1, R1, 0);
        a.alu(Alu::Add, R0, R1);
        a.alu(Alu::Rsh, R0, maps.clock.shift() as i32);
        a.exit();
        let code = a.finish().map_err(|e| Error::Installed(e.to_string()))?;
        let descriptor = |map| match map {
            MapRef::Table(id) => maps.fd(id),
            MapRef::Extra(_) => -1,
        };
        Ok(Self(Loaded::load("netpolc_clock", &code, descriptor)?))
    }

    /// Ticks now.
    pub fn now(&self) -> Result<u32, Error> {
        let context = crate::sys::Context { ifindex: 1, ..Default::default() };
        let done = crate::sys::test_run(self.0.fd(), &[0; 64], context, 1);
        done.map(|run| run.answer).map_err(|e| refused("read the clock", e))
    }
}

/// One family's slab of one endpoint.
struct Slab {
    metas: Window,
    keys: Window,
    key_words: usize,
    buckets: u32,
}

impl Slab {
    fn of(maps: &Maps, endpoint: u16, v4: bool) -> Result<Self, Error> {
        let slots = maps.capacities.state_buckets as usize * WAYS;
        let (meta, key, size) = if v4 {
            (MapId::StateV4Meta, MapId::StateV4Key, KEY_V4)
        } else {
            (MapId::StateV6Meta, MapId::StateV6Key, KEY_V6)
        };
        let part = |map, size: usize| maps.window(map, u64::from(endpoint) * (slots * size) as u64, slots * size);
        Ok(Self {
            metas: part(meta, size_of::<u64>())?,
            keys: part(key, size)?,
            key_words: size / 8,
            buckets: maps.capacities.state_buckets,
        })
    }

    fn metas(&self) -> &[AtomicU64] {
        self.metas.words()
    }

    fn key_words(&self, slot: usize) -> &[AtomicU64] {
        &self.keys.words()[slot * self.key_words..][..self.key_words]
    }

    fn key(&self, slot: usize) -> Vec<u8> {
        self.key_words(slot).iter().flat_map(|w| w.load(Acquire).to_le_bytes()).collect()
    }

    /// Gives a live entry this opener (`FROM_POD` or 0), and with that takes away what only the other opener's entry may say.
    /// False where it had it already. Packets change other parts of the word at the same time.
    fn set_opener(&self, slot: usize, opener: u64) -> bool {
        let change = |meta: u64| {
            (meta & BUSY == 0 && meta & FROM_POD != opener).then_some(meta & !(FROM_POD | BORN | DEFERRED) | opener)
        };
        self.metas()[slot].fetch_update(AcqRel, Acquire, change).is_ok()
    }

    fn insert(&self, hash: StateHash, key: &[u8], wanted: u64, now: u32) -> Inserted {
        let mut buckets = [hash.first(self.buckets), hash.second(self.buckets)].to_vec();
        buckets.dedup();
        let slots = || buckets.iter().flat_map(|&b| (0..WAYS).map(move |w| b as usize * WAYS + w));
        let dead = |meta: u64| (meta & DEADLINE) as u32 <= now;
        let tuple = key.len().min(40) - 2; // the last two bytes of the used part are the incarnation
        let mut place = None;
        for slot in slots() {
            let meta = self.metas()[slot].load(Acquire);
            if meta & BUSY == 0 && (meta >> TAG_SHIFT) as u16 == hash.tag() && self.key(slot)[..tuple] == key[..tuple] {
                if !dead(meta) && self.key(slot)[..] == *key {
                    return match self.set_opener(slot, wanted & FROM_POD) {
                        true => Inserted::Corrected,
                        false => Inserted::Kept,
                    };
                }
                place = Some(slot);
                break;
            }
        }
        let candidates = place.into_iter().chain(slots().filter(|&s| dead(self.metas()[s].load(Relaxed))));
        for slot in candidates {
            let before = self.metas()[slot].load(Acquire);
            let busy = BUSY | u64::from(now.saturating_add(16));
            if (Some(slot) != place && !dead(before))
                || self.metas()[slot].compare_exchange(before, busy, AcqRel, Relaxed).is_err()
            {
                continue;
            }
            for (word, bytes) in self.key_words(slot).iter().zip(key.chunks_exact(8)) {
                word.store(u64::from_le_bytes(bytes.try_into().expect("8 bytes")), Relaxed);
            }
            self.metas()[slot].store(wanted, Release);
            return Inserted::New;
        }
        Inserted::NoRoom
    }
}

/// What is to become of a live entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amendment {
    /// It stays.
    Keep,
    /// It was opened by the other one: the hook that saw the opening packet.
    Opener(Hook),
    /// It goes; the next packet is judged as new.
    Forget,
}

/// Asks of each live connection of an endpoint what is to become of it; says how many were changed.
pub fn amend(maps: &Maps, now: u32, endpoint: u16, amend: impl Fn(&Connection) -> Amendment) -> Result<usize, Error> {
    let mut amended = 0;
    for v4 in [true, false] {
        let slab = Slab::of(maps, endpoint, v4)?;
        for slot in 0..slab.metas().len() {
            let Some((live, word)) = live(maps, &slab, slot, now, endpoint, v4) else { continue };
            let done = match amend(&live.connection) {
                Amendment::Keep => false,
                Amendment::Opener(hook) => slab.set_opener(slot, if hook == Hook::FromPod { FROM_POD } else { 0 }),
                // Unless a packet just made another entry there.
                Amendment::Forget => {
                    let same = |now: u64| (now >> PHASE_SHIFT == word >> PHASE_SHIFT).then_some(0);
                    slab.metas()[slot].fetch_update(AcqRel, Acquire, same).is_ok()
                }
            };
            amended += usize::from(done);
        }
    }
    Ok(amended)
}

/// Puts a connection in as if its packets had been seen; a live entry under the same tuple stays, with the opener that is known now.
pub fn insert(maps: &Maps, now: u32, connection: &Connection) -> Result<Inserted, Error> {
    let c = connection;
    if c.endpoint == 0 || u32::from(c.endpoint) >= maps.capacities.endpoints {
        return Err(Error::Installed(format!("endpoint {}: no such state", c.endpoint)));
    }
    let life = maps.clock.ticks(seconds(c.protocol, c.phase));
    let meta = |hash: StateHash| {
        u64::from(now.saturating_add(life))
            | (c.phase as u64) << PHASE_SHIFT
            | if c.opener == Hook::FromPod { FROM_POD } else { 0 }
            | if c.born { BORN } else { 0 }
            | u64::from(hash.tag()) << TAG_SHIFT
    };
    let (remote_port, local_port, protocol) = (c.remote_port, c.local_port, c.protocol);
    match (c.remote, c.local) {
        (IpAddr::V4(remote), IpAddr::V4(local)) => {
            let tuple = Tuple { remote, local, remote_port, local_port, protocol };
            let hash = tuple.hash(maps.seed);
            Ok(Slab::of(maps, c.endpoint, true)?.insert(hash, &tuple.key(c.incarnation), meta(hash), now))
        }
        (IpAddr::V6(remote), IpAddr::V6(local)) => {
            let tuple = Tuple { remote, local, remote_port, local_port, protocol };
            let hash = tuple.hash(maps.seed);
            Ok(Slab::of(maps, c.endpoint, false)?.insert(hash, &tuple.key(c.incarnation), meta(hash), now))
        }
        _ => Err(Error::Installed(format!("{} and {} are of two families", c.remote, c.local))),
    }
}

/// The live connections of one endpoint, sorted.
pub fn connections(maps: &Maps, now: u32, endpoint: u16) -> Result<Vec<Live>, Error> {
    let mut list = vec![];
    for v4 in [true, false] {
        let slab = Slab::of(maps, endpoint, v4)?;
        list.extend((0..slab.metas().len()).filter_map(|slot| live(maps, &slab, slot, now, endpoint, v4)).map(|l| l.0));
    }
    list.sort_by_key(|l| l.connection);
    Ok(list)
}

/// The live connection in a slot, with its meta word.
fn live(maps: &Maps, slab: &Slab, slot: usize, now: u32, endpoint: u16, v4: bool) -> Option<(Live, u64)> {
    let meta = &slab.metas()[slot];
    let word = meta.load(Acquire);
    let deadline = (word & DEADLINE) as u32;
    if deadline <= now || word & BUSY != 0 {
        return None;
    }
    let key = slab.key(slot);
    if meta.load(Acquire) >> PHASE_SHIFT != word >> PHASE_SHIFT && meta.load(Acquire) & BUSY != 0 {
        return None; // taken over meanwhile
    }
    let v4_at = |at: usize| -> IpAddr { Ipv4Addr::new(key[at], key[at + 1], key[at + 2], key[at + 3]).into() };
    let v6_at =
        |at: usize| -> IpAddr { Ipv6Addr::from(<[u8; 16]>::try_from(&key[at..at + 16]).expect("16 bytes")).into() };
    let (remote, local, tail) =
        if v4 { (v4_at(0), v4_at(4), &key[8..16]) } else { (v6_at(0), v6_at(16), &key[32..40]) };
    let phase = word >> PHASE_SHIFT & 7;
    let phase = Phase::ALL.into_iter().find(|p| *p as u64 == phase)?;
    let connection = Connection {
        endpoint,
        remote,
        local,
        local_port: u16::from_be_bytes([tail[0], tail[1]]),
        remote_port: u16::from_be_bytes([tail[2], tail[3]]),
        protocol: tail[4],
        opener: if word & FROM_POD != 0 { Hook::FromPod } else { Hook::ToPod },
        born: word & BORN != 0,
        phase,
        incarnation: u16::from_le_bytes([tail[6], tail[7]]),
    };
    let seconds = (u64::from(deadline - now) << maps.clock.shift()) / u64::from(maps.clock.hz.max(1));
    Some((Live { connection, seconds: seconds as u32 }, word))
}

/// Forgets an endpoint's connections, fragment records and counters. Nothing may judge its packets meanwhile.
pub fn purge(maps: &Maps, endpoint: u16) -> Result<(), Error> {
    for v4 in [true, false] {
        for meta in Slab::of(maps, endpoint, v4)?.metas() {
            if meta.load(Relaxed) != 0 {
                meta.store(0, Release);
            }
        }
    }
    for word in counters_of(maps, endpoint) {
        word.store(0, Relaxed);
    }
    let mut fragments = maps.frag()?;
    let keys: Vec<_> = fragments.keys().filter_map(Result::ok).filter(|k| k[..2] == endpoint.to_le_bytes()).collect();
    for key in keys {
        match fragments.remove(&key) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
            Err(e) => {
                let e = map_error(e);
                if e.kind() != std::io::ErrorKind::NotFound {
                    return Err(refused("map frag: remove", e));
                }
            }
        }
    }
    Ok(())
}

fn counters_of(maps: &Maps, endpoint: u16) -> &[AtomicU64] {
    &maps.words(MapId::Counter)[usize::from(endpoint) * 2 * config::REASONS..][..2 * config::REASONS]
}

/// One hook's counters of an endpoint, by the reasons' numbers.
pub fn counts(maps: &Maps, endpoint: u16, hook: Hook) -> [u64; config::REASONS] {
    let words = counters_of(maps, endpoint);
    let from = if hook == Hook::ToPod { 0 } else { config::REASONS };
    std::array::from_fn(|i| words[from + i].load(Relaxed))
}

/// Drops of one endpoint: hook, reason, packets; without the zeros.
pub fn drops(maps: &Maps, endpoint: u16) -> Vec<(Hook, DropReason, u64)> {
    let words = counters_of(maps, endpoint);
    let all = [Hook::ToPod, Hook::FromPod].into_iter().enumerate();
    let all = all
        .flat_map(|(h, hook)| DropReason::ALL.map(move |reason| (h * config::REASONS + reason as usize, hook, reason)));
    all.map(|(i, hook, reason)| (hook, reason, words[i].load(Relaxed))).filter(|(.., n)| *n > 0).collect()
}
