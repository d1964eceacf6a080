//! The random packets that datapaths are compared by: do they reach what they should, and do they
//! find differences?

use std::{collections::BTreeSet, time::Duration};

use netpolc_table::{EndpointId, IfIndex, Program, Write};
use netpolc_target::{
    Arrival, Capabilities, Datapath, DropReason, Error, Frame, Hook, Mark, Target, Verdict,
    conformance,
    conformance::differential::{Event, Events, compare},
};
use netpolc_target_mem::Mem;

/// A datapath that differs from `mem` in one place.
struct Wrong {
    inner: Mem,
    what: Wrongly,
}

impl Target for Wrong {
    fn name(&self) -> &'static str {
        "wrong"
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn read(&self) -> Result<Program, Error> {
        self.inner.read()
    }
    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.inner.write(write)
    }
    fn settle(&mut self) -> Result<(), Error> {
        self.inner.settle()
    }
}

impl Datapath for Wrong {
    fn packet(&mut self, hook: Hook, frame: &Frame) -> Result<Verdict, Error> {
        Ok((self.what)(hook, frame, self.inner.packet(hook, frame)?))
    }
    fn advance(&mut self, by: Duration) -> Result<(), Error> {
        self.inner.advance(by)
    }
}

/// Does the frame have these bits (offset, mask, value)?
fn has(frame: &Frame, bits: &[(usize, u8, u8)]) -> bool {
    bits.iter()
        .all(|(at, mask, value)| frame.bytes.get(*at).is_some_and(|byte| byte & mask == *value))
}

/// IPv4 without tags.
const V4: (usize, u8, u8) = (12, 255, 8);

/// What a wrong datapath makes of a verdict.
type Wrongly = fn(Hook, &Frame, Verdict) -> Verdict;

/// Ways to be wrong that a careless datapath would choose.
const WRONGS: [(&str, Wrongly); 6] = [
    ("passes all", |_, _, _| Verdict::Next),
    ("drops all", |_, _, _| Verdict::Drop),
    ("passes what is tagged twice", |_, f, v| {
        if has(f, &[(12, 255, 0x88), (16, 255, 0x81)]) { Verdict::Next } else { v }
    }),
    ("drops fragments", |_, f, v| if has(f, &[V4, (20, 0x20, 0x20)]) { Verdict::Drop } else { v }),
    ("drops IPv4 options", |_, f, v| if has(f, &[V4, (14, 8, 8)]) { Verdict::Drop } else { v }),
    ("passes SYNs out of a pod", |hook, f, v| {
        let syn = has(f, &[V4, (14, 255, 0x45), (23, 255, 6), (47, 255, 2)]);
        if hook == Hook::FromPod && syn { Verdict::Next } else { v }
    }),
];

#[test]
fn wrong_datapaths_are_found_by_random_packets_and_by_the_suite() {
    for (name, what) in WRONGS {
        let found = (0..4).any(|seed| {
            let mut wrong = Wrong { inner: Mem::default(), what };
            compare(&mut Mem::default(), &mut wrong, seed, 2000).expect("no errors").is_err()
        });
        assert!(found, "{name}: not found by random packets");
        let report = conformance::run_matching(|| Wrong { inner: Mem::default(), what }, "");
        assert!(!report.failures.is_empty(), "{name}: not found by the suite");
    }
}

#[test]
fn mem_agrees_with_itself_and_all_drop_reasons_occur() {
    let mut reasons = BTreeSet::new();
    for seed in 0..8 {
        let (mut left, mut right) = (Mem::default(), Mem::default());
        let agreed =
            compare(&mut left, &mut right, seed, 4000).expect("no errors").expect("the same");
        assert!(agreed.passed > 800 && agreed.dropped > 800, "seed {seed}: {agreed:?}");
        assert!(agreed.recorded > agreed.dropped, "seed {seed}: {agreed:?}");
        reasons.extend(left.drops().keys().map(|(_, _, reason)| *reason));
        assert!(
            (1..=2).all(|endpoint| left.connections(EndpointId::new(endpoint)) <= 48),
            "an epoch must not use up a quota"
        );
    }
    let expected: BTreeSet<DropReason> =
        DropReason::ALL.into_iter().filter(|r| *r != DropReason::StateFull).collect();
    assert_eq!(reasons, expected);
}

#[test]
fn equal_seeds_give_equal_events() {
    let text = |seed| format!("{:?}", Events::new(seed).take(500).collect::<Vec<Event>>());
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn s52_any_bytes_get_an_answer() {
    let mut random = netpolc_target::random::Random::new(1);
    let mut mem = Mem::default();
    let world = conformance::world::world(
        conformance::world::Policy::Some,
        conformance::world::Policy::Some,
    );
    conformance::fill(&mut mem, &world).expect("room");
    for _ in 0..60_000 {
        let length = random.below(120);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
        if length > 14 {
            let kind = random.pick(&[[8, 0], [0x86, 0xdd], [0x81, 0]]);
            bytes[12..14].copy_from_slice(&kind);
            bytes[14] = if kind == [8, 0] { 0x40 | bytes[14] & 15 } else { 0x60 };
        }
        for hook in [Hook::ToPod, Hook::FromPod] {
            let frame = Frame {
                interface: IfIndex::new(101),
                arrival: Arrival::At(IfIndex::new(7)),
                mark: Mark::Clear,
                bytes: bytes.clone(),
            };
            mem.packet(hook, &frame).expect("an answer");
        }
    }
}
