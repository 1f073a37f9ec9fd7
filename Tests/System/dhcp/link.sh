#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes the network of one test, prints "ready", and removes it when standard input ends: the test closes it, or its
# process has ended in any way.
#
#   link.sh NAME DIRECTORY
#
# NAME       name of the network namespace of the clients; NAME-s has the server. Both have eth0, and their processes end
# DIRECTORY  a directory to create, and to remove
set -eu

# An interrupted test run sends a signal to its whole process group, which must not end this.
trap '' INT TERM HUP

name=$1 directory=$2
mkdir -m 755 "$directory"

clean() {
    status=$?
    set +e
    for namespace in "$name" "$name-s"; do
        [ -e "/run/netns/$namespace" ] || continue
        # A process may have started another one after the list was made, and a busy machine takes time.
        for round in $(seq 1000); do
            pids=$(ip netns pids "$namespace")
            [ -n "$pids" ] || break
            # shellcheck disable=SC2086 # one word each
            kill -KILL $pids 2>/dev/null
            [ "$round" = 1 ] || sleep 0.1
        done
        [ -z "$(ip netns pids "$namespace")" ] || status=1
        ip netns del "$namespace"
    done
    rm -rf --one-file-system "$directory"
    exit "$status"
}
trap clean EXIT

ip netns add "$name"
ip netns add "$name-s"
# 198.18.0.0/15 is for tests of networks (RFC 2544).
ip -n "$name" -batch - <<END
link set lo up
link add eth0 type veth peer name eth0 netns $name-s
address add 198.18.0.2/16 dev eth0
link set eth0 up
END
ip -n "$name-s" -batch - <<END
link set lo up
address add 198.18.0.1/16 dev eth0
link set eth0 up
END

# A server that starts before the link is up does not see it.
for namespace in "$name" "$name-s"; do
    for round in $(seq 1000) none; do
        case $(ip -n "$namespace" link show eth0) in *"state UP"*) break ;; esac
        [ "$round" != none ] || exit 1
        sleep 0.1
    done
done

echo ready
cat >/dev/null
