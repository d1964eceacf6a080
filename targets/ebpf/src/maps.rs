//! All maps of an instance: created, pinned, and opened again.
//!
//! There are two groups: the maps of a *generation* (the tables, replaced as a whole when one of
//! them grows) and the *shared* ones (connection state, fragments, config), which every generation
//! uses. Not here: what is stored in them.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use aya::maps::{HashMap as BpfHash, MapData};
use netpolc_table::{EndpointId, schema::Family};
use netpolc_target::Error;

use crate::{
    config::Connections,
    layout::{
        Capacities, LAYOUT_VERSION, MAGIC, MapId, MapKind, OWN_MORE_KEY, SERVICE_KEY,
        config::{self, Clock},
        state::{self, bucket_size},
    },
    ledger::LedgerId,
    memory::{Region, Word, map_error},
    pool::{Pool, Table, key_size, map_of},
    sys::{self, refused},
    tables::Access,
};

const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;

/// The word of the header map that holds the fingerprint of the pinned programs, behind all other
/// fields.
const CODE: usize = 40;
/// The word of the header map at which the capacities begin, behind magic, version, seed and hz.
const CAPACITIES: usize = 4;

/// How long a map lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Until the next generation takes over.
    Generation,
    /// As long as anything is installed: every generation uses it.
    Installation,
}

impl Lifetime {
    pub fn of(map: MapId) -> Self {
        match map {
            MapId::State
            | MapId::StateV4
            | MapId::StateV6
            | MapId::Wanted
            | MapId::Records
            | MapId::Frag
            | MapId::Config => Lifetime::Installation,
            _ => Lifetime::Generation,
        }
    }

    /// The maps that live so long, without those that the [`Pool`] manages.
    fn maps(self) -> impl Iterator<Item = MapId> {
        MapId::ALL.iter().copied().filter(move |id| Lifetime::of(*id) == self && !is_pool(*id))
    }

    /// The parts of the ledger that live so long.
    fn ledger(self) -> &'static [LedgerId] {
        match self {
            Lifetime::Generation => &LedgerId::ALL,
            Lifetime::Installation => &[],
        }
    }
}

/// Whether a map is managed by the [`Pool`].
fn is_pool(map: MapId) -> bool {
    matches!(map, MapId::State | MapId::StateV4 | MapId::StateV6)
}

/// How user space reaches a map.
#[derive(Debug)]
enum Store {
    /// Through memory: the whole value is mapped.
    Array(Region),
    /// Through system calls on its descriptor.
    Other(MapData),
}

/// The maps of a generation with their ledger, or the shared ones.
#[derive(Debug, Default)]
struct Group {
    maps: BTreeMap<MapId, Store>,
    ledger: BTreeMap<LedgerId, Region>,
}

impl Group {
    fn create(c: &Capacities, lifetime: Lifetime) -> Result<Self, Error> {
        let mut group = Group::default();
        for id in lifetime.maps() {
            let make = |kind| {
                let (key, value) = (id.key_size(), id.value_size(c) as u32);
                let params = aya_obj::Map::new_from_params(kind, key, value, id.max_entries(c), 0);
                let made = MapData::create(params, id.name(), None);
                made.map_err(|e| refused(format!("map {}: create", id.name()), map_error(e)))
                    .map(Store::Other)
            };
            let store = match id.kind() {
                MapKind::Array => Store::Array(Region::create(id.name(), id.value_size(c))?),
                MapKind::LruHash => make(BPF_MAP_TYPE_LRU_HASH)?,
                MapKind::RingBuffer => make(BPF_MAP_TYPE_RINGBUF)?,
                MapKind::Hash => make(BPF_MAP_TYPE_HASH)?,
                MapKind::ArrayOfMaps => unreachable!("the pool has all maps of maps"),
            };
            group.maps.insert(id, store);
        }
        for &id in lifetime.ledger() {
            group.ledger.insert(id, Region::create(id.name(), id.size(c))?);
        }
        Ok(group)
    }

    fn pin(&self, dir: &Path) -> Result<(), Error> {
        let maps = self.maps.iter().map(|(id, store)| (id.name(), store.fd()));
        let ledger = self.ledger.iter().map(|(id, region)| (id.name(), region.fd()));
        for (name, fd) in maps.chain(ledger) {
            pin(fd, &dir.join(name))?;
        }
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.maps.keys().map(|id| id.name()).chain(self.ledger.keys().map(|id| id.name()))
    }

    fn open(dir: &Path, c: &Capacities, lifetime: Lifetime) -> Result<Self, Error> {
        let mut group = Group::default();
        for id in lifetime.maps() {
            let map = open_pin(&dir.join(id.name()))?;
            let store = if id.kind() == MapKind::Array {
                Store::Array(Region::map(id.name(), map, id.value_size(c))?)
            } else {
                let info = map
                    .info()
                    .map_err(|e| refused(format!("map {}: facts", id.name()), map_error(e)))?;
                if (info.key_size(), u64::from(info.value_size()))
                    != (id.key_size(), id.value_size(c))
                {
                    return Err(Error::Installed(format!(
                        "map {} has other key or value sizes",
                        id.name()
                    )));
                }
                Store::Other(map)
            };
            group.maps.insert(id, store);
        }
        for &id in lifetime.ledger() {
            let map = open_pin(&dir.join(id.name()))?;
            group.ledger.insert(id, Region::map(id.name(), map, id.size(c))?);
        }
        Ok(group)
    }
}

impl Store {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Store::Array(region) => region.fd(),
            Store::Other(map) => map.fd().as_fd(),
        }
    }
}

/// Pins an object; one that is pinned at the path already stays.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    match sys::pin(fd, path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(refused(format!("pin {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

fn open_pin(path: &Path) -> Result<MapData, Error> {
    MapData::from_pin(path).map_err(|e| refused(format!("open {}", path.display()), map_error(e)))
}

/// The maps that every generation uses. Clones refer to the same maps.
#[derive(Clone, Debug)]
pub struct Shared {
    group: Arc<Group>,
    pool: Arc<Pool>,
    /// Where the maps are pinned. None where this process created them: only who looks at another
    /// process's maps has to open chunks that appear later.
    dir: Option<PathBuf>,
}

impl Shared {
    /// Creates the shared maps, empty, with the clock written into the config.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses a map, usually for lack of root or memory.
    pub fn create(c: &Capacities, clock: Clock) -> Result<Self, Error> {
        let records = Region::create(MapId::State.name(), MapId::State.value_size(c))?;
        let outer = |family| {
            let (name, size) = (map_of(family).name(), bucket_size(key_size(family)) as u32);
            let made = sys::map_of_arrays(name, state::SLOTS, size, state::CHUNK);
            let refuse = |e| refused(format!("map {name}: create"), e);
            MapData::from_fd(made.map_err(refuse)?).map_err(|e| refuse(map_error(e)))
        };
        let pool = Pool::new(records, [outer(Family::V4)?, outer(Family::V6)?]);
        let group = Arc::new(Group::create(c, Lifetime::Installation)?);
        let shared = Shared { group, pool: Arc::new(pool), dir: None };
        let Some(Store::Array(region)) = shared.group.maps.get(&MapId::Config) else {
            unreachable!("the config is an array")
        };
        let image = config::image(clock);
        for (word, bytes) in region.words::<AtomicU64>().iter().zip(image.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().expect("8 bytes")), Relaxed);
        }
        Ok(shared)
    }
    /// Pins those maps that are not pinned yet.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses a pin.
    pub fn pin(&self, dir: &Path) -> Result<(), Error> {
        self.group.pin(dir)?;
        pin(self.pool.records().fd(), &dir.join(MapId::State.name()))?;
        for family in Family::BOTH {
            pin(self.pool.outer(family), &dir.join(map_of(family).name()))?;
        }
        self.pool.pin(dir)
    }
    /// The names of all pins, those of the chunks included.
    pub fn names(&self) -> Vec<String> {
        let pool = [MapId::State, MapId::StateV4, MapId::StateV6].map(MapId::name);
        let fixed = self.group.names().chain(pool).map(str::to_owned);
        fixed.chain(self.pool.names()).collect()
    }
    /// Opens the shared maps from their pins.
    ///
    /// # Errors
    /// [`Error::System`] where a pin is missing, [`Error::Installed`] where a map has another size.
    pub fn open(dir: &Path, c: &Capacities, access: Access) -> Result<Self, Error> {
        let open = |id: MapId| open_pin(&dir.join(id.name()));
        let records =
            Region::map(MapId::State.name(), open(MapId::State)?, MapId::State.value_size(c))?;
        let pool = Pool::new(records, [open(MapId::StateV4)?, open(MapId::StateV6)?]);
        if access == Access::Write {
            pool.open(dir)?;
        }
        let group = Arc::new(Group::open(dir, c, Lifetime::Installation)?);
        Ok(Shared { group, pool: Arc::new(pool), dir: Some(dir.to_owned()) })
    }
    /// Sets how large tables of connections may be from now on.
    pub fn set_sizes(&self, sizes: Connections) {
        self.pool.set_sizes(sizes);
    }
    /// The pool, which knows where the tables of connections stand.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
    /// An endpoint's tables of a family, mapped: the present one first, then the one from which
    /// entries are being moved, if any.
    pub(crate) fn tables(&self, endpoint: EndpointId, family: Family) -> Result<Vec<Table>, Error> {
        let places = self.pool.places(endpoint, family).into_iter().flatten();
        places.map(|place| self.pool.table(family, place, self.dir.as_deref())).collect()
    }
    /// Does `work` with an endpoint's tables while the pool's lock keeps anybody from moving or
    /// freeing them. Mapping them takes system calls, which happen before the lock is taken; where
    /// the tables have moved by then, they are mapped again.
    pub(crate) fn change<T>(
        &self,
        endpoint: EndpointId,
        family: Family,
        work: impl FnOnce(&[Table]) -> T,
    ) -> Result<T, Error> {
        loop {
            let tables = self.tables(endpoint, family)?;
            let held = self.pool.lock();
            let here = self.pool.places(endpoint, family).into_iter().flatten();
            if tables.iter().map(|table| table.place).eq(here) {
                let done = work(&tables);
                drop(held);
                return Ok(done);
            }
        }
    }
    /// The words of the config map.
    pub(crate) fn config_words(&self) -> &[AtomicU64] {
        match &self.group.maps[&MapId::Config] {
            Store::Array(region) => region.words(),
            Store::Other(_) => unreachable!("the config is an array"),
        }
    }
    /// How many bytes all chunks of a family take.
    fn chunk_bytes(&self, family: Family) -> u64 {
        match (self.pool.usage(family), &self.dir) {
            (0, Some(dir)) => Pool::pinned(dir, family),
            (bytes, _) => bytes,
        }
    }
    pub(crate) fn fd(&self, id: MapId) -> BorrowedFd<'_> {
        match id {
            MapId::State => self.pool.records().fd(),
            MapId::StateV4 => self.pool.outer(Family::V4),
            MapId::StateV6 => self.pool.outer(Family::V6),
            _ => self.group.maps[&id].fd(),
        }
    }
}

/// The maps that one generation of programs uses.
#[derive(Debug)]
pub struct Maps {
    /// The sizes of the tables.
    pub capacities: Capacities,
    /// The number that is mixed into the hashes of connections and addresses.
    pub seed: u64,
    /// The clock by which connections and fragments expire.
    pub clock: Clock,
    group: Group,
    shared: Shared,
}

/// The decoded header map of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The sizes of the tables.
    pub capacities: Capacities,
    /// The number that is mixed into the hashes of connections and addresses.
    pub seed: u64,
    /// The clock by which connections and fragments expire.
    pub clock: Clock,
    /// The fingerprint of the programs that are pinned with the maps; 0 where none is known.
    pub code: u64,
}

impl Maps {
    /// Creates empty tables, with a header that describes them.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses a map, usually for lack of root or memory.
    pub fn create(
        capacities: Capacities,
        seed: u64,
        clock: Clock,
        shared: Shared,
    ) -> Result<Self, Error> {
        let group = Group::create(&capacities, Lifetime::Generation)?;
        let maps = Self { capacities, seed, clock, group, shared };
        let words = maps.words::<AtomicU64>(MapId::Header);
        for (word, value) in words[CAPACITIES..].iter().zip(capacities.fields()) {
            word.store(value.into(), Relaxed);
        }
        words[1].store(LAYOUT_VERSION.into(), Relaxed);
        words[2].store(seed, Relaxed);
        words[3].store(clock.hz.into(), Relaxed);
        // Last: a header with the magic number is complete.
        words[0].store(MAGIC, Release);
        Ok(maps)
    }

    /// Pins those of the generation's maps (not the shared ones) that are not pinned yet.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses a pin.
    pub fn pin(&self, dir: &Path) -> Result<(), Error> {
        self.group.pin(dir)
    }

    /// The names of the generation's pins.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.group.names()
    }

    /// Opens a generation's maps from their pins.
    ///
    /// # Errors
    /// [`Error::System`] where a pin is missing, [`Error::Installed`] where a map has not the size
    /// that the header says.
    pub fn open(dir: &Path, header: &Header, shared: Shared) -> Result<Self, Error> {
        let group = Group::open(dir, &header.capacities, Lifetime::Generation)?;
        Ok(Self {
            capacities: header.capacities,
            seed: header.seed,
            clock: header.clock,
            group,
            shared,
        })
    }

    /// Reads a generation's header, without opening its other maps.
    ///
    /// # Errors
    /// [`Error::System`] where the pin is missing, [`Error::Installed`] where it is not a header of
    /// this layout's version.
    pub fn header(dir: &Path) -> Result<Header, Error> {
        let path = dir.join(MapId::Header.name());
        let region = Region::map("header", open_pin(&path)?, 64 * 8)?;
        let word = |i: usize| region.words::<AtomicU64>()[i].load(Acquire);
        if word(0) != MAGIC {
            return Err(Error::Installed(format!("{} was not made by netpolc", path.display())));
        }
        if word(1) != u64::from(LAYOUT_VERSION) {
            return Err(Error::Installed(format!(
                "{} has layout version {}, and this netpolc knows {LAYOUT_VERSION}; run `netpolc \
                 detach` with the version that made it, or with this one",
                path.display(),
                word(1)
            )));
        }
        let capacities = Capacities::from_fields(|i| word(CAPACITIES + i) as u32);
        capacities.check().map_err(|e| Error::Installed(format!("{}: {e}", path.display())))?;
        Ok(Header {
            capacities,
            seed: word(2),
            clock: Clock { hz: word(3) as u32 },
            code: word(CODE),
        })
    }

    /// Notes the fingerprint of the programs that are pinned beside the maps.
    pub fn set_code(&self, code: u64) {
        self.words::<AtomicU64>(MapId::Header)[CODE].store(code, Release);
    }

    fn store(&self, id: MapId) -> &Store {
        let group = match Lifetime::of(id) {
            Lifetime::Generation => &self.group,
            Lifetime::Installation => &self.shared.group,
        };
        &group.maps[&id]
    }

    /// The memory of a map that is an array; panics for other maps.
    pub fn words<T: Word>(&self, id: MapId) -> &[T] {
        match self.store(id) {
            Store::Array(region) => region.words(),
            Store::Other(_) => unreachable!("map {} is not an array", id.name()),
        }
    }

    /// The memory of one array of the ledger.
    pub fn ledger<T: Word>(&self, id: LedgerId) -> &[T] {
        self.group.ledger[&id].words()
    }

    /// A map's descriptor, for the instructions that refer to it.
    pub fn fd(&self, id: MapId) -> RawFd {
        if is_pool(id) { self.shared.fd(id).as_raw_fd() } else { self.store(id).fd().as_raw_fd() }
    }

    /// Another handle of a map of this generation.
    ///
    /// # Errors
    /// [`Error::System`] where the descriptor cannot be duplicated.
    pub fn data(&self, id: MapId) -> Result<MapData, Error> {
        let call = || format!("map {}", id.name());
        let fd = self.store(id).fd().try_clone_to_owned().map_err(|e| refused(call(), e))?;
        MapData::from_fd(fd).map_err(|e| refused(call(), map_error(e)))
    }

    /// A handle of the map `own_more`, to read and change it.
    ///
    /// # Errors
    /// [`Error::System`] where the descriptor cannot be duplicated.
    pub fn own_more(&self) -> Result<BpfHash<MapData, [u8; OWN_MORE_KEY], u32>, Error> {
        BpfHash::try_from(aya::maps::Map::HashMap(self.data(MapId::OwnMore)?))
            .map_err(|e| refused("map own_more", map_error(e)))
    }

    /// A handle of the map `service`, to read and change it.
    ///
    /// # Errors
    /// [`Error::System`] where the descriptor cannot be duplicated.
    pub fn service(&self) -> Result<BpfHash<MapData, [u8; SERVICE_KEY], u32>, Error> {
        BpfHash::try_from(aya::maps::Map::HashMap(self.data(MapId::Service)?))
            .map_err(|e| refused("map service", map_error(e)))
    }

    /// A handle of the map `compared`, to read it and to remove entries.
    ///
    /// # Errors
    /// [`Error::System`] where the descriptor cannot be duplicated.
    pub fn compared(&self) -> Result<BpfHash<MapData, u32, u64>, Error> {
        BpfHash::try_from(aya::maps::Map::HashMap(self.data(MapId::Compared)?))
            .map_err(|e| refused("map compared", map_error(e)))
    }

    /// A handle of the map `frag`, to remove records from it.
    ///
    /// # Errors
    /// [`Error::System`] where the descriptor cannot be duplicated.
    pub fn frag(&self) -> Result<BpfHash<MapData, [u8; crate::layout::frag::KEY], u64>, Error> {
        BpfHash::try_from(aya::maps::Map::LruHashMap(self.data(MapId::Frag)?))
            .map_err(|e| refused("map frag", map_error(e)))
    }

    /// Facts of every map, the shared ones and the ledger included. How much of an array is in use
    /// only the tables know ([`MapFacts::used`] is None here).
    pub fn list(&self) -> Vec<MapFacts> {
        let c = &self.capacities;
        let maps = MapId::ALL.iter().map(|&id| MapFacts {
            name: id.name(),
            kind: match id.kind() {
                MapKind::Array => "array",
                MapKind::Hash => "hash",
                MapKind::LruHash => "lru_hash",
                MapKind::ArrayOfMaps => "array_of_maps",
                MapKind::RingBuffer => "ringbuf",
            },
            key_size: id.key_size(),
            value_size: id.value_size(c),
            max_entries: id.max_entries(c),
            used: None,
        });
        let ledger = LedgerId::ALL.iter().map(|&id| MapFacts {
            name: id.name(),
            kind: "array",
            key_size: 4,
            value_size: id.size(c),
            max_entries: 1,
            used: None,
        });
        let arrays = Family::BOTH.into_iter().flat_map(|family| {
            let bytes = self.shared.chunk_bytes(family);
            let name = ["connections_v4", "connections_v6"][usize::from(family == Family::V6)];
            let facts = MapFacts {
                name,
                kind: "array",
                key_size: 4,
                value_size: bytes,
                max_entries: 1,
                used: None,
            };
            (bytes > 0).then_some(facts)
        });
        let mut list: Vec<MapFacts> = maps.chain(arrays).chain(ledger).collect();
        for facts in &mut list {
            if facts.name == MapId::OwnMore.name() {
                facts.used = self.own_more().ok().map(|m| m.keys().count() as u64);
            } else if facts.name == MapId::Service.name() {
                facts.used = self.service().ok().map(|m| m.keys().count() as u64);
            } else if facts.name == MapId::Frag.name() {
                facts.used = self.frag().ok().map(|m| m.keys().count() as u64);
            }
        }
        list
    }

    /// The maps that this generation shares with the others.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// A map as `compile --target ebpf` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFacts {
    /// The name of the map and of its pin.
    pub name: &'static str,
    /// The kernel's map type, as `bpftool map` prints it.
    pub kind: &'static str,
    /// The size of a key in bytes.
    pub key_size: u32,
    /// The size of a value in bytes.
    pub value_size: u64,
    /// How many entries the map can hold; 1 where the value is the whole table, and for a ring
    /// buffer its bytes.
    pub max_entries: u32,
    /// How much is in use, in the unit of the table's index; None where that has no meaning.
    pub used: Option<u64>,
}

impl MapFacts {
    /// The size of all keys and values in bytes.
    pub fn bytes(&self) -> u64 {
        if self.kind == "ringbuf" {
            return self.max_entries.into();
        }
        u64::from(self.max_entries)
            * (self.value_size + if self.max_entries > 1 { u64::from(self.key_size) } else { 0 })
    }
}
