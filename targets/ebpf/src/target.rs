//! [`Ebpf`], the target itself. Private instances serve queries, tests and benchmarks, pinned ones
//! a node.
//!
//! A write that exceeds a capacity makes a larger generation ([`sizes`]): new maps and programs
//! are filled from the old ones, then each interface's programs are exchanged. Connection state is
//! common to all generations. Not here: how entries become stores (`tables`), attaching (`attach`),
//! names on the BPF file system (`pins`).

mod packets;
mod sizes;

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use netpolc_table::{EndpointId, IfIndex, Program, Write, schema::Family};
use netpolc_target::{Capabilities, Compared, Error, Hook, Target, semantics::DropReason};

use crate::{
    attach::{Attachment, Attachments, Mode, Role, Way},
    config::{Config, Hold},
    generation::{self, Ahead, Generation, Recipe},
    growth::Tender,
    layout::{self, Capacities, Clock, MapId, exact, state::Place},
    maps::{MapFacts, Shared},
    pins::Pins,
    recorder::{self, Board},
    settle::Grace,
    state::{self, Amendment, Connection, Inserted, Live},
    sys::{self, refused},
    tables::{Access, Stop},
};

/// How often an observer reads before it reports that what it sees makes no sense: a writer may be
/// halfway through an update.
const READ_ATTEMPTS: u32 = 5;
/// How long an observer waits between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The eBPF target: one generation of tables and programs, and the interfaces that carry them.
#[derive(Debug)]
pub struct Ebpf {
    config: Config,
    capabilities: Capabilities,
    generation: Generation,
    attachments: Attachments,
    pins: Option<Pins>,
    grace: Grace,
    tender: Tender,
    access: Access,
    last_drop: Option<DropReason>,
    board: Board,
    /// The reader of records for whoever asks about single packets.
    records: Option<recorder::Reader>,
    /// By how much the clock was moved.
    advanced: Duration,
    /// The next generation, while a thread makes it.
    ahead: Option<Ahead>,
    /// Since when the tables have been much too large; None while they are not.
    roomy: Option<Instant>,
}

/// What the target may promise: what the present tables hold, and as much more as they may grow to.
fn capabilities(c: &Capacities, config: &Config) -> Capabilities {
    let limits = &config.limits;
    Capabilities {
        endpoints: limits.endpoints.max(c.endpoints),
        sets: limits.sets.max(c.sets),
        classes_v4: limits.classes_v4.max(c.classes_v4),
        classes_v6: limits.classes_v6.max(c.classes_v6).min(exact::CLASSES),
        rows: limits.rows.max(c.rows).min(0xffff),
        port_classes: limits.port_words.max(c.port_words) * 64,
        connections: config.connections.holds(config.connections.most_log),
    }
}

/// Pins what is missing in a directory of pins and returns a line that says what that was; None
/// where nothing was missing. Where the whole directory is missing, it appears complete or not at
/// all.
fn restore(
    pins: &Pins,
    dir: &Path,
    names: impl Iterator<Item = String>,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<Option<String>, Error> {
    let missing: Vec<String> = names.filter(|name| !dir.join(name).exists()).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    if dir.exists() {
        fill(dir)?
    } else {
        pins.complete(dir, fill)?
    }
    Ok(Some(format!(
        "pins in {} had been taken away and are back: {}",
        dir.display(),
        missing.join(", ")
    )))
}

/// Creates the first generation, with shared maps of its own. `keep` gets those before anything
/// uses them, so that it can pin them.
fn first(
    config: &Config,
    keep: impl FnOnce(&Shared) -> Result<(), Error>,
) -> Result<Generation, Error> {
    let checked = config.capacities.check().and_then(|()| config.connections.check());
    checked.map_err(|e| Error::Argument(format!("capacities: {e}")))?;
    let clock = Clock { hz: sys::jiffies_per_second() };
    let shared = Shared::create(&config.capacities, clock)?;
    keep(&shared)?;
    let (capacities, options) = (config.capacities, config.program);
    let seed = config.seed.map_or_else(random, Ok)?;
    Generation::create(Recipe { number: 1, capacities, seed, clock, shared, options })
}

/// 64 bits from the kernel's random numbers. A seed that anybody could guess would let remotes
/// choose addresses and ports that meet in one bucket, so that there is no substitute for them.
fn random() -> Result<u64, Error> {
    let mut bytes = [0u8; 8];
    // SAFETY: the kernel writes at most as many bytes as it is told, which is the size of `bytes`,
    // and `bytes` is borrowed mutably for the whole call.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match read {
        8 => Ok(u64::from_ne_bytes(bytes)),
        // Fewer bytes than asked for come only with large requests or signals; neither is possible
        // here.
        0.. => Err(refused("getrandom", std::io::ErrorKind::UnexpectedEof.into())),
        _ => Err(refused("getrandom", std::io::Error::last_os_error())),
    }
}

impl Ebpf {
    /// Creates maps and programs that belong to this process alone. Packets are judged by
    /// [`netpolc_target::Datapath::packet`], or on interfaces, which are detached when the value is
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Argument`] where `config` has impossible sizes, [`Error::System`] where the kernel
    /// refuses a map (usually for lack of root or memory), [`Error::Verifier`] where it refuses a
    /// program.
    pub fn private(config: Config) -> Result<Self, Error> {
        let mut generation = first(&config, |_| Ok(()))?;
        generation.tables.lend_low_interfaces();
        Ok(Self::with(config, generation, Attachments::default(), None))
    }

    fn with(
        config: Config,
        generation: Generation,
        attachments: Attachments,
        pins: Option<Pins>,
    ) -> Self {
        let capabilities = capabilities(&generation.tables.maps.capacities, &config);
        generation.tables.maps.shared().set_sizes(config.connections);
        let tender = Tender::new(&generation.tables.maps);
        Self {
            config,
            capabilities,
            generation,
            attachments,
            pins,
            grace: Grace::default(),
            tender,
            access: Access::Write,
            last_drop: None,
            board: Board::default(),
            records: None,
            advanced: Duration::ZERO,
            ahead: None,
            roomy: None,
        }
    }

    /// Opens what is pinned under `pins`, or creates it, and completes what a killed process began.
    /// Only one process at a time can have it open.
    ///
    /// # Errors
    /// [`Error::InUse`] where another process has it open, [`Error::Installed`] where another
    /// version pinned it; otherwise as [`Ebpf::private`].
    pub fn open(pins: impl AsRef<Path>, config: Config) -> Result<Self, Error> {
        let pins = Pins::open(pins.as_ref())?;
        let numbers = pins.generations()?;
        let Some((&number, older)) = numbers.split_last() else {
            // Without tables nothing is judged. Whatever else lies there was left by an interrupted
            // removal or start.
            Attachments::open(&pins, Access::Write)?.detach_all(Some(&pins))?;
            pins.discard(&pins.shared())?;
            let generation = first(&config, |shared| {
                pins.complete(&pins.shared(), |dir| shared.pin(dir))?;
                shared.pool().set_pins(&pins.shared());
                Ok(())
            })?;
            generation.pin(&pins)?;
            return Ok(Self::with(config, generation, Attachments::default(), Some(pins)));
        };
        let header = crate::maps::Maps::header(&pins.generation(number))?;
        let shared = Shared::open(&pins.shared(), &header.capacities, Access::Write)?;
        let (mut generation, header) = Generation::open(&pins, number, shared, Access::Write)?;
        let mut attachments = Attachments::open(&pins, Access::Write)?;
        match generation.renew(&header, &config.program)? {
            Some((programs, code)) => {
                attachments.replace(&programs, Some(&pins))?;
                generation.repin(&pins, programs, code)?;
            }
            // A process may have been killed before every interface carried the newest programs.
            None => attachments.replace(&generation.programs, Some(&pins))?,
        }
        for &old in older {
            pins.discard(&pins.generation(old))?;
        }
        Ok(Self::with(config, generation, attachments, Some(pins)))
    }

    /// Opens what is pinned for reading, while another process may be writing it. None means that
    /// nothing is pinned. Calls that would change something are refused. [`Target::read`] decodes
    /// the maps anew each time, and tries again where it met a half-finished write.
    ///
    /// # Errors
    /// [`Error::Installed`] where another version pinned it, [`Error::System`] where a pin cannot
    /// be opened.
    pub fn observe(pins: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        let mut last = None;
        for _ in 0..READ_ATTEMPTS {
            let Some(pins) = Pins::look(pins.as_ref())? else { return Ok(None) };
            match Self::look(pins) {
                Ok(ebpf) => return Ok(Some(ebpf)),
                // The tables may be growing just now, and the generation that was found be gone.
                Err(error) => last = Some(error),
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        Err(last.expect("tried at least once"))
    }

    fn look(pins: Pins) -> Result<Self, Error> {
        let number = *pins
            .generations()?
            .last()
            .ok_or_else(|| Error::Installed("it was removed in the meantime".into()))?;
        let header = crate::maps::Maps::header(&pins.generation(number))?;
        let shared = Shared::open(&pins.shared(), &header.capacities, Access::Look)?;
        let (generation, _) = Generation::open(&pins, number, shared, Access::Look)?;
        let attachments = Attachments::open(&pins, Access::Look)?;
        let config = Config { capacities: header.capacities, ..Config::default() };
        let mut this = Self::with(config, generation, attachments, Some(pins));
        this.access = Access::Look;
        Ok(this)
    }

    /// The directory of pins; None for a private instance.
    pub(crate) fn pin_dir(&self) -> Option<&Path> {
        self.pins.as_ref().map(Pins::dir)
    }

    fn may_change(&self) -> Result<(), Error> {
        match self.access {
            Access::Write => Ok(()),
            Access::Look => Err(Error::ReadOnly),
        }
    }

    /// Detaches everything that is pinned under `pins` and removes every trace of it. Does nothing
    /// where nothing is pinned.
    ///
    /// # Errors
    /// [`Error::InUse`] where another process has it open, [`Error::System`] where the kernel
    /// refuses to detach or remove something.
    pub fn remove(pins: impl AsRef<Path>) -> Result<(), Error> {
        let Some(pins) = Pins::open_existing(pins.as_ref())? else { return Ok(()) };
        if pins.link("").exists() {
            Attachments::open(&pins, Access::Write)?.detach_all(Some(&pins))?;
        }
        pins.remove()
    }

    /// Makes a pod's interface, in the calling thread's network namespace, carry the programs.
    /// Attaching it again changes nothing.
    ///
    /// # Errors
    /// [`Error::System`] where the interface is gone or the kernel refuses the attachment.
    pub fn attach(&mut self, ifindex: IfIndex) -> Result<Way, Error> {
        self.may_change()?;
        let (programs, pins) = (&self.generation.programs, self.pins.as_ref());
        self.attachments.attach(ifindex, Role::Pod, programs, self.config.mode, pins)
    }

    /// Makes another layer-3 interface of the node carry the program that judges packets to
    /// Services after translation (S48). It belongs on every interface by which packets of pods may
    /// leave: those to other nodes, tunnels before they encapsulate, bridges. Attaching it again
    /// changes nothing. An interface is a pod's or one of these, as the last call said.
    ///
    /// # Errors
    /// [`Error::System`] where the interface is gone or the kernel refuses the attachment.
    pub fn attach_uplink(&mut self, ifindex: IfIndex) -> Result<Way, Error> {
        self.may_change()?;
        let (programs, pins) = (&self.generation.programs, self.pins.as_ref());
        self.attachments.attach(ifindex, Role::Uplink, programs, self.config.mode, pins)
    }

    /// As [`Ebpf::attach`], by the interface's name; returns its index too.
    ///
    /// # Errors
    /// [`Error::System`] where no interface has the name; otherwise as [`Ebpf::attach`].
    pub fn attach_name(&mut self, name: &str) -> Result<(IfIndex, Way), Error> {
        let ifindex = sys::ifindex(name).map_err(|e| refused(format!("interface {name}"), e))?;
        Ok((ifindex, self.attach(ifindex)?))
    }

    /// Stops letting new connections go on to Services (S48), or starts again. Packets are to be
    /// held while some interface by which they may leave does not carry its program. The setting
    /// outlives this process.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] where the instance was opened by [`Ebpf::observe`].
    pub fn hold(&mut self, hold: Hold) -> Result<(), Error> {
        self.may_change()?;
        let words = self.generation.tables.maps.words::<AtomicU64>(MapId::Config);
        words[layout::config::HOLD / 8].store(u64::from(hold == Hold::Held), Relaxed);
        Ok(())
    }

    /// Moves interfaces that were attached quickly ([`Mode::Quick`]) to TCX links, a few at a time
    /// and in a thread of its own. Returns how many have moved since the last call; to be called
    /// now and then.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses a link. The interface keeps its filters, which
    /// judge the same way, and is not tried again.
    pub fn upgrade(&mut self) -> Result<usize, Error> {
        self.may_change()?;
        if self.config.mode != Mode::Quick {
            return Ok(0);
        }
        self.attachments.upgrade(&self.generation.programs, self.pins.as_ref())
    }

    /// Whether links are being created that [`Ebpf::upgrade`] has to take over.
    pub fn upgrading(&self) -> bool {
        self.attachments.upgrading()
    }

    /// Takes the programs off an interface. Does nothing where it carries none.
    ///
    /// # Errors
    /// [`Error::System`] where the kernel refuses to remove a filter or a pin.
    pub fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        self.may_change()?;
        self.attachments.detach(ifindex, self.pins.as_ref())
    }

    /// The interfaces that carry the programs, ordered by their index.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.attachments.list()
    }

    /// The interfaces that should carry the programs and do not.
    pub fn loose(&self) -> Vec<IfIndex> {
        self.attachments.loose(&self.generation.programs, self.pins.as_ref())
    }

    /// Forgets interfaces that have vanished and returns them.
    ///
    /// # Errors
    /// [`Error::System`] where a pin of such an interface cannot be removed.
    pub fn sweep(&mut self) -> Result<Vec<IfIndex>, Error> {
        self.may_change()?;
        self.attachments.sweep(self.pins.as_ref())
    }

    /// Checks that all pins and all filters and links that this target made are still where they
    /// belong, and restores what is not. Returns a line for each thing that was missing.
    ///
    /// # Errors
    /// Something is missing and could not be restored.
    pub fn check(&mut self) -> Result<Vec<String>, Error> {
        self.may_change()?;
        let mut found = Vec::new();
        // The old directory stays open until everything is pinned again: links of which this
        // process holds no descriptor live only as long as their pins in it.
        let mut before = None;
        if let Some(pins) = self.pins.take_if(|pins| !pins.stand()) {
            let dir = pins.dir().to_owned();
            let again = Pins::open(&dir);
            found.push(format!("{} was removed; everything is pinned there again", dir.display()));
            match again {
                Ok(again) => (self.pins, before) = (Some(again), Some(pins)),
                Err(error) => {
                    self.pins = Some(pins);
                    return Err(error);
                }
            }
        }
        if let Some(pins) = &self.pins {
            let (generation, shared) = (&self.generation, self.generation.tables.maps.shared());
            let missing = [
                restore(pins, &pins.shared(), shared.names().into_iter(), |dir| shared.pin(dir))?,
                restore(
                    pins,
                    &pins.generation(generation.number),
                    generation.names().map(str::to_owned),
                    |dir| generation.pin_into(dir),
                )?,
            ];
            found.extend(missing.into_iter().flatten().filter(|_| before.is_none()));
        }
        let attached = self.attachments.check(
            &self.generation.programs,
            self.pins.as_ref(),
            before.as_ref(),
        )?;
        found.extend(attached.into_iter().filter(|_| before.is_none()));
        drop(before);
        Ok(found)
    }

    /// How large the tables of the present generation are.
    pub fn capacities(&self) -> &Capacities {
        &self.generation.tables.maps.capacities
    }

    /// The present generation's number. The first one is 1, and each change of a table's size adds
    /// 1.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// All maps of the present generation, with how much of each is in use.
    pub fn maps(&self) -> Vec<MapFacts> {
        let mut list = self.generation.tables.maps.list();
        for facts in list.iter_mut().filter(|f| f.used.is_none()) {
            facts.used = self.generation.tables.used(facts.name);
        }
        list
    }

    /// All programs as text, in which each part stands under the table that it was generated from.
    ///
    /// # Errors
    /// [`Error::Verifier`] where the generator cannot produce a program for these sizes.
    pub fn disassembly(&self) -> Result<Vec<(Hook, String)>, Error> {
        let code = generation::code(&self.generation.tables.maps, &self.config.program)?;
        Ok(code.iter().map(|(hook, code)| (*hook, crate::disasm::listing(code))).collect())
    }

    /// The live connections of an endpoint, sorted.
    ///
    /// # Errors
    /// [`Error::Argument`] where the endpoint's id is too large, [`Error::System`] where its table
    /// cannot be mapped.
    pub fn connections(&mut self, endpoint: EndpointId) -> Result<Vec<Live>, Error> {
        let now = self.now()?;
        state::connections(&self.generation.tables.maps, now, self.known(endpoint)?)
    }

    /// How many live connections an endpoint has, in IPv4 and in IPv6.
    ///
    /// # Errors
    /// As [`Ebpf::connections`].
    pub fn occupancy(&mut self, endpoint: EndpointId) -> Result<(u32, u32), Error> {
        let (now, endpoint) = (self.now()?, self.known(endpoint)?);
        let count = |family| state::count(&self.generation.tables.maps, now, endpoint, family);
        Ok((count(Family::V4)?, count(Family::V6)?))
    }

    /// Asks `amend` what is to become of each live connection of an endpoint (adoption, S40);
    /// returns how many were changed.
    ///
    /// # Errors
    /// As [`Ebpf::connections`], and [`Error::ReadOnly`].
    pub fn amend(
        &mut self,
        endpoint: EndpointId,
        amend: impl Fn(&Connection) -> Amendment,
    ) -> Result<usize, Error> {
        self.may_change()?;
        let now = self.now()?;
        state::amend(&self.generation.tables.maps, now, self.known(endpoint)?, amend)
    }

    /// Inserts a running connection (adoption, S40). A live entry of the same tuple stays and gets
    /// this opener. The pod's RECORD or isolation flag should be set beforehand, so that packets
    /// keep the entry alive.
    ///
    /// # Errors
    /// [`Error::Argument`] where the endpoint does not exist or the addresses belong to two
    /// families, [`Error::System`] where the endpoint's table cannot be mapped. A full table is not
    /// an error.
    pub fn insert(&mut self, connection: &Connection) -> Result<Inserted, Error> {
        self.may_change()?;
        let now = self.now()?;
        state::insert(&self.generation.tables.maps, now, connection)
    }

    /// Forgets an endpoint's connections, fragments and counters. Removing its key from the table
    /// `endpoint` does this too.
    ///
    /// # Errors
    /// [`Error::Argument`] where the endpoint's id is too large, [`Error::System`] where a fragment
    /// record cannot be removed.
    pub fn purge(&mut self, endpoint: EndpointId) -> Result<(), Error> {
        self.may_change()?;
        state::purge(&self.generation.tables.maps, self.known(endpoint)?)
    }

    /// How many packets of an endpoint were dropped, by hook and reason; reasons that never
    /// occurred are left out.
    ///
    /// # Errors
    /// [`Error::Argument`] where the endpoint's id is too large.
    pub fn drops(&self, endpoint: EndpointId) -> Result<Vec<(Hook, DropReason, u64)>, Error> {
        Ok(state::drops(&self.generation.tables.maps, self.known(endpoint)?))
    }

    /// Checks that the maps have a place for the endpoint.
    fn known(&self, endpoint: EndpointId) -> Result<EndpointId, Error> {
        if u32::from(endpoint.get()) < self.capacities().endpoints {
            return Ok(endpoint);
        }
        Err(Error::Argument(format!(
            "endpoint {endpoint}: ids are below {}",
            self.capacities().endpoints
        )))
    }

    /// The time of connections and fragments, in ticks ([`Clock`]).
    fn now(&mut self) -> Result<u32, Error> {
        self.tender.now()
    }

    /// Shows a test the maps behind the target.
    #[cfg(test)]
    pub(crate) fn generation_for_tests(&self, test: impl FnOnce(&crate::maps::Maps)) {
        test(&self.generation.tables.maps);
    }

    /// A [`Tender`], which gives tables of connections the sizes they need. It can run in a thread
    /// of its own, so that the target never waits for it.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] where the instance was opened by [`Ebpf::observe`].
    pub fn tender(&self) -> Result<Tender, Error> {
        self.may_change()?;
        Ok(Tender::new(&self.generation.tables.maps))
    }

    /// Gives an endpoint's table room for so many connections, as far as the budget goes. Entries
    /// that it holds stay. Waits for grace periods where the table is too small.
    ///
    /// # Errors
    /// As [`Ebpf::connections`], and [`Error::ReadOnly`]. A budget that is used up is not an error.
    pub fn reserve(
        &mut self,
        endpoint: EndpointId,
        family: Family,
        connections: u32,
    ) -> Result<(), Error> {
        self.may_change()?;
        let endpoint = self.known(endpoint)?;
        self.tender.reserve(endpoint, family, connections)
    }

    /// How many connections of an endpoint find room now, whatever their hashes are, in IPv4 and in
    /// IPv6.
    ///
    /// # Errors
    /// [`Error::Argument`] where the endpoint's id is too large.
    pub fn room(&self, endpoint: EndpointId) -> Result<(u32, u32), Error> {
        let (pool, endpoint) = (self.generation.tables.maps.shared().pool(), self.known(endpoint)?);
        let holds = |family| pool.places(endpoint, family)[0].map_or(0, Place::connections);
        Ok((holds(Family::V4), holds(Family::V6)))
    }
}

impl Target for Ebpf {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn read(&self) -> Result<Program, Error> {
        if self.access == Access::Write {
            return self.generation.tables.read();
        }
        let mut last = None;
        for _ in 0..READ_ATTEMPTS {
            match self.generation.tables.read_afresh() {
                Ok(program) => return Ok(program),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        Err(last.expect("tried at least once"))
    }

    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.may_change()?;
        self.capabilities.check(write)?;
        loop {
            match self.generation.tables.write(write, &self.grace) {
                Ok(()) => return Ok(()),
                Err(Stop::Room { table, room, capacity, need }) => {
                    if !self.grow(room, need)? {
                        return Err(Stop::Room { table, room, capacity, need }.into());
                    }
                }
                Err(Stop::Other(error)) => return Err(error),
            }
        }
    }

    fn compared(&self) -> Result<Option<Compared>, Error> {
        state::compared(&self.generation.tables.maps).map(Some)
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.may_change()?;
        self.grace.wait()?;
        self.generation.tables.release()
    }
}

impl Drop for Ebpf {
    fn drop(&mut self) {
        if self.pins.is_none() {
            // TCX links go with their descriptors, but filters would stay.
            let _ = self.attachments.detach_all(None);
        }
    }
}
