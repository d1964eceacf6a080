//! Connection state: where an endpoint's table stands, buckets, meta words, keys, hashes. The
//! phases and their lifetimes are those of `netpolc_target::semantics`.
//!
//! Each endpoint has a *table* of connections for each family: a power of two of buckets. All
//! buckets of a family are numbered, and stand in *chunks* of [`CHUNK`] buckets: arrays that are
//! slots of the map of maps `state_v4` or `state_v6`. A table smaller than a chunk shares it with
//! others of its size, a larger one has chunks that follow each other. Where an endpoint's tables
//! are is in its record of the map `state` ([`Place`]): for each family the present table, and
//! while it is being moved to another size the previous one, in one word, so that a packet sees
//! both or neither. A packet looks in the present table first, then in the previous one; new
//! entries are made in the present one only.
//!
//! A bucket is [`WAYS`] meta words (one cache line), then [`WAYS`] keys. An entry stands in one of
//! its two buckets ([`StateHash`]), in any way.
//! The life of a slot:
//!
//! 1. It is dead: its deadline is not later than now. A slot that was never used is all zero.
//! 2. A packet claims it: it exchanges the meta word for [`BUSY`] with a deadline a little ahead,
//!    by compare-and-swap. A busy slot matches no packet. If its claimer never finishes, the
//!    deadline frees it.
//! 3. The packet writes the key, and then the meta word with tag, phase and deadline.
//! 4. Packets refresh the entry by compare-and-swap of the meta word.
//! 5. The entry dies when its deadline comes. Nothing has to be written for that.
//!
//! Two processors that open the same tuple in the same instant may make two entries. Each searches
//! again after it has published its own, and of two the one at the lower address stays. Two cases
//! are left: a packet in between may be judged by the entry that goes, and of three entries at once
//! a second one may stay until it expires.
//!
//! Not here: which code does that (`program::entry`, `state`).

use netpolc_table::Incarnation;
use std::net::{Ipv4Addr, Ipv6Addr};

/// How many entries a bucket has room for.
pub const WAYS: usize = 8;
/// How many of the slots in an entry's two buckets may belong to one remote, where slots are
/// scarce.
pub const SHARE: usize = 2 * WAYS * 3 / 4;
/// Bytes of a key of IPv4: remote, local address (as in the packet), local port, remote port (as in
/// the packet), protocol u8, zero u8, remote incarnation u16.
pub const KEY_V4: usize = 16;
/// Bytes of a key of IPv6: remote (16), local (16), then ports, protocol, zero, incarnation as for
/// IPv4.
pub const KEY_V6: usize = 40;

/// How many endpoints may have connections, including id 0, which stands for none.
pub const ENDPOINTS: u32 = 1 << 16;
/// Bytes of a record of the map `state`: u64 for each family (IPv4, IPv6): present [`Place`] |
/// previous one << 32; then u64 for each family: not 0 where a packet found little room, and
/// whoever enlarges tables has not looked yet.
pub const RECORD: usize = 32;
/// Where the second half of a record begins, which says whether the tables should grow.
pub const WANTED: usize = 16;
/// log2 of the buckets that a chunk has.
pub const CHUNK_LOG: u8 = 11;
/// How many buckets a chunk has.
pub const CHUNK: u32 = 1 << CHUNK_LOG;
/// How many slots a map of maps has; slot 0 stays empty.
pub const SLOTS: u32 = 1 << 13;
/// Where the keys begin in a bucket, in bytes.
pub const KEYS: usize = WAYS * 8;
/// How many connections find room in a bucket on average, whatever their hashes are: 3/4 of its
/// slots.
pub const PER_BUCKET: u32 = WAYS as u32 / 4 * 3;
/// How many buckets the largest table has. The hash has no bits for more.
pub const MOST_BUCKETS: u32 = 1 << 16;
/// Slots are scarce where an entry's two buckets have at most so many free ones.
pub const SCARCE: usize = 2 * WAYS - SHARE;
/// A packet asks for a larger table where an entry's two buckets have at most so many free slots.
/// That is early enough for a single remote, too, to find room until the table has grown.
pub const WANTING: usize = WAYS;

/// The size of a bucket in bytes, for keys of this size.
pub fn bucket_size(key: usize) -> usize {
    KEYS + WAYS * key
}

/// Where a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of its first bucket, which is a multiple of how many it has.
    pub first: u32,
    /// log2 of how many buckets it has.
    pub log: u8,
}

impl Place {
    /// The bit of a word at which `first` begins, above the bits of `log`.
    pub const FIRST: u32 = 5;

    /// The place as half a word of a record holds it; 0 stands for none.
    pub fn word(self) -> u32 {
        self.first << Self::FIRST | u32::from(self.log)
    }

    /// The place in half a word of a record; None where it is 0.
    pub fn of(word: u32) -> Option<Self> {
        let place = Self { first: word >> Self::FIRST, log: (word & 31) as u8 };
        (place.first != 0).then_some(place)
    }

    /// How many buckets the table has.
    pub fn buckets(self) -> u32 {
        1 << self.log
    }

    /// How many connections find room in the table whatever their hashes are, in practice.
    pub fn connections(self) -> u32 {
        PER_BUCKET << self.log
    }

    /// The slots of the chunks in which the table stands.
    pub fn slots(self) -> std::ops::Range<u16> {
        let first = (self.first / CHUNK) as u16;
        first..first + self.buckets().div_ceil(CHUNK) as u16
    }
}

/// Bits 0..32 of a meta word: the deadline in ticks. The entry is live while it is later than now.
pub const DEADLINE: u64 = 0xffff_ffff;
/// Where the 3 bits of `semantics::Phase` begin in a meta word.
pub const PHASE_SHIFT: u32 = 32;
/// A bit of a meta word: the pod opened the connection; where it is unset, the remote did.
pub const FROM_POD: u64 = 1 << 36;
/// A bit of a meta word: a packet born on the node opened the connection (S44).
pub const BORN: u64 = 1 << 37;
/// A bit of a meta word: a packet of the pod's own opened the connection, back from a Service
/// (S47).
pub const OWN: u64 = 1 << 40;
/// A bit of a meta word: the slot is being written.
pub const BUSY: u64 = 1 << 38;
/// A bit of a meta word: the connection was opened towards a Service, and its packets are judged
/// after translation (S48).
pub const DEFERRED: u64 = 1 << 39;
/// Where the tag ([`StateHash::tag`]) begins in a meta word, which has the bits up to 64.
pub const TAG_SHIFT: u32 = 48;

/// First odd multiplier of the hashes (2^64 / golden ratio).
pub const K1: u64 = 0x9e37_79b9_7f4a_7c15;
/// Second odd multiplier (of SplitMix64).
pub const K2: u64 = 0xbf58_476d_1ce4_e5b9;

/// One step of all hashes here. The programs compute the same.
pub(super) fn mix(h: u64, k: u64) -> u64 {
    let h = h.wrapping_mul(k);
    h ^ h >> 32
}

/// The hash of a tuple, which says where the connection's entry may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash(pub u64);

impl StateHash {
    /// The number of the entry's first bucket, in a table of so many buckets.
    pub fn first(self, buckets: u32) -> u32 {
        self.0 as u32 & (buckets - 1)
    }
    /// The number of the entry's second bucket, which may be the same one.
    pub fn second(self, buckets: u32) -> u32 {
        (self.0 >> 24) as u32 & (buckets - 1)
    }
    /// The upper 16 bits of the entry's meta word, by which a search tells most other entries
    /// apart.
    pub fn tag(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// A connection of one endpoint. Ports are numbers here, not as in the packet. They are 0 where the
/// protocol has none, and both are the identifier of an ICMP query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple<A> {
    /// The other side's address.
    pub remote: A,
    /// The pod's address.
    pub local: A,
    /// The other side's port.
    pub remote_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// The IP protocol's number.
    pub protocol: u8,
}

impl<A> Tuple<A> {
    /// The 8 bytes of a key that follow the addresses.
    pub fn tail(&self, incarnation: Incarnation) -> [u8; 8] {
        let ([a, b], [c, d]) = (self.local_port.to_be_bytes(), self.remote_port.to_be_bytes());
        let [e, f] = incarnation.get().to_le_bytes();
        [a, b, c, d, self.protocol, 0, e, f]
    }
}

pub(super) fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
}

impl Tuple<Ipv4Addr> {
    /// The key, as a bucket of `state_v4` holds it.
    pub fn key(&self, incarnation: Incarnation) -> [u8; KEY_V4] {
        let mut key = [0; KEY_V4];
        key[..4].copy_from_slice(&self.remote.octets());
        key[4..8].copy_from_slice(&self.local.octets());
        key[8..].copy_from_slice(&self.tail(incarnation));
        key
    }
    /// The tuple's hash. The incarnation is not part of it, so that a new pod's entry replaces the
    /// old one's.
    pub fn hash(&self, seed: u64) -> StateHash {
        let key = self.key(Incarnation::new(0));
        StateHash(mix(mix(word(&key[..8]) ^ seed, K1) ^ word(&key[8..]), K2))
    }
}

impl Tuple<Ipv6Addr> {
    /// The key, as a bucket of `state_v6` holds it.
    pub fn key(&self, incarnation: Incarnation) -> [u8; KEY_V6] {
        let mut key = [0; KEY_V6];
        key[..16].copy_from_slice(&self.remote.octets());
        key[16..32].copy_from_slice(&self.local.octets());
        key[32..40].copy_from_slice(&self.tail(incarnation));
        key
    }
    /// The tuple's hash. Neither the incarnation nor the first half of the pod's own address is
    /// part of it.
    pub fn hash(&self, seed: u64) -> StateHash {
        let key = self.key(Incarnation::new(0));
        let h = mix(word(&key[..8]) ^ seed, K1) ^ word(&key[8..16]);
        let h = mix(h, K2) ^ word(&key[24..32]);
        StateHash(mix(mix(h, K1) ^ word(&key[32..40]), K2))
    }
}
