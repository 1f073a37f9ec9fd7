# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Without `bind`, redis listens on the wildcards of both families, with a socket each. In protected mode, its default,
# it serves only the loopback, and decides by the client's address.

needs=(redis-cli)
port=6379
variants=(open protected loopback)

targets() {
    case $variant in
    open) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    *) echo localhost 127.0.0.1 ::1 ;;
    esac
}

# The name that makes it a server. Debian's package redis-server adds only that.
prepare() { ln -s "$(command -v redis-check-rdb)" redis-server; }

server() {
    local options=()
    [ "$variant" != open ] || options=(--protected-mode no)
    [ "$variant" != loopback ] || options=(--bind 127.0.0.1 ::1)
    exec "$shared/redis-server" --port "$port" --save '' --appendonly no --loglevel verbose --dir "$work" "${options[@]}"
}

ready() { redis-cli -p "$port" set who "$who" | grep -qx OK; }

# The name that the server has, and the addresses of both ends that it sees. If redis refuses and closes, redis-cli may
# or may not have written its second line before, so that is ignored.
client() {
    timeout 5 redis-cli -h "$1" -p "$port" 2>&1 <<<$'get who\nclient info' |
        sed -E '/^Error: (Broken pipe|Connection reset by peer)$/d; s/^id=.* addr=(.*):[0-9]+ laddr=([^ ]*) .*/\1 at \2/'
}

logged() { sed -nE 's/.* Accepted (.*):[0-9]+$/\1/p' output; }
