//! Rounds: new policies, new frames, and what came of them.
//!
//! A round's seed is the campaign's seed and the round's number, so that a round can be replayed
//! alone; connections that earlier rounds opened are then missing.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use netpolc_policy::{
    Cluster, Isolation, Mode, ObjectKey, Operator, Policy, Requirement, Selector,
};

use super::{
    Lab, Place, Tracking,
    generate::{Generator, Planned, first_mark, marks, planted},
    judge::{Judge, Kind, Violation},
    lab, parse,
    wire::Wire,
};
use crate::{
    manifest,
    netns::Error,
    random::{self, Rng},
};

/// Cases that are under way together.
const CASES: usize = 400;
/// Frames that go out before what arrived is read; the kernel's queue for each processor has 1,000
/// places.
const BURST: usize = 256;
/// After so long without an arrival, everything has arrived.
const IDLE: Duration = Duration::from_micros(800);
/// The same at the end of a round, before policies change.
const DRAIN: Duration = Duration::from_millis(40);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Decides about every frame of every round.
    pub seed: u64,
    /// The number of the first round.
    pub from: u64,
    /// How many frames at least.
    pub frames: usize,
    /// How many frames one round sends.
    pub round: usize,
    /// What counts; other violations are counted apart.
    pub kinds: Vec<Kind>,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Report {
    /// How many frames were sent.
    pub sent: usize,
    /// Frames that the sender's kernel did not take.
    pub refused: usize,
    /// Frames that arrived somewhere with a mark.
    pub arrived: usize,
    /// Frames that had to arrive.
    pub wanted: usize,
    /// How many of them did not, by label, and the first of each.
    pub missing: BTreeMap<&'static str, (usize, String)>,
    /// Violations by kind, and the first of each kind and label.
    pub violations: BTreeMap<(Kind, &'static str), (usize, String)>,
    /// The same of kinds that were not asked for.
    pub tolerated: BTreeMap<(Kind, &'static str), (usize, String)>,
    /// Frames that were lost before anybody looked at them.
    pub overrun: u32,
    /// How many rounds there were.
    pub rounds: u64,
    /// How long all of it took.
    pub took: Duration,
}

/// Everything that a round needs.
struct Field<'a> {
    lab: &'a Lab,
    wires: Vec<Wire>,
    node: [UdpSocket; 2],
    /// What was sent in this round, by mark less the first one's.
    sent: Vec<Planned>,
    first: u64,
    seen: Vec<bool>,
    /// What seems a violation: where it arrived, which frame it was, what arrived. Judged again
    /// when the round is over, since what it replies to may have arrived before it at another
    /// place, and been read later.
    suspects: Vec<(Place, usize, Vec<u8>)>,
    judge: Judge,
    seed: u64,
    number: u64,
    tracking: Tracking,
}

impl Campaign {
    /// Runs it. `enforce` makes the policies of a cluster stand before it returns.
    ///
    /// # Errors
    /// The lab cannot be set up, a wire fails, or `enforce` fails.
    pub fn run<E: fmt::Display>(
        &self,
        lab: &Lab,
        mut enforce: impl FnMut(&Cluster) -> Result<(), E>,
    ) -> Result<Report, Error> {
        let began = Instant::now();
        let mut report = Report::default();
        let mut field = Field {
            lab,
            wires: lab.wires()?,
            node: lab.node_sockets()?,
            sent: vec![],
            first: 0,
            seen: vec![],
            suspects: vec![],
            judge: Judge::new(lab.world.clone(), Cluster::default()),
            seed: self.seed,
            number: self.from,
            tracking: Tracking::Off,
        };
        while report.sent < self.frames {
            let mut rng = Rng::new(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(field.number));
            let cluster = policies(&mut rng, lab);
            field.track(if rng.chance(50) { Tracking::On } else { Tracking::Off })?;
            enforce(&cluster).map_err(|e| Error::Name(format!("round {}: {e}", field.number)))?;
            field.judge.turn(cluster);
            self.round(&mut field, rng, &mut report)?;
            field.number += 1;
            report.rounds += 1;
        }
        for wire in &field.wires {
            report.overrun +=
                wire.lost().map_err(|e| Error::system("count lost frames".into(), e))?;
        }
        report.took = began.elapsed();
        Ok(report)
    }

    fn round(&self, field: &mut Field<'_>, rng: Rng, report: &mut Report) -> Result<(), Error> {
        field.first = first_mark(field.number);
        field.sent.clear();
        field.seen.clear();
        let mut generator = Generator::new(rng, field.lab.world.clone(), field.number);
        generator.turn(&field.judge);
        let plan = |round| planted(self.seed, round, &field.lab.world);
        let (sown, to_sow) =
            (field.number.checked_sub(1).map(plan).unwrap_or_default(), plan(field.number));
        field.play(generator.harvest(&sown), report)?;
        while field.sent.len() < self.round {
            let planned = generator.cases(CASES, &field.judge);
            field.play(planned, report)?;
        }
        field.play(generator.plant(&to_sow), report)?;
        field.collect(DRAIN, report)?;
        field.convict(self, report);
        report.sent += field.sent.len();
        for (planned, seen) in field.sent.iter().zip(&field.seen) {
            let Some(wanted) = planned.wanted else { continue };
            report.wanted += 1;
            if !seen {
                let entry = report.missing.entry(planned.sent.label).or_default();
                entry.0 += 1;
                if entry.0 == 1 {
                    entry.1 = field.describe(planned, wanted, "it had to arrive and did not", &[]);
                }
            }
        }
        Ok(())
    }
}

impl Field<'_> {
    /// Switches connection tracking. What was tracked stays: it is what a pod's isolation adopts
    /// (S40), also where it was made up.
    fn track(&mut self, tracking: Tracking) -> Result<(), Error> {
        if tracking == self.tracking {
            return Ok(());
        }
        self.tracking = tracking;
        self.lab.track(tracking)
    }

    /// Sends frames wave by wave, and judges what arrives of them.
    fn play(&mut self, planned: Vec<Planned>, report: &mut Report) -> Result<(), Error> {
        let begin = self.sent.len();
        self.sent.extend(planned);
        self.seen.resize(self.sent.len(), false);
        for wave in 0..3 {
            let range = begin..self.sent.len();
            let wave: Vec<usize> = range.filter(|i| self.sent[*i].wave == wave).collect();
            for burst in wave.chunks(BURST) {
                report.refused += self.send(burst)?;
                self.collect(IDLE, report)?;
            }
        }
        Ok(())
    }

    /// Sends in order; a run of frames of one sender in few system calls.
    fn send(&mut self, burst: &[usize]) -> Result<usize, Error> {
        let mut refused = 0;
        for run in burst.chunk_by(|a, b| self.sent[*a].sent.place == self.sent[*b].sent.place) {
            for i in run {
                self.judge.hear(&self.sent[*i].sent);
            }
            let place = self.sent[run[0]].sent.place;
            let Some(index) = lab::index(place, self.lab.world.pods.len()) else {
                run.iter().try_for_each(|i| self.send_born(&self.sent[*i]))?;
                continue;
            };
            let frames: Vec<&[u8]> = run.iter().map(|i| &self.sent[*i].sent.bytes[..]).collect();
            let sent = self.wires[index].send(&frames);
            refused += sent.map_err(|e| Error::system(format!("send frames of {place:?}"), e))?;
        }
        Ok(refused)
    }

    fn send_born(&self, planned: &Planned) -> Result<(), Error> {
        let Some(to) = planned.datagram.filter(|_| !planned.sent.bytes.is_empty()) else {
            return Ok(());
        };
        let socket = &self.node[usize::from(to.is_ipv6())];
        match socket.send_to(&planned.sent.bytes, SocketAddr::new(to, 9)) {
            // An earlier datagram's fate, told by an error that somebody sent.
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock) => {
                let again = socket.send_to(&planned.sent.bytes, SocketAddr::new(to, 9));
                again.map(drop).map_err(|e| Error::system(format!("send a datagram to {to}"), e))
            }
            _ => Ok(()),
        }
    }

    /// Reads and judges what arrives until nothing does.
    fn collect(&mut self, quiet: Duration, report: &mut Report) -> Result<(), Error> {
        let mut last = Instant::now();
        while last.elapsed() < quiet {
            for (index, place) in self.lab.world.places().enumerate() {
                let mut arrived: Vec<Vec<u8>> = vec![];
                let got = self.wires[index].receive(|frame| arrived.push(frame.to_vec()));
                if got.map_err(|e| Error::system(format!("receive at {place:?}"), e))? > 0 {
                    last = Instant::now();
                }
                for frame in arrived {
                    self.take(place, &frame, report);
                }
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn take(&mut self, at: Place, bytes: &[u8], report: &mut Report) {
        let Some(frame) = parse::frame(bytes) else { return };
        let found: Vec<usize> =
            marks(bytes).filter_map(|m| usize::try_from(m.checked_sub(self.first)?).ok()).collect();
        for index in found {
            // A mark of an earlier round, or bytes that look like one.
            let Some(planned) = self.sent.get(index) else { continue };
            report.arrived += 1;
            if planned.wanted == Some(at) {
                self.seen[index] = true;
            }
            if self.judge.arrives(at, &frame, &planned.sent).is_err() {
                self.suspects.push((at, index, bytes.to_vec()));
            }
        }
    }

    /// Judges what seemed a violation, now that everything has arrived.
    fn convict(&mut self, campaign: &Campaign, report: &mut Report) {
        for (at, index, bytes) in std::mem::take(&mut self.suspects) {
            let planned = &self.sent[index];
            let frame = parse::frame(&bytes).expect("it was read before");
            let Err(Violation { kind, why }) = self.judge.arrives(at, &frame, &planned.sent) else {
                continue;
            };
            let which = if campaign.kinds.contains(&kind) {
                &mut report.violations
            } else {
                &mut report.tolerated
            };
            let entry = which.entry((kind, planned.sent.label)).or_default();
            entry.0 += 1;
            if entry.0 == 1 {
                entry.1 = self.describe(planned, at, &format!("{kind:?}: {why}"), &bytes);
            }
        }
    }

    /// All that is needed to understand it, and to see it again.
    fn describe(&self, planned: &Planned, at: Place, why: &str, arrived: &[u8]) -> String {
        let Planned { sent, mark, .. } = planned;
        let kin = self.sent.iter().filter(|p| p.sent.case == sent.case && p.mark != *mark);
        let kin: Vec<String> =
            kin.map(|p| format!("    {:?} {}", p.sent.place, hex(&p.sent.bytes))).collect();
        let policies: Vec<String> = self
            .judge
            .cluster()
            .policies
            .values()
            .map(|p| format!("    {}", manifest::policy(p)))
            .collect();
        let pods = self.judge.cluster().pods.values();
        let pods: Vec<String> =
            pods.map(|p| format!("    {} {:?} {:?}", p.key, p.addresses, p.labels)).collect();
        format!(
            "{why}\n  seed {} round {} mark {mark}, tracking {:?}, {} from {:?} to {at:?}\n  sent \
             {}\n  is {:?}\n  arrived {}\n  is {:?}\n  with\n{}\n  policies\n{}\n  pods\n{}\n",
            self.seed,
            self.number,
            self.tracking,
            sent.label,
            sent.place,
            hex(&sent.bytes),
            parse::frame(&sent.bytes),
            hex(arrived),
            parse::frame(arrived),
            kin.join("\n"),
            policies.join("\n"),
            pods.join("\n"),
        )
    }
}

/// A random cluster: often a few policies of every feature, with a pod that is denied everything in
/// some direction; sometimes none.
fn policies(rng: &mut Rng, lab: &Lab) -> Cluster {
    let mut cluster = lab.world.cluster(rng);
    if rng.chance(12) {
        return cluster;
    }
    let count = rng.within(0, 4);
    for i in 0..count {
        let key = ObjectKey::new(format!("n{}", rng.below(2)), format!("random{i}"));
        let policy = random::policy(rng, key);
        cluster.policies.insert(policy.key.clone(), policy);
    }
    let jailed = rng.within(1, 3);
    for i in 0..jailed {
        let pod = rng.pick(&lab.world.pods).key.clone();
        let id = Requirement { key: "id".into(), operator: Operator::In(vec![pod.name.clone()]) };
        let selector = Selector { requirements: vec![id] };
        let (ingress, egress) = match rng.below(3) {
            0 => (Isolation::Isolated(vec![]), Isolation::Open),
            1 => (Isolation::Open, Isolation::Isolated(vec![])),
            _ => (Isolation::Isolated(vec![]), Isolation::Isolated(vec![])),
        };
        let key = ObjectKey::new(pod.namespace.clone(), format!("jail{i}"));
        cluster
            .policies
            .insert(key.clone(), Policy { key, selector, ingress, egress, mode: Mode::Enforced });
    }
    cluster
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sent, refused, arrived, wanted, rounds, took, overrun, .. } = self;
        let rate = *sent as f64 / took.as_secs_f64();
        writeln!(
            f,
            "{sent} frames in {rounds} rounds and {took:.1?} ({rate:.0} a second), {refused} \
             refused by the sender's kernel"
        )?;
        let missing: usize = self.missing.values().map(|(n, _)| n).sum();
        writeln!(
            f,
            "{arrived} arrivals; {} of {wanted} that had to arrive did; {overrun} overrun",
            wanted - missing
        )?;
        for (label, (count, first)) in &self.missing {
            writeln!(f, "missing: {label}: {count}; the first: {first}")?;
        }
        for (name, list) in [("VIOLATION", &self.violations), ("tolerated", &self.tolerated)] {
            for ((kind, label), (count, first)) in list {
                writeln!(f, "{name}: {kind:?}, {label}: {count}; the first: {first}")?;
            }
        }
        Ok(())
    }
}
