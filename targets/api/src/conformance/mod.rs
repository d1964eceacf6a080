//! The suite that every target must pass. [`run`] puts each case to an empty target. First comes
//! what any [`Target`] does with tables (`tables`), then packets: cases with a program and a list
//! of steps ([`cases()`]), and what depends on a target's capacity (`quota`). A case's name begins
//! with the item of docs/semantics.md that it proves. [`differential`] puts random packets to two
//! targets and finds where their answers differ. Not here: whether programs are right (compiler/).
//!
//! # Examples
//!
//! A target's test is one line:
//!
//! ```
//! use netpolc_target::conformance;
//! use netpolc_target_mem::Mem;
//!
//! conformance::run(Mem::default).assert_passed();
//! ```

mod cases;
pub mod differential;
mod quota;
mod tables;
pub mod world;

use std::{fmt, time::Duration};

use netpolc_table::{IfIndex, Program, Write};

use crate::{Arrival, Datapath, Error, Frame, Hook, Mark, Noted, Target, Verdict};

pub use cases::cases;
pub use tables::{clear, fill};

/// What the suite needs: a target that can also be asked about packets.
pub trait Subject: Target + Datapath {}
impl<T: Target + Datapath> Subject for T {}

/// A program, and what happens while a target holds it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What the case proves, beginning with the number of the item in docs/semantics.md.
    pub name: String,
    /// What the target holds before the first step.
    pub program: Program,
    /// What happens, in this order.
    pub steps: Vec<Step>,
    /// The interface of packets added by the building functions.
    interface: IfIndex,
}

/// One step of a case.
#[derive(Clone, Debug)]
pub enum Step {
    /// A packet and its verdict.
    Packet {
        /// What the packet is, for messages.
        what: String,
        /// The hook that sees the packet.
        hook: Hook,
        /// The packet as the hook sees it.
        frame: Frame,
        /// What the target must answer.
        expected: Verdict,
    },
    /// So much time passes.
    Advance(Duration),
    /// The program changes by this write.
    Write(Write),
    /// What the last packet was noted as, in this order, where the target records (S87).
    Noted(Vec<Noted>),
}

impl Case {
    /// A case without steps; packets are those of pod A ([`world::A`]).
    pub fn new(name: impl Into<String>, program: Program) -> Self {
        Case { name: name.into(), program, steps: vec![], interface: world::A.interface }
    }

    /// The packets that follow are another pod's.
    pub fn at(mut self, pod: world::Pod) -> Self {
        self.interface = pod.interface;
        self
    }

    fn packet(
        self,
        what: &str,
        hook: Hook,
        arrival: Arrival,
        bytes: Vec<u8>,
        expected: Verdict,
    ) -> Self {
        let frame = Frame { interface: self.interface, arrival, mark: Mark::Clear, bytes };
        self.step(what, hook, frame, expected)
    }

    fn step(mut self, what: &str, hook: Hook, frame: Frame, expected: Verdict) -> Self {
        self.steps.push(Step::Packet { what: what.into(), hook, frame, expected });
        self
    }

    /// A packet from the pod goes on, marked.
    pub fn out_defers(self, what: &str, bytes: Vec<u8>) -> Self {
        let interface = self.interface;
        self.packet(what, Hook::FromPod, Arrival::At(interface), bytes, Verdict::Defer)
    }

    /// A marked packet that came so is about to leave the node.
    pub fn leaves(
        self,
        what: &str,
        arrival: impl Into<Arrival>,
        bytes: Vec<u8>,
        expected: Verdict,
    ) -> Self {
        let frame = Frame {
            interface: world::UPLINK,
            arrival: arrival.into(),
            mark: Mark::Deferred,
            bytes,
        };
        self.step(what, Hook::Translated, frame, expected)
    }

    /// A marked packet that came so comes to the pod.
    pub fn comes(
        self,
        what: &str,
        arrival: impl Into<Arrival>,
        bytes: Vec<u8>,
        expected: Verdict,
    ) -> Self {
        let frame = Frame {
            interface: self.interface,
            arrival: arrival.into(),
            mark: Mark::Deferred,
            bytes,
        };
        self.step(what, Hook::ToPod, frame, expected)
    }

    /// An unmarked packet that came so.
    pub fn entered(
        self,
        what: &str,
        hook: Hook,
        arrival: impl Into<Arrival>,
        bytes: Vec<u8>,
        expected: Verdict,
    ) -> Self {
        self.packet(what, hook, arrival.into(), bytes, expected)
    }

    /// A packet from elsewhere towards the pod passes.
    pub fn in_passes(self, what: &str, bytes: Vec<u8>) -> Self {
        self.packet(what, Hook::ToPod, Arrival::At(world::UPLINK), bytes, Verdict::Next)
    }

    /// A packet from elsewhere towards the pod is dropped.
    pub fn in_drops(self, what: &str, bytes: Vec<u8>) -> Self {
        self.packet(what, Hook::ToPod, Arrival::At(world::UPLINK), bytes, Verdict::Drop)
    }

    /// A packet from the pod passes.
    pub fn out_passes(self, what: &str, bytes: Vec<u8>) -> Self {
        let interface = self.interface;
        self.packet(what, Hook::FromPod, Arrival::At(interface), bytes, Verdict::Next)
    }

    /// A packet from the pod is dropped.
    pub fn out_drops(self, what: &str, bytes: Vec<u8>) -> Self {
        let interface = self.interface;
        self.packet(what, Hook::FromPod, Arrival::At(interface), bytes, Verdict::Drop)
    }

    /// A packet born on the node passes towards the pod (S44).
    pub fn born_passes(self, what: &str, bytes: Vec<u8>) -> Self {
        self.packet(what, Hook::ToPod, Arrival::Born, bytes, Verdict::Next)
    }

    /// A packet born on the node is dropped on its way to the pod (S82).
    pub fn born_drops(self, what: &str, bytes: Vec<u8>) -> Self {
        self.packet(what, Hook::ToPod, Arrival::Born, bytes, Verdict::Drop)
    }

    /// A packet towards the pod that the kernel has cut anew is dropped: nobody knows where it came
    /// in.
    pub fn forgotten_drops(self, what: &str, bytes: Vec<u8>) -> Self {
        self.packet(what, Hook::ToPod, Arrival::Forgotten, bytes, Verdict::Drop)
    }

    /// A packet towards the pod that the kernel has cut anew passes.
    pub fn forgotten_passes(self, what: &str, bytes: Vec<u8>) -> Self {
        self.packet(what, Hook::ToPod, Arrival::Forgotten, bytes, Verdict::Next)
    }

    /// So many seconds pass.
    pub fn after(mut self, seconds: u64) -> Self {
        self.steps.push(Step::Advance(Duration::from_secs(seconds)));
        self
    }

    /// The program changes by this write.
    pub fn write(mut self, write: Write) -> Self {
        self.steps.push(Step::Write(write));
        self
    }

    /// The last packet is noted as this and nothing else.
    pub fn noted(mut self, noted: &[Noted]) -> Self {
        self.steps.push(Step::Noted(noted.to_vec()));
        self
    }
}

/// A step at which a target did not do what it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The case's name.
    pub case: String,
    /// The step's number, from 0.
    pub step: usize,
    /// What the step does.
    pub what: String,
    /// What the target should have answered.
    pub expected: String,
    /// What the target answered.
    pub got: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { case, step, what, expected, got } = self;
        write!(f, "{case}, step {step} ({what}): expected {expected}, got {got}")
    }
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many cases were run.
    pub cases: usize,
    /// How many packets were judged.
    pub packets: usize,
    /// The steps that failed, in order.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Panics where a case failed, with a line for each failure, or where no case was run.
    pub fn assert_passed(&self) {
        let lines: Vec<String> = self.failures.iter().map(Failure::to_string).collect();
        assert!(
            lines.is_empty(),
            "{} of {} cases fail:\n{}",
            lines.len(),
            self.cases,
            lines.join("\n")
        );
        assert!(self.cases > 0 && self.packets > 0, "nothing was run");
    }

    fn fail(
        &mut self,
        case: &str,
        step: usize,
        what: &str,
        expected: impl fmt::Debug,
        got: impl fmt::Debug,
    ) {
        let (case, what) = (case.to_owned(), what.to_owned());
        let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
        self.failures.push(Failure { case, step, what, expected, got });
    }

    fn fail_error(&mut self, case: &str, step: usize, what: &str, error: &Error) {
        self.fail(case, step, what, "no error", error.to_string());
    }
}

/// Runs the whole suite. `make` makes an empty target. Packet cases share one, emptied between them
/// (which must forget all state, S43), as long as none fails, since a kernel may take a second to
/// verify the programs of a new one.
pub fn run<T: Subject>(mut make: impl FnMut() -> T) -> Report {
    let mut report = Report::default();
    tables::run(&mut make, &mut report);
    run_cases(&mut make, &cases(), &mut report);
    quota::run(&mut make, &mut report);
    report
}

/// Runs the packet cases whose names contain `filter`, to look into one that fails.
pub fn run_matching<T: Subject>(mut make: impl FnMut() -> T, filter: &str) -> Report {
    let mut report = Report::default();
    let chosen: Vec<Case> = cases().into_iter().filter(|c| c.name.contains(filter)).collect();
    run_cases(&mut make, &chosen, &mut report);
    report
}

/// Does what a packet is noted as say that it was dropped, once and for the reason that the target
/// gives, exactly where it was (S87)?
fn says(noted: &[Noted], verdict: Verdict, subject: &dyn Subject) -> bool {
    let dropped: Vec<&Noted> =
        noted.iter().filter(|noted| matches!(noted, Noted::Dropped(_))).collect();
    match (verdict, &dropped[..]) {
        (Verdict::Drop, [Noted::Dropped(reason)]) => {
            subject.explain_last().is_none_or(|last| last == *reason)
        }
        (Verdict::Drop, _) => false,
        (Verdict::Next | Verdict::Defer, dropped) => dropped.is_empty(),
    }
}

fn run_cases<T: Subject>(make: &mut impl FnMut() -> T, cases: &[Case], report: &mut Report) {
    let mut reused: Option<T> = None;
    for case in cases {
        let mut subject = reused.take().unwrap_or_else(&mut *make);
        let failures = report.failures.len();
        run_case(&mut subject, case, report);
        if let Err(error) = clear(&mut subject) {
            report.fail_error(&case.name, case.steps.len(), "empty the tables", &error);
        }
        reused = (report.failures.len() == failures).then_some(subject);
    }
}

/// Runs one case on an empty target; stops at the first step that fails, since later ones may
/// depend on it.
pub fn run_case(subject: &mut dyn Subject, case: &Case, report: &mut Report) {
    report.cases += 1;
    if let Err(error) = fill(subject, &case.program) {
        return report.fail_error(&case.name, 0, "fill the tables", &error);
    }
    // What was recorded before is nobody's here.
    if let Err(error) = subject.records() {
        return report.fail_error(&case.name, 0, "read the records", &error);
    }
    let mut last: Option<Vec<Noted>> = None;
    for (i, step) in case.steps.iter().enumerate() {
        let failure = match step {
            Step::Noted(expected) => {
                let differs = last.as_ref().filter(|noted| *noted != expected);
                differs.map(|noted| ("noted", format!("{expected:?}"), format!("{noted:?}")))
            }
            Step::Advance(by) => {
                subject.advance(*by).err().map(|e| ("advance", "no error".into(), e.to_string()))
            }
            Step::Write(write) => {
                subject.write(write).err().map(|e| ("write", "no error".into(), e.to_string()))
            }
            Step::Packet { what, hook, frame, expected } => {
                report.packets += 1;
                let got = subject.packet(*hook, frame);
                last = match subject.records() {
                    Ok(records) => records.map(|all| all.iter().map(|r| r.noted).collect()),
                    Err(error) => return report.fail_error(&case.name, i, what, &error),
                };
                let unnoted = last.as_deref().filter(|noted| !says(noted, *expected, subject));
                if got.as_ref().ok() == Some(expected) {
                    unnoted
                        .map(|noted| (what.as_str(), "what is noted".into(), format!("{noted:?}")))
                } else {
                    let got = got.map_or_else(
                        |e| e.to_string(),
                        |v| format!("{v:?} ({:?})", subject.explain_last()),
                    );
                    Some((what.as_str(), format!("{expected:?}"), got))
                }
            }
        };
        if let Some((what, expected, got)) = failure {
            let (case, what) = (case.name.clone(), what.to_owned());
            report.failures.push(Failure { case, step: i, what, expected, got });
            return;
        }
    }
}
