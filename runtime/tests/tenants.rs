//! One tenant does its worst, in the kernel's tables: others' updates are enforced, their new pods isolated, the offender's
//! pods too, and the offender named (S33).

use netpolc::bench::tenants::World;
use netpolc_testbed::offenders::KINDS;

#[test]
fn s33_one_tenant_stops_nobody() {
    for kind in KINDS {
        // Fails where an update fails, a pod is not isolated, or anybody else's object is set aside.
        let waits = World::new().unwrap().offend(kind, 2).unwrap_or_else(|error| panic!("{kind:?}: {error:#}"));
        assert!(waits.aside > 0, "{kind:?} of {} is within its share", kind.most());
        eprintln!("{kind:?}: {waits:?}");
    }
}
