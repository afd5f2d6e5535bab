#!/bin/bash
# PID 1 of a machine: lays out its file system, says so, and reaps until its standard input closes.
# Usage: machine.sh NAME FOLDER CGROUP KEEP...
set -eu
name=$1 folder=$2 cgroup=$3
shift 3

# Covers DIRECTORY with an empty one, in which only those kept paths show that lie below it.
cover() {
  local directory=$1 mode=$2 below
  shift 2
  mount -t tmpfs -o "mode=$mode" machine "$folder/mnt"
  for path; do
    below=${path#"$directory"/}
    [ "$below" != "$path" ] || continue
    mkdir -p "$folder/mnt/$below"
    mount --bind "$path" "$folder/mnt/$below"
  done
  mount --move "$folder/mnt" "$directory"
}

echo "$name" >/proc/sys/kernel/hostname
for path in "$folder"/etc/*; do
  mount --bind "$path" "/etc/${path##*/}"
done
cover /tmp 1777 "$@"
cover /root 755 "$@"
cover /home 755 "$@"
mount -t tmpfs -o mode=1777 machine /dev/shm
mount -t tmpfs -o mode=755 machine /run

# A /sys of this network namespace, and of all cgroups only the freezer, which SLURM follows processes with. Hosts with
# cgroup v2 can mount it too: v2 has no controller of that name. Machines of two clusters see each their own part.
mount -t sysfs sysfs /sys
mount -t tmpfs machine /sys/fs/cgroup
mkdir /sys/fs/cgroup/freezer
mount -t cgroup -o freezer cgroup "$folder/mnt"
mkdir -p "$folder/mnt/$cgroup/$name"
mount --bind "$folder/mnt/$cgroup/$name" /sys/fs/cgroup/freezer
umount "$folder/mnt"

echo ready
while read -r _; do :; done
