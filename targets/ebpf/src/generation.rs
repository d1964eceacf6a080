//! A generation, which is tables and the three programs that read them: made, filled, pinned, and
//! opened again.
//!
//! Not here: when a generation is replaced (`target/sizes`).

use netpolc_table::{Program, TableId, Write};
use netpolc_target::{Error, Hook};

use crate::{
    asm::{Code, MapRef, MapUse},
    attach::{Programs, hook_name},
    layout::{Capacities, Clock},
    loader::Loaded,
    maps::{Header, Maps, Shared},
    memory::Region,
    pins::Pins,
    program::{self, Options, Parameters},
    settle::Grace,
    tables::{Access, Stop, Tables},
};

/// Tables with the programs that read them.
#[derive(Debug)]
pub(crate) struct Generation {
    /// The generation's number, from 1, which names its pins.
    pub number: u64,
    pub tables: Tables,
    pub programs: Programs,
    /// The map in which programs count that were generated for a measurement.
    _counter: Option<Region>,
}

/// Generates the code of all hooks for these maps.
pub(crate) fn code(maps: &Maps, options: &Options) -> Result<[(Hook, Code); 3], Error> {
    let parameters = Parameters { capacities: maps.capacities, seed: maps.seed, clock: maps.clock };
    let generate = |hook: Hook| {
        let made = program::generate(hook, &parameters, options);
        let refuse = |e: crate::asm::AsmError| Error::Verifier {
            program: hook_name(hook).into(),
            at: "the generator".into(),
            log: e.to_string(),
        };
        made.map(|code| (hook, code)).map_err(refuse)
    };
    Ok([generate(Hook::ToPod)?, generate(Hook::FromPod)?, generate(Hook::Translated)?])
}

/// A number that tells generated code apart (FNV-1a over the instructions). Maps count by their id,
/// not by their descriptor, which differs from process to process. Never 0, which in a header means
/// unknown.
fn fingerprint(code: &[(Hook, Code); 3]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for (_, code) in code {
        for insn in &code.insns {
            let map = match insn.map {
                None => 0,
                Some(MapUse::Map(MapRef::Table(m)) | MapUse::Value(MapRef::Table(m))) => {
                    1 + m as u64
                }
                Some(MapUse::Map(MapRef::Extra(m)) | MapUse::Value(MapRef::Extra(m))) => {
                    1000 + u64::from(m)
                }
            };
            let word =
                u64::from(insn.code) | u64::from(insn.regs) << 8 | u64::from(insn.off as u16) << 16;
            for part in [word | u64::from(insn.imm as u32) << 32, map] {
                hash = (hash ^ part).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    hash.max(1)
}

fn load(
    maps: &Maps,
    code: &[(Hook, Code); 3],
    counter: Option<&Region>,
) -> Result<Programs, Error> {
    let descriptor = |map| match map {
        MapRef::Table(id) => maps.fd(id),
        MapRef::Extra(_) => counter.map_or(-1, Region::raw_fd),
    };
    let load = |(hook, code): &(Hook, Code)| {
        Loaded::load(&format!("np_{}", hook_name(*hook)), code, descriptor).map(|p| (*hook, p))
    };
    // Verifying the programs takes most of the time, and the kernel verifies several at once.
    std::thread::scope(|scope| {
        let [first, second, third] = code.each_ref().map(|one| scope.spawn(move || load(one)));
        let done = |one: std::thread::ScopedJoinHandle<'_, _>| {
            one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok([done(first)?, done(second)?, done(third)?])
    })
}

/// What a generation is made from.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub number: u64,
    pub capacities: Capacities,
    pub seed: u64,
    pub clock: Clock,
    pub shared: Shared,
    pub options: Options,
}

/// A generation that a thread makes while the present one judges packets.
#[derive(Debug)]
pub(crate) struct Ahead(std::thread::JoinHandle<Result<Generation, Error>>);

impl Ahead {
    /// Starts the thread; None where none can be started now.
    pub fn begin(recipe: Recipe) -> Option<Self> {
        std::thread::Builder::new()
            .name("generation".into())
            .spawn(move || Generation::create(recipe))
            .ok()
            .map(Self)
    }

    /// Whether [`Ahead::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the thread and returns the generation.
    pub fn wait(self) -> Result<Generation, Error> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Generation {
    /// Makes empty tables of this size, with programs.
    pub fn create(recipe: Recipe) -> Result<Self, Error> {
        let Recipe { number, capacities, seed, clock, shared, options } = recipe;
        capacities.check().map_err(|e| Error::Argument(format!("capacities: {e}")))?;
        let maps = Maps::create(capacities, seed, clock, shared)?;
        let code = code(&maps, &options)?;
        maps.set_code(fingerprint(&code));
        #[cfg(feature = "measure")]
        let counter = options.measure.vary.map(|_| Region::create("np_counter", 4)).transpose()?;
        #[cfg(not(feature = "measure"))]
        let counter = None;
        let programs = load(&maps, &code, counter.as_ref())?;
        Ok(Self { number, tables: Tables::open(maps, Access::Write)?, programs, _counter: counter })
    }

    /// Puts a whole program into empty tables. The order of the tables does not matter, since no
    /// packet reads them yet.
    pub fn fill(&mut self, program: &Program, grace: &Grace) -> Result<(), Stop> {
        for table in program.tables().filter(|t| !t.entries.is_empty()) {
            let put = table.entries.iter().map(|(k, e)| (k.clone(), e.clone())).collect();
            self.tables.write(&Write { table: table.id, remove: vec![], put }, grace)?;
        }
        debug_assert_eq!(TableId::ALL.len(), program.tables().count());
        Ok(())
    }

    /// Pins tables and programs under the generation's number, all of them or none.
    pub fn pin(&self, pins: &Pins) -> Result<(), Error> {
        pins.complete(&pins.generation(self.number), |dir| self.pin_into(dir))
    }

    /// Pins in `dir` what is not pinned there yet.
    pub fn pin_into(&self, dir: &std::path::Path) -> Result<(), Error> {
        self.tables.maps.pin(dir)?;
        self.programs.iter().try_for_each(|(hook, program)| {
            crate::maps::pin(program.fd(), &dir.join(hook_name(*hook)))
        })
    }

    /// The names of the generation's pins.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tables.maps.names().chain(self.programs.iter().map(|(hook, _)| hook_name(*hook)))
    }

    /// Opens a pinned generation, with its header. Another version of netpolc may have generated
    /// its programs; [`Generation::renew`] compares them.
    pub fn open(
        pins: &Pins,
        number: u64,
        shared: Shared,
        access: Access,
    ) -> Result<(Self, Header), Error> {
        let dir = pins.generation(number);
        let header = Maps::header(&dir)?;
        let maps = Maps::open(&dir, &header, shared)?;
        let open = |hook: Hook| Loaded::pinned(&dir.join(hook_name(hook))).map(|p| (hook, p));
        let programs = [open(Hook::ToPod)?, open(Hook::FromPod)?, open(Hook::Translated)?];
        Ok((Self { number, tables: Tables::open(maps, access)?, programs, _counter: None }, header))
    }

    /// Where the pinned programs are not those that this netpolc generates, loads its own and
    /// returns them with their fingerprint, for [`Generation::repin`]. None where they are the
    /// same.
    pub fn renew(
        &self,
        header: &Header,
        options: &Options,
    ) -> Result<Option<(Programs, u64)>, Error> {
        let code = code(&self.tables.maps, options)?;
        let wanted = fingerprint(&code);
        if wanted == header.code {
            Ok(None)
        } else {
            Ok(Some((load(&self.tables.maps, &code, None)?, wanted)))
        }
    }

    /// Replaces the pinned programs. The interfaces must carry the new ones already: the
    /// fingerprint is stored last, so that whoever is killed before replaces them once more.
    pub fn repin(&mut self, pins: &Pins, programs: Programs, code: u64) -> Result<(), Error> {
        let dir = pins.generation(self.number);
        for (hook, program) in &programs {
            let (path, new) =
                (dir.join(hook_name(*hook)), dir.join(format!("{}_new", hook_name(*hook))));
            let refuse = |e| crate::sys::refused(format!("replace {}", path.display()), e);
            if new.exists() {
                std::fs::remove_file(&new).map_err(refuse)?;
            }
            crate::sys::pin(program.fd(), &new).map_err(refuse)?;
            std::fs::rename(&new, &path).map_err(refuse)?;
        }
        self.tables.maps.set_code(code);
        self.programs = programs;
        Ok(())
    }

    pub fn program(&self, hook: Hook) -> &Loaded {
        let found = self.programs.iter().find(|(h, _)| *h == hook);
        &found.expect("every hook has one").1
    }
}
