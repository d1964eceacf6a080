#!/bin/sh
# Makes a small cluster of network namespaces to play with: two nodes, five dual-stack pods, a host outside.
# usage: cluster-up.sh [NAME]     then: cluster-down.sh [NAME]
# The objects that describe it are in cluster.yaml beside this script.
set -eu
NAME=${1:-hand}
PREFIX=netpolc-$NAME
HERE=$(cd "$(dirname "$0")" && pwd)
[ "$(id -u)" = 0 ] || { echo "network namespaces need root: sudo $0 $*" >&2; exit 1; }
case $NAME in *[!a-z0-9]*) echo "the name is of a-z and 0-9, not '$NAME'" >&2; exit 2;; esac
[ ! -e "/run/netns/$PREFIX-fabric" ] || { echo "cluster $NAME is up already: $HERE/cluster-down.sh $NAME" >&2; exit 1; }
"$HERE/install.sh" ping
trap '[ $? = 0 ] || "$HERE/cluster-down.sh" "$NAME"' EXIT

# sysctls NAMESPACE KEY=VALUE...: `ip netns exec` would hide /sys/fs/bpf, nsenter does not.
sysctls() {
    ns=$1; shift
    for setting; do
        nsenter --net="/run/netns/$PREFIX-$ns" sh -c "echo '${setting#*=}' > '/proc/sys/net/${setting%%=*}'" 2>/dev/null || true
    done
}

namespace() {
    ip netns add "$PREFIX-$1"
    sysctls "$1" "ipv6/conf/all/accept_dad=0" "ipv6/conf/default/accept_dad=0" "ipv4/ping_group_range=0 2147483647"
    ip -n "$PREFIX-$1" link set lo up
}

# guest ROUTER GUEST NUMBER V4 V6: hangs a namespace on its router as a pod hangs on its node.
guest() {
    namespace "$2"
    veth=veth$3
    mac=$(printf '02:00:00:00:00:%02x' "$3")
    ip -n "$PREFIX-$1" -batch - <<LINES
link add $veth address ee:ee:ee:ee:ee:ee type veth peer name eth0 address $mac netns $PREFIX-$2
link set dev $veth up alias $2
route replace $4/32 dev $veth
route replace $5/128 dev $veth
LINES
    ip -n "$PREFIX-$2" -batch - <<LINES
link set dev eth0 up
addr add $4/32 dev eth0
addr add $5/128 dev eth0 nodad
neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
route add 169.254.1.1 dev eth0 scope link
route add default via 169.254.1.1 dev eth0
route add ::/0 via fe80::ecee:eeff:feee:eeee dev eth0
LINES
    # The router's end sends nothing until it has noticed its carrier; asking makes it notice.
    ip -n "$PREFIX-$1" link show dev "$veth" > /dev/null
}

# pod NODE-NUMBER NAMESPACE.NAME NUMBER: with the routes of the fabric to it.
pod() {
    guest "node.n$1" "pod.$2" "$3" "10.44.$1.$3" "fd44::$1:$3"
    ip -n "$PREFIX-fabric" route add "10.44.$1.$3/32" via "192.168.44.$1" dev "veth$1"
    ip -n "$PREFIX-fabric" route add "fd44::$1:$3/128" via "fd44:1::$1" dev "veth$1"
}

namespace fabric
ip -n "$PREFIX-fabric" addr add 169.254.0.1/32 dev lo
sysctls fabric ipv4/ip_forward=1 ipv6/conf/all/forwarding=1
for n in 1 2; do
    guest fabric "node.n$n" "$n" "192.168.44.$n" "fd44:1::$n"
    sysctls "node.n$n" ipv4/ip_forward=1 ipv6/conf/all/forwarding=1
done
guest fabric outside.client 3 203.0.113.9 2001:db8::9
pod 1 default.db 10
pod 1 default.frontend 11
pod 2 default.backend 12
pod 2 myproject.api 13
pod 1 other.tool 14

cat <<TEXT
cluster $NAME is up: namespaces $PREFIX-*
  enter a pod:     nsenter --net=/run/netns/$PREFIX-pod.default.frontend sh
  reach another:   nsenter --net=/run/netns/$PREFIX-pod.default.frontend ping -c1 10.44.1.10
  its objects:     $HERE/cluster.yaml
  take it down:    $HERE/cluster-down.sh $NAME
TEXT
