//! `remote_v6_exact` and `remote_v6_leaf`: /128 prefixes, each alone in a cuckoo table or with its
//! neighbours in a block.
//!
//! The slots are their own record, so that there is no ledger. Storing a value switches an address
//! at once. A place that was emptied is filled again only after a grace period, and while an entry
//! moves it can be read in at least one of both places. A process that is killed between the two
//! halves of a move leaves the entry twice, with the same value: [`Exact::open`] removes one.
//!
//! A group that got a block keeps it until its last address goes. The addresses that moved into the
//! block stay in their old places, as *echoes* with the same values, for packets that searched for
//! the block before it was there. The next grace period ends them, so that no write has to wait for
//! one.
//!
//! Not here: what the bytes mean (`layout::exact`), addresses that find no place (`trie`).

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::Ipv6Addr,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use netpolc_table::TableId;
use netpolc_target::Error;

use super::{Access, Grace, Room, Stop};
use crate::{
    layout::{MapId, exact, exact_buckets},
    maps::Maps,
};

/// A place in the cuckoo table: bucket and way.
type Place = (u32, u32);
/// The addresses that differ in the last byte only, named by the other 15 bytes.
type Group = u128;

fn group(address: Ipv6Addr) -> Group {
    address.to_bits() >> 8
}

fn first(group: Group) -> Ipv6Addr {
    Ipv6Addr::from_bits(group << 8)
}

fn last_byte(address: Ipv6Addr) -> usize {
    usize::from(address.octets()[15])
}

/// A block of `remote_v6_leaf` in use.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    /// The place of the block's entry in the cuckoo table.
    place: Place,
    /// The block's number.
    block: u32,
    /// How many addresses it holds.
    count: u32,
}

/// Where each address stands, as user space knows it.
#[derive(Debug, Default)]
pub struct Exact {
    /// The addresses that stand alone.
    singles: HashMap<Ipv6Addr, Place>,
    /// How many addresses of each group stand alone; groups without any are left out.
    alone: HashMap<Group, usize>,
    /// The groups that have a block.
    leaves: HashMap<Group, Leaf>,
    /// The old places of addresses that moved into a block since the last grace period. Every write
    /// to the block is repeated here.
    echoes: HashMap<Ipv6Addr, Place>,
    /// The places that were emptied since the last grace period: a packet may still be reading
    /// their keys.
    dead: HashSet<Place>,
    /// The places that the write under way will fill. They hold no value yet.
    promised: HashSet<Place>,
    /// Blocks that may be used.
    free: Vec<u32>,
    /// Blocks that were given up since the last grace period.
    quarantine: Vec<u32>,
    /// How many buckets the cuckoo table has.
    buckets: u32,
    /// The seed of the hash that chooses an address's buckets.
    seed: u64,
}

/// Where the new addresses of a write go.
#[derive(Debug, Default)]
pub struct Placed {
    /// The groups that get a block, with the place of the block's entry.
    blocks: Vec<(Group, Place)>,
    /// The addresses that will stand alone.
    singles: HashMap<Ipv6Addr, Place>,
    /// The addresses that find no place here.
    pub left: HashSet<Ipv6Addr>,
}

/// What the new addresses of a write need.
#[derive(Default)]
struct Needs {
    /// The groups of which too many addresses would stand alone.
    blocks: Vec<Group>,
    /// The new addresses that will stand alone.
    singles: Vec<Ipv6Addr>,
}

fn value(maps: &Maps, (bucket, way): Place) -> &AtomicU32 {
    &maps.words::<AtomicU32>(MapId::RemoteV6Exact)
        [bucket as usize * (exact::SIZE / 4) + exact::VALUES / 4 + way as usize]
}

fn key(maps: &Maps, (bucket, way): Place) -> &[AtomicU64] {
    &maps.words::<AtomicU64>(MapId::RemoteV6Exact)
        [bucket as usize * (exact::SIZE / 8) + way as usize * 2..][..2]
}

fn slots(maps: &Maps, block: u32) -> &[AtomicU32] {
    &maps.words::<AtomicU32>(MapId::RemoteV6Leaf)[block as usize * 256..][..256]
}

fn load_key(maps: &Maps, place: Place) -> Ipv6Addr {
    let mut bytes = [0; 16];
    for (half, word) in bytes.chunks_exact_mut(8).zip(key(maps, place)) {
        half.copy_from_slice(&word.load(Acquire).to_le_bytes());
    }
    bytes.into()
}

/// Fills an empty place. The value comes last, since it makes the key valid.
fn fill(maps: &Maps, place: Place, address: Ipv6Addr, new: u32) {
    for (half, word) in address.octets().chunks_exact(8).zip(key(maps, place)) {
        word.store(u64::from_le_bytes(half.try_into().expect("8 bytes")), Relaxed);
    }
    value(maps, place).store(new, Release);
}

fn places(bucket: u32) -> impl Iterator<Item = Place> {
    (0..exact::WAYS as u32).map(move |way| (bucket, way))
}

fn corrupt(what: String) -> Error {
    Error::Installed(format!("table remote_v6: {what}"))
}

impl Exact {
    /// Finds all addresses. A writer completes what a killed process began.
    pub fn open(maps: &Maps, access: Access) -> Result<Self, Error> {
        let (buckets, seed) = (maps.capacities.remote_v6_buckets, maps.seed);
        let mut this = Exact { buckets, seed, ..Exact::default() };
        let mut twice = vec![];
        let mut used = HashMap::new();
        for place in (0..this.buckets).flat_map(places) {
            let found = value(maps, place).load(Acquire);
            if found == 0 {
                continue;
            }
            let address = load_key(maps, place);
            if !exact_buckets(address, this.buckets, this.seed).contains(&place.0) {
                return Err(corrupt(format!(
                    "{address} stands in bucket {}, where no packet looks for it",
                    place.0
                )));
            }
            // An entry that is there twice was being moved when a process was killed. Either one
            // may go.
            let second = if found & exact::BLOCK == 0 {
                this.singles.contains_key(&address) || this.singles.insert(address, place).is_some()
            } else {
                let block = found >> 16;
                let right = block < maps.capacities.remote_v6_leaves && last_byte(address) == 0;
                let owner = *used.entry(block).or_insert(group(address));
                if !right || owner != group(address) || found & 0x7fff != 0 {
                    return Err(corrupt(format!(
                        "block {block} of {address}/120 belongs to another group, or does not exist"
                    )));
                }
                let second = this.leaves.contains_key(&group(address));
                if !second {
                    let count =
                        slots(maps, block).iter().filter(|s| s.load(Acquire) != 0).count() as u32;
                    this.leaves.insert(group(address), Leaf { place, block, count });
                }
                second
            };
            if second {
                twice.push(place);
            }
        }
        // Addresses of a group that has a block are echoes: the block was complete before its entry
        // was stored. A writer empties their places; an observer tells them from contradictions.
        let moved: Vec<Ipv6Addr> = this
            .singles
            .keys()
            .filter(|a| this.leaves.contains_key(&group(**a)))
            .copied()
            .collect();
        for address in moved {
            let Some(place) = this.singles.remove(&address) else { continue };
            match access {
                Access::Write => twice.push(place),
                Access::Look => drop(this.echoes.insert(address, place)),
            }
        }
        for address in this.singles.keys() {
            *this.alone.entry(group(*address)).or_default() += 1;
        }
        this.free =
            (0..maps.capacities.remote_v6_leaves).rev().filter(|b| !used.contains_key(b)).collect();
        if access == Access::Write {
            for place in twice {
                this.empty_place(maps, place);
            }
            let unused: Vec<Group> =
                this.leaves.iter().filter(|(_, l)| l.count == 0).map(|(g, _)| *g).collect();
            for group in unused {
                this.drop_leaf(maps, group);
            }
        }
        Ok(this)
    }

    fn empty_place(&mut self, maps: &Maps, place: Place) {
        value(maps, place).store(0, Release);
        self.dead.insert(place);
    }

    fn drop_leaf(&mut self, maps: &Maps, group: Group) {
        if let Some(leaf) = self.leaves.remove(&group) {
            self.empty_place(maps, leaf.place);
            self.quarantine.push(leaf.block);
        }
    }

    fn full(&self) -> Stop {
        let capacity = u64::from(self.buckets);
        Stop::Room {
            table: TableId::RemoteV6,
            room: Room::RemoteV6Buckets,
            capacity,
            need: capacity + 1,
        }
    }

    /// The word that holds an address's value, where the address is here.
    fn word<'m>(&self, maps: &'m Maps, address: Ipv6Addr) -> Option<&'m AtomicU32> {
        if let Some(leaf) = self.leaves.get(&group(address)) {
            return Some(&slots(maps, leaf.block)[last_byte(address)])
                .filter(|w| w.load(Relaxed) != 0);
        }
        self.singles.get(&address).map(|&place| value(maps, place))
    }

    /// What the addresses of `puts` need that are not here yet.
    fn needs(&self, maps: &Maps, puts: &[(Ipv6Addr, u32)]) -> Needs {
        let mut new: BTreeMap<Group, Vec<Ipv6Addr>> = BTreeMap::new();
        for &(address, _) in puts {
            if !self.leaves.contains_key(&group(address)) && self.word(maps, address).is_none() {
                new.entry(group(address)).or_default().push(address);
            }
        }
        let mut needs = Needs::default();
        for (group, mut addresses) in new {
            addresses.sort();
            addresses.dedup();
            let alone = self.alone.get(&group).copied().unwrap_or(0);
            match alone + addresses.len() > exact::SINGLES {
                true => needs.blocks.push(group),
                false => needs.singles.extend(addresses),
            }
        }
        needs
    }

    /// Refuses puts that would fill the cuckoo table beyond 15/16, where moves rarely help any
    /// more, or for which there are no blocks.
    fn reserve(&self, maps: &Maps, puts: &[(Ipv6Addr, u32)]) -> Result<(), Stop> {
        let needs = self.needs(maps, puts);
        let room = self.buckets as usize * exact::WAYS * 15 / 16;
        // Echoes do not count, since their places are empty after a grace period.
        if self.singles.len() + self.leaves.len() + needs.singles.len() + needs.blocks.len() > room
        {
            return Err(self.full());
        }
        let blocks = self.free.len() + self.quarantine.len();
        if needs.blocks.len() > blocks {
            let capacity = u64::from(maps.capacities.remote_v6_leaves);
            let need = capacity + (needs.blocks.len() - blocks) as u64;
            return Err(Stop::Room {
                table: TableId::RemoteV6,
                room: Room::RemoteV6Leaves,
                capacity,
                need,
            });
        }
        Ok(())
    }

    /// Whether the address is here.
    pub fn has(&self, maps: &Maps, address: Ipv6Addr) -> bool {
        self.word(maps, address).is_some()
    }

    /// Finds places for the addresses of `puts` that are not here yet, and changes no answer.
    /// Addresses whose buckets are full, and stay so whatever is moved, are left over.
    ///
    /// # Errors
    /// [`Stop::Room`] where buckets or blocks are too few.
    pub fn place(
        &mut self,
        maps: &Maps,
        puts: &[(Ipv6Addr, u32)],
        grace: &Grace,
    ) -> Result<Placed, Stop> {
        self.reserve(maps, puts)?;
        let needs = self.needs(maps, puts);
        if needs.blocks.len() > self.free.len() {
            grace.wait()?;
            self.release(maps);
        }
        // All places are found before the first value is stored, so that an error changes nothing.
        self.promised.clear();
        let mut placed = Placed::default();
        for &group in &needs.blocks {
            match self.promise(maps, first(group), grace)? {
                Some(place) => placed.blocks.push((group, place)),
                None => placed
                    .left
                    .extend(puts.iter().map(|(a, _)| *a).filter(|a| self::group(*a) == group)),
            }
        }
        for &address in &needs.singles {
            match self.promise(maps, address, grace)? {
                Some(place) => drop(placed.singles.insert(address, place)),
                None => drop(placed.left.insert(address)),
            }
        }
        // Where a group gets no block, the addresses that stand alone already stay where they are.
        placed.left.retain(|a| !self.has(maps, *a));
        Ok(placed)
    }

    /// Removes addresses and puts others: those that [`Exact::place`] was asked about and has not
    /// left over.
    pub fn write(
        &mut self,
        maps: &Maps,
        removes: &[Ipv6Addr],
        puts: &[(Ipv6Addr, u32)],
        placed: &Placed,
    ) {
        self.make_blocks(maps, &placed.blocks);
        let put: HashSet<Ipv6Addr> = puts.iter().map(|(address, _)| *address).collect();
        for &address in removes.iter().filter(|a| !put.contains(a)) {
            self.remove(maps, address);
        }
        for &(address, new) in puts.iter().filter(|(a, _)| !placed.left.contains(a)) {
            if let Some(&place) = self.singles.get(&address) {
                value(maps, place).store(new, Release);
            } else if let Some(leaf) = self.leaves.get_mut(&group(address)) {
                // The block first, which packets from now on find; then the echo, for those that
                // look there.
                let before = slots(maps, leaf.block)[last_byte(address)].swap(new, Release);
                leaf.count += u32::from(before == 0);
                if let Some(&echo) = self.echoes.get(&address) {
                    value(maps, echo).store(new, Release);
                }
            } else {
                let place = placed.singles[&address];
                fill(maps, place, address, new);
                self.singles.insert(address, place);
                *self.alone.entry(group(address)).or_default() += 1;
            }
        }
        self.promised.clear();
    }

    fn remove(&mut self, maps: &Maps, address: Ipv6Addr) {
        let group = group(address);
        if let Some(leaf) = self.leaves.get_mut(&group) {
            let before = slots(maps, leaf.block)[last_byte(address)].swap(0, Release);
            leaf.count -= u32::from(before != 0);
            let last = leaf.count == 0;
            if let Some(echo) = self.echoes.remove(&address) {
                self.empty_place(maps, echo);
            }
            if last {
                self.drop_leaf(maps, group);
            }
        } else if let Some(place) = self.singles.remove(&address) {
            self.empty_place(maps, place);
            self.forget_alone(group);
        }
    }

    fn forget_alone(&mut self, group: Group) {
        if let Some(count) = self.alone.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.alone.remove(&group);
            }
        }
    }

    /// Gives groups a block. It is complete, with all addresses that the group has, before its
    /// entry is stored.
    fn make_blocks(&mut self, maps: &Maps, new: &[(Group, Place)]) {
        for &(group, place) in new {
            let block = self.free.pop().expect("reserved");
            let leaf = slots(maps, block);
            leaf.iter().for_each(|slot| slot.store(0, Relaxed));
            let mut count = 0;
            if self.alone.remove(&group).is_some() {
                for address in (0..=255).map(|byte| Ipv6Addr::from_bits(group << 8 | byte)) {
                    if let Some(single) = self.singles.remove(&address) {
                        leaf[last_byte(address)].store(value(maps, single).load(Relaxed), Relaxed);
                        self.echoes.insert(address, single);
                        count += 1;
                    }
                }
            }
            fill(maps, place, first(group), exact::BLOCK | block << 16);
            self.leaves.insert(group, Leaf { place, block, count });
        }
    }

    /// Finds a place for a new entry and keeps it for the write under way.
    fn promise(
        &mut self,
        maps: &Maps,
        address: Ipv6Addr,
        grace: &Grace,
    ) -> Result<Option<Place>, Error> {
        let place = self.place_for(maps, address, grace)?;
        self.promised.extend(place);
        Ok(place)
    }

    /// Whether a new entry may be stored in the place now.
    fn empty(&self, maps: &Maps, place: Place) -> bool {
        value(maps, place).load(Relaxed) == 0
            && !self.dead.contains(&place)
            && !self.promised.contains(&place)
    }

    /// Finds an empty place for a new entry, and moves other entries where both of its buckets are
    /// full. None where that does not help.
    fn place_for(
        &mut self,
        maps: &Maps,
        address: Ipv6Addr,
        grace: &Grace,
    ) -> Result<Option<Place>, Error> {
        let home = exact_buckets(address, self.buckets, self.seed);
        if let Some(place) = home.into_iter().flat_map(places).find(|&p| self.empty(maps, p)) {
            return Ok(Some(place));
        }
        // Two rounds at most: the first one ends the echoes, and the next one makes their places
        // empty.
        if !self.dead.is_empty() || !self.echoes.is_empty() {
            grace.wait()?;
            self.bury(maps);
            return self.place_for(maps, address, grace);
        }
        // Searches breadth first for the shortest chain of moves that ends in an empty place, since
        // each move costs two grace periods.
        let mut from: HashMap<Place, Option<Place>> = HashMap::new();
        let mut queue: VecDeque<Place> = home.into_iter().flat_map(places).collect();
        for &place in &queue {
            from.insert(place, None);
        }
        while let Some(place) = queue.pop_front() {
            if self.promised.contains(&place) || from.len() > 4096 {
                continue;
            }
            let [a, b] = exact_buckets(load_key(maps, place), self.buckets, self.seed);
            let other = if a == place.0 { b } else { a };
            for next in places(other) {
                if from.contains_key(&next) {
                    continue;
                }
                from.insert(next, Some(place));
                if self.empty(maps, next) {
                    return self.shift(maps, &from, next, grace).map(Some);
                }
                queue.push_back(next);
            }
        }
        Ok(None)
    }

    /// Moves the entries of a chain, from its empty end on, and returns the place that becomes
    /// empty at its head.
    fn shift(
        &mut self,
        maps: &Maps,
        from: &HashMap<Place, Option<Place>>,
        end: Place,
        grace: &Grace,
    ) -> Result<Place, Error> {
        let mut hole = end;
        while let Some(place) = from[&hole] {
            let (address, content) = (load_key(maps, place), value(maps, place).load(Relaxed));
            fill(maps, hole, address, content);
            if content & exact::BLOCK == 0 {
                self.singles.insert(address, hole);
            } else if let Some(leaf) = self.leaves.get_mut(&group(address)) {
                leaf.place = hole;
            }
            // A packet that has searched the new place before the copy was there must still find
            // the entry in the old one.
            grace.wait()?;
            value(maps, place).store(0, Release);
            // A packet may still read the old key, which the next move overwrites.
            grace.wait()?;
            hole = place;
        }
        Ok(hole)
    }

    /// To be called after a grace period: frees dead places and blocks in quarantine, and ends the
    /// echoes.
    pub fn release(&mut self, maps: &Maps) {
        self.bury(maps);
        self.free.append(&mut self.quarantine);
    }

    /// After a grace period: frees the dead places, and turns echoes into dead places.
    fn bury(&mut self, maps: &Maps) {
        self.dead.clear();
        for (_, echo) in std::mem::take(&mut self.echoes) {
            self.empty_place(maps, echo);
        }
    }

    /// All addresses with their values, after checking that the memory holds exactly what this
    /// process knows.
    pub fn read(&self, maps: &Maps) -> Result<Vec<(Ipv6Addr, u32)>, Error> {
        let (mut list, mut entries) = (vec![], 0);
        for place in (0..self.buckets).flat_map(places) {
            let found = value(maps, place).load(Acquire);
            if found == 0 {
                continue;
            }
            entries += 1;
            let address = load_key(maps, place);
            if found & exact::BLOCK == 0 {
                if self.echoes.get(&address) == Some(&place) {
                    continue;
                }
                if self.singles.get(&address) != Some(&place) {
                    return Err(corrupt(format!("{address} was not written by this process")));
                }
                list.push((address, found));
                continue;
            }
            let leaf = self
                .leaves
                .get(&group(address))
                .filter(|l| l.place == place && l.block == found >> 16);
            let leaf = leaf
                .ok_or_else(|| corrupt(format!("{address}/120 was not written by this process")))?;
            let before = list.len();
            for (byte, slot) in (0..).zip(slots(maps, leaf.block)) {
                let found = slot.load(Acquire);
                if found != 0 {
                    list.push((Ipv6Addr::from_bits(group(address) << 8 | byte), found));
                }
            }
            if list.len() - before != leaf.count as usize {
                let left = list.len() - before;
                return Err(corrupt(format!(
                    "{left} of {} addresses left in {address}/120",
                    leaf.count
                )));
            }
        }
        let known = self.singles.len() + self.leaves.len() + self.echoes.len();
        if entries == known {
            Ok(list)
        } else {
            Err(corrupt(format!("{entries} of {known} entries left")))
        }
    }

    /// How many addresses are here.
    pub fn used(&self) -> u64 {
        self.singles.len() as u64 + self.leaves.values().map(|l| u64::from(l.count)).sum::<u64>()
    }

    /// How many blocks are in use, those in quarantine included.
    pub fn blocks_used(&self) -> u64 {
        (self.leaves.len() + self.quarantine.len()) as u64
    }
}
