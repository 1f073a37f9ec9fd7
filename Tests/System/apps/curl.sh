# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# curl, which reports its own ends, with an http.server on both families.

needs=(curl python3)
port=8090
variants=(plain ipv4 ipv6 reuse fastopen local-port interface)

targets() {
    case $variant in
    ipv4) echo localhost 127.0.0.1 VIP4 ;;
    ipv6) echo localhost ::1 VIP6 ;;
    interface) echo 127.0.0.1 ;;
    *) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    esac
}

limit() {
    case "$variant $1 = $2" in
    'local-port '[ab][en]n': ::1 = curl: (7) Failed to connect to '* | \
        'local-port '[ab][en]n': '*'VIP6'*' = '*'curl: (7) Failed to connect to '* | \
        'local-port '[ab][en]n": ::1, in the server's log = " | 'local-port '[ab][en]n": VIP6, in the server's log = ")
        echo 'a dual-stack socket that has bound the wildcard does not connect to IPv6'
        ;;
    # In all other cases, the server answers and logs a line.
    *VIP*' = '* | *' = ') ;;
    'local-port '*log' = '* | 'local-port '*' = @own '*) echo 'a client that has bound the wildcard is shown at the virtual IP' ;;
    esac
}

server() {
    echo "$who" >index.html
    exec python3 -u -m http.server "$port" --bind :: --protocol HTTP/1.1
}

client() {
    local options=() url
    url=http://$(bracketed "$1"):$port/
    case $variant in
    ipv4) options=(-4) ;;
    ipv6) options=(-6) ;;
    reuse) options=("$url") ;; # two requests, the second on the same connection
    fastopen) options=(--tcp-fastopen) ;;
    local-port) options=(--local-port 20000-29999) ;;
    interface) options=(--interface 127.0.0.1) ;;
    esac
    curl -sS --max-time 4 -w 'from %{local_ip} to %{remote_ip} by %{num_connects}\n' "${options[@]}" "$url"
}

logged() { sed -n 's/ - - .*"GET .*//p' output; }
