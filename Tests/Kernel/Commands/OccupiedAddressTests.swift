// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// Programs of no session that wait on the addresses of sessions to come, with sockets that take no privilege.
@Suite(.serialized, .requiresRoot)
struct OccupiedAddressTests: CommandHost {
    /// Binds sockets on the addresses that the next sessions get, as an unprivileged user, and keeps them.
    private static let squatter = """
        import os, socket as s, sys
        os.setgid(65534); os.setuid(65534)
        held = []
        for kind, address, port in (word.split("/") for word in sys.argv[1:]):
            six = ":" in address
            k = s.socket(s.AF_INET6 if six else s.AF_INET, s.SOCK_DGRAM if kind == "udp" else s.SOCK_STREAM)
            k.setsockopt(s.IPPROTO_IPV6 if six else s.IPPROTO_IP, 78 if six else 15, 1)  # IP_FREEBIND
            k.bind((address, int(port)))
            if kind == "tcp": k.listen()
            held.append(k)
        print("ready", flush=True)
        sys.stdin.read()
        """

    private func squat(_ sandbox: Sandbox, _ sockets: String..., cgroup: String = "outside") throws -> Program {
        let program = try sandbox.start(["python3", "-c", Self.squatter] + sockets, in: cgroup)
        try #require(try program.readLine() == "ready")
        return program
    }

    private func open(_ sandbox: Sandbox, _ cgroup: String, _ more: String...) throws -> ControlResult {
        try sandbox.ctl(["session", "open", "--cgroup", sandbox.cgroup(cgroup)] + more)
    }

    @Test("passes over IDs whose loopback a program is on, and names it")
    func passesOverLoopbacks() throws {
        try attached { sandbox in
            let program = try squat(sandbox, "tcp/127.0.0.3/5432", "udp/127.0.0.4/5353", "tcp/fdd2:9088:43af::5/8080")
            let opened = try open(sandbox, "attached/ann")
            #expect(opened.stdout.hasPrefix("6 198.51.100.16 127.0.0.7 "), "\(opened)")
            let who = "process \(program.pid) (python3"
            #expect(opened.stderr.contains("passed over 127.0.0.3") && opened.stderr.contains(who), "\(opened)")
            #expect(opened.stderr.contains("of user nobody has TCP port 5432"), "\(opened)")

            try refuses(
                sandbox,
                [("3", "UDP port 5353"), ("4", "TCP port 8080"), ("2", "TCP port 5432")].map {
                    (
                        ["session", "open", "--cgroup", try sandbox.cgroup("attached/bob"), "--id", $0], 1,
                        [who, "nobody", $1, "another ID"]
                    )
                })
            program.closeInput()
            try program.wait()
            _ = try sandbox.openSession("attached/bob", id: 2)
        }
    }

    @Test("destroys a listener on the next virtual IP, or gives another address, and names the program")
    func clearsVirtualIPs() throws {
        try attached(
            "virtualIP: {enabled: true, mode: perSession, addresses: {interface: eth0, probeSeconds: 0, pool: [198.51.100.16-198.51.100.23, \"2001:db8:51::100/120\"]}}"
        ) { sandbox in
            // A listener stays bound; a connection goes for good.
            let program = try squat(
                sandbox, "tcp/198.51.100.16/5433", "udp/198.51.100.17/5433", "tcp/2001:db8:51::101/5433")
            let opened = try open(sandbox, "attached/ann")
            #expect(opened.stdout.hasPrefix("2 198.51.100.18,2001:db8:51::102 "), "\(opened)")
            let who = "process \(program.pid) (python3"
            for address in ["198.51.100.16", "2001:db8:51::101"] {
                #expect(
                    opened.stderr.contains("passed over \(address), which is not free: \(who)"), "\(opened)")
            }
            try refuses(
                sandbox,
                [
                    "session", "open", "--cgroup", try sandbox.cgroup("attached/bob"), "--ip", "198.51.100.17",
                ], code: 1, who, "nobody", "UDP port 5433", "another address")
            program.closeInput()
            try program.wait()
        }
    }

    /// A connection that a session left behind: destroyed, and the address is free.
    @Test("destroys connections on a virtual IP before it is given")
    func clearsConnections() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/bob", id: 7, ips: ["198.51.100.20"])
            let server = try sandbox.probe("server", in: "outside", at: .outside)
            for command in ["socket l tcp", "bind l 198.51.100.2 7000", "listen l"] { try server.must(command) }
            let bob = try sandbox.probe("client", in: "attached/bob")
            for command in ["socket c tcp", "connect c 198.51.100.2 7000"] { try bob.must(command) }
            try sandbox.mustCtl("session", "close", "7", "--keep-sockets")
            let opened = try open(sandbox, "attached/ann", "--ip", "198.51.100.20")
            #expect(opened.status == 0 && opened.stderr.contains("destroyed sockets on 198.51.100.20"), "\(opened)")
            #expect(opened.stderr.contains("process \(bob.pid) (client)"), "\(opened)")
            #expect(try bob("recv c").errno == "ECONNABORTED")
        }
    }

    /// What the session's own programs have does not keep it from its addresses.
    @Test("opens a session again whose programs still have sockets")
    func opensASessionAgain() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/bob", id: 3, ips: ["198.51.100.20"])
            _ = try sandbox.cgroup("attached/bob/below")
            let bob = try sandbox.probe("server", in: "attached/bob/below")
            for command in ["socket u udp", "bind u 127.0.0.1 5999", "socket v udp", "bind v 0.0.0.0 5998"] {
                try bob.must(command)
            }
            try sandbox.mustCtl("session", "close", "3")
            _ = try sandbox.openSession("attached/bob", id: 3, ips: ["198.51.100.20"])
            try sandbox.mustCtl("session", "close", "3")
            // In another cgroup it is another session.
            try refuses(
                sandbox, ["session", "open", "--cgroup", try sandbox.cgroup("attached/ann"), "--id", "3"], code: 1,
                "process \(bob.pid) (server)", "UDP port 5999")
        }
    }

    /// One program on all loopbacks and all addresses that are likely: one look finds them all.
    @Test("passes over many IDs at once")
    func passesOverMany() throws {
        try attached { sandbox in
            let sockets = (3...202).map { "udp/127.0.0.\($0)/5432" } + (16...22).map { "udp/198.51.100.\($0)/5432" }
            let program = try sandbox.start(["python3", "-c", Self.squatter] + sockets, in: "outside")
            try #require(try program.readLine() == "ready")
            let opened = try open(sandbox, "attached/ann")
            #expect(opened.stdout.hasPrefix("202 198.51.100.23 127.0.0.203 "), "\(opened)")
            // The pool has no other one.
            try refuses(
                sandbox, ["session", "open", "--cgroup", try sandbox.cgroup("attached/bob")], code: 1,
                "7 with sockets of other programs")
        }
    }
}
