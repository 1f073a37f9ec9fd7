# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# iperf3, whose server is on :: for both families: a control connection, then TCP streams in either direction or UDP.
# The server with the client's cookie in its log has answered.

needs=(iperf3 python3)
port=5201
variants=(tcp reverse udp)

limit() {
    case "$variant $1" in
    'udp '*VIP6* | 'udp '*::1*) echo 'nothing leads IPv6 datagrams to a UDP socket that is on both families' ;;
    esac
}

targets() { echo localhost 127.0.0.1 ::1 VIP4 VIP6; }

server() { exec iperf3 --server --port "$port" --verbose --forceflush; }

client() {
    local options=(--bytes 32K)
    case $variant in
    reverse) options+=(--reverse) ;;
    udp) options+=(--udp --length 1K --bitrate 100M) ;;
    esac
    timeout 6 iperf3 --client "$1" --port "$port" --connect-timeout 2000 --json "${options[@]}" >result.$$ || true
    python3 - "result.$$" "${work%-*}" <<'END'
import json, sys
result = json.load(open(sys.argv[1]))
if "error" in result:
    sys.exit(result["error"])
for who in "base", "ann", "ben":
    if result["start"]["cookie"] in open(f"{sys.argv[2]}-{who}/output").read():
        print(who, *(f"{end['local_host']} to {end['remote_host']}" for end in result["start"]["connected"]))
END
}

logged() { sed -n 's/^Accepted connection from \(.*\), port .*/\1/p' output; }
