#!/usr/bin/env bash
# Builds and runs `netpolc-demo` (`netpolc demo` where that is installed): a web shop in network namespaces, policed by eBPF.
# Needs root (network namespaces, eBPF); asks for it with sudo where it is not given.
set -euo pipefail
cd "$(dirname "$0")/../.."

testbed/scripts/install.sh rust
# By the package: a program by its name alone would be built with what all others need.
# What makes a program smaller takes time that nobody wants to wait for here.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
cargo build --release --locked -p netpolc-demo
target=$(cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
exec $sudo "$target/release/netpolc-demo" "$@"
