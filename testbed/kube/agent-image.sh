#!/usr/bin/env bash
# agent-image.sh OUT.tar NAME...: the container image of netpolc, once under each name, without a container engine: two static
# programs and nothing else. Built without optimisation in a folder of its own in the cache.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: agent-image.sh OUT.tar NAME..." >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
out=$1
shift
# What cargo says to a test would make it build some crates anew.
for name in $(compgen -e | grep -E '^CARGO_(MANIFEST|PKG|BIN|CRATE|PRIMARY)' || true); do unset "$name"; done
target=$(rustc -vV | sed -n 's/^host: //p')
# The target is named so that the flags are not those of build scripts and procedural macros, which cannot be static.
export CARGO_TARGET_DIR=$cache/static-target CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=symbols RUSTFLAGS='-C target-feature=+crt-static'
cargo build --quiet --locked --manifest-path "$here/../../Cargo.toml" --target "$target" -p netpolc -p netpolc-cni >&2
built=$CARGO_TARGET_DIR/$target/debug
exec "$here/image.sh" "$out" '["/netpolc"]' "$built/netpolc=/netpolc" "$built/netpolc-cni=/netpolc-cni" -- "$@"
