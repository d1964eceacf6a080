#!/usr/bin/env bash
# Builds netpolc and runs `netpolc demo`: a web shop in network namespaces, policed by eBPF.
# Needs root (network namespaces, eBPF); asks for it with sudo where it is not given.
set -euo pipefail
cd "$(dirname "$0")/../.."

testbed/scripts/install.sh rust
cargo build --release --locked --bin netpolc
target=$(cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
exec $sudo "$target/release/netpolc" demo "$@"
