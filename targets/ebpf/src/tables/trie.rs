//! The tries of `remote_v4` and `remote_v6`: prefixes pushed down into blocks of 256 slots.
//!
//! User space keeps a copy of all prefixes and computes from it what each slot must hold. One write
//! may put and remove many prefixes: the copy changes as a whole, then each slot concerned is
//! stored once, with its final value. A packet reads the value of one slot, so that it sees the
//! table before the write or after it. Each slot of a new block repeats the value of the slot that
//! the block replaces before the pointer to it is stored. Blocks that are cut off are reused only
//! after a grace period.
//!
//! Ledger: prefixes are recorded before the slots change, longest first, and struck out afterwards,
//! shortest first. The recorded prefixes therefore describe a valid table wherever a process is
//! killed, and [`Trie::open`] makes the slots agree with them again. A /32 is recorded by the bit
//! beside its slot; the slot itself is the record of its value.
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

/// How many blocks the root takes, which is indexed by the first 16 bits of an address.
const ROOT: u32 = 256;

/// A prefix: address with host bits zero, left-aligned in 128 bits, and length.
pub type Prefix = (u128, u8);

/// One family's trie, with a copy of its prefixes.
#[derive(Debug)]
pub struct Trie {
    family: Family,
    /// By length: left-aligned address -> the value that a slot holds for it.
    prefixes: Vec<BTreeMap<u128, u32>>,
    /// The lengths that occur, ascending, so that a lookup tries only these.
    lengths: Vec<u8>,
    /// For each block: how many prefixes need it.
    uses: Vec<u32>,
    /// Blocks that may be used.
    free: Vec<u32>,
    /// Blocks that were cut off since the last grace period: packets may still read them.
    quarantine: Vec<u32>,
    /// Where each prefix is recorded in the ledger.
    records: HashMap<Prefix, u32>,
    /// Records of the ledger that are free.
    free_records: Vec<u32>,
}

/// The prefix's network mask, left-aligned.
pub fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length)) }
}

/// How many bits of an address lead to a slot of `level`. Level 0 is the root.
fn bits(level: usize) -> u8 {
    (16 + 8 * level) as u8
}

/// The level in whose slots a prefix of this length is stored: the first one with enough bits.
fn level(length: u8) -> usize {
    usize::from(length.saturating_sub(16)).div_ceil(8)
}

/// The place of an address's slot within its block, or within the root.
fn place(address: u128, level: usize) -> usize {
    let digits = (address >> (128 - u32::from(bits(level)))) as usize;
    if level == 0 { digits & 0xffff } else { digits & 0xff }
}

/// The place of an address's slot within the map.
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
    /// Whether a prefix of this length is recorded by a bit beside its slot and not in a record.
    /// Pods make /32s the most frequent prefixes by far.
    fn is_host(&self, length: u8) -> bool {
        self.family == Family::V4 && length == 32
    }
    fn hosts<'m>(&self, maps: &'m Maps) -> &'m [AtomicU64] {
        maps.ledger(LedgerId::HostV4)
    }

    /// Reads the ledger and finds the blocks in use. A writer makes the slots agree with the ledger
    /// again.
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
        // Backwards, so that the lowest record is the first to be taken.
        for (i, record) in this.ledger(maps).chunks_exact(PREFIX_WORDS).enumerate().rev() {
            let [high, low, word] = [0, 1, 2].map(|w| record[w].load(Acquire));
            if word & u64::from(PRESENT) == 0 {
                this.free_records.push(i as u32);
                continue;
            }
            let (address, length) = (u128::from(high) << 64 | u128::from(low), (word >> 32) as u8);
            if this.is_host(length) || length > family.bits() || address & !mask(length) != 0 {
                return Err(this.corrupt(format!("ledger record {i} is not a valid prefix")));
            }
            this.records.insert((address, length), i as u32);
            let incarnation = (word >> INCARNATION_SHIFT) as u32 & 0xffff;
            this.learn((address, length), Some(word as u32 & 0xffff | incarnation << 16));
        }
        let mut seen = vec![false; blocks];
        this.discover(maps, 0, 0, 0, &mut seen)?;
        this.free = (ROOT..blocks as u32).rev().filter(|&b| !seen[b as usize]).collect();
        if access == Access::Look {
            // An observer only needs to know which blocks are in use, to verify the pointers.
            seen.iter().zip(&mut this.uses).for_each(|(&seen, uses)| *uses = u32::from(seen));
            return Ok(this);
        }
        // A killed process may have left prefixes without blocks, blocks without prefixes, and
        // slots with old values. These calls repair each, in this order.
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

    /// Walks over all blocks: marks those that are reached, and learns the /32s by their bits.
    fn discover(
        &mut self,
        maps: &Maps,
        level: usize,
        block: u32,
        base: u128,
        seen: &mut [bool],
    ) -> Result<(), Error> {
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

    /// Cuts off blocks that no prefix needs. A killed write leaves them where it had struck a
    /// prefix out but not cut its blocks off, or had not yet set the bit of a new /32.
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
                // The slot gets the value that all slots of the block had.
                slots[index].store(self.lookup(address, bits(level)), Release);
                self.quarantine.push(child);
            }
        }
    }

    /// All prefixes, shortest first.
    fn all(&self) -> Vec<Prefix> {
        let lists = self
            .lengths
            .iter()
            .map(|&l| self.prefixes[usize::from(l)].keys().map(move |&a| (a, l)));
        lists.flatten().collect()
    }

    /// Changes the copy of the prefixes, and returns the value that the prefix had before.
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

    /// The value of the longest prefix of at most `limit` bits that contains the address; 0, for
    /// class 0, where there is none.
    fn lookup(&self, address: u128, limit: u8) -> u32 {
        let end = self.lengths.partition_point(|&l| l <= limit);
        let mut lengths = self.lengths[..end].iter().rev();
        lengths
            .find_map(|&l| self.prefixes[usize::from(l)].get(&(address & mask(l))).copied())
            .unwrap_or(0)
    }

    /// The value of exactly this prefix, where it is in the trie.
    pub fn get(&self, (address, length): Prefix) -> Option<u32> {
        self.prefixes[usize::from(length)].get(&address).copied()
    }

    /// The block of `level` that leads to `address`, where it exists.
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

    /// Makes the blocks that lead to a prefix, and counts the prefix in each of them.
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
                // The new block answers as the slot did, until the prefix is painted.
                for slot in &slots[block as usize * 256..][..256] {
                    slot.store(value, Relaxed);
                }
                parent.store(trie::CHILD | block, Release);
            }
            self.uses[block as usize] += 1;
        }
        Ok(())
    }

    /// Counts a prefix out of its blocks, and cuts off those that no prefix needs any more.
    fn leave_path(&mut self, maps: &Maps, address: u128, length: u8) {
        let slots = self.slots(maps);
        let mut block = 0;
        let mut cut = None;
        for l in 0..level(length) {
            let parent = at(block, l, address);
            block = slots[parent].load(Relaxed) & !trie::CHILD;
            self.uses[block as usize] -= 1;
            if self.uses[block as usize] == 0 {
                // What is below an unused block is unused too: cutting off the highest one is
                // enough.
                cut.get_or_insert((parent, bits(l)));
                self.quarantine.push(block);
            }
        }
        if let Some((parent, bits)) = cut {
            slots[parent].store(self.lookup(address, bits), Release);
        }
    }

    /// Stores what `count` slots of a block from place `from` on must hold, and what is below them.
    /// `inherited` is the value of the longest prefix that ends above this level. Slots that are
    /// right already are not touched.
    #[allow(clippy::too_many_arguments)]
    fn paint(
        &self,
        maps: &Maps,
        level: usize,
        block: u32,
        address: u128,
        from: usize,
        count: usize,
        inherited: u32,
    ) {
        let slots = self.slots(maps);
        let (shift, base) = (
            128 - u32::from(bits(level)),
            address & level.checked_sub(1).map_or(0, |l| mask(bits(l))),
        );
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

    /// The values of `count` slots of a level from `address` on: for each that of the longest
    /// prefix that ends at this level, or else `inherited`. The slots must belong to one prefix, or
    /// to one block.
    fn values(&self, level: usize, address: u128, count: usize, inherited: u32) -> Vec<u32> {
        let (above, shift) = (level.checked_sub(1).map(bits), 128 - u32::from(bits(level)));
        let mut values = vec![inherited; count];
        // Inclusive, since behind the last slot there may be no further address.
        let last = address | ((count as u128) << shift).wrapping_sub(1);
        for &length in
            self.lengths.iter().filter(|&&l| above.is_none_or(|a| l > a) && l <= bits(level))
        {
            // Lengths are ascending: longer prefixes overwrite what shorter ones filled in.
            let width = 1_usize << (bits(level) - length);
            let list = &self.prefixes[usize::from(length)];
            // A prefix wider than the slots covers all of them or none. Others lie within them.
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

    /// Stores what all slots of one prefix must hold.
    fn paint_prefix(&self, maps: &Maps, (address, length): Prefix) {
        let level = level(length);
        let Some(block) = self.block(maps, address, level) else { return };
        let inherited = level.checked_sub(1).map_or(0, |l| self.lookup(address, bits(l)));
        let count = 1 << (bits(level) - length);
        self.paint(maps, level, block, address, place(address, level), count, inherited);
    }

    fn full(&self, missing: usize) -> Stop {
        let room =
            if self.family == Family::V4 { Room::RemoteV4Blocks } else { Room::RemoteV6Blocks };
        let capacity = self.uses.len() as u64;
        Stop::Room { table: self.table(), room, capacity, need: capacity + missing as u64 }
    }

    /// Checks that these puts find room. Waits for a grace period where only blocks in quarantine
    /// give it.
    pub fn reserve(
        &mut self,
        maps: &Maps,
        puts: &[(Prefix, u32)],
        grace: &Grace,
    ) -> Result<(), Stop> {
        let new = || puts.iter().map(|(p, _)| *p).filter(|&p| self.get(p).is_none());
        let records = new().filter(|p| !self.is_host(p.1)).count();
        if records > self.free_records.len() {
            return Err(self.full(records - self.free_records.len()));
        }
        // Counts the blocks that are missing, each once: from a prefix's own level towards the
        // root, up to the first block that exists or is counted already.
        let mut blocks = HashSet::new();
        for (address, length) in new() {
            for l in (1..=level(length)).rev() {
                if self.block(maps, address, l).is_some()
                    || !blocks.insert((l, address & mask(bits(l - 1))))
                {
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

    /// Removes prefixes and puts others. [`Trie::reserve`] must have found room for the puts.
    pub fn write(
        &mut self,
        maps: &Maps,
        removes: &[Prefix],
        puts: &[(Prefix, u32)],
    ) -> Result<(), Error> {
        let wanted: BTreeMap<Prefix, Option<u32>> = removes
            .iter()
            .map(|&p| (p, None))
            .chain(puts.iter().map(|&(p, v)| (p, Some(v))))
            .collect();
        let mut changes = vec![];
        for (&prefix, &value) in &wanted {
            let before = self.learn(prefix, value);
            if before != value {
                changes.push((prefix, before, value));
            }
        }
        // From here on the order is that of the module's header: record, build, paint, strike out,
        // cut off.
        changes.sort_by_key(|((_, length), ..)| *length);
        for &(prefix, before, value) in changes.iter().rev() {
            if let Some(value) = value {
                self.record(maps, prefix, value);
                if before.is_none() {
                    self.build_path(maps, prefix.0, prefix.1)?;
                }
            }
        }
        // A change of a shorter prefix may pass a slot of a longer one; `paint` stores the final
        // value either way, since the copy has all changes already.
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

    /// Records a prefix in the ledger. The last word makes the record valid, so it is stored last.
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
        record[2].store(
            u64::from(PRESENT | value & 0xffff) | u64::from(prefix.1) << 32 | incarnation,
            Release,
        );
    }

    /// Strikes a prefix out of the ledger.
    fn strike(&mut self, maps: &Maps, prefix: Prefix) {
        if let Some(place) = self.records.remove(&prefix) {
            self.ledger(maps)[place as usize * PREFIX_WORDS + 2].store(0, Release);
            self.free_records.push(place);
        }
    }

    /// To be called after a grace period: blocks in quarantine may be used again.
    pub fn release(&mut self) {
        self.free.append(&mut self.quarantine);
    }

    /// All prefixes with their values, after each slot has been checked against them.
    pub fn read(&self, maps: &Maps) -> Result<BTreeMap<Prefix, u32>, Error> {
        self.verify(maps, 0, 0, 0, 0)?;
        Ok(self.all().into_iter().map(|p| (p, self.prefixes[usize::from(p.1)][&p.0])).collect())
    }

    /// Checks that every slot holds what the prefixes say, and points to a block that is in use.
    fn verify(
        &self,
        maps: &Maps,
        level: usize,
        block: u32,
        base: u128,
        inherited: u32,
    ) -> Result<(), Error> {
        let slots = self.slots(maps);
        let wanted = self.values(level, base, if level == 0 { 65536 } else { 256 }, inherited);
        for (i, want) in wanted.into_iter().enumerate() {
            let address = base | (i as u128) << (128 - u32::from(bits(level)));
            let index = at(block, level, address);
            let slot = slots[index].load(Acquire);
            if level < self.steps() && slot & trie::CHILD != 0 {
                let child = slot & !trie::CHILD;
                if self.uses.get(child as usize).is_none_or(|&u| u == 0) {
                    return Err(self.corrupt(format!(
                        "slot {index} points to block {child}, which is not in use"
                    )));
                }
                self.verify(maps, level + 1, child, address, want)?;
            } else if slot != want {
                return Err(self.corrupt(format!(
                    "slot {index} holds {slot:#x}, its longest prefix says {want:#x} (left-aligned \
                     address {address:#034x})"
                )));
            }
        }
        Ok(())
    }

    /// How many blocks are in use, those of the root and of the quarantine included.
    pub fn blocks_used(&self) -> u64 {
        (self.uses.len() - self.free.len()) as u64
    }
}
