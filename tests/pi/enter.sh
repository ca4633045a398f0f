#!/bin/bash
# Runs a command as root in an emulated Raspberry Pi.
#
#   enter.sh ROOT LAYER COMMAND...
#
#   ROOT     a folder with the userland of Debian for arm64 or armhf; it stays as it is
#   LAYER    a folder that takes every change; another command in the same layer sees them
#   BIND     in the environment: "SOURCE:TARGET ..." shows folders of this machine below ROOT
#
# Needs root, and qemu-user-static registered for the processor (Debian's binfmt-support does it). The mounts are in a
# namespace of their own and end with the command. The network is this machine's, loopback included.
set -euo pipefail
root=$(readlink -f "${1:?ROOT}") layer=$(readlink -f "${2:?LAYER}")
if [ -z "${ENTERED:-}" ]; then
    ENTERED=1 exec unshare --mount --uts --pid --fork --kill-child bash "$0" "$@"
fi
shift 2
mount --make-rprivate /
mkdir -p "$layer/upper" "$layer/work" "$layer/merged"
pi=$layer/merged
mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" "$pi"
mount -t proc proc "$pi/proc"
mount -t sysfs sysfs "$pi/sys" 2>/dev/null || mount --rbind /sys "$pi/sys"   # PoCL asks it for the memory
mount -t tmpfs -o mode=755 tmpfs "$pi/dev"
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r name major minor <<< "$device"
    mknod -m 666 "$pi/dev/$name" c "$major" "$minor"
done
mkdir "$pi/dev/shm"
mount -t tmpfs tmpfs "$pi/dev/shm"
ln -s /proc/self/fd "$pi/dev/fd"
hostname raspberrypi

# TFLite runtimes read the processor's features here, and end at once where they find those of another kind.
cpuinfo=$(mktemp)
for core in 0 1 2 3; do
    printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n' $core
    printf 'CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
done > "$cpuinfo"
printf 'Revision\t: c03114\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n' >> "$cpuinfo"
chmod 644 "$cpuinfo"
mount --bind "$cpuinfo" "$pi/proc/cpuinfo"
rm "$cpuinfo"

cpu=cortex-a72   # numpy warns of overflows that there are none of on qemu's own choice
if [ -e "$pi/lib/ld-linux-armhf.so.3" ]; then
    cpu=
    # A 32-bit program cannot list a folder of ext4 under qemu: its offsets have 64 bits. Those of tmpfs are small.
    if [ -d "$pi/etc/OpenCL/vendors" ]; then
        kept=$(mktemp -d)
        cp "$pi"/etc/OpenCL/vendors/*.icd "$kept/"
        mount -t tmpfs tmpfs "$pi/etc/OpenCL/vendors"
        cp "$kept"/*.icd "$pi/etc/OpenCL/vendors/"
        rm -r "$kept"
    fi
fi
for bind in ${BIND:-}; do
    mkdir -p "$pi${bind#*:}"
    mount --bind "${bind%%:*}" "$pi${bind#*:}"
done
exec env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    OPENBLAS_NUM_THREADS=1 DEBIAN_FRONTEND=noninteractive ${cpu:+QEMU_CPU=$cpu} chroot "$pi" "$@"
