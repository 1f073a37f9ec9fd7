#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A DHCP server that does as it is told, on eth0.

Standard input has one JSON object in a line for each change of behaviour, the next one after "done":

  offer    the address to offer, and to acknowledge to those who select
  renew    what becomes of renewals: "ack" (the default), "nak", "silent", or an address to acknowledge instead
  seconds  the lease time; null leaves it out
  server   the server identifier; null leaves it out
  silent   true: says nothing at all
  garbage  true: each answer becomes many, none of which a client may take

Standard output says what came: TYPE REQUESTED-ADDRESS CIADDR CLIENT-IDENTIFIER, or "ready".
"""
import json
import select
import socket
import struct
import sys

TYPES = {1: "DISCOVER", 3: "REQUEST", 4: "DECLINE", 7: "RELEASE"}
COOKIE = bytes([99, 130, 83, 99])
state = {"seconds": 60, "server": "198.18.0.1", "renew": "ack"}


def options(data):
    found, at = {}, 240
    while at + 1 < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found


def address(data):
    return socket.inet_ntoa(data) if data and len(data) == 4 else "-"


def answer(query, kind, yiaddr):
    packet = bytearray(240)
    packet[0:4] = bytes([2, 1, 6, 0])
    packet[4:8] = query[4:8]
    packet[10:12] = query[10:12]
    packet[16:20] = socket.inet_aton(yiaddr)
    packet[28:44] = query[28:44]
    packet[236:240] = COOKIE
    packet += bytes([53, 1, kind])
    if state["server"]:
        packet += bytes([54, 4]) + socket.inet_aton(state["server"])
    if state["seconds"] is not None and kind != 6:
        packet += bytes([51, 4]) + struct.pack("!I", state["seconds"])
    packet += bytes([255])
    return bytes(packet) + bytes(max(0, 300 - len(packet)))


def spoiled(good):
    """What looks like `good`, and is not."""
    for length in (0, 1, 3, 7, 43, 44, 100, 235, 236, 239):
        yield good[:length]  # cut before the options
    yield good[:4] + bytes(byte ^ 255 for byte in good[4:8]) + good[8:]  # another transaction's
    yield good[:28] + bytes([2, 9, 9, 9, 9, 9]) + good[34:]  # for another hardware address
    yield good[:2] + bytes([0]) + good[3:]  # with a hardware address of no length
    yield good[:236] + bytes(4) + good[240:]  # without the cookie
    yield good[:240] + bytes([255]) + bytes(59)  # without options
    yield good[:240] + bytes(60)  # padding alone, no end
    yield good[:240] + bytes([53, 200])  # an option that runs past the end
    yield good[:240] + bytes([53, 0, 255]) + bytes(57)  # a type of no length
    yield good[:240] + bytes([53, 1, 99, 255]) + bytes(56)  # an unknown type
    yield good[:240] + bytes([52, 1, 3]) + bytes([51, 4, 0])  # overload, and the end is inside an option
    yield bytes(300)
    yield bytes([255]) * 548


def answers(query):
    got = options(query)
    kind = got.get(53, b"\0")[0]
    ciaddr = address(query[12:16])
    print(TYPES.get(kind, kind), address(got.get(50)), ciaddr, got.get(61, b"").hex() or "-", flush=True)
    if state.get("silent") or kind not in (1, 3) or "offer" not in state:
        return []
    if kind == 1:
        good = answer(query, 2, state["offer"])
    elif ciaddr == "0.0.0.0":
        good = answer(query, 5, state["offer"])
    elif state["renew"] == "silent":
        return []
    elif state["renew"] == "nak":
        good = answer(query, 6, "0.0.0.0")
    else:
        good = answer(query, 5, ciaddr if state["renew"] == "ack" else state["renew"])
    return list(spoiled(good)) if state.get("garbage") else [good]


def main():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    server.bind(("", 67))
    print("ready", flush=True)
    while True:
        for source in select.select([sys.stdin, server], [], [])[0]:
            if source is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                state.update(json.loads(line))
                print("done", flush=True)
                continue
            query, client = server.recvfrom(2048)
            for packet in answers(query):
                # The renewal came by unicast, so its answer is sent by unicast.
                unicast = query[12:16] != bytes(4) and client[0] != "0.0.0.0"
                server.sendto(packet, (client[0] if unicast else "255.255.255.255", 68))


main()
