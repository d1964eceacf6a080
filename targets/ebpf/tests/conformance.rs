//! The suite of all targets, on private instances, with fixed sizes and with growing ones.

use netpolc_target::conformance;
use netpolc_target_ebpf::{Capacities, Config, Ebpf};

#[test]
fn fixed() {
    conformance::run(|| Ebpf::private(Config::small().fixed()).expect("needs root and BPF")).assert_passed();
}

#[test]
fn growing() {
    // a few only: each time that a table grows, the kernel verifies two programs
    let small = Capacities { classes_v4: 2, rows: 2, ..Capacities::small() };
    let config = Config { capacities: small, limits: Capacities::small(), ..Config::small() };
    conformance::run(|| Ebpf::private(config.clone()).expect("needs root and BPF")).assert_passed();
}
