# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# socat: TCP and UDP, of one family or of both. Its server gives the addresses in the child's environment.

needs=(socat)
port=9000
variants=(tcp4 tcp6 tcp6only udp4 udp4-unconnected udp6 udp6only)

limit() {
    case "$variant $1" in
    'udp6 '*VIP6* | 'udp6 '*::1*) echo 'nothing leads IPv6 datagrams to a UDP socket that is on both families' ;;
    esac
}

targets() {
    case $variant in
    *4*) echo localhost 127.0.0.1 VIP4 ;;
    *6only) echo localhost ::1 VIP6 ;;
    *) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    esac
}

server() {
    local tell="SYSTEM:read -r question; echo $who \$SOCAT_PEERADDR at \$SOCAT_SOCKADDR" address
    case $variant in
    tcp4) address=TCP4-LISTEN:$port,reuseaddr,fork ;;
    tcp6) address=TCP6-LISTEN:$port,reuseaddr,fork ;;
    tcp6only) address=TCP6-LISTEN:$port,ipv6only=1,reuseaddr,fork ;;
    udp4*) address=UDP4-RECVFROM:$port,fork ;;
    udp6) address=UDP6-RECVFROM:$port,fork ;;
    udp6only) address=UDP6-RECVFROM:$port,ipv6only=1,fork ;;
    esac
    exec socat -d -d "$address" "$tell"
}

client() {
    local family='' line
    # socat tries only the first address of a name.
    case $1/$variant in
    localhost/*4*) family=4 ;;
    localhost/*6only) family=6 ;;
    esac
    local to
    to=$(bracketed "$1"):$port
    case $variant in
    tcp*) socat -T 2 - "TCP$family:$to,connect-timeout=2" ;;
    # An answer has no end: read one line, and do not wait for socat.
    udp4-unconnected) { read -r line && echo "$line"; } < <(exec 2>&1; echo | socat -t 2 - "UDP-SENDTO:$to${family:+,pf=ip$family}") ;;
    udp*) { read -r line && echo "$line"; } < <(exec 2>&1; echo | socat -t 2 - "UDP$family:$to") ;;
    esac 2>&1 | plain
}

logged() { sed -nE 's/.* (accepting connection|receiving packet) from AF=[0-9]+ ([^ ]*):[0-9]+.*$/\2/p' output | plain; }
