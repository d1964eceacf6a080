//! Decides where tables of connections stand: chunks in the slots of the maps of maps, places in
//! the chunks, and a record for each endpoint.
//!
//! An endpoint gets its first tables before its packets are judged ([`Pool::provide`]) and loses
//! them when it goes ([`Pool::release`]). The records in the map `state` are the truth: a place
//! that no record names is free, and a chunk of which no record names a part is removed at the next
//! start. Not here: which place is free (`inner`), moving a table to another size (`growth`),
//! entries (`state`), what the bytes mean (`layout::state`).

mod chunk;
mod inner;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use aya::maps::MapData;
use netpolc_table::{EndpointId, schema::Family};
use netpolc_target::Error;

use crate::{
    config::Connections,
    layout::{
        MapId,
        state::{CHUNK, CHUNK_LOG, ENDPOINTS, KEY_V4, KEY_V6, Place, RECORD, WANTED, bucket_size},
    },
    memory::{Region, create_inner_map},
    sys::{self, refused},
};
pub(crate) use chunk::Table;
use chunk::{Chunk, number, open_chunk, table_of};
use inner::UNUSED;
pub(crate) use inner::{Inner, Ticket};

/// How many places for first tables must stay free before an empty chunk of them is removed.
const SPARE_PLACES: usize = 16;

/// The size of a family's keys in bytes.
pub(crate) fn key_size(family: Family) -> usize {
    match family {
        Family::V4 => KEY_V4,
        Family::V6 => KEY_V6,
    }
}

/// The map of maps whose slots hold a family's chunks.
pub(crate) fn map_of(family: Family) -> MapId {
    match family {
        Family::V4 => MapId::StateV4,
        Family::V6 => MapId::StateV6,
    }
}

fn index(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// The tables of connections of all endpoints.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The map `state`.
    records: Region,
    /// The maps `state_v4` and `state_v6`.
    outers: [MapData; 2],
    inner: Mutex<Inner>,
}

fn pin_name(family: Family, slot: u16) -> String {
    format!("{}_{slot}", map_of(family).name())
}

impl Pool {
    /// A pool over these maps that knows of no chunk yet.
    pub fn new(records: Region, outers: [MapData; 2]) -> Self {
        Self { records, outers, inner: Mutex::default() }
    }

    /// Sets how large tables may be from now on.
    pub fn set_sizes(&self, sizes: Connections) {
        self.lock().sizes = sizes;
    }

    /// The map `state`, which holds the records.
    pub fn records(&self) -> &Region {
        &self.records
    }

    pub fn outer(&self, family: Family) -> BorrowedFd<'_> {
        self.outers[index(family)].fd().as_fd()
    }

    /// Locks the pool's bookkeeping. System calls that wait for grace periods are made without the
    /// lock.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        // After a panic of another thread the bookkeeping is still usable: no step leaves it half
        // done, and the records are the truth.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, endpoint: EndpointId) -> &[AtomicU64] {
        let at = usize::from(endpoint.get()).min(ENDPOINTS as usize - 1) * (RECORD / 8);
        &self.records.words()[at..][..RECORD / 8]
    }

    /// Where an endpoint's present table stands, and the previous one where the table is being
    /// moved.
    pub fn places(&self, endpoint: EndpointId, family: Family) -> [Option<Place>; 2] {
        let word = self.record(endpoint)[index(family)].load(Acquire);
        [Place::of(word as u32), Place::of((word >> 32) as u32)]
    }

    /// Stores an endpoint's tables in its record. Both are in one word, so that each packet sees
    /// the old pair or the new one.
    pub fn publish(
        &self,
        endpoint: EndpointId,
        family: Family,
        present: Option<Place>,
        previous: Option<Place>,
    ) {
        let half = |place: Option<Place>| u64::from(place.map_or(0, Place::word));
        self.record(endpoint)[index(family)].store(half(present) | half(previous) << 32, Release);
    }

    /// The tables in which packets have found little room since [`Pool::answer`] was last called
    /// for them.
    pub fn wanting(&self) -> Vec<(EndpointId, Family)> {
        let records = self
            .records
            .words::<AtomicU64>()
            .chunks_exact(RECORD / 8)
            .zip((0..=u16::MAX).map(EndpointId::new));
        let asks =
            |record: &[AtomicU64], family| record[WANTED / 8 + index(family)].load(Relaxed) != 0;
        let all = records.flat_map(|(record, id)| {
            Family::BOTH.into_iter().map(move |family| (record, id, family))
        });
        all.filter(|(record, _, family)| asks(record, *family))
            .map(|(_, id, family)| (id, family))
            .collect()
    }

    /// Clears the flag of a table, so that its packets can set it again when they find little room.
    pub fn answer(&self, endpoint: EndpointId, family: Family) {
        self.record(endpoint)[WANTED / 8 + index(family)].store(0, Relaxed);
    }

    /// All tables that exist: endpoint, family, present and previous place.
    pub fn all(&self) -> Vec<(EndpointId, Family, Place, Option<Place>)> {
        let each =
            |id: EndpointId| Family::BOTH.map(|family| (id, family, self.places(id, family)));
        let all = (1..=u16::MAX).map(EndpointId::new).flat_map(each);
        all.filter_map(|(id, family, [present, previous])| Some((id, family, present?, previous)))
            .collect()
    }

    /// Opens the chunks that are pinned in `dir`. Those of which no record names a part become
    /// garbage.
    pub fn open(&self, dir: &Path) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.pins = Some(dir.to_owned());
        let mut named: BTreeMap<(usize, u16), BTreeSet<Place>> = BTreeMap::new();
        for (_, family, present, previous) in self.all() {
            for place in [Some(present), previous].into_iter().flatten() {
                for slot in place.slots() {
                    named.entry((index(family), slot)).or_default().insert(place);
                }
            }
        }
        for family in Family::BOTH {
            for slot in pinned_slots(dir, family)? {
                let Some(places) = named.get(&(index(family), slot)) else {
                    inner.garbage.push((family, slot));
                    continue;
                };
                let mut chunk = Chunk::new(
                    open_chunk(dir, family, slot)?,
                    places.first().map_or(0, |place| place.log),
                );
                for place in places.iter().filter(|place| place.log == chunk.log) {
                    chunk.taken[number(*place)] = true;
                }
                chunk.installed = true;
                // A process that was killed between taking a place from its record and clearing it
                // leaves entries of another endpoint there.
                let free = chunk
                    .taken
                    .iter()
                    .enumerate()
                    .filter(|(_, taken)| !**taken)
                    .map(|(number, _)| number as u32);
                for number in free {
                    let place = Place {
                        first: u32::from(slot) * CHUNK + (number << chunk.log),
                        log: chunk.log,
                    };
                    table_of(family, place, vec![chunk.map.clone()])?.clear();
                }
                inner.chunks[index(family)].insert(slot, chunk);
            }
        }
        Ok(())
    }

    /// Pins all chunks in `dir`.
    pub fn pin(&self, dir: &Path) -> Result<(), Error> {
        let inner = self.lock();
        for family in Family::BOTH {
            for (slot, chunk) in &inner.chunks[index(family)] {
                crate::maps::pin(chunk.map.fd().as_fd(), &dir.join(pin_name(family, *slot)))?;
            }
        }
        Ok(())
    }

    /// Has chunks that are made from now on pinned in `dir`.
    pub fn set_pins(&self, dir: &Path) {
        self.lock().pins = Some(dir.to_owned());
    }

    /// The names of the chunks' pins.
    pub fn names(&self) -> Vec<String> {
        let inner = self.lock();
        let of = |family: Family| {
            inner.chunks[index(family)].keys().map(move |slot| pin_name(family, *slot))
        };
        Family::BOTH.into_iter().flat_map(of).collect()
    }

    /// How many bytes a family's chunks take.
    pub fn usage(&self, family: Family) -> u64 {
        bytes_of(family, self.lock().chunks[index(family)].len())
    }

    /// How many bytes the chunks take that are pinned in `dir`.
    pub fn pinned(dir: &Path, family: Family) -> u64 {
        bytes_of(family, pinned_slots(dir, family).map_or(0, |slots| slots.len()))
    }

    /// Maps the table at a place. Chunks that the pool does not know are opened from their pins
    /// under `pins`.
    pub fn table(&self, family: Family, place: Place, pins: Option<&Path>) -> Result<Table, Error> {
        let known: Vec<Option<Arc<MapData>>> = {
            let inner = self.lock();
            let chunks = &inner.chunks[index(family)];
            place.slots().map(|slot| Some(chunks.get(&slot)?.map.clone())).collect()
        };
        let chunks = place.slots().zip(known).map(|(slot, known)| match (known, pins) {
            (Some(map), _) => Ok(map),
            (None, Some(dir)) => open_chunk(dir, family, slot).map(Arc::new),
            (None, None) => {
                Err(Error::Installed(format!("slot {slot} of {} is empty", map_of(family).name())))
            }
        });
        table_of(family, place, chunks.collect::<Result<Vec<_>, _>>()?)
    }

    /// Gives a first table of each family to those endpoints that have none.
    pub fn provide(&self, endpoints: &BTreeSet<EndpointId>) -> Result<(), Error> {
        for family in Family::BOTH {
            let needing: Vec<EndpointId> = endpoints
                .iter()
                .filter(|id| self.places(**id, family)[0].is_none())
                .copied()
                .collect();
            let first = self.lock().sizes.first_log;
            let places = self.obtain(family, &vec![first; needing.len()])?;
            for (id, place) in needing.into_iter().zip(places) {
                self.publish(id, family, Some(place), None);
            }
        }
        Ok(())
    }

    /// Makes chunks until there are free places for so many first tables, and a spare chunk.
    pub fn keep_ready(&self, family: Family, places: usize) -> Result<(), Error> {
        let (mut made, mut spare) = (Vec::new(), None);
        // Chunks are made under the lock, so that nobody takes the same slots, and installed
        // without it, since the kernel waits for a grace period with each.
        let done = {
            let mut inner = self.lock();
            let log = inner.sizes.first_log;
            let mut free = inner.free_places(family, log);
            let mut make = |inner: &mut Inner, log| {
                let slot = inner.free_slots(family, 1)?;
                self.make(inner, family, slot, log)?;
                made.push(slot);
                Ok::<u16, Error>(slot)
            };
            let mut done = Ok(());
            if inner.spare[index(family)].is_none() {
                match make(&mut inner, UNUSED) {
                    Ok(slot) => spare = Some(slot),
                    Err(error) => done = Err(error),
                }
            }
            while done.is_ok() && log < CHUNK_LOG && free < places {
                done = make(&mut inner, log).map(drop);
                free += (CHUNK >> log) as usize;
            }
            done
        };
        // The chunks that could be made are of use even where others were refused.
        let installed = self.install(family, &made);
        let mut inner = self.lock();
        match installed {
            Err(_) => inner.discard(family, &made),
            Ok(()) if spare.is_some() => inner.spare[index(family)] = spare,
            Ok(()) => {}
        }
        installed.and(done)
    }

    /// Takes empty places for tables of these sizes, one for each of `logs`, in this order.
    pub fn obtain(&self, family: Family, logs: &[u8]) -> Result<Vec<Place>, Error> {
        let (mut places, mut made) = (Vec::new(), Vec::new());
        let done = self
            .take(family, logs, &mut places, &mut made)
            .and_then(|()| self.install(family, &made));
        let Err(error) = done else { return Ok(places) };
        let mut inner = self.lock();
        inner.discard(family, &made);
        // The new chunks are gone; this frees the places that were taken in older ones.
        for place in places {
            self.give_back(&mut inner, family, place)?;
        }
        Err(error)
    }

    /// Takes places, and makes chunks where there are none free. Where it fails, `places` and
    /// `made` hold what was taken and made until then.
    fn take(
        &self,
        family: Family,
        logs: &[u8],
        places: &mut Vec<Place>,
        made: &mut Vec<u16>,
    ) -> Result<(), Error> {
        let mut inner = self.lock();
        for &log in logs {
            let place =
                match inner.take_place(family, log, made).or_else(|| inner.take_spare(family, log))
                {
                    Some(place) => place,
                    // A table larger than a chunk needs chunks in slots that follow each other.
                    None => {
                        let count = (1u32 << log).div_ceil(CHUNK) as u16;
                        let first = inner.free_slots(family, count)?;
                        for slot in first..first + count {
                            self.make(&mut inner, family, slot, log)?;
                            made.push(slot);
                            if let Some(chunk) = inner.chunks[index(family)].get_mut(&slot) {
                                chunk.taken[0] = true;
                            }
                        }
                        Place { first: u32::from(first) * CHUNK, log }
                    }
                };
            places.push(place);
        }
        Ok(())
    }

    /// Makes a chunk for a slot and pins it. Programs do not find it until it is installed.
    fn make(&self, inner: &mut Inner, family: Family, slot: u16, log: u8) -> Result<(), Error> {
        let map =
            create_inner_map(map_of(family).name(), bucket_size(key_size(family)) as u32, CHUNK)?;
        if let Some(dir) = &inner.pins {
            crate::maps::pin(map.fd().as_fd(), &dir.join(pin_name(family, slot)))?;
        }
        inner.chunks[index(family)].insert(slot, Chunk::new(map, log));
        Ok(())
    }

    /// Puts chunks into their slots, where programs find them. The kernel waits for a grace period
    /// with each, so that threads do it at the same time.
    fn install(&self, family: Family, slots: &[u16]) -> Result<(), Error> {
        let maps: Vec<(u16, Arc<MapData>)> = {
            let inner = self.lock();
            let chunks = &inner.chunks[index(family)];
            slots.iter().filter_map(|slot| Some((*slot, chunks.get(slot)?.map.clone()))).collect()
        };
        let install = |(slot, map): &(u16, Arc<MapData>)| {
            let done = sys::set_inner_map(
                self.outer(family),
                u32::from(*slot),
                map.fd().as_fd().as_raw_fd(),
            );
            done.map_err(|e| refused(format!("map {}: slot {slot}", map_of(family).name()), e))
        };
        in_parallel(&maps, install)?;
        let mut inner = self.lock();
        for slot in slots {
            if let Some(chunk) = inner.chunks[index(family)].get_mut(slot) {
                chunk.installed = true;
            }
        }
        Ok(())
    }

    /// Frees a place that no packet can find any more, and clears it for the next table.
    pub fn give_back(&self, inner: &mut Inner, family: Family, place: Place) -> Result<(), Error> {
        let spare = inner.free_places(family, place.log);
        let first_log = inner.sizes.first_log;
        for slot in place.slots() {
            let Some(chunk) = inner.chunks[index(family)].get_mut(&slot) else { continue };
            chunk.taken[number(place)] = false;
            let map = chunk.map.clone();
            let (places, free) = (chunk.taken.len(), chunk.free());
            // An empty chunk for first tables stays where few places would be left without it.
            let keep = place.log == first_log
                && place.log < CHUNK_LOG
                && spare + 1 < places + SPARE_PLACES;
            if free == places && !keep {
                inner.chunks[index(family)].remove(&slot);
                inner.garbage.push((family, slot));
            } else {
                table_of(family, place, vec![map])?.clear();
            }
        }
        Ok(())
    }

    /// Takes an endpoint's tables away. No packet of the endpoint may be under way.
    pub fn release(&self, endpoint: EndpointId) -> Result<(), Error> {
        let mut inner = self.lock();
        for family in Family::BOTH {
            let places = self.places(endpoint, family);
            self.publish(endpoint, family, None, None);
            self.answer(endpoint, family);
            inner.moving.remove(&(endpoint, index(family)));
            for place in places.into_iter().flatten() {
                self.give_back(&mut inner, family, place)?;
            }
        }
        Ok(())
    }

    /// Removes the chunks that are garbage and returns how many. The kernel waits for a grace
    /// period.
    pub fn sweep(&self) -> Result<usize, Error> {
        let (garbage, pins) = {
            let inner = self.lock();
            (inner.garbage.clone(), inner.pins.clone())
        };
        let clear = |(family, slot): &(Family, u16)| match sys::clear_slot(
            self.outer(*family),
            u32::from(*slot),
        ) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(refused(format!("map {}: empty slot {slot}", map_of(*family).name()), e))
            }
            _ => Ok(()),
        };
        in_parallel(&garbage, clear)?;
        for (family, slot) in &garbage {
            if let Some(dir) = &pins {
                drop(std::fs::remove_file(dir.join(pin_name(*family, *slot))));
            }
        }
        self.lock().garbage.retain(|chunk| !garbage.contains(chunk));
        Ok(garbage.len())
    }
}

/// Does `work` with each of the list, in threads, so that calls that wait for a grace period share
/// one.
fn in_parallel<T: Sync>(
    list: &[T],
    work: impl Fn(&T) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    const THREADS: usize = 32;
    for some in list.chunks(THREADS) {
        std::thread::scope(|scope| {
            let [rest @ .., last] = some else { return Ok(()) };
            let threads: Vec<_> = rest.iter().map(|one| scope.spawn(|| work(one))).collect();
            let mut done = work(last);
            for thread in threads {
                done = done
                    .and(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        })?;
    }
    Ok(())
}

fn bytes_of(family: Family, chunks: usize) -> u64 {
    chunks as u64 * u64::from(CHUNK) * bucket_size(key_size(family)) as u64
}

fn pinned_slots(dir: &Path, family: Family) -> Result<Vec<u16>, Error> {
    let prefix = format!("{}_", map_of(family).name());
    let read = std::fs::read_dir(dir).map_err(|e| refused(format!("list {}", dir.display()), e))?;
    let names =
        read.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect())
}
