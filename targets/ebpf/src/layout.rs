//! What the maps hold, byte by byte: names, sizes, value layouts, hash functions, constants. The
//! generated programs (`program`) and user space (`maps`, `tables`) both go by this file and share
//! no other knowledge. Numbers are little-endian words. Where a field is said to be *as in the
//! packet*, its bytes stand in memory in the order in which they stand in the packet.
//!
//! Every table that a packet walks is a one-element array (`BPF_F_MMAPABLE`), read as a direct map
//! value. All sizes are powers of two ([`Capacities`]): the programs mask an index only where the
//! mask changes nothing, because user space never stores an id beyond its capacity.
//!
//! Connection state is in [`state`], constants that programs read in [`config`]. Not here: code,
//! memory, and when to write what.

use std::net::{IpAddr, Ipv6Addr};

use netpolc_table::{EndpointId, PortClassId, RowId};
use netpolc_target::Noted;

pub mod config;
pub mod state;

pub use config::Clock;
use state::{K1, K2, mix};

use crate::{ledger::LedgerId, maps::Lifetime};

/// Changes whenever a byte below changes its meaning. State of another version is not read.
pub const LAYOUT_VERSION: u32 = 7;
/// First word of the header map: "netpolc" and a zero.
pub const MAGIC: u64 = u64::from_le_bytes(*b"netpolc\0");

/// The sizes of the tables. All of them are powers of two; [`Capacities::check`] has the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Blocks of 256 interface indices, including block 0, which stands for none.
    pub interface_blocks: u32,
    /// Endpoints, including id 0, which stands for none.
    pub endpoints: u32,
    /// Policy sets, including id 0, which stands for none.
    pub sets: u32,
    /// IPv4 classes, including class 0.
    pub classes_v4: u32,
    /// IPv6 classes, including class 0.
    pub classes_v6: u32,
    /// Rows, including row 0, which denies everything.
    pub rows: u32,
    /// 64-bit words of a row's mask, of which each has the bits of 64 port classes.
    pub port_words: u32,
    /// Blocks of 256 slots in `remote_v4`, the 256 of the root included.
    pub remote_v4_blocks: u32,
    /// Blocks of 256 slots in `remote_v6`, the 256 of the root included.
    pub remote_v6_blocks: u32,
    /// Buckets of 3 places in `remote_v6_exact`.
    pub remote_v6_buckets: u32,
    /// Blocks of 256 slots in `remote_v6_leaf`.
    pub remote_v6_leaves: u32,
    /// Records of fragmented packets.
    pub fragments: u32,
    /// Own addresses of endpoints beyond the first of each family: the entries of `own_more`.
    pub more_addresses: u32,
    /// Addresses with ports of Services: the entries of `service`.
    pub services: u32,
}

impl Default for Capacities {
    /// What most nodes need: about 15 MiB. Tables grow where that is not enough.
    fn default() -> Self {
        Self {
            interface_blocks: 1 << 6,
            endpoints: 1 << 8,
            sets: 1 << 9,
            classes_v4: 1 << 10,
            classes_v6: 1 << 10,
            rows: 1 << 12,
            port_words: 1 << 4,
            remote_v4_blocks: 1 << 11,
            remote_v6_blocks: 1 << 11,
            remote_v6_buckets: 1 << 12,
            remote_v6_leaves: 1 << 10,
            fragments: 1 << 13,
            more_addresses: 1 << 9,
            services: 1 << 12,
        }
    }
}

impl Capacities {
    /// Small tables, for tests and single queries: about 14 MiB.
    pub fn small() -> Self {
        Self {
            interface_blocks: 1 << 4,
            endpoints: 1 << 6,
            sets: 1 << 8,
            classes_v4: 1 << 11,
            classes_v6: 1 << 11,
            rows: 1 << 11,
            port_words: 1 << 4,
            remote_v4_blocks: 1 << 12,
            remote_v6_blocks: 1 << 11,
            remote_v6_buckets: 1 << 12,
            remote_v6_leaves: 1 << 10,
            fragments: 1 << 10,
            more_addresses: 1 << 8,
            services: 1 << 8,
        }
    }

    /// All fields, in the order in which the header map has them.
    pub(crate) fn fields(&self) -> [u32; 14] {
        [
            self.interface_blocks,
            self.endpoints,
            self.sets,
            self.classes_v4,
            self.classes_v6,
            self.rows,
            self.port_words,
            self.remote_v4_blocks,
            self.remote_v6_blocks,
            self.remote_v6_buckets,
            self.remote_v6_leaves,
            self.fragments,
            self.more_addresses,
            self.services,
        ]
    }

    /// The capacities whose fields are these, in the order of [`Capacities::fields`].
    pub(crate) fn from_fields(field: impl Fn(usize) -> u32) -> Self {
        Self {
            interface_blocks: field(0),
            endpoints: field(1),
            sets: field(2),
            classes_v4: field(3),
            classes_v6: field(4),
            rows: field(5),
            port_words: field(6),
            remote_v4_blocks: field(7),
            remote_v6_blocks: field(8),
            remote_v6_buckets: field(9),
            remote_v6_leaves: field(10),
            fragments: field(11),
            more_addresses: field(12),
            services: field(13),
        }
    }

    /// Whether no field is smaller than in `other`.
    pub fn holds(&self, other: &Capacities) -> bool {
        self.fields().into_iter().zip(other.fields()).all(|(here, there)| here >= there)
    }

    /// Large tables, for measurements in which nothing is to grow: about 70 MiB.
    pub fn roomy() -> Self {
        Self {
            interface_blocks: 1 << 10,
            endpoints: 1 << 8,
            sets: 1 << 10,
            classes_v4: 1 << 13,
            classes_v6: 1 << 13,
            rows: 1 << 13,
            port_words: 1 << 6,
            remote_v4_blocks: 1 << 14,
            remote_v6_blocks: 1 << 13,
            remote_v6_buckets: 1 << 15,
            remote_v6_leaves: 1 << 12,
            fragments: 1 << 13,
            more_addresses: 1 << 12,
            services: 1 << 14,
        }
    }

    /// How many bytes all maps of a generation take with these sizes.
    pub fn bytes(&self) -> u64 {
        let maps = MapId::ALL.iter().filter(|id| Lifetime::of(**id) == Lifetime::Generation);
        let maps = maps.map(|id| {
            u64::from(id.max_entries(self)) * (id.value_size(self) + u64::from(id.key_size()))
        });
        maps.chain(LedgerId::ALL.into_iter().map(|id| id.size(self))).sum()
    }

    /// Checks that these sizes are possible.
    ///
    /// # Errors
    /// A sentence that names the first field that is not a power of two or is out of its bounds, or
    /// the map that would exceed the kernel's limit.
    pub fn check(&self) -> Result<(), String> {
        for (name, value, low, high) in [
            ("interface_blocks", self.interface_blocks, 1 << 1, 1 << 16),
            ("endpoints", self.endpoints, 1 << 1, state::ENDPOINTS),
            ("sets", self.sets, 1 << 1, 1 << 16),
            ("classes_v4", self.classes_v4, 1 << 1, 1 << 16),
            ("classes_v6", self.classes_v6, 1 << 1, 1 << 15),
            ("rows", self.rows, 1 << 1, 1 << 16),
            ("port_words", self.port_words, 1, 1 << 10),
            ("remote_v4_blocks", self.remote_v4_blocks, 1 << 9, 1 << 19),
            ("remote_v6_blocks", self.remote_v6_blocks, 1 << 9, 1 << 19),
            ("remote_v6_buckets", self.remote_v6_buckets, 1 << 4, 1 << 22),
            ("remote_v6_leaves", self.remote_v6_leaves, 1 << 4, 1 << 16),
            ("fragments", self.fragments, 1 << 4, 1 << 20),
            ("more_addresses", self.more_addresses, 1 << 4, 1 << 20),
            ("services", self.services, 1 << 4, 1 << 20),
        ] {
            if !value.is_power_of_two() || value < low || value > high {
                return Err(format!("{name}: {value} must be a power of two from {low} to {high}"));
            }
        }
        match MapId::ALL
            .iter()
            .find(|m| m.kind() == MapKind::Array && m.value_size(self) > MAX_VALUE)
        {
            Some(m) => Err(format!(
                "map {} would need a value of {} bytes; at most {MAX_VALUE} are possible",
                m.name(),
                m.value_size(self)
            )),
            None => Ok(()),
        }
    }
}

/// The largest value that a map may have: the kernel's limit to the variable part of an address
/// (BPF_MAX_VAR_OFF).
pub const MAX_VALUE: u64 = 1 << 29;

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// The maps. The names are also those of the pins.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum MapId { $($(#[$doc])* $name),* }
        impl MapId {
            /// All maps, in a fixed order.
            pub const ALL: &'static [MapId] = &[$(MapId::$name),*];
            /// The name of the map and of its pin: at most 15 letters, digits and `_`.
            pub fn name(self) -> &'static str {
                match self { $(MapId::$name => $text),* }
            }
        }
    };
}

maps! {
    /// u16 `[65536]`: ifindex >> 8 -> block. An ifindex of 2^24 and more has no endpoint.
    InterfaceDir = "interface_dir",
    /// u16 `[interface_blocks][256]`: ifindex & 255 -> endpoint. Block 0 stays zero.
    InterfaceBlock = "interface_block",
    /// [`endpoint`] records.
    Endpoint = "endpoint",
    /// Hash, key [`own_more_key`] -> u32 1: own addresses beyond the first of each family.
    OwnMore = "own_more",
    /// u32 `[remote_v4_blocks][256]`, a [`trie`] over 16, 8, 8 bits.
    RemoteV4 = "remote_v4",
    /// [`exact`] buckets: /128 prefixes.
    RemoteV6Exact = "remote_v6_exact",
    /// u32 `[remote_v6_leaves][256]`: values of neighbouring /128s, see [`exact`].
    RemoteV6Leaf = "remote_v6_leaf",
    /// u32 `[remote_v6_blocks][256]`, a [`trie`] over 16 and then 14 times 8 bits: shorter
    /// prefixes, and addresses whose buckets in `remote_v6_exact` are full. Asked after that found
    /// nothing.
    RemoteV6 = "remote_v6",
    /// u16 `[8][65536]`: [`config::asked`], port -> port class. Rows beyond [`config::asked::ROWS`]
    /// stay zero.
    Port = "port",
    /// u64 `[6][port_words]`: the port classes that occur in each row of `port` but that of other
    /// protocols (class 0 too, where a port has none). While a row of `port` changes, old and new
    /// ones. Read for later fragments only.
    PortClasses = "port_classes",
    /// u16 `[sets][classes_v4]` -> row; [`ROW_DENY`], [`ROW_PERMIT`].
    RowsV4 = "rows_v4",
    /// u16 `[sets][classes_v6]` -> row.
    RowsV6 = "rows_v6",
    /// u64 `[rows][port_words][2]`: bit pc % 64 of the first word of pair pc / 64 permits, the same
    /// bit of the second says that the shadow verdict is the other one. Row 0 stays zero.
    Mask = "mask",
    /// Hash, key [`compared_key`] -> u64: packets that were compared and differ. When it is full,
    /// packets that meet further entries are not counted.
    Compared = "compared",
    /// Hash, key [`service_key`] -> u32 1: addresses and ports of Services. Asked where the tables
    /// deny a packet of a pod.
    Service = "service",
    /// u64 `[1028]`: bits of UDP ports as in the packet (a little-endian number), then of IP
    /// protocols: what leads into a tunnel.
    Tunnel = "tunnel",
    /// [`on_link`] places: IPv6 prefixes of the pods' own link.
    OnLink = "on_link",
    /// u64 `[ENDPOINTS][4]`: where each endpoint's connections stand, see [`state`].
    State = "state",
    /// Map of maps `[SLOTS]`: chunks of [`state`] buckets for IPv4.
    StateV4 = "state_v4",
    /// Map of maps `[SLOTS]`: chunks of [`state`] buckets for IPv6.
    StateV6 = "state_v6",
    /// Ring buffer: wakes whoever enlarges tables of connections. What is in it means nothing.
    Wanted = "wanted",
    /// LRU hash of the kernel, see [`frag`]; only programs write it.
    Frag = "frag",
    /// u64 `[endpoints][2][16]`: packets by endpoint, direction (0 to_pod, 1 from_pod, after
    /// translation too) and the slot of what is noted of them (`Noted`): first the drops by
    /// `DropReason`.
    Counter = "counter",
    /// u64 `[endpoints][2][16]`: how many more records there may be, by the same; none where the
    /// low 32 bits are no number above 0.
    Budget = "budget",
    /// Ring buffer of [`record`]s.
    Records = "records",
    /// u64 `[endpoints][512]`: datagrams that need no entry, see [`seen`].
    Seen = "seen",
    /// u64 `[4][65536]`: kind (`IdKind`, which begin at 1), id -> fingerprint, 0: none. No packet
    /// reads it.
    Directory = "directory",
    /// Constants of the programs, as [`config::image`] makes them.
    Config = "config",
    /// u64 words: [`MAGIC`], [`LAYOUT_VERSION`], seed, hz, then the fields of [`Capacities`] in
    /// order. No packet reads it.
    Header = "header",
}

/// Which type a map has in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// An array of one element, which user space can map.
    Array,
    /// A hash table, which user space changes by system calls.
    Hash,
    /// A hash table that replaces what was used least recently when it is full.
    LruHash,
    /// An array whose elements are maps.
    ArrayOfMaps,
    /// A ring buffer, by which programs wake user space.
    RingBuffer,
}

impl MapId {
    /// The map's type in the kernel.
    pub fn kind(self) -> MapKind {
        match self {
            MapId::OwnMore | MapId::Service | MapId::Compared => MapKind::Hash,
            MapId::Frag => MapKind::LruHash,
            MapId::StateV4 | MapId::StateV6 => MapKind::ArrayOfMaps,
            MapId::Wanted | MapId::Records => MapKind::RingBuffer,
            _ => MapKind::Array,
        }
    }

    /// The size of a key in bytes.
    pub fn key_size(self) -> u32 {
        match self {
            MapId::OwnMore => OWN_MORE_KEY as u32,
            MapId::Service => SERVICE_KEY as u32,
            MapId::Frag => frag::KEY as u32,
            MapId::Wanted | MapId::Records => 0,
            _ => 4,
        }
    }

    /// The size of a value in bytes. The kernel rounds an array up to whole pages.
    pub fn value_size(self, c: &Capacities) -> u64 {
        match self {
            MapId::InterfaceDir => 65536 * 2,
            MapId::InterfaceBlock => u64::from(c.interface_blocks) * 256 * 2,
            MapId::Endpoint => u64::from(c.endpoints) * endpoint::SIZE as u64,
            MapId::OwnMore | MapId::Service => 4,
            MapId::Tunnel => TUNNEL_WORDS as u64 * 8,
            MapId::OnLink => (on_link::PLACES * on_link::SIZE) as u64,
            MapId::RemoteV4 => u64::from(c.remote_v4_blocks) * 256 * 4,
            MapId::RemoteV6Exact => u64::from(c.remote_v6_buckets) * exact::SIZE as u64,
            MapId::RemoteV6Leaf => u64::from(c.remote_v6_leaves) * 256 * 4,
            MapId::RemoteV6 => u64::from(c.remote_v6_blocks) * 256 * 4,
            MapId::Port => 8 * 65536 * 2,
            MapId::PortClasses => config::asked::ROWS as u64 * u64::from(c.port_words) * 8,
            MapId::RowsV4 => u64::from(c.sets) * u64::from(c.classes_v4) * 2,
            MapId::RowsV6 => u64::from(c.sets) * u64::from(c.classes_v6) * 2,
            MapId::Mask => u64::from(c.rows) * u64::from(c.port_words) * 16,
            MapId::Compared => 8,
            MapId::State => u64::from(state::ENDPOINTS) * state::RECORD as u64,
            MapId::StateV4 | MapId::StateV6 => 4,
            MapId::Wanted | MapId::Records => 0,
            MapId::Frag => frag::VALUE as u64,
            MapId::Counter | MapId::Budget => u64::from(c.endpoints) * 2 * Noted::SLOTS as u64 * 8,
            MapId::Seen => u64::from(c.endpoints) * seen::CELLS as u64 * 8,
            MapId::Directory => 4 * 65536 * 8,
            MapId::Config => config::SIZE as u64,
            MapId::Header => 64 * 8,
        }
    }

    /// How many entries the map can hold: 1 for arrays, and for the ring buffer its size in bytes.
    pub fn max_entries(self, c: &Capacities) -> u32 {
        match self {
            MapId::OwnMore => c.more_addresses,
            MapId::Service => c.services,
            MapId::Frag => c.fragments,
            MapId::Compared => COMPARED,
            MapId::StateV4 | MapId::StateV6 => state::SLOTS,
            MapId::Wanted => 4096,
            MapId::Records => 1 << 21,
            _ => 1,
        }
    }
}

/// How many entries of `tried` packets can be counted for.
pub const COMPARED: u32 = 1 << 12;

/// The key of a row and port class in the map `compared`.
pub fn compared_key(row: RowId, port_class: PortClassId) -> u32 {
    u32::from(row.get()) << 16 | u32::from(port_class.get())
}

/// How many 64-bit words the tunnel map has.
pub const TUNNEL_WORDS: usize = (65536 + 256) / 64;
/// The number of the bit that the tunnel map has for a UDP port.
pub fn tunnel_port(port: u16) -> usize {
    u16::from_le_bytes(port.to_be_bytes()).into()
}
/// The number of the bit that the tunnel map has for an IP protocol.
pub fn tunnel_protocol(protocol: u8) -> usize {
    65536 + usize::from(protocol)
}

/// A place of the on-link map. It is written only while it does not count.
pub mod on_link {
    /// How many places there are.
    pub const PLACES: usize = 16;
    /// The size of a place in bytes.
    pub const SIZE: usize = 64;
    /// Two u64: the prefix as in the packet, with its host bits zero.
    pub const PREFIX: usize = 0;
    /// Two u64: the mask as in the packet.
    pub const MASK: usize = 16;
    /// u64: the prefix's length + 1; 0 where the place does not count.
    pub const LENGTH: usize = 32;
}

/// The number of the row that permits nothing.
pub const ROW_DENY: u16 = 0;
/// The number that stands for a row that permits every protocol and port.
pub const ROW_PERMIT: u16 = 0xffff;

/// A record of the ring buffer `records` (`netpolc_target::Record`).
pub mod record {
    use netpolc_target::record::SNAPSHOT;

    /// The size of a record in bytes.
    pub const SIZE: usize = FRAME + SNAPSHOT;
    /// u64: the kernel's monotonic clock, in nanoseconds.
    pub const TIME: usize = 0;
    /// u64: the endpoint's word, as it was used.
    pub const WORD: usize = 8;
    /// u32: the number of the counter that counts such packets.
    pub const COUNTER: usize = 16;
    /// u32: class | incarnation << 16 of the remote. It means something only where the tables were
    /// asked.
    pub const CLASS: usize = 20;
    /// u32: the word `config::EPOCH`.
    pub const EPOCH: usize = 24;
    /// u32: the frame's length.
    pub const LENGTH: usize = 28;
    /// u32: how many bytes of it follow.
    pub const SNAPPED: usize = 32;
    /// u32: the hook (0 to_pod, 1 from_pod, 2 translated).
    pub const HOOK: usize = 36;
    /// Where those bytes begin.
    pub const FRAME: usize = 40;
}

/// The map of datagrams that need no entry: whose tuples came lately. What shares a cell takes it
/// from the other.
pub mod seen {
    /// The cells of an endpoint. The tuple's hash says which one is its own.
    pub const CELLS: usize = 1 << CELLS_LOG;
    /// The same, as a power of two.
    pub const CELLS_LOG: u32 = 9;
    /// A cell has the hash above these bits, and in them when the last one came: the lower bits of
    /// `config::SECONDS`.
    pub const TIME_BITS: u32 = 16;
}

/// A record of the endpoint map.
pub mod endpoint {
    /// The size of a record in bytes.
    pub const SIZE: usize = 64;
    /// u64: ingress set | egress set << 16 | flags << 32 (`Word`'s) | born set << 40. The one word
    /// that an update switches.
    pub const WORD: usize = 0;
    /// The first own IPv4 address as in the packet; 0.0.0.0 where there is none.
    pub const OWN_V4: usize = 8;
    /// u32: the bits below.
    pub const OWN_FLAGS: usize = 12;
    /// The first own IPv6 address as in the packet. It counts only with [`HAS_V6`], and may be
    /// changed only while that has been unset for a grace period. Meanwhile an address belongs into
    /// `own_more`, with [`HAS_MORE`].
    pub const OWN_V6: usize = 16;
    /// A bit of [`OWN_FLAGS`]: [`OWN_V6`] counts.
    pub const HAS_V6: u32 = 1;
    /// A bit of [`OWN_FLAGS`]: `own_more` has further addresses of this endpoint.
    pub const HAS_MORE: u32 = 2;
    /// u64: the hardware address as in a frame, in the low six bytes; 0 where it is unknown.
    pub const OWN_MAC: usize = 32;
    /// The bit of the word at which the flags begin.
    pub const FLAGS_SHIFT: u32 = 32;
    /// The bit of the word at which the born set begins. The bits above it are 0.
    pub const BORN_SHIFT: u32 = 40;
}

/// The size of a key of `own_more` in bytes.
pub const OWN_MORE_KEY: usize = 20;
/// Key of `own_more`: endpoint u16, family u8 (4, 6), zero, address as in the packet (IPv4 in the
/// first 4 bytes, rest zero).
pub fn own_more_key(endpoint: EndpointId, address: IpAddr) -> [u8; OWN_MORE_KEY] {
    let mut key = [0; OWN_MORE_KEY];
    key[..2].copy_from_slice(&endpoint.get().to_le_bytes());
    match address {
        IpAddr::V4(a) => {
            key[2] = 4;
            key[4..8].copy_from_slice(&a.octets());
        }
        IpAddr::V6(a) => {
            key[2] = 6;
            key[4..].copy_from_slice(&a.octets());
        }
    }
    key
}

/// The size of a key of `service` in bytes.
pub const SERVICE_KEY: usize = 20;
/// Key of `service`: address as in the packet (IPv4 in the first 4 bytes, rest zero), port as in
/// the packet, protocol u8, family u8 (4, 6).
pub fn service_key(address: IpAddr, protocol: u8, port: u16) -> [u8; SERVICE_KEY] {
    let mut key = [0; SERVICE_KEY];
    match address {
        IpAddr::V4(a) => key[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => key[..16].copy_from_slice(&a.octets()),
    }
    key[16..18].copy_from_slice(&port.to_be_bytes());
    key[18] = protocol;
    key[19] = if address.is_ipv4() { 4 } else { 6 };
    key
}

/// The tries of `remote_v4` and `remote_v6`. The first 256 blocks are the root, indexed by the
/// first 16 bits of the address; each further step takes 8 bits. A slot is either a pointer
/// ([`CHILD`](trie::CHILD) | block) or a value. Prefixes are pushed down: the slot where a walk
/// ends holds the longest prefix's class. Zero is class 0. A new block is filled before its pointer
/// is stored; a block is reused only after a grace period.
///
/// Value: class | incarnation << 16. An incarnation is possible only at the last step (/32, /128),
/// where a slot is never a pointer; a shorter slot has only the class, so that bit 31 is free.
pub mod trie {
    /// The bit of a slot that says that it points to a block.
    pub const CHILD: u32 = 1 << 31;
    /// How many steps `remote_v4` has after the root.
    pub const STEPS_V4: usize = 2;
    /// How many steps `remote_v6` has after the root.
    pub const STEPS_V6: usize = 14;
}

/// `remote_v6_exact` and `remote_v6_leaf`: the /128s. Addresses that differ in the last byte only
/// are a *group*. Up to [`SINGLES`](exact::SINGLES) addresses of a group stand alone in the cuckoo
/// table; of a group that once had more, all stand in one block of `remote_v6_leaf` by their last
/// byte, and the cuckoo table has one entry for the block. So the pods of a node, whose addresses
/// are neighbours, share cache lines.
///
/// The cuckoo table: each entry stands in one of the two buckets of its group ([`exact_buckets`]),
/// 64 bytes: key 0, 1, 2 (16 bytes each, as in the packet; of a block with last byte 0) at 0, 16,
/// 32, value 0, 1, 2 (u32) at 48, 52, 56, zero at 60.
///
/// Value of an address (here or in a block): (class + 1) | incarnation << 16, class below 32767; 0:
/// none. Value of a block: [`BLOCK`](exact::BLOCK) | its number << 16. The key of an entry with
/// value 0 means nothing. The writer (there is one) puts an entry by writing the key into an empty
/// place and then storing the value, changes it by storing the value, and removes it by storing 0.
/// A place or a block that was given up may be used again only after a grace period. A move, to
/// another place or into a new block, is a put at the new place, a grace period, and a removal at
/// the old one.
pub mod exact {
    /// The size of a bucket in bytes.
    pub const SIZE: usize = 64;
    /// How many places a bucket has.
    pub const WAYS: usize = 3;
    /// Where the values begin in a bucket.
    pub const VALUES: usize = 48;
    /// The bit of a value that says that the entry is that of a block.
    pub const BLOCK: u32 = 1 << 15;
    /// How many addresses of one group stand alone at most.
    pub const SINGLES: usize = 2;
    /// IPv6 classes are below this, so that class + 1 leaves bit 15 free.
    pub const CLASSES: u32 = 0x7fff;
}

/// The records of fragmented packets.
pub mod frag {
    /// Bytes of a key: endpoint u16, hook u8 (0 to_pod, 1 from_pod, 2 translated), protocol u8, id
    /// u32 (as in the packet; IPv4: the first 2 bytes, rest zero), remote (16), local (16), as in
    /// the packet, IPv4 in the first 4 bytes, rest zero.
    pub const KEY: usize = 40;
    /// Bytes of a value: deadline in ticks u32 (live while later than now), verdict u32 (0 drop, 1
    /// permit, 2 defer).
    pub const VALUE: usize = 8;
}

/// The two buckets of an address's group in `remote_v6_exact`, which may be the same one. The seed
/// is that of the installation ([`Header`](MapId::Header)): whoever chooses addresses must not know
/// which of them meet in one bucket.
pub fn exact_buckets(address: Ipv6Addr, buckets: u32, seed: u64) -> [u32; 2] {
    let o = address.octets();
    let high = u64::from_le_bytes(o[..8].try_into().expect("8 bytes"));
    let low = u64::from_le_bytes(o[8..].try_into().expect("8 bytes"));
    let h = high ^ seed;
    let h = (h ^ h >> 32).wrapping_mul(K1) ^ low << 8;
    let h = mix(h ^ h >> 32, exact_multiplier(seed));
    [h as u32 & (buckets - 1), (h >> 32) as u32 & (buckets - 1)]
}

/// The odd multiplier of [`exact_buckets`]. It is secret: for a known one, somebody could compute
/// addresses whose difference it maps to nothing.
pub fn exact_multiplier(seed: u64) -> u64 {
    mix(mix(seed ^ K2, K1), K2) | 1
}
