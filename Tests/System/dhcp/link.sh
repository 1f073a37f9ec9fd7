#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes the network of one test, says "ready", and takes it down when standard input ends: when the test says so,
# or when its process is gone, however it went.
#
#   link.sh NAME DIRECTORY
#
# NAME       of the network namespace with the clients; NAME-s has the server. Both have eth0, and all that runs there ends.
# DIRECTORY  to make, and to remove
set -eu

# A test run that is interrupted signals its whole process group; this outlives it.
trap '' INT TERM HUP

name=$1 directory=$2
mkdir -m 755 "$directory"

clean() {
    status=$?
    set +e
    for namespace in "$name" "$name-s"; do
        [ -e "/run/netns/$namespace" ] || continue
        # A process may have started another between the list and its end, and a busy machine takes its time.
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

# A server that looks before the link has come up sees none.
for namespace in "$name" "$name-s"; do
    for round in $(seq 1000) none; do
        case $(ip -n "$namespace" link show eth0) in *"state UP"*) break ;; esac
        [ "$round" != none ] || exit 1
        sleep 0.1
    done
done

echo ready
cat >/dev/null
