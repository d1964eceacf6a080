//! Proves that recommended policies mean what they are to mean: read back they are the same, and
//! the oracle permits by them what was seen.
//!
//! Not here: where the policies come from ([`crate::draft`]).

use std::net::IpAddr;

use netpolc_analyze::around::around;
use netpolc_kube_sync::{Input, load};
use netpolc_policy::{
    AddressBook, ByDefault, Cluster, Direction, IpFamily, Mode, ObjectKey, Pod, Policy,
    SecurityGroups,
    oracle::{self, Party, Question, Transport},
};

use crate::{
    Error, Recommended,
    meaning::Other,
    need::{Need, Sample, Seen},
    world::{UnitId, World},
};

/// The policies as a strict reader takes them.
///
/// # Errors
/// They are not those that were meant.
pub(crate) fn read_back(yaml: &str, meant: &[Recommended]) -> Result<(), Error> {
    let loaded = load([Input::bytes("recommended", yaml)]);
    if let Some(problem) = loaded.problems.first() {
        return Err(Error::Unread(problem.line()));
    }
    let policies = &loaded.cluster.policies;
    for recommended in meant {
        let key = &recommended.policy.key;
        if policies.get(key) != Some(&recommended.policy) {
            return Err(Error::Unread(format!("NetworkPolicy {key} is read as another one")));
        }
    }
    match policies.len() == meant.len() {
        true => Ok(()),
        false => Err(Error::Unread("two policies have one name".into())),
    }
}

/// What the oracle says of a need.
pub(crate) enum Verdict {
    Permitted,
    /// One of its samples is denied, in words.
    Denied(String),
    /// Nobody of its units has an address by which it could be asked about.
    Unknown,
}

/// The world in which nothing decides but recommended policies, and these are enforced.
pub(crate) struct Court<'w> {
    world: &'w World,
    cluster: Cluster,
    book: AddressBook,
}

impl<'w> Court<'w> {
    pub fn new(world: &'w World, policies: &[Recommended]) -> Self {
        let mut cluster = Cluster {
            tiers: Default::default(),
            staged: Default::default(),
            security: SecurityGroups::default(),
            by_default: ByDefault::default(),
            ..world.cluster.clone()
        };
        cluster.namespaces.values_mut().for_each(|namespace| namespace.unselected = None);
        let enforced = policies.iter().map(|recommended| {
            let policy = Policy { mode: Mode::Enforced, ..recommended.policy.clone() };
            (policy.key.clone(), policy)
        });
        cluster.policies = enforced.collect();
        let book = AddressBook::of(&cluster);
        Self { world, cluster, book }
    }

    /// Judges each sample of a need.
    pub fn judge(&self, need: &Need, seen: &Seen) -> Verdict {
        let mut verdict = Verdict::Unknown;
        for question in seen.samples.iter().filter_map(|sample| self.question(need, sample)) {
            let around = around(&self.cluster, &self.book, &question);
            let judged = oracle::judge(&around, &question);
            let side = match need.direction {
                Direction::Ingress => judged.ingress,
                Direction::Egress => judged.egress,
            };
            if !side.reason.allows() {
                let ends = (question.source.address(), question.destination.address());
                return Verdict::Denied(format!(
                    "{} {} from {} to {}: {}",
                    need.protocol, need.port, ends.0, ends.1, side.reason
                ));
            }
            verdict = Verdict::Permitted;
        }
        verdict
    }

    /// The question that a sample stands for; None where nobody has an address of its family.
    fn question(&self, need: &Need, sample: &Sample) -> Option<Question> {
        let pod = self.party(sample.pod.as_ref(), need.unit, sample.family)?;
        let other = match need.other {
            Other::Unit(unit) => self.party(sample.other.as_ref(), unit, sample.family)?,
            Other::Address(address) => Party::Address(address),
        };
        let (source, destination) = match need.direction {
            Direction::Ingress => (other, pod),
            Direction::Egress => (pod, other),
        };
        Some(Question {
            source,
            destination,
            protocol: Transport::from(need.protocol),
            port: Some(need.port),
            via: sample.via,
        })
    }

    /// A pod of the unit: this one where it is still there.
    fn party(&self, key: Option<&ObjectKey>, unit: UnitId, family: IpFamily) -> Option<Party> {
        let of = |pod: &Pod| -> Option<(ObjectKey, IpAddr)> {
            let mut all = pod.addresses.iter();
            let address = all.find(|address| IpFamily::of(**address) == family)?;
            Some((pod.key.clone(), *address))
        };
        let present = key.and_then(|key| self.cluster.pods.get(key)).filter(|pod| pod.is_policed());
        let found = present.and_then(of).or_else(|| self.world.pods(unit).find_map(of));
        found.map(|(key, address)| Party::Pod(key, address))
    }
}
