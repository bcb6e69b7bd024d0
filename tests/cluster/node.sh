#!/usr/bin/env bash
# The first process of a node (or of the control plane) of the test cluster: runs in a network, mount and process namespace of its own, so that the
# node has its own /run, /etc, /opt and /var, and nothing is left when it ends. Called by cluster.sh alone.
# usage: node.sh DIRECTORY PROGRAM [ARGUMENT]…   (PROGRAM is a script beside this one: control-plane.sh, kubelet.sh)
set -euo pipefail
directory=${1:?}
program=${2:?}
shift 2

# Changes of mounts on the machine come in, none goes out; within the node they are shared, as a kubelet wants them.
mount --make-rslave /

# What is written below these directories stays in the node's own.
for top in etc opt var; do
    mkdir -p "$directory/$top/upper" "$directory/$top/work"
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=$directory/$top/upper,workdir=$directory/$top/work" "/$top"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns

# /sys shows the network namespace that it was mounted in; control groups are the machine's.
mkdir -p "$directory/cgroup"
mount --rbind /sys/fs/cgroup "$directory/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$directory/cgroup" /sys/fs/cgroup
umount -l "$directory/cgroup"
# Only now: what is unmounted from one of two peers goes from the other as well.
mount --make-rshared /

ip link set lo up
exec "$(dirname "$0")/$program" "$directory" "$@"
