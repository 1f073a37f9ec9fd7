#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes the surroundings of one kernel test, says "ready", and takes them down when standard input ends:
# that is when the test says so, or when the test's process is gone, however it went.
#
#   janitor.sh NAME CGROUP DIRECTORY PROBE
#
# NAME       of the network namespace of this host; NAME-out is that of another host on its network
# CGROUP     a cgroup v2 directory to make; every process of the test is in it or below
# DIRECTORY  to make: bpf/ is a BPF file system of its own, state/ and bin/ are plain
# PROBE      vip-probe, which can wait for a cgroup to empty
#
# The exit code is 0 only where nothing is left.
set -eu

# A test run that is interrupted signals its whole process group; this outlives it.
trap '' INT TERM HUP

name=$1 cgroup=$2 directory=$3 probe=$4

# Whoever made the cgroup owns the name: where it is taken, nothing of it is ours to clean.
mkdir "$cgroup"

clean() {
    status=$?
    set +e
    echo 1 >"$cgroup/cgroup.kill" && "$probe" await-empty "$cgroup" >/dev/null
    find "$cgroup" -depth -type d -exec rmdir {} \;
    for namespace in "$name" "$name-out"; do
        [ ! -e "/run/netns/$namespace" ] || ip netns del "$namespace"
    done
    ! mountpoint -q "$directory/bpf" || umount "$directory/bpf" || umount -l "$directory/bpf"
    rm -rf --one-file-system "$directory"
    for left in "$cgroup" "/run/netns/$name" "/run/netns/$name-out" "$directory"; do
        if [ -e "$left" ]; then
            echo "janitor.sh: left behind: $left" >&2
            status=1
        fi
    done
    exit "$status"
}
trap clean EXIT

# control: where vip-bpfctl runs · outside: where no hook is · attached: what tests attach hooks to
mkdir "$cgroup/control" "$cgroup/outside" "$cgroup/attached"

mkdir "$directory" "$directory/bpf" "$directory/state" "$directory/bin"
mount -t bpf "$name" "$directory/bpf"

ip netns add "$name"
ip netns add "$name-out"
# 198.51.100.0/24 is TEST-NET-2 (RFC 5737), 2001:db8::/32 is for documentation (RFC 3849).
ip -n "$name" -batch - <<END
link set lo up
link add eth0 type veth peer name eth0 netns $name-out
address add 198.51.100.1/24 dev eth0
link set eth0 up
END
ip -n "$name-out" -batch - <<END
link set lo up
address add 198.51.100.2/24 dev eth0
link set eth0 up
END
ip -n "$name" route add default via 198.51.100.2
ip -n "$name-out" route add default via 198.51.100.1
if [ -e /proc/net/if_inet6 ]; then
    # nodad: a tentative address cannot be bound, and nobody else is on this network.
    ip -n "$name" address add 2001:db8:51::1/64 dev eth0 nodad
    ip -n "$name-out" address add 2001:db8:51::2/64 dev eth0 nodad
fi
# /proc/sys/net is that of the reader's namespace. 3: TCP fast open as client and as server.
nsenter --net="/run/netns/$name" sh -c 'echo 3 >/proc/sys/net/ipv4/tcp_fastopen'

echo ready
cat >/dev/null
