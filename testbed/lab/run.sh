#!/usr/bin/env bash
# run.sh [-t SECONDS] [-m MEGABYTES] -- COMMAND...: runs a command as root in the lab's kernel (user mode Linux), in the
# current folder, with this environment, and gives its output and exit code. The machine's files are all there;
# what the command writes is discarded. 125: the kernel ended without the command's exit code.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
seconds=300 memory=768
while getopts t:m: option; do
    case $option in
        t) seconds=$OPTARG ;;
        m) memory=$OPTARG ;;
        *) echo "usage: run.sh [-t SECONDS] [-m MEGABYTES] -- COMMAND..." >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { echo "run.sh: no command" >&2; exit 2; }

kernel=$("$here/kernel.sh")
shared=$(mktemp -d)
trap 'rm -rf "$shared"' EXIT
export NETPOLC_LAB=$kernel
declare -px | grep -vE '^declare -x (OLDPWD|PWD|SHLVL|LD_LIBRARY_PATH)=' > "$shared/env"
printf '%q ' "$@" > "$shared/command"
: > "$shared/out"
head -c 64 /dev/urandom > "$shared/seed"

cat > "$shared/init" <<INIT
#!/bin/bash
mount -t proc proc /proc; mount -t sysfs sys /sys
mount -t tmpfs tmp /mnt; mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root || echo "lab: no overlay"
cd /mnt/root
mkdir -p dev/shm run usr/lib/modules/\$(uname -r)
mount -t proc proc proc; mount -t sysfs sys sys; mount -t devtmpfs dev dev
mkdir -p dev/shm dev/pts; mount -t tmpfs shm dev/shm; mount -t devpts pts dev/pts
mount -t tmpfs run run; mkdir -p run/netns run/lab
mount -t hostfs -o $shared shared run/lab
mount -t debugfs debug sys/kernel/debug; mount -t bpf bpf sys/fs/bpf
[ -e dev/fd ] || ln -s /proc/self/fd dev/fd
exec chroot . /bin/bash /run/lab/inside
INIT
cat > "$shared/inside" <<INSIDE
. /run/lab/env
export PATH=\$PATH:/usr/sbin:/sbin
ip link set lo up
# ioctl(RNDADDENTROPY), 512 bits of the host's: by itself this kernel needs minutes until getrandom(2) answers.
perl -e 'open S, "/run/lab/seed"; read S, \$seed, 64; open R, ">", "/dev/random"; ioctl(R, 0x40085203, pack("ii", 512, 64) . \$seed) or die "entropy: \$!"'
cd $(printf %q "$PWD")
eval "\$(cat /run/lab/command)" </dev/null >/run/lab/out 2>&1
echo \$? > /run/lab/code
# reboot(LINUX_REBOOT_CMD_POWER_OFF); hostfs writes through, so there is nothing to unmount.
exec perl -e 'syscall(169, 0xfee1dead, 0x28121969, 0x4321fedc, 0)'
INSIDE
chmod +x "$shared/init"

# Memory of the guest is a file in TMPDIR; one in memory is fastest.
[ -d /dev/shm ] && export TMPDIR=/dev/shm
code=0
timeout -k 5 "$seconds" "$kernel/linux" "mem=${memory}M" rootfstype=hostfs rootflags=/ ro "init=$shared/init" \
    con=null con0=null,fd:1 con1=null ssl=null quiet </dev/null > "$shared/console" 2>&1 &
guest=$!
# The output as it comes.
tail --pid=$guest -s 0.1 -n +1 -f "$shared/out" &
wait $guest || code=$?
wait || true
if [ -s "$shared/code" ]; then
    exit "$(cat "$shared/code")"
fi
if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    echo "run.sh: stopped after $seconds s" >&2
else
    echo "run.sh: the kernel ended without an exit code ($code):" >&2
fi
tail -20 "$shared/console" >&2
exit 125
