# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2016,SC2034,SC2154
#
# Rootless podman, with an image made from a directory that holds busybox alone: containers with the network of
# slirp4netns, with a published port, with no network, and with the session's own (--network host).

needs=(podman slirp4netns newuidmap crun busybox python3)
port=9700
variants=(slirp4netns publish none host)
# Root gives nobody subordinate IDs, in a mount namespace of its own.
user=root group=root

prepare() {
    mkdir -p root/bin root/etc root/tmp root/proc root/sys root/dev root/www
    cp "$(command -v busybox)" root/bin/busybox
    # Debian's busybox is dynamic, busybox-static is not; only one of them can be installed.
    { ldd root/bin/busybox 2>/dev/null || true; } | grep -o '/[^ ]*' | xargs -r cp -L --parents -t root
    ln -s busybox root/bin/sh
    echo 'hello from a container' >root/www/index.html
    tar -C root -cf image.tar .
    echo 'nobody:100000:65536' >subid
}

peer() { exec python3 "$programs/whoami.py" 0.0.0.0 "$port"; }

job() {
    chown nobody: .
    # crun refuses a host that has cgroup v1 beside v2. Debian 12 has v2 alone, and so does this mount namespace.
    exec unshare --mount sh -ec 'mount --bind "$shared/subid" /etc/subuid
        mount --bind "$shared/subid" /etc/subgid
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        exec setpriv --reuid nobody --regid nogroup --clear-groups -- bash -euo pipefail -c "$0"' "$(declare -f as_nobody); as_nobody"
}

as_nobody() {
    local options=() own # the address from which other hosts are reached
    export HOME=$work XDG_RUNTIME_DIR=$work/run TMPDIR=$work
    mkdir -m 700 run
    mkdir -p .config/containers
    printf '[storage]\ndriver = "vfs"\n' >.config/containers/storage.conf
    printf '[engine]\nevents_logger = "file"\ncgroup_manager = "cgroupfs"\nruntime = "crun"\n' >.config/containers/containers.conf
    podman import --quiet "$shared/image.tar" vip-test >&2
    mkfifo own
    python3 "$programs/whoami.py" 127.0.0.1 $((port + 1)) >own &
    read -r _ <own
    container() { podman run --rm --cgroups disabled "${options[@]}" vip-test /bin/sh -ec "$1" sh "$port"; }
    case $variant in
    slirp4netns)
        options=(--network slirp4netns:allow_host_loopback=true)
        container 'echo "another host: $(busybox nc 198.51.100.2 "$1" </dev/null)"
            echo "the loopback of the session: $(busybox nc 10.0.2.2 $(($1 + 1)) </dev/null)"
            echo "its own loopback: $(busybox nc 127.0.0.1 $(($1 + 1)) </dev/null 2>&1)"'
        ;;
    none)
        options=(--network none)
        container 'busybox httpd -p 0.0.0.0:80 -h /www
            echo "127.0.0.1: $(busybox wget -qO- http://127.0.0.1/)"
            echo "::1: $(busybox wget -qO- "http://[::1]/" 2>&1)"'
        ;;
    host)
        options=(--network host)
        container 'busybox httpd -p 0.0.0.0:$(($1 + 2)) -h /www
            echo "another host: $(busybox nc 198.51.100.2 "$1" </dev/null)"
            echo "the loopback of the session: $(busybox nc 127.0.0.1 $(($1 + 1)) </dev/null)"
            echo "own server: $(busybox wget -qO- "http://127.0.0.1:$(($1 + 2))/")"'
        ;;
    publish)
        options=(--detach --network slirp4netns --publish $((port + 2)):80)
        container 'exec busybox httpd -f -p 80 -h /www' >&2
        own=$(python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(("198.51.100.2", 9)); print(s.getsockname()[0])')
        echo "published, at 127.0.0.1: $(busybox wget -qO- "http://127.0.0.1:$((port + 2))/" 2>&1)"
        echo "published, at its address: $(busybox wget -qO- "http://$own:$((port + 2))/" 2>&1)"
        podman stop --all --time 0 >&2
        ;;
    esac
}
