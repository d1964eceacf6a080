#!/usr/bin/env bash
# kubernetes.sh: a real Kubernetes, built from Debian's own source package (1.20.2) with Debian's Go, and etcd. Prints the folder
# that holds kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl and etcd; builds it where the
# cache lacks it: some eight minutes on two idle cores, once for each package version.
#
# Nothing is installed: packages are unpacked into the cache.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
key=$(sha256sum "$0" | cut -c1-16)
home=$cache/kubernetes-$key

say() { printf 'kubernetes.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

if [ ! -e "$home/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/kubernetes.lock"
    flock 9
fi
if [ ! -e "$home/complete" ]; then
    command -v apt-get >/dev/null || fail "Kubernetes is built from Debian 12's packages; this machine has no apt"
    "$here/../scripts/install.sh" kube >&2
    say "building Kubernetes 1.20.2 from Debian's source package (once)"
    rm -rf "$home"
    work=$home/work
    mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,root}
    cd "$work"
    # A list of sources of our own, so that the machine's stays as it is.
    if [ -e /etc/apt/sources.list.d/debian.sources ]; then
        sed 's/^Types: .*/Types: deb deb-src/' /etc/apt/sources.list.d/debian.sources > own.sources
    else
        grep -hE '^deb .*debian' /etc/apt/sources.list > own.list || fail "no Debian packages in this machine's apt sources"
        sed 's/^deb /deb-src /' own.list >> own.list
        mv own.list own.sources.list
    fi
    apt=(-o "Dir::Etc::sourcelist=$(ls "$work"/own.sources*)" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
        -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    run() { "$@" >> "$home/build.log" 2>&1 || { tail -20 "$home/build.log" >&2; fail "failed: $*"; }; }
    run apt-get "${apt[@]}" update -qq
    run apt-get "${apt[@]}" source -qq --download-only kubernetes
    (cd debs && run apt-get "${apt[@]}" download -qq golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev etcd-server etcd-client)
    for deb in debs/*.deb; do dpkg-deb -x "$deb" root; done
    mkdir source
    tar -xf kubernetes_*.orig.tar.* -C source --strip-components=1
    cd source
    tar -xf ../kubernetes_*.debian.tar.*
    while read -r patch; do
        case $patch in '' | '#'*) ;; *) run patch -p1 -i "debian/patches/${patch%% *}" ;; esac
    done < debian/patches/series
    # The vendored 1.0.1 crashes with Go 1.18 and newer.
    rm -rf vendor/github.com/modern-go/reflect2
    cp -r "$work/root/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/
    export GOPATH=$work/go GOCACHE=$work/gocache GO111MODULE=off CGO_ENABLED=0 GOFLAGS=-trimpath
    export GOROOT=$work/root/usr/lib/go-1.19
    [ -d "$GOROOT/src" ] || export GOROOT=$work/root/usr/share/go-1.19
    go=$(find "$work/root" -path '*bin/go' -type f | head -1)
    mkdir -p "$GOPATH/src/k8s.io"
    ln -sfn "$PWD" "$GOPATH/src/k8s.io/kubernetes"
    cd "$GOPATH/src/k8s.io/kubernetes"
    run "$go" build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    packages=$(grep -rl --include=*.go '+k8s:openapi-gen=' pkg staging/src/k8s.io |
        grep -vE '/(generators|testdata|test|sample-apiserver|sample-controller|code-generator)/' | xargs -n1 dirname | sort -u |
        sed 's#^staging/src/#k8s.io/kubernetes/vendor/#; s#^pkg/#k8s.io/kubernetes/pkg/#' | paste -sd,)
    run "$work/openapi-gen" -O zz_generated.openapi -h hack/boilerplate/boilerplate.generatego.txt \
        -p k8s.io/kubernetes/pkg/generated/openapi -r "$work/report" -i "$packages"
    flags="-s -w"
    for package in k8s.io/component-base/version k8s.io/kubernetes/vendor/k8s.io/component-base/version k8s.io/client-go/pkg/version \
        k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version; do
        flags="$flags -X $package.gitVersion=v1.20.2 -X $package.gitMajor=1 -X $package.gitMinor=20 -X $package.gitTreeState=archive"
    done
    for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
        run "$go" build -ldflags "$flags" -o "$home/$program" "./cmd/$program"
    done
    cp "$work/root/usr/bin/etcd" "$home/"
    cd "$home"
    chmod -R u+w work && rm -rf work
    touch complete
fi
echo "$home"
