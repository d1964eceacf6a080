//! The suite of all targets, on private instances; its packets again on tables that grow.

use netpolc_target::conformance;
use netpolc_target_ebpf::{Capacities, Config, Ebpf};
use netpolc_testbed::lab;

#[test]
fn fixed() {
    conformance::run(|| Ebpf::private(Config::asked().fixed()).expect("needs root and BPF"))
        .assert_passed();
}

/// Without TCX, with an older verifier and without a JIT compiler.
#[test]
fn in_linux_6_1() {
    if lab::outside(in_linux_6_1) {
        return;
    }
    conformance::run(|| Ebpf::private(Config::asked().fixed()).expect("needs root and BPF"))
        .assert_passed();
}

#[test]
fn growing() {
    let small = Capacities {
        sets: 2,
        classes_v4: 2,
        classes_v6: 2,
        rows: 2,
        port_words: 1,
        ..Capacities::small()
    };
    let config = Config { capacities: small, limits: Capacities::small(), ..Config::asked() };
    conformance::run_matching(|| Ebpf::private(config.clone()).expect("needs root and BPF"), "")
        .assert_passed();
}
