//! The lab itself: a test runs in it, with flower there, and its failure comes out.

use std::process::Command;

use netpolc_testbed::lab;

#[test]
fn the_lab_has_flower() {
    if lab::outside(the_lab_has_flower) {
        return;
    }
    let script = "ip link add v0 type veth peer name v1 && tc qdisc add dev v0 clsact &&
        tc filter add dev v0 ingress protocol ip pref 1 flower skip_hw ip_proto tcp dst_port 80-90 action drop";
    let output = Command::new("sh").args(["-c", script]).output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lab::assert_kernel_is_quiet();
}
