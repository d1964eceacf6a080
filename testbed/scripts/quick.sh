#!/usr/bin/env bash
# quick.sh [ARGUMENT...]: every test that needs neither root, nor a lab, nor another language's packages, in a
# minute and a half after the build; the arguments are the tests' own, such as a part of a name. test.sh runs all
# tests.
set -euo pipefail
cd "$(dirname "$0")/../.."

testbed/scripts/install.sh rust
packages=(
    netpolc-policy netpolc-table netpolc-lower
    netpolc-target netpolc-target-mem netpolc-target-flower
    netpolc-kube-sync netpolc-cni netpolc-agent netpolc netpolc-testbed netpolc-filetests
)
tests=(
    addresses_and_ports selection check eval incremental p4_source text update modules ordered origins random
    readme_policy shares
    conformance differential updates budget events manual rules software_cases sound
    accidents fuzz_smoke grouping groups inputs modes objects policies tiers watch
    plugin agent architecture documents deploy
    cases big manifest
)
# One build of all, so that no crate is built twice.
cargo test --locked "${packages[@]/#/--package=}" --lib "${tests[@]/#/--test=}" "$@"
