// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// What a hostile program of a session tries, without any privilege: docs/security.md says what is promised. The policy
/// has pools, so that it governs addresses that no session has.
@Suite(.serialized, .requiresRoot, .stage6)
struct IsolationTests: ContractSuite {
    let stage: Stage
    private var sandbox: Sandbox { stage.sandbox }

    /// Of the pools, and no session's.
    private static let pooled = "198.51.100.30"
    private static let pooled6 = "2001:db8:51::30"
    /// Of no interface and no pool.
    private static let foreign6 = "2001:db8:99::1"

    init() throws {
        stage = try #require(StageTrait.current)
    }

    /// - Parameter more: of `virtualLoopback`.
    private func enforce(mode: String = "perSession", isolation: Bool = true, _ more: String = "") throws {
        // Whatever the other suites' rows have in force is not this.
        let policy = """
            virtualIP:
              enabled: true
              mode: \(mode)
              addresses:
                probeSeconds: 0
                interface: eth0
                pool: [198.51.100.16-198.51.100.40, "2001:db8:51::10-2001:db8:51::40"]
            virtualLoopback:
              enabled: true
              programs: ["*"]
            \(more)
            isolation: \(isolation)

            """
        try sandbox.mustCtl("policy", "apply", "--force", try sandbox.policyFile(policy))
    }

    /// A program of a user who has no privilege.
    private func attacker(_ party: Party, first: [String] = []) throws -> Probe {
        let drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]
        return try Probe(sandbox.start(drop + first + [Build.probe.path], in: party.cgroup))
    }

    private func expect(
        _ program: Probe, _ command: String, fails errno: String, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let answer = try program(command)
        #expect(answer.errno == errno, "\(answer)", sourceLocation: sourceLocation)
    }

    // MARK: Addresses of sessions to come

    @Test(arguments: ["tcp", "udp", "mptcp"])
    func noLoopbackOfASessionToCome(transport: String) throws {
        try enforce()
        let port = stage.newPort()
        let mallory = try attacker(.ann)
        for address in ["127.0.0.5", "127.0.0.6", "127.0.0.9", "127.255.255.254", "127.9.9.9"] {
            try mallory.must("socket s \(transport)")
            try expect(mallory, "bind s \(address) \(port)", fails: "EADDRNOTAVAIL")
            try mallory.must("setsockopt s freebind 1")
            try expect(mallory, "bind s \(address) \(port)", fails: "EADDRNOTAVAIL")
            try mallory.must("close s")
        }
        try mallory.must("socket six \(transport) 6")
        try expect(mallory, "bind six \(Party.prefix):99 \(port)", fails: "EADDRNOTAVAIL")
        try expect(mallory, "bind six ::ffff:127.0.0.5 \(port)", fails: "EADDRNOTAVAIL")
    }

    @Test(arguments: ["tcp", "udp", "mptcp"])
    func noVirtualIPOfASessionToCome(transport: String) throws {
        // To a V-program it is one of the host's addresses; to any other, another session's.
        try enforce()
        let port = stage.newPort()
        let mallory = try attacker(.ann)
        for (family, address, own) in [
            ("4", Self.pooled, Place.annVIP), ("6", Self.pooled6, .annVIP6),
            ("6", "::ffff:\(Self.pooled)", .mapped(.annVIP)),
        ] {
            try mallory.must("socket s \(transport) \(family)")
            try mallory.must("setsockopt s \(family == "4" ? "freebind" : "freebind6") 1")
            try mallory.must("bind s \(address) \(port)")
            #expect(try mallory.must("getsockname s").endpoint == "\(own):\(port)")
            try mallory.must("close s")
        }
        try enforce(mode: "perProgram")
        for (family, address) in [("4", Self.pooled), ("6", Self.pooled6), ("6", "::ffff:\(Self.pooled)")] {
            try mallory.must("socket s \(transport) \(family)")
            try mallory.must("setsockopt s \(family == "4" ? "freebind" : "freebind6") 1")
            try expect(mallory, "bind s \(address) \(port)", fails: "EADDRNOTAVAIL")
            try mallory.must("close s")
        }
    }

    @Test func noForgedSource() throws {
        try enforce()
        let port = stage.newPort()
        let mallory = try attacker(.ann)
        for (family, to, sources) in [
            ("4", Place.remote, [Self.pooled, "127.0.0.9", "127.0.0.6", Party.ben.virtualIP ?? ""]),
            ("6", .remote6, [Self.pooled6, Self.foreign6, "\(Party.prefix):99", Party.ben.virtualIP6 ?? ""]),
        ] {
            for source in sources {
                func open() throws {
                    try mallory.must("socket s udp \(family)")
                    // Without it, IPv6 says EINVAL before any hook runs, if the host does not have the address.
                    if family == "6" { try mallory.must("setsockopt s freebind6 1") }
                }
                try open()
                try expect(mallory, "sendmsg-pktinfo s \(to) \(port) \(source) hello", fails: "EADDRNOTAVAIL")
                // The kernel has given that socket a port by now, and no source.
                try mallory.must("close s")
                try open()
                try mallory.must("connect s \(to) \(port)")
                try expect(mallory, "sendmsg-pktinfo s - 0 \(source) hello", fails: "EADDRNOTAVAIL")
                try mallory.must("close s")
            }
        }
        for source in [Self.pooled6, Self.foreign6, "\(Party.prefix):99"] {
            try mallory.must("socket s udp 6")
            try expect(mallory, "sendmsg-pktinfo s \(Place.remote6) \(port) \(source) hello", fails: "EINVAL")
            try mallory.must("close s")
        }
        for transport in ["tcp", "udp"] {
            try mallory.must("socket s \(transport) 6")
            try mallory.must("setsockopt s freebind6 1")
            try expect(mallory, "bind s \(Self.foreign6) 0", fails: "EADDRNOTAVAIL")
            try mallory.must("close s")
        }
    }

    /// IP_MULTICAST_IF gives what goes to a group a source.
    @Test("sends to a group from no address of another session", arguments: ["4", "6"])
    func noForgedGroupSource(family: String) throws {
        let port = stage.newPort()
        let mallory = try attacker(.ann)
        let group = family == "4" ? "239.1.2.3" : "::ffff:239.1.2.3"
        func send(from source: Place, fails errno: String?) throws {
            try mallory.must("socket s udp \(family)")
            try mallory.must("setsockopt s multicast_if \(source.inMemory)")
            let answer = try mallory("sendto s \(group) \(port) hello")
            #expect(answer.errno == errno, "\(answer)")
            try mallory.must("close s")
            try mallory.must("socket s udp \(family)")
            try mallory.must("setsockopt s multicast_if \(source.inMemory)")
            let connect = try mallory("connect s \(group) \(port)")
            #expect(connect.errno == errno, "\(connect)")
            if errno == nil, family == "4" {
                #expect(try [source.address, Place.annVIP.address].contains(mallory.must("getsockname s").address))
            }
            try mallory.must("close s")
        }
        try enforce(mode: "perProgram")
        try send(from: .benVIP, fails: "EADDRNOTAVAIL")
        try send(from: .host, fails: nil)
        // A program with a virtual IP sends from that one.
        try enforce()
        try mallory.must("socket s udp")
        try mallory.must("setsockopt s multicast_if \(Place.benVIP.inMemory)")
        _ = try mallory("connect s \(group) \(port)")
        #expect(try mallory("getsockname s").address != Place.benVIP.address)
    }

    /// 127.0.0.6 is LOOPBACK4_IPV6: there the kernel finds AF_INET6 sockets that are not V6ONLY, whoever has them.
    @Test("sends nothing to another session's IPv6 socket by way of 127.0.0.6")
    func noWayBy127006() throws {
        try enforce(mode: "perProgram")
        let peerPort = stage.newPort()
        let ben = try sandbox.probe("app", in: Party.ben.cgroup)
        for command in ["socket u udp 6", "connect u \(Place.remote6) \(peerPort)"] { try ben.must(command) }
        let local = try #require(try ben.kernelView("u")?.local)
        let port = try #require(local.split(separator: ":").last.map(String.init))
        let mallory = try attacker(.ann)
        for (family, wildcard, to) in [("4", "0.0.0.0", "127.0.0.6"), ("6", "::", "::ffff:127.0.0.6")] {
            try mallory.must("socket s udp \(family)")
            try mallory.must("bind s \(wildcard) \(peerPort)")
            try expect(mallory, "sendto s \(to) \(port) forged", fails: "ECONNREFUSED")
            try expect(mallory, "sendmsg-pktinfo s \(to) \(port) \(to) forged", fails: "ECONNREFUSED")
            try expect(mallory, "connect s \(to) \(port)", fails: "ECONNREFUSED")
            try mallory.must("close s")
        }
        try ben.expectNothing("u", "a datagram of another session")
    }

    @Test func hostsLoopbacksAreLeftToIt() throws {
        try enforce("  hostAddresses: [127.5.0.0/16, 127.0.0.77]")
        let port = stage.newPort()
        let mallory = try attacker(.ann)
        for (address, errno) in [
            ("127.5.0.1", nil), ("127.5.255.255", nil), ("127.0.0.77", nil), ("127.0.0.53", nil), ("127.0.1.1", nil),
            ("127.6.0.0", "EADDRNOTAVAIL"), ("127.4.255.255", "EADDRNOTAVAIL"), ("127.0.0.78", "EADDRNOTAVAIL"),
        ] as [(String, String?)] {
            try mallory.must("socket s udp")
            let answer = try mallory("bind s \(address) \(port)")
            #expect(answer.errno == errno, "\(answer)")
            try mallory.must("close s")
        }
        // 127.0.0.77 is session 76's.
        let refused = try sandbox.ctl("session", "open", "--cgroup", try sandbox.cgroup("attached/more"), "--id", "76")
        #expect(refused.status == 1 && refused.stderr.contains("hostAddresses"), "\(refused.stderr)")
        let taken = try sandbox.mustCtl("map", "dump", "governed")
        #expect(taken.stdout.contains("127.5.0.0/16") && taken.stdout.contains("127.0.0.0/8"), "\(taken.stdout)")
    }

    @Test func withoutIsolationTheyAreTheHosts() throws {
        try enforce(mode: "perProgram", isolation: false)
        let mallory = try attacker(.ann)
        for (index, address) in ["127.0.0.9", Self.pooled].enumerated() {
            try mallory.must("socket s\(index) udp")
            try mallory.must("setsockopt s\(index) freebind 1")
            try mallory.must("bind s\(index) \(address) \(stage.newPort())")
        }
    }

    // MARK: The wildcard from inside

    @Test(arguments: [false, true])
    func noListenerWithoutBindIsAnothersLocalhost(isDualStack: Bool) throws {
        try enforce()
        let mallory = try attacker(.ben)
        try mallory.must("socket l tcp \(isDualStack ? "6" : "4")")
        try mallory.must("listen l")
        let local = try #require(try mallory.kernelView("l")?.local)
        let port = try #require(local.split(separator: ":").last.map(String.init))
        #expect(local == (isDualStack ? ":::\(port)" : "0.0.0.0:\(port)"))
        let ann = try sandbox.probe("app", in: Party.ann.cgroup)
        for address in ["127.0.0.1", "0.0.0.0", "\(Place.annLO)", "\(Place.annVIP)"] {
            for transport in ["tcp", "mptcp"] {
                try ann.must("socket c \(transport)")
                try expect(ann, "connect c \(address) \(port)", fails: "ECONNREFUSED")
                try ann.must("close c")
            }
        }
        if isDualStack {
            for address in ["::1", "::", "\(Place.annLO6)", "\(Place.annVIP6)", "::ffff:127.0.0.1"] {
                try ann.must("socket c tcp 6")
                try expect(ann, "connect c \(address) \(port)", fails: "ECONNREFUSED")
                try ann.must("close c")
            }
        }
        // Its own session finds it, and so does everybody where there is no isolation.
        let ben = try sandbox.probe("app", in: Party.ben.cgroup)
        try ben.must("socket c tcp")
        try ben.must("connect c 127.0.0.1 \(port)")
        try enforce(isolation: false)
        try ann.must("socket c tcp")
        try ann.must("connect c 127.0.0.1 \(port)")
    }

    @Test func noDatagramSocketWithoutBindIsAnothersLocalhost() throws {
        try enforce(mode: "perProgram")
        let mallory = try attacker(.ben)
        try mallory.must("socket u udp")
        try mallory.must("sendto u \(Place.remote) \(stage.newPort()) hello")
        let local = try #require(try mallory.kernelView("u")?.local)
        let port = try #require(local.split(separator: ":").last.map(String.init))
        #expect(local == "0.0.0.0:\(port)")
        let ann = try sandbox.probe("app", in: Party.ann.cgroup)
        for address in ["127.0.0.1", "\(Place.annLO)"] {
            try ann.must("socket c udp")
            try expect(ann, "sendto c \(address) \(port) secret", fails: "ECONNREFUSED")
            try expect(ann, "connect c \(address) \(port)", fails: "ECONNREFUSED")
            try ann.must("close c")
        }
        try mallory.expectNothing("u", "what came")
    }

    @Test func servicesOfTheHostAreFoundAsBefore() throws {
        try enforce()
        let host = try sandbox.probe("app", in: Party.unhooked.cgroup)
        let port = stage.newPort()
        for command in ["socket l tcp", "bind l 0.0.0.0 \(port)", "listen l"] { try host.must(command) }
        let ann = try sandbox.probe("app", in: Party.ann.cgroup)
        try ann.must("socket c tcp")
        try ann.must("connect c 127.0.0.1 \(port)")
        try host.must("accept l a")
    }

    @Test func noPortIsAimedAt() throws {
        try enforce()
        let mallory = try attacker(.ann)
        for family in ["4", "6"] {
            for transport in ["tcp", "udp"] {
                try mallory.must("socket s \(transport) \(family)")
                try expect(mallory, "setsockopt s local_port_range \(20001 << 16 | 20001)", fails: "ENOPROTOOPT")
                try mallory.must("setsockopt s reuseaddr 1")
                try mallory.must("close s")
            }
        }
        let outside = try attacker(.unhooked)
        try outside.must("socket s tcp")
        // Kernels before 6.3 do not have it.
        #expect(
            [nil, "ENOPROTOOPT"].contains(try outside("setsockopt s local_port_range \(20001 << 16 | 20001)").errno))
        try enforce(isolation: false)
        try mallory.must("socket s tcp")
        let answer = try mallory("setsockopt s local_port_range \(20001 << 16 | 20001)").errno
        #expect(answer == (try outside("setsockopt s local_port_range \(20001 << 16 | 20001)").errno))
    }

    /// A socket on the wildcard that is bound to a device is found by a client's packet, and by no look-up of connect.
    @Test func noSocketIsHiddenByADevice() throws {
        try enforce()
        let mallory = try attacker(.ann)
        let outside = try attacker(.unhooked)
        let root = try stage.start(.app)
        for socket in ["tcp 4", "udp 4", "tcp 6", "udp 6", "mptcp 4"] {
            for option in ["bindtoifindex", "bindtodevice"] {
                for program in [mallory, outside, root] { try program.must("socket s \(socket)") }
                try expect(mallory, "setsockopt s \(option) 1", fails: "EPERM")
                // "\u{1}" is no device.
                let plain = option == "bindtodevice" ? "ENODEV" : nil
                for program in [outside, root] {
                    #expect(try program("setsockopt s \(option) 1").errno == plain, "\(socket)")
                }
                for program in [mallory, outside, root] { try program.must("close s") }
            }
        }
        try enforce(isolation: false)
        for command in ["socket s tcp", "setsockopt s bindtoifindex 1"] { try mallory.must(command) }
    }

    /// A socket keeps an address that it has bound without a port. It must not bring it into another session.
    @Test(arguments: ["tcp", "udp", "mptcp"])
    func noForgedSourceWithoutAPort(transport: String) throws {
        try enforce()
        let (ann, ben) = (try stage.start(.app), try stage.start(.benApp))
        let path = "\(stage.sandbox.directory)/mailbox-\(transport)-\(stage.newPort())"
        for command in ["socket s \(transport)", "setsockopt s bind_no_port 1", "bind s 0.0.0.0 0"] {
            try ann.must(command)
        }
        try ben.must("mailbox \(path)")
        try ann.must("pass s \(path)")
        try ben.must("take s")
        try expect(ben, "connect s \(Place.remote.address) 9", fails: "EADDRNOTAVAIL")
    }

    @Test func protocolsThatNoHookSeesAreRefused() throws {
        try enforce()
        let mallory = try attacker(.ann)
        for family in ["4", "6"] { try expect(mallory, "socket s udplite \(family)", fails: "EPROTONOSUPPORT") }
        try enforce(isolation: false)
        let outside = try attacker(.unhooked)
        #expect(try mallory("socket s udplite").errno == (try outside("socket s udplite").errno))
    }

    // MARK: Network namespaces

    /// A container without a privilege: what it binds and connects to is its own.
    @Test func aNamespaceOfItsOwnIsLeftAlone() throws {
        try enforce()
        let port = stage.newPort()
        let inner = try attacker(
            .ann, first: ["unshare", "-Urn", "--", "sh", "-c", "ip link set lo up && exec \"$0\""])
        for (family, address) in [("4", "0.0.0.0"), ("4", "127.0.0.1"), ("6", "::"), ("6", "::1"), ("4", "127.0.0.9")] {
            for transport in ["tcp", "udp"] {
                try inner.must("socket s \(transport) \(family)")
                try inner.must("bind s \(address) \(port)")
                #expect(try inner.must("getsockname s").endpoint == "\(address):\(port)")
                if transport == "tcp" {
                    try inner.must("listen s")
                    try inner.must("socket c tcp \(family)")
                    try inner.must(
                        "connect c \(address == "0.0.0.0" ? "127.0.0.1" : address == "::" ? "::1" : address) \(port)")
                    try inner.must("close c")
                }
                try inner.must("close s")
            }
        }
        try inner.must("socket s udplite")
    }

    /// Its listener is in its own namespace: nothing that comes to the session's addresses is led there.
    @Test func aNamespacesListenerIsNotFoundOutsideOfIt() throws {
        try enforce()
        let port = stage.newPort()
        let inner = try attacker(
            .ann,
            first: [
                "unshare", "-Urn", "--", "sh", "-c",
                "ip link set lo up && ip addr add \(Place.annVIP)/32 dev lo && exec \"$0\"",
            ])
        for command in ["socket l tcp 6", "bind l :: \(port)", "listen l"] { try inner.must(command) }
        let host = try sandbox.probe("app", in: Party.unhooked.cgroup)
        for command in ["socket l tcp 6", "bind l :: \(port)", "listen l"] { try host.must(command) }
        let remote = try sandbox.probe("app", in: Party.remote.cgroup, at: .outside)
        try remote.must("socket c tcp 6")
        try remote.must("connect c \(Place.annVIP6) \(port)")
        try host.must("accept l a")
    }
}
