# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# A network namespace that a user makes: unshare -Urn, and bubblewrap. Inside, a server on each wildcard and each
# loopback address is asked, over TCP and UDP. Nothing of the session holds there.

needs=(unshare bwrap ip python3)
port=9100
variants=(unshare bwrap)

prepare() {
    cat >inside.py <<'END'
import socket, sys
port = int(sys.argv[1])
for listen, targets in {
    "0.0.0.0": ["127.0.0.1", "127.0.1.1"],
    "::": ["::1", "::ffff:127.0.0.1"],
    "127.0.0.1": ["127.0.0.1"],
    "::1": ["::1"],
}.items():
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        with socket.socket(family, kind) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.settimeout(5)
            server.bind((listen, port))
            if kind == socket.SOCK_STREAM:
                server.listen()
            for target in targets:
                title = f"{kind.name} from {target} to {listen}"
                with socket.socket(family, kind) as client:
                    client.settimeout(5)
                    client.connect((target, port))
                    client.send(b"question")
                    accepted, peer = server.accept() if kind == socket.SOCK_STREAM else server.recvfrom(20)
                    names = [s[0] for s in (server.getsockname(), peer, client.getsockname(), client.getpeername())]
                    print(f"{title}:", *names)
END
}

job() {
    case $variant in
    unshare) unshare -Urn sh -ec 'ip link set lo up; exec python3 "$@"' sh "$shared/inside.py" "$port" ;;
    bwrap) bwrap --unshare-net --dev-bind / / python3 "$shared/inside.py" "$port" ;;
    esac
}
