#!/usr/bin/env bash
# install.sh [PURPOSE...]: installs the packages that are missing (Debian, Ubuntu). Without a purpose:
# what building netpolc and its demo need. Purposes: nft, ipset, iptables, conntrack, ping, sysctl
# (the tool itself), lab (what testbed/lab needs), kube (what testbed/kube needs).
# `.ci/run` runs this on a minimal system, so that what is forgotten here fails there.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
# Tools of the administrator's that an ordinary user's PATH does not have.
PATH=$PATH:/usr/sbin:/sbin
need ip iproute2
# gcc only recommends the C library's headers and start files, without which nothing links.
program=$(mktemp)
echo 'int main(void) { return 0; }' | cc -x c - -o "$program" 2>/dev/null || missing+=(gcc libc6-dev)
rm -f "$program"
# cargo fetches crates by HTTPS and brings no certificates.
[ -e "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || missing+=(ca-certificates)
for purpose in "$@"; do
    case $purpose in
        nft) need nft nftables ;;
        ipset) need ipset ipset ;;
        iptables) need iptables iptables ;;
        conntrack) need conntrack conntrack ;;
        ping) need ping iputils-ping ;;
        sysctl) need sysctl procps ;;
        lab)
            need flex flex; need bison bison; need bc bc; need make make; need xz xz-utils
            need modprobe kmod; need nft nftables; need ipvsadm ipvsadm; need ping iputils-ping; need sysctl procps
            ;;
        kube) need patch patch; need xz xz-utils; need openssl openssl ;;
        *) echo "install.sh: unknown purpose $purpose" >&2; exit 2 ;;
    esac
done

if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install.sh: please install what Debian calls: ${missing[*]}" >&2
        exit 1
    fi
    sudo=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 || { echo "install.sh: ${missing[*]} are missing; run this as root" >&2; exit 1; }
        sudo=sudo
    fi
    echo "install.sh: installing ${missing[*]}" >&2
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "install.sh: Rust is missing; install it from https://rustup.rs and run this again" >&2
    exit 1
fi
