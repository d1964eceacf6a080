//! The suite that every target must pass, on `mem`.

use netpolc_target::{Capabilities, conformance};
use netpolc_target_mem::Mem;

#[test]
fn conformance_with_the_default_limits() {
    conformance::run(Mem::default).assert_passed();
}

#[test]
fn conformance_with_narrow_limits() {
    let limits = Capabilities {
        endpoints: 16,
        sets: 64,
        classes_v4: 32,
        classes_v6: 48,
        rows: 256,
        port_classes: 32,
        connections: 64,
    };
    conformance::run(|| Mem::new(limits.clone())).assert_passed();
}
