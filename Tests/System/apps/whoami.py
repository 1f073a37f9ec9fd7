# SPDX-License-Identifier: Apache-2.0
#
# whoami.py ADDRESS PORT…: answers each TCP connection and UDP datagram at these with the client's address. Prints
# "ready" when all of them are bound. ADDRESS may be 0.0.0.0, :: (IPv6 alone) or one address.
#
# whoami.py ask TITLE ADDRESS PORT: asks by both, and prints "TCP, TITLE: ANSWER" and "UDP, TITLE: ANSWER".
import socket
import sys
import threading


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def streams(server):
    while True:
        connection, client = server.accept()
        connection.sendall(client[0].encode())
        connection.close()


def datagrams(server):
    while True:
        client = server.recvfrom(100)[1]
        server.sendto(client[0].encode(), client)


if sys.argv[1] == "ask":
    title, address, port = sys.argv[2], sys.argv[3], int(sys.argv[4])
    with socket.create_connection((address, port), 5) as client:
        print(f"TCP, {title}:", client.recv(100).decode(), flush=True)
    with socket.socket(family(address), socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((address, port))
        client.send(b"who am I?")
        print(f"UDP, {title}:", client.recv(100).decode(), flush=True)
    sys.exit()

threads = []
for address, port in zip(sys.argv[1::2], sys.argv[2::2]):
    for kind, serve in (socket.SOCK_STREAM, streams), (socket.SOCK_DGRAM, datagrams):
        server = socket.socket(family(address), kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((address, int(port)))
        if kind == socket.SOCK_STREAM:
            server.listen()
        threads.append(threading.Thread(target=serve, args=(server,)))
for thread in threads:
    thread.start()
print("ready", flush=True)
