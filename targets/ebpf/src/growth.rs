//! Gives tables of connections another size while packets use them: larger when packets find little
//! room, smaller when they have been much too large for a while.
//!
//! ```text
//! make      obtain a place for the new table, perhaps in new chunks
//! publish   make the new table the present one and the old one the previous one: a packet looks
//!           in both, and makes entries in the new one; then wait for a grace period
//! copy      copy every live entry; then wait for a grace period
//! merge     take over what packets changed in the old table after it was copied
//! finish    drop the old table from the record; then wait for a grace period, and free it
//! ```
//!
//! A process that is killed in between leaves a table with a previous one, and packets go on using
//! both. The next [`Tender`] starts again at `copy`. All tables that move at one time share the
//! grace periods. Not here: where tables stand (`pool`).

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Acquire},
    },
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use netpolc_table::{EndpointId, schema::Family};
use netpolc_target::Error;

use crate::{
    config::Connections,
    layout::{
        Clock, MapId,
        state::{BUSY, Place, WAYS},
    },
    maps::{Maps, Shared},
    memory::map_error,
    pool::{Pool, Table, Ticket},
    settle::Grace,
    state::{self, Ticker, hash_of, is_dead, key_at},
    sys::{self, refused},
};

/// How many slots are copied before the pool's lock is released for others.
const BATCH: usize = 1 << 13;
/// How often all tables are checked for being too large.
const SHRINK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a table that could not grow is left alone before it may ask again.
const REFUSAL_BACKOFF: Duration = Duration::from_secs(5);
/// How many places for first tables are kept ready, so that no pod waits for a chunk.
const READY_PLACES: usize = 8;
/// A table shrinks only where no more than one in so many slots of the smaller one will be filled.
const SHRINK_MARGIN: u32 = 4;

/// A table that got another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The endpoint whose table it is.
    pub endpoint: EndpointId,
    /// Which of the endpoint's two tables it is.
    pub family: Family,
    /// How many connections had room before, whatever their hashes are.
    pub before: u32,
    /// How many connections have room now, whatever their hashes are.
    pub now: u32,
    /// How many entries found no place in the new table. Their connections are judged as new.
    pub lost: usize,
}

/// A table's move to another size that has begun, so that packets use both places.
#[derive(Debug)]
pub struct Begun(Move);

#[derive(Debug)]
struct Move {
    endpoint: EndpointId,
    family: Family,
    from: Place,
    to: Place,
    /// Proof that the move is still wanted: it is void when the endpoint goes.
    ticket: Ticket,
    /// The old table's meta words as they were when each entry was copied; 0 where none was.
    copied: Vec<u64>,
    /// How many entries found no place in the new table.
    lost: usize,
    /// Whether the record names both places.
    published: bool,
}

/// Gives tables of connections the sizes they need. It may run in a thread of its own, beside the
/// target that writes the tables of policy: nothing that it does keeps the target waiting.
pub struct Tender {
    shared: Shared,
    seed: u64,
    clock: Clock,
    ticker: Option<Ticker>,
    grace: Grace,
    ring: Option<RingBuf<MapData>>,
    /// When tables were last checked for being too large.
    checked: Option<Instant>,
    /// The tables that are much too large, with the time since when.
    roomy: HashMap<(EndpointId, Family), Instant>,
    /// The tables that could not grow, with the time of the last attempt.
    refused: HashMap<(EndpointId, Family), Instant>,
}

impl fmt::Debug for Tender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tender").finish_non_exhaustive()
    }
}

impl Tender {
    pub(crate) fn new(maps: &Maps) -> Self {
        Self {
            shared: maps.shared().clone(),
            seed: maps.seed,
            clock: maps.clock,
            ticker: None,
            grace: Grace::default(),
            ring: None,
            checked: None,
            roomy: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    fn pool(&self) -> &Arc<Pool> {
        self.shared.pool()
    }

    /// Waits until some packet finds little room, at most for `timeout`.
    ///
    /// # Errors
    /// [`Error::System`] where the ring buffer that packets write to cannot be opened.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), Error> {
        let fd = self.shared.fd(MapId::Wanted);
        sys::wait_readable(fd, timeout);
        let ring = match &mut self.ring {
            Some(ring) => ring,
            None => {
                let refuse = |e| refused("map wanted", e);
                let fd = fd.try_clone_to_owned().map_err(refuse)?;
                let map = MapData::from_fd(fd).map_err(|e| refuse(map_error(e)))?;
                let ring = RingBuf::try_from(aya::maps::Map::RingBuf(map))
                    .map_err(|e| refuse(map_error(e)))?;
                self.ring.insert(ring)
            }
        };
        // Which tables want to grow is in their records. The ring only wakes this thread.
        while ring.next().is_some() {}
        Ok(())
    }

    /// Gives tables the size that they need now, keeps places ready for the first tables of new
    /// pods, and returns the tables that have moved.
    ///
    /// # Errors
    /// [`Error::System`] where a table cannot be made or published. Packets go on in the present
    /// tables.
    pub fn tend(&mut self) -> Result<Vec<Moved>, Error> {
        let (pool, now) = (self.pool().clone(), Instant::now());
        for family in Family::BOTH {
            pool.keep_ready(family, READY_PLACES)?;
        }
        self.refused.retain(|_, since| since.elapsed() < REFUSAL_BACKOFF);
        let mut moves = self.resumed();
        let begun = self.begin_moves(&mut moves, now);
        // Moves that could be begun are carried out even where others were refused.
        let moved = self.carry_out(moves)?;
        pool.sweep()?;
        begun.map(|()| moved)
    }

    /// Begins the moves that are due.
    fn begin_moves(&mut self, moves: &mut Vec<Move>, now: Instant) -> Result<(), Error> {
        let pool = self.pool().clone();
        let wanting: Vec<_> =
            pool.wanting().into_iter().filter(|table| !self.refused.contains_key(table)).collect();
        for family in Family::BOTH {
            let of_it =
                wanting.iter().filter(|(_, f)| *f == family).map(|(endpoint, _)| (*endpoint, 0));
            moves.extend(self.enlarge(family, of_it)?);
        }
        for (endpoint, family) in wanting {
            if !moves.iter().any(|m: &Move| (m.endpoint, m.family) == (endpoint, family)) {
                // It could not grow. Its flag stays set, so that its packets need not ask again.
                self.refused.insert((endpoint, family), now);
            }
        }
        let due = self.checked.is_none_or(|last| {
            last.elapsed() >= SHRINK_INTERVAL.min(pool.lock().sizes().shrink_after)
        });
        if due {
            self.checked = Some(now);
            moves.extend(self.shrinking()?);
        }
        Ok(())
    }

    /// Gives a table room for so many connections before it returns, as far as its limits allow.
    pub(crate) fn reserve(
        &mut self,
        endpoint: EndpointId,
        family: Family,
        connections: u32,
    ) -> Result<(), Error> {
        let [present, _] = self.pool().places(endpoint, family);
        if present.is_none_or(|place| place.connections() >= connections) {
            return Ok(());
        }
        let moves = self.enlarge(family, [(endpoint, connections)].into_iter())?;
        self.carry_out(moves)?;
        Ok(())
    }

    /// Begins to move tables to a larger size. Each comes with the number of connections that it
    /// must have room for; 0 where one step of growth will do.
    fn enlarge(
        &mut self,
        family: Family,
        tables: impl Iterator<Item = (EndpointId, u32)>,
    ) -> Result<Vec<Move>, Error> {
        let pool = self.pool().clone();
        let mut begun = Vec::new();
        {
            // Sizes are chosen under one lock, so that together they keep within the budget. The
            // chunks are made afterwards, since the kernel waits for a grace period with each.
            let mut inner = pool.lock();
            let mut promised = 0;
            for (endpoint, connections) in tables {
                let [Some(from), None] = pool.places(endpoint, family) else { continue };
                let Some(log) = inner.larger(from.log, connections, promised) else { continue };
                let Some(ticket) = inner.begin(endpoint, family) else { continue };
                promised += 1 << log;
                begun.push((endpoint, from, log, ticket));
            }
        }
        let logs: Vec<u8> = begun.iter().map(|(_, _, log, _)| *log).collect();
        let places = match pool.obtain(family, &logs) {
            Ok(places) => places,
            Err(error) => {
                let mut inner = pool.lock();
                begun
                    .iter()
                    .for_each(|(endpoint, _, _, ticket)| inner.end(*endpoint, family, *ticket));
                return Err(error);
            }
        };
        let moves = begun.into_iter().zip(places);
        Ok(moves
            .map(|((endpoint, from, _, ticket), to)| Move::new(endpoint, family, from, to, ticket))
            .collect())
    }

    /// The moves that a killed process began: tables with a previous one that nobody moves.
    fn resumed(&self) -> Vec<Move> {
        let pool = self.pool();
        let mut inner = pool.lock();
        let moves = pool.all().into_iter().filter_map(|(endpoint, family, to, from)| {
            let from = from?;
            let ticket = inner.begin(endpoint, family)?;
            Some(Move { published: true, ..Move::new(endpoint, family, from, to, ticket) })
        });
        moves.collect()
    }

    /// Begins to move tables to a smaller size that have been much too large for long enough.
    fn shrinking(&mut self) -> Result<Vec<Move>, Error> {
        let (pool, now) = (self.pool().clone(), self.now()?);
        let Connections { first_log, shrink_after, .. } = *pool.lock().sizes();
        let mut moves = Vec::new();
        let mut roomy = HashMap::new();
        for (endpoint, family, from, previous) in pool.all() {
            if previous.is_some() || from.log <= first_log {
                continue;
            }
            // An endpoint that went in the meantime has no table.
            let Ok(table) = pool.table(family, from, None) else { continue };
            let live = (0..table.slots())
                .filter(|slot| !is_dead(table.meta(*slot).load(Acquire), now))
                .count() as u32;
            let fits = |log: &u8| live <= (WAYS as u32 / SHRINK_MARGIN) << *log;
            let Some(log) = (first_log..from.log - 1).find(fits) else { continue };
            let since = *self.roomy.get(&(endpoint, family)).unwrap_or(&Instant::now());
            roomy.insert((endpoint, family), since);
            if since.elapsed() < shrink_after {
                continue;
            }
            // Without memory for a smaller table, a later round tries again.
            let Ok([to]) = pool.obtain(family, &[log]).as_deref().map(|places| [places[0]]) else {
                continue;
            };
            let mut inner = pool.lock();
            match inner.begin(endpoint, family) {
                Some(ticket) => moves.push(Move::new(endpoint, family, from, to, ticket)),
                None => pool.give_back(&mut inner, family, to)?,
            }
        }
        self.roomy = roomy;
        Ok(moves)
    }

    /// The time by which entries expire, in ticks.
    pub(crate) fn now(&mut self) -> Result<u32, Error> {
        if self.ticker.is_none() {
            self.ticker = Some(Ticker::of(&self.shared, self.clock)?);
        }
        self.ticker.as_ref().expect("just made").now()
    }

    /// Begins to move a table to 2^`log` buckets, and leaves it in both places until
    /// [`Tender::finish`], as a killed process would. None where the endpoint has no table, or
    /// one that is being moved already.
    ///
    /// # Errors
    /// [`Error::System`] where the new table cannot be made or published. The present one stays.
    pub fn begin(
        &mut self,
        endpoint: EndpointId,
        family: Family,
        log: u8,
    ) -> Result<Option<Begun>, Error> {
        let pool = self.pool().clone();
        let [Some(from), None] = pool.places(endpoint, family) else { return Ok(None) };
        let Some(ticket) = pool.lock().begin(endpoint, family) else { return Ok(None) };
        let to = match pool.obtain(family, &[log]) {
            Ok(places) => places[0],
            Err(error) => {
                pool.lock().end(endpoint, family, ticket);
                return Err(error);
            }
        };
        let mut begun = Move::new(endpoint, family, from, to, ticket);
        self.publish(std::slice::from_mut(&mut begun))?;
        Ok(Some(Begun(begun)))
    }

    /// Completes a move. None where the endpoint went in the meantime.
    ///
    /// # Errors
    /// [`Error::System`] where entries cannot be copied or the old table cannot be freed. Packets
    /// go on using both places.
    pub fn finish(&mut self, begun: Begun) -> Result<Option<Moved>, Error> {
        let moved = self.complete(vec![begun.0])?;
        self.pool().sweep()?;
        Ok(moved.first().copied())
    }

    /// Carries moves out from `publish` to `finish`. A failure leaves tables with a previous one,
    /// which the next round resumes.
    fn carry_out(&mut self, mut moves: Vec<Move>) -> Result<Vec<Moved>, Error> {
        self.publish(&mut moves)?;
        self.complete(moves)
    }

    /// Publishes the new places. Where an endpoint went in the meantime, its new place is freed
    /// instead.
    fn publish(&self, moves: &mut [Move]) -> Result<(), Error> {
        let pool = self.pool();
        for m in moves.iter_mut().filter(|m| !m.published) {
            let mut inner = pool.lock();
            let here = pool.places(m.endpoint, m.family);
            if !inner.holds(m.endpoint, m.family, m.ticket) || here[0] != Some(m.from) {
                // The endpoint went and took its tables with it, but not the place that it was to
                // get.
                inner.end(m.endpoint, m.family, m.ticket);
                pool.give_back(&mut inner, m.family, m.to)?;
                continue;
            }
            pool.publish(m.endpoint, m.family, Some(m.to), Some(m.from));
            m.published = true;
        }
        Ok(())
    }

    /// Does what comes after `publish`. Moves that fail are resumed later, as after a kill.
    fn complete(&mut self, mut moves: Vec<Move>) -> Result<Vec<Moved>, Error> {
        let done = self.try_complete(&mut moves);
        let mut inner = self.pool().lock();
        moves.iter().for_each(|m| inner.end(m.endpoint, m.family, m.ticket));
        done
    }

    fn try_complete(&mut self, moves: &mut [Move]) -> Result<Vec<Moved>, Error> {
        if moves.is_empty() {
            return Ok(vec![]);
        }
        let pool = self.pool().clone();
        // From here on every packet makes its entries in the new table, so that none is missed.
        self.grace.wait()?;
        let now = self.now()?;
        for m in moves.iter_mut() {
            m.copy(&pool, self.seed, now)?;
        }
        // A packet that found its entry in the old table before the copy existed may still write
        // there. When it is gone, what it wrote can be merged.
        self.grace.wait()?;
        for m in moves.iter_mut() {
            m.merge(&pool, self.seed, now)?;
        }
        let mut moved = Vec::new();
        let mut left = Vec::new();
        for m in moves.iter() {
            let mut inner = pool.lock();
            if !inner.holds(m.endpoint, m.family, m.ticket) {
                continue;
            }
            pool.publish(m.endpoint, m.family, Some(m.to), None);
            pool.answer(m.endpoint, m.family);
            inner.end(m.endpoint, m.family, m.ticket);
            left.push((m.family, m.from));
            let (before, now) = (m.from.connections(), m.to.connections());
            moved.push(Moved { endpoint: m.endpoint, family: m.family, before, now, lost: m.lost });
        }
        // Packets under way may still read the old tables, which others will get.
        self.grace.wait()?;
        for (family, place) in left {
            pool.give_back(&mut pool.lock(), family, place)?;
        }
        Ok(moved)
    }
}

impl Move {
    fn new(endpoint: EndpointId, family: Family, from: Place, to: Place, ticket: Ticket) -> Self {
        Self { endpoint, family, from, to, ticket, copied: vec![], lost: 0, published: false }
    }

    /// The old and the new table, mapped; None where the endpoint is gone.
    fn tables(&self, pool: &Pool) -> Result<Option<(Table, Table)>, Error> {
        if !pool.lock().holds(self.endpoint, self.family, self.ticket) {
            return Ok(None);
        }
        let tables = [self.from, self.to].map(|place| pool.table(self.family, place, None));
        // The endpoint may have gone between the check and the mapping, which is not an error then.
        match tables {
            [Ok(old), Ok(new)] => Ok(Some((old, new))),
            [Err(error), _] | [_, Err(error)] => {
                if pool.lock().holds(self.endpoint, self.family, self.ticket) {
                    Err(error)
                } else {
                    Ok(None)
                }
            }
        }
    }

    /// Does `work` for all slots of the old table, under the pool's lock, which is released now and
    /// then. Stops when the endpoint goes: its tables may be another one's by then.
    fn each(&self, pool: &Pool, slots: usize, mut work: impl FnMut(usize)) {
        for first in (0..slots).step_by(BATCH) {
            let inner = pool.lock();
            if !inner.holds(self.endpoint, self.family, self.ticket) {
                return;
            }
            (first..(first + BATCH).min(slots)).for_each(&mut work);
            drop(inner);
        }
    }

    /// Copies every live entry that the new table does not have.
    fn copy(&mut self, pool: &Pool, seed: u64, now: u32) -> Result<(), Error> {
        let Some((old, new)) = self.tables(pool)? else { return Ok(()) };
        let (mut copied, mut lost) = (vec![0; old.slots()], 0);
        self.each(pool, old.slots(), |slot| {
            let meta = old.meta(slot).load(Acquire);
            // A busy slot is being written by a packet. It stays 0 in `copied`, and is merged
            // later.
            if is_dead(meta, now) || meta & BUSY != 0 {
                return;
            }
            let key = key_at(&old, slot);
            let hash = hash_of(&key, seed);
            copied[slot] = meta;
            let there =
                state::find(&new, hash, &key).filter(|s| !is_dead(new.meta(*s).load(Acquire), now));
            // Where the entry is there already, a packet made a newer one, or a killed process
            // copied it.
            if there.is_none() && !state::move_in(&new, hash, &key, meta, now) {
                lost += 1;
            }
        });
        (self.copied, self.lost) = (copied, lost);
        Ok(())
    }

    /// Takes over what packets changed in the old table after it was copied, unless other packets
    /// have changed the copy since.
    fn merge(&mut self, pool: &Pool, seed: u64, now: u32) -> Result<(), Error> {
        let Some((old, new)) = self.tables(pool)? else { return Ok(()) };
        self.each(pool, old.slots().min(self.copied.len()), |slot| {
            let (before, meta) = (self.copied[slot], old.meta(slot).load(Acquire));
            if meta == before || meta & BUSY != 0 {
                return;
            }
            let key = key_at(&old, slot);
            if before == 0 {
                // The slot was being written when it should have been copied.
                let there = state::find(&new, hash_of(&key, seed), &key);
                if !is_dead(meta, now)
                    && there.is_none_or(|s| is_dead(new.meta(s).load(Acquire), now))
                {
                    state::move_in(&new, hash_of(&key, seed), &key, meta, now);
                }
                return;
            }
            let Some(there) = state::find(&new, hash_of(&key, seed), &key) else { return };
            // The same tuple with another incarnation means that a packet replaced the entry. The
            // copy of the replaced one goes, and the entry is put anew.
            let same = key_at(&new, there) == key;
            // Where the exchange fails, a packet has changed the copy, which is then ahead of the
            // old entry.
            let taken = new
                .meta(there)
                .compare_exchange(before, if same { meta } else { 0 }, AcqRel, Acquire)
                .is_ok();
            if taken && !same {
                state::put(&new, hash_of(&key, seed), &key, meta, now);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
