//! Updates between random programs: no packet sees a mix (S57), and any step may be the last one.

mod common;

use common::{Random, mutate, run};
use netpolc_table::{
    Phase::{Coarsen, Merge, Refine},
    Program, TableId, delta,
};
use std::collections::BTreeSet;

fn pair(seed: u64) -> (Program, Program) {
    let mut random = Random::new(seed);
    let mut old = Program::default();
    if !random.chance(5) {
        mutate(&mut random, &mut old, 60);
    }
    let strength = random.pick(&[3, 10, 30, 60, 95]);
    let mut new = if random.chance(10) { Program::default() } else { old.clone() };
    mutate(&mut random, &mut new, strength);
    (old, new)
}

#[test]
fn s57_no_packet_sees_a_mix_between_any_two_programs() {
    let mut seen = BTreeSet::new();
    for seed in 0..450 {
        let (old, new) = pair(seed);
        let what = format!("seed {seed}");
        let (renamed, plan) = delta::plan(&old, &new).unwrap();
        assert_eq!(
            common::answers(&new),
            common::answers(&renamed),
            "{what}: renaming changes answers"
        );
        let (end, states) = run(&old, &renamed, &plan, &what);
        common::in_flight(&old, &renamed, &plan, &states, &mut Random::new(seed), &what);
        assert!(end == renamed, "{what}: {:?}", delta::diff(&end, &renamed));
        seen.extend(plan.steps.iter().map(|(phase, write)| (*phase, write.table)));
    }
    // The hard ways were taken: prefixes and port intervals that move late, words by way of a
    // copied set.
    for hard in [
        (Coarsen, TableId::RemoteV4),
        (Coarsen, TableId::Endpoint),
        (Refine, TableId::Port),
        (Merge, TableId::Port),
    ] {
        assert!(seen.contains(&hard), "{hard:?} never happened");
    }
}

#[test]
fn s57_an_update_cut_off_at_any_step_can_be_completed() {
    for seed in 10_000..10_045 {
        let (old, new) = pair(seed);
        let (renamed, plan) = delta::plan(&old, &new).unwrap();
        let (_, states) = run(&old, &renamed, &plan, &format!("seed {seed}"));
        for (i, state) in states.iter().enumerate().step_by(3) {
            let what = format!("seed {seed} cut after {i}");
            let (again, rest) = delta::plan(state, &new).unwrap();
            let (end, _) = run(state, &again, &rest, &what);
            assert!(end == again, "{what}");
        }
    }
}
