//! The corpus against the oracle, and against what decoding should report.

use std::collections::BTreeSet;

use netpolc_policy::oracle;
use netpolc_testbed::cases::{self, Case};

#[test]
fn the_oracle_gives_every_verdict_of_the_corpus() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in cases::all() {
        for probe in &case.probes {
            count += 1;
            let judged = oracle::judge(&case.cluster, &probe.question);
            if judged.allowed != probe.allowed {
                let (name, line, item) = (&case.name, probe.line, &probe.item);
                wrong.push(format!("{name}:{line}: {item}: {:?}: {judged:?}", probe.question));
            }
        }
    }
    println!("{count} probes");
    assert!(
        wrong.is_empty(),
        "{} of {count} verdicts are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count > 1500, "{count}");
}

/// Every expected problem, and no other.
#[test]
fn s61_decoding_reports_the_expected_problems_and_no_others() {
    let faults: Vec<String> = cases::all().iter().flat_map(unexpected).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn unexpected(case: &Case) -> Vec<String> {
    let mut left: Vec<_> = case.problems.iter().collect();
    let mut faults = Vec::new();
    for expect in &case.expect {
        let found = left.iter().position(|p| {
            let object = p.object.as_ref().map(|o| &*o.name);
            p.severity == expect.severity
                && object == Some(&*expect.object)
                && (expect.field.is_none() || p.field == expect.field)
        });
        match found {
            Some(at) => drop(left.remove(at)),
            None => faults.push(format!("{}: missing: {expect:?}", case.name)),
        }
    }
    faults.extend(left.iter().map(|p| format!("{}: not expected: {p}", case.name)));
    faults
}

#[test]
fn the_corpus_covers_every_item_that_can_be_asked_offline() {
    let all = cases::all();
    let proved: BTreeSet<&str> = all
        .iter()
        .flat_map(|c| c.items.iter().chain(c.probes.iter().map(|p| &p.item)))
        .map(|s| &**s)
        .collect();
    // S12 speaks of events: the change sequences of `random` prove it. S28 and S33 also have tests
    // where limits are.
    let missing: Vec<String> = (1..=34)
        .chain(44..=47)
        .chain(62..=67)
        .chain(69..=74)
        .chain([84])
        .filter(|n| *n != 12)
        .map(|n| format!("S{n}"))
        .filter(|s| !proved.contains(&**s))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // That every item exists, and that tests prove the others: `runtime/tests/documents.rs`.
}

#[test]
fn a_malformed_case_names_file_line_and_fault() {
    let header = "kind: Case\nitems: [S1]\ndescription: x\n---\n";
    let fault = |text: &str| cases::parse("broken", text).expect_err("malformed").to_string();
    assert_eq!(
        fault("apiVersion: v1"),
        "cases/broken.yaml:1: no document `kind: Case`: put one first"
    );
    assert_eq!(
        fault(&format!(
            "{header}kind: Probes\nprobes:\n- {{src: a/b, dst: 10.0.0.1, proto: TCP, port: 1, \
             allowed: true}}"
        )),
        "cases/broken.yaml:7: no pod a/b"
    );
    assert_eq!(
        fault(&format!(
            "{header}kind: Probes\nprobes:\n- {{src: 10.0.0.2, dst: 10.0.0.1, proto: TCP, allowed: \
             true}}"
        )),
        "cases/broken.yaml:7: TCP needs a port"
    );
    assert_eq!(
        fault(header),
        "cases/broken.yaml:1: the case asks nothing: add a document `kind: Probes`"
    );
}
