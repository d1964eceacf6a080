//! What user space remembers beside the tables so that it can decode exactly what was written.
//!
//! A trie flattens nested prefixes, and an array filled with a default forgets which cells were
//! written. These small arrays keep the difference. They are memory-mapped and pinned like the
//! tables, and no packet reads them. The tables stay the truth: [`crate::tables`] checks them
//! against the ledger whenever it decodes.
//!
//! Not here: in which order the ledger and a table are written, so that a process may be killed
//! between any two stores. Each table's module says it.

use crate::layout::{Capacities, config};

/// The arrays of the ledger, each of which is a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LedgerId {
    /// One bit for each slot of `remote_v4`: the slot holds a /32 of its own.
    HostV4,
    /// [`PREFIX_WORDS`] u64 for each prefix of `remote_v4` shorter than /32.
    PrefixV4,
    /// [`PREFIX_WORDS`] u64 for each prefix of `remote_v6`, and for each /128 that found no place
    /// in its buckets.
    PrefixV6,
    /// u32 `[sets][2]` (IPv4, IPv6): [`PRESENT`] | row of `base`.
    Base,
    /// One bit for each cell of `rows_v4`: the cell has an entry in `row`.
    CellV4,
    /// One bit for each cell of `rows_v6`: the cell has an entry in `row`.
    CellV6,
    /// u8 `[6][65536]`: flags ([`COVERED`], [`FIRST`]) for each slot of `port`.
    Port,
    /// u8 for each endpoint: 1 where `endpoint` has an entry.
    Endpoint,
}

/// Words of a prefix record: address high, low (left-aligned), then 0 (free) or
/// [`PRESENT`] | class | length << 32 | incarnation << [`INCARNATION_SHIFT`].
pub const PREFIX_WORDS: usize = 3;
/// Where the incarnation of a whole address stands in a prefix record.
pub const INCARNATION_SHIFT: u32 = 40;
/// Flag of a word: the entry exists, so that its zeros are values.
pub const PRESENT: u32 = 1 << 16;
/// Flag of a port: some interval covers it.
pub const COVERED: u8 = 1;
/// Flag of a port: an interval begins with it.
pub const FIRST: u8 = 2;

impl LedgerId {
    /// All arrays, in the order in which they are made.
    pub const ALL: [LedgerId; 8] = [
        LedgerId::HostV4,
        LedgerId::PrefixV4,
        LedgerId::PrefixV6,
        LedgerId::Base,
        LedgerId::CellV4,
        LedgerId::CellV6,
        LedgerId::Port,
        LedgerId::Endpoint,
    ];

    /// The name of the map and of its pin: at most 15 letters, the kernel's limit.
    pub fn name(self) -> &'static str {
        match self {
            LedgerId::HostV4 => "ledger_host_v4",
            LedgerId::PrefixV4 => "ledger_pfx_v4",
            LedgerId::PrefixV6 => "ledger_pfx_v6",
            LedgerId::Base => "ledger_base",
            LedgerId::CellV4 => "ledger_cell_v4",
            LedgerId::CellV6 => "ledger_cell_v6",
            LedgerId::Port => "ledger_port",
            LedgerId::Endpoint => "ledger_endpoint",
        }
    }

    /// The array's size in bytes for these capacities.
    pub fn size(self, c: &Capacities) -> u64 {
        let prefixes = |blocks: u32| u64::from(blocks) * (PREFIX_WORDS * 8) as u64;
        let cells = |classes: u32| (u64::from(c.sets) * u64::from(classes) / 8).max(8);
        match self {
            LedgerId::HostV4 => u64::from(c.remote_v4_blocks) * 256 / 8,
            LedgerId::PrefixV4 => prefixes(c.remote_v4_blocks),
            LedgerId::PrefixV6 => prefixes(c.remote_v6_blocks),
            LedgerId::Base => u64::from(c.sets) * 2 * 4,
            LedgerId::CellV4 => cells(c.classes_v4),
            LedgerId::CellV6 => cells(c.classes_v6),
            LedgerId::Port => u64::from(config::asked::ROWS) * 65536,
            LedgerId::Endpoint => u64::from(c.endpoints),
        }
    }
}
