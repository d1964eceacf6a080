//! What a record costs: denied packets that are recorded, and that are over budget, against the
//! same program without records; and packets of established connections, which are never recorded.
//!
//! Not here: what the rest of a program costs (`packet`).

use std::time::Instant;

use anyhow::ensure;
use netpolc_target::{
    Arrival, Frame, Hook, Mark, Recorder, Target as _, Verdict,
    conformance::world::{A, ACK, Hosts, Policy, SYN, SYN_ACK, Talk, UPLINK, Unit, web, world},
    fill,
};
use netpolc_target_ebpf::{
    Config, Ebpf,
    program::{Measure, Options, Records},
};

use crate::Section;

/// How many packets one measurement has: fewer than the ring has room for.
const PACKETS: u32 = 8192;

/// A program, with the reader of its records.
struct Rig {
    ebpf: Ebpf,
    reader: Box<dyn Recorder>,
}

impl Rig {
    fn new(records: Records) -> anyhow::Result<Self> {
        let measure = Measure { records, ..Measure::default() };
        let program = Options { measure, ..Options::default() };
        let mut ebpf = Ebpf::private(Config { program, ..Config::small() })?;
        fill(&mut ebpf, &world(Policy::Some, Policy::Some))?;
        ebpf.settle()?;
        let reader = ebpf.recorder()?;
        let mut rig = Self { ebpf, reader };
        // The connection that is established.
        for (hook, bytes) in [
            (Hook::FromPod, open().out(SYN)),
            (Hook::ToPod, open().back(SYN_ACK)),
            (Hook::FromPod, open().out(ACK)),
        ] {
            let (verdict, _) = rig.ebpf.run(hook, &frame(hook, bytes), 1)?;
            ensure!(verdict == Verdict::Next, "the connection cannot be opened");
        }
        Ok(rig)
    }

    /// The nanoseconds that one packet takes.
    fn run(&mut self, hook: Hook, frame: &Frame, expected: Verdict) -> anyhow::Result<f64> {
        let (verdict, time) = self.ebpf.run(hook, frame, PACKETS)?;
        ensure!(verdict == expected, "{verdict:?}, not {expected:?}");
        Ok(time.as_nanos() as f64)
    }
}

fn open() -> Talk {
    let [hosts, _] = Hosts::both();
    web(&hosts)
}

fn frame(hook: Hook, bytes: Vec<u8>) -> Frame {
    let arrival = match hook {
        Hook::FromPod => Arrival::At(A.interface),
        Hook::ToPod | Hook::Translated => Arrival::At(UPLINK),
    };
    Frame { interface: A.interface, arrival, mark: Mark::Clear, bytes }
}

/// Measures.
///
/// # Errors
/// The caller is not root, or the kernel refuses the programs.
pub fn run(rounds: u32) -> anyhow::Result<Section> {
    netpolc::output::needs_root("bench records (it runs eBPF programs)")?;
    let [hosts, _] = Hosts::both();
    let denied = frame(Hook::ToPod, Talk::new(hosts.a, 80, hosts.stranger, 4000).back(SYN));
    let data = frame(Hook::FromPod, open().out(ACK));
    let answer = frame(Hook::ToPod, open().back(ACK));
    let datagram =
        frame(Hook::FromPod, Talk::new(hosts.a, 4000, hosts.network, 53).out(Unit::Other(47)));
    let (mut kept, mut without) = (Rig::new(Records::Kept)?, Rig::new(Records::Without)?);
    let mut best = [f64::INFINITY; 9];
    let mut keep = |at: usize, value: f64| best[at] = best[at].min(value);
    let mut read = f64::INFINITY;
    for _ in 0..rounds.max(3) * 4 {
        kept.reader.refill(0);
        keep(0, without.run(Hook::ToPod, &denied, Verdict::Drop)?);
        keep(1, kept.run(Hook::ToPod, &denied, Verdict::Drop)?);
        kept.reader.refill(u32::MAX);
        // What the last round has opened.
        kept.reader.read(usize::MAX, &mut |_| {})?;
        keep(2, kept.run(Hook::ToPod, &denied, Verdict::Drop)?);
        let (began, mut found) = (Instant::now(), 0u32);
        kept.reader.read(usize::MAX, &mut |_| found += 1)?;
        ensure!(found == PACKETS, "{found} records of {PACKETS} packets");
        read = read.min(began.elapsed().as_nanos() as f64 / f64::from(found));
        keep(3, without.run(Hook::FromPod, &data, Verdict::Next)?);
        keep(4, kept.run(Hook::FromPod, &data, Verdict::Next)?);
        keep(5, without.run(Hook::ToPod, &answer, Verdict::Next)?);
        keep(6, kept.run(Hook::ToPod, &answer, Verdict::Next)?);
        keep(7, without.run(Hook::FromPod, &datagram, Verdict::Next)?);
        keep(8, kept.run(Hook::FromPod, &datagram, Verdict::Next)?);
    }
    let head = ["packet", "without records", "with them", "more", "bound"];
    let mut section = Section::new("What a record costs, in ns", &head);
    for (what, plain, recorded, bound) in [
        ("denied, and recorded", best[0], best[2], 120.0),
        ("denied, over budget", best[0], best[1], 10.0),
        ("data of TCP, permitted", best[3], best[4], 1.0),
        ("data of TCP, an answer", best[5], best[6], 1.0),
        ("datagram, permitted both ways", best[7], best[8], 1.0),
    ] {
        let more = recorded - plain;
        let bound = section.at_most(what, more, bound);
        section.rows.push(vec![
            what.into(),
            format!("{plain:.0}"),
            format!("{recorded:.0}"),
            format!("{more:.0}"),
            bound,
        ]);
    }
    section.rows.push(vec![
        "reading a record".into(),
        String::new(),
        format!("{read:.0}"),
        String::new(),
        String::new(),
    ]);
    Ok(section)
}
