//! The lab itself: tests run in it, with flower and the simulated NIC there.

use netpolc_testbed::lab;

#[test]
fn the_lab_has_flower() {
    if lab::outside(the_lab_has_flower) {
        return;
    }
    let script = "ip link add v0 type veth peer name v1 && tc qdisc add dev v0 clsact &&
        tc filter add dev v0 ingress protocol ip pref 1 flower skip_hw ip_proto tcp dst_port 80-90 \
        action drop";
    lab::shell(script);
    lab::assert_kernel_is_quiet();
}

#[test]
fn the_simulated_nic_drops_and_forwards_before_the_host() {
    if lab::outside(the_simulated_nic_drops_and_forwards_before_the_host) {
        return;
    }
    let nic = lab::simnic("simnic", 2, &[]);
    lab::shell(
        "ip netns add p0; ip netns add p1
        for i in 0 1; do
            ip link set simv$i netns p$i; ip -n p$i link set simv$i up; ip link set simr$i up
            ip -n p$i addr add 10.0.0.1$i/24 dev simv$i; tc qdisc add dev simr$i clsact
        done
        for i in 0 1; do
            ip -n p$i neigh add 10.0.0.1$((1-i)) dev simv$i lladdr $(ip -n p$((1-i)) link show \
         simv$((1-i)) | awk '/ether/{print $2}')
        done
        tc filter add dev simr0 ingress protocol ip pref 1 flower skip_sw dst_ip 10.0.0.11 action \
         mirred egress redirect dev simr1
        tc filter add dev simr1 ingress protocol ip pref 1 flower skip_sw dst_ip 10.0.0.10 action \
         mirred egress redirect dev simr0
        ip netns exec p0 ping -q -c 3 -i 0.1 -W 1 10.0.0.11",
    );
    assert_eq!((nic.counter("simr0.hw_fwd"), nic.counter("simr1.hw_fwd")), (3, 3));
    lab::shell(
        "tc filter add dev simr1 ingress protocol ip pref 2 chain 1 flower skip_sw dst_ip \
         10.0.0.10 action drop",
    );
    lab::shell(
        "tc filter replace dev simr1 ingress protocol ip pref 1 handle 1 flower skip_sw dst_ip \
         10.0.0.10 action goto chain 1",
    );
    lab::shell("! ip netns exec p0 ping -q -c 3 -i 0.1 -W 1 10.0.0.11");
    assert_eq!((nic.counter("simr0.hw_fwd"), nic.counter("simr1.hw_drop")), (6, 3));
    nic.unload();
    lab::assert_kernel_is_quiet();
}
