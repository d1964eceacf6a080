//! What outlives a process: found again by a second one, one writer, a kill at every step and at
//! any moment, growth.
//!
//! Children are this test binary again: the test `child` does what `NETPOLC_CHILD` says and ends.

mod common;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{PinDir, Rng, own_network, seed, sh};
use netpolc_table::{
    ActionId, Class, EndpointId, IfIndex, Incarnation, Phase, Plan, PortClassId, Program, RowId,
    SetId, TableId, Write, delta,
    schema::{self, Family},
};
use netpolc_target::{Error, Target as _, conformance, execute};
use netpolc_target_ebpf::{Config, Ebpf, layout::Capacities};

const TASK: &str = "NETPOLC_CHILD";

fn spawn(task: &str, dir: &Path, number: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{task} {} {number}", dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test by itself: what other processes do.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let [task, dir, number] = task.split(' ').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let number: u64 = number.parse().unwrap();
    match task {
        "open" => drop(Ebpf::open(dir, Config::small()).unwrap()),
        "update" => {
            let mut ebpf = Ebpf::open(dir, Config::small()).unwrap();
            let (_, plan) = delta::plan(&ebpf.read().unwrap(), &second()).unwrap();
            for (i, (_, write)) in plan.steps.iter().enumerate() {
                if i as u64 == number {
                    // SAFETY: ends the process at once: no Drop, no exit handlers.
                    unsafe { libc::_exit(9) };
                }
                ebpf.write(write).unwrap();
            }
        }
        "churn" => {
            let mut ebpf = Ebpf::open(dir, Config::small()).unwrap();
            let (mut rng, mut model) = (Rng(number), ebpf.read().unwrap());
            loop {
                let write = common::write(&mut rng, &model);
                ebpf.write(&write).unwrap();
                model.apply(&write);
            }
        }
        other => panic!("{other}"),
    }
}

/// A program of every table, and one that differs in most: its rows, sets and words are another's.
fn first() -> Program {
    conformance::world::world(conformance::world::Policy::Some, conformance::world::Policy::Friends)
}
fn second() -> Program {
    let mut program = conformance::world::world(
        conformance::world::Policy::Nothing,
        conformance::world::Policy::Open,
    );
    let mut put = |table, key, entry| program.apply(&Write::put(table, key, entry));
    put(
        TableId::Verdict,
        schema::verdict_key(RowId::new(20), PortClassId::new(9)),
        schema::plain(ActionId::Permit),
    );
    for family in Family::BOTH {
        let networks = if family == Family::V4 {
            ["172.16.0.0", "172.16.9.0"]
        } else {
            ["fd99::", "fd99::9:0"]
        };
        let lengths = if family == Family::V4 { [12, 24] } else { [32, 112] };
        for (i, (network, length)) in networks.into_iter().zip(lengths).enumerate() {
            let key = schema::remote_key(network.parse().unwrap(), length);
            put(
                TableId::remote(family),
                key,
                schema::set_remote(Class::new(family, 30 + i as u16), Incarnation::new(0)),
            );
        }
        put(
            TableId::Row,
            schema::row_key(SetId::new(1), Class::new(family, 30)),
            schema::plain(ActionId::Permit),
        );
        put(
            TableId::Row,
            schema::row_key(SetId::new(2), Class::new(family, 31)),
            schema::set_row(RowId::new(20)),
        );
        put(
            TableId::Base,
            schema::base_key(SetId::new(2), family),
            schema::set_row(RowId::new(20)),
        );
    }
    program
}

fn program(rng: &mut Rng, writes: u64) -> Program {
    let mut program = Program::default();
    for _ in 0..writes {
        let write = common::write(rng, &program);
        program.apply(&write);
    }
    program
}

fn fill(ebpf: &mut Ebpf, program: &Program) {
    for table in program.tables() {
        let put = table.entries.iter().map(|(k, e)| (k.clone(), e.clone())).collect();
        ebpf.write(&Write { table: table.id, remove: vec![], put }).unwrap();
    }
}

/// Equal but for origins.
fn same(a: &Program, b: &Program) -> bool {
    let same = |(x, y): (&netpolc_table::Table, &netpolc_table::Table)| {
        x.entries.len() == y.entries.len()
            && x.entries.iter().all(|(k, e)| y.entries.get(k).is_some_and(|f| f.same_action(e)))
    };
    a.tables().zip(b.tables()).all(same)
}

#[test]
fn s58_a_second_start_finds_everything() {
    let dir = PinDir::new("again");
    let program = program(&mut Rng(seed()), 300);
    let mut ebpf = Ebpf::open(&dir.0, Config::small()).expect("needs root and BPF");
    fill(&mut ebpf, &program);
    let busy = Ebpf::open(&dir.0, Config::small());
    assert!(
        matches!(&busy, Err(e @ Error::InUse { .. }) if e.to_string().contains("in use")),
        "{busy:?}"
    );
    assert!(!spawn("open", &dir.0, 0).wait().unwrap().success(), "another process finds it locked");
    let mut other = Ebpf::observe(&dir.0).unwrap().expect("something is pinned");
    assert!(same(&other.read().unwrap(), &program), "but may look");
    let change = Write::remove(TableId::Interface, schema::interface_key(IfIndex::new(2)));
    assert!(matches!(other.write(&change), Err(Error::ReadOnly)));
    assert!(
        other.settle().is_err()
            && other.purge(EndpointId::new(1)).is_err()
            && other.occupancy(EndpointId::new(1)).is_ok()
    );
    drop(ebpf);
    assert!(spawn("open", &dir.0, 0).wait().unwrap().success());
    let mut ebpf = Ebpf::open(&dir.0, Config::default()).unwrap();
    assert_eq!(ebpf.capacities(), &Capacities::small(), "what is pinned keeps its sizes");
    assert!(same(&ebpf.read().unwrap(), &program));
    ebpf.settle().unwrap();
    drop(ebpf);
    Ebpf::remove(&dir.0).unwrap();
    Ebpf::remove(&dir.0).unwrap();
}

#[test]
fn s57_a_kill_at_every_step_leaves_what_the_next_start_completes() {
    let dir = PinDir::new("steps");
    let (old, new) = (first(), second());
    let steps = delta::plan(&old, &new).unwrap().1.steps.len() as u64;
    assert!(steps > 5, "{steps} steps");
    for kill in 0..=steps {
        let mut ebpf = Ebpf::open(&dir.0, Config::small()).expect("needs root and BPF");
        let (_, plan) = delta::plan(&ebpf.read().unwrap(), &old).unwrap();
        execute(&mut ebpf, &plan).unwrap();
        drop(ebpf);
        spawn("update", &dir.0, kill).wait().unwrap();
        let mut ebpf = Ebpf::open(&dir.0, Config::small()).unwrap();
        let (renamed, plan) = delta::plan(&ebpf.read().unwrap(), &new).unwrap();
        execute(&mut ebpf, &plan).unwrap();
        assert!(same(&ebpf.read().unwrap(), &renamed), "killed before step {kill}");
    }
}

#[test]
fn s57_a_kill_at_any_moment_leaves_tables_that_can_be_read_and_changed() {
    let dir = PinDir::new("churn");
    let mut rng = Rng(seed());
    drop(Ebpf::open(&dir.0, Config::small()).expect("needs root and BPF"));
    let mut seen = 0;
    for round in 0..12 {
        let mut child = spawn("churn", &dir.0, rng.next());
        std::thread::sleep(Duration::from_micros(60_000 + rng.below(60_000)));
        if round % 3 == 0 {
            // beside a writer that never rests a look may meet a write half-done, and says so; it
            // never changes anything
            let looks = (0..3)
                .map(|_| Ebpf::observe(&dir.0).and_then(|e| e.expect("pinned").read()).is_ok());
            seen += looks.filter(|ok| *ok).count();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut ebpf =
            Ebpf::open(&dir.0, Config::small()).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let mut model = ebpf.read().unwrap_or_else(|e| panic!("round {round}: {e}"));
        for _ in 0..20 {
            let write = common::write(&mut rng, &model);
            ebpf.write(&write).unwrap();
            model.apply(&write);
        }
        assert!(same(&ebpf.read().unwrap(), &model), "round {round}");
    }
    assert!(seen > 0, "an observer beside a writer read the tables at least once");
}

#[test]
fn s58_a_kill_while_everything_is_made_is_made_good() {
    let mut rng = Rng(seed());
    let dir = PinDir::new("torn");
    for round in 0..12 {
        let mut child = spawn("open", &dir.0, 0);
        std::thread::sleep(Duration::from_micros(2_000 + rng.below(1 << (10 + round))));
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 2 == 0 {
            let mut ebpf = Ebpf::open(&dir.0, Config::small())
                .unwrap_or_else(|e| panic!("round {round}: {e}"));
            assert!(ebpf.read().unwrap().is_empty());
            fill(&mut ebpf, &first());
            assert_eq!(ebpf.generation(), 1);
            drop(ebpf);
        }
        Ebpf::remove(&dir.0).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert!(!dir.0.exists());
    }
}

/// Small enough to grow in several dimensions.
fn tiny() -> Config {
    let Capacities { endpoints, remote_v6_leaves, fragments, .. } = Capacities::small();
    let capacities = Capacities { endpoints, remote_v6_leaves, fragments, ..common::tiny() };
    Config { capacities, ..Config::small() }
}

#[test]
fn s33_tables_grow_and_interfaces_follow() {
    std::thread::spawn(|| {
        own_network();
        sh("ip link add pod0 type veth peer name eth0");
        let dir = PinDir::new("grow");
        let mut ebpf = Ebpf::open(&dir.0, tiny()).expect("needs root and BPF");
        let (ifindex, _) = ebpf.attach_name("pod0").unwrap();
        let (mut rng, mut model) = (Rng(seed()), Program::default());
        for _ in 0..400 {
            let write = common::write(&mut rng, &model);
            ebpf.write(&write).unwrap();
            model.apply(&write);
        }
        assert!(ebpf.generation() > 5, "generation {}", ebpf.generation());
        assert!(same(&ebpf.read().unwrap(), &model));
        let generation = ebpf.generation();
        drop(ebpf);
        let names = |dir: &Path| {
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap())
        };
        let mut left: Vec<String> = names(&dir.0).collect();
        left.sort();
        assert_eq!(left, [format!("gen_{generation}"), "links".into(), "shared".into()]);
        let ebpf = Ebpf::open(&dir.0, tiny()).unwrap();
        assert!(same(&ebpf.read().unwrap(), &model));
        assert_eq!(ebpf.attachments().len(), 1);
        assert_eq!(ebpf.attachments()[0].ifindex, ifindex);
    })
    .join()
    .unwrap();
}

/// The next generation is made before it is needed, and one that is much too large is given back;
/// nothing changes but the sizes.
#[test]
fn s33_sizes_are_looked_ahead_for() {
    let mut config = tiny();
    config.connections.shrink_after = std::time::Duration::ZERO;
    let mut ebpf = Ebpf::private(config).expect("needs root and BPF");
    let (mut rng, mut model) = (Rng(seed()), Program::default());
    let until = |ebpf: &mut Ebpf, model: &Program, generation: u64| {
        let began = std::time::Instant::now();
        while ebpf.generation() < generation {
            ebpf.look_ahead(model).unwrap();
            assert!(
                began.elapsed().as_secs() < 30,
                "generation {} {:?}",
                ebpf.generation(),
                ebpf.capacities()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(same(&ebpf.read().unwrap(), model));
    };
    for _ in 0..60 {
        let write = common::write(&mut rng, &model);
        ebpf.write(&write).unwrap();
        model.apply(&write);
    }
    // The last id that fits.
    let last = ebpf.capacities().sets - 1;
    let write = Write::put(
        TableId::Base,
        schema::base_key(SetId::new(last as u16), Family::V4),
        schema::plain(ActionId::Permit),
    );
    ebpf.write(&write).unwrap();
    model.apply(&write);
    let (before, generation) = (*ebpf.capacities(), ebpf.generation());
    assert!(last < before.sets);
    until(&mut ebpf, &model, generation + 1);
    assert!(ebpf.capacities().bytes() > before.bytes() && ebpf.capacities().holds(&before));
    let (set, class) = (8_000, 1_000);
    for write in [
        Write::put(
            TableId::Base,
            schema::base_key(SetId::new(set), Family::V4),
            schema::plain(ActionId::Permit),
        ),
        Write::put(
            TableId::RemoteV4,
            schema::remote_key([10, 9, 8, 7].into(), 32),
            schema::set_remote(Class::new(Family::V4, class), Incarnation::new(1)),
        ),
    ] {
        ebpf.write(&write).unwrap();
        model.apply(&write);
    }
    let (large, generation) = (ebpf.capacities().bytes(), ebpf.generation());
    let remove: Vec<Write> = model
        .tables()
        .map(|table| Write {
            table: table.id,
            remove: table.entries.keys().cloned().collect(),
            put: vec![],
        })
        .collect();
    for write in remove {
        ebpf.write(&write).unwrap();
        model.apply(&write);
    }
    ebpf.settle().unwrap();
    until(&mut ebpf, &model, generation + 1);
    assert!(ebpf.capacities().bytes() * 4 < large, "{:?}", ebpf.capacities());
}

#[test]
fn s59_a_full_table_changes_nothing() {
    let mut ebpf = Ebpf::private(tiny().fixed()).expect("needs root and BPF");
    let steps = [
        Write::put(
            TableId::Base,
            schema::base_key(SetId::new(1), Family::V4),
            schema::set_row(RowId::new(1)),
        ),
        Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(1), PortClassId::new(63)),
            schema::plain(ActionId::Permit),
        ),
    ];
    let plan = Plan { steps: steps.into_iter().map(|w| (Phase::Refine, w)).collect() };
    execute(&mut ebpf, &plan).unwrap();
    let before = ebpf.read().unwrap();
    for write in [
        Write::put(
            TableId::Base,
            schema::base_key(SetId::new(2), Family::V4),
            schema::plain(ActionId::Permit),
        ),
        Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(2), PortClassId::new(1)),
            schema::plain(ActionId::Permit),
        ),
        Write::put(
            TableId::Verdict,
            schema::verdict_key(RowId::new(1), PortClassId::new(64)),
            schema::plain(ActionId::Permit),
        ),
        Write {
            table: TableId::RemoteV6,
            remove: vec![],
            put: (0..60u32)
                .map(|i| {
                    let address = std::net::Ipv6Addr::from(u128::from(i) << 64 | 1);
                    (
                        schema::remote_key(address.into(), 128),
                        schema::set_remote(Class::new(Family::V6, 1), Incarnation::new(1)),
                    )
                })
                .collect(),
        },
        Write {
            table: TableId::Interface,
            remove: vec![],
            put: [300, 600]
                .map(|i| {
                    (
                        schema::interface_key(IfIndex::new(i)),
                        schema::set_endpoint(EndpointId::new(1)),
                    )
                })
                .to_vec(),
        },
    ] {
        let refused = ebpf.write(&write);
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?} for {write:?}");
        assert_eq!(ebpf.read().unwrap(), before);
    }
}
