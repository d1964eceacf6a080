//! Every case of the shared corpus through every judge. The generated eBPF programs run in the
//! kernel: that needs root.

use std::fmt::Write;

use netpolc::judge::{self, Judge, JudgeName, datapath::OnDatapath};
use netpolc_policy::oracle::TUNNELS;
use netpolc_testbed::cases;

/// Puts all probes of a case to a judge; what it answers wrong is added to `wrong`.
fn ask(case: &cases::Case, judge: &mut dyn Judge, wrong: &mut String) {
    for probe in &case.probes {
        match judge.judge(&probe.question) {
            Ok(answer) if answer.allowed == probe.allowed => {}
            Ok(answer) => {
                let (case, line, item) = (&case.name, probe.line, &probe.item);
                writeln!(wrong, "{case}.yaml:{line} {item}: {:?}: {answer:?}", probe.question)
                    .unwrap();
            }
            Err(error) => {
                writeln!(wrong, "{}.yaml:{}: {error}: {:?}", case.name, probe.line, probe.question)
                    .unwrap();
            }
        }
    }
}

/// What a judge answers wrong in all cases; empty where it agrees everywhere.
fn disagreements(name: JudgeName) -> String {
    let mut wrong = String::new();
    let cases = cases::all();
    let probes: usize = cases.iter().map(|c| c.probes.len()).sum();
    assert!(probes > 100, "the corpus has only {probes} probes");
    for case in cases {
        match judge::open(name, &case.cluster) {
            Ok(mut judge) => ask(&case, judge.as_mut(), &mut wrong),
            Err(error) => panic!("case {}: {name:?} does not start: {error}", case.name),
        }
    }
    wrong
}

#[test]
fn oracle() {
    assert_eq!(disagreements(JudgeName::Oracle), "");
}

#[test]
fn tables() {
    assert_eq!(disagreements(JudgeName::Tables), "");
}

#[test]
fn mem() {
    assert_eq!(disagreements(JudgeName::Mem), "");
}

/// Software flower has no hook behind Service translation, and does not tell protocols without
/// ports apart: there it may be stricter. It does not know what leads into a tunnel, and is less
/// strict there. Nowhere else does it differ.
#[test]
fn flower() {
    let mut wrong = String::new();
    for mut case in cases::all() {
        let grouped = !case.cluster.security.groups.is_empty();
        case.probes.retain(|p| {
            let apart = grouped && p.question.protocol.protocol().is_none();
            let tunnel = TUNNELS.contains(&p.question.protocol.number());
            !tunnel && (!p.allowed || p.question.via.is_none() && !apart)
        });
        let mut judge = judge::flower::open(&case.cluster)
            .unwrap_or_else(|e| panic!("case {}: {e}", case.name));
        ask(&case, &mut judge, &mut wrong);
    }
    assert_eq!(wrong, "");
}

#[test]
fn ebpf() {
    let mut wrong = String::new();
    // One target is led from case to case: that spares loading programs, and is one more test of
    // updates.
    let mut target =
        judge::ebpf::target(60).expect("the generated programs load (this needs root)");
    for case in cases::all() {
        let mut judge = match OnDatapath::install(&case.cluster, target) {
            Ok(judge) => judge,
            Err(error) => panic!("case {}: {error}", case.name),
        };
        ask(&case, &mut judge, &mut wrong);
        target = judge.into_target();
    }
    assert_eq!(wrong, "");
}

/// What isolates and what allows is the same whoever is asked.
#[test]
fn oracle_and_tables_name_the_same_policies() {
    for case in cases::all() {
        let mut oracle = judge::oracle::Oracle::new(&case.cluster);
        let mut tables = judge::tables::Tables::new(&case.cluster).unwrap();
        for probe in &case.probes {
            let (told, found) =
                (oracle.judge(&probe.question).unwrap(), tables.judge(&probe.question).unwrap());
            for (told, found) in [(&told.egress, &found.egress), (&told.ingress, &found.ingress)] {
                let at = format!("{}.yaml:{}: {told:?} {found:?}", case.name, probe.line);
                assert_eq!(told.allowed, found.allowed, "{at}");
                // The oracle stops at the first rule that allows; the tables know all of them.
                assert!(told.by.iter().all(|place| found.by.contains(place)), "{at}");
            }
        }
    }
}
