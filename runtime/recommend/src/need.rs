//! What each unit needs: from contacts to "these pods are to be reached by those, on this port".
//!
//! A connection may be seen at both of its ends, and is needed at both. Late answers stand for
//! what they answer. Not here: who is meant by a contact ([`crate::meaning`]), and policies
//! ([`crate::draft`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use netpolc_policy::{Direction, IpFamily, ObjectKey, Protocol};

use crate::{
    Drops,
    evidence::{Contact, Counts, Evidence, FIRST_EPHEMERAL, Remote},
    meaning::{self, Meant, Not, Other, traffic},
    world::{UnitId, Workload, World},
};

/// How many examples and samples of a need are kept.
const KEPT: usize = 4;
/// How many pairs of workloads behind a need are kept.
const MAX_PAIRS: usize = 32;

/// That a unit is to be let reach, or be reached by, somebody on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub unit: UnitId,
    pub direction: Direction,
    pub other: Other,
    pub protocol: Protocol,
    pub port: u16,
}

/// What a need was seen by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// How often the nodes of the unit's pods saw it.
    pub here: u64,
    /// How often the nodes of the other end did.
    pub there: u64,
    pub first: u64,
    pub last: u64,
    /// Pods, as in `shop/web-0 to shop/db-0`.
    pub examples: BTreeSet<String>,
    /// The Services whose addresses were used.
    pub services: BTreeSet<ObjectKey>,
    /// Contacts, as they are judged again.
    pub samples: Vec<Sample>,
    /// The workloads at both ends, source first; None for an address.
    pub pairs: BTreeSet<(Option<Workload>, Option<Workload>)>,
}

/// One contact of a need: a pod of the unit, and the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub pod: Option<ObjectKey>,
    pub other: Option<ObjectKey>,
    pub family: IpFamily,
    /// The Service's address and port that it was sent to.
    pub via: Option<(IpAddr, u16)>,
}

/// What was observed of a unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub pods: BTreeSet<ObjectKey>,
    pub nodes: BTreeSet<Arc<str>>,
    /// The directions in which policies were seen to decide.
    pub policed: BTreeSet<Direction>,
    /// How many late answers were left out, by direction.
    pub answers: BTreeMap<Direction, u64>,
}

/// Contacts that make no rule, by unit, direction, the other end, traffic and why.
pub(crate) type Told = BTreeMap<(UnitId, Direction, String, String, String), u64>;

/// All that follows from contacts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    pub needs: BTreeMap<Need, Seen>,
    pub observed: BTreeMap<UnitId, Observed>,
    /// What has passed, and no rule says.
    pub uncovered: Told,
    /// What policies have denied, and which.
    pub denied: Told,
}

/// A contact with what it means.
struct Read<'e> {
    contact: &'e Contact,
    counts: &'e Counts,
    unit: UnitId,
    meant: Result<Vec<Meant>, Not>,
}

impl Read<'_> {
    fn need(&self, one: &Meant) -> Need {
        Need {
            unit: self.unit,
            direction: self.contact.direction,
            other: one.other,
            protocol: one.protocol,
            port: one.port,
        }
    }

    /// The same at the other end, where that is a unit.
    fn mirrored(&self, one: &Meant) -> Option<Need> {
        let Other::Unit(unit) = one.other else { return None };
        let direction = self.contact.direction.reverse();
        Some(Need { unit, direction, other: Other::Unit(self.unit), ..self.need(one) })
    }
}

impl Needs {
    pub fn of(evidence: &Evidence, world: &World, drops: Drops) -> Self {
        let mut all = Self::default();
        let read = all.read(evidence, world);
        // What was asked by datagrams, to know answers by; and what was refused.
        let (mut asked, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for one in &read {
            let needs = one.meant.iter().flatten().map(|meant| one.need(meant));
            match (one.counts.passed(), one.counts.denied) {
                (0, 0) => {}
                (0, _) if drops == Drops::Refused => refused.extend(needs),
                _ => asked.extend(needs.filter(|need| need.protocol == Protocol::Udp)),
            }
        }
        for one in &read {
            let Read { contact, counts, unit, meant } = one;
            let passed = match drops {
                Drops::Needed => counts.passed().max(counts.denied),
                Drops::Refused => counts.passed(),
            };
            if *meant == Err(Not::Needed) {
                continue;
            }
            if passed == 0 {
                if counts.denied > 0 {
                    let by: Vec<&str> = counts.denied_by.iter().map(String::as_str).collect();
                    all.tell(world, one, Line::Denied(by.join(", "), counts.denied));
                }
                continue;
            }
            let who = match meant {
                Ok(who) => who,
                Err(Not::Needed) => continue,
                Err(Not::Writable(why)) => {
                    all.tell(world, one, Line::Uncovered(why.clone(), passed));
                    continue;
                }
            };
            for meant in who {
                if is_answer(&asked, one, meant) {
                    let observed = all.observed.entry(*unit).or_default();
                    *observed.answers.entry(contact.direction).or_default() += passed;
                    continue;
                }
                let sample = Sample {
                    pod: Some(contact.pod.clone()),
                    other: meant.pod.clone(),
                    family: family(contact, meant),
                    via: meant.via.as_ref().map(|(_, address, port)| (*address, *port)),
                };
                let seen = all.needs.entry(one.need(meant)).or_insert_with(|| fresh(counts));
                seen.here += passed;
                seen.add(world, one, meant, sample.clone());
                let mirrored = one.mirrored(meant);
                // What has left one end is needed at the other, unless that has refused it.
                let Some(there) = mirrored.filter(|need| !refused.contains(need)) else { continue };
                let sample = Sample { pod: sample.other, other: sample.pod, ..sample };
                let seen = all.needs.entry(there).or_insert_with(|| fresh(counts));
                seen.there += passed;
                seen.add(world, one, meant, sample);
            }
        }
        all
    }

    /// Says of each contact whose it is and who is meant.
    fn read<'e>(&mut self, evidence: &'e Evidence, world: &World) -> Vec<Read<'e>> {
        let read = evidence.contacts.iter().filter_map(|(contact, counts)| {
            let unit = world.unit_of(&contact.pod)?;
            let observed = self.observed.entry(unit).or_default();
            observed.pods.insert(contact.pod.clone());
            observed.nodes.insert(contact.node.clone());
            if evidence.policed.contains(&(contact.pod.clone(), contact.direction)) {
                observed.policed.insert(contact.direction);
            }
            let meant = meaning::meant(world, contact, counts);
            Some(Read { contact, counts, unit, meant })
        });
        read.collect()
    }

    fn tell(&mut self, world: &World, one: &Read<'_>, line: Line) {
        let Contact { remote, address, direction, .. } = one.contact;
        let address = address.map(|address| address.to_string());
        let other = match remote {
            Remote::Pod(key) => match world.unit_of(key) {
                Some(unit) => world.unit(unit).to_string(),
                None => format!("pod {key}"),
            },
            Remote::Service(key) => format!("Service {key}"),
            Remote::Node(name) => format!("node {name}"),
            Remote::Address => address.unwrap_or_else(|| "an unknown address".into()),
        };
        let (told, why, count) = match line {
            Line::Denied(by, count) => (&mut self.denied, by, count),
            Line::Uncovered(why, count) => (&mut self.uncovered, why, count),
        };
        *told.entry((one.unit, *direction, other, traffic(one.contact), why)).or_default() += count;
    }
}

/// What is told of a contact that makes no rule: why, and how often it was seen.
enum Line {
    Denied(String, u64),
    Uncovered(String, u64),
}

impl Seen {
    fn add(&mut self, world: &World, read: &Read<'_>, meant: &Meant, sample: Sample) {
        let Read { contact, counts, .. } = read;
        self.first = self.first.min(counts.first);
        self.last = self.last.max(counts.last);
        self.services.extend(meant.via.as_ref().map(|(key, ..)| key.clone()));
        if self.samples.len() < KEPT && !self.samples.contains(&sample) {
            self.samples.push(sample);
        }
        let far = match (&meant.pod, meant.other) {
            (Some(key), _) => key.to_string(),
            (None, Other::Address(address)) => address.to_string(),
            (None, Other::Unit(unit)) => world.unit(unit).to_string(),
        };
        let far_workload = match (&meant.pod, meant.other) {
            (Some(key), _) => world.workload(key),
            (None, Other::Unit(unit)) => world.unit(unit).members.first().cloned(),
            (None, Other::Address(_)) => None,
        };
        let (near, near_workload) = (contact.pod.to_string(), world.workload(&contact.pod));
        let (text, pair) = match contact.direction {
            Direction::Egress => (format!("{near} to {far}"), (near_workload, far_workload)),
            Direction::Ingress => (format!("{far} to {near}"), (far_workload, near_workload)),
        };
        if self.examples.len() < KEPT {
            self.examples.insert(text);
        }
        if self.pairs.len() < MAX_PAIRS {
            self.pairs.insert(pair);
        }
    }
}

fn fresh(counts: &Counts) -> Seen {
    Seen { first: counts.first, last: counts.last, ..Seen::default() }
}

fn family(contact: &Contact, meant: &Meant) -> IpFamily {
    match (meant.other, contact.address) {
        (Other::Address(address), _) | (_, Some(address)) => IpFamily::of(address),
        _ => IpFamily::V4,
    }
}

/// Is it an answer to what the unit was asked, or has asked, that came when the connection was
/// forgotten: a datagram from the port that was asked to one that nobody chose?
fn is_answer(asked: &BTreeSet<Need>, read: &Read<'_>, meant: &Meant) -> bool {
    let Some(port) = read.contact.answer_of else { return false };
    let question = Need { direction: read.contact.direction.reverse(), port, ..read.need(meant) };
    meant.port >= FIRST_EPHEMERAL && port < FIRST_EPHEMERAL && asked.contains(&question)
}
