//! Growing and shrinking: a generation is replaced by one of another size. That happens at
//! once where a write does not fit, and otherwise ahead of need, with the new one made in a thread.
//! Also here: mending tables that somebody else has changed, for which a new generation is the last
//! resort.
//!
//! Not here: how large tables must be (`needs`), what a generation is (`generation`), tables of
//! connections (`growth`).

use std::time::Instant;

use netpolc_table::Program;
use netpolc_target::{Damage, Error, Target as _};

use super::{Ebpf, capabilities};
use crate::{
    generation::{Ahead, Generation, Recipe},
    layout::Capacities,
    needs::{self, Margin},
    state,
    tables::{Room, Stop},
};

/// What became of filling a generation.
enum Filled {
    /// Everything fits, and the generation judges packets now.
    Everything,
    /// It lacks room of this kind, and was dropped.
    Lacks(Room),
}

impl Ebpf {
    /// Replaces the generation by one with more of `room`. Returns false where the limits do not
    /// allow it.
    pub(super) fn grow(&mut self, room: Room, need: u64) -> Result<bool, Error> {
        let limits = self.config.limits;
        let mut needs = needs::of(&self.read()?);
        needs.retain(|(other, _)| *other != room);
        // A hash table may be full with entries to spare, when they meet in the same buckets. The
        // count then says that nothing more is needed, so that one more than there is must be asked
        // for.
        let (mut now, mut most) = (*self.capacities(), limits);
        let (Some((size, units)), Some((most, _))) = (room.field(&mut now), room.field(&mut most))
        else {
            return Ok(false);
        };
        let least = u64::from(*size) * units + 1;
        if need.max(least) > u64::from(*most) * units {
            return Ok(false);
        }
        needs.push((room, need.max(least)));
        self.grow_to(needs::sizes(&needs, self.capacities(), &limits, Margin::Now))
    }

    /// Grows all tables at once to what `program` needs, where they are too small and the limits
    /// allow it. Each growth loads and verifies all programs anew, so that growing one table after
    /// another, doubling by doubling, would take seconds in which nothing else is enforced.
    ///
    /// # Errors
    /// [`Error::System`] or [`Error::Verifier`] where the larger maps or their programs cannot be
    /// made. What does not fit even then is not an error here, but refused when it is written.
    pub fn make_room(&mut self, program: &Program) -> Result<(), Error> {
        self.may_change()?;
        let needs = needs::of(program);
        if needs::fit(&needs, *self.capacities()) {
            return Ok(());
        }
        let wanted = needs::sizes(&needs, self.capacities(), &self.config.limits, Margin::Now);
        self.grow_to(wanted).map(drop)
    }

    /// Replaces the generation by one of this size. Returns false where the layout does not allow
    /// the size, or where what is installed does not fit into it.
    fn grow_to(&mut self, wanted: Capacities) -> Result<bool, Error> {
        if wanted == *self.capacities() || wanted.check().is_err() {
            return Ok(false);
        }
        // One that a thread has prepared saves the time in which the kernel verifies the programs.
        let mut next = match self.ahead.take().map(Ahead::wait).transpose()? {
            Some(next) if self.follows(&next, &wanted) => next,
            _ => Generation::create(self.recipe(wanted))?,
        };
        loop {
            let wanted = next.tables.maps.capacities;
            match self.change_over(next)? {
                Filled::Everything => break,
                Filled::Lacks(room) => match self.doubled(wanted, room) {
                    Some(larger) => next = Generation::create(self.recipe(larger))?,
                    None => return Ok(false),
                },
            }
        }
        tracing::info!(
            generation = self.generation.number,
            "the tables were replaced by larger ones"
        );
        Ok(true)
    }

    /// These capacities with twice as much of `room`; None where the limits or the layout do not
    /// allow that.
    fn doubled(&self, mut capacities: Capacities, room: Room) -> Option<Capacities> {
        let mut limits = self.config.limits;
        let (field, _) = room.field(&mut capacities)?;
        *field = field
            .checked_mul(2)
            .filter(|size| room.field(&mut limits).is_some_and(|(most, _)| *size <= *most))?;
        capacities.check().is_ok().then_some(capacities)
    }

    /// Whether this is the next generation and at least as large as wanted.
    fn follows(&self, next: &Generation, wanted: &Capacities) -> bool {
        next.number == self.generation.number + 1 && next.tables.maps.capacities.holds(wanted)
    }

    fn recipe(&self, capacities: Capacities) -> Recipe {
        let maps = &self.generation.tables.maps;
        Recipe {
            number: self.generation.number + 1,
            capacities,
            seed: maps.seed,
            clock: maps.clock,
            shared: maps.shared().clone(),
            options: self.config.program,
        }
    }

    /// Checks whether tables will soon be too small, or have long been much too large, and if so
    /// makes the next generation in a thread of its own: verifying its programs takes the kernel
    /// longer than an update should wait. A later call changes over to it. `program` is what is
    /// installed.
    ///
    /// # Errors
    /// The next generation cannot be made or filled; the present one goes on judging.
    pub fn look_ahead(&mut self, program: &Program) -> Result<(), Error> {
        self.may_change()?;
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.is_done()) {
            let next = ahead.wait()?;
            let needs = needs::of(program);
            let made = next.tables.maps.capacities;
            // Since it was begun, a write may have replaced the generation, or outgrown this one
            // too.
            let enough = needs::sizes(&needs, &made, &self.config.limits, Margin::Now) == made;
            if next.number == self.generation.number + 1 && enough {
                match self.change_over(next)? {
                    Filled::Everything => {
                        tracing::info!(
                            generation = self.generation.number,
                            "the tables were replaced by ones of the size that is needed"
                        );
                    }
                    Filled::Lacks(room) => {
                        self.ahead = self
                            .doubled(made, room)
                            .and_then(|larger| Ahead::begin(self.recipe(larger)));
                    }
                }
            }
        }
        if self.ahead.is_some() {
            return Ok(());
        }
        let (needs, present) = (needs::of(program), *self.capacities());
        let wanted = needs::sizes(&needs, &present, &self.config.limits, Margin::Ahead);
        let wanted = match needs::smaller(&needs, &present, &self.config.capacities) {
            Some(smaller) if wanted == present => {
                let since = *self.roomy.get_or_insert_with(Instant::now);
                // Shrinking at once would make a node that empties and fills again grow twice.
                if since.elapsed() < self.config.connections.shrink_after {
                    return Ok(());
                }
                smaller
            }
            _ => wanted,
        };
        self.roomy = None;
        if wanted != present {
            self.ahead = Ahead::begin(self.recipe(wanted));
        }
        Ok(())
    }

    /// Makes the tables take writes again after somebody else has changed them. What they hold is
    /// learned anew. Where it makes no sense, they are replaced by new ones that hold `program`;
    /// so they are where it cannot be read by others, since then nobody knows what else is wrong.
    ///
    /// # Errors
    /// [`Error::System`] or [`Error::Verifier`] where new tables or their programs cannot be made.
    pub fn mend(&mut self, damage: Damage, program: &Program) -> Result<(), Error> {
        self.may_change()?;
        // What was freed before may be used again by whoever learns the tables anew.
        self.grace.wait()?;
        if damage == Damage::Differs {
            let learned = self.generation.tables.relearn().and_then(|()| self.read());
            match learned {
                Err(Error::Installed(why)) => tracing::warn!(%why, "the tables make no sense"),
                learned => return learned.map(drop),
            }
        }
        let mut next = Generation::create(self.recipe(*self.capacities()))?;
        loop {
            let made = next.tables.maps.capacities;
            let room = match self.replace(next, program)? {
                Filled::Everything => break,
                Filled::Lacks(room) => room,
            };
            let larger = self.doubled(made, room).ok_or_else(|| {
                Error::Installed("new tables have no room for what the old ones held".into())
            })?;
            next = Generation::create(self.recipe(larger))?;
        }
        tracing::warn!(
            generation = self.generation.number,
            "the tables could not be understood and were replaced by new ones"
        );
        Ok(())
    }

    /// Makes `next` the generation that judges, where what is installed fits into it.
    fn change_over(&mut self, next: Generation) -> Result<Filled, Error> {
        // Ids that the last update freed may be in use by packets until a grace period has passed.
        self.settle()?;
        let program = self.read()?;
        self.replace(next, &program)
    }

    /// Makes `next` the generation that judges, where `program` fits into it.
    fn replace(&mut self, mut next: Generation, program: &Program) -> Result<Filled, Error> {
        match next.fill(program, &self.grace) {
            Ok(()) => {}
            Err(Stop::Other(e)) => return Err(e),
            // Entries meet in other buckets than before, so that by chance even a larger table may
            // be full.
            Err(Stop::Room { room, .. }) => return Ok(Filled::Lacks(room)),
        }
        // Pinned before any interface carries its programs: whoever is killed here leaves a
        // complete generation with the highest number, to which the next start changes over.
        if self.pins.is_none() {
            next.tables.lend_low_interfaces();
        } else if let Some(pins) = &self.pins {
            next.pin(pins)?;
        }
        let old = std::mem::replace(&mut self.generation, next);
        self.attachments.replace(&self.generation.programs, self.pins.as_ref())?;
        // No packet runs an old program after this, so that its counters are final.
        self.grace.wait()?;
        state::add_counts(&old.tables.maps, &self.generation.tables.maps)?;
        self.board.follow(&self.generation.tables.maps)?;
        if let Some(pins) = &self.pins {
            pins.discard(&pins.generation(old.number))?;
        }
        self.capabilities = capabilities(self.capacities(), &self.config);
        Ok(Filled::Everything)
    }
}
