#!/usr/bin/env bash
# node-inner.sh: the node's first process, in its namespaces; node.sh starts it. NODE_DIR, KUBERNETES and PACKAGES are set.
set -euo pipefail

# The root: the machine's files, changes in memory.
memory=$NODE_DIR/memory
mkdir -p "$memory"
mount -t tmpfs -o mode=755 node "$memory"
mkdir "$memory"/{upper,work,root,containerd,kubelet,tmp}
root=$memory/root
chmod 1777 "$memory/tmp"
mount -t overlay -o "lowerdir=/,upperdir=$memory/upper,workdir=$memory/work" node "$root"
mount --bind "$memory/tmp" "$root/tmp"
for folder in "$KUBERNETES" "$PACKAGES"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
mkdir -p "$root"/{proc,sys,dev,run,node,tmp,old,var/lib/containerd,var/lib/kubelet,etc/cni/net.d,opt/cni/bin}
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 run "$root/run"
mount --bind "$NODE_DIR" "$root/node"
# containerd's and kubelet's own overlays cannot lie on one.
mount --bind "$memory/containerd" "$root/var/lib/containerd"
mount --bind "$memory/kubelet" "$root/var/lib/kubelet"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
    # Controllers can be handed on only by a cgroup without processes.
    mkdir "$root/sys/fs/cgroup/node"
    echo $$ > "$root/sys/fs/cgroup/node/cgroup.procs"
    for controller in $(cat "$root/sys/fs/cgroup/cgroup.controllers"); do
        echo "+$controller" > "$root/sys/fs/cgroup/cgroup.subtree_control"
    done
else
    mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
    while IFS=: read -r _ controllers _; do
        [ -n "$controllers" ] || continue
        mkdir "$root/sys/fs/cgroup/${controllers#name=}"
        case $controllers in name=*) options=none,$controllers ;; *) options=$controllers ;; esac
        mount -t cgroup -o "$options" cgroup "$root/sys/fs/cgroup/${controllers#name=}"
    done < /proc/self/cgroup
fi
cd "$root"
pivot_root . old
umount -l /old
# As an init does it: what is mounted on the node appears in containers that ask for it.
mount --make-rshared /

# kubelet sets these for the whole machine otherwise.
mkdir /run/sysctl /run/netns
for sysctl in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1; do
    file=/run/sysctl/$(basename "${sysctl%=*}")
    echo "${sysctl#*=}" > "$file"
    mount --bind "$file" "/proc/sys/${sysctl%=*}"
done

export PATH=/run/bin:$KUBERNETES:$PACKAGES/usr/sbin:$PACKAGES/usr/bin:$PATH
export LD_LIBRARY_PATH=$PACKAGES/usr/lib/x86_64-linux-gnu:$PACKAGES/lib/x86_64-linux-gnu
export XTABLES_LIBDIR=$PACKAGES/usr/lib/x86_64-linux-gnu/xtables
mkdir /run/bin
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -s "$PACKAGES/usr/sbin/xtables-nft-multi" "/run/bin/$name"
done
# For `node.sh exec`, which has the caller's PATH.
ln -sf "$KUBERNETES/kubectl" "$PACKAGES/usr/bin/ctr" "$PACKAGES/usr/bin/containerd" /usr/local/bin/
cp "$PACKAGES"/usr/lib/cni/* /opt/cni/bin/

hostname node-1
ip link set lo up
ip link add eth0 type veth peer name uplink
ip link set uplink up
ip addr add 192.168.250.2/24 dev eth0
ip link set eth0 up
ip route add default via 192.168.250.1
# The Service of the API server, without kube-proxy.
ip addr add 10.96.0.1/32 dev lo
echo 1 > /proc/sys/net/ipv4/ip_forward

cd /node
if [ ! -e ca.crt ]; then
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -subj /CN=node-ca -days 365 -out ca.crt \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    openssl ecparam -name prime256v1 -genkey -noout -out server.key
    openssl req -new -key server.key -subj /CN=kube-apiserver -out server.csr
    printf 'subjectAltName=IP:127.0.0.1,IP:10.96.0.1,IP:192.168.250.2\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' > server.ext
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile server.ext -out server.crt
    openssl genrsa -out accounts.key 2048
    openssl rsa -in accounts.key -pubout -out accounts.pub
    token=$(openssl rand -hex 16)
    echo "$token,admin,admin,\"system:masters\"" > tokens.csv
    cat > admin.kubeconfig <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "https://10.96.0.1:443", certificate-authority-data: "$(base64 -w0 ca.crt)"}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: node, context: {cluster: node, user: admin}}]
current-context: node
CONFIG
fi
cat > /etc/cni/net.d/10-ptp.conflist <<CONFLIST
{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "mtu": 1400,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    }
  ]
}
CONFLIST
cat > /run/containerd.toml <<CONTAINERD
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:1"
  restrict_oom_score_adj = true
CONTAINERD

start() { local log=/node/log/$1.log; shift; "$@" > "$log" 2>&1 & }
start containerd containerd -c /run/containerd.toml
start etcd etcd --name node --data-dir /run/etcd --unsafe-no-fsync
start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=443 \
    --advertise-address=192.168.250.2 --tls-cert-file=server.crt --tls-private-key-file=server.key --client-ca-file=ca.crt \
    --token-auth-file=tokens.csv --service-account-key-file=accounts.pub --service-account-signing-key-file=accounts.key \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --authorization-mode=RBAC \
    --kubelet-preferred-address-types=InternalIP --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true --cert-dir=/run/apiserver
for _ in $(seq 200); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
ctr -n k8s.io images import pause.tar >> /node/log/import.log
for _ in $(seq 600); do
    [ "$(kubectl --kubeconfig=admin.kubeconfig get --raw /readyz 2>/dev/null)" = ok ] && break
    sleep 0.1
done
start controllers kube-controller-manager --kubeconfig=admin.kubeconfig --service-account-private-key-file=accounts.key \
    --root-ca-file=ca.crt --leader-elect=false --use-service-account-credentials --cert-dir=/run/controllers
start scheduler kube-scheduler --kubeconfig=admin.kubeconfig --leader-elect=false --cert-dir=/run/scheduler
start kubelet kubelet --kubeconfig=admin.kubeconfig --container-runtime=remote \
    --container-runtime-endpoint=unix:///run/containerd/containerd.sock --cgroup-driver=cgroupfs --cgroups-per-qos=false \
    --enforce-node-allocatable= --fail-swap-on=false --cert-dir=/run/kubelet --hostname-override=node-1 \
    --node-status-update-frequency=1s --node-ip=192.168.250.2 --eviction-hard= --resolv-conf= --image-gc-high-threshold=100 --v=2
touch ready
# Also collects what orphans leave.
while :; do wait -n || true; sleep 1; done
