#!/usr/bin/env bash
# Passes every test: unit, property, corpus, fuzz smoke runs, real packets between namespaces, a kernel with flower and a simulated NIC,
# and a real Kubernetes. The first run builds that kernel and that Kubernetes from Debian's source packages: some ten minutes, once.
# Needs root (network namespaces, eBPF); asks for it with sudo where it is not given.
set -euo pipefail
cd "$(dirname "$0")/../.."

testbed/scripts/install.sh rust nft ipset iptables conntrack ping sysctl lab kube browser p4
if [ "$(id -u)" != 0 ]; then
    exec sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR,NETPOLC_CACHE "$0" "$@"
fi
cargo test --workspace --locked "$@"
echo "NOT RUN: Debian's stock kernel under emulation (minutes): testbed/scripts/stock.sh"
echo "NOT RUN: the DaemonSet on a real node (minutes): cargo test -p netpolc --features node-test --test kube_node"
