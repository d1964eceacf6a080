//! Every case of the shared corpus through every judge. The generated eBPF programs run in the kernel:
//! that needs root.

use std::fmt::Write;

use netpolc::{
    cli::raw::JudgeName,
    judge::{self, Judge},
};
use netpolc_testbed::cases;

/// What a judge says about all cases; empty where it agrees everywhere.
fn disagreements(name: JudgeName) -> String {
    let mut wrong = String::new();
    let mut probes = 0;
    for case in cases::all() {
        let mut judge = match judge::open(name, &case.cluster) {
            Ok(judge) => judge,
            Err(error) => panic!("case {}: {name:?} does not start: {error}", case.name),
        };
        for probe in &case.probes {
            probes += 1;
            match judge.judge(&probe.question) {
                Ok(answer) if answer.allowed == probe.allowed => {}
                Ok(answer) => {
                    let (case, line, item) = (&case.name, probe.line, &probe.item);
                    let question = &probe.question;
                    writeln!(wrong, "{case}.yaml:{line} {item}: {question:?}: {answer:?}").unwrap();
                }
                Err(error) => {
                    writeln!(wrong, "{}.yaml:{}: {error}: {:?}", case.name, probe.line, probe.question).unwrap();
                }
            }
        }
    }
    assert!(probes > 100, "the corpus has only {probes} probes");
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

#[test]
fn ebpf() {
    assert_eq!(disagreements(JudgeName::Ebpf), "");
}

/// What isolates and what allows is the same whoever is asked.
#[test]
fn oracle_and_tables_name_the_same_policies() {
    for case in cases::all() {
        let mut oracle = judge::oracle::Oracle::new(&case.cluster);
        let mut tables = judge::tables::Tables::new(&case.cluster).unwrap();
        for probe in &case.probes {
            let (told, found) = (oracle.judge(&probe.question).unwrap(), tables.judge(&probe.question).unwrap());
            for (told, found) in [(&told.egress, &found.egress), (&told.ingress, &found.ingress)] {
                let at = format!("{}.yaml:{}: {told:?} {found:?}", case.name, probe.line);
                assert_eq!(told.allowed, found.allowed, "{at}");
                // The oracle stops at the first rule that allows; the tables know all of them.
                assert!(told.by.iter().all(|place| found.by.contains(place)), "{at}");
            }
        }
    }
}
