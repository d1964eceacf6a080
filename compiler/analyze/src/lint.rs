//! What is probably not meant as it is written: policies that select nobody, peers that mean
//! nobody, rules that change nothing, and what is more open or more closed than people expect.
//!
//! Here: findings, and the order in which they are looked for ([`findings`]); the checks stand in
//! the modules below, one for each kind of question. Not here: where a field stands in a file, what
//! the reader found wrong, and how findings are printed (the command).

mod check;
mod groups;
mod nobody;
mod port;
mod reach;
mod redundant;
mod service;
mod shape;
mod subject;
mod tier_order;

use std::{collections::BTreeSet, fmt, sync::Arc};

use netpolc_policy::{
    Direction, Frontends, Isolation, ObjectKey, Peers, Policy, Rule, SecurityGroupId, Staged,
    TierKey, TierPolicy,
};
use serde::{Serialize, Serializer};

pub use self::check::{Check, Severity};
use crate::{
    Analysis,
    universe::{ProfileId, Universe},
};

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A NetworkPolicy.
    NetworkPolicy(ObjectKey),
    /// A StagedKubernetesNetworkPolicy.
    StagedPolicy(ObjectKey),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(TierKey),
    /// A SecurityGroupPolicy.
    SecurityGroupPolicy(ObjectKey),
    /// A security group.
    SecurityGroup(SecurityGroupId),
    /// A namespace.
    Namespace(Arc<str>),
    /// The input as a whole.
    Input,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::NetworkPolicy(key) => write!(f, "NetworkPolicy {key}"),
            Object::StagedPolicy(key) => write!(f, "StagedKubernetesNetworkPolicy {key}"),
            Object::ClusterNetworkPolicy(key) => write!(f, "ClusterNetworkPolicy {key}"),
            Object::SecurityGroupPolicy(key) => write!(f, "SecurityGroupPolicy {key}"),
            Object::SecurityGroup(id) => write!(f, "SecurityGroup {id}"),
            Object::Namespace(name) => write!(f, "Namespace {name}"),
            Object::Input => f.write_str("the input"),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Something that is probably not meant as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Which check found it.
    pub check: Check,
    /// How bad it is: at most as bad as the check says.
    pub severity: Severity,
    /// What it is about.
    pub object: Object,
    /// The field of the object, such as `spec.ingress[0].from[1]`; empty for the whole object.
    pub field: String,
    /// A sentence that says what is wrong.
    pub what: String,
    /// A sentence that says what to write instead.
    pub change: String,
}

/// What the checks ask beyond the cluster.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The Services as their clients see them.
    pub frontends: Frontends,
    /// The namespaces that the input declares; those in which it merely has objects are not among
    /// them.
    pub declared: BTreeSet<Arc<str>>,
}

/// Everything that the checks find, each once, in order.
pub fn findings(analysis: &mut Analysis<'_>, facts: &Facts) -> Vec<Finding> {
    let mut lint = Lint::new(analysis, facts);
    subject::check(&mut lint);
    nobody::check(&mut lint);
    port::check(&mut lint);
    shape::check(&mut lint);
    redundant::check(&mut lint);
    tier_order::check(&mut lint);
    reach::check(&mut lint);
    groups::check(&mut lint);
    service::check(&mut lint);
    let mut found = lint.found;
    found.sort();
    found.dedup();
    found
}

/// A NetworkPolicy, or one that is staged, with the profiles that it selects.
struct Selecting<'a> {
    object: Object,
    policy: &'a Policy,
    profiles: Vec<ProfileId>,
}

impl<'a> Selecting<'a> {
    /// The rules of the policy with their directions and places.
    fn rules(&self) -> impl Iterator<Item = (Place, &'a Rule)> + use<'a> {
        let policy = self.policy;
        Direction::BOTH.into_iter().flat_map(move |direction| {
            let rules: &'a [Rule] = match policy.isolation(direction) {
                Isolation::Isolated(rules) => rules,
                Isolation::Open => &[],
            };
            let place = move |(rule, it)| (Place { direction, rule }, it);
            rules.iter().enumerate().map(place)
        })
    }
}

/// Where a rule stands in its policy. Prints as `spec.ingress[0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    direction: Direction,
    rule: usize,
}

impl Place {
    /// The field of one of the rule's peers.
    fn peer(self, peer: usize) -> String {
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        format!("{self}.{list}[{peer}]")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spec.{}[{}]", self.direction, self.rule)
    }
}

/// What all checks work on.
struct Lint<'l, 'a> {
    analysis: &'l mut Analysis<'a>,
    facts: &'l Facts,
    policies: Vec<Selecting<'a>>,
    tiers: Vec<(&'a TierPolicy, Vec<ProfileId>)>,
    /// How many pods each profile has.
    pods: Vec<usize>,
    found: Vec<Finding>,
}

impl<'l, 'a> Lint<'l, 'a> {
    fn new(analysis: &'l mut Analysis<'a>, facts: &'l Facts) -> Self {
        let cluster = analysis.cluster();
        let universe = analysis.universe();
        let staged = cluster.staged.iter().filter_map(|(key, staged)| match staged {
            Staged::Set(policy) => Some((Object::StagedPolicy(key.clone()), policy)),
            Staged::Delete => None,
        });
        let enforced = cluster.policies.iter();
        let enforced = enforced.map(|(key, policy)| (Object::NetworkPolicy(key.clone()), policy));
        let selecting = |(object, policy): (Object, &'a Policy)| {
            let here = universe.profiles_in(&policy.key.namespace).iter().copied();
            let is_selected =
                |id: &ProfileId| policy.selector.matches(&universe.profile(*id).pod.labels);
            Selecting { object, policy, profiles: here.filter(is_selected).collect() }
        };
        let policies = enforced.chain(staged).map(selecting).collect();
        let about = |policy: &'a TierPolicy| {
            let profiles = universe.profiles();
            let profiles = profiles.filter(|(_, profile)| policy.is_about(cluster, profile.pod));
            (policy, profiles.map(|(id, _)| id).collect())
        };
        let tiers = cluster.tiers.values().map(about).collect();
        let mut pods = vec![0; universe.profiles().count()];
        for (_, class) in universe.classes() {
            pods[class.profile.index()] += class.pods.len();
        }
        Self { analysis, facts, policies, tiers, pods, found: Vec::new() }
    }

    fn universe(&self) -> &Universe<'a> {
        &self.analysis.universe
    }

    /// Are there pods to which policies may apply?
    fn has_pods(&self) -> bool {
        !self.pods.is_empty()
    }

    fn report(&mut self, check: Check, object: Object, field: impl Into<String>, says: Says) {
        self.report_as(check.severity(), check, object, field, says);
    }

    fn report_as(
        &mut self,
        severity: Severity,
        check: Check,
        object: Object,
        field: impl Into<String>,
        Says { what, change }: Says,
    ) {
        debug_assert!(severity <= check.severity(), "{check:?} is never that bad");
        self.found.push(Finding { check, severity, object, field: field.into(), what, change });
    }
}

/// What a finding says: what is wrong, and what to write instead.
#[derive(Clone, Debug)]
struct Says {
    what: String,
    change: String,
}

/// The peers of a rule that are listed, with their places.
fn listed(rule: &Rule) -> impl Iterator<Item = (usize, &netpolc_policy::Peer)> {
    let peers = match &rule.peers {
        Peers::Any => &[][..],
        Peers::Listed(peers) => peers,
    };
    peers.iter().enumerate()
}

/// `1 pod`, `2 pods`.
fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// A few names, and how many there are beyond them.
fn few(names: &BTreeSet<String>) -> String {
    const MOST: usize = 5;
    let shown: Vec<&str> = names.iter().take(MOST).map(String::as_str).collect();
    match names.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
