# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Go's package net, which makes its system calls without libc. `local` is a client with net.Dialer{LocalAddr: [::]:0}.

needs=(go)
port=9500
variants=(any 0.0.0.0 127.0.0.1 udp local)

limit() {
    case "$variant $1" in
    *"'s loopback"*) ;;
    'local '*::1* | 'local '*localhost* | 'local '*VIP6*) echo 'a dual-stack TCP socket that has bound :: cannot connect to IPv6' ;;
    'udp '*::1* | 'udp '*localhost* | 'udp '*VIP6*) echo 'a UDP server on :: is not reached by IPv6' ;;
    esac
}

targets() {
    case $variant in
    0.0.0.0) echo localhost 127.0.0.1 VIP4 ;;
    127.0.0.1) echo localhost 127.0.0.1 ;;
    *) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    esac
}

prepare() {
    cat >program.go <<'END'
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func host(address net.Addr) string {
	host, _, _ := net.SplitHostPort(address.String())
	return host
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	role, variant, address, who := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	network := "tcp"
	if variant == "udp" {
		network = "udp"
	}
	switch {
	case role == "server" && network == "udp":
		server, err := net.ListenPacket("udp", address)
		check(err)
		for question := make([]byte, 100); ; {
			_, client, err := server.ReadFrom(question)
			check(err)
			fmt.Println("client", host(client))
			_, err = server.WriteTo([]byte(who+" "+host(client)), client)
			check(err)
		}
	case role == "server":
		server, err := net.Listen("tcp", address)
		check(err)
		for {
			client, err := server.Accept()
			check(err)
			fmt.Println("client", host(client.RemoteAddr()))
			fmt.Fprint(client, who, " ", host(client.RemoteAddr()), " at ", host(client.LocalAddr()))
			client.Close()
		}
	default:
		dialer := net.Dialer{Timeout: 4 * time.Second}
		if variant == "local" {
			dialer.LocalAddr = &net.TCPAddr{IP: net.IPv6unspecified}
		}
		server, err := dialer.Dial(network, address)
		check(err)
		server.SetDeadline(time.Now().Add(4 * time.Second))
		answer := make([]byte, 200)
		if network == "udp" {
			server.Write([]byte("question"))
		}
		size, err := server.Read(answer)
		if err != io.EOF {
			check(err)
		}
		fmt.Println(string(answer[:size]), "client: from", host(server.LocalAddr()), "to", host(server.RemoteAddr()))
	}
}
END
    HOME=$work GOCACHE=$work/cache GOFLAGS=-mod=mod GO111MODULE=off CGO_ENABLED=0 go build -o program program.go
    rm -rf cache
}

server() {
    local address=:$port
    case $variant in *.*) address=$variant:$port ;; esac
    exec "$shared/program" server "$variant" "$address" "$who"
}

# Errors name the client's port.
client() { "$shared/program" client "$variant" "$(bracketed "$1"):$port" "$who" | sed -E 's/(\]|[0-9]):[0-9]+->/\1->/g'; }
logged() { sed -n 's/^client //p' output; }
