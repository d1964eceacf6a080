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
//!
//! Life of a slot: dead (deadline <= now; never used: all zero) -> compare-and-swap of the meta word to [`BUSY`] with a
//! deadline a little ahead -> key written -> meta stored with tag, phase and deadline -> refreshed by compare-and-swap of
//! the meta word -> dead by itself. A busy entry matches nobody; if its claimer never finishes, the deadline frees it.
//! Two processors that open the same tuple in the same instant may make two entries; each looks again after it has
//! published its own, and of two the one at the lower address stays. What is left: a packet between may be judged by the
//! entry that goes, and of three at once a second one may stay until it ages away.

use netpolc_table::Incarnation;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Entries of a bucket.
pub const WAYS: usize = 8;
/// Of the places in an entry's two buckets, so many go to entries of one remote at most.
pub const SHARE: usize = 2 * WAYS * 3 / 4;
/// Bytes of a key of IPv4: remote, local address (as in the packet), local port, remote port (as in the packet),
/// protocol u8, zero u8, remote incarnation u16.
pub const KEY_V4: usize = 16;
/// Bytes of a key of IPv6: remote (16), local (16), then ports, protocol, zero, incarnation as for
/// IPv4.
pub const KEY_V6: usize = 40;

/// Endpoints that may have connections, 0 included.
pub const ENDPOINTS: u32 = 1 << 16;
/// Bytes of a record of the map `state`: u64 for each family (IPv4, IPv6): present [`Place`] |
/// previous one << 32; then u64 for each family: not 0 where a packet found little room, and
/// whoever enlarges tables has not looked yet.
pub const RECORD: usize = 32;
/// Where the second half of a record begins.
pub const WANTED: usize = 16;
/// log2 of the buckets of a chunk.
pub const CHUNK_LOG: u8 = 11;
/// Buckets of a chunk.
pub const CHUNK: u32 = 1 << CHUNK_LOG;
/// Slots of a map of maps; slot 0 stays empty.
pub const SLOTS: u32 = 1 << 13;
/// Where the keys of a bucket begin.
pub const KEYS: usize = WAYS * 8;
/// Connections that find room in a bucket on average, whatever their hashes are: 3/4 of its slots.
pub const PER_BUCKET: u32 = WAYS as u32 / 4 * 3;
/// Buckets of the largest table: more hashes do not tell apart.
pub const MOST_BUCKETS: u32 = 1 << 16;
/// Free slots of an entry's two buckets up to which one remote may have no more than its share.
pub const SCARCE: usize = 2 * WAYS - SHARE;
/// The same up to which a packet says that its table should grow: early enough that a single
/// remote, too, finds room until then.
pub const WANTING: usize = WAYS;

/// Bytes of a bucket.
pub fn bucket_size(key: usize) -> usize {
    KEYS + WAYS * key
}

/// Where a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of its first bucket, a multiple of their count.
    pub first: u32,
    /// log2 of their count.
    pub log: u8,
}

impl Place {
    /// Where the bits of `first` begin, above those of `log`.
    pub const FIRST: u32 = 5;

    /// As in a record; 0 is none.
    pub fn word(self) -> u32 {
        self.first << Self::FIRST | u32::from(self.log)
    }

    /// From half a word of a record.
    pub fn of(word: u32) -> Option<Self> {
        let place = Self { first: word >> Self::FIRST, log: (word & 31) as u8 };
        (place.first != 0).then_some(place)
    }

    /// How many buckets.
    pub fn buckets(self) -> u32 {
        1 << self.log
    }

    /// Connections that find room in it whatever their hashes are, in practice.
    pub fn connections(self) -> u32 {
        PER_BUCKET << self.log
    }

    /// The slots of its chunks.
    pub fn slots(self) -> std::ops::Range<u16> {
        let first = (self.first / CHUNK) as u16;
        first..first + self.buckets().div_ceil(CHUNK) as u16
    }
}

/// Meta: bits 0..32 deadline in ticks; the entry is live while deadline > now.
pub const DEADLINE: u64 = 0xffff_ffff;
/// Meta: 3 bits of `semantics::Phase`.
pub const PHASE_SHIFT: u32 = 32;
/// Meta: opened by the pod (from_pod); unset: by the remote (to_pod).
pub const FROM_POD: u64 = 1 << 36;
/// Meta: opened by a packet born on the node (S44).
pub const BORN: u64 = 1 << 37;
/// Meta: being written.
pub const BUSY: u64 = 1 << 38;
/// Meta: opened towards a Service; its packets are judged after translation (S48).
pub const DEFERRED: u64 = 1 << 39;
/// Meta: bits 48..64 are the tag, [`StateHash::tag`].
pub const TAG_SHIFT: u32 = 48;

/// First odd multiplier of the hashes (2^64 / golden ratio).
pub const K1: u64 = 0x9e37_79b9_7f4a_7c15;
/// Second odd multiplier (of SplitMix64).
pub const K2: u64 = 0xbf58_476d_1ce4_e5b9;

/// One step of all hashes here; the programs compute the same.
pub(super) fn mix(h: u64, k: u64) -> u64 {
    let h = h.wrapping_mul(k);
    h ^ h >> 32
}

/// Where a connection's entry may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash(pub u64);

impl StateHash {
    /// Its first bucket.
    pub fn first(self, buckets: u32) -> u32 {
        self.0 as u32 & (buckets - 1)
    }
    /// Its second bucket; may be the same one.
    pub fn second(self, buckets: u32) -> u32 {
        (self.0 >> 24) as u32 & (buckets - 1)
    }
    /// The upper 16 bits of its meta word.
    pub fn tag(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// A connection of one endpoint, as seen from it. Ports are host numbers here; 0 where the protocol has none, both the
/// identifier for ICMP queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple<A> {
    /// The other side.
    pub remote: A,
    /// The pod.
    pub local: A,
    /// Its port.
    pub remote_port: u16,
    /// Its port.
    pub local_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl<A> Tuple<A> {
    /// The 8 bytes after the addresses in a key.
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
    /// The key as it stands in `state_v4_key`.
    pub fn key(&self, incarnation: Incarnation) -> [u8; KEY_V4] {
        let mut key = [0; KEY_V4];
        key[..4].copy_from_slice(&self.remote.octets());
        key[4..8].copy_from_slice(&self.local.octets());
        key[8..].copy_from_slice(&self.tail(incarnation));
        key
    }
    /// Its hash; the incarnation is not part of it.
    pub fn hash(&self, seed: u64) -> StateHash {
        let key = self.key(Incarnation::new(0));
        StateHash(mix(mix(word(&key[..8]) ^ seed, K1) ^ word(&key[8..]), K2))
    }
}

impl Tuple<Ipv6Addr> {
    /// The key as it stands in `state_v6_key`.
    pub fn key(&self, incarnation: Incarnation) -> [u8; KEY_V6] {
        let mut key = [0; KEY_V6];
        key[..16].copy_from_slice(&self.remote.octets());
        key[16..32].copy_from_slice(&self.local.octets());
        key[32..40].copy_from_slice(&self.tail(incarnation));
        key
    }
    /// Its hash; neither the incarnation nor the first half of the pod's own address is part of it.
    pub fn hash(&self, seed: u64) -> StateHash {
        let key = self.key(Incarnation::new(0));
        let h = mix(word(&key[..8]) ^ seed, K1) ^ word(&key[8..16]);
        let h = mix(h, K2) ^ word(&key[24..32]);
        StateHash(mix(mix(h, K1) ^ word(&key[32..40]), K2))
    }
}
