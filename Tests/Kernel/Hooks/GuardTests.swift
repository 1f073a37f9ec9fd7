// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// What programs of no session get: below the guarded cgroup, and under `withoutSession: deny` where sessions are made.
@Suite(.serialized, .requiresRoot, .stage6)
struct GuardTests: ContractSuite {
    let stage: Stage
    private var sandbox: Sandbox { stage.sandbox }

    /// Of the pools, and no session's.
    private static let pooled = "198.51.100.30"
    private static let pooled6 = "2001:db8:51::30"

    init() throws {
        stage = try #require(StageTrait.current)
    }

    /// - Parameter more: of `virtualIP`.
    private func enforce(isolation: Bool = true, _ more: String = "") throws {
        let policy = """
            virtualIP:
              enabled: true
              mode: perSession
              addresses:
                probeSeconds: 0
                interface: eth0
                pool: [198.51.100.16-198.51.100.40, "2001:db8:51::10-2001:db8:51::40"]
            \(more)
            virtualLoopback:
              enabled: true
              programs: ["*"]
              hostAddresses: [127.5.0.0/16]
            isolation: \(isolation)

            """
        try sandbox.mustCtl("policy", "apply", "--force", try sandbox.policyFile(policy))
    }

    private func guarding(_ path: String, _ body: () throws -> Void) throws {
        try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--guard", path)
        defer { _ = try? sandbox.ctl("attach", "cgroup", sandbox.attached, "--no-guard") }
        try body()
    }

    /// A program of a user who has no privilege.
    private func stranger(_ party: Party = .unhooked, first: [String] = []) throws -> Probe {
        let drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
        return try Probe(sandbox.start(drop + first + [Build.probe.path], in: party.cgroup))
    }

    private func expect(
        _ program: Probe, _ command: String, fails errno: String?, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let answer = try program(command)
        #expect(answer.errno == errno, "\(answer)", sourceLocation: sourceLocation)
    }

    // MARK: The guard

    /// The addresses that belong to sessions, open or to come, by the family of the socket.
    private static let sessions: [(family: String, address: String)] = [
        ("4", "127.0.0.5"), ("4", "\(Place.annLO)"), ("4", "\(Place.annVIP)"), ("4", pooled),
        ("6", "::ffff:127.0.0.5"), ("6", "::ffff:\(Place.annVIP)"), ("6", "\(Party.prefix):99"),
        ("6", "\(Place.annVIP6)"), ("6", pooled6),
    ]

    @Test(arguments: ["tcp", "udp", "mptcp"], [Party.unhooked, .nobody])
    func noAddressOfASession(transport: String, party: Party) throws {
        try enforce()
        let program = try stranger(party)
        func tryAll(_ expected: (String) -> String?) throws {
            for (family, address) in Self.sessions {
                try program.must("socket s \(transport) \(family)")
                try program.must("setsockopt s \(family == "4" ? "freebind" : "freebind6") 1")
                try expect(program, "bind s \(address) \(stage.newPort())", fails: expected(address))
                try program.must("close s")
            }
        }
        try tryAll { _ in nil }
        try guarding(sandbox.cgroup) { try tryAll { _ in "EADDRNOTAVAIL" } }
        try tryAll { _ in nil }
    }

    @Test(arguments: ["tcp", "udp", "mptcp"])
    func noLoopbackOfASession(transport: String) throws {
        try enforce()
        let port = stage.newPort()
        let ann = try sandbox.probe("app", in: Party.ann.cgroup)
        for family in ["4", "6"] {
            try ann.must("socket l\(family) \(transport) \(family)")
            if family == "6" { try ann.must("setsockopt l6 v6only 1") }
            try ann.must("bind l\(family) \(family == "4" ? "127.0.0.1" : "::1") \(port)")
            if transport != "udp" { try ann.must("listen l\(family)") }
        }
        let cron = try stranger()
        let places = [("4", Place.annLO), ("6", .annLO6), ("6", .mapped(.annLO))]
        try guarding(sandbox.cgroup) {
            for (family, place) in places {
                try cron.must("socket c \(transport) \(family)")
                try expect(cron, "connect c \(place) \(port)", fails: "ECONNREFUSED")
                if transport == "udp" { try expect(cron, "sendto c \(place) \(port) secret", fails: "ECONNREFUSED") }
                try cron.must("close c")
            }
        }
        // Without the guard, it is reached.
        for (family, place) in places {
            try cron.must("socket c \(transport) \(family)")
            try cron.must("connect c \(place) \(port)")
            try cron.must("close c")
        }
    }

    @Test func noForgedSource() throws {
        try enforce()
        let port = stage.newPort()
        let program = try stranger()
        try guarding(sandbox.cgroup) {
            for (family, to, sources) in [
                ("4", Place.remote, ["\(Place.annVIP)", "127.0.0.9", "127.0.0.6"]),
                ("6", .remote6, ["\(Place.annVIP6)", Self.pooled6, "\(Party.prefix):99"]),
            ] {
                for source in sources {
                    try program.must("socket s udp \(family)")
                    if family == "6" { try program.must("setsockopt s freebind6 1") }
                    try expect(program, "sendmsg-pktinfo s \(to) \(port) \(source) hello", fails: "EADDRNOTAVAIL")
                    try program.must("close s")
                }
            }
        }
    }

    @Test("a stranger sends to no group from a session's address, and to nobody's IPv6 socket by way of 127.0.0.6")
    func noForgedGroupSource() throws {
        try enforce()
        let port = stage.newPort()
        let program = try stranger()
        try guarding(sandbox.cgroup) {
            for (family, group, another, loopback) in [
                ("4", "239.1.2.3", "239.1.2.4", "127.0.0.6"),
                ("6", "::ffff:239.1.2.3", "::ffff:239.1.2.4", "::ffff:127.0.0.6"),
            ] {
                try program.must("socket s udp \(family)")
                try program.must("setsockopt s multicast_if \(Place.annVIP.inMemory)")
                try expect(program, "sendto s \(group) \(port) hello", fails: "EADDRNOTAVAIL")
                try expect(program, "connect s \(group) \(port)", fails: "EADDRNOTAVAIL")
                try program.must("setsockopt s multicast_if \(Place.host.inMemory)")
                try expect(program, "sendto s \(another) \(port) hello", fails: nil)
                try expect(program, "sendto s \(loopback) \(port) hello", fails: "ECONNREFUSED")
                try expect(program, "connect s \(loopback) \(port)", fails: "ECONNREFUSED")
                try program.must("close s")
            }
        }
    }

    /// What is nobody's of the sessions is as it was, and so are root and the sessions.
    @Test func everythingElseIsLeftAlone() throws {
        try enforce()
        let port = stage.newPort()
        let host = try sandbox.probe("app", in: Party.unhooked.cgroup)
        let program = try stranger()
        let ann = try stranger(.ann)
        let inner = try stranger(
            .unhooked, first: ["unshare", "-Urn", "--", "sh", "-c", "ip link set lo up && exec \"$0\""])
        let remote = try sandbox.probe("app", in: Party.remote.cgroup, at: .outside)
        try remote.must("socket l tcp")
        try remote.must("bind l 0.0.0.0 \(port)")
        try remote.must("listen l")
        try guarding(sandbox.cgroup) {
            for (family, address) in [
                ("4", "0.0.0.0"), ("4", "127.0.0.1"), ("4", "127.0.0.53"), ("4", "127.5.0.1"),
                ("4", Sandbox.hostAddress), ("6", "::"), ("6", "::1"), ("6", Sandbox.hostAddress6),
            ] {
                for transport in ["tcp", "udp"] {
                    try program.must("socket s \(transport) \(family)")
                    try program.must("bind s \(address) \(port)")
                    #expect(try program.must("getsockname s").endpoint == "\(address):\(port)")
                    if transport == "tcp" {
                        try program.must("listen s")
                        try program.must("socket c tcp \(family)")
                        try program.must("connect c \(address) \(port)")
                        try program.must("close c")
                    }
                    try program.must("close s")
                }
            }
            try program.must("socket s udp")
            try program.must("sendmsg-pktinfo s \(Place.remote) \(port) \(Sandbox.hostAddress) hello")
            try program.must("socket c tcp")
            try program.must("connect c \(Place.remote) \(port)")
            // Root: the daemons of the host, and vip-bpf itself.
            try host.must("socket s udp")
            try host.must("setsockopt s freebind 1")
            try host.must("bind s \(Self.pooled) \(stage.newPort())")
            // A session gets its own, as without the guard; its loopback is its own.
            try ann.must("socket s udp")
            try ann.must("bind s \(Place.annVIP) \(stage.newPort())")
            try ann.must("socket o udp")
            try ann.must("bind o \(Place.annLO) \(stage.newPort())")
            try expect(ann, "connect o \(Place.benLO) \(port)", fails: "ECONNREFUSED")
            // A container.
            try inner.must("socket s udp")
            try inner.must("bind s 127.0.0.9 \(port)")
        }
    }

    private func notes(_ pid: Int32) throws -> String {
        let explained = try sandbox.mustCtl("explain", "\(pid)")
        return explained.stdout
    }

    @Test func isExplainedAndReported() throws {
        try enforce("  withoutSession: deny")
        let program = try stranger(.nobody)
        let root = try sandbox.probe("app", in: Party.nobody.cgroup)
        let denied = "the policy has withoutSession: deny"
        let guarded = "it is below the guarded cgroup"
        #expect(try notes(program.pid).contains(denied) && !notes(program.pid).contains(guarded))
        #expect(try !notes(root.pid).contains(denied))
        try guarding(sandbox.cgroup) {
            #expect(try notes(program.pid).contains(denied) && notes(program.pid).contains(guarded))
            #expect(try !notes(root.pid).contains(guarded))
            let watch = try sandbox.start(
                [Build.controller.path, "watch", "--json"], in: "control", environment: sandbox.controlEnvironment)
            try wait(for: "watch to listen") {
                try sandbox.mustCtl("map", "dump", "watchers", "--json").stdout.contains("\"pid\" : \(watch.pid),")
            }
            struct Seen: Decodable {
                let hook, verdict: String
                let session: UInt32?
                let errno: String?
                let pid: Int32
                let cgroupId: UInt64
            }
            try program.must("socket s udp")
            try expect(program, "bind s 0.0.0.0 \(stage.newPort())", fails: "EADDRNOTAVAIL")
            let outside = try stranger()
            try outside.must("socket s udp")
            try expect(outside, "connect s \(Place.annLO) 7", fails: "ECONNREFUSED")
            for (hook, errno, cgroup, pid) in [
                ("bind4", "EADDRNOTAVAIL", Party.nobody.cgroup, program.pid),
                ("guard_connect4", "ECONNREFUSED", Party.unhooked.cgroup, outside.pid),
            ] {
                let seen = try JSONDecoder.snake.decode(Seen.self, from: Data(watch.readLine().utf8))
                #expect(seen.hook == hook && seen.verdict == "refused" && seen.errno == errno, "\(seen)")
                let id = try FileManager.default.attributesOfItem(atPath: sandbox.cgroup(cgroup))[.systemFileNumber]
                #expect(seen.session == nil && seen.pid == pid && seen.cgroupId == id as? UInt64, "\(seen)")
            }
            watch.signal(SIGTERM)
            try watch.wait()
        }
    }

    @Test func withoutIsolationItGuardsNothing() throws {
        try enforce(isolation: false)
        let program = try stranger()
        try guarding(sandbox.cgroup) {
            try program.must("socket s udp")
            try program.must("bind s 127.0.0.9 \(stage.newPort())")
        }
    }

    @Test func isSetMovedAndRemoved() throws {
        try enforce()
        let first = try sandbox.cgroup("outside")
        let program = try stranger()
        func binds() throws -> Bool {
            try program.must("socket s udp")
            defer { _ = try? program("close s") }
            return try program("bind s 127.0.0.9 \(stage.newPort())").ok
        }
        try guarding(first) {
            let status = try sandbox.mustCtl("status").stdout
            #expect(status.contains("guarded: \(first): attached"), "\(status)")
            #expect(try !binds())
            // `attach` without a word about it leaves it as it is.
            #expect(try sandbox.mustCtl("attach", "cgroup", sandbox.attached).stdout.contains("guarded: \(first)"))
            #expect(try !binds())
            let other = try sandbox.cgroup("elsewhere")
            try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--guard", other)
            #expect(try binds())
            let check = try sandbox.ctl("check").stdout
            #expect(check.contains("\(other) is guarded"), "\(check)")
            // Neighbours that `check` reports are other people's programs.
            #expect(check.contains("no other programs at the hooks"), "\(check)")
        }
        #expect(try binds())
        #expect(try sandbox.mustCtl("status").stdout.contains("guarded: no cgroup"))
        #expect(try sandbox.ctl("check").stdout.contains("no cgroup is guarded"))
        for arguments in [["--guard", first, "--no-guard"], ["--guard", "/nowhere"], ["--guard", sandbox.directory]] {
            let refused = try sandbox.ctl(["attach", "cgroup", sandbox.attached] + arguments)
            #expect(refused.status != 0 && refused.stderr.split(separator: "\n").count == 1, "\(refused)")
        }
        #expect(try sandbox.mustCtl("status").stdout.contains("guarded: no cgroup"))
    }

    // MARK: withoutSession

    @Test(arguments: ["tcp", "udp", "mptcp"])
    func denied(transport: String) throws {
        try enforce("  withoutSession: deny")
        let port = stage.newPort()
        let program = try stranger(.nobody)
        for (family, address, errno) in [
            ("4", "0.0.0.0", "EADDRNOTAVAIL"), ("4", Sandbox.hostAddress, "EADDRNOTAVAIL"), ("4", "127.0.0.1", nil),
            ("4", "127.0.0.53", nil), ("4", "\(Place.annVIP)", "EADDRNOTAVAIL"),
            ("4", "\(Place.annLO)", "EADDRNOTAVAIL"), ("6", "::", "EADDRNOTAVAIL"), ("6", "::1", nil),
            ("6", Sandbox.hostAddress6, "EADDRNOTAVAIL"), ("6", "\(Place.annLO6)", "EADDRNOTAVAIL"),
        ] as [(String, String, String?)] {
            try program.must("socket s \(transport) \(family)")
            try expect(program, "bind s \(address) \(port)", fails: errno)
            if errno == nil { #expect(try program.must("getsockname s").endpoint == "\(address):\(port)") }
            try program.must("close s")
        }
        for (family, address, errno) in [
            ("4", "\(Place.remote)", "EADDRNOTAVAIL"), ("4", Sandbox.hostAddress, "EADDRNOTAVAIL"),
            ("6", "\(Place.remote6)", "EADDRNOTAVAIL"), ("4", "\(Place.annLO)", "ECONNREFUSED"),
            ("6", "\(Place.annLO6)", "ECONNREFUSED"),
        ] {
            try program.must("socket c \(transport) \(family)")
            try expect(program, "connect c \(address) \(port)", fails: errno)
            if transport == "udp" { try expect(program, "sendto c \(address) \(port) hello", fails: errno) }
            try program.must("close c")
        }
        // localhost is the host's.
        let host = try sandbox.probe("app", in: Party.unhooked.cgroup)
        for command in ["socket l tcp", "bind l 127.0.0.1 \(port)", "listen l"] { try host.must(command) }
        try program.must("socket c tcp")
        try program.must("connect c 127.0.0.1 \(port)")
        #expect(try program.must("getpeername c").endpoint == "127.0.0.1:\(port)")
    }

    /// Root, programs in the attached cgroup itself, those of sessions and of containers, and any while it is off.
    @Test func notDenied() throws {
        let port = stage.newPort()
        func binds(_ program: Probe, at address: String, _ shown: String) throws {
            try program.must("socket s udp")
            try program.must("bind s \(address) \(port)")
            #expect(try program.must("getsockname s").endpoint == "\(shown):\(port)")
            try program.must("close s")
        }
        try enforce("  withoutSession: deny")
        let root = try sandbox.probe("app", in: Party.nobody.cgroup)
        try binds(root, at: "0.0.0.0", "0.0.0.0")
        let drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
        let above = try Probe(sandbox.start(drop + [Build.probe.path], in: "attached"))
        try binds(above, at: "0.0.0.0", "0.0.0.0")
        let ann = try stranger(.ann)
        try binds(ann, at: "0.0.0.0", "\(Place.annVIP)")
        let inner = try stranger(
            .nobody, first: ["unshare", "-Urn", "--", "sh", "-c", "ip link set lo up && exec \"$0\""])
        try binds(inner, at: "0.0.0.0", "0.0.0.0")
        let program = try stranger(.nobody)
        try expect(program, "socket s udp", fails: nil)
        try expect(program, "bind s 0.0.0.0 \(port)", fails: "EADDRNOTAVAIL")
        try program.must("close s")
        try enforce()
        try binds(program, at: "0.0.0.0", "0.0.0.0")
    }

    // MARK: Shares

    /// One session's dual-stack servers leave room for the others'.
    @Test func noMoreDualStackServersThanItsShare() throws {
        try enforce("  dualStackServers: 3")
        let mallory = try stranger(.ben)
        let remote = try sandbox.probe("app", in: Party.remote.cgroup, at: .outside)
        func isReached(_ place: Place, _ port: UInt16) throws -> Bool {
            try remote.must("socket c tcp 6")
            defer { _ = try? remote("close c") }
            return try remote("connect c \(place) \(port)").ok
        }
        func serve(_ program: Probe, _ name: String) throws -> UInt16 {
            let port = stage.newPort()
            for command in ["socket \(name) tcp 6", "bind \(name) :: \(port)", "listen \(name)"] {
                try program.must(command)
            }
            return port
        }
        let ports = try (0..<5).map { try serve(mallory, "l\($0)") }
        #expect(try ports.map { try isReached(.benVIP6, $0) } == [true, true, true, false, false])
        #expect(try ports.map { try isReached(.mapped(.benVIP), $0) } == [true, true, true, true, true])
        let counts = try sandbox.mustCtl("map", "dump", "listener_counts").stdout
        #expect(counts.contains("servers 3"), "\(counts)")
        let page = try sandbox.mustCtl("metrics").stdout
        for line in ["vip_bpf_dual_stack_servers 3", "vip_bpf_dual_stack_servers_max 3"] {
            #expect(page.contains("\n\(line)\n"), "\(page)")
        }
        let check = try sandbox.ctl("check").stdout
        #expect(check.contains("session \(Party.ben.id ?? 0) has 3, its limit"), "\(check)")
        // Another session's are not concerned.
        let ann = try stranger(.ann)
        #expect(try isReached(.annVIP6, serve(ann, "l")))
        // One that ends makes room, however it ends.
        try mallory.must("close l0")
        #expect(try isReached(.benVIP6, serve(mallory, "n")))
        let killed = try stranger(.ben)
        mallory.program.signal(9)
        try mallory.program.wait()
        for name in ["a", "b", "c"] { #expect(try isReached(.benVIP6, serve(killed, name))) }
        #expect(try !isReached(.benVIP6, serve(killed, "d")))
    }
}
