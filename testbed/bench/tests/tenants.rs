//! One tenant does its worst, in the kernel's tables: others' updates are enforced, their new pods
//! isolated, the offender's pods too, and the offender named (S33).

use netpolc_bench::tenants::{World, admitted};
use netpolc_testbed::offenders::KINDS;

#[test]
fn s33_one_tenant_stops_nobody() {
    for kind in KINDS {
        // A part of what a share admits is enough: this is about verdicts, and not about times.
        for n in [kind.most(), admitted(kind) / 4] {
            // Fails where an update fails, a pod is not isolated, or anybody else's object is set
            // aside.
            let waits = World::new()
                .unwrap()
                .offend(kind, n, 2)
                .unwrap_or_else(|error| panic!("{kind:?} {n}: {error:#}"));
            assert_eq!(
                waits.aside > 0,
                n == kind.most(),
                "{kind:?} of {n}: {} are set aside",
                waits.aside
            );
            eprintln!("{kind:?} {n}: {waits:?}");
        }
    }
}
