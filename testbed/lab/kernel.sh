#!/usr/bin/env bash
# kernel.sh: a Linux kernel with flower, act_ct and modules that runs as a plain process (user mode
# Linux), built from Debian's kernel source. Prints the folder that holds `linux` and the build tree,
# and builds it where the cache lacks it: some six minutes on two idle cores, once for each source
# version and kernel.config.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
package=linux-source-6.1

say() { printf 'lab: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "the lab's kernel is built for x86_64; this is $(uname -m)"
command -v apt-cache >/dev/null || fail "the lab builds its kernel from Debian's $package; this machine has no apt"

version() { apt-cache policy "$package" | sed -n 's/^ *Candidate: //p'; }
candidate=$(version)
if [ -z "$candidate" ] || [ "$candidate" = "(none)" ]; then
    apt-get update -qq >&2
    candidate=$(version)
fi
[ -n "$candidate" ] && [ "$candidate" != "(none)" ] || fail "no package $package in this machine's apt sources (Debian 12 has it)"

key=$( (echo "$candidate"; cat "$here/kernel.config" "$0") | sha256sum | cut -c1-16)
home=$cache/lab-kernel-$key
if [ ! -e "$home/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/lab-kernel.lock"
    flock 9
fi
if [ ! -e "$home/complete" ]; then
    "$here/../scripts/install.sh" lab >&2
    rm -rf "$home"
    mkdir -p "$home"
    say "building a user mode kernel from $package $candidate (once)"
    cd "$home"
    # The package manager's own user may not write here; downloading as root is fine.
    apt-get download -qq -o APT::Sandbox::User=root "$package" >&2
    dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x --wildcards '*linux-source-*.tar.xz'
    mkdir tree
    # Everything that neither configuration nor this build reads stays packed.
    tar -xJf usr/src/linux-source-*.tar.xz -C tree --strip-components=1 \
        --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' \
        --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/media/*.[ch]' --exclude='*/drivers/staging/*.[ch]' \
        --exclude='*/sound/*.[ch]' --exclude='*/arch/arm*/*.dts*' --exclude='*/arch/arm*/boot/*'
    rm -rf usr ./*.deb
    cd tree
    # x86 reads what is not aligned, and so does this kernel; it only does not say so, and then takes no BPF program that does.
    sed -i '/^config UML_X86$/,/^$/ s/^\tdef_bool y$/&\n\tselect HAVE_EFFICIENT_UNALIGNED_ACCESS/' arch/x86/um/Kconfig
    grep -q HAVE_EFFICIENT_UNALIGNED_ACCESS arch/x86/um/Kconfig || fail "arch/x86/um/Kconfig is not as expected"
    export ARCH=um KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=netpolc KBUILD_BUILD_HOST=lab
    run() { "$@" >> ../build.log 2>&1 || { tail -20 ../build.log >&2; fail "the kernel does not build; $home/build.log"; }; }
    export KCONFIG_ALLCONFIG=$here/kernel.config
    run make allnoconfig
    refused=$(grep '=[ym]$' "$here/kernel.config" | grep -vxFf .config || true)
    [ -z "$refused" ] || fail "the kernel's configuration refuses these settings of kernel.config:"$'\n'"$refused"
    run make -j"$(nproc)" linux modules
    cp linux ..
    # Debug copies and objects are not needed to build modules against the tree.
    rm -f vmlinux.o linux vmlinux
    find . -name '*.o' -not -path './scripts/*' -not -path './tools/*' -delete
    touch ../complete
fi
echo "$home"
