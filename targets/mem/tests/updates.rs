//! Plans done on `mem`, with faults at every step: the executor and the decorators.

use netpolc_table::{
    Class, Incarnation, Phase, Plan, PortClassId, Program, RowId, SetId, TableId, Write, delta,
    schema::{self, Named},
};
use netpolc_target::{
    Arrival, Counted, Datapath, Error, Execution, Faults, Faulty, Frame, Hook, Mark, Target,
    Traced, Verdict,
    conformance::{
        fill,
        world::{A, Hosts, Policy, SYN, Talk, UPLINK, switch, word, world},
    },
    execute,
};
use netpolc_target_mem::Mem;

/// From `Some` to a new set that permits `stranger`: refine, switch, coarsen, merge, remove.
fn plan() -> Plan {
    let h = Hosts::of(schema::Family::V4);
    let permit = schema::plain(netpolc_table::ActionId::Permit);
    let old = word(A, Policy::Some, Policy::Open);
    let new = schema::set_policy(schema::Word { ingress_set: SetId::new(19), ..old });
    let stranger = schema::remote_key(h.stranger, 32);
    let steps = vec![
        (
            Phase::Refine,
            Write::put(
                TableId::Base,
                schema::base_key(SetId::new(19), h.family),
                schema::plain(netpolc_table::ActionId::Deny),
            ),
        ),
        (
            Phase::Refine,
            Write::put(
                TableId::Row,
                schema::row_key(SetId::new(19), Class::new(h.family, 9)),
                permit,
            ),
        ),
        (
            Phase::Refine,
            Write::put(
                TableId::RemoteV4,
                stranger,
                schema::set_remote(Class::new(schema::Family::V4, 9), Incarnation::default()),
            ),
        ),
        (Phase::Switch, Write::put(TableId::Endpoint, schema::endpoint_key(A.endpoint), new)),
        (Phase::Coarsen, Write::remove(TableId::RemoteV4, schema::remote_key(h.friend, 32))),
        (
            Phase::Merge,
            Write::put(
                TableId::Directory,
                schema::directory_key(Named::Set(SetId::new(19))),
                schema::fingerprint(5u64),
            ),
        ),
        (
            Phase::Remove,
            Write::remove(TableId::Row, schema::row_key(SetId::new(2), Class::new(h.family, 1))),
        ),
        (
            Phase::Remove,
            Write::remove(
                TableId::Verdict,
                schema::verdict_key(RowId::new(4), PortClassId::new(2)),
            ),
        ),
    ];
    Plan { steps }
}

fn start() -> Mem {
    let mut mem = Mem::default();
    fill(&mut mem, &world(Policy::Some, Policy::Open)).expect("room");
    mem
}

/// The verdicts of a few SYNs to A.
fn answers(target: &mut impl Datapath) -> Vec<Verdict> {
    let mut verdicts = vec![];
    for h in Hosts::both() {
        for (remote, port) in [(h.friend, 80), (h.friend, 81), (h.stranger, 80), (h.network, 1)] {
            let bytes = Talk::new(h.a, port, remote, 999).back(SYN);
            let frame = Frame {
                interface: A.interface,
                arrival: Arrival::At(UPLINK),
                mark: Mark::Clear,
                bytes,
            };
            verdicts.push(target.packet(Hook::ToPod, &frame).expect("an answer"));
        }
    }
    verdicts
}

fn after(plan: &Plan, writes: usize) -> Program {
    let mut mem = start();
    for (_, write) in &plan.steps[..writes] {
        mem.write(write).expect("room");
    }
    mem.read().expect("readable")
}

#[test]
fn s57_phases_are_done_in_order_with_grace_periods_between() {
    let mut target = Counted::new(start());
    let plan = plan();
    let mut execution = Execution::new(&plan);
    let mut settles = vec![];
    while let Some((phase, _)) = execution.step(&mut target).expect("no faults") {
        settles.push((phase, target.counts().settles));
    }
    use Phase::{Coarsen, Merge, Refine, Remove, Switch};
    let expected = [
        (Refine, 0),
        (Refine, 0),
        (Refine, 0),
        (Switch, 0),
        (Coarsen, 1),
        (Merge, 2),
        (Remove, 3),
        (Remove, 3),
    ];
    assert_eq!(settles, expected);
    assert_eq!(target.counts().settles, 4, "and one behind the last write");
    assert!(execution.step(&mut target).expect("nothing to do").is_none());
    assert_eq!(target.counts().settles, 4, "once");
    let counts = target.counts();
    assert_eq!(
        (counts.writes(), counts.entries(), counts.tables[&TableId::Row].removed),
        (8, 8, 1)
    );
    assert_eq!(target.read().expect("readable"), after(&plan, plan.steps.len()));
}

#[test]
fn s57_a_plan_that_only_switches_needs_no_grace_period() {
    let mut target = Counted::new(start());
    let plan = Plan { steps: vec![(Phase::Switch, switch(A, Policy::Nothing, Policy::Open))] };
    execute(&mut target, &plan).expect("no faults");
    execute(&mut target, &Plan::default()).expect("nothing to do");
    assert_eq!((target.counts().settles, target.counts().writes()), (0, 1));
}

#[test]
fn s59_a_fault_at_every_step_leaves_the_answers_and_a_retry_completes() {
    let plan = plan();
    let steps = plan.steps.len() as u64;
    let done = {
        let mut mem = start();
        execute(&mut mem, &plan).expect("no faults");
        answers(&mut mem)
    };
    // 8 writes and 4 grace periods.
    for n in 0..steps + 4 {
        for faults in [Faults::Full(n), Faults::Refused(n)] {
            let mut target = Counted::new(Traced::new(Faulty::new(start(), faults.clone())));
            let failed = execute(&mut target, &plan).expect_err("a fault");
            let kind = matches!(
                (&faults, &failed.source),
                (Faults::Full(_), Error::Full { .. }) | (_, Error::System { .. })
            );
            assert!(kind, "{faults:?}: {failed}");
            let writes = target.counts().writes() as usize;
            assert_eq!(failed.index, writes, "{faults:?}: {failed}");
            assert_eq!(
                target.read().expect("readable"),
                after(&plan, writes),
                "{faults:?}: nothing of the failed step"
            );
            let mut same = Mem::default();
            fill(&mut same, &after(&plan, writes)).expect("room");
            assert_eq!(answers(&mut target), answers(&mut same), "{faults:?}");
            execute(&mut target, &plan).expect("the fault is over");
            assert_eq!(
                target.read().expect("readable"),
                after(&plan, plan.steps.len()),
                "{faults:?}"
            );
            assert_eq!(answers(&mut target), done, "{faults:?}");
            assert_eq!(target.inner().inner().injected(), 1);
        }
    }
}

/// A target that holds nothing is filled without a plan: whatever fails, packets pass as before
/// until their interface has its entry, and what is there then is completed by a plan.
#[test]
fn s59_filling_an_empty_target_changes_no_answer_before_the_interfaces_come() {
    let wanted = world(Policy::Some, Policy::Open);
    let (nothing, done) = (answers(&mut Mem::default()), answers(&mut start()));
    assert_ne!(nothing, done);
    let writes = execute::fill(&mut Mem::default(), &wanted).expect("no faults");
    // The first is the grace period.
    for n in 0..=writes as u64 {
        let mut target = Counted::new(Faulty::new(Mem::default(), Faults::Refused(n)));
        let failed = execute::fill(&mut target, &wanted).expect_err("a fault");
        assert_eq!((failed.index, failed.steps), (target.counts().writes() as usize, writes));
        let came = target.read().expect("readable").table(TableId::Interface).entries.len();
        assert_eq!((came, answers(&mut target)), (0, nothing.clone()), "{failed}");
        let (renamed, plan) = delta::plan(&target.read().expect("readable"), &wanted).expect("ids");
        execute(&mut target, &plan).expect("the fault is over");
        assert_eq!(
            (target.read().expect("readable"), answers(&mut target)),
            (renamed, done.clone()),
            "{failed}"
        );
    }
    let mut target = Counted::new(Mem::default());
    execute::fill(&mut target, &wanted).expect("no faults");
    assert_eq!((target.counts().settles, answers(&mut target)), (1, done));
}

#[test]
fn s57_stopping_between_any_two_steps_and_going_on_with_the_same_execution() {
    let plan = plan();
    for share in [100, 500, 900] {
        for seed in 0..20 {
            let mut target = Faulty::new(start(), Faults::Share { per_mille: share, seed });
            let mut execution = Execution::new(&plan);
            let mut tries = 0;
            loop {
                tries += 1;
                assert!(tries < 2000, "never done");
                match execution.step(&mut target) {
                    Ok(None) => break,
                    Ok(Some(_)) => {}
                    Err(failed) => assert_eq!(failed.index, execution.done()),
                }
            }
            assert_eq!(
                target.read().expect("readable"),
                after(&plan, plan.steps.len()),
                "{share} {seed}"
            );
        }
    }
}

#[test]
fn failures_say_which_step_and_table() {
    let mut target = Faulty::new(start(), Faults::Full(3));
    let failed = execute(&mut target, &plan()).expect_err("a fault");
    let text = failed.to_string();
    assert!(
        text.starts_with("step 3 of 8 (switch, table endpoint) failed: table endpoint: full"),
        "{text}"
    );
    assert_eq!((failed.index, failed.phase, failed.table), (3, Phase::Switch, TableId::Endpoint));
}
