//! What the pool's lock protects: which chunks, slots and places are taken, what the budget of
//! connections leaves to tables that grow, and which tables are being moved.
//!
//! Nothing here asks the kernel. Not here: making, installing and removing chunks, and the
//! endpoints' records (`pool`).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    path::PathBuf,
};

use netpolc_table::{EndpointId, schema::Family};
use netpolc_target::Error;

use super::{chunk::Chunk, index, map_of};
use crate::{
    config::Connections,
    layout::state::{CHUNK, CHUNK_LOG, Place, SLOTS},
    sys::refused,
};

/// log2 of the buckets below which a table grows to four times its size, so that it keeps ahead of
/// pods that open connections quickly. Larger tables double.
const QUICK_GROWTH_BELOW: u8 = 13;

/// [`Chunk::log`] of a chunk in which no table has stood yet, so that it is open for any size.
pub(super) const UNUSED: u8 = u8::MAX;

/// Identifies one move of a table to another size. No two moves have the same ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What the pool's lock protects.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// By family, the chunks in use, with their slots.
    pub(super) chunks: [BTreeMap<u16, Chunk>; 2],
    /// By family, the slot of a chunk that programs find but no table stands in. A table that is
    /// wanted at once goes there, without waiting for the kernel to install a chunk.
    pub(super) spare: [Option<u16>; 2],
    /// Chunks that no record names any more, to be removed when no packet is under way in them.
    pub(super) garbage: Vec<(Family, u16)>,
    /// The moves under way, by endpoint and index of the family.
    pub(super) moving: BTreeMap<(EndpointId, usize), Ticket>,
    /// How many tickets have been given out.
    tickets: u64,
    /// Where chunks are pinned; None for a private instance.
    pub(super) pins: Option<PathBuf>,
    pub(super) sizes: Connections,
}

impl Inner {
    /// Turns chunks into garbage whose installation failed: programs may find them or not.
    pub(super) fn discard(&mut self, family: Family, slots: &[u16]) {
        for slot in slots {
            if self.chunks[index(family)].remove(slot).is_some() {
                self.garbage.push((family, *slot));
            }
        }
    }

    pub(super) fn free_places(&self, family: Family, log: u8) -> usize {
        let chunks =
            self.chunks[index(family)].values().filter(|chunk| chunk.log == log && log < CHUNK_LOG);
        chunks.map(Chunk::free).sum()
    }

    /// Finds `count` free slots that follow each other, and returns the first. Slot 0 is never
    /// used, since a place that begins with bucket 0 means none.
    pub(super) fn free_slots(&self, family: Family, count: u16) -> Result<u16, Error> {
        let chunks = &self.chunks[index(family)];
        let is_taken =
            |slot: u16| chunks.contains_key(&slot) || self.garbage.contains(&(family, slot));
        let mut first = 1;
        for slot in 1..SLOTS as u16 {
            if is_taken(slot) {
                first = slot + 1;
            } else if slot + 1 - first == count {
                return Ok(first);
            }
        }
        let name = map_of(family).name();
        let call = format!("map {name}: find {count} free slots side by side among its {SLOTS}");
        Err(refused(call, io::ErrorKind::StorageFull.into()))
    }

    /// Takes a free place in a chunk that tables of this size share. Programs must find the chunk
    /// already, or it must be one of `made`, which the caller will install.
    pub(super) fn take_place(&mut self, family: Family, log: u8, made: &[u16]) -> Option<Place> {
        let shared = self.chunks[index(family)]
            .iter_mut()
            .filter(|(_, chunk)| chunk.log == log && log < CHUNK_LOG);
        let mut usable = shared.filter(|(slot, chunk)| chunk.installed || made.contains(slot));
        let (slot, taken, free) = usable.find_map(|(slot, chunk)| {
            let free = chunk.taken.iter().position(|taken| !taken)?;
            Some((*slot, &mut chunk.taken, free))
        })?;
        taken[free] = true;
        Some(Place { first: u32::from(slot) * CHUNK + ((free as u32) << log), log })
    }

    /// Takes a place in the spare chunk. Its other places are for tables of the same size from now
    /// on.
    pub(super) fn take_spare(&mut self, family: Family, log: u8) -> Option<Place> {
        let slot = self.spare[index(family)].filter(|_| log <= CHUNK_LOG)?;
        let chunk = self.chunks[index(family)].get_mut(&slot).filter(|chunk| chunk.installed)?;
        *chunk = Chunk { installed: true, ..Chunk::new_of(chunk.map.clone(), log) };
        chunk.taken[0] = true;
        self.spare[index(family)] = None;
        Some(Place { first: u32::from(slot) * CHUNK, log })
    }

    /// How many buckets all tables have that are larger than first ones, which is what the budget
    /// limits.
    fn grown(&self) -> u64 {
        let is_larger = |chunk: &&Chunk| chunk.log > self.sizes.first_log && chunk.log != UNUSED;
        let larger = self.chunks.iter().flat_map(BTreeMap::values).filter(is_larger);
        let buckets = |chunk: &Chunk| {
            (chunk.taken.len() - chunk.free()) as u64 * u64::from(CHUNK.min(1 << chunk.log))
        };
        larger.map(buckets).sum()
    }

    /// The sizes and the budget that are in force.
    pub fn sizes(&self) -> &Connections {
        &self.sizes
    }

    /// log2 of the buckets to which a table of 2^`log` may grow to hold `connections`. None where
    /// the budget or the limit of a table does not allow any growth. A table may take half of what
    /// is left of the budget, so that no pod takes all of it; `promised` buckets are about to be
    /// taken already.
    pub fn larger(&self, log: u8, connections: u32, promised: u64) -> Option<u8> {
        let fits = |log: u8| self.sizes.holds(log) >= connections;
        let step = if log < QUICK_GROWTH_BELOW { 2 } else { 1 };
        let most = self.sizes.most_log;
        let wanted = (log + step..=most).find(|log| fits(*log)).unwrap_or(most);
        // The largest size that still leaves as much again.
        let left = self.sizes.budget_buckets().saturating_sub(self.grown() + promised);
        (log + 1..=wanted).rev().find(|log| 2 << *log <= left)
    }

    /// Marks a table as being moved; None where it is being moved already.
    pub fn begin(&mut self, endpoint: EndpointId, family: Family) -> Option<Ticket> {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        match self.moving.entry((endpoint, index(family))) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => Some(*free.insert(ticket)),
        }
    }

    /// Whether the holder of this ticket is still the one who moves the table. Not so where the
    /// endpoint has gone in the meantime, even if it has come back.
    pub fn holds(&self, endpoint: EndpointId, family: Family, ticket: Ticket) -> bool {
        self.moving.get(&(endpoint, index(family))) == Some(&ticket)
    }

    /// Ends the move of this ticket, unless it has ended already.
    pub fn end(&mut self, endpoint: EndpointId, family: Family, ticket: Ticket) {
        if self.holds(endpoint, family, ticket) {
            self.moving.remove(&(endpoint, index(family)));
        }
    }
}
