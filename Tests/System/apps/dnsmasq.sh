# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# dnsmasq on the wildcards, where it finds out on which address a query arrived and answers from there; on given
# addresses; and on those of an interface. The client is dig.

needs=(dnsmasq dig)
port=5300
variants=(udp tcp addresses interface)

limit() {
    case "$variant $1 = $2" in
    'tcp '*VIP4' = '*'end of file'* | 'tcp '*"'s VIP4 is "*'end of file'* | 'tcp '*VIP4', '*'log = ')
        echo 'it closes connections to an address that no interface has'
        ;;
    'interface '*': server is up = no') echo 'it asks for each address of lo, and so for the loopbacks of other sessions' ;;
    'tcp '[ab][en]n': '*' = '*' failed: address family not supported.'* | \
        'tcp '[ab][en]n': localhost, '*'log = ' | 'tcp '[ab][en]n': ::1, '*'log = ' | 'tcp '[ab][en]n': VIP6, '*'log = ')
        echo 'a dual-stack socket that has bound the wildcard does not connect to IPv6'
        ;;
    *VIP*' = '* | [!a]*'log = ') ;;
    'udp '*log' = '* | 'tcp '*log' = '*) echo 'dig has bound the wildcard, and is shown at the virtual IP' ;;
    'addresses '*log' = ' | 'addresses '*': localhost = '* | 'addresses '*': ::1 = '*) echo 'it drops what came, by IPV6_PKTINFO, on an address that is not ::1' ;;
    esac
}

targets() {
    case $variant in
    udp | tcp) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    *) echo localhost 127.0.0.1 ::1 ;;
    esac
}

server() {
    local options=()
    case $variant in
    addresses) options=(--bind-interfaces --listen-address=127.0.0.1 --listen-address=::1) ;;
    interface) options=(--bind-interfaces --interface=lo) ;;
    esac
    exec dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --port="$port" --no-resolv --no-hosts --user= \
        --txt-record=who.test,"$who" --log-queries --log-facility=- "${options[@]}"
}

client() {
    local options=(+short +time=2 +tries=1)
    [ "$variant" != tcp ] || options+=(+tcp)
    dig -r "${options[@]}" "@$1" -p "$port" -t TXT who.test | tr -d '"'
}

logged() { sed -n 's/.* query\[TXT\] who.test from //p' output; }
