#!/usr/bin/env bash
# bare.sh COMMAND...: runs a command, in this checkout's folder, as root on a bare machine: a minimal
# Debian (minbase) with Rust and nothing else. What a script needs and does not install fails in there.
#
# The machine is this one's kernel with a root of its own in memory, unpacked for each run from an
# archive in netpolc's cache (made with mmdebstrap from this machine's apt sources where the cache
# lacks it). At the same paths as outside it has the checkout, netpolc's cache, cargo's home and
# target folder (all writable), and the Rust toolchain (read-only). It shares the network. All else
# that the command writes, all its processes and all its mounts end with it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)

say() { printf 'bare.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The distribution's packages as this machine's apt has them, without other archives that stand
# beside them; whose an archive is, apt knows when it has its lists.
list_sources() {
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' "Origin: ${ID^}" | sort -u
}
sources() {
    if [ -z "$(list_sources)" ]; then
        apt-get update -qq >&2 || fail "apt-get update fails, so no bare machine can be made"
    fi
    list_sources | grep . || fail "this machine's apt has no packages of ${ID^}, so no bare machine can be made"
}

# How this machine's apt reaches its archives: proxies, certificates, whether it believes dates.
network() {
    apt-config dump --no-empty --format '%F "%v";%n' |
        grep -iE '^Acquire::(https?|socks|ftp|Check-|Retries|ForceIPv)' || true
}

# Sets `archive` to a minimal root as a tar file, made where the cache lacks it. Its name has what its
# contents follow from.
make_archive() {
    local sources network work
    sources=$(sources)
    network=$(network)
    archive=$cache/bare-$( (cat "$0"; echo "$VERSION_CODENAME $sources $network") | sha256sum | cut -c1-16).tar
    [ -e "$archive" ] && return
    exec 9> "$cache/bare.lock"
    flock 9
    if [ ! -e "$archive" ]; then
        say "making a minimal $PRETTY_NAME (once)"
        if ! command -v mmdebstrap >/dev/null; then
            apt-get update -qq >&2 &&
                DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null ||
                fail "mmdebstrap is missing and apt-get cannot install it"
        fi
        work=$(mktemp -d)
        echo "$network" > "$work/network"
        if ! mmdebstrap --mode=root --variant=minbase --format=tar --quiet --aptopt="$work/network" \
            "$VERSION_CODENAME" "$archive.new" - <<< "$sources" > "$work/log" 2>&1; then
            tail -30 "$work/log" >&2
            rm -rf "$work" "$archive.new"
            fail "mmdebstrap fails (its end is above); are these reached from here?"$'\n'"$sources"
        fi
        rm -rf "$work"
        rm -f "$cache"/bare-*.tar
        mv "$archive.new" "$archive"
    fi
    exec 9>&-
}

[ $# -gt 0 ] || { echo "usage: bare.sh COMMAND..." >&2; exit 2; }
if [ "$(id -u)" != 0 ]; then
    exec sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR,NETPOLC_CACHE "$0" "$@"
fi
command -v apt-get >/dev/null || fail "a bare machine is made of Debian's packages; this machine has no apt"
. /etc/os-release
toolchain=$(cd "$checkout" && rustc --print sysroot) || fail "Rust is missing; install it from https://rustup.rs"
case $toolchain in
    / | /usr | /usr/local) fail "Rust is in $toolchain, with much else; a bare machine needs one in a folder of its own, as rustup makes it" ;;
esac
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
export NETPOLC_CACHE=$cache CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$cache/bare" "$CARGO_HOME" ${CARGO_TARGET_DIR:+"$CARGO_TARGET_DIR"}
make_archive

# Inside, the environment has what cargo and the tests are told, and the way to cargo's registry.
environment="PATH=$(printf %q "$toolchain/bin"):/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
for name in $(compgen -e); do
    case $name in
        HOME | TERM | CI | CARGO_* | NETPOLC_* | RUST_* | RUSTFLAGS | RUSTDOCFLAGS | *_proxy | *_PROXY | SSL_CERT_*)
            environment+=" $name=$(printf %q "${!name}")" ;;
    esac
done
# Outer folders before those in them.
shared=$(printf 'rw %s\n' "$checkout" "$cache" "$CARGO_HOME" ${CARGO_TARGET_DIR:+"$CARGO_TARGET_DIR"})
shared+=$'\n'"ro $toolchain"
export BARE_ROOT=$cache/bare BARE_ARCHIVE=$archive BARE_CHECKOUT=$checkout BARE_ENVIRONMENT=$environment
BARE_SHARED=$(sort -u -k2 <<< "$shared")
export BARE_SHARED

# What runs in the new namespaces makes the root, goes there, and is its init, which collects orphans.
# Nothing in it removes a file: the root is memory, and goes with the namespace.
exec unshare --mount --pid --fork --kill-child --propagation private bash -euo pipefail -c '
    mount -t tmpfs -o mode=755,size=80% bare "$BARE_ROOT"
    tar -xf "$BARE_ARCHIVE" -C "$BARE_ROOT" --numeric-owner --xattrs --xattrs-include="*"
    cd "$BARE_ROOT"
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount --rbind /dev dev
    mount -t tmpfs -o mode=1777 shm dev/shm
    mount -t tmpfs -o mode=755 run run
    [ ! -d /sys/fs/cgroup ] || mount --rbind /sys/fs/cgroup sys/fs/cgroup
    while read -r options path; do
        mkdir -p ".$path"
        mount --bind "$path" ".$path"
        [ "$options" = rw ] || mount -o "remount,bind,$options" ".$path"
    done <<< "$BARE_SHARED"
    # Cargo looks there before PATH, and would find the programs of a rustup that is not here.
    [ ! -d ".$CARGO_HOME/bin" ] || mount -t tmpfs bin ".$CARGO_HOME/bin"
    # What this machine has been told of its network. The package ca-certificates takes up those of
    # the certificates that are not its own.
    cp -L /etc/resolv.conf /etc/hosts etc/
    if [ -d /usr/local/share/ca-certificates ]; then
        mkdir -p usr/local/share/ca-certificates
        cp -rL /usr/local/share/ca-certificates/. usr/local/share/ca-certificates/
    fi
    for file in "${SSL_CERT_FILE:-}" "${CARGO_HTTP_CAINFO:-}"; do
        case $file in /etc/ssl/*) ;; *) [ ! -f "$file" ] || cp --parents -L "$file" . ;; esac
    done
    mkdir -p ".$HOME"
    pivot_root . .
    umount -l .
    cd "$BARE_CHECKOUT"
    eval "env -i $BARE_ENVIRONMENT \"\$@\"" || exit
    # Not the last command of all, so that bash stays and collects.
    exit 0' bare.sh "$@"
