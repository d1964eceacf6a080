//! Chunks of buckets, and the table of one endpoint in one or several of them.
//!
//! Not here: which chunk is in which slot, and which endpoint has a place (`pool`).

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
};

use aya::maps::MapData;
use netpolc_table::schema::Family;
use netpolc_target::Error;

use super::{key_size, map_of, pin_name};
use crate::{
    layout::state::{CHUNK, CHUNK_LOG, Place, WAYS, bucket_size},
    memory::{Window, map_error},
    sys::refused,
};

/// One endpoint's table of a family, mapped for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Table {
    /// The table's buckets in each of its chunks, in order.
    parts: Vec<Window>,
    /// Where the table stands.
    pub place: Place,
    /// How many 8-byte words a key has.
    pub key_words: usize,
}

impl Table {
    /// How many slots for entries the table has.
    pub fn slots(&self) -> usize {
        self.place.buckets() as usize * WAYS
    }

    fn bucket(&self, slot: usize) -> &[AtomicU64] {
        let (words, bucket) = (WAYS + WAYS * self.key_words, slot / WAYS);
        let part = &self.parts[bucket / CHUNK as usize];
        &part.words()[bucket % CHUNK as usize * words..][..words]
    }

    /// The meta word of a slot.
    pub fn meta(&self, slot: usize) -> &AtomicU64 {
        &self.bucket(slot)[slot % WAYS]
    }

    /// The key of a slot, as words.
    pub fn key(&self, slot: usize) -> &[AtomicU64] {
        &self.bucket(slot)[WAYS + slot % WAYS * self.key_words..][..self.key_words]
    }

    /// Empties all slots. Untouched pages are only read, so that they stay without memory.
    pub fn clear(&self) {
        for slot in 0..self.slots() {
            if self.meta(slot).load(Relaxed) != 0 {
                self.meta(slot).store(0, Release);
            }
        }
    }
}

/// An array of [`CHUNK`] buckets.
#[derive(Debug)]
pub(super) struct Chunk {
    pub map: Arc<MapData>,
    /// log2 of the buckets of the tables that stand in it, or of the one of which it holds a part.
    pub log: u8,
    /// Which places are taken. A chunk that belongs to one table has a single place.
    pub taken: Vec<bool>,
    /// Whether programs find it, in its slot of the map of maps.
    pub installed: bool,
}

impl Chunk {
    pub fn new(map: MapData, log: u8) -> Self {
        Self::new_of(Arc::new(map), log)
    }

    pub fn new_of(map: Arc<MapData>, log: u8) -> Self {
        let places = (CHUNK >> log.min(CHUNK_LOG)) as usize;
        Self { map, log, taken: vec![false; places], installed: false }
    }

    pub fn free(&self) -> usize {
        self.taken.iter().filter(|taken| !**taken).count()
    }
}

/// The number of a place within its chunk.
pub(super) fn number(place: Place) -> usize {
    ((place.first % CHUNK) >> place.log.min(CHUNK_LOG)) as usize
}

/// Maps the table at a place whose chunks are these.
pub(super) fn table_of(
    family: Family,
    place: Place,
    chunks: Vec<Arc<MapData>>,
) -> Result<Table, Error> {
    let (key, name) = (key_size(family), map_of(family).name());
    let (first, buckets) = (u64::from(place.first % CHUNK), place.buckets().min(CHUNK) as usize);
    let window = |map: Arc<MapData>| {
        Window::map(name, &map, first * bucket_size(key) as u64, buckets * bucket_size(key))
    };
    let parts = chunks.into_iter().map(window).collect::<Result<_, _>>()?;
    Ok(Table { parts, place, key_words: key / 8 })
}

/// Opens a pinned chunk and checks its size.
pub(super) fn open_chunk(dir: &Path, family: Family, slot: u16) -> Result<MapData, Error> {
    let path = dir.join(pin_name(family, slot));
    let refuse = |e| refused(format!("open {}", path.display()), map_error(e));
    let map = MapData::from_pin(&path).map_err(refuse)?;
    let info = map.info().map_err(refuse)?;
    if info.value_size() as usize != bucket_size(key_size(family)) || info.max_entries() != CHUNK {
        return Err(Error::Installed(format!("{} is a chunk of another size", path.display())));
    }
    Ok(map)
}
