# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Python's http.server: 0.0.0.0 by default, one socket for both families with `--bind ::`.

needs=(python3 curl)
port=8000
variants=(default :: 127.0.0.1 ::1)

targets() {
    case $variant in
    default) echo localhost 127.0.0.1 VIP4 ;;
    ::) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    127.0.0.1) echo localhost 127.0.0.1 ;;
    ::1) echo localhost ::1 ;;
    esac
}

server() {
    echo "$who" >index.html
    local options=()
    [ "$variant" = default ] || options=(--bind "$variant")
    exec python3 -u -m http.server "$port" "${options[@]}"
}

# Both ends' addresses, as curl and as the server report them.
client() { http "$1"; }
logged() { sed -n 's/ - - .*"GET .*//p' output; }
