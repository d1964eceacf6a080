//! A difference that looks only at what a change touches is the one that looks at everything.

use std::{collections::BTreeMap, sync::Arc};

use netpolc_analyze::{
    Analysis,
    diff::{Differences, differences},
    list::Who,
    traffic::TrafficSet,
    unit::{Unit, units},
    universe::Universe,
};
use netpolc_policy::{Cluster, Pod};
use netpolc_testbed::random::{self, Rng, Shape};

fn name(pod: &Pod) -> Arc<str> {
    pod.key.to_string().into()
}

type Pairs = BTreeMap<(Arc<str>, Arc<str>), TrafficSet>;

/// What passes between each two pods.
fn pairs(cluster: &Cluster, by: &[&Cluster]) -> Pairs {
    let mut analysis = Analysis::in_universe(cluster, Universe::asked(cluster, by));
    let all: Vec<Unit> = units(analysis.universe(), &name);
    let mut found = Pairs::new();
    for source in &all {
        for destination in &all {
            if let Some(passing) = analysis.between_units(source, destination) {
                let set = analysis.traffic(passing.some).clone();
                found.insert((source.name.clone(), destination.name.clone()), set);
            }
        }
    }
    found
}

#[test]
fn what_is_not_touched_does_not_differ() {
    let (mut changed, mut seen) = (0, 0);
    for seed in 0..300 {
        let mut rng = Rng::new(1000 + seed);
        let shape = Shape::default();
        let old = random::cluster(&mut rng, &shape);
        let mut new = old.clone();
        for _ in 0..=rng.below(2) {
            random::change(&mut rng, &shape, &new).apply(&mut new);
        }
        let Differences { added, removed, changed: found, .. } = differences(&old, &new, &name);
        let both = [&old, &new];
        let (was, is) = (pairs(&old, &both), pairs(&new, &both));
        let is_common = |unit: &Arc<str>| !added.contains(unit) && !removed.contains(unit);
        let mut expected = BTreeMap::new();
        let nothing = TrafficSet::nothing();
        for pair in was.keys().chain(is.keys()) {
            let of = |pairs: &Pairs| pairs.get(pair).unwrap_or(&nothing).clone();
            let (was, is) = (of(&was), of(&is));
            if was != is && is_common(&pair.0) && is_common(&pair.1) {
                expected.insert(pair.clone(), (is.minus(&was), was.minus(&is)));
            }
        }
        let found: BTreeMap<_, _> = found
            .into_iter()
            .filter_map(|d| match (d.source, d.destination) {
                (Who::Pods(a), Who::Pods(b)) => Some(((a, b), (d.gained, d.lost))),
                _ => None,
            })
            .filter(|(_, (gained, lost))| gained != lost)
            .collect();
        // Between single pods that have two families, some and every pair may differ alone.
        for (pair, difference) in &expected {
            let (gained, lost) = &found.get(pair).unwrap_or_else(|| panic!("{seed}: {pair:?}"));
            assert!(gained.covers(&difference.0), "{seed}: {pair:?} gained {gained}");
            assert!(lost.covers(&difference.1), "{seed}: {pair:?} lost {lost}");
        }
        changed += usize::from(!expected.is_empty());
        seen += expected.len();
    }
    assert!(changed > 50 && seen > 300, "{changed} clusters of 300 changed, {seen} pairs");
}
