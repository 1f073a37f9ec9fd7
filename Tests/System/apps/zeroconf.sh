# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# python3-zeroconf: multicast DNS, as avahi and Bonjour have it. Each session announces a service; its own browser and
# another host's find it, and answers leave from the session's virtual IP. The policy has port 5353 in
# `virtualIP.excludedPorts`.

needs=(/usr/bin/python3)
port=5353

# Prints "NAME from ADDRESS" of each announcement that arrives, once, and answers nothing.
peer() {
    exec /usr/bin/python3 -u - <<'END'
import socket, struct
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", 5353))
listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("198.51.100.2"))
# Tells whoever asks where announcements of a name came from.
teller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
teller.bind(("198.51.100.2", 9400))
print("ready")
import select
seen = {}
while True:
    for ready in select.select([listener, teller], [], [])[0]:
        data, sender = ready.recvfrom(9000)
        if ready is teller:
            teller.sendto(" ".join(sorted(seen.get(data, ["nobody"]))).encode(), sender)
        elif data[2] & 0x80: # an answer
            for name in b"base", b"stranger", b"ann", b"ben":
                if bytes([len(name)]) + name in data:
                    seen.setdefault(name, set()).add(sender[0])
END
}

job() {
    exec /usr/bin/python3 - "$who" <<'END'
import socket, sys, threading, time
from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, Zeroconf
who = sys.argv[1]
kind = "_vip._tcp.local."
found = threading.Event()
class Listener:
    def add_service(self, zeroconf, kind, name):
        if name == f"{who}.{kind}":
            found.set()
    def update_service(self, *_): pass
    def remove_service(self, *_): pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
    route.connect(("198.51.100.2", 9))
    own = route.getsockname()[0]
announcer, browser = (Zeroconf(ip_version=IPVersion.V4Only) for _ in range(2))
announcer.register_service(ServiceInfo(kind, f"{who}.{kind}", port=80, addresses=[socket.inet_aton(own)], server=f"{who}-host.local."))
ServiceBrowser(browser, kind, Listener())
print("own browser:", "finds it" if found.wait(10) else "does not find it")
info = browser.get_service_info(kind, f"{who}.{kind}", 5000)
print("address:", *(info.parsed_addresses() if info else ["none"]))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
    asker.settimeout(5)
    asker.sendto(who.encode(), ("198.51.100.2", 9400))
    print("another host hears it from:", asker.recv(1000).decode())
browser.close()
announcer.close()
END
}
