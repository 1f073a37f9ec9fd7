// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// The sockets of a session end with its addresses, wherever their descriptors are.
@Suite(.serialized, .requiresRoot)
struct SessionSocketTests: CommandHost {
    /// A probe outside of every session that gets the socket `s` of another probe.
    private func hand(_ sandbox: Sandbox, _ socket: String, of owner: Probe) throws -> Probe {
        let thief = try sandbox.probe("thief", in: "outside")
        let path = "\(sandbox.directory)/mailbox-\(thief.pid)"
        try thief.must("mailbox \(path)")
        try owner.must("pass \(socket) \(path)")
        try thief.must("take s")
        return thief
    }

    private func end(_ probe: Probe) throws {
        probe.program.closeInput()
        try probe.program.wait()
    }

    /// A listener is passed out of its session, which ends. The next session with the ID has its own 127.0.0.1.
    @Test("ends a listener that was handed out of its session")
    func endsAListenerThatWasHandedOut() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/bob", id: 3)
            let bob = try sandbox.probe("server", in: "attached/bob")
            for command in ["socket l tcp", "bind l 127.0.0.1 5999", "listen l"] { try bob.must(command) }
            #expect(try bob.kernelView("l")?.local == "127.0.0.4:5999")
            let thief = try hand(sandbox, "l", of: bob)
            try end(bob)
            try sandbox.mustCtl("session", "close", "3")
            #expect(try thief("accept s c").errno == "EINVAL")
            try end(thief)

            let ann = try sandbox.openSession("attached/ann", id: 3)
            #expect(ann.virtualLoopback == "127.0.0.4")
            let client = try sandbox.probe("client", in: "attached/ann")
            try client.must("socket c tcp")
            #expect(try client("connect c 127.0.0.1 5999").errno == "ECONNREFUSED")
        }
    }

    /// A socket whose port the kernel chose keeps its address when it is destroyed, and its program listens again. The
    /// next session with the ID does not find it.
    @Test("hides sockets that were left on a session's address from the next session")
    func hidesWhatWasLeft() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/bob", id: 3, ips: ["198.51.100.20"])
            let bob = try Probe(
                sandbox.start(
                    ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", Build.probe.path],
                    in: "attached/bob"))
            for command in [
                "socket l tcp", "bind l 127.0.0.1 0", "listen l", "socket m tcp", "bind m 0.0.0.0 0", "listen m",
                "socket n tcp 6", "bind n ::1 0", "listen n", "socket u udp", "bind u 127.0.0.1 0",
            ] { try bob.must(command) }
            try sandbox.mustCtl("session", "close", "3")
            let ann = try sandbox.openSession("attached/ann", id: 3, ips: ["198.51.100.20"])
            #expect(ann.virtualLoopback == "127.0.0.4")
            for socket in ["l", "m", "n"] { try bob.must("listen \(socket)") }
            #expect(try bob("recv u").errno == "ECONNABORTED")
            // Whether it is sent does not matter. The kernel has given the socket a port before it asks the hook.
            _ = try bob("sendto u 127.0.0.1 9 text")
            let client = try sandbox.probe("client", in: "attached/ann")
            for (socket, kind, asked) in [
                ("l", "tcp", "127.0.0.1"), ("l", "tcp", "127.0.0.4"), ("m", "tcp", "127.0.0.1"),
                ("m", "tcp", "198.51.100.20"), ("n", "tcp 6", "::1"), ("u", "udp", "127.0.0.1"),
            ] {
                let view = try #require(try bob.kernelView(socket), "\(socket)")
                let port = try #require(view.local.split(separator: ":").last)
                try client.must("socket c \(kind)")
                let answer = try client("connect c \(asked) \(port)")
                #expect(answer.errno == "ECONNREFUSED", "\(answer) of \(view.local)")
                try client.must("close c")
            }
        }
    }

    @Test("ends connections and UDP sockets on virtual IP and loopback, and no others")
    func endsConnectionsAndDatagramSockets() throws {
        try attached { sandbox in
            let session = try sandbox.openSession("attached/bob", id: 3, ips: ["198.51.100.20"])
            _ = try sandbox.openSession("attached/ann", id: 4, ips: ["198.51.100.21"])
            let outside = try sandbox.probe("server", in: "outside", at: .outside)
            for command in ["socket l tcp", "bind l 198.51.100.2 7000", "listen l"] { try outside.must(command) }
            var probes: [Probe] = []
            for cgroup in ["attached/bob", "attached/ann"] {
                let probe = try sandbox.probe("program", in: cgroup)
                for command in [
                    "socket c tcp", "connect c 198.51.100.2 7000", "socket u udp", "bind u 0.0.0.0 7001",
                    "socket v udp", "bind v 127.0.0.1 7002", "socket w udp 6", "bind w ::1 7003", "socket m tcp 6",
                    "bind m :: 7004", "listen m",
                ] { try probe.must(command) }
                probes.append(probe)
            }
            try outside.must("accept l c")
            try sandbox.mustCtl("session", "close", "3")
            #expect(try probes[0]("recv c").errno == "ECONNABORTED")
            #expect(try outside("recv c").errno == "ECONNRESET")
            for socket in ["u", "v", "w"] { #expect(try probes[0]("recv \(socket)").errno == "ECONNABORTED") }
            #expect(try probes[0]("accept m x").errno == "EINVAL")
            #expect(session.virtualIps == ["198.51.100.20"])

            // The sockets of the other session are unchanged.
            try outside.must("accept l d")
            try probes[1].must("send c text")
            #expect(try outside.must("recv d").data == "text")
            let client = try sandbox.probe("client", in: "attached/ann")
            for command in ["socket u udp", "sendto u 127.0.0.1 7002 text"] { try client.must(command) }
            #expect(try probes[1].must("recv v").data == "text")
        }
    }

    @Test("keeps the sockets with --keep-sockets")
    func keepsTheSockets() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/bob", id: 3)
            let bob = try sandbox.probe("server", in: "attached/bob")
            for command in ["socket l tcp", "bind l 127.0.0.1 5999", "listen l"] { try bob.must(command) }
            try sandbox.mustCtl("session", "close", "3", "--keep-sockets")
            let client = try sandbox.probe("client", in: "outside")
            for command in ["socket c tcp", "connect c 127.0.0.4 5999"] { try client.must(command) }
            try bob.must("accept l c")
        }
    }

    @Test("ends the sockets of all sessions with detach --all")
    func endsTheSocketsOfAll() throws {
        try attached { sandbox in
            _ = try sandbox.openSession("attached/bob", id: 3)
            let bob = try sandbox.probe("server", in: "attached/bob")
            for command in ["socket l tcp", "bind l 127.0.0.1 5999", "listen l"] { try bob.must(command) }
            try sandbox.mustCtl("detach", "--all")
            #expect(try bob("accept l c").errno == "EINVAL")
        }
    }
}
