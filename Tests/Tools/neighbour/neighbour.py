#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# A neighbour on a link: it prints the frames that it receives, and sends frames on request.
#
#   neighbour.py INTERFACE
#
# Prints "ready", then a line for each received frame: `arp OPERATION SENDER-HARDWARE SENDER TARGET`, or
# `advertisement SOURCE-HARDWARE HOP-LIMIT FLAGS SOURCE TARGET OPTION-HARDWARE CHECKSUM-IS-RIGHT`.
#
# Reads commands, and prints "done" after each:
#   arp OPERATION SENDER-HARDWARE SENDER TARGET   broadcasts such a packet
#   frame HEX                                     sends a frame as it is, from the destination address on
#   flood SECONDS                                 broadcasts replies, each for another address; prints "done" first
#   respond LINE                                  runs LINE at every probe, with the probed address for the word PROBED
import os
import select
import socket
import struct
import sys
import time

interface = sys.argv[1]
arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
arp.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
arp.bind((interface, 0x0806))
ip6 = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
ip6.bind((interface, 0x86DD))


def hardware(data):
    return ":".join(f"{byte:02x}" for byte in data)


def packet(operation, sender_hardware, sender, target):
    source = bytes.fromhex(sender_hardware.replace(":", ""))
    return (b"\xff" * 6 + source + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, int(operation)) + source
            + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target))


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def do(line):
    word, *rest = line.split()
    if word == "arp":
        arp.send(packet(*rest))
    elif word == "frame":
        arp.send(bytes.fromhex(rest[0]))
    elif word == "flood":
        end, number = time.monotonic() + float(rest[0]), 0
        while time.monotonic() < end:
            number += 1
            arp.send(packet(2, "02:00:00:00:00:66", socket.inet_ntoa(struct.pack("!I", 0xCB007100 + number)), "0.0.0.0"))
    elif word == "respond":
        responses.append(" ".join(rest))


responses = []
print("ready", flush=True)
pending = b""
while True:
    for file in select.select([0, arp, ip6], [], [])[0]:
        if file == 0:
            data = os.read(0, 65536)
            if not data:
                sys.exit()
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                is_flood = line.startswith(b"flood")
                if is_flood:
                    print("done", flush=True)
                do(line.decode())
                if not is_flood:
                    print("done", flush=True)
        elif file is arp:
            data, address = arp.recvfrom(2048)
            if address[2] == socket.PACKET_OUTGOING or len(data) < 42:
                continue
            operation = struct.unpack("!H", data[20:22])[0]
            sender, target = socket.inet_ntoa(data[28:32]), socket.inet_ntoa(data[38:42])
            print("arp", operation, hardware(data[22:28]), sender, target, flush=True)
            if operation == 1 and sender == "0.0.0.0":
                for response in responses:
                    do(response.replace("PROBED", target))
        else:
            data, address = ip6.recvfrom(2048)
            if address[2] == socket.PACKET_OUTGOING or len(data) < 86 or data[20] != 58 or data[54] != 136:
                continue
            pseudo = data[22:54] + struct.pack("!II", len(data) - 54, 58)
            print("advertisement", hardware(data[6:12]), data[21], f"{data[58]:02x}",
                  socket.inet_ntop(socket.AF_INET6, data[22:38]), socket.inet_ntop(socket.AF_INET6, data[62:78]),
                  hardware(data[80:86]), checksum(pseudo + data[54:]) == 0xFFFF, flush=True)
