#!/usr/bin/env bash
# install.sh PURPOSE...: installs the packages that are missing (Debian, Ubuntu), each of which the
# scripts that need it ask for. Purposes: rust (what builds netpolc and runs its demo), lab and kube
# (what testbed/lab and testbed/kube need), p4 (what reads P4Runtime in tests), browser (for pages), and
# single tools: nft, ipset, iptables, conntrack, ping, sysctl. `.ci/run` runs this on a minimal system,
# so that what is forgotten here fails there.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
# gcc only recommends the C library's headers and start files, without which nothing links.
need_compiler() {
    local program
    program=$(mktemp)
    echo 'int main(void) { return 0; }' | cc -x c - -o "$program" 2>/dev/null || missing+=(gcc libc6-dev)
    rm -f "$program"
}

# Administrators' tools, which an ordinary user's PATH does not have.
PATH=$PATH:/usr/sbin:/sbin
need ip iproute2
for purpose in "$@"; do
    case $purpose in
        rust)
            command -v cargo >/dev/null 2>&1 || {
                echo "install.sh: Rust is missing; install it from https://rustup.rs and run this again" >&2
                exit 1
            }
            need_compiler
            # cargo fetches crates by HTTPS and brings no certificates.
            [ -e "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || missing+=(ca-certificates)
            ;;
        lab)
            need_compiler
            need flex flex; need bison bison; need bc bc; need make make; need xz xz-utils; need tc iproute2
            need modprobe kmod; need nft nftables; need ipvsadm ipvsadm; need ping iputils-ping; need sysctl procps
            ;;
        browser) need chromium chromium ;;
        kube) need patch patch; need xz xz-utils; need openssl openssl ;;
        nft) need nft nftables ;;
        ipset) need ipset ipset ;;
        iptables) need iptables iptables ;;
        conntrack) need conntrack conntrack ;;
        ping) need ping iputils-ping ;;
        sysctl) need sysctl procps ;;
        p4)
            need python3 python3
            python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
            # pip fetches by HTTPS and brings no certificates of the machine.
            [ -e "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || missing+=(ca-certificates)
            ;;
        *) echo "install.sh: unknown purpose $purpose" >&2; exit 2 ;;
    esac
done
((${#missing[@]})) || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if ! command -v apt-get >/dev/null 2>&1; then
    echo "install.sh: please install what Debian calls: ${missing[*]}" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "install.sh: run this as root, to install ${missing[*]}" >&2; exit 1; }
    sudo=sudo
fi
echo "install.sh: installing ${missing[*]}" >&2
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
