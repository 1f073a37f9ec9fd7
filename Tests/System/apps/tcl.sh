# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2016,SC2034,SC2154
#
# Tcl's and expect's `socket`. A server listens on both wildcards, with a socket each. A client binds the wildcard
# itself before it connects, and must be 127.0.0.1 to the server all the same. That of IPv6 is dual-stack.

needs=(tclsh expect)
port=9300
variants=(tcl expect)

limit() {
    case $1 in
    *"'s loopback"*) ;;
    *::1* | *localhost* | *VIP6*) echo 'a dual-stack TCP socket that has bound :: cannot connect to IPv6' ;;
    esac
}

targets() { echo localhost 127.0.0.1 ::1 VIP4 VIP6; }

interpret() {
    printf '%s\n' 'set ::tcl::unsupported::noReverseDNS 1' "$1" >"$2"
    case $variant in
    tcl) exec tclsh "$2" "${@:3}" ;;
    expect) exec expect "$2" "${@:3}" ;;
    esac
}

server() {
    interpret 'lassign $argv who port
        proc accept {channel address port} {
            puts "client $address"
            flush stdout
            puts $channel "$::who $address at [lindex [fconfigure $channel -sockname] 0]"
            close $channel
        }
        socket -server accept $port
        vwait forever' server.tcl "$who" "$port"
}

client() {
    (
        cd "$(mktemp -d "$work/XXXXXX")" || exit
        interpret 'lassign $argv host port
            after 5000 exit
            if {[catch {
                set channel [socket $host $port]
                set from [lindex [fconfigure $channel -sockname] 0]
                set to [lindex [fconfigure $channel -peername] 0]
                puts "[gets $channel] client: from $from to $to"
            } message]} { puts $message }
            exit' client.tcl "$1" "$port"
    )
}

logged() { sed -n 's/^client //p' output; }
