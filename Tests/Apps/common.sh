# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
#
# What the files of the programs share; each of them may define its own instead.

# The client's answer within bounds: a client that hangs is one that was not answered.
bounded_client() {
    timeout -k 1 5 bash -euo pipefail -c 'source "$1" && source "$2" && client "$3"' "$app" "${BASH_SOURCE[0]}" \
        "${BASH_SOURCE[0]%/*}/$app.sh" "$1" || echo "(exit code $?)"
}

# Why a check of that title may fail: a limit that the README states.
limit() { :; }

# Another's server is not this one: where they are not kept apart, that is what would be found.
ready() { client localhost | grep "^$who\b"; }

# An address as a URL and socat have it.
bracketed() {
    case $1 in
    *:*) printf '[%s]' "$1" ;;
    *) printf '%s' "$1" ;;
    esac
}

# What an HTTP server answers, and between which addresses curl says it was.
http() {
    curl -sS --max-time 4 -w ' curl: from %{local_ip} to %{remote_ip}' "http://$(bracketed "$1"):$port/${2-}"
}
