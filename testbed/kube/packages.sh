#!/usr/bin/env bash
# packages.sh NAME...: unpacks Debian packages into the cache, without their dependencies, and prints the folder that has their
# files. Nothing is installed.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: packages.sh NAME..." >&2; exit 2; }
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
key=$( (cat "$0"; echo "$@") | sha256sum | cut -c1-16)
home=$cache/packages-$key

say() { printf 'packages.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

if [ ! -e "$home/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/packages.lock"
    flock 9
fi
if [ ! -e "$home/complete" ]; then
    command -v apt-get >/dev/null || fail "$* come from Debian 12's packages; this machine has no apt"
    rm -rf "$home"
    work=$home/work
    mkdir -p "$work"/{lists/partial,cache/archives/partial,debs} "$home/root"
    # Lists of our own, so that the machine's stay as they are.
    apt=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    run() { "$@" >> "$home/log" 2>&1 || { tail -20 "$home/log" >&2; fail "failed: $*"; }; }
    run apt-get "${apt[@]}" update -qq
    (cd "$work/debs" && run apt-get "${apt[@]}" download -qq "$@")
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$home/root"; done
    rm -rf "$work"
    touch "$home/complete"
fi
echo "$home/root"
