# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# slirp4netns, behind which rootless containers are: what it sends for the inner network namespace leaves from the
# session's virtual IP, and 10.0.2.2 is the session's loopback.

needs=(slirp4netns unshare ip python3)
port=9200

peer() { exec python3 "$programs/whoami.py" 0.0.0.0 "$port" :: "$port"; }

job() {
    mkfifo inside hold behind own
    # Servers of the session on its loopback, and on the wildcard.
    python3 "$programs/whoami.py" 127.0.0.1 $((port + 1)) 0.0.0.0 $((port + 2)) >own &
    read -r _ <own
    # shellcheck disable=SC2016 # the inner shell's
    unshare -Urn sh -ec '
        echo $$ >inside
        read -r _ <hold
        port=$1
        ask() { python3 "$programs/whoami.py" ask "$@"; }
        ask "another host" 198.51.100.2 "$port"
        ask "another host by IPv6" 2001:db8:51::2 "$port"
        ask "a server of the session on 127.0.0.1" 10.0.2.2 $((port + 1))
        ask "a server of the session on 0.0.0.0" 10.0.2.2 $((port + 2))
    ' sh "$port" &
    local inner=$! pid
    read -r pid <inside
    slirp4netns --configure --mtu=65520 --enable-ipv6 --ready-fd=3 "$pid" tap0 3>behind >&2 &
    read -r -n 1 _ <behind
    # The address of tap0 is tentative at first.
    nsenter --preserve-credentials --user --net --target "$pid" sh -c \
        'while ip -6 address show dev tap0 | grep -q tentative; do sleep 0.05; done'
    echo go >hold
    wait "$inner"
}
