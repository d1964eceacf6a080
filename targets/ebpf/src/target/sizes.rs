//! The sizes of tables follow what is needed: a generation is replaced by one of another size, at
//! once where something does not fit, or ahead of that, made in a thread.
//!
//! Not here: how large tables must be (`needs`), what a generation is (`generation`), tables of
//! connections (`growth`).

use std::time::Instant;

use netpolc_table::Program;
use netpolc_target::{Error, Target as _};

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
    /// It judges now.
    Everything,
    /// It lacks room of this kind, and is gone.
    Lacks(Room),
}

impl Ebpf {
    /// Replaces the generation by one with more of `room`. False: the limits do not allow it.
    pub(super) fn grow(&mut self, room: Room, need: u64) -> Result<bool, Error> {
        let limits = self.config.limits;
        let mut needs = needs::of(&self.read()?);
        needs.retain(|(other, _)| *other != room);
        // Where entries meet by chance, what is needed is no more than there is.
        let (mut now, mut most) = (*self.capacities(), limits);
        let (Some((size, units)), Some((most, _))) = (room.field(&mut now), room.field(&mut most)) else {
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
    /// allow it: each growth loads and checks all programs anew, so that growing one table after
    /// another, doubling by doubling, would take seconds in which nothing else is enforced.
    ///
    /// # Errors
    /// The larger maps or their programs cannot be made. What does not fit even then is refused when
    /// it is written.
    pub fn make_room(&mut self, program: &Program) -> Result<(), Error> {
        self.may_change()?;
        let needs = needs::of(program);
        if needs::fit(&needs, *self.capacities()) {
            return Ok(());
        }
        let wanted = needs::sizes(&needs, self.capacities(), &self.config.limits, Margin::Now);
        self.grow_to(wanted).map(drop)
    }

    /// False: the layout does not allow it, or what is there does not fit.
    fn grow_to(&mut self, wanted: Capacities) -> Result<bool, Error> {
        if wanted == *self.capacities() || wanted.check().is_err() {
            return Ok(false);
        }
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
        tracing::info!(generation = self.generation.number, "tables grew to what is needed");
        Ok(true)
    }

    /// With twice as much of `room`, where the limits and the layout allow that.
    fn doubled(&self, mut capacities: Capacities, room: Room) -> Option<Capacities> {
        let mut limits = self.config.limits;
        let (field, _) = room.field(&mut capacities)?;
        *field = field.checked_mul(2).filter(|size| room.field(&mut limits).is_some_and(|(most, _)| *size <= *most))?;
        capacities.check().is_ok().then_some(capacities)
    }

    /// Is this the next generation, and as large as wanted?
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

    /// Looks whether tables will soon be too small for what changes, or have long been much too
    /// large, and makes the next generation in a thread of its own: checking its programs takes the
    /// kernel longer than anybody should wait. Changes over when that is done. `program` is what is
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
            let enough = needs::sizes(&needs, &made, &self.config.limits, Margin::Now) == made;
            if next.number == self.generation.number + 1 && enough {
                match self.change_over(next)? {
                    Filled::Everything => {
                        tracing::info!(generation = self.generation.number, "tables have the size that is needed");
                    }
                    Filled::Lacks(room) => {
                        self.ahead = self.doubled(made, room).and_then(|larger| Ahead::begin(self.recipe(larger)));
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
                if since.elapsed() < self.config.connections.patience {
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

    /// Makes `next` the generation that judges, where what is there fits.
    fn change_over(&mut self, mut next: Generation) -> Result<Filled, Error> {
        self.settle()?;
        let program = self.read()?;
        match next.fill(&program, &self.grace) {
            Ok(()) => {}
            Err(Stop::Other(e)) => return Err(e),
            // By chance of hashes there may be room for less than before.
            Err(Stop::Room { room, .. }) => return Ok(Filled::Lacks(room)),
        }
        if self.pins.is_none() {
            next.tables.lend_low_interfaces();
        } else if let Some(pins) = &self.pins {
            next.pin(pins)?;
        }
        let old = std::mem::replace(&mut self.generation, next);
        self.attachments.replace(&self.generation.programs, self.pins.as_ref())?;
        self.grace.wait()?;
        state::add_counts(&old.tables.maps, &self.generation.tables.maps);
        if let Some(pins) = &self.pins {
            pins.discard(&pins.generation(old.number))?;
        }
        self.capabilities = capabilities(self.capacities(), &self.config);
        Ok(Filled::Everything)
    }
}
