# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
#
# Defaults that the files of the programs share; each of them may define its own instead.

# Reads the server's owner, working directory, variant and host; writes the client's output as one line.
agent() {
    local host answer words
    export who work variant
    while IFS='|' read -r who work variant host; do
        cd "$work" || return
        answer=$(client "$host" 2>&1 </dev/null) || answer+=" (exit code $?)"
        # The time that curl tried, which differs from run to run.
        [[ ! $answer =~ ' after '[0-9]+' ms' ]] || answer=${answer/"${BASH_REMATCH[0]}"/}
        IFS=$' \r\n\t' read -r -d '' -a words <<<"$answer" || true
        printf '%s\n' "${words[*]}"
    done
}

# The names and addresses at which a variant's server is reached.
targets() {
    case $variant in
    loopback) echo localhost 127.0.0.1 ::1 ;;
    *) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    esac
}

# limit TITLE GOT: why a check with that title may give that result: a limit of docs/limits.md.
limit() { :; }

# If sessions were not separated, the client would find another server than its own.
ready() { client localhost | grep "^$who\b"; }

# An address in the form for URLs and socat.
bracketed() {
    case $1 in
    *:*) printf '[%s]' "$1" ;;
    *) printf '%s' "$1" ;;
    esac
}

# The answer of an HTTP server, and the addresses of the connection as curl reports them.
http() {
    curl -sS --max-time 4 -w ' curl: from %{local_ip} to %{remote_ip}' "http://$(bracketed "$1"):$port/${2-}"
}

# The output of socat without varying parts. socat writes all digits of addresses; they are shortened as elsewhere.
plain() {
    local line
    while IFS= read -r line; do
        while [[ $line =~ (0000:){5}ffff:(..)(..):(..)(..) ]]; do
            set -- "${BASH_REMATCH[@]:2}"
            line=${line/"0000:0000:0000:0000:0000:ffff:$1$2:$3$4"/"::ffff:$((16#$1)).$((16#$2)).$((16#$3)).$((16#$4))"}
        done
        printf '%s\n' "$line"
    done | sed -E 's/^.* socat\[[0-9]+\] //; s/0x[0-9a-f]+/buffer/; s/\b0{1,3}([0-9a-f]{1,3}:)/\1/g; s/:0{1,3}([0-9a-f]{1,3})\b/:\1/g; s/\[0(:0)*/[:/g; s/\b(0:)+/:/g; s/:::/::/g'
}
