//! The generated programs against the reference datapath: random packets, policies and pauses,
//! random tables.
//!
//! A few seconds by default; `NETPOLC_FUZZ_SECONDS` goes on longer, `NETPOLC_SEED` begins
//! elsewhere.

mod common;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use common::Rng;
use netpolc_table::{
    EndpointId, IfIndex, Program, SetId, Write,
    schema::{self, Family, Word},
};
use netpolc_target::{
    Arrival, Capabilities, Datapath, DropReason, Error, Frame, Hook, Mark, Target, Verdict,
    conformance::{
        differential::{Event, Events, compare, fuzz_frame},
        fill,
        world::{Policy, world},
    },
    frame::{Packet, test_run_takes},
};
use netpolc_target_ebpf::{Begun, Config, Ebpf, Tender};
use netpolc_target_mem::Mem;

fn seconds() -> Duration {
    let set = std::env::var("NETPOLC_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(set.unwrap_or(4))
}

/// Takes everything away: words first, so that no packet could meet half of it.
fn empty(target: &mut dyn Target) {
    let program = target.read().unwrap();
    for table in program.tables() {
        let remove = table.entries.keys().cloned().collect();
        target.write(&Write { table: table.id, remove, put: vec![] }).unwrap();
    }
    target.settle().unwrap();
}

#[test]
fn packets_policies_and_pauses_as_the_reference() {
    let mut ebpf = Ebpf::private(Config::asked()).expect("needs root and BPF");
    let (begin, mut seed) = (Instant::now(), common::seed());
    let (mut passed, mut dropped, mut compared, mut recorded) = (0, 0, 0, 0);
    while begin.elapsed() < seconds() {
        empty(&mut ebpf);
        match compare(&mut Mem::default(), &mut ebpf, seed, 1500).unwrap() {
            Ok(agreed) => {
                passed += agreed.passed;
                dropped += agreed.dropped;
                compared += agreed.compared;
                recorded += agreed.recorded;
            }
            Err(mismatch) => panic!("{mismatch:#?}"),
        }
        seed += 1;
    }
    assert!(passed > 300 && dropped > 300, "{passed} passed, {dropped} dropped");
    assert!(compared > 8, "{compared} compared");
    assert!(recorded > dropped, "{recorded} recorded, {dropped} dropped");
}

/// A target whose tables of connections change their size all the time, and stand in two places for
/// some packets.
struct Moving {
    ebpf: Ebpf,
    tender: Tender,
    begun: Vec<Begun>,
    rng: Rng,
    moves: usize,
}

impl Moving {
    fn step(&mut self) -> Result<(), Error> {
        if self.rng.below(12) != 0 {
            return Ok(());
        }
        if self.rng.below(2) == 0 {
            let (endpoint, log) = (1 + self.rng.below(5) as u16, 5 + self.rng.below(8) as u8);
            let begun =
                self.tender.begin(EndpointId::new(endpoint), *self.rng.pick(&Family::BOTH), log)?;
            self.begun.extend(begun);
        } else if let Some(begun) = self.begun.pop() {
            self.moves +=
                usize::from(self.tender.finish(begun)?.is_some_and(|moved| moved.lost == 0));
        }
        Ok(())
    }
}

impl Target for Moving {
    fn name(&self) -> &'static str {
        "moving"
    }
    fn capabilities(&self) -> &Capabilities {
        self.ebpf.capabilities()
    }
    fn read(&self) -> Result<Program, Error> {
        self.ebpf.read()
    }
    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.ebpf.write(write)
    }
    fn settle(&mut self) -> Result<(), Error> {
        self.ebpf.settle()
    }
}

impl Datapath for Moving {
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error> {
        self.step()?;
        self.ebpf.packet(hook, frame)
    }
    fn explain_last(&self) -> Option<DropReason> {
        self.ebpf.explain_last()
    }
    fn advance(&mut self, by: Duration) -> Result<(), Error> {
        self.ebpf.advance(by)
    }
}

/// S59: the size of a table is seen in no verdict.
#[test]
fn s59_tables_that_change_their_size_answer_as_the_reference() {
    let ebpf = Ebpf::private(Config::asked()).expect("needs root and BPF");
    let (tender, seed) = (ebpf.tender().unwrap(), common::seed());
    let mut moving = Moving { ebpf, tender, begun: vec![], rng: Rng(seed), moves: 0 };
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < seconds() {
        empty(&mut moving);
        if let Err(mismatch) =
            compare(&mut Mem::default(), &mut moving, seed + rounds, 300).unwrap()
        {
            panic!("{mismatch:#?}");
        }
        rounds += 1;
    }
    assert!(rounds > 0 && moving.moves > 10, "{rounds} rounds, {} moves", moving.moves);
}

/// A word for an endpoint that the random tables know.
fn word(rng: &mut Rng) -> Word {
    Word {
        ingress_set: SetId::new(1 + rng.below(5) as u16),
        egress_set: SetId::new(1 + rng.below(5) as u16),
        born_set: SetId::new(rng.below(6) as u16),
        flags: *rng.pick(&[3, 3, 1, 2, 11, 4, 8]),
    }
}

fn address(rng: &mut Rng, family: Family) -> IpAddr {
    common::address(rng, family)
}

/// One packet between addresses and ports that the random tables are about.
fn packet(rng: &mut Rng) -> Vec<u8> {
    let family = *rng.pick(&Family::BOTH);
    let packet = Packet::new(address(rng, family), address(rng, family));
    let port = |rng: &mut Rng| {
        *rng.pick(&[0u16, 1, 22, 80, 81, 300, 443, 900, 1000, 1200, 8080, 8200, 65535])
    };
    let (source, destination) = (port(rng), port(rng));
    match rng.below(6) {
        0 | 1 => packet.tcp(source, destination, *rng.pick(&[2, 0x12, 0x10, 0x11, 4])),
        2 | 3 => packet.udp(source, destination),
        4 => packet.sctp(source, destination, *rng.pick(&[0, 1, 2, 7])),
        _ => packet.protocol(*rng.pick(&[47, 50, 89])),
    }
    .build()
}

#[test]
fn random_tables_as_the_reference() {
    let mut ebpf = Ebpf::private(Config::asked()).expect("needs root and BPF");
    let (begin, mut seed, mut verdicts) = (Instant::now(), common::seed(), [0u64; 2]);
    while begin.elapsed() < seconds() {
        let mut rng = Rng(seed);
        empty(&mut ebpf);
        let (mut mem, mut model) = (Mem::default(), Program::default());
        for round in 0..300 {
            let mut write = common::write(&mut rng, &model);
            if rng.one_in(4) {
                let endpoint = 1 + rng.below(5) as u16;
                let put = (
                    schema::endpoint_key(EndpointId::new(endpoint)),
                    schema::set_policy(word(&mut rng)),
                );
                write = Write {
                    table: netpolc_table::TableId::Endpoint,
                    remove: vec![],
                    put: vec![put],
                };
            }
            ebpf.write(&write).unwrap();
            mem.write(&write).unwrap();
            model.apply(&write);
            for _ in 0..20 {
                let hook = *rng.pick(&[Hook::ToPod, Hook::FromPod]);
                let interface = *rng.pick(&[2, 3, 255, 256, 257, 70_000, 16_777_215]);
                let arrival = *rng.pick(&[
                    Arrival::Born,
                    Arrival::At(IfIndex::new(7)),
                    Arrival::At(IfIndex::new(7)),
                    Arrival::Forgotten,
                ]);
                let frame = Frame {
                    interface: IfIndex::new(interface),
                    arrival,
                    mark: Mark::Clear,
                    bytes: packet(&mut rng),
                };
                if !test_run_takes(&frame.bytes) {
                    continue;
                }
                let (want, got) =
                    (mem.packet(hook, &frame).unwrap(), ebpf.packet(hook, &frame).unwrap());
                assert_eq!(
                    got, want,
                    "seed {seed}, round {round}: {hook:?} {frame:02x?}\n{model:#?}"
                );
                if want == Verdict::Drop {
                    let (why, said) = (mem.explain_last(), ebpf.explain_last());
                    assert_eq!(said, why, "seed {seed}, round {round}: {hook:?} {frame:02x?}");
                }
                verdicts[usize::from(want == Verdict::Drop)] += 1;
            }
        }
        seed += 1;
    }
    assert!(verdicts.iter().all(|v| *v > 100), "{verdicts:?}");
}

/// What the fuzz target `packet` does, for a second: frames of the differential test, damaged
/// further.
#[test]
fn any_bytes_as_the_reference() {
    let (mut mem, mut ebpf) =
        (Mem::default(), Ebpf::private(Config::asked()).expect("needs root and BPF"));
    let program = world(Policy::Some, Policy::Some);
    fill(&mut mem, &program).unwrap();
    fill(&mut ebpf, &program).unwrap();
    let (begin, mut rng) = (Instant::now(), Rng(common::seed()));
    let mut frames = 0;
    for event in Events::new(common::seed()) {
        let Event::Packet(hook, frame) = event else { continue };
        let mut bytes = vec![hook as u8 | (rng.below(64) as u8) << 2];
        bytes.extend(frame.bytes);
        for _ in 0..rng.below(4) {
            let at = 1 + rng.below(bytes.len() as u64 - 1) as usize;
            bytes[at] = rng.below(256) as u8;
        }
        if let Err(mismatch) = fuzz_frame(&mut mem, &mut ebpf, &bytes).unwrap() {
            panic!("{mismatch:#?}");
        }
        frames += 1;
        if begin.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    assert!(frames > 100, "only {frames} frames in a second");
}
