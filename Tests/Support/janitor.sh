#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes the environment of one kernel test, prints "ready", and removes it when standard input ends: the test closes it,
# or its process has ended in any way.
#
#   janitor.sh NAME CGROUP DIRECTORY PROBE
#
# NAME       name of the network namespace of this host; NAME-out is that of another host on its network
# CGROUP     a cgroup v2 directory to create; every process of the test is in it or below it
# DIRECTORY  a directory to create: bpf/ is a BPF file system of its own, state/ and bin/ are ordinary
# PROBE      vip-probe, which can wait until a cgroup is empty
#
# The exit code is 0 only if nothing is left.
set -eu

# An interrupted test run sends a signal to its whole process group, which must not end this.
trap '' INT TERM HUP

name=$1 cgroup=$2 directory=$3 probe=$4

# The process that creates the cgroup owns the name. If it exists, there is nothing of this test to remove.
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

# control: where vip-bpfctl runs · outside: without hooks · attached: where tests attach hooks
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
    # nodad: a tentative address cannot be bound, and there is no other host on this network.
    ip -n "$name" address add 2001:db8:51::1/64 dev eth0 nodad
    ip -n "$name-out" address add 2001:db8:51::2/64 dev eth0 nodad
fi
# /proc/sys/net shows the reader's namespace. 3 enables TCP fast open for clients and servers.
nsenter --net="/run/netns/$name" sh -c 'echo 3 >/proc/sys/net/ipv4/tcp_fastopen'

echo ready
cat >/dev/null
