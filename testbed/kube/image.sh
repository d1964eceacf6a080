#!/usr/bin/env bash
# image.sh NAME OUT.tar ENTRYPOINT FILE=DESTINATION...: a container image of one layer without a container engine, as an archive
# that `ctr images import` and `docker load` read. ENTRYPOINT is a JSON list. The same files give the same bytes.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
image=$1 out=$2 entrypoint=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/layer" "$work/image"
pack() { tar --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" $(ls "$1"); }
digest() { sha256sum "$1" | cut -d' ' -f1; }

for file in "$@"; do install -D -m 755 "${file%%=*}" "$work/layer${file#*=}"; done
pack "$work/layer" "$work/image/layer.tar"
layer=$(digest "$work/image/layer.tar")
cat > "$work/config" <<CONFIG
{"architecture":"amd64","os":"linux","config":{"Entrypoint":$entrypoint,"Env":["PATH=/"]},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"1970-01-01T00:00:00Z"}]}
CONFIG
config=$(digest "$work/config").json
mv "$work/config" "$work/image/$config"
echo "[{\"Config\":\"$config\",\"RepoTags\":[\"$image\"],\"Layers\":[\"layer.tar\"]}]" > "$work/image/manifest.json"
pack "$work/image" "$out"
