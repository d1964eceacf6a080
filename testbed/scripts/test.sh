#!/usr/bin/env bash
# Passes every test: unit, property, corpus, fuzz smoke runs, and real packets between namespaces.
# Needs root (network namespaces, eBPF); asks for it with sudo where it is not given.
set -euo pipefail
cd "$(dirname "$0")/../.."

testbed/scripts/install.sh nft ipset conntrack
if [ "$(id -u)" != 0 ]; then
    exec sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR "$0" "$@"
fi
exec cargo test --workspace --locked "$@"
