# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# memcached on the wildcards of both families, with UDP on the same port, and on the loopback.

needs=(memcached socat)
port=11211
variants=(tcp udp loopback)

server() {
    local options=()
    [ "$variant" != udp ] || options=(-U "$port")
    [ "$variant" != loopback ] || options=(-l localhost)
    exec memcached -p "$port" -t 1 -v "${options[@]}"
}

tcp() { printf '%s\r\n' "${@:2}" quit | socat -T 2 - "TCP:$(bracketed "$1"):$port,connect-timeout=2"; }

ready() { tcp 127.0.0.1 "set who 0 0 ${#who}" "$who" | grep -q '^STORED'; }

# The value that the server has, and the server's list of its connections.
client() {
    case $variant in
    udp)
        # The number of the request, then datagram 0 of 1 (doc/protocol.txt). The second line of the answer is the
        # value.
        {
            read -r line && read -r line && echo "$line"
        } < <(exec 2>&1; printf '\0\1\0\0\0\1\0\0get who\r\n' | socat -t 2 - "UDP:$(bracketed "$1"):$port" | tr -d '\0' | plain)
        ;;
    *)
        tcp "$1" 'get who' 'stats conns' 2>&1 | plain | sed -nE '2s/\r//p; /^E /p
            s/.*:addr (.*):[0-9]+\r/\1/; T listen; h; :listen; s/.*:listen_addr (.*)\r/at \1/; T; x; G; p'
        ;;
    esac
}
