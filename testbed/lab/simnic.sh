#!/usr/bin/env bash
# simnic.sh: builds the simulated NIC's kernel module (testbed/lab/simnic) for the lab's kernel and prints its path; once for each
# version of its sources and of the kernel.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernel=$("$here/kernel.sh")
key=$(cat "$0" "$here"/simnic/* | sha256sum | cut -c1-16)
home=$kernel/simnic-$key
if [ ! -e "$home/simnic.ko" ]; then
    exec 9>"$kernel/simnic.lock"
    flock 9
fi
if [ ! -e "$home/simnic.ko" ]; then
    "$here/../scripts/install.sh" lab >&2
    rm -rf "$home" "$home.new"
    cp -r "$here/simnic" "$home.new"
    if ! make -C "$kernel/tree" ARCH=um M="$home.new" KCFLAGS=-Werror modules > "$home.new/build.log" 2>&1; then
        tail -40 "$home.new/build.log" >&2
        echo "simnic.sh: the module does not build; $home.new/build.log" >&2
        exit 1
    fi
    mv "$home.new" "$home"
fi
echo "$home/simnic.ko"
