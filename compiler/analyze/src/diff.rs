//! What a change changes: who may open connections that they could not open before, and the other
//! way round.
//!
//! Here: the difference between two states of a cluster. A pair of units is looked at only where
//! one of them is touched: where its rules differ, or what other rules see of it does. Not here:
//! how a difference is printed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
};

use netpolc_policy::{Cluster, Direction, Mode, Pod};
use serde::Serialize;

use crate::{
    Analysis,
    list::Who,
    region::RegionId,
    traffic::TrafficSet,
    unit::{Unit, units},
    universe::{PodClassId, ProfileId, Universe},
};

/// What became of the connections from one end to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Who opens them.
    pub source: Who,
    /// Who answers.
    pub destination: Who,
    /// What some pair may exchange now, and none could before.
    pub gained: TrafficSet,
    /// What some pair could exchange before, and not every pair that could still may.
    pub lost: TrafficSet,
}

/// The difference between two states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Differences {
    /// Names of units that are new.
    pub added: Vec<Arc<str>>,
    /// Names of units that are gone.
    pub removed: Vec<Arc<str>>,
    /// Connections that differ, between units that are in both states, and with everybody else.
    pub changed: Vec<Difference>,
    /// All units of the new state, for whoever shows the connections.
    #[serde(skip)]
    pub units: Vec<Unit>,
}

impl Differences {
    /// Is everything as it was?
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// A unit, as it was and as it is.
struct Both {
    name: Arc<str>,
    old: Unit,
    new: Unit,
    is_touched: Touched,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    Yes,
    No,
}

/// The difference between two states of a cluster. `name` says to which unit a pod belongs.
pub fn differences(old: &Cluster, new: &Cluster, name: &dyn Fn(&Pod) -> Arc<str>) -> Differences {
    let both = [old, new];
    let mut before = Analysis::in_universe(old, Universe::asked(old, &both));
    let mut after = Analysis::in_universe(new, Universe::asked(new, &both));
    let [was, is] = [&before, &after].map(|analysis| {
        let units = units(analysis.universe(), name).into_iter();
        units.map(|unit| (unit.name.clone(), unit)).collect::<BTreeMap<_, _>>()
    });
    let names = |a: &BTreeMap<Arc<str>, Unit>, b: &BTreeMap<Arc<str>, Unit>| {
        a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
    };
    let mut found = Differences {
        added: names(&is, &was),
        removed: names(&was, &is),
        units: is.values().cloned().collect(),
        changed: Vec::new(),
    };
    let [mut prints_before, mut prints_after] = [&before, &after].map(Prints::of);
    let common = was.into_iter().filter_map(|(name, old)| {
        let new = is.get(&name)?.clone();
        let is_same = prints_before.unit(&before, &old) == prints_after.unit(&after, &new);
        let is_touched = if is_same { Touched::No } else { Touched::Yes };
        Some(Both { name, old, new, is_touched })
    });
    let common: Vec<Both> = common.collect();
    let touched = common.iter().filter(|unit| unit.is_touched == Touched::Yes);
    for unit in touched {
        for other in &common {
            found.changed.extend(pair(&mut before, &mut after, unit, other));
            // The pair is met twice where both are touched.
            if other.is_touched == Touched::No {
                found.changed.extend(pair(&mut before, &mut after, other, unit));
            }
        }
        for direction in Direction::BOTH {
            found.changed.extend(elsewhere(&mut before, &mut after, unit, direction));
        }
    }
    found.changed.sort();
    found
}

fn pair(
    before: &mut Analysis<'_>,
    after: &mut Analysis<'_>,
    source: &Both,
    destination: &Both,
) -> Option<Difference> {
    let was = before.between_units(&source.old, &destination.old);
    let is = after.between_units(&source.new, &destination.new);
    let nothing = TrafficSet::nothing();
    let [was, is] = [(was, &*before), (is, &*after)].map(|(passing, analysis)| {
        passing.map_or((nothing.clone(), nothing.clone()), |passing| {
            let (some, every) = analysis.sets(passing);
            (some.clone(), every.clone())
        })
    });
    let ends = (Who::Pods(source.name.clone()), Who::Pods(destination.name.clone()));
    difference(ends, &was, &is)
}

/// Some where what passes between some pairs, or between all, is not as it was.
fn difference(
    (source, destination): (Who, Who),
    (was_some, was_every): &(TrafficSet, TrafficSet),
    (is_some, is_every): &(TrafficSet, TrafficSet),
) -> Option<Difference> {
    let gained = is_some.minus(was_some).union(&is_every.minus(was_every));
    let lost = was_some.minus(is_some).union(&was_every.minus(is_every));
    let differs = !gained.is_nothing() || !lost.is_nothing();
    differs.then_some(Difference { source, destination, gained, lost })
}

/// The same with nodes and the rest of the world.
fn elsewhere(
    before: &mut Analysis<'_>,
    after: &mut Analysis<'_>,
    unit: &Both,
    direction: Direction,
) -> Vec<Difference> {
    let pods = Who::Pods(unit.name.clone());
    let ends = |who: Who| match direction {
        Direction::Egress => (pods.clone(), who),
        Direction::Ingress => (who, pods.clone()),
    };
    let mut by_change: BTreeMap<(TrafficSet, TrafficSet), BTreeSet<RegionId>> = BTreeMap::new();
    // Both have the same regions, since each was made for the rules of both.
    let regions = before.universe().regions.ids().collect::<Vec<_>>();
    for region in regions {
        let address = before.universe().regions.prefix(region).network();
        let of = |analysis: &mut Analysis<'_>, unit: &Unit| {
            let remote = analysis.universe().outside_of(region);
            debug_assert!(analysis.universe().regions.prefix(region).network() == address);
            let passing = analysis.with_elsewhere(unit, direction, remote);
            passing.map(|passing| {
                let (some, every) = analysis.sets(passing);
                (some.clone(), every.clone())
            })
        };
        let (Some(was), Some(is)) = (of(before, &unit.old), of(after, &unit.new)) else { continue };
        if let Some(found) = difference(ends(Who::Outside(Vec::new())), &was, &is) {
            by_change.entry((found.gained, found.lost)).or_default().insert(region);
        }
    }
    let mut found: Vec<Difference> = Vec::new();
    for ((gained, lost), regions) in by_change {
        let addresses = before.universe().regions.addresses(&regions);
        if !addresses.is_empty() {
            let (source, destination) = ends(Who::Outside(addresses));
            found.push(Difference { source, destination, gained, lost });
        }
    }
    found.extend(nodes(before, after, unit, direction, &ends));
    found
}

fn nodes(
    before: &mut Analysis<'_>,
    after: &mut Analysis<'_>,
    unit: &Both,
    direction: Direction,
    ends: &dyn Fn(Who) -> (Who, Who),
) -> Vec<Difference> {
    let by_name = |analysis: &mut Analysis<'_>, unit: &Unit| {
        let mut found: BTreeMap<Arc<str>, (TrafficSet, TrafficSet)> = BTreeMap::new();
        for (remote, names) in analysis.universe().nodes().to_vec() {
            let Some(passing) = analysis.with_elsewhere(unit, direction, remote) else { continue };
            let (some, every) = analysis.sets(passing);
            for name in names {
                let known =
                    found.entry(name.into()).or_insert_with(|| (some.clone(), every.clone()));
                *known = (known.0.union(some), known.1.intersection(every));
            }
        }
        found
    };
    let (was, is) = (by_name(before, &unit.old), by_name(after, &unit.new));
    let mut by_change: BTreeMap<(TrafficSet, TrafficSet), Vec<Arc<str>>> = BTreeMap::new();
    for (name, was) in &was {
        let Some(is) = is.get(name) else { continue };
        if let Some(found) = difference(ends(Who::Nodes(Vec::new())), was, is) {
            by_change.entry((found.gained, found.lost)).or_default().push(name.clone());
        }
    }
    let difference = |((gained, lost), names): ((TrafficSet, TrafficSet), Vec<Arc<str>>)| {
        let (source, destination) = ends(Who::Nodes(names));
        Difference { source, destination, gained, lost }
    };
    by_change.into_iter().map(difference).collect()
}

/// Fingerprints of what the rules of a class say, and of what other rules see of it.
struct Prints {
    policies: HashMap<*const netpolc_policy::Policy, u64>,
    classes: HashMap<PodClassId, u64>,
    profiles: HashMap<ProfileId, u64>,
    /// Of everything that tiers and groups say, to whomever.
    shared: u64,
}

impl Prints {
    fn of(analysis: &Analysis<'_>) -> Self {
        let cluster = analysis.cluster();
        let mut shared = DefaultHasher::new();
        // What groups mean depends on lists that stand elsewhere.
        let security = &cluster.security;
        security.groups.iter().for_each(|group| group.hash(&mut shared));
        security.prefix_lists.iter().for_each(|list| list.hash(&mut shared));
        security.interfaces.iter().for_each(|interface| interface.hash(&mut shared));
        (&security.resolvers, security.enforcement).hash(&mut shared);
        let policies =
            cluster.policies.values().map(|policy| (std::ptr::from_ref(policy), hashed(policy)));
        Self {
            policies: policies.collect(),
            classes: HashMap::new(),
            profiles: HashMap::new(),
            shared: shared.finish(),
        }
    }

    fn unit(&mut self, analysis: &Analysis<'_>, unit: &Unit) -> BTreeSet<u64> {
        // One pod with itself is no connection, two pods of a class are one.
        let several = |(class, pods): (&PodClassId, &usize)| {
            hashed(&(self.class(analysis, *class), *pods > 1))
        };
        unit.classes.iter().map(several).collect()
    }

    fn class(&mut self, analysis: &Analysis<'_>, id: PodClassId) -> u64 {
        if let Some(known) = self.classes.get(&id) {
            return *known;
        }
        let universe = analysis.universe();
        let class = universe.class(id);
        let mut print = DefaultHasher::new();
        self.profile(analysis, class.profile).hash(&mut print);
        for remote in class.remotes {
            let Some(remote) = remote.map(|id| universe.remote(id)) else {
                print.write_u8(0);
                continue;
            };
            universe.regions.prefix(remote.region).hash(&mut print);
            remote.nodes.hash(&mut print);
            let claimants = remote.claimants.iter().map(|p| self.profile(analysis, *p));
            let claimants: BTreeSet<u64> = claimants.collect();
            claimants.hash(&mut print);
        }
        self.classes.insert(id, print.finish());
        print.finish()
    }

    fn profile(&mut self, analysis: &Analysis<'_>, id: ProfileId) -> u64 {
        if let Some(known) = self.profiles.get(&id) {
            return *known;
        }
        let profile = analysis.universe().profile(id);
        let pod = profile.pod;
        let cluster = analysis.cluster();
        let mut print = DefaultHasher::new();
        pod.key.namespace.hash(&mut print);
        profile.namespace.hash(&mut print);
        analysis.universe().asked_labels(pod).for_each(|pair| pair.hash(&mut print));
        let mut ports: Vec<_> = pod.ports.iter().filter(|port| port.name.is_some()).collect();
        ports.sort_by(|a, b| (&a.name, a.protocol, a.number).cmp(&(&b.name, b.protocol, b.number)));
        ports.iter().for_each(|p| (&p.name, p.protocol, p.number).hash(&mut print));
        profile.groups.hash(&mut print);
        if profile.groups.is_some() {
            self.shared.hash(&mut print);
        }
        pod.node.as_ref().filter(|_| analysis.universe().tells_nodes_apart()).hash(&mut print);
        let own = cluster.namespaces.get(&pod.key.namespace).and_then(|n| n.unselected);
        own.hash(&mut print);
        cluster.by_default.hash(&mut print);
        for policy in analysis.policies_of(&pod.key.namespace) {
            if policy.mode == Mode::Enforced && policy.selector.matches(&pod.labels) {
                self.policies[&std::ptr::from_ref(*policy)].hash(&mut print);
            }
        }
        for policy in cluster.tiers.values() {
            if policy.mode == Mode::Enforced && policy.is_about(cluster, pod) {
                policy.hash(&mut print);
            }
        }
        self.profiles.insert(id, print.finish());
        print.finish()
    }
}

fn hashed(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
