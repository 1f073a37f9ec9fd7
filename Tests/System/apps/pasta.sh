# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# pasta, the other one behind which rootless containers are: it gives the inner network namespace the address of the
# host's interface. What it sends leaves from the session's virtual IP all the same.

needs=(pasta python3)
port=9250

peer() { exec python3 "$programs/whoami.py" 0.0.0.0 "$port"; }

job() {
    # IPv4 alone: without a default route of IPv6, pasta leaves IPv6 out. --no-map-gw: the other host is the gateway as
    # well, whose address would be the host's loopback.
    # shellcheck disable=SC2016 # the inner shell's
    timeout 20 pasta --config-net --no-map-gw --quiet -- sh -ec '
        python3 "$programs/whoami.py" ask "another host" 198.51.100.2 "$1"
    ' sh "$port"
}
