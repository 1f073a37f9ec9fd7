# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# OpenSSH's server on the wildcards of both families, and on the loopback. The forced command prints SSH_CONNECTION;
# `forward` connects to localhost through the server (ssh -W).

needs=(/usr/sbin/sshd ssh ssh-keygen)
port=2222
variants=(any loopback forward)
# A server of another user could accept only that user.
user=root group=root

prepare() {
    ssh-keygen -q -t ed25519 -N '' -f host_key
    ssh-keygen -q -t ed25519 -N '' -f client_key
}

server() {
    local listen=''
    [ "$variant" != loopback ] || listen=$'ListenAddress 127.0.0.1\nListenAddress ::1'
    cat >sshd_config <<END
Port $port
$listen
HostKey $shared/host_key
AuthorizedKeysFile $shared/client_key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
LogLevel VERBOSE
ForceCommand echo $who \$SSH_CONNECTION
END
    # It needs /run/sshd, which systemd creates otherwise: it gets its own /run, and a root that may log in by key.
    sed 's/^root:[^:]*:/root:*:/' /etc/shadow >shadow
    # shellcheck disable=SC2016 # $0 is the inner shell's
    exec unshare --mount sh -ec 'mount --bind shadow /etc/shadow
        mount -t tmpfs tmpfs /run
        mkdir /run/sshd
        exec /usr/sbin/sshd -D -e -f "$0/sshd_config"' "$work"
}

options=(-F /dev/null -p "$port" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
    -o LogLevel=ERROR -o ConnectTimeout=3 -o IdentitiesOnly=yes -o IdentityAgent=none)

client() {
    local options=("${options[@]}" -i "$shared/client_key")
    # SSH_CONNECTION is the client's address and port, the server's address and port.
    if [ "$variant" = forward ]; then
        ssh "${options[@]}" -o ProxyCommand="ssh ${options[*]} -W localhost:$port root@$1" root@localhost
    else
        # shellcheck disable=SC2029 # no command is given
        ssh "${options[@]}" "root@$1"
    fi | awk '{ print $1, $2, "at", $4 }'
}

logged() { sed -nE 's/^Connection from (.*) port [0-9]+ on (.*) port .*/\1 at \2/p' output; }
