//! The reader of records and of the counters beside them (`netpolc_target::Recorder`).
//!
//! Records come by a ring buffer that all generations share. Counters and budgets are a
//! generation's, so whoever makes another generation judge puts its own on the [`Board`]. Not here:
//! what is recorded (`program/note`).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use aya::maps::{MapData, RingBuf};
use netpolc_table::{
    Class, ClassId, EndpointId, Incarnation,
    schema::{Family, Leaf},
};
use netpolc_target::{Error, Hook, Judged, Noted, Record, Recorder, record::Noticed};

use crate::{
    layout::{MapId, config, record},
    maps::{Maps, Shared},
    memory::{Region, map_error},
    sys::{self, refused},
    tables::endpoints::word_of,
};

/// The counters and budgets of the generation that judges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Posted>>);

#[derive(Debug, Default)]
struct Posted {
    /// Counters and budgets; None before somebody wants records.
    maps: Option<[Region; 2]>,
    /// What every budget was set to last.
    budget: u32,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Posted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts up the maps of a generation, whose budgets become what was granted last.
    pub fn post(&self, maps: &Maps) -> Result<(), Error> {
        let [counter, budget] = [MapId::Counter, MapId::Budget].map(|id| {
            let size = id.value_size(&maps.capacities);
            Region::map(id.name(), maps.data(id)?, size)
        });
        let mut posted = self.lock();
        posted.maps = Some([counter?, budget?]);
        posted.grant();
        Ok(())
    }

    /// The same where somebody wants records.
    pub fn follow(&self, maps: &Maps) -> Result<(), Error> {
        let wanted = self.lock().maps.is_some();
        if wanted { self.post(maps) } else { Ok(()) }
    }
}

impl Posted {
    fn grant(&self) {
        let Some([_, budgets]) = &self.maps else { return };
        for budget in budgets.words::<AtomicU64>() {
            budget.store(self.budget.into(), Relaxed);
        }
    }
}

/// Reads records, in whatever thread it is.
pub(crate) struct Reader {
    ring: RingBuf<MapData>,
    shared: Shared,
    board: Board,
}

impl Reader {
    /// # Errors
    /// [`Error::System`] where a map's descriptor cannot be duplicated, or its memory not mapped.
    pub fn new(maps: &Maps, board: &Board) -> Result<Self, Error> {
        board.post(maps)?;
        let refuse = |e| refused("map records", e);
        let shared = maps.shared().clone();
        let fd = shared.fd(MapId::Records).try_clone_to_owned().map_err(refuse)?;
        let map = MapData::from_fd(fd).map_err(|e| refuse(map_error(e)))?;
        let ring =
            RingBuf::try_from(aya::maps::Map::RingBuf(map)).map_err(|e| refuse(map_error(e)))?;
        Ok(Self { ring, shared, board: board.clone() })
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Recorder for Reader {
    fn read(&mut self, limit: usize, each: &mut dyn FnMut(Record)) -> Result<usize, Error> {
        // Between the two clocks.
        let since = SystemTime::now() - sys::monotonic();
        let mut read = 0;
        while read < limit {
            let Some(item) = self.ring.next() else { break };
            read += 1;
            if let Some(record) = decode(&item, since) {
                each(record);
            }
        }
        Ok(read)
    }

    fn refill(&mut self, budget: u32) {
        let mut posted = self.board.lock();
        // Programs read it as a number with a sign.
        posted.budget = budget.min(i32::MAX as u32);
        posted.grant();
        self.shared.config_words()[config::SECONDS / 8].store(sys::monotonic().as_secs(), Relaxed);
    }

    fn noticed(&self) -> Noticed {
        let posted = self.board.lock();
        let Some([counters, _]) = &posted.maps else { return Noticed::new() };
        let counters = counters.words::<AtomicU64>().iter().enumerate();
        let counted = counters.filter_map(|(at, count)| {
            let (endpoint, hook, noted) = counter(at)?;
            let count = count.load(Relaxed);
            (count > 0).then_some((endpoint, hook, noted, count))
        });
        counted.collect()
    }

    fn set_epoch(&mut self, epoch: u32) {
        self.shared.config_words()[config::EPOCH / 8].store(epoch.into(), Relaxed);
    }
}

/// What a counter counts, by its number.
fn counter(number: usize) -> Option<(EndpointId, Hook, Noted)> {
    let endpoint = EndpointId::new(u16::try_from(number / (2 * Noted::SLOTS)).ok()?);
    let hook = match number / Noted::SLOTS % 2 {
        0 => Hook::ToPod,
        _ => Hook::FromPod,
    };
    Some((endpoint, hook, Noted::of_slot(number % Noted::SLOTS)?))
}

/// A record as a program wrote it; None where it makes no sense.
fn decode(bytes: &[u8], since: SystemTime) -> Option<Record> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (endpoint, _, noted) = counter(u32_at(record::COUNTER)? as usize)?;
    let hook = match u32_at(record::HOOK)? {
        0 => Hook::ToPod,
        1 => Hook::FromPod,
        2 => Hook::Translated,
        _ => return None,
    };
    let snapped = u32_at(record::SNAPPED)? as usize;
    let frame = bytes.get(record::FRAME..record::FRAME + snapped)?.to_vec();
    let class = u32_at(record::CLASS)?;
    let is_judged = noted.is_judged() && endpoint != EndpointId::default();
    let judged = is_judged.then(|| Judged {
        word: word_of(u64_at(record::WORD).unwrap_or_default()),
        remote: leaf(class, &frame),
    });
    Some(Record {
        at: since + Duration::from_nanos(u64_at(record::TIME)?),
        noted,
        hook,
        endpoint,
        judged,
        epoch: u32_at(record::EPOCH)?,
        length: u32_at(record::LENGTH)?,
        frame,
    })
}

/// The class and incarnation in a record. Its family is that of the packet.
fn leaf(value: u32, frame: &[u8]) -> Leaf {
    let class = value as u16;
    let class = match family(frame) {
        Family::V4 => Class::V4(ClassId::new(class)),
        Family::V6 => Class::V6(ClassId::new(class)),
    };
    Leaf { class, incarnation: Incarnation::new((value >> 16) as u16) }
}

/// The family of a frame that was judged, whose type stands behind at most two VLAN tags.
fn family(frame: &[u8]) -> Family {
    use netpolc_target::semantics::ether;
    let kind = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let mut at = 12;
    for _ in 0..ether::MAX_TAGS {
        if matches!(kind(at), Some(ether::VLAN | ether::QINQ)) {
            at += 4;
        }
    }
    if kind(at) == Some(ether::IPV6) { Family::V6 } else { Family::V4 }
}
