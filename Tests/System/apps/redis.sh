# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Without a `bind` redis listens on the wildcards of both families, with a socket each. Protected, as it is by default,
# it serves the loopback alone, and tells by the client's address.

needs=(redis-cli)
port=6379
variants=(open protected loopback)

targets() {
    case $variant in
    open) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    *) echo localhost 127.0.0.1 ::1 ;;
    esac
}

# By the name that starts a server: just what Debian's package redis-server adds.
prepare() { ln -s "$(command -v redis-check-rdb)" redis-server; }

server() {
    local options=()
    [ "$variant" != open ] || options=(--protected-mode no)
    [ "$variant" != loopback ] || options=(--bind 127.0.0.1 ::1)
    exec "$shared/redis-server" --port "$port" --save '' --appendonly no --loglevel verbose --dir "$work" "${options[@]}"
}

ready() { redis-cli -p "$port" set who "$who" | grep -qx OK; }

# The name that the server was given, and where it sees both ends.
# Where redis refuses and closes, redis-cli may or may not have written its second line before: that says nothing.
client() {
    timeout 5 redis-cli -h "$1" -p "$port" 2>&1 <<<$'get who\nclient info' |
        sed -E '/^Error: (Broken pipe|Connection reset by peer)$/d; s/^id=.* addr=(.*):[0-9]+ laddr=([^ ]*) .*/\1 at \2/'
}

logged() { sed -nE 's/.* Accepted (.*):[0-9]+$/\1/p' output; }
