#!/usr/bin/env bash
# vm.sh [-t SECONDS] [-m MEGABYTES] -- COMMAND...: like run.sh, in Debian's stock kernel under full emulation (qemu
# TCG; no KVM): slower, some 12 s to start, but the kernel that machines really run, with two processors and modules.
# Kernel and qemu are unpacked from Debian's packages into the cache; nothing is installed. 125: no exit code came.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${NETPOLC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/netpolc}
seconds=300 memory=1024
while getopts t:m: option; do
    case $option in
        t) seconds=$OPTARG ;;
        m) memory=$OPTARG ;;
        *) echo "usage: vm.sh [-t SECONDS] [-m MEGABYTES] -- COMMAND..." >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { echo "vm.sh: no command" >&2; exit 2; }
say() { printf 'lab: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "the lab's machine is built for x86_64; this is $(uname -m)"
command -v apt-get >/dev/null || fail "the lab takes kernel and qemu from Debian's packages; this machine has no apt"
release=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: linux-image-//p' | head -1)
[ -n "$release" ] || { apt-get update -qq >&2; release=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: linux-image-//p' | head -1); }
[ -n "$release" ] || fail "no package linux-image-amd64 in this machine's apt sources"
key=$( (echo "$release"; sed '/^shared=/,$d' "$0") | sha256sum | cut -c1-16)
home=$cache/lab-vm-$key
mkdir -p "$cache"
exec 9>"$cache/lab-vm.lock"
flock 9
if [ ! -e "$home/complete" ]; then
    "$here/../scripts/install.sh" lab >&2
    say "unpacking Debian's kernel $release and qemu (once)"
    rm -rf "$home"
    mkdir -p "$home/debs" "$home/tools" "$home/root"/{bin,proc,sys,dev,host,upper,new,mod}
    cd "$home/debs"
    # What an installation would bring; installing would remove other versions of qemu's tools.
    packages=$(apt-get -s install --no-install-recommends qemu-system-x86 2>/dev/null | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
    # shellcheck disable=SC2086
    apt-get download -qq -o APT::Sandbox::User=root $packages "linux-image-$release" busybox-static >&2
    for deb in *.deb; do dpkg-deb -x "$deb" "$home/tools"; done
    cd "$home"
    rm -rf debs
    modules=$home/tools/lib/modules/$release
    [ -e "$modules/modules.dep" ] || depmod -b "$home/tools" "$release"
    # The loader inside bzImage does not start under this emulation; the kernel itself does. Its place is in the
    # setup header (Documentation/x86/boot.rst): payload_offset and payload_length behind the setup sectors.
    image=$home/tools/boot/vmlinuz-$release
    number() { od -An -t u"$2" -j "$1" -N "$2" "$image" | tr -d ' '; }
    at=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
    # The last 4 bytes are the unpacked size.
    dd "if=$image" of=payload bs=64K iflag=skip_bytes,count_bytes "skip=$at" "count=$(($(number 588 4) - 4))" status=none
    xz -dc --single-stream < payload > vmlinux || fail "the kernel's payload is not xz"
    rm payload
    cp tools/bin/busybox root/bin/
    for name in sh mount insmod mkdir switch_root; do ln -s busybox "root/bin/$name"; done
    # The modules that the root file system needs, in the order of their dependencies.
    order=()
    need() {
        local path dependency
        path=$(grep -oE "^[^:]*/$1\.ko(\.xz)?:" "$modules/modules.dep" | tr -d :) || return 0
        for dependency in $(sed -n "s#^$path: *##p" "$modules/modules.dep"); do
            dependency=${dependency##*/}
            need "${dependency%%.ko*}"
        done
        case " ${order[*]-} " in *" $path "*) ;; *) order+=("$path") ;; esac
    }
    for module in virtio_pci 9pnet_virtio 9p overlay; do need "$module"; done
    for path in "${order[@]}"; do
        name=${path##*/}
        case $name in
            *.xz) xz -dc "$modules/$path" > "root/mod/${name%.xz}" ;;
            *) cp "$modules/$path" "root/mod/$name" ;;
        esac
        echo "${name%.xz}" >> root/mod/order
    done
    cat > root/init <<'INIT'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod /mod/$module; done < /mod/order
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /host
mount -t tmpfs upper /upper; mkdir /upper/u /upper/w
mount -t overlay -o lowerdir=/host,upperdir=/upper/u,workdir=/upper/w overlay /new
mount --move /proc /new/proc; mount --move /sys /new/sys; mount --move /dev /new/dev
mount -t tmpfs run /new/run; mkdir /new/run/lab /new/run/netns
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=none share /new/run/lab
exec switch_root /new /bin/bash /run/lab/inside
INIT
    chmod +x root/init
    (cd root && find . | ../tools/bin/busybox cpio -o -H newc 2>/dev/null | gzip -1) > initrd.gz
    rm -rf root
    echo "$release" > release
    touch complete
fi
flock -u 9
release=$(cat "$home/release")
modules=$home/tools/lib/modules/$release

shared=$(mktemp -d)
trap 'rm -rf "$shared"' EXIT
export NETPOLC_LAB=$home
declare -px | grep -vE '^declare -x (OLDPWD|PWD|SHLVL|LD_LIBRARY_PATH)=' > "$shared/env"
printf '%q ' "$@" > "$shared/command"
cat > "$shared/inside" <<INSIDE
mount -t bpf bpf /sys/fs/bpf; mount -t debugfs debug /sys/kernel/debug; mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /lib/modules/$release
mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; ln -sf /proc/self/fd /dev/fd
mount --bind $(printf %q "$modules") /lib/modules/$release
. /run/lab/env
export PATH=\$PATH:/usr/sbin:/sbin
ip link set lo up
cd $(printf %q "$PWD")
stty -F /dev/ttyS1 raw -echo
eval "\$(cat /run/lab/command)" </dev/null >/dev/ttyS1 2>&1
echo \$? > /run/lab/code
sync
stty -F /dev/ttyS1 >/dev/null 2>&1
exec perl -e 'syscall(169, 0xfee1dead, 0x28121969, 0x4321fedc, 0)'
INSIDE

code=0
LD_LIBRARY_PATH=$home/tools/usr/lib/x86_64-linux-gnu:$home/tools/lib/x86_64-linux-gnu \
    timeout -k 5 "$seconds" "$home/tools/usr/bin/qemu-system-x86_64" \
    -L "$home/tools/usr/share/seabios" -L "$home/tools/usr/share/qemu" -L "$home/tools/usr/lib/ipxe/qemu" \
    -accel tcg,thread=multi -cpu max -smp 2 -m "$memory" -nographic -no-reboot -nodefaults -machine q35 \
    -chardev "file,id=console,path=$shared/console" -serial chardev:console \
    -chardev stdio,id=out,signal=off -serial chardev:out \
    -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=host,mount_tag=host \
    -fsdev "local,id=share,path=$shared,security_model=none" -device virtio-9p-pci,fsdev=share,mount_tag=share \
    -kernel "$home/vmlinux" -initrd "$home/initrd.gz" \
    -append "console=ttyS0 panic=-1 nokaslr mitigations=off quiet" </dev/null || code=$?
if [ -s "$shared/code" ]; then
    exit "$(cat "$shared/code")"
fi
if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    echo "vm.sh: stopped after $seconds s" >&2
else
    echo "vm.sh: the machine ended without an exit code ($code):" >&2
fi
tail -20 "$shared/console" >&2
exit 125
