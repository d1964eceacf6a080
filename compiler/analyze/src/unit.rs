//! Units: pods under one name, such as those of a workload or of a namespace, for answers that
//! people read.
//!
//! Here: the pods of each unit as classes, and what may pass between two units. Not here: what a
//! unit is called (whoever asks), and lists of connections ([`crate::list`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_policy::{Direction, IpFamily, Pod};

use crate::{
    Analysis, End,
    region::RegionId,
    traffic::{TrafficId, TrafficSet},
    universe::{PodClassId, RemoteId, Universe},
};

/// Pods under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The name.
    pub name: Arc<str>,
    /// The namespace of its pods; empty where they are of several.
    pub namespace: Arc<str>,
    /// The classes of its pods, with how many of its pods are of each: others of a class may be of
    /// other units.
    pub classes: BTreeMap<PodClassId, usize>,
    /// How many pods it has.
    pub pods: usize,
}

/// The units of a universe, in the order of their names.
pub fn units(universe: &Universe<'_>, name: &dyn Fn(&Pod) -> Arc<str>) -> Vec<Unit> {
    let mut found: BTreeMap<Arc<str>, Unit> = BTreeMap::new();
    for (id, class) in universe.classes() {
        for pod in &class.pods {
            let name = name(pod);
            let namespace = &pod.key.namespace;
            let unit = found.entry(name.clone()).or_insert_with(|| Unit {
                name,
                namespace: namespace.clone(),
                classes: BTreeMap::new(),
                pods: 0,
            });
            *unit.classes.entry(id).or_default() += 1;
            if unit.namespace != *namespace {
                unit.namespace = "".into();
            }
            unit.pods += 1;
        }
    }
    found.into_values().collect()
}

/// What may pass from one end to another that both stand for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Passing {
    /// Between at least one pair.
    pub some: TrafficId,
    /// Between every pair.
    pub every: TrafficId,
}

impl Passing {
    /// Nothing passes between any pair.
    pub const NOTHING: Passing = Passing { some: TrafficId::NOTHING, every: TrafficId::NOTHING };

    /// Does nothing pass between any pair?
    pub fn is_nothing(&self) -> bool {
        self.some == TrafficId::NOTHING
    }
}

/// The sum over pairs.
#[derive(Default)]
struct Sum(Option<Passing>);

impl Sum {
    fn add(&mut self, analysis: &mut Analysis<'_>, permitted: TrafficId) {
        self.0 = Some(match self.0 {
            None => Passing { some: permitted, every: permitted },
            Some(Passing { some, every }) => Passing {
                some: analysis.traffic.union(some, permitted),
                every: analysis.traffic.intersection(every, permitted),
            },
        });
    }
}

impl Analysis<'_> {
    /// What may pass from the pods of one unit to those of another, over any family that both have.
    /// None where no pair has a family in common, or all pairs are one pod with itself.
    pub fn between_units(&mut self, source: &Unit, destination: &Unit) -> Option<Passing> {
        let mut sum = Sum::default();
        for (&from, &pods) in &source.classes {
            for &to in destination.classes.keys() {
                // A pod's traffic with itself is not policy's (S47).
                if from == to && pods == 1 && source.name == destination.name {
                    continue;
                }
                for family in IpFamily::BOTH {
                    if let Some(permitted) = self.between(End::Pods(from), End::Pods(to), family) {
                        sum.add(self, permitted);
                    }
                }
            }
        }
        sum.0
    }

    /// What a direction of the unit's pods permits with addresses that are no pod's.
    pub fn with_elsewhere(
        &mut self,
        unit: &Unit,
        direction: Direction,
        remote: RemoteId,
    ) -> Option<Passing> {
        let family = self.universe.family(remote);
        let mut sum = Sum::default();
        for &class in unit.classes.keys() {
            let (source, destination) = match direction {
                Direction::Egress => (End::Pods(class), End::Elsewhere(remote)),
                Direction::Ingress => (End::Elsewhere(remote), End::Pods(class)),
            };
            if let Some(permitted) = self.between(source, destination, family) {
                sum.add(self, permitted);
            }
        }
        sum.0
    }

    /// The regions outside of the cluster by what a direction of the unit's pods permits with them.
    /// Regions with which nothing may pass are left out.
    pub fn with_outside(
        &mut self,
        unit: &Unit,
        direction: Direction,
    ) -> BTreeMap<Passing, BTreeSet<RegionId>> {
        let mut found: BTreeMap<Passing, BTreeSet<RegionId>> = BTreeMap::new();
        for remote in self.universe.outside().to_vec() {
            let Some(passing) = self.with_elsewhere(unit, direction, remote) else { continue };
            if !passing.is_nothing() {
                found.entry(passing).or_default().insert(self.universe.remote(remote).region);
            }
        }
        found
    }

    /// Whether some pods of the unit, or all, are isolated in this direction, by a NetworkPolicy or
    /// by default.
    pub fn isolation(&mut self, unit: &Unit, direction: Direction) -> Isolated {
        let profiles = unit.classes.keys().map(|class| self.universe.class(*class).profile);
        let profiles: Vec<_> = profiles.collect();
        let isolated = profiles.iter().filter(|p| self.side(**p, direction).is_isolated()).count();
        match isolated {
            0 => Isolated::No,
            n if n == profiles.len() => Isolated::Yes,
            _ => Isolated::Partly,
        }
    }

    /// The sets of traffic of what passes: between some, and between every pair.
    pub fn sets(&self, passing: Passing) -> (&TrafficSet, &TrafficSet) {
        (self.traffic.get(passing.some), self.traffic.get(passing.every))
    }
}

/// Whether NetworkPolicies, or the default of a namespace, isolate the pods of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Isolated {
    /// None of them.
    No,
    /// Some of them.
    Partly,
    /// All of them.
    Yes,
}
