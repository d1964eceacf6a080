//! `netpolc bench tenants`: how long others wait while one tenant does its worst (S33).
//!
//! A whole agent on tables of its own in the kernel, without interfaces. For each way to take much of something: the update
//! that brings it, an update of another tenant while it is there, one that has to wait for a write of the offender's, and
//! a pod of another tenant that starts isolated. Not here: packets, and how objects arrive.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netpolc_kube_sync::{
    Object,
    watch::{Change, Resource},
};
use netpolc_policy::{Cluster, ObjectKey, Pod, Policy, Service};
use netpolc_table::{Program, Write, eval, schema::Word};
use netpolc_target::{Capabilities, Error, Target};
use netpolc_target_ebpf::{Config, Ebpf};
use netpolc_testbed::{
    offenders::{KINDS, NODE, Offence, bystanders, offend, pod, policy, selector},
    random::Rng,
};

use super::Section;
use crate::{
    agent::{
        Agent,
        adopt::{Origin, Taken},
        host::{Enforcer, Network},
    },
    net::{
        Connection,
        conntrack::Tracked,
        ways::{Answer, Wanted},
    },
};

/// An update of another tenant should be enforced within so many milliseconds.
const BOUND: f64 = 100.0;

/// The kernel's tables alone.
pub struct Tables(Ebpf);

impl Target for Tables {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
    fn read(&self) -> Result<Program, Error> {
        self.0.read()
    }
    fn write(&mut self, write: &Write) -> Result<(), Error> {
        self.0.write(write)
    }
    fn settle(&mut self) -> Result<(), Error> {
        self.0.settle()
    }
}

impl Enforcer for Tables {
    fn attached(&self) -> BTreeSet<u32> {
        BTreeSet::new()
    }
    fn attach(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }
    fn detach(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }
    fn make_room(&mut self, program: &Program) -> Result<(), Error> {
        self.0.make_room(program)
    }
    fn adopt(&mut self, _: u16, _: u16, _: &Connection, _: Origin) -> Result<Taken, Error> {
        Ok(Taken::Known)
    }
}

/// A network without interfaces.
pub struct Nowhere;

impl Network for Nowhere {
    fn ways(&mut self, pods: &[Wanted]) -> io::Result<Vec<Answer>> {
        Ok(Answer::by_address(pods, |_| None))
    }
    fn tracked(&mut self) -> io::Result<Vec<Tracked>> {
        Ok(vec![])
    }
    fn sockets(&mut self, _: &BTreeSet<u32>) -> io::Result<BTreeMap<u32, Vec<Connection>>> {
        Ok(BTreeMap::new())
    }
    fn own_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        Ok(BTreeSet::new())
    }
}

/// An agent with the two bystanders and a pod of the offender's.
pub struct World {
    /// The agent.
    pub agent: Agent<Tables, Nowhere>,
    /// The bystanders' objects.
    pub cluster: Cluster,
}

/// What waiting was like for one kind of offence.
#[derive(Clone, Debug)]
pub struct Waits {
    /// The offender's own update.
    pub offence: Duration,
    /// Another tenant's updates while the offender's objects are there.
    pub beside: Vec<Duration>,
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
    /// With tables in the kernel.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn new() -> Result<Self> {
        let target = Ebpf::private(Config::default()).context("tables (needs root)")?;
        let mut agent = Agent::new(NODE.into(), Tables(target), Nowhere)?;
        let cluster = bystanders();
        agent.update(cluster.clone())?;
        Ok(Self { agent, cluster })
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
        let endpoint = self.agent.compiler().endpoint(pod).with_context(|| format!("{pod} has no endpoint"))?;
        Ok(eval::word(&self.agent.host().read()?, endpoint))
    }

    /// Another tenant's policy changes, and is then what the kernel holds.
    fn bystander(&mut self, round: usize) -> Result<Duration> {
        let rules = if round.is_multiple_of(2) { vec![] } else { self.rules() };
        let key = ObjectKey::new("shop", "db");
        let took = self.advance(vec![policy_change(&policy("shop", "db", selector("app", "db"), rules))])?;
        ensure!(self.agent.cluster().policies.contains_key(&key), "{key} is gone");
        Ok(took)
    }

    fn rules(&self) -> Vec<netpolc_policy::Rule> {
        match &self.cluster.policies[&ObjectKey::new("shop", "db")].ingress {
            netpolc_policy::Isolation::Isolated(rules) => rules.clone(),
            netpolc_policy::Isolation::Open => vec![],
        }
    }

    /// Lets the offender do it, measures what others notice, and takes it back.
    ///
    /// # Errors
    /// An update that fails: one tenant's object stopped the others.
    pub fn offend(&mut self, kind: Offence, rounds: usize) -> Result<Waits> {
        let mut with = self.cluster.clone();
        offend(kind, kind.most(), &mut Rng::new(5), &mut with);
        let key = ObjectKey::new("evil", "p");
        let evil = with.policies[&key].clone();
        let service_key = ObjectKey::new("evil", "s");
        let service: Option<Service> = with.services.get(&service_key).cloned();
        let mut there = vec![policy_change(&evil)];
        let mut gone = vec![change(Resource::Policy, key.clone(), None)];
        if let Some(service) = service {
            let object = Object::Service(service_key.clone(), service);
            there.push(change(Resource::Service, service_key.clone(), Some(object)));
            gone.push(change(Resource::Service, service_key, None));
        }
        // What it does again and again is as much as is left of it when it stays within its share.
        let offence = self.advance(there.clone())?;
        let beside = (0..rounds).map(|round| self.bystander(round)).collect::<Result<Vec<_>>>()?;
        let mut behind = vec![];
        for round in 0..rounds {
            let again = if round.is_multiple_of(2) { gone.clone() } else { there.clone() };
            let first = self.advance(again)?;
            behind.push(first + self.bystander(round)?);
        }
        if !rounds.is_multiple_of(2) {
            self.advance(there)?;
        }
        let late: Pod = pod("shop", "late", "10.1.0.200");
        let isolating = policy("shop", "late", selector("app", "late"), vec![]);
        let began = Instant::now();
        let appears = change(Resource::Pod, late.key.clone(), Some(Object::Pod(late.clone())));
        self.advance(vec![policy_change(&isolating), appears])?;
        let took = began.elapsed();
        ensure!(self.word(&late.key)?.flags & Word::INGRESS != 0, "{kind:?}: {} is not isolated", late.key);
        ensure!(
            self.word(&ObjectKey::new("evil", "a"))?.flags & Word::INGRESS != 0,
            "{kind:?}: evil/a is not isolated"
        );
        let aside: Vec<_> = self.agent.aside().cloned().collect();
        ensure!(aside.iter().all(|a| &*a.object.namespace == "evil"), "{kind:?}: {aside:?} are set aside");
        gone.push(change(Resource::Pod, late.key, None));
        gone.push(change(Resource::Policy, isolating.key, None));
        self.advance(gone)?;
        ensure!(self.agent.aside().count() == 0, "{kind:?} is still set aside");
        Ok(Waits { offence, beside, behind, pod: took, aside: aside.len() })
    }
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
    let head =
        ["one tenant has", "set aside", "its update", "others: median", "longest", "behind it: median", "a pod", ""];
    let mut section = Section::new("Others' updates while one tenant does its worst, ms", &head);
    let rounds = rounds.max(4) as usize;
    let mut alone = World::new()?;
    let quiet = (0..rounds).map(|round| alone.bystander(round)).collect::<Result<Vec<_>>>()?;
    let cell = |ms: f64| format!("{ms:.1}");
    let (usual, worst) = (median(&quiet), longest(&quiet));
    let none = String::new;
    section.rows.push(vec!["nothing".into(), none(), none(), cell(usual), cell(worst), none(), none(), none()]);
    drop(alone);
    for kind in KINDS {
        progress(format!("{kind:?}"));
        let waits = World::new()?.offend(kind, rounds)?;
        let (beside, behind) = (median(&waits.beside), median(&waits.behind));
        let bound = section.at_most(&format!("{kind:?}: an update beside it, ms"), beside, BOUND);
        section.at_most(&format!("{kind:?}: an update behind it, ms"), behind, BOUND);
        let ms = |time: Duration| cell(time.as_secs_f64() * 1e3);
        section.rows.push(vec![
            format!("{kind:?} {}", kind.most()),
            waits.aside.to_string(),
            ms(waits.offence),
            cell(beside),
            cell(longest(&waits.beside)),
            cell(behind),
            ms(waits.pod),
            bound,
        ]);
    }
    section.notes.push("behind it: the offender's objects come or go, and the update has to wait for that".into());
    section.notes.push(format!("an update without any offender takes {usual:.1} ms, grace periods included"));
    Ok(section)
}
