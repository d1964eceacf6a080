#!/usr/bin/env bash
# bindings.sh: fetches the published Python bindings of P4Runtime into the cache, where it lacks them,
# and prints the folder that they are in. Nothing is installed. Needs python3 with pip
# (testbed/scripts/install.sh p4) and, once, the Python package index.
set -euo pipefail

# What they import; without gRPC, since nothing is sent.
packages=(p4runtime==1.6.0 googleapis-common-protos==1.76.0 protobuf==7.36.2)
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
home=$cache/p4-$( (cat "$0"; python3 --version) | sha256sum | cut -c1-16)

fail() { printf 'bindings.sh: %s\n' "$*" >&2; exit 1; }

if [ ! -e "$home/complete" ]; then
    python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip; run testbed/scripts/install.sh p4"
    mkdir -p "$cache"
    exec 9>"$cache/p4.lock"
    flock 9
fi
if [ ! -e "$home/complete" ]; then
    rm -rf "$home"
    mkdir -p "$home"
    python3 -m pip install --quiet --no-deps --only-binary :all: --target "$home/site" "${packages[@]}" \
        > "$home/log" 2>&1 || { tail -5 "$home/log" >&2; fail "pip cannot fetch ${packages[*]}"; }
    touch "$home/complete"
fi
echo "$home/site"
