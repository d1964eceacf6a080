#!/usr/bin/env bash
# Installs the packages that the demo and the tests use, where they are missing (Debian, Ubuntu).
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need ip iproute2
need cc gcc
for tool in "$@"; do
    case $tool in
        nft) need nft nftables ;;
        ipset) need ipset ipset ;;
        iptables) need iptables iptables ;;
        conntrack) need conntrack conntrack ;;
        lab) need flex flex; need bison bison; need bc bc; need make make; need xz xz-utils; need tc iproute2; need modprobe kmod; need nft nftables; need ipvsadm ipvsadm ;;
        *) echo "install.sh: unknown tool $tool" >&2; exit 2 ;;
    esac
done

if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install.sh: please install: ${missing[*]}" >&2
        exit 1
    fi
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "install.sh: Rust is missing; install it from https://rustup.rs and run this again" >&2
    exit 1
fi
