//! Tables of connections get another size while packets use them: larger when packets find little
//! room, smaller when they have been much too large for a while.
//!
//! ```text
//! make      a place for the new table, perhaps in new chunks
//! publish   new table present, old one previous: a packet looks in both, and makes entries in the
//!           new one; then a grace period
//! copy      every live entry; then a grace period
//! merge     what packets that found an entry in the old table changed after it was copied
//! finish    the old table is nobody's; then a grace period, and it goes
//! ```
//!
//! Whoever is killed between leaves a table with a previous one, in which packets go on; the next
//! [`Tender`] starts again at `copy`. All tables that move at one time share the grace periods. Not
//! here: where tables stand (`pool`).

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

/// Slots that are copied without letting others look at the pool.
const AT_ONCE: usize = 1 << 13;
/// How often tables are looked at for whether they are too large.
const LOOK: Duration = Duration::from_secs(30);
/// How long a table that found no budget is not asked about again.
const REFUSED: Duration = Duration::from_secs(5);
/// First tables that are kept ready, so that no pod waits for a chunk.
const READY: usize = 8;
/// A table shrinks where it would be filled by one part in so many afterwards at most.
const ROOMY: u32 = 4;

/// A table that got another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Whose.
    pub endpoint: EndpointId,
    /// Which of its two.
    pub family: Family,
    /// Connections that had room before, whatever their hashes are.
    pub before: u32,
    /// And now.
    pub now: u32,
    /// Entries that found no place in the new table; their connections are judged as new.
    pub lost: usize,
}

/// A move that has begun.
#[derive(Debug)]
pub struct Begun(Move);

#[derive(Debug)]
struct Move {
    endpoint: EndpointId,
    family: Family,
    from: Place,
    to: Place,
    ticket: Ticket,
    /// Meta words of the old table, as they were copied.
    copied: Vec<u64>,
    lost: usize,
    /// The record names both places.
    published: bool,
}

/// Looks after the sizes of tables of connections. A writer's thread of its own may hold it:
/// nothing that it does keeps the target waiting.
pub struct Tender {
    shared: Shared,
    seed: u64,
    clock: Clock,
    ticker: Option<Ticker>,
    grace: Grace,
    ring: Option<RingBuf<MapData>>,
    looked: Option<Instant>,
    /// Since when a table has been much too large.
    roomy: HashMap<(EndpointId, Family), Instant>,
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
            looked: None,
            roomy: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    fn pool(&self) -> &Arc<Pool> {
        self.shared.pool()
    }

    /// Waits until some packet finds little room, or as long.
    ///
    /// # Errors
    /// The ring buffer of what is wanted cannot be opened.
    pub fn wait(&mut self, most: Duration) -> Result<(), Error> {
        let fd = self.shared.fd(MapId::Wanted);
        sys::wait_readable(fd, most);
        let ring = match &mut self.ring {
            Some(ring) => ring,
            None => {
                let refuse = |e| refused("map wanted", e);
                let fd = fd.try_clone_to_owned().map_err(refuse)?;
                let map = MapData::from_fd(fd).map_err(|e| refuse(map_error(e)))?;
                let ring = RingBuf::try_from(aya::maps::Map::RingBuf(map)).map_err(|e| refuse(map_error(e)))?;
                self.ring.insert(ring)
            }
        };
        // What is wanted is in the records; the ring only wakes.
        while ring.next().is_some() {}
        Ok(())
    }

    /// Gives tables the size that they need now, and keeps first tables ready for pods that come.
    ///
    /// # Errors
    /// A table cannot be made or published; packets go on in the tables that there are.
    pub fn tend(&mut self) -> Result<Vec<Moved>, Error> {
        let (pool, now) = (self.pool().clone(), Instant::now());
        for family in Family::BOTH {
            pool.keep_ready(family, READY)?;
        }
        self.refused.retain(|_, since| since.elapsed() < REFUSED);
        let mut moves = self.resumed();
        let begun = self.begin_moves(&mut moves, now);
        // What could be begun goes on whatever else was refused.
        let moved = self.carry_out(moves)?;
        pool.sweep()?;
        begun.map(|()| moved)
    }

    /// Begins the moves that are due.
    fn begin_moves(&mut self, moves: &mut Vec<Move>, now: Instant) -> Result<(), Error> {
        let pool = self.pool().clone();
        let wanting: Vec<_> = pool.wanting().into_iter().filter(|table| !self.refused.contains_key(table)).collect();
        for family in Family::BOTH {
            let of_it = wanting.iter().filter(|(_, f)| *f == family).map(|(endpoint, _)| (*endpoint, 0));
            moves.extend(self.enlarge(family, of_it)?);
        }
        for (endpoint, family) in wanting {
            if !moves.iter().any(|m: &Move| (m.endpoint, m.family) == (endpoint, family)) {
                // Its packets need not say it again until then.
                self.refused.insert((endpoint, family), now);
            }
        }
        let due = self.looked.is_none_or(|last| last.elapsed() >= LOOK.min(pool.lock().sizes().patience));
        if due {
            self.looked = Some(now);
            moves.extend(self.shrinking()?);
        }
        Ok(())
    }

    /// Gives a table room for so many connections at once, as far as it may.
    pub(crate) fn reserve(&mut self, endpoint: EndpointId, family: Family, connections: u32) -> Result<(), Error> {
        let [present, _] = self.pool().places(endpoint, family);
        if present.is_none_or(|place| place.connections() >= connections) {
            return Ok(());
        }
        let moves = self.enlarge(family, [(endpoint, connections)].into_iter())?;
        self.carry_out(moves)?;
        Ok(())
    }

    /// Begins to move tables to a larger size, for so many connections at least.
    fn enlarge(&mut self, family: Family, tables: impl Iterator<Item = (EndpointId, u32)>) -> Result<Vec<Move>, Error> {
        let pool = self.pool().clone();
        let mut begun = Vec::new();
        {
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
                begun.iter().for_each(|(endpoint, _, _, ticket)| inner.end(*endpoint, family, *ticket));
                return Err(error);
            }
        };
        let moves = begun.into_iter().zip(places);
        Ok(moves.map(|((endpoint, from, _, ticket), to)| Move::new(endpoint, family, from, to, ticket)).collect())
    }

    /// Moves that a killed process began.
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

    /// Begins to move tables that have been much too large for long.
    fn shrinking(&mut self) -> Result<Vec<Move>, Error> {
        let (pool, now) = (self.pool().clone(), self.now()?);
        let Connections { first_log, patience, .. } = *pool.lock().sizes();
        let mut moves = Vec::new();
        let mut roomy = HashMap::new();
        for (endpoint, family, from, previous) in pool.all() {
            if previous.is_some() || from.log <= first_log {
                continue;
            }
            // Whoever went meanwhile has none.
            let Ok(table) = pool.table(family, from, None) else { continue };
            let live = (0..table.slots()).filter(|slot| !is_dead(table.meta(*slot).load(Acquire), now)).count() as u32;
            let fits = |log: &u8| live <= (WAYS as u32 / ROOMY) << *log;
            let Some(log) = (first_log..from.log - 1).find(fits) else { continue };
            let since = *self.roomy.get(&(endpoint, family)).unwrap_or(&Instant::now());
            roomy.insert((endpoint, family), since);
            if since.elapsed() < patience {
                continue;
            }
            // No memory for a smaller one: later.
            let Ok([to]) = pool.obtain(family, &[log]).as_deref().map(|places| [places[0]]) else { continue };
            let mut inner = pool.lock();
            match inner.begin(endpoint, family) {
                Some(ticket) => moves.push(Move::new(endpoint, family, from, to, ticket)),
                None => pool.give_back(&mut inner, family, to)?,
            }
        }
        self.roomy = roomy;
        Ok(moves)
    }

    /// The time of entries, in ticks.
    pub(crate) fn now(&mut self) -> Result<u32, Error> {
        if self.ticker.is_none() {
            self.ticker = Some(Ticker::of(&self.shared, self.clock)?);
        }
        self.ticker.as_ref().expect("just made").now()
    }

    /// Begins to move a table to another size, and leaves it in both places until
    /// [`Tender::finish`]: what a killed process leaves. None where the endpoint has no table, or
    /// one that is being moved.
    ///
    /// # Errors
    /// The new table cannot be made or published; the present one stays.
    pub fn begin(&mut self, endpoint: EndpointId, family: Family, log: u8) -> Result<Option<Begun>, Error> {
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

    /// Ends what was begun.
    ///
    /// # Errors
    /// Entries cannot be copied, or the old table not taken away; packets go on in both.
    pub fn finish(&mut self, begun: Begun) -> Result<Option<Moved>, Error> {
        let moved = self.complete(vec![begun.0])?;
        self.pool().sweep()?;
        Ok(moved.first().copied())
    }

    /// From `publish` to `finish`. What fails leaves tables with a previous one.
    fn carry_out(&mut self, mut moves: Vec<Move>) -> Result<Vec<Moved>, Error> {
        self.publish(&mut moves)?;
        self.complete(moves)
    }

    /// What was not published stays so, and its place is free again.
    fn publish(&self, moves: &mut [Move]) -> Result<(), Error> {
        let pool = self.pool();
        for m in moves.iter_mut().filter(|m| !m.published) {
            let mut inner = pool.lock();
            let here = pool.places(m.endpoint, m.family);
            if !inner.holds(m.endpoint, m.family, m.ticket) || here[0] != Some(m.from) {
                // The endpoint went; its tables with it, but not what it was to get.
                inner.end(m.endpoint, m.family, m.ticket);
                pool.give_back(&mut inner, m.family, m.to)?;
                continue;
            }
            pool.publish(m.endpoint, m.family, Some(m.to), Some(m.from));
            m.published = true;
        }
        Ok(())
    }

    /// What comes after `publish`. Where it fails, what was published is begun again as after a
    /// kill.
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
        self.grace.wait()?;
        let now = self.now()?;
        for m in moves.iter_mut() {
            m.copy(&pool, self.seed, now)?;
        }
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

    /// Both tables; None where the endpoint has gone.
    fn tables(&self, pool: &Pool) -> Result<Option<(Table, Table)>, Error> {
        if !pool.lock().holds(self.endpoint, self.family, self.ticket) {
            return Ok(None);
        }
        let tables = [self.from, self.to].map(|place| pool.table(self.family, place, None));
        // It may have gone in between.
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

    /// Does `work` for all slots of the old table, as long as the endpoint is there.
    fn each(&self, pool: &Pool, slots: usize, mut work: impl FnMut(usize)) {
        for first in (0..slots).step_by(AT_ONCE) {
            let inner = pool.lock();
            if !inner.holds(self.endpoint, self.family, self.ticket) {
                return;
            }
            (first..(first + AT_ONCE).min(slots)).for_each(&mut work);
            drop(inner);
        }
    }

    /// Copies every live entry that the new table does not have.
    fn copy(&mut self, pool: &Pool, seed: u64, now: u32) -> Result<(), Error> {
        let Some((old, new)) = self.tables(pool)? else { return Ok(()) };
        let (mut copied, mut lost) = (vec![0; old.slots()], 0);
        self.each(pool, old.slots(), |slot| {
            let meta = old.meta(slot).load(Acquire);
            if is_dead(meta, now) || meta & BUSY != 0 {
                return;
            }
            let key = key_at(&old, slot);
            let hash = hash_of(&key, seed);
            copied[slot] = meta;
            let there = state::find(&new, hash, &key).filter(|s| !is_dead(new.meta(*s).load(Acquire), now));
            // A packet made a newer one, or this was begun once before.
            if there.is_none() && !state::move_in(&new, hash, &key, meta, now) {
                lost += 1;
            }
        });
        (self.copied, self.lost) = (copied, lost);
        Ok(())
    }

    /// Takes over what packets changed in the old table after it was copied, unless others changed
    /// the copy.
    fn merge(&mut self, pool: &Pool, seed: u64, now: u32) -> Result<(), Error> {
        let Some((old, new)) = self.tables(pool)? else { return Ok(()) };
        self.each(pool, old.slots().min(self.copied.len()), |slot| {
            let (before, meta) = (self.copied[slot], old.meta(slot).load(Acquire));
            if meta == before || meta & BUSY != 0 {
                return;
            }
            let key = key_at(&old, slot);
            if before == 0 {
                // It was being written when it should have been copied.
                let there = state::find(&new, hash_of(&key, seed), &key);
                if !is_dead(meta, now) && there.is_none_or(|s| is_dead(new.meta(s).load(Acquire), now)) {
                    state::move_in(&new, hash_of(&key, seed), &key, meta, now);
                }
                return;
            }
            let Some(there) = state::find(&new, hash_of(&key, seed), &key) else { return };
            let same = key_at(&new, there) == key;
            // Where it fails, the copy is ahead.
            let taken = new.meta(there).compare_exchange(before, if same { meta } else { 0 }, AcqRel, Acquire).is_ok();
            if taken && !same {
                state::put(&new, hash_of(&key, seed), &key, meta, now);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
