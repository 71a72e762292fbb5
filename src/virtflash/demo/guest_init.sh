#!/bin/sh
# The first process of a user-mode Linux guest: prepares the system, runs the script named on the kernel's command line
# ("body=..."), reports its exit status on the console and powers off. The root file system is the host's, read-only.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
MODULES=/usr/lib/uml/modules/$(uname -r)/kernel

# The host picks these lines out of what the kernel prints on the same console.
report() { echo "virtflash-guest: $*"; }

# Dependencies are named by the caller, in order: Debian ships these modules without an index for the host's modprobe.
load() { for module; do [ ! -e "$MODULES/$module.ko" ] || insmod "$MODULES/$module.ko" || return; done; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
load drivers/block/virtio_blk
report kernel "$(uname -r)"
( set -eu; . "$body" )
report status $?
echo o >/proc/sysrq-trigger
exec tail -f /dev/null # The first process must not end before the power does.
