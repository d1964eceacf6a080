//! `netpolc bench tenants`: how long others wait while one tenant does its worst (S33).
//!
//! A whole agent on tables of its own in the kernel, without interfaces. For each way to take much
//! of something, as much of it as one object can hold and as much as the namespace's share admits:
//! the update that brings it, an update of another tenant while it is there, one that comes
//! together with a write of the offender's, one that comes right behind such a write and has to
//! wait for it, and a pod of another tenant that starts isolated. Not here: packets, and how
//! objects arrive.

use std::{
    io,
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netpolc_agent::{
    Agent,
    discovery::{Discovery, PodFacts},
    network::Network,
};
use netpolc_kube_sync::{Change, Object, Resource};
use netpolc_lower::{Compiler, Limits, Scope, Shares};
use netpolc_policy::{Cluster, ObjectKey, Pod, Policy};
use netpolc_table::{eval, schema::Word};
use netpolc_target::Target;
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_testbed::{
    offenders::{KINDS, NODE, Offence, bystanders, offend, pod, policy, selector},
    random::Rng,
};

use super::Section;
use crate::probe::{Probe, Switched};

/// An update of another tenant should be enforced within so many milliseconds.
const BOUND: f64 = 100.0;

/// A network without interfaces: no pod of the agent has one.
pub struct Nowhere;

impl Network for Nowhere {
    fn find_interfaces(&mut self, pods: &[PodFacts]) -> io::Result<Vec<Discovery>> {
        Ok(Discovery::by_address(pods, |_| None))
    }
}

/// An agent with the two bystanders and a pod of the offender's.
pub struct World {
    /// The agent under test.
    pub agent: Agent<Probe, Nowhere>,
    /// The objects of the tenants that do nothing wrong.
    pub cluster: Cluster,
    switched: Receiver<(Switched, Instant)>,
}

/// What waiting was like for one kind of offence.
#[derive(Clone, Debug)]
pub struct Waits {
    /// How long the offender's own update took.
    pub offence: Duration,
    /// Another tenant's updates while the offender's objects are there.
    pub beside: Vec<Duration>,
    /// Another tenant's update in one batch with one of the offender's.
    pub together: Vec<Duration>,
    /// Another tenant's update that came right behind one of the offender's, which was taken first.
    pub behind: Vec<Duration>,
    /// A pod of another tenant that appears isolated.
    pub pod: Duration,
    /// How many objects are set aside, which are the offender's.
    pub aside: usize,
}

fn change(resource: Resource, key: ObjectKey, object: Option<Object>) -> Change {
    Change { resource, key, object }
}

fn policy_change(policy: &Policy) -> Change {
    change(Resource::Policy, policy.key.clone(), Some(Object::Policy(policy.clone())))
}

impl World {
    /// An agent with tables in the kernel, and the bystanders' cluster.
    ///
    /// # Errors
    /// The kernel refuses the tables.
    pub fn new() -> Result<Self> {
        let target = Ebpf::private(Config::default()).context("tables (needs root)")?;
        let (sender, switched) = mpsc::channel();
        let mut agent = Agent::new(NODE.into(), Probe::new(target, sender), Nowhere)?;
        let cluster = bystanders();
        agent.update(cluster.clone())?;
        Ok(Self { agent, cluster, switched })
    }

    fn advance(&mut self, changes: Vec<Change>) -> Result<Duration> {
        let began = Instant::now();
        self.agent.advance(changes)?;
        Ok(began.elapsed())
    }

    /// The word of a pod in the kernel.
    ///
    /// # Errors
    /// The tables cannot be read, or have no such pod.
    pub fn word(&self, pod: &ObjectKey) -> Result<Word> {
        let endpoint = self
            .agent
            .compiler()
            .endpoint(pod)
            .with_context(|| format!("{pod} has no endpoint"))?;
        Ok(eval::word(&self.agent.host().read()?, endpoint))
    }

    /// Another tenant's policy changes, and `with` in the same batch; the time until the kernel
    /// judges that tenant's pod by it.
    fn bystander(&mut self, round: usize, with: &[Change]) -> Result<Duration> {
        let rules = if round.is_multiple_of(2) { vec![] } else { self.rules() };
        let key = ObjectKey::new("shop", "db");
        let mut changes = with.to_vec();
        changes.push(policy_change(&policy("shop", "db", selector("app", "db"), rules)));
        let began = Instant::now();
        self.agent.advance(changes)?;
        let endpoint = self
            .agent
            .compiler()
            .endpoint(&key)
            .with_context(|| format!("{key} has no endpoint"))?;
        let switched = self
            .switched
            .try_iter()
            .filter(|(what, when)| *what == Switched::Endpoint(endpoint) && *when >= began);
        let switched = switched.last().map(|(_, when)| when);
        Ok(switched.with_context(|| format!("{key} is judged as before"))? - began)
    }

    fn rules(&self) -> Vec<netpolc_policy::Rule> {
        match &self.cluster.policies[&ObjectKey::new("shop", "db")].ingress {
            netpolc_policy::Isolation::Isolated(rules) => rules.clone(),
            netpolc_policy::Isolation::Open => vec![],
        }
    }

    /// Lets the offender take `n`, measures what others notice, and takes it back.
    ///
    /// # Errors
    /// An update fails: one tenant's object stopped the others.
    pub fn offend(&mut self, kind: Offence, n: u32, rounds: usize) -> Result<Waits> {
        // What goes comes again, and every update of the bystander's is another one than the last.
        let rounds = rounds.next_multiple_of(2);
        let mut with = self.cluster.clone();
        offend(kind, n, &mut Rng::new(5), &mut with);
        let (mut there, mut gone) = (vec![], vec![]);
        for (key, policy) in
            with.policies.iter().filter(|(key, _)| !self.cluster.policies.contains_key(*key))
        {
            there.push(policy_change(policy));
            gone.push(change(Resource::Policy, key.clone(), None));
        }
        let services =
            with.services.iter().filter(|(key, _)| !self.cluster.services.contains_key(*key));
        for (key, service) in services {
            there.push(change(
                Resource::Service,
                key.clone(),
                Some(Object::Service(key.clone(), service.clone())),
            ));
            gone.push(change(Resource::Service, key.clone(), None));
        }
        // What it does again and again is as much as is left of it when it stays within its share.
        let offence = self.advance(there.clone())?;
        let beside =
            (0..rounds).map(|round| self.bystander(round, &[])).collect::<Result<Vec<_>>>()?;
        let (mut together, mut behind) = (vec![], vec![]);
        for round in 0..rounds {
            let again = if round.is_multiple_of(2) { &gone } else { &there };
            together.push(self.bystander(round, again)?);
        }
        for round in 0..rounds {
            let again = if round.is_multiple_of(2) { &gone } else { &there };
            let first = self.advance(again.clone())?;
            behind.push(first + self.bystander(round, &[])?);
        }
        let late: Pod = pod("shop", "late", "10.1.0.200");
        let isolating = policy("shop", "late", selector("app", "late"), vec![]);
        let began = Instant::now();
        let appears = change(Resource::Pod, late.key.clone(), Some(Object::Pod(late.clone())));
        self.advance(vec![policy_change(&isolating), appears])?;
        let took = began.elapsed();
        ensure!(
            self.word(&late.key)?.flags & Word::INGRESS != 0,
            "{kind:?}: {} is not isolated",
            late.key
        );
        ensure!(
            self.word(&ObjectKey::new("evil", "a"))?.flags & Word::INGRESS != 0,
            "{kind:?}: evil/a is not isolated"
        );
        let aside: Vec<_> = self.agent.aside().cloned().collect();
        ensure!(
            aside.iter().all(|a| &*a.object.namespace == "evil"),
            "{kind:?}: {aside:?} are set aside"
        );
        gone.push(change(Resource::Pod, late.key, None));
        gone.push(change(Resource::Policy, isolating.key, None));
        self.advance(gone)?;
        ensure!(self.agent.aside().count() == 0, "{kind:?} is still set aside");
        Ok(Waits { offence, beside, together, behind, pod: took, aside: aside.len() })
    }
}

/// How much of it a namespace may take at most that has nothing else.
pub fn admitted(kind: Offence) -> u32 {
    let fits = |n: u32| {
        let mut cluster = bystanders();
        offend(kind, n, &mut Rng::new(5), &mut cluster);
        let mut shares = Shares::new(Scope::Node(NODE.into()), Limits::default());
        shares.load(&cluster);
        let mut compiler = Compiler::new(Scope::Node(NODE.into())).bounded(shares.limits().cells);
        let mut loads = || {
            compiler.load_admitted(&cluster, &shares).is_ok() && compiler.take_excess().is_empty()
        };
        shares.aside().next().is_none() && loads()
    };
    let (mut most, mut over) = (1, kind.most());
    while most + 1 < over {
        let middle = most.midpoint(over);
        if fits(middle) { most = middle } else { over = middle }
    }
    most
}

fn median(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64) * 1e3
}

fn longest(times: &[Duration]) -> f64 {
    times.iter().max().map_or(f64::NAN, Duration::as_secs_f64) * 1e3
}

/// Measures every kind.
///
/// # Errors
/// The kernel refuses the tables, or one tenant stops another.
pub fn run(rounds: u32, mut progress: impl FnMut(String)) -> Result<Section> {
    let head = [
        "one tenant has",
        "set aside",
        "its update",
        "others: median",
        "longest",
        "together: median",
        "behind: least",
        "median",
        "a pod",
        "",
    ];
    let mut section = Section::new("Others' updates while one tenant does its worst, ms", &head);
    let rounds = rounds.max(4) as usize;
    let mut alone = World::new()?;
    let quiet = (0..rounds).map(|round| alone.bystander(round, &[])).collect::<Result<Vec<_>>>()?;
    let cell = |ms: f64| format!("{ms:.1}");
    let (usual, worst) = (median(&quiet), longest(&quiet));
    let mut row = vec![String::new(); head.len()];
    (row[0], row[3], row[4]) = ("nothing".into(), cell(usual), cell(worst));
    section.rows.push(row);
    drop(alone);
    for (kind, n) in
        KINDS.into_iter().flat_map(|kind| [(kind, kind.most()), (kind, admitted(kind))])
    {
        progress(format!("{kind:?} {n}"));
        let waits = World::new()?.offend(kind, n, rounds)?;
        let (beside, together, behind) =
            (median(&waits.beside), median(&waits.together), median(&waits.behind));
        section.at_most(&format!("{kind:?} {n}: an update beside it, ms"), beside, BOUND);
        section.at_most(&format!("{kind:?} {n}: an update together with it, ms"), together, BOUND);
        let bound =
            section.at_most(&format!("{kind:?} {n}: an update behind it, ms"), behind, BOUND);
        let ms = |time: Duration| cell(time.as_secs_f64() * 1e3);
        section.rows.push(vec![
            format!("{kind:?} {n}"),
            waits.aside.to_string(),
            ms(waits.offence),
            cell(beside),
            cell(longest(&waits.beside)),
            cell(together),
            ms(waits.behind.iter().min().copied().unwrap_or_default()),
            cell(behind),
            ms(waits.pod),
            bound,
        ]);
    }
    section.notes.push(
        "of each kind: what one object can hold, which is set aside, and what the share admits"
            .into(),
    );
    section
        .notes
        .push("together: the offender's objects come or go in one batch with the update".into());
    section.notes.push(
        "behind: the offender's objects come or go, and the update has to wait for that".into(),
    );
    section.notes.push(format!(
        "an update without any offender takes {usual:.1} ms, grace periods included"
    ));
    Ok(section)
}
