#!/usr/bin/env bash
# render.sh ARGUMENTS...: builds render/main.go with Debian's Go where the cache lacks it, and runs it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
key=$(cat "$0" "$here/render/main.go" | sha256sum | cut -c1-16)
program=$cache/render-$key
if [ ! -e "$program" ]; then
    packages=$("$here/packages.sh" golang-1.19-go golang-1.19-src golang-github-masterminds-sprig-dev \
        golang-github-masterminds-semver-dev golang-github-masterminds-goutils-dev golang-github-huandu-xstrings-dev \
        golang-github-google-uuid-dev golang-github-imdario-mergo-dev golang-github-shopspring-decimal-dev \
        golang-github-mitchellh-copystructure-dev golang-github-mitchellh-reflectwalk-dev golang-github-spf13-cast-dev \
        golang-golang-x-crypto-dev golang-k8s-sigs-yaml-dev golang-gopkg-yaml.v2-dev golang-gopkg-yaml.v3-dev)
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    export GOPATH=$packages/usr/share/gocode GOCACHE=$work/cache GO111MODULE=off CGO_ENABLED=0 GOFLAGS=-trimpath
    # The link to the sources is an absolute one in Debian's package.
    export GOROOT=$work/go
    mkdir "$GOROOT"
    for part in bin pkg; do ln -s "$packages/usr/lib/go-1.19/$part" "$GOROOT/$part"; done
    ln -s "$packages/usr/share/go-1.19/src" "$GOROOT/src"
    "$GOROOT/bin/go" build -o "$work/render" "$here/render/main.go" >&2
    mv "$work/render" "$program"
fi
exec "$program" "$@"
