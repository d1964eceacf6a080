//! [`Ebpf`]: the target itself. Private instances for questions, tests and benchmarks; pinned ones for a node.
//!
//! A write that exceeds a capacity makes a larger generation ([`sizes`]): new maps and programs,
//! filled from the old ones, then each interface's programs are exchanged; connection state is
//! common to all generations. Not here: how entries become stores (`tables`), attaching (`attach`),
//! names on the BPF file system (`pins`).

mod sizes;

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use netpolc_table::{EndpointId, IfIndex, Program, Write, schema::Family};
use netpolc_target::{Arrival, Capabilities, Datapath, Error, Frame, Hook, Target, Verdict, semantics::DropReason};

use crate::{
    attach::{Attachment, Attachments, Mode, Role, Way},
    config::{Config, Hold},
    generation::{self, Ahead, Generation, Recipe},
    growth::Tender,
    layout::{self, Capacities, Clock, MapId, exact, state::Place},
    maps::{MapFacts, Maps, Shared},
    pins::Pins,
    program::Sockets,
    settle::Grace,
    state::{self, Amendment, Connection, Inserted, Live},
    sys::{self, refused},
    tables::{Access, Stop},
};

/// How often an observer looks before it says that what it sees makes no sense, and how long it waits between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// The eBPF target.
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
    /// The next generation, while it is being made.
    ahead: Option<Ahead>,
    /// Since when tables have been much too large.
    roomy: Option<Instant>,
}

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

/// Pins what is missing of a folder; says what that was.
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
    Ok(Some(format!("pins in {} had been taken away and are back: {}", dir.display(), missing.join(", "))))
}

/// The first generation, with shared maps of its own, which `keep` is shown before anything uses
/// them.
fn first(config: &Config, keep: impl FnOnce(&Shared) -> Result<(), Error>) -> Result<Generation, Error> {
    let checked = config.capacities.check().and_then(|()| config.connections.check());
    checked.map_err(|e| Error::Installed(format!("capacities: {e}")))?;
    let clock = Clock { hz: sys::jiffies_a_second() };
    let shared = Shared::create(&config.capacities, clock)?;
    keep(&shared)?;
    let (capacities, options) = (config.capacities, config.program);
    let seed = config.seed.unwrap_or_else(random);
    Generation::create(Recipe { number: 1, capacities, seed, clock, shared, options })
}

fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: 8 bytes may be written.
    if unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 8, 0) } == 8 { u64::from_ne_bytes(bytes) } else { 0 }
}

impl Ebpf {
    /// Maps and programs of this process alone. Packets are judged by [`Datapath::packet`], or on interfaces that
    /// are attached as long as this lives.
    pub fn private(config: Config) -> Result<Self, Error> {
        let mut generation = first(&config, |_| Ok(()))?;
        generation.tables.lend_low_interfaces();
        Ok(Self::with(config, generation, Attachments::default(), None))
    }

    fn with(config: Config, generation: Generation, attachments: Attachments, pins: Option<Pins>) -> Self {
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
            ahead: None,
            roomy: None,
        }
    }

    /// Finds what is pinned under `pins`, or makes it. Finishes what a killed process began; one process at a time.
    ///
    /// # Errors
    /// [`Error::Installed`] where another process has it, or what is pinned is another version's.
    pub fn open(pins: impl AsRef<Path>, config: Config) -> Result<Self, Error> {
        let pins = Pins::open(pins.as_ref())?;
        let numbers = pins.generations()?;
        let Some((&number, older)) = numbers.split_last() else {
            // without tables nothing is judged: what else lies there is the rest of an interrupted removal or start
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
            // a process may have been killed before every interface carried the newest programs
            None => attachments.replace(&generation.programs, Some(&pins))?,
        }
        for &old in older {
            pins.discard(&pins.generation(old))?;
        }
        Ok(Self::with(config, generation, attachments, Some(pins)))
    }

    /// Looks at what is pinned while another process may be writing it; None where there is nothing. Whatever changes
    /// something is refused. [`Target::read`] reads anew each time and tries again where it met a write half-done.
    ///
    /// # Errors
    /// [`Error::Installed`] where what is pinned is another version's.
    pub fn observe(pins: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let Some(pins) = Pins::look(pins.as_ref())? else { return Ok(None) };
            match Self::look(pins) {
                Ok(ebpf) => return Ok(Some(ebpf)),
                Err(error) => last = Some(error), // it may be growing just now
            }
            std::thread::sleep(PAUSE);
        }
        Err(last.expect("tried at least once"))
    }

    fn look(pins: Pins) -> Result<Self, Error> {
        let number = *pins.generations()?.last().ok_or_else(|| Error::Installed("removed meanwhile".into()))?;
        let header = crate::maps::Maps::header(&pins.generation(number))?;
        let shared = Shared::open(&pins.shared(), &header.capacities, Access::Look)?;
        let (generation, _) = Generation::open(&pins, number, shared, Access::Look)?;
        let attachments = Attachments::open(&pins, Access::Look)?;
        let config = Config { capacities: header.capacities, ..Config::default() };
        let mut this = Self::with(config, generation, attachments, Some(pins));
        this.access = Access::Look;
        Ok(this)
    }

    fn may_change(&self) -> Result<(), Error> {
        match self.access {
            Access::Write => Ok(()),
            Access::Look => Err(Error::Installed("opened to look only".into())),
        }
    }

    /// Detaches everything that is pinned under `pins` and removes every trace. Nothing there is fine.
    pub fn remove(pins: impl AsRef<Path>) -> Result<(), Error> {
        let Some(pins) = Pins::open_existing(pins.as_ref())? else { return Ok(()) };
        if pins.link("").exists() {
            Attachments::open(&pins, Access::Write)?.detach_all(Some(&pins))?;
        }
        pins.remove()
    }

    /// Makes an interface of the calling thread's network namespace carry the programs; again is fine.
    pub fn attach(&mut self, ifindex: IfIndex) -> Result<Way, Error> {
        self.may_change()?;
        let (programs, pins) = (&self.generation.programs, self.pins.as_ref());
        self.attachments.attach(ifindex, Role::Pod, programs, self.config.mode, pins)
    }

    /// Makes another layer-3 interface of the node carry the program that judges packets to Services after translation (S48). It belongs on every
    /// interface by which packets of pods may leave: those to other nodes, tunnels before they encapsulate, bridges. Again is fine; an
    /// interface is a pod's or one of these, as the last call said.
    pub fn attach_uplink(&mut self, ifindex: IfIndex) -> Result<Way, Error> {
        self.may_change()?;
        let (programs, pins) = (&self.generation.programs, self.pins.as_ref());
        self.attachments.attach(ifindex, Role::Uplink, programs, self.config.mode, pins)
    }

    /// The same by name; answers the index too.
    pub fn attach_name(&mut self, name: &str) -> Result<(IfIndex, Way), Error> {
        let ifindex = sys::ifindex(name).map_err(|e| refused(format!("interface {name}"), e))?;
        Ok((ifindex, self.attach(ifindex)?))
    }

    /// Lets no new packet go on to a Service (S48), or lets them again: to be held while some interface by which packets may leave does
    /// not carry its program. Stays as it is when this process ends.
    pub fn hold(&mut self, hold: Hold) -> Result<(), Error> {
        self.may_change()?;
        let words = self.generation.tables.maps.words::<AtomicU64>(MapId::Config);
        words[layout::config::HOLD / 8].store(u64::from(hold == Hold::Held), Relaxed);
        Ok(())
    }

    /// Moves interfaces that were attached quickly to TCX links, in a thread of its own and a few
    /// at a time; says how many have moved. To be called now and then.
    pub fn upgrade(&mut self) -> Result<usize, Error> {
        self.may_change()?;
        if self.config.mode != Mode::Quick {
            return Ok(0);
        }
        self.attachments.upgrade(&self.generation.programs, self.pins.as_ref())
    }

    /// Whether links are being made that [`Ebpf::upgrade`] has to take over.
    pub fn upgrading(&self) -> bool {
        self.attachments.upgrading()
    }

    /// Takes the programs off an interface; none there is fine.
    pub fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        self.may_change()?;
        self.attachments.detach(ifindex, self.pins.as_ref())
    }

    /// The interfaces that carry the programs.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.attachments.list()
    }

    /// Forgets interfaces that have vanished; answers which.
    pub fn sweep(&mut self) -> Result<Vec<IfIndex>, Error> {
        self.may_change()?;
        self.attachments.sweep(self.pins.as_ref())
    }

    /// Sees whether all that this target has put into the kernel is still where it belongs, and brings back what is not: pins, and
    /// filters on interfaces. Says what was missing.
    ///
    /// # Errors
    /// Something is missing and stays so.
    pub fn check(&mut self) -> Result<Vec<String>, Error> {
        self.may_change()?;
        let mut found = Vec::new();
        // Held until everything stands again: links without a descriptor live as long as it does.
        let mut before = None;
        if let Some(pins) = self.pins.take_if(|pins| !pins.stand()) {
            let dir = pins.dir().to_owned();
            let again = Pins::open(&dir);
            found.push(format!("{} had been taken away; everything is pinned there again", dir.display()));
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
                restore(pins, &pins.generation(generation.number), generation.names().map(str::to_owned), |dir| {
                    generation.pin_into(dir)
                })?,
            ];
            found.extend(missing.into_iter().flatten().filter(|_| before.is_none()));
        }
        let attached = self.attachments.check(&self.generation.programs, self.pins.as_ref(), before.as_ref())?;
        found.extend(attached.into_iter().filter(|_| before.is_none()));
        drop(before);
        Ok(found)
    }

    /// Sizes of the present generation.
    pub fn capacities(&self) -> &Capacities {
        &self.generation.tables.maps.capacities
    }

    /// Its number, from 1; one more for each time that a table grew.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// The maps with what is used of them.
    pub fn maps(&self) -> Vec<MapFacts> {
        let mut list = self.generation.tables.maps.list();
        for facts in list.iter_mut().filter(|f| f.used.is_none()) {
            facts.used = self.generation.tables.used(facts.name);
        }
        list
    }

    /// All programs as text, under the tables they come from.
    pub fn disassembly(&self) -> Result<Vec<(Hook, String)>, Error> {
        let code = generation::code(&self.generation.tables.maps, &self.config.program)?;
        Ok(code.iter().map(|(hook, code)| (*hook, crate::disasm::listing(code))).collect())
    }

    /// The live connections of an endpoint.
    pub fn connections(&mut self, endpoint: EndpointId) -> Result<Vec<Live>, Error> {
        let now = self.now()?;
        state::connections(&self.generation.tables.maps, now, self.known(endpoint)?)
    }

    /// Live connections of an endpoint: IPv4, IPv6.
    pub fn occupancy(&mut self, endpoint: EndpointId) -> Result<(u32, u32), Error> {
        let (now, endpoint) = (self.now()?, self.known(endpoint)?);
        let count = |family| state::count(&self.generation.tables.maps, now, endpoint, family);
        Ok((count(Family::V4)?, count(Family::V6)?))
    }

    /// Asks of each live connection of an endpoint what is to become of it (adoption, S40); says how many were changed.
    pub fn amend(&mut self, endpoint: EndpointId, amend: impl Fn(&Connection) -> Amendment) -> Result<usize, Error> {
        self.may_change()?;
        let now = self.now()?;
        state::amend(&self.generation.tables.maps, now, self.known(endpoint)?, amend)
    }

    /// Puts a running connection in (adoption, S40); a live entry stays, with this opener. A pod's RECORD or isolation
    /// flag should be set before, so that its packets keep the entry alive.
    pub fn insert(&mut self, connection: &Connection) -> Result<Inserted, Error> {
        self.may_change()?;
        let now = self.now()?;
        state::insert(&self.generation.tables.maps, now, connection)
    }

    /// Forgets an endpoint's connections, fragments and counters. Removing its key from `endpoint` does this too.
    pub fn purge(&mut self, endpoint: EndpointId) -> Result<(), Error> {
        self.may_change()?;
        state::purge(&self.generation.tables.maps, self.known(endpoint)?)
    }

    /// Drops of an endpoint by hook and reason, without the zeros.
    pub fn drops(&self, endpoint: EndpointId) -> Result<Vec<(Hook, DropReason, u64)>, Error> {
        Ok(state::drops(&self.generation.tables.maps, self.known(endpoint)?))
    }

    fn known(&self, endpoint: EndpointId) -> Result<EndpointId, Error> {
        if u32::from(endpoint.get()) < self.capacities().endpoints {
            return Ok(endpoint);
        }
        Err(Error::Installed(format!("endpoint {endpoint}: ids are below {}", self.capacities().endpoints)))
    }

    fn now(&mut self) -> Result<u32, Error> {
        self.tender.now()
    }

    /// The maps, for tests of what is behind them.
    #[cfg(test)]
    pub(crate) fn generation_for_tests(&self, test: impl FnOnce(&Maps)) {
        test(&self.generation.tables.maps);
    }

    /// What looks after the sizes of tables of connections, in a thread of its own where nothing
    /// may wait for it.
    pub fn tender(&self) -> Result<Tender, Error> {
        self.may_change()?;
        Ok(Tender::new(&self.generation.tables.maps))
    }

    /// Gives an endpoint's table room for so many connections, as far as the budget goes; what it
    /// holds stays. Waits for grace periods where the table is too small.
    pub fn reserve(&mut self, endpoint: EndpointId, family: Family, connections: u32) -> Result<(), Error> {
        self.may_change()?;
        let endpoint = self.known(endpoint)?;
        self.tender.reserve(endpoint, family, connections)
    }

    /// How many connections of an endpoint find room now, whatever their hashes are: IPv4, IPv6.
    pub fn room(&self, endpoint: EndpointId) -> Result<(u32, u32), Error> {
        let (pool, endpoint) = (self.generation.tables.maps.shared().pool(), self.known(endpoint)?);
        let holds = |family| pool.places(endpoint, family)[0].map_or(0, Place::connections);
        Ok((holds(Family::V4), holds(Family::V6)))
    }

    /// Runs a hook's program `repeat` times on one packet; the time is that of one run.
    pub fn run(&mut self, hook: Hook, frame: &Frame, repeat: u32) -> Result<(Verdict, Duration), Error> {
        if frame.arrival == Arrival::Forgotten && self.config.program.sockets == Sockets::Packet {
            let reason =
                "the kernel puts a socket on every packet of a test run; ask an instance that is told of sockets";
            return Err(Error::Installed(reason.into()));
        }
        let ifindex = if self.pins.is_none() {
            self.generation.tables.lend_interface(frame.interface);
            sys::LO
        } else {
            frame.interface
        };
        let program = self.generation.program(hook);
        let done = program.run_frame(frame, ifindex, self.config.program.mark, repeat);
        if self.pins.is_none() {
            self.generation.tables.return_interface();
        }
        done.map_err(|e| refused(format!("run the program of hook {hook:?} on {} bytes", frame.bytes.len()), e))
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
        for _ in 0..ATTEMPTS {
            match self.generation.tables.read_afresh() {
                Ok(program) => return Ok(program),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(PAUSE);
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

    fn settle(&mut self) -> Result<(), Error> {
        self.may_change()?;
        self.grace.wait()?;
        self.generation.tables.release()
    }
}

impl Datapath for Ebpf {
    /// A private instance takes the packet as seen at `frame.interface` though no such device need exist; a pinned one
    /// runs the program as that device, which must be in the calling thread's network namespace.
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error> {
        // What was translated is counted for its sender.
        let [endpoint, sender] =
            [frame.interface, frame.arrival.ifindex()].map(|i| self.generation.tables.endpoint_of(i));
        let counts = |maps: &Maps| [state::counts(maps, endpoint, hook), state::counts(maps, sender, Hook::Translated)];
        let before = counts(&self.generation.tables.maps);
        let (verdict, _) = self.run(hook, frame, 1)?;
        let after = counts(&self.generation.tables.maps);
        let counted = |r: &DropReason| (0..2).any(|i| after[i][*r as usize] != before[i][*r as usize]);
        self.last_drop = DropReason::ALL.into_iter().find(counted);
        Ok(verdict)
    }

    /// By the endpoint's counters, which packets on real interfaces move too.
    fn explain_last(&self) -> Option<DropReason> {
        self.last_drop
    }

    fn advance(&mut self, by: Duration) -> Result<(), Error> {
        self.may_change()?;
        let maps = &self.generation.tables.maps;
        let jiffies = by.as_nanos() * u128::from(maps.clock.hz) / 1_000_000_000;
        maps.words::<AtomicU64>(MapId::Config)[layout::config::TIME_OFFSET / 8].fetch_add(jiffies as u64, Relaxed);
        Ok(())
    }
}

impl Drop for Ebpf {
    fn drop(&mut self) {
        if self.pins.is_none() {
            // TCX links go with their descriptors; filters would stay
            let _ = self.attachments.detach_all(None);
        }
    }
}
