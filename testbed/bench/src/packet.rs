//! What one packet costs, by BPF_PROG_TEST_RUN, above a program with the same parser and nothing
//! else.
//!
//! Every run of a program sees another (remote, port) pair: the generated code itself walks through
//! them, in the baseline too. Repeating one packet would measure the cache and prove nothing.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, ensure};
use aya::maps::MapData;
use netpolc_lower::{Compiler, Event, Scope};
use netpolc_table::{EndpointId, IfIndex, schema::Family};
use netpolc_target::{Hook, Verdict, frame::Packet, semantics::tcp};
use netpolc_target_ebpf::{
    Amendment, Connection, Connections,
    layout::{Capacities, Clock},
    measure::{
        asm::MapRef,
        loader::Loaded,
        maps::{Maps, Shared},
        settle::Grace,
        state::{self, Ticker},
        tables::{Access, Tables},
    },
    program::{self, Measure, Options, Parameters, Port, Stage, Vary},
    sys,
};

use super::{
    Section,
    rival::Rival,
    world::{self, FIRST_PORT, REMOTES},
};

/// Flows whose replies are admitted by state.
const FLOWS: u32 = 4096;
/// The loopback device, which every namespace has: what the kernel needs for a test run.
const DEVICE: IfIndex = IfIndex::new(1);
/// A packet with this ingress interface was not born on the node.
const UPLINK: u32 = 2;
/// How many calls make one figure.
const CALLS: u32 = 4;
/// The pod's port in connections that it opens.
const LOCAL_PORT: u16 = 40_000;

/// What a packet meets on its way through the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Case {
    /// A packet of a running TCP connection that policy permits: the tables alone decide.
    Stateless,
    /// A packet that policy denies, and that state does not know.
    Denied,
    /// A reply to a connection that the pod opened: policy denies, state admits, the opener is
    /// judged again.
    Reply,
    /// A SYN of the pod on a connection that is known.
    Refresh,
    /// A SYN of the pod that makes state.
    Open,
}

const CASES: [(Case, &str); 5] = [
    (Case::Stateless, "stateless verdict"),
    (Case::Denied, "denial"),
    (Case::Reply, "reply admitted by state"),
    (Case::Refresh, "opening direction, known"),
    (Case::Open, "opening direction, new"),
];

impl Case {
    fn hook(self) -> Hook {
        match self {
            Case::Stateless | Case::Denied | Case::Reply => Hook::ToPod,
            Case::Refresh | Case::Open => Hook::FromPod,
        }
    }

    /// (pairs - 1, which port varies)
    fn walk(self) -> (u32, Port) {
        match self {
            Case::Stateless | Case::Denied => (REMOTES - 1, Port::Local),
            Case::Reply | Case::Refresh | Case::Open => (FLOWS - 1, Port::Remote),
        }
    }

    fn frame(self, family: Family) -> Vec<u8> {
        let first = if self == Case::Denied { REMOTES } else { 0 };
        let (local, remote) = (world::local(family), world::remote(family, first));
        let packet = match self {
            Case::Stateless | Case::Denied => {
                Packet::new(remote, local).tcp(LOCAL_PORT, FIRST_PORT, tcp::ACK)
            }
            Case::Reply => Packet::new(remote, local).tcp(FIRST_PORT, LOCAL_PORT, tcp::ACK),
            Case::Refresh | Case::Open => {
                Packet::new(local, remote).tcp(LOCAL_PORT, FIRST_PORT, tcp::SYN)
            }
        };
        packet.payload(&[0; 64]).build()
    }
}

/// The policies that packets meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum World {
    /// Ten NetworkPolicies.
    Few,
    /// A thousand.
    Many,
    /// A thousand, with tiers and security groups.
    Ordered,
}

impl World {
    const ALL: [World; 3] = [World::Few, World::Many, World::Ordered];
}

/// Tables for some policies, with programs that walk through packets.
struct Rig {
    tables: Tables,
    endpoint: EndpointId,
    ticker: Ticker,
    _counter: MapData,
    programs: BTreeMap<(Hook, u32, Stage), Loaded>,
}

impl Rig {
    fn new(world: World) -> anyhow::Result<Self> {
        let cluster = match world {
            World::Few => world::cluster(10),
            World::Many => world::cluster(1000),
            World::Ordered => world::ordered(1000),
        };
        let mut compiler = Compiler::new(Scope::Node(world::NODE.into()));
        compiler.load(&cluster)?;
        compiler.apply_all([Event::Interface {
            pod: world::subject(),
            interface: Some(DEVICE.into()),
        }])?;
        let endpoint = compiler.endpoint(&world::subject()).context("the pod is an endpoint")?;
        let capacities = Capacities { endpoints: 1 << 4, ..Capacities::roomy() };
        let clock = Clock { hz: sys::jiffies_per_second() };
        let shared = Shared::create(&capacities, clock)?;
        shared.set_sizes(Connections::fixed(10));
        let maps = Maps::create(capacities, 1, clock, shared)?;
        let mut tables = Tables::open(maps, Access::Write)?;
        let (_, plan) =
            netpolc_table::delta::plan(&netpolc_table::Program::default(), compiler.program())?;
        let grace = Grace::default();
        for (_, write) in &plan.steps {
            tables.write(write, &grace).map_err(netpolc_target::Error::from)?;
        }
        let counter = aya_obj::Map::new_from_params(ARRAY, 4, 4, 1, 0);
        let counter = MapData::create(counter, "netpolc_bench", None)
            .context("map for the benchmark's counter")?;
        let ticker = Ticker::load(&tables.maps)?;
        let mut rig =
            Self { tables, endpoint, ticker, _counter: counter, programs: BTreeMap::new() };
        for (case, _) in CASES {
            rig.load(case)?;
        }
        Ok(rig)
    }

    fn load(&mut self, case: Case) -> anyhow::Result<()> {
        let (mask, port) = case.walk();
        let maps = &self.tables.maps;
        let parameters =
            Parameters { capacities: maps.capacities, seed: maps.seed, clock: maps.clock };
        let vary =
            Vary { counter: MapRef::Extra(0), mask, remotes: REMOTES - 1, ports: 0x3ff, port };
        for (stage, name) in [(Stage::ParseOnly, "bench_parse"), (Stage::Full, "bench_full")] {
            let key = (case.hook(), mask, stage);
            if self.programs.contains_key(&key) {
                continue;
            }
            let code = program::generate(
                case.hook(),
                &parameters,
                &Options {
                    measure: Measure { stage, vary: Some(vary), ..Measure::default() },
                    ..Options::default()
                },
            )?;
            let descriptor = |map| match map {
                MapRef::Table(id) => maps.fd(id),
                MapRef::Extra(_) => self._counter.fd().as_fd().as_raw_fd(),
            };
            self.programs.insert(key, Loaded::load(name, &code, descriptor)?);
        }
        Ok(())
    }

    fn drops(&self) -> u64 {
        state::drops(&self.tables.maps, self.endpoint).iter().map(|(_, _, count)| count).sum()
    }

    /// The nanoseconds that one run of the program takes.
    fn run(&self, case: Case, family: Family, stage: Stage, repeat: u32) -> anyhow::Result<f64> {
        let key = (case.hook(), case.walk().0, stage);
        let program = self.programs.get(&key).context("no such program")?;
        // The kernel answers in whole nanoseconds; the mean of several calls is finer. New flows
        // are new once.
        let calls = if case == Case::Open && stage == Stage::Full { 1 } else { CALLS };
        let mut total = 0;
        for _ in 0..calls {
            total += program
                .run(&case.frame(family), DEVICE, IfIndex::new(UPLINK), repeat)?
                .1
                .as_nanos();
        }
        Ok(total as f64 / f64::from(calls))
    }

    fn forget(&self) -> anyhow::Result<()> {
        let always = |_: &Connection| Amendment::Forget;
        state::amend(&self.tables.maps, self.ticker.now()?, self.endpoint, always)?;
        Ok(())
    }

    /// Makes the flows' state, and makes sure that every packet gets the answer that its case is
    /// about.
    fn prepare(&self) -> anyhow::Result<()> {
        self.forget()?;
        for family in Family::BOTH {
            for case in [Case::Open, Case::Refresh, Case::Reply, Case::Stateless, Case::Denied] {
                let before = self.drops();
                let pairs = case.walk().0 + 1;
                self.run(case, family, Stage::Full, pairs)?;
                let dropped = self.drops() - before;
                let expected = if case == Case::Denied { u64::from(pairs * CALLS) } else { 0 };
                ensure!(
                    dropped == expected,
                    "{case:?} over {pairs} pairs: {dropped} drops, not {expected}"
                );
                if case == Case::Open {
                    let (now, flows) = (self.ticker.now()?, FLOWS as usize);
                    let live = state::connections(&self.tables.maps, now, self.endpoint)?.len();
                    let expected = match family {
                        Family::V4 => flows,
                        Family::V6 => 2 * flows,
                    };
                    ensure!(live == expected, "{live} connections, not {flows} a family");
                }
            }
        }
        Ok(())
    }
}

/// The map type BPF_MAP_TYPE_ARRAY.
const ARRAY: u32 = 2;

/// Measures.
///
/// # Errors
/// The caller is not root, or the kernel refuses the programs.
pub fn run(rounds: u32) -> anyhow::Result<Section> {
    netpolc::output::needs_root("bench packet (it runs eBPF programs)")?;
    let mut rigs = Vec::new();
    for world in World::ALL {
        rigs.push((world, Rig::new(world)?));
    }
    for (_, rig) in &rigs {
        rig.prepare()?;
    }
    let rivals =
        [(Family::V4, Rival::new(1000, Family::V4)?), (Family::V6, Rival::new(1000, Family::V6)?)];
    let (mut best, mut rival) = (Ours::new(), Theirs::new());
    let mut keep = |slot: (Case, Family, World, Stage), value: f64| {
        let found = best.entry(slot).or_insert(f64::INFINITY);
        *found = found.min(value);
    };
    for _ in 0..rounds {
        for (world, rig) in &rigs {
            for [family, next] in [[Family::V4, Family::V6], [Family::V6, Family::V4]] {
                for (case, _) in CASES {
                    let repeat = case.walk().0 + 1;
                    // One walk makes all the state there is to make.
                    let (walks, runs) =
                        if case == Case::Open { (CALLS, repeat) } else { (1, repeat.max(1 << 16)) };
                    for _ in 0..walks {
                        if case == Case::Open {
                            rig.forget()?;
                        }
                        for stage in [Stage::Full, Stage::ParseOnly] {
                            keep(
                                (case, family, *world, stage),
                                rig.run(case, family, stage, runs)?,
                            );
                        }
                    }
                }
                // The next family's flows are there; this one's are, since `Open` came last.
                rig.run(Case::Open, next, Stage::Full, FLOWS)?;
            }
        }
        for (family, program) in &rivals {
            for stage in [Stage::Full, Stage::ParseOnly] {
                let time = program.run(stage, REMOTES)?;
                let found = rival.entry((*family, stage)).or_insert(f64::INFINITY);
                *found = found.min(time);
            }
        }
    }
    Ok(costs(&best, &rival))
}

/// Nanoseconds of a run: by case, family, policies, and stage.
type Ours = BTreeMap<(Case, Family, World, Stage), f64>;
/// Nanoseconds of a run of [`Rival`].
type Theirs = BTreeMap<(Family, Stage), f64>;

fn costs(best: &Ours, rival: &Theirs) -> Section {
    let head =
        ["packet", "family", "10 policies", "1,000 policies", "ratio", "bound", "parse only"];
    let mut section = Section::new(
        "Cost of a packet, in ns above a program with the same parser and nothing else",
        &head,
    );
    let above = |case, family, world| {
        best[&(case, family, world, Stage::Full)] - best[&(case, family, world, Stage::ParseOnly)]
    };
    for (case, name) in CASES {
        for family in Family::BOTH {
            let (few, many) = (above(case, family, World::Few), above(case, family, World::Many));
            let ip = ip(family);
            let what = format!("{name}, {ip}");
            let bound = match (case, family) {
                (Case::Stateless, Family::V4) => section.at_most(&what, many, 20.0),
                (Case::Stateless, Family::V6) => section.at_most(&what, many, 35.0),
                (Case::Reply, _) => section.at_most(&what, many, 90.0),
                _ => String::new(),
            };
            let ratio = many / few;
            section.at_most(&format!("{what}, 1,000 policies to 10"), ratio, 1.3);
            let parse = best[&(case, family, World::Many, Stage::ParseOnly)];
            let cells = [
                name.into(),
                ip.into(),
                ns(few),
                ns(many),
                format!("{ratio:.2}"),
                bound,
                ns(parse),
            ];
            section.rows.push(cells.to_vec());
        }
    }
    for (case, name) in CASES {
        for family in Family::BOTH {
            let whole = |world| best[&(case, family, world, Stage::Full)];
            let ratio = whole(World::Ordered) / whole(World::Many);
            let ip = ip(family);
            let what = format!("{name}, {ip}, with tiers and groups to without");
            let bound = section.at_most(&what, ratio, 1.05);
            section.rows.push(vec![
                format!("{name}, with tiers and groups"),
                ip.into(),
                String::new(),
                ns(above(case, family, World::Ordered)),
                format!("{ratio:.2}"),
                bound,
                ns(best[&(case, family, World::Ordered, Stage::ParseOnly)]),
            ]);
        }
    }
    for family in Family::BOTH {
        let parse = rival[&(family, Stage::ParseOnly)];
        let (ours, theirs) =
            (above(Case::Stateless, family, World::Many), rival[&(family, Stage::Full)] - parse);
        let (ip, times) = (ip(family), theirs / ours);
        let bound =
            section.at_least(&format!("HASH and LPM maps to these tables, {ip}"), times, 2.0);
        let name = "the same verdict by HASH and LPM maps".to_owned();
        let times = format!("{times:.1}x");
        section.rows.push(vec![
            name,
            ip.into(),
            String::new(),
            ns(theirs),
            times,
            bound,
            ns(parse),
        ]);
    }
    section.notes.push(format!(
        "with tiers and groups: {0} Admin and {0} Baseline policies and {1} security groups beside \
         1,000 policies; the ratio is that of the whole runs, parser included, to those of 1,000 \
         policies alone",
        world::TIER_POLICIES,
        world::GROUPS
    ));
    section.notes.push(format!(
        "BPF_PROG_TEST_RUN; {REMOTES} remote addresses ({FLOWS} flows where state counts), 73 port \
         ranges in each policy, 1,024 ports; each run another pseudo-random pair; the least of \
         interleaved rounds"
    ));
    section
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn ns(value: f64) -> String {
    format!("{value:.1}")
}

/// A packet that a verdict is about must pass.
pub(super) fn passed(verdict: Verdict) -> anyhow::Result<()> {
    ensure!(verdict == Verdict::Next, "a packet that should pass was dropped");
    Ok(())
}
