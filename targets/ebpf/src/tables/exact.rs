//! `remote_v6_exact`: /128 prefixes in a cuckoo table of two buckets with three places each.
//!
//! The slots are their own record: key and value are all there is. A value store switches an address; a removed place is
//! filled again only after a grace period, and a move leaves the address readable in one of both places all the time.
//! A process killed between the two halves of a move leaves it twice with the same value: [`Exact::open`] removes one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
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

/// A place: bucket and way.
type Place = (u32, u32);

/// The shadow: where each address stands.
#[derive(Debug, Default)]
pub struct Exact {
    places: HashMap<Ipv6Addr, Place>,
    /// Emptied since the last grace period.
    dead: HashSet<Place>,
    /// Promised to new addresses of the write under way: they hold no value yet.
    promised: HashSet<Place>,
    buckets: u32,
}

fn value(maps: &Maps, (bucket, way): Place) -> &AtomicU32 {
    &maps.words::<AtomicU32>(MapId::RemoteV6Exact)
        [bucket as usize * (exact::SIZE / 4) + exact::VALUES / 4 + way as usize]
}

fn key(maps: &Maps, (bucket, way): Place) -> &[AtomicU64] {
    &maps.words::<AtomicU64>(MapId::RemoteV6Exact)[bucket as usize * (exact::SIZE / 8) + way as usize * 2..][..2]
}

fn load_key(maps: &Maps, place: Place) -> Ipv6Addr {
    let mut bytes = [0; 16];
    for (half, word) in bytes.chunks_exact_mut(8).zip(key(maps, place)) {
        half.copy_from_slice(&word.load(Acquire).to_le_bytes());
    }
    bytes.into()
}

fn fill(maps: &Maps, place: Place, address: Ipv6Addr, new: u32) {
    for (half, word) in address.octets().chunks_exact(8).zip(key(maps, place)) {
        word.store(u64::from_le_bytes(half.try_into().expect("8 bytes")), Relaxed);
    }
    value(maps, place).store(new, Release);
}

impl Exact {
    /// Finds all addresses; a writer removes second copies.
    pub fn open(maps: &Maps, access: Access) -> Result<Self, Error> {
        let mut this = Exact { buckets: maps.capacities.remote_v6_buckets, ..Exact::default() };
        for place in (0..this.buckets).flat_map(|b| (0..exact::WAYS as u32).map(move |w| (b, w))) {
            if value(maps, place).load(Acquire) == 0 {
                continue;
            }
            let address = load_key(maps, place);
            if !exact_buckets(address, this.buckets).contains(&place.0) {
                return Err(Error::Installed(format!(
                    "table remote_v6: {address} stands in bucket {}, where none looks",
                    place.0
                )));
            }
            if this.places.contains_key(&address) && access == Access::Write {
                value(maps, place).store(0, Release);
                this.dead.insert(place);
            } else {
                this.places.insert(address, place);
            }
        }
        Ok(this)
    }

    fn full(&self) -> Stop {
        let capacity = u64::from(self.buckets);
        Stop::Room { table: TableId::RemoteV6, room: Room::RemoteV6Buckets, capacity, need: capacity + 1 }
    }

    /// Refuses what would load the table beyond 15/16.
    pub fn reserve(&self, puts: &[(Ipv6Addr, u32)]) -> Result<(), Stop> {
        let new = puts.iter().filter(|(a, _)| !self.places.contains_key(a)).count();
        let room = self.buckets as usize * exact::WAYS * 15 / 16;
        if self.places.len() + new > room { Err(self.full()) } else { Ok(()) }
    }

    /// Removes, then puts. On an error nothing was changed.
    pub fn write(
        &mut self,
        maps: &Maps,
        removes: &[Ipv6Addr],
        puts: &[(Ipv6Addr, u32)],
        grace: &Grace,
    ) -> Result<(), Stop> {
        let mut made = vec![];
        self.promised.clear();
        for &(address, new) in puts {
            if !self.places.contains_key(&address) {
                // a place first, for all; nobody finds the address in it until its value is stored
                match self.place_for(maps, address, grace) {
                    Ok(place) => {
                        self.places.insert(address, place);
                        self.promised.insert(place);
                        made.push((address, place, new));
                    }
                    Err(error) => {
                        for (address, ..) in made {
                            self.places.remove(&address);
                        }
                        return Err(error);
                    }
                }
            }
        }
        let put: HashSet<&Ipv6Addr> = puts.iter().map(|(address, _)| address).collect();
        for &address in removes.iter().filter(|a| !put.contains(a)) {
            if let Some(place) = self.places.remove(&address) {
                value(maps, place).store(0, Release);
                self.dead.insert(place);
            }
        }
        let new: HashSet<Ipv6Addr> = made.iter().map(|(a, ..)| *a).collect();
        for (address, place, new) in made {
            fill(maps, place, address, new);
        }
        self.promised.clear();
        for &(address, changed) in puts.iter().filter(|(a, _)| !new.contains(a)) {
            value(maps, self.places[&address]).store(changed, Release);
        }
        Ok(())
    }

    fn empty(&self, maps: &Maps, place: Place) -> bool {
        value(maps, place).load(Relaxed) == 0 && !self.dead.contains(&place) && !self.promised.contains(&place)
    }

    /// An empty place for a new address; moves others where its buckets are full.
    fn place_for(&mut self, maps: &Maps, address: Ipv6Addr, grace: &Grace) -> Result<Place, Stop> {
        let places = |bucket: u32| (0..exact::WAYS as u32).map(move |w| (bucket, w));
        let home = exact_buckets(address, self.buckets);
        if let Some(place) = home.into_iter().flat_map(places).find(|&p| self.empty(maps, p)) {
            return Ok(place);
        }
        if !self.dead.is_empty() {
            grace.wait()?;
            self.dead.clear();
            return self.place_for(maps, address, grace);
        }
        // breadth first: the shortest chain of moves that ends in an empty place
        let mut from: HashMap<Place, Option<Place>> = HashMap::new();
        let mut queue: VecDeque<Place> = home.into_iter().flat_map(places).collect();
        for &place in &queue {
            from.insert(place, None);
        }
        while let Some(place) = queue.pop_front() {
            if self.promised.contains(&place) || from.len() > 4096 {
                continue;
            }
            let [a, b] = exact_buckets(load_key(maps, place), self.buckets);
            let other = if a == place.0 { b } else { a };
            for next in places(other) {
                if from.contains_key(&next) {
                    continue;
                }
                from.insert(next, Some(place));
                if self.empty(maps, next) {
                    return Ok(self.shift(maps, &from, next, grace)?);
                }
                queue.push_back(next);
            }
        }
        Err(self.full())
    }

    /// Moves along the chain from its empty end; returns the place that becomes empty at its head.
    fn shift(
        &mut self,
        maps: &Maps,
        from: &HashMap<Place, Option<Place>>,
        end: Place,
        grace: &Grace,
    ) -> Result<Place, Error> {
        let mut hole = end;
        while let Some(place) = from[&hole] {
            let address = load_key(maps, place);
            fill(maps, hole, address, value(maps, place).load(Relaxed));
            self.places.insert(address, hole);
            grace.wait()?;
            value(maps, place).store(0, Release);
            grace.wait()?;
            hole = place;
        }
        Ok(hole)
    }

    /// After a grace period.
    pub fn release(&mut self) {
        self.dead.clear();
    }

    /// Every address with its value, after checking that the memory still holds exactly them.
    pub fn read(&self, maps: &Maps) -> Result<Vec<(Ipv6Addr, u32)>, Error> {
        let mut list = vec![];
        for place in (0..self.buckets).flat_map(|b| (0..exact::WAYS as u32).map(move |w| (b, w))) {
            let value = value(maps, place).load(Acquire);
            if value != 0 {
                let address = load_key(maps, place);
                if self.places.get(&address) != Some(&place) {
                    return Err(Error::Installed(format!(
                        "table remote_v6: {address} was not written by this process"
                    )));
                }
                list.push((address, value));
            }
        }
        if list.len() != self.places.len() {
            return Err(Error::Installed(format!(
                "table remote_v6: {} of {} addresses left",
                list.len(),
                self.places.len()
            )));
        }
        Ok(list)
    }

    /// Addresses.
    pub fn used(&self) -> u64 {
        self.places.len() as u64
    }
}
