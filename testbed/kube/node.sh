#!/usr/bin/env bash
# node.sh: a whole Kubernetes cluster of one real node: etcd, API server, controllers, scheduler, kubelet, containerd, runc and
# CNI ptp, in a network, mount, process and cgroup namespace of its own. Needs root.
#
#   node.sh up DIR [IMAGE.tar...]   starts it and imports images; returns when the node is Ready
#   node.sh kubectl DIR ARGS...     kubectl of the cluster
#   node.sh exec DIR COMMAND...     a command inside the node, with the node's files
#   node.sh import DIR IMAGE.tar    one more image
#   node.sh down DIR                stops everything; DIR with the logs stays
#
# The node's root is the machine's files under an overlay in memory, so what it writes anywhere is its own and goes with it.
# DIR/pid is the node's first process: when that ends, however it ends, so do all others and every mount.
# The node has no bpffs, so that whoever needs one must look after it. It answers to 10.96.0.1:443 itself, as kube-proxy would.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n 's/^#   //p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2

say() { printf 'node.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
running() { [ -e "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; }
enter() { running || fail "no node runs in $dir"; nsenter --target "$(cat "$dir/pid")" --net --mount --pid --uts --ipc --cgroup -- "$@"; }
kubectl() { enter kubectl --kubeconfig=/node/admin.kubeconfig "$@"; }

# The node's cgroup in each hierarchy: below the caller's own.
cgroups() {
    local controllers path
    while IFS=: read -r _ controllers path; do
        path=${path%/}
        case $controllers in
            '') [ -e /sys/fs/cgroup/cgroup.procs ] && echo "/sys/fs/cgroup$path/$name" ;;
            name=*) echo "/sys/fs/cgroup/${controllers#name=}$path/$name" ;;
            *) echo "/sys/fs/cgroup/$controllers$path/$name" ;;
        esac
    done < /proc/self/cgroup
}

up() {
    [ "$(id -u)" = 0 ] || fail "a node needs root"
    running && fail "a node runs in $dir already"
    "$here/../scripts/install.sh" kube >&2
    kubernetes=$("$here/kubernetes.sh")
    packages=$("$here/packages.sh" containerd runc containernetworking-plugins busybox-static iptables libip4tc2 libip6tc2 \
        libxtables12 libnftnl11 libnfnetlink0 libnetfilter-conntrack3 libmnl0 libseccomp2)
    rm -rf "$dir/log" && mkdir -p "$dir/log"
    "$here/image.sh" "$dir/pause.tar" '["/busybox","sleep","2147483647"]' "$packages/bin/busybox=/busybox" -- docker.io/local/pause:1
    name=netpolc-node-$$
    : > "$dir/cgroups"
    while read -r group; do
        mkdir "$group" || fail "cannot make $group"
        echo "$group" >> "$dir/cgroups"
        # Version 1: a new cpuset is empty and takes no process.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$group/$file" ] || [ -n "$(cat "$group/$file")" ] || cat "${group%/*}/$file" > "$group/$file"
        done
    done < <(cgroups)
    # What is started from here is in the new cgroups, and their root is what it sees as the root.
    KUBERNETES=$kubernetes PACKAGES=$packages NODE_DIR=$dir setsid bash -c '
        while read -r group; do echo $$ > "$group/cgroup.procs"; done < "$NODE_DIR/cgroups"
        exec unshare --net --mount --pid --uts --ipc --cgroup --fork --kill-child --propagation private "$0"' \
        "$here/node-inner.sh" < /dev/null > "$dir/log/node.log" 2>&1 &
    outer=$!
    for _ in $(seq 100); do
        init=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null || true)
        [ -n "$init" ] && break
        sleep 0.05
    done
    [ -n "${init:-}" ] || fail "namespaces: $(tail -3 "$dir/log/node.log")"
    echo "${init% }" > "$dir/pid"
    for _ in $(seq 900); do
        running || fail "the node ended: $(tail -5 "$dir/log/node.log")"
        if [ -e "$dir/ready" ] && kubectl get node node-1 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null | grep -q True &&
            kubectl -n default get serviceaccount default >/dev/null 2>&1; then
            for image in "$@"; do import "$image"; done
            return
        fi
        sleep 0.1
    done
    fail "the node is not Ready after 90 s; logs are in $dir/log"
}

import() { enter ctr -n k8s.io images import - < "$1" >> "$dir/log/import.log" || fail "import $1"; }

down() {
    if running; then
        kill -9 "$(cat "$dir/pid")"
        for _ in $(seq 100); do running || break; sleep 0.05; done
    fi
    rm -f "$dir/pid" "$dir/ready"
    [ -e "$dir/cgroups" ] || return 0
    # Processes of the node leave their cgroups when they are reaped, a moment after the first one.
    for _ in $(seq 100); do
        left=
        while read -r group; do
            [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || left=$group
        done < "$dir/cgroups"
        [ -n "$left" ] || { rm -f "$dir/cgroups"; return 0; }
        sleep 0.1
    done
    fail "$left is still there, with processes $(cat "$left/cgroup.procs" | tr '\n' ' ')"
}

case $verb in
    up) trap '[ $? = 0 ] || down' EXIT; up "$@" ;;
    kubectl) kubectl "$@" ;;
    exec) enter "$@" ;;
    import) import "$@" ;;
    down) down ;;
    *) usage ;;
esac
