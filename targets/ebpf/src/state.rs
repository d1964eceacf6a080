//! Connection state and counters as user space sees them: read, inserted (adoption, S40), purged
//! (S43), and counted.
//!
//! Packets write the same tables at the same time, so that an insertion claims its slot as a packet
//! does. Not here: what the slots look like ([`crate::layout::state`]), and what the phases mean
//! (`netpolc_target::semantics`).

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use netpolc_table::{EndpointId, Incarnation, PortClassId, RowId, schema::Family};
use netpolc_target::{
    Compared, Error, Hook, Noted,
    semantics::{DropReason, Phase, seconds},
};

use crate::{
    asm::{Alu, Asm, MapRef, Reg::*, Size},
    layout::{
        Clock, MapId, compared_key, config, seen,
        state::{
            BORN, BUSY, DEADLINE, DEFERRED, FROM_POD, KEY_V4, OWN, PHASE_SHIFT, StateHash,
            TAG_SHIFT, Tuple, WAYS,
        },
    },
    loader::Loaded,
    maps::{Maps, Shared},
    memory::map_error,
    pool::Table,
    sys::refused,
};

/// One connection of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The endpoint that it belongs to.
    pub endpoint: EndpointId,
    /// The other side's address.
    pub remote: IpAddr,
    /// The pod's address.
    pub local: IpAddr,
    /// The other side's port; 0 where the protocol has none, and the identifier of an ICMP query.
    pub remote_port: u16,
    /// The pod's port; 0 and the identifier as in `remote_port`.
    pub local_port: u16,
    /// The IP protocol's number.
    pub protocol: u8,
    /// The hook that saw the opening packet: `FromPod` where the pod opened it.
    pub opener: Hook,
    /// Whether a packet born on the node opened it (S44).
    pub born: bool,
    /// How far the connection is.
    pub phase: Phase,
    /// The remote's incarnation when the connection was opened; 0 where the remote is not one pod's
    /// address.
    pub incarnation: Incarnation,
}

/// A live connection with the time that it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The connection as its entry has it now.
    pub connection: Connection,
    /// Whole seconds until it expires, unless a packet refreshes it.
    pub seconds: u32,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The entry is new.
    New,
    /// A live entry was there and stays as it is.
    Kept,
    /// A live entry was there and has another opener now.
    Corrected,
    /// Both buckets are full of live entries: the connection stays unknown (S40).
    NoRoom,
}

/// Reads the clock by which entries expire: jiffies, which only programs can read exactly.
#[derive(Debug)]
pub struct Ticker(Loaded);

impl Ticker {
    /// Loads a program that returns the time in ticks.
    ///
    /// # Errors
    /// [`Error::Verifier`] or [`Error::System`] where the kernel refuses the program.
    #[cfg(feature = "measure")]
    pub fn load(maps: &Maps) -> Result<Self, Error> {
        Self::of(maps.shared(), maps.clock)
    }

    /// As `load`, for a generation of which there are only the shared maps.
    pub(crate) fn of(shared: &Shared, clock: Clock) -> Result<Self, Error> {
        const BPF_FUNC_JIFFIES64: i32 = 118;
        let mut a = Asm::new();
        a.note("clock");
        a.call(BPF_FUNC_JIFFIES64);
        a.map_value(R1, MapId::Config, config::TIME_OFFSET);
        a.load(Size::Dw, R1, R1, 0);
        a.alu(Alu::Add, R0, R1);
        a.alu(Alu::Rsh, R0, clock.shift() as i32);
        a.exit();
        let generator = |e: crate::asm::AsmError| Error::Verifier {
            program: "netpolc_clock".into(),
            at: "the generator".into(),
            log: e.to_string(),
        };
        let code = a.finish().map_err(generator)?;
        let descriptor = |map| match map {
            MapRef::Table(id) => shared.fd(id).as_raw_fd(),
            MapRef::Extra(_) => -1,
        };
        Ok(Self(Loaded::load("netpolc_clock", &code, descriptor)?))
    }

    /// The time now, in ticks.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses to run the program.
    pub fn now(&self) -> Result<u32, Error> {
        let context = crate::sys::Context { ifindex: crate::sys::LO, ..Default::default() };
        let done = crate::sys::test_run(self.0.fd(), &[0; 64], context, 1);
        done.map(|run| run.answer).map_err(|e| refused("read the clock", e))
    }
}

/// Whether the entry of this meta word has expired, or never was.
pub(crate) fn is_dead(meta: u64, now: u32) -> bool {
    (meta & DEADLINE) as u32 <= now
}

/// The key of a slot as bytes.
pub(crate) fn key_at(table: &Table, slot: usize) -> Vec<u8> {
    table.key(slot).iter().flat_map(|w| w.load(Acquire).to_le_bytes()).collect()
}

/// The hash of the tuple that a key contains.
pub(crate) fn hash_of(key: &[u8], seed: u64) -> StateHash {
    let (v4_at, v6_at) = (address_v4(key), address_v6(key));
    let tail = &key[key.len() - 8..];
    let [local_port, remote_port] = [0, 2].map(|at| u16::from_be_bytes([tail[at], tail[at + 1]]));
    let protocol = tail[4];
    if key.len() == KEY_V4 {
        Tuple { remote: v4_at(0), local: v4_at(4), remote_port, local_port, protocol }.hash(seed)
    } else {
        Tuple { remote: v6_at(0), local: v6_at(16), remote_port, local_port, protocol }.hash(seed)
    }
}

fn address_v4(key: &[u8]) -> impl Fn(usize) -> Ipv4Addr + '_ {
    |at| Ipv4Addr::new(key[at], key[at + 1], key[at + 2], key[at + 3])
}

fn address_v6(key: &[u8]) -> impl Fn(usize) -> Ipv6Addr + '_ {
    |at| Ipv6Addr::from(<[u8; 16]>::try_from(&key[at..at + 16]).expect("16 bytes"))
}

/// The slots in which an entry of this hash may stand: those of its two buckets.
fn slots_of(table: &Table, hash: StateHash) -> impl Iterator<Item = usize> + use<> {
    let buckets = table.place.buckets();
    let (first, second) = (hash.first(buckets), hash.second(buckets));
    let second = (second != first).then_some(second);
    [Some(first), second]
        .into_iter()
        .flatten()
        .flat_map(|bucket| (0..WAYS).map(move |w| bucket as usize * WAYS + w))
}

/// The slot of the entry for this key's tuple, live or expired, and whatever its remote's
/// incarnation was.
pub(crate) fn find(table: &Table, hash: StateHash, key: &[u8]) -> Option<usize> {
    let tuple = key.len() - 2; // the last two bytes are the incarnation
    slots_of(table, hash).find(|&slot| {
        let meta = table.meta(slot).load(Acquire);
        meta & BUSY == 0
            && (meta >> TAG_SHIFT) as u16 == hash.tag()
            && key_at(table, slot)[..tuple] == key[..tuple]
    })
}

/// Gives an entry this opener (`FROM_POD` or 0), and clears the flags that are true only of the
/// other opener. Returns false where it had that opener already. Packets may change the phase and
/// deadline in the same word at the same time, which is why the word is exchanged and not stored.
fn set_opener(table: &Table, slot: usize, opener: u64) -> bool {
    let change = |meta: u64| {
        (meta & BUSY == 0 && meta & FROM_POD != opener)
            .then_some(meta & !(FROM_POD | BORN | OWN | DEFERRED) | opener)
    };
    table.meta(slot).fetch_update(AcqRel, Acquire, change).is_ok()
}

/// Makes an entry with this meta word. A live entry of the same tuple stays, with this opener.
pub(crate) fn put(table: &Table, hash: StateHash, key: &[u8], wanted: u64, now: u32) -> Inserted {
    let place = find(table, hash, key);
    if let Some(slot) = place
        && !is_dead(table.meta(slot).load(Acquire), now)
        && key_at(table, slot)[..] == *key
    {
        let changed = set_opener(table, slot, wanted & FROM_POD);
        return if changed { Inserted::Corrected } else { Inserted::Kept };
    }
    // Slots of the emptier bucket come first, as packets take them. Otherwise some pairs of buckets
    // would be full long before the table is.
    let free = slots_of(table, hash).filter(|&s| is_dead(table.meta(s).load(Relaxed), now));
    let mut free: Vec<usize> = free.collect();
    let first = hash.first(table.place.buckets()) as usize;
    let in_first = free.iter().filter(|slot| **slot / WAYS == first).count();
    if in_first * 2 < free.len() {
        free.reverse();
    }
    for slot in place.into_iter().chain(free) {
        let before = table.meta(slot).load(Acquire);
        // Claimed for at most two seconds: if this process is killed here, the deadline frees the
        // slot.
        let busy = BUSY | u64::from(now.saturating_add(16));
        if (Some(slot) != place && !is_dead(before, now))
            || table.meta(slot).compare_exchange(before, busy, AcqRel, Relaxed).is_err()
        {
            continue;
        }
        write(table, slot, key, wanted);
        return Inserted::New;
    }
    Inserted::NoRoom
}

/// Moves an entry in from another table. Where both buckets are full, it takes the place of an
/// entry that would give way to a new connection. Returns false where there is none.
pub(crate) fn move_in(table: &Table, hash: StateHash, key: &[u8], meta: u64, now: u32) -> bool {
    if put(table, hash, key, meta, now) != Inserted::NoRoom {
        return true;
    }
    // The order in which entries give way. None is what stays: established, or being written.
    let rank = |meta: u64| match meta >> PHASE_SHIFT & 7 {
        _ if meta & BUSY != 0 => None,
        phase if phase >= Phase::Closing as u64 => Some(0),
        phase if phase == Phase::Replied as u64 => Some(1),
        phase if phase == Phase::Opening as u64 => Some(2),
        _ => None,
    };
    // An established connection displaces any entry with a rank. One that was answered displaces
    // all but others that were answered. The rest would have to yield themselves, and displace
    // none.
    let yields_to = |there: u8| match rank(meta) {
        None => true,
        Some(own) => own == 1 && there != 1,
    };
    let mut yielding: Vec<(u8, u64, usize)> = slots_of(table, hash)
        .filter_map(|slot| {
            let there = table.meta(slot).load(Acquire);
            Some((rank(there).filter(|rank| yields_to(*rank))?, there, slot))
        })
        .collect();
    yielding.sort_by_key(|(rank, there, _)| (*rank, there & DEADLINE));
    let busy = BUSY | u64::from(now.saturating_add(16));
    let taken = |(_, there, slot): &(u8, u64, usize)| {
        table.meta(*slot).compare_exchange(*there, busy, AcqRel, Relaxed).is_ok()
    };
    let Some((_, _, slot)) = yielding.into_iter().find(taken) else { return false };
    write(table, slot, key, meta);
    true
}

/// Fills a slot that this process has claimed. The meta word comes last, since it makes the entry
/// valid.
fn write(table: &Table, slot: usize, key: &[u8], meta: u64) {
    for (word, bytes) in table.key(slot).iter().zip(key.chunks_exact(8)) {
        word.store(u64::from_le_bytes(bytes.try_into().expect("8 bytes")), Relaxed);
    }
    table.meta(slot).store(meta, Release);
}

/// Puts an entry into an endpoint's tables: the present one and, while it is being moved, the
/// previous one. An entry that has not been copied yet stays where it is, since the copy would be
/// the older one.
fn insert_into(tables: &[Table], hash: StateHash, key: &[u8], wanted: u64, now: u32) -> Inserted {
    let Some((present, previous)) = tables.split_first() else { return Inserted::NoRoom };
    let is_in = |table: &Table| {
        let live = |slot: &usize| {
            !is_dead(table.meta(*slot).load(Acquire), now) && key_at(table, *slot)[..] == *key
        };
        find(table, hash, key).filter(live)
    };
    let elsewhere = previous.iter().find_map(|table| Some((table, is_in(table)?)));
    match elsewhere.filter(|_| is_in(present).is_none()) {
        Some((table, slot)) if set_opener(table, slot, wanted & FROM_POD) => Inserted::Corrected,
        Some(_) => Inserted::Kept,
        None => put(present, hash, key, wanted, now),
    }
}

/// What is to become of a live entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amendment {
    /// The entry stays as it is.
    Keep,
    /// The entry stays; this is the hook that saw the opening packet.
    Opener(Hook),
    /// The entry goes; the connection's next packet is judged as new.
    Forget,
}

/// Asks `amend` what is to become of each live connection of an endpoint, and returns how many were
/// changed.
///
/// # Errors
/// [`Error::System`] where a table cannot be mapped.
pub fn amend(
    maps: &Maps,
    now: u32,
    endpoint: EndpointId,
    amend: impl Fn(&Connection) -> Amendment,
) -> Result<usize, Error> {
    let mut amended = 0;
    let one = |table: &Table, slot: usize| {
        let Some((live, word)) = live(maps.clock, table, slot, now, endpoint) else { return false };
        match amend(&live.connection) {
            Amendment::Keep => false,
            Amendment::Opener(hook) => {
                set_opener(table, slot, if hook == Hook::FromPod { FROM_POD } else { 0 })
            }
            // Unless a packet has just made another entry in the slot: tag, flags or phase differ
            // then.
            Amendment::Forget => {
                let same = |now: u64| (now >> PHASE_SHIFT == word >> PHASE_SHIFT).then_some(0);
                table.meta(slot).fetch_update(AcqRel, Acquire, same).is_ok()
            }
        }
    };
    for family in Family::BOTH {
        amended += maps.shared().change(endpoint, family, |tables| {
            let slots =
                tables.iter().flat_map(|table| (0..table.slots()).map(move |slot| (table, slot)));
            slots.filter(|(table, slot)| one(table, *slot)).count()
        })?;
    }
    Ok(amended)
}

/// Inserts a connection as if its packets had been seen. A live entry of the same tuple stays, with
/// this opener.
///
/// # Errors
/// [`Error::Argument`] where the endpoint does not exist or the addresses belong to two families,
/// [`Error::System`] where a table cannot be mapped.
pub fn insert(maps: &Maps, now: u32, connection: &Connection) -> Result<Inserted, Error> {
    let c = connection;
    if c.endpoint == EndpointId::default()
        || u32::from(c.endpoint.get()) >= maps.capacities.endpoints
    {
        return Err(Error::Argument(format!("endpoint {} does not exist", c.endpoint)));
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
            let key = tuple.key(c.incarnation);
            maps.shared().change(c.endpoint, Family::V4, |tables| {
                insert_into(tables, hash, &key, meta(hash), now)
            })
        }
        (IpAddr::V6(remote), IpAddr::V6(local)) => {
            let tuple = Tuple { remote, local, remote_port, local_port, protocol };
            let hash = tuple.hash(maps.seed);
            let key = tuple.key(c.incarnation);
            maps.shared().change(c.endpoint, Family::V6, |tables| {
                insert_into(tables, hash, &key, meta(hash), now)
            })
        }
        _ => Err(Error::Argument(format!("{} and {} are of two families", c.remote, c.local))),
    }
}

/// The live connections of one endpoint, sorted.
///
/// # Errors
/// [`Error::System`] where a table cannot be mapped.
pub fn connections(maps: &Maps, now: u32, endpoint: EndpointId) -> Result<Vec<Live>, Error> {
    let mut list: Vec<Live> = vec![];
    for family in Family::BOTH {
        for (table, moved) in maps.shared().tables(endpoint, family)?.iter().zip([false, true]) {
            // An entry that has been copied is in both tables; the copy in the present one counts.
            let seen: HashSet<Key> =
                list.iter().filter(|_| moved).map(|l| Key::of(&l.connection)).collect();
            let all =
                (0..table.slots()).filter_map(|slot| live(maps.clock, table, slot, now, endpoint));
            list.extend(all.map(|l| l.0).filter(|l| !seen.contains(&Key::of(&l.connection))));
        }
    }
    list.sort_by_key(|l| l.connection);
    Ok(list)
}

/// How many live connections of a family an endpoint has.
///
/// # Errors
/// [`Error::System`] where a table cannot be mapped.
pub fn count(maps: &Maps, now: u32, endpoint: EndpointId, family: Family) -> Result<u32, Error> {
    let tables = maps.shared().tables(endpoint, family)?;
    let live = |table: &Table, slot: usize| !is_dead(table.meta(slot).load(Relaxed), now);
    let Some((present, previous)) = tables.split_first() else { return Ok(0) };
    let mut count = (0..present.slots()).filter(|slot| live(present, *slot)).count();
    for table in previous {
        let copied = |slot: &usize| {
            let key = key_at(table, *slot);
            find(present, hash_of(&key, maps.seed), &key).is_some_and(|there| live(present, there))
        };
        count += (0..table.slots()).filter(|slot| live(table, *slot) && !copied(slot)).count();
    }
    Ok(count as u32)
}

/// What identifies a connection of an endpoint: addresses, ports and protocol.
#[derive(PartialEq, Eq, Hash)]
struct Key(IpAddr, IpAddr, u16, u16, u8);

impl Key {
    fn of(c: &Connection) -> Self {
        Self(c.remote, c.local, c.remote_port, c.local_port, c.protocol)
    }
}

/// The live connection in a slot, with its meta word; None where there is none.
fn live(
    clock: Clock,
    table: &Table,
    slot: usize,
    now: u32,
    endpoint: EndpointId,
) -> Option<(Live, u64)> {
    let meta = table.meta(slot);
    let word = meta.load(Acquire);
    let deadline = (word & DEADLINE) as u32;
    if deadline <= now || word & BUSY != 0 {
        return None;
    }
    let key = key_at(table, slot);
    if meta.load(Acquire) >> PHASE_SHIFT != word >> PHASE_SHIFT && meta.load(Acquire) & BUSY != 0 {
        // A packet claimed the slot while the key was read, so that the key may be half another
        // one.
        return None;
    }
    let (v4_at, v6_at) = (address_v4(&key), address_v6(&key));
    let (remote, local): (IpAddr, IpAddr) = match key.len() {
        KEY_V4 => (v4_at(0).into(), v4_at(4).into()),
        _ => (v6_at(0).into(), v6_at(16).into()),
    };
    let tail = &key[key.len() - 8..];
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
        incarnation: Incarnation::new(u16::from_le_bytes([tail[6], tail[7]])),
    };
    let seconds = (u64::from(deadline - now) << clock.shift()) / u64::from(clock.hz.max(1));
    Some((Live { connection, seconds: seconds as u32 }, word))
}

/// Forgets an endpoint's connections, fragment records and counters. No packet of the endpoint may
/// be under way.
///
/// # Errors
/// [`Error::System`] where a chunk cannot be mapped or a fragment record cannot be removed.
pub fn purge(maps: &Maps, endpoint: EndpointId) -> Result<(), Error> {
    maps.shared().pool().release(endpoint)?;
    let seen = &maps.words(MapId::Seen)[usize::from(endpoint.get()) * seen::CELLS..][..seen::CELLS];
    for word in counters_of(maps, endpoint).iter().chain(seen) {
        word.store(0, Relaxed);
    }
    let mut fragments = maps.frag()?;
    let keys: Vec<_> = fragments
        .keys()
        .filter_map(Result::ok)
        .filter(|k| k[..2] == endpoint.get().to_le_bytes())
        .collect();
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

fn counters_of(maps: &Maps, endpoint: EndpointId) -> &[AtomicU64] {
    &maps.words(MapId::Counter)[usize::from(endpoint.get()) * 2 * Noted::SLOTS..]
        [..2 * Noted::SLOTS]
}

/// Adds the counters of an earlier generation, which no program may increase any more.
///
/// # Errors
/// [`Error::System`] where the map `compared` cannot be read or changed.
pub(crate) fn add_counts(earlier: &Maps, maps: &Maps) -> Result<(), Error> {
    let counts = earlier
        .words::<AtomicU64>(MapId::Counter)
        .iter()
        .zip(maps.words::<AtomicU64>(MapId::Counter));
    for (before, now) in counts.filter(|(before, _)| before.load(Relaxed) != 0) {
        now.fetch_add(before.load(Relaxed), Relaxed);
    }
    let counted = compared(earlier)?;
    if counted.is_empty() {
        return Ok(());
    }
    let mut map = maps.compared()?;
    for ((row, class), count) in counted {
        // A packet may count between the two calls; it is lost then.
        let key = compared_key(row, class);
        let before = map.get(&key, 0).unwrap_or_default();
        let added = map.insert(key, before + count, 0);
        added.map_err(|e| refused("map compared: insert", map_error(e)))?;
    }
    Ok(())
}

/// How many packets differ from what is only tried, by row and port class.
///
/// # Errors
/// [`Error::System`] where the map cannot be read.
pub(crate) fn compared(maps: &Maps) -> Result<Compared, Error> {
    let mut counts = Compared::new();
    for entry in maps.compared()?.iter() {
        let (key, count) = entry.map_err(|e| refused("map compared: read", map_error(e)))?;
        let (row, class) = ((key >> 16) as u16, key as u16);
        counts.insert((RowId::new(row), PortClassId::new(class)), count);
    }
    Ok(counts)
}

/// One hook's counters of an endpoint, indexed by the number of the [`DropReason`].
pub fn counts(maps: &Maps, endpoint: EndpointId, hook: Hook) -> [u64; Noted::SLOTS] {
    let words = counters_of(maps, endpoint);
    let from = if hook == Hook::ToPod { 0 } else { Noted::SLOTS };
    std::array::from_fn(|i| words[from + i].load(Relaxed))
}

/// How many packets of an endpoint were dropped, by hook and reason; reasons that never occurred
/// are left out.
pub fn drops(maps: &Maps, endpoint: EndpointId) -> Vec<(Hook, DropReason, u64)> {
    let words = counters_of(maps, endpoint);
    let all = [Hook::ToPod, Hook::FromPod].into_iter().enumerate();
    let all = all.flat_map(|(h, hook)| {
        DropReason::ALL.map(move |reason| (h * Noted::SLOTS + reason as usize, hook, reason))
    });
    all.map(|(i, hook, reason)| (hook, reason, words[i].load(Relaxed)))
        .filter(|(.., n)| *n > 0)
        .collect()
}
