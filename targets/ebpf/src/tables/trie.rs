//! The tries of `remote_v4` and `remote_v6`: prefixes pushed down into blocks of 256 slots.
//!
//! User space keeps a shadow of all prefixes and computes what a slot must hold. One write may put and remove many
//! prefixes: the shadow changes as a whole, then each slot concerned is stored once with its final value. A
//! packet reads one value slot, so it sees the table before the write or after it. New blocks repeat the value of
//! the slot they replace before their pointer is stored; blocks that are cut off wait for a grace period.
//!
//! Ledger: prefixes are recorded longest first before the slots change and struck out shortest first afterwards, so
//! the recorded prefixes describe a valid table wherever a process is killed; [`Trie::open`] makes the slots agree
//! with them again. A /32 is the bit beside its slot; there the slot itself is the record of its value.
//!
//! A /128 is here only where [`super::exact`] found no place for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use netpolc_table::{TableId, schema::Family};
use netpolc_target::Error;

use super::{Access, Grace, Room, Stop, set_bit};
use crate::{
    layout::{MapId, trie},
    ledger::{INCARNATION_SHIFT, LedgerId, PREFIX_WORDS, PRESENT},
    maps::Maps,
};

/// Blocks of the root: the first 16 bits of an address.
const ROOT: u32 = 256;

/// A prefix: address with host bits zero, left-aligned in 128 bits, and length.
pub type Prefix = (u128, u8);

/// One family's trie with its shadow.
#[derive(Debug)]
pub struct Trie {
    family: Family,
    /// By length: left-aligned address -> value of a slot.
    prefixes: Vec<BTreeMap<u128, u32>>,
    /// Lengths in use, ascending.
    lengths: Vec<u8>,
    /// For each block: the prefixes that need it.
    uses: Vec<u32>,
    free: Vec<u32>,
    quarantine: Vec<u32>,
    records: HashMap<Prefix, u32>,
    free_records: Vec<u32>,
}

/// The prefix's network mask, left-aligned.
pub fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length)) }
}

/// Bits that a slot of `level` stands for.
fn bits(level: usize) -> u8 {
    (16 + 8 * level) as u8
}

/// The level whose slots a prefix of this length fills.
fn level(length: u8) -> usize {
    usize::from(length.saturating_sub(16)).div_ceil(8)
}

/// A slot's place inside its block (or the root).
fn place(address: u128, level: usize) -> usize {
    let digits = (address >> (128 - u32::from(bits(level)))) as usize;
    if level == 0 { digits & 0xffff } else { digits & 0xff }
}

fn at(block: u32, level: usize, address: u128) -> usize {
    if level == 0 { place(address, 0) } else { block as usize * 256 + place(address, level) }
}

impl Trie {
    fn map(&self) -> MapId {
        if self.family == Family::V4 { MapId::RemoteV4 } else { MapId::RemoteV6 }
    }
    fn table(&self) -> TableId {
        TableId::remote(self.family)
    }
    fn steps(&self) -> usize {
        if self.family == Family::V4 { trie::STEPS_V4 } else { trie::STEPS_V6 }
    }
    fn slots<'m>(&self, maps: &'m Maps) -> &'m [AtomicU32] {
        maps.words(self.map())
    }
    fn ledger<'m>(&self, maps: &'m Maps) -> &'m [AtomicU64] {
        maps.ledger(if self.family == Family::V4 { LedgerId::PrefixV4 } else { LedgerId::PrefixV6 })
    }
    fn is_host(&self, length: u8) -> bool {
        self.family == Family::V4 && length == 32
    }
    fn hosts<'m>(&self, maps: &'m Maps) -> &'m [AtomicU64] {
        maps.ledger(LedgerId::HostV4)
    }

    /// Reads the ledger and, as a writer, repairs the slots after it, see the module's header.
    pub fn open(family: Family, maps: &Maps, access: Access) -> Result<Self, Error> {
        let mut this = Self {
            family,
            prefixes: vec![BTreeMap::new(); 129],
            lengths: vec![],
            uses: vec![],
            free: vec![],
            quarantine: vec![],
            records: HashMap::new(),
            free_records: vec![],
        };
        let blocks = this.slots(maps).len() / 256;
        this.uses = vec![0; blocks];
        for (i, record) in this.ledger(maps).chunks_exact(PREFIX_WORDS).enumerate().rev() {
            let [high, low, word] = [0, 1, 2].map(|w| record[w].load(Acquire));
            if word & u64::from(PRESENT) == 0 {
                this.free_records.push(i as u32);
                continue;
            }
            let (address, length) = (u128::from(high) << 64 | u128::from(low), (word >> 32) as u8);
            if this.is_host(length) || length > family.bits() || address & !mask(length) != 0 {
                return Err(this.corrupt(format!("ledger record {i}: not a prefix")));
            }
            this.records.insert((address, length), i as u32);
            let incarnation = (word >> INCARNATION_SHIFT) as u32 & 0xffff;
            this.learn((address, length), Some(word as u32 & 0xffff | incarnation << 16));
        }
        let mut seen = vec![false; blocks];
        this.discover(maps, 0, 0, 0, &mut seen)?;
        this.free = (ROOT..blocks as u32).rev().filter(|&b| !seen[b as usize]).collect();
        if access == Access::Look {
            seen.iter().zip(&mut this.uses).for_each(|(&seen, uses)| *uses = u32::from(seen));
            return Ok(this);
        }
        for (address, length) in this.all() {
            this.build_path(maps, address, length)?;
        }
        this.prune(maps, 0, 0, 0);
        this.paint(maps, 0, 0, 0, 0, 65536, 0);
        Ok(this)
    }

    fn corrupt(&self, what: String) -> Error {
        Error::Installed(format!("table {}: {what}", self.table().spec().name))
    }

    /// Notes the blocks that are reached, and /32 prefixes by their bits.
    fn discover(&mut self, maps: &Maps, level: usize, block: u32, base: u128, seen: &mut [bool]) -> Result<(), Error> {
        let slots = self.slots(maps);
        let count = if level == 0 { 65536 } else { 256 };
        for i in 0..count {
            let address = base | (i as u128) << (128 - u32::from(bits(level)));
            let index = at(block, level, address);
            let slot = slots[index].load(Acquire);
            if level == self.steps() {
                if self.family == Family::V4 && super::bit(self.hosts(maps), index) {
                    self.learn((address, 32), Some(slot));
                }
            } else if slot & trie::CHILD != 0 {
                let child = slot & !trie::CHILD;
                if child < ROOT || child as usize >= seen.len() || seen[child as usize] {
                    return Err(self.corrupt(format!("slot {index} points to block {child}")));
                }
                seen[child as usize] = true;
                self.discover(maps, level + 1, child, address, seen)?;
            }
        }
        Ok(())
    }

    /// Cuts off linked blocks that no prefix needs (a write was killed between link and record).
    fn prune(&mut self, maps: &Maps, level: usize, block: u32, base: u128) {
        let slots = self.slots(maps);
        if level == self.steps() {
            return;
        }
        for i in 0..if level == 0 { 65536 } else { 256 } {
            let address = base | (i as u128) << (128 - u32::from(bits(level)));
            let index = at(block, level, address);
            let slot = slots[index].load(Relaxed);
            if slot & trie::CHILD == 0 {
                continue;
            }
            let child = slot & !trie::CHILD;
            self.prune(maps, level + 1, child, address);
            if self.uses[child as usize] == 0 {
                slots[index].store(self.lookup(address, bits(level)), Release);
                self.quarantine.push(child);
            }
        }
    }

    /// All prefixes, shortest first.
    fn all(&self) -> Vec<Prefix> {
        let lists = self.lengths.iter().map(|&l| self.prefixes[usize::from(l)].keys().map(move |&a| (a, l)));
        lists.flatten().collect()
    }

    /// Changes the shadow.
    fn learn(&mut self, (address, length): Prefix, value: Option<u32>) -> Option<u32> {
        let list = &mut self.prefixes[usize::from(length)];
        let before = match value {
            Some(value) => list.insert(address, value),
            None => list.remove(&address),
        };
        match (self.lengths.binary_search(&length), list.is_empty()) {
            (Ok(i), true) => drop(self.lengths.remove(i)),
            (Err(i), false) => self.lengths.insert(i, length),
            _ => {}
        }
        before
    }

    /// The value of the longest prefix of at most `limit` bits.
    fn lookup(&self, address: u128, limit: u8) -> u32 {
        let end = self.lengths.partition_point(|&l| l <= limit);
        let mut lengths = self.lengths[..end].iter().rev();
        lengths.find_map(|&l| self.prefixes[usize::from(l)].get(&(address & mask(l))).copied()).unwrap_or(0)
    }

    /// The value under exactly this prefix.
    pub fn get(&self, (address, length): Prefix) -> Option<u32> {
        self.prefixes[usize::from(length)].get(&address).copied()
    }

    /// The block of `level` on the way to `address`, where it exists.
    fn block(&self, maps: &Maps, address: u128, level: usize) -> Option<u32> {
        let slots = self.slots(maps);
        let mut block = 0;
        for l in 0..level {
            let slot = slots[at(block, l, address)].load(Relaxed);
            if slot & trie::CHILD == 0 {
                return None;
            }
            block = slot & !trie::CHILD;
        }
        Some(block)
    }

    /// Makes the blocks on the way to a prefix, and counts it in them.
    fn build_path(&mut self, maps: &Maps, address: u128, length: u8) -> Result<(), Error> {
        let slots = self.slots(maps);
        let mut block = 0;
        for l in 0..level(length) {
            let parent = &slots[at(block, l, address)];
            let value = parent.load(Relaxed);
            if value & trie::CHILD != 0 {
                block = value & !trie::CHILD;
            } else {
                block = self.free.pop().ok_or_else(|| self.full(1))?;
                for slot in &slots[block as usize * 256..][..256] {
                    slot.store(value, Relaxed);
                }
                parent.store(trie::CHILD | block, Release);
            }
            self.uses[block as usize] += 1;
        }
        Ok(())
    }

    /// Counts a prefix out of its blocks, and cuts off those that nothing needs any more.
    fn leave_path(&mut self, maps: &Maps, address: u128, length: u8) {
        let slots = self.slots(maps);
        let mut block = 0;
        let mut cut = None;
        for l in 0..level(length) {
            let parent = at(block, l, address);
            block = slots[parent].load(Relaxed) & !trie::CHILD;
            self.uses[block as usize] -= 1;
            if self.uses[block as usize] == 0 {
                cut.get_or_insert((parent, bits(l)));
                self.quarantine.push(block);
            }
        }
        if let Some((parent, bits)) = cut {
            slots[parent].store(self.lookup(address, bits), Release);
        }
    }

    /// Stores what `count` slots from `address` on must hold, and what is below them. `inherited`: the value of
    /// the longest prefix of at most the bits above this level.
    #[allow(clippy::too_many_arguments)]
    fn paint(&self, maps: &Maps, level: usize, block: u32, address: u128, from: usize, count: usize, inherited: u32) {
        let slots = self.slots(maps);
        let (shift, base) = (128 - u32::from(bits(level)), address & level.checked_sub(1).map_or(0, |l| mask(bits(l))));
        let wanted = self.values(level, base | (from as u128) << shift, count, inherited);
        for (i, value) in (from..).zip(wanted) {
            let address = base | (i as u128) << shift;
            let index = at(block, level, address);
            let slot = slots[index].load(Relaxed);
            if level < self.steps() && slot & trie::CHILD != 0 {
                self.paint(maps, level + 1, slot & !trie::CHILD, address, 0, 256, value);
            } else if slot != value {
                slots[index].store(value, Release);
            }
        }
    }

    /// What `count` slots of a level from `address` on stand for: of each the longest prefix of at most
    /// this level's bits, else `inherited`. The slots are all of one prefix, or of one block.
    fn values(&self, level: usize, address: u128, count: usize, inherited: u32) -> Vec<u32> {
        let (above, shift) = (level.checked_sub(1).map(bits), 128 - u32::from(bits(level)));
        let mut values = vec![inherited; count];
        // Inclusive: behind the last slot the addresses may end.
        let last = address | ((count as u128) << shift).wrapping_sub(1);
        for &length in self.lengths.iter().filter(|&&l| above.is_none_or(|a| l > a) && l <= bits(level)) {
            let width = 1_usize << (bits(level) - length);
            let list = &self.prefixes[usize::from(length)];
            // One that begins before them may cover them all; those that begin among them lie in them.
            if width > count {
                if let Some(&value) = list.get(&(address & mask(length))) {
                    values.fill(value);
                }
                continue;
            }
            for (&begin, &value) in list.range(address..=last) {
                let first = ((begin - address) >> shift) as usize;
                values[first..first + width].fill(value);
            }
        }
        values
    }

    /// Paints the slots of one prefix.
    fn paint_prefix(&self, maps: &Maps, (address, length): Prefix) {
        let level = level(length);
        let Some(block) = self.block(maps, address, level) else { return };
        let inherited = level.checked_sub(1).map_or(0, |l| self.lookup(address, bits(l)));
        let count = 1 << (bits(level) - length);
        self.paint(maps, level, block, address, place(address, level), count, inherited);
    }

    fn full(&self, missing: usize) -> Stop {
        let room = if self.family == Family::V4 { Room::RemoteV4Blocks } else { Room::RemoteV6Blocks };
        let capacity = self.uses.len() as u64;
        Stop::Room { table: self.table(), room, capacity, need: capacity + missing as u64 }
    }

    /// Would these puts find room? Waits for quarantined blocks where that decides.
    pub fn reserve(&mut self, maps: &Maps, puts: &[(Prefix, u32)], grace: &Grace) -> Result<(), Stop> {
        let new = || puts.iter().map(|(p, _)| *p).filter(|&p| self.get(p).is_none());
        let records = new().filter(|p| !self.is_host(p.1)).count();
        if records > self.free_records.len() {
            return Err(self.full(records - self.free_records.len()));
        }
        let mut blocks = HashSet::new();
        for (address, length) in new() {
            for l in (1..=level(length)).rev() {
                if self.block(maps, address, l).is_some() || !blocks.insert((l, address & mask(bits(l - 1)))) {
                    break;
                }
            }
        }
        let needed = blocks.len();
        if needed > self.free.len() && needed <= self.free.len() + self.quarantine.len() {
            grace.wait()?;
            self.release();
        }
        if needed > self.free.len() { Err(self.full(needed - self.free.len())) } else { Ok(()) }
    }

    /// Removes, then puts; no room is an error only where [`Trie::reserve`] was not asked.
    pub fn write(&mut self, maps: &Maps, removes: &[Prefix], puts: &[(Prefix, u32)]) -> Result<(), Error> {
        let wanted: BTreeMap<Prefix, Option<u32>> =
            removes.iter().map(|&p| (p, None)).chain(puts.iter().map(|&(p, v)| (p, Some(v)))).collect();
        let mut changes = vec![];
        for (&prefix, &value) in &wanted {
            let before = self.learn(prefix, value);
            if before != value {
                changes.push((prefix, before, value));
            }
        }
        changes.sort_by_key(|((_, length), ..)| *length);
        for &(prefix, before, value) in changes.iter().rev() {
            if let Some(value) = value {
                self.record(maps, prefix, value);
                if before.is_none() {
                    self.build_path(maps, prefix.0, prefix.1)?;
                }
            }
        }
        for &(prefix, ..) in &changes {
            self.paint_prefix(maps, prefix);
        }
        for &((address, length), before, value) in &changes {
            if self.is_host(length)
                && before.is_none() != value.is_none()
                && let Some(block) = self.block(maps, address, self.steps())
            {
                set_bit(self.hosts(maps), at(block, self.steps(), address), value.is_some());
            }
        }
        for &(prefix, before, value) in &changes {
            if before.is_some() && value.is_none() {
                self.strike(maps, prefix);
                self.leave_path(maps, prefix.0, prefix.1);
            }
        }
        Ok(())
    }

    /// Writes a prefix's ledger record.
    fn record(&mut self, maps: &Maps, prefix: Prefix, value: u32) {
        if self.is_host(prefix.1) {
            return;
        }
        let place = match self.records.get(&prefix) {
            Some(&place) => place,
            None => {
                let place = self.free_records.pop().expect("reserved");
                self.records.insert(prefix, place);
                place
            }
        };
        let record = &self.ledger(maps)[place as usize * PREFIX_WORDS..][..PREFIX_WORDS];
        record[0].store((prefix.0 >> 64) as u64, Relaxed);
        record[1].store(prefix.0 as u64, Relaxed);
        let incarnation = u64::from(value >> 16) << INCARNATION_SHIFT;
        record[2].store(u64::from(PRESENT | value & 0xffff) | u64::from(prefix.1) << 32 | incarnation, Release);
    }

    /// Strikes it out.
    fn strike(&mut self, maps: &Maps, prefix: Prefix) {
        if let Some(place) = self.records.remove(&prefix) {
            self.ledger(maps)[place as usize * PREFIX_WORDS + 2].store(0, Release);
            self.free_records.push(place);
        }
    }

    /// After a grace period: cut-off blocks may be used again.
    pub fn release(&mut self) {
        self.free.append(&mut self.quarantine);
    }

    /// Every prefix with its value, by address and length, after checking each slot against them.
    pub fn read(&self, maps: &Maps) -> Result<BTreeMap<Prefix, u32>, Error> {
        self.verify(maps, 0, 0, 0, 0)?;
        Ok(self.all().into_iter().map(|p| (p, self.prefixes[usize::from(p.1)][&p.0])).collect())
    }

    fn verify(&self, maps: &Maps, level: usize, block: u32, base: u128, inherited: u32) -> Result<(), Error> {
        let slots = self.slots(maps);
        let wanted = self.values(level, base, if level == 0 { 65536 } else { 256 }, inherited);
        for (i, want) in wanted.into_iter().enumerate() {
            let address = base | (i as u128) << (128 - u32::from(bits(level)));
            let index = at(block, level, address);
            let slot = slots[index].load(Acquire);
            if level < self.steps() && slot & trie::CHILD != 0 {
                let child = slot & !trie::CHILD;
                if self.uses.get(child as usize).is_none_or(|&u| u == 0) {
                    return Err(self.corrupt(format!("slot {index} points to block {child}, which is not in use")));
                }
                self.verify(maps, level + 1, child, address, want)?;
            } else if slot != want {
                return Err(self.corrupt(format!(
                    "slot {index} holds {slot:#x}, its longest prefix says {want:#x} (left-aligned address {address:#034x})"
                )));
            }
        }
        Ok(())
    }

    /// Blocks in use, the root's included.
    pub fn blocks_used(&self) -> u64 {
        (self.uses.len() - self.free.len()) as u64
    }
}
