#!/bin/sh
# Removes what cluster-up.sh has made. usage: cluster-down.sh [NAME]
set -eu
NAME=${1:-hand}
[ "$(id -u)" = 0 ] || { echo "network namespaces need root: sudo $0 $*" >&2; exit 1; }
case $NAME in *[!a-z0-9]*) echo "the name is of a-z and 0-9, not '$NAME'" >&2; exit 2;; esac
for path in "/run/netns/netpolc-$NAME-"*; do
    [ -e "$path" ] || continue
    ip netns del "$(basename "$path")"
done
