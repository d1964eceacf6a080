#!/usr/bin/env bash
# image.sh OUT.tar ENTRYPOINT FILE=DESTINATION... -- NAME...
# A container image of one layer without a container engine, as an archive that `ctr images import` and `docker load` read.
# ENTRYPOINT is a JSON list. The same files give the same bytes.
set -euo pipefail
[ $# -ge 5 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
out=$1 entrypoint=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/layer" "$work/image"
# Members without a leading ./
pack() { (cd "$1" && tar --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$2" -- *); }
digest() { sha256sum "$1" | cut -d' ' -f1; }

while [ "$1" != -- ]; do
    install -D -m 755 "${1%%=*}" "$work/layer${1#*=}"
    shift
done
shift
pack "$work/layer" "$work/image/layer.tar"
layer=$(digest "$work/image/layer.tar")
cat > "$work/config" <<CONFIG
{"architecture":"amd64","os":"linux","config":{"Entrypoint":$entrypoint,"Env":["PATH=/"]},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"1970-01-01T00:00:00Z"}]}
CONFIG
config=$(digest "$work/config").json
mv "$work/config" "$work/image/$config"
names=$(printf ',"%s"' "$@")
echo "[{\"Config\":\"$config\",\"RepoTags\":[${names#,}],\"Layers\":[\"layer.tar\"]}]" > "$work/image/manifest.json"
pack "$work/image" "$(realpath "$(dirname "$out")")/$(basename "$out")"
