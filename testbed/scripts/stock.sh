#!/usr/bin/env bash
# The slow lane: the eBPF target's suite and the agent with software flower in Debian's stock kernel (6.1 in Debian 12), under full
# emulation; some five minutes. Kernel and qemu come from Debian's packages into the cache.
set -euo pipefail
cd "$(dirname "$0")/../.."

testbed/scripts/install.sh rust nft lab
run() {
    local package=$1 test=$2 binary
    shift 2
    binary=$(cargo test --locked -p "$package" --test "$test" --no-run 2>&1 | tee /dev/stderr | sed -n 's/.*Executable .*(\(.*\))$/\1/p')
    # The tests that run themselves again in the lab take this for it.
    NETPOLC_LAB=stock testbed/lab/vm.sh -t 580 -m 2048 -- bash -c "uname -r; modprobe cls_flower 2>/dev/null; $(readlink -f "$binary") --test-threads=1 $*"
}
run netpolc-target-ebpf programs --exact the_verifier_takes_every_variant_at_every_size
run netpolc-target-ebpf conformance --exact fixed
run netpolc-target-ebpf attach clsact
run netpolc lab_agent software
