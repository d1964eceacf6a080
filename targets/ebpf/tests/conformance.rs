//! The suite of all targets, on private instances, with fixed sizes and with growing ones.

use netpolc_target::conformance;
use netpolc_target_ebpf::{Capacities, Config, Ebpf};

#[test]
fn fixed() {
    conformance::run(|| Ebpf::private(Config::small().fixed()).expect("needs root and BPF")).assert_passed();
}

#[test]
fn growing() {
    let small = Capacities {
        interface_blocks: 2,
        sets: 2,
        classes_v4: 2,
        classes_v6: 2,
        rows: 2,
        port_words: 1,
        remote_v4_blocks: 512,
        remote_v6_blocks: 512,
        remote_v6_buckets: 16,
        more_addresses: 16,
        ..Capacities::small()
    };
    let config = Config { capacities: small, limits: Capacities::small(), ..Config::small() };
    conformance::run(|| Ebpf::private(config.clone()).expect("needs root and BPF")).assert_passed();
}
