// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// The places of a family, as programs with one kind of socket name them.
struct Family: Sendable, CustomTestStringConvertible {
    let testDescription: String
    /// AF_INET6 with IPV6_V6ONLY, so that `::` is IPv6 only.
    var isV6Only = false
    let wildcard, localhost, host, remote, vip, lo, benVIP, benLO: Place

    static let four = Family(
        testDescription: "IPv4", wildcard: .wildcard, localhost: .localhost, host: .host, remote: .remote,
        vip: .annVIP, lo: .annLO, benVIP: .benVIP, benLO: .benLO)
    static let six = Family(
        testDescription: "IPv6", isV6Only: true, wildcard: .wildcard6, localhost: .localhost6, host: .host6,
        remote: .remote6, vip: .annVIP6, lo: .annLO6, benVIP: .benVIP6, benLO: .benLO6)
    static let mapped = Family(
        testDescription: "IPv4 on AF_INET6", wildcard: .mapped(.wildcard), localhost: .mapped(.localhost),
        host: .mapped(.host), remote: .mapped(.remote), vip: .mapped(.annVIP), lo: .mapped(.annLO),
        benVIP: .mapped(.benVIP), benLO: .mapped(.benLO))
    /// IPv6 without IPV6_V6ONLY.
    static let dual = Family(
        testDescription: "IPv6, dual-stack", wildcard: .wildcard6, localhost: .localhost6, host: .host6,
        remote: .remote6, vip: .annVIP6, lo: .annLO6, benVIP: .benVIP6, benLO: .benLO6)
    static let all = [four, six, mapped]

    /// The commands that make a socket.
    func socket(_ name: String, _ kind: String) -> [String] {
        guard wildcard.isIPv6 else { return ["socket \(name) \(kind)"] }
        return ["socket \(name) \(kind) 6"] + (isV6Only ? ["setsockopt \(name) v6only 1"] : [])
    }

    /// The same, and bound; a stream listens.
    func server(_ name: String, _ kind: String, on place: Place, _ port: UInt16, options: [String] = []) -> [String] {
        socket(name, kind) + options.map { "setsockopt \(name) \($0) 1" } + ["bind \(name) \(place) \(port)"]
            + (kind == "udp" ? [] : ["listen \(name)"])
    }
}

extension Stage {
    /// Starts a program that has made these calls successfully.
    func start(_ actor: Actor, doing commands: [String]) throws -> Probe {
        let program = try start(actor)
        for command in commands { try program.must(command) }
        return program
    }
}

extension Probe {
    /// Checks that nothing has arrived, without waiting.
    func expectNothing(_ socket: String, _ what: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        try must("setsockopt \(socket) nonblock 1")
        expect(try self("recvfrom \(socket)").errno, is: "EAGAIN", what, sourceLocation: sourceLocation)
    }
}

/// Every way to make a call and to get a socket must follow the contract. If the kernel has no hook for one, a test has
/// the result; its name begins with "limit".
@Suite(.serialized, .requiresRoot, .stage6)
struct PathTests: ContractSuite {
    let stage: Stage

    init() throws {
        stage = try #require(StageTrait.current)
    }

    // MARK: io_uring

    /// In the calling thread; in a worker of the kernel; in the kernel's thread that polls the queue.
    static let rings = ["uring", "uring-async", "uring-sqpoll"]

    static var hasRing: Bool {
        // 2: no process may use it. Before Linux 6.6 there is no such file.
        ((try? KernelFile.read("/proc/sys/kernel/io_uring_disabled")) ?? "0").first != "2"
    }

    private static func by(_ ring: String, _ actor: Actor) -> Actor {
        var copy = actor
        copy.first.append("path \(ring)")
        return copy
    }

    static let ringBindRows: [BindRow] = [
        BindRow.rows(vl, .app, .wildcard, at: .annVIP),
        BindRow.rows(vl, .app, .wildcard, at: .annVIP, port: 0),
        BindRow.rows(vl, .app, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(vl, .app, .host, at: .annVIP),
        BindRow.rows(vlp, .app, .wildcard, at: .annLO, named: .localhost),
        BindRow.rows(vl, .app, .benVIP, at: .annVIP),
        BindRow.rows(vl, .app, .benLO, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .poorApp, .wildcard, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .tool, .wildcard, at: .wildcard),
        BindRow.rows(vl, .nobody, .localhost, at: .localhost),
        BindRow.rows(vl, worker, .wildcard, at: .annVIP),
        BindRow.rows(vl, .app.only6, .wildcard6, at: .annVIP6),
        BindRow.rows(vl, .app, .wildcard6, at: .mapped(.annVIP)),
        BindRow.rows(vl, .app, .localhost6, at: .annLO6, named: .localhost6),
        BindRow.rows(vl, .app, .mapped(.localhost), at: .mapped(.annLO), named: .mapped(.localhost)),
        BindRow.rows(vl, .app, .benLO6, refused: "EADDRNOTAVAIL"),
    ].flatMap(\.self)

    static let ringConnectRows: [ConnectRow] = [
        ConnectRow.rows(vl, [(.app, .localhost)], .app, .localhost, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(vl, [(.app, .wildcard)], .app, .localhost, meets: .local(.annVIP, from: .annLO)),
        ConnectRow.rows(vl, [(.app, .wildcard)], .app, .host, meets: .plain(.annVIP, from: .annVIP)),
        ConnectRow.rows(vl, [(.remote, .wildcard)], .app, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(vl, [(.app, .wildcard)], .tool, .localhost, meets: .local(.annVIP, from: nil)),
        ConnectRow.rows(vl, [(.benApp, .localhost)], .app, .benLO, refused: "ECONNREFUSED", Transport.allCases),
        ConnectRow.rows(vl, [], .poorApp, .remote, refused: "EADDRNOTAVAIL", Transport.allCases),
        ConnectRow.rows(vl, unheard: [(.benApp, .localhost)], .app, .localhost),
        ConnectRow.rows(
            vl, [(.app, .localhost6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6)], .app, .localhost6, meets: .local6(.annVIP6, from: .annLO6)),
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(
            vl, [(.app, .wildcard6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6),
            Transport.plainStreams),
        ConnectRow.rows(
            vl, [(.app, .mapped(.localhost))], .app, .mapped(.localhost),
            meets: .local(.annLO, from: .annLO).mapped(client: true, server: true)),
        ConnectRow.rows(vl, [(.benApp, .localhost6)], .app, .benLO6, refused: "ECONNREFUSED", Transport.allCases),
    ].flatMap(\.self)

    @Test("decides a bind by io_uring as one by bind(2)", .enabled(if: hasRing), arguments: rings, ringBindRows)
    func bindByRing(ring: String, row: BindRow) throws {
        try stage.check(
            BindRow(
                policy: row.policy, actor: Self.by(ring, row.actor), asks: row.asks, outcome: row.outcome,
                transport: row.transport, port: row.port))
    }

    @Test(
        "decides a connect by io_uring as one by connect(2)", .enabled(if: hasRing), arguments: rings, ringConnectRows)
    func connectByRing(ring: String, row: ConnectRow) throws {
        try stage.check(
            ConnectRow(
                policy: row.policy, servers: row.servers.map { (Self.by(ring, $0.actor), $0.binds) },
                client: Self.by(ring, row.client), asks: row.asks, outcome: row.outcome, transport: row.transport))
    }

    /// A datagram with its own source, in all three ways.
    @Test(
        "decides a datagram by io_uring with a source as one by sendmsg(2)", .enabled(if: hasRing), arguments: rings,
        Family.all)
    func packetInfoByRing(ring: String, family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let remote = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        let client = try stage.start(Self.by(ring, .app), doing: family.socket("c", "udp"))
        try client.must("sendmsg-pktinfo c \(family.remote) \(port) \(family.host) far")
        expect(try remote.must("recvfrom l").address, is: "\(family.vip)", "the source")
        #expect(
            try client("sendmsg-pktinfo c \(family.remote) \(port) \(family.benVIP) far").errno == "EADDRNOTAVAIL")
    }

    // MARK: several datagrams, and a connection, in one call

    @Test("decides each datagram of a sendmmsg", arguments: Family.all)
    func manyDatagramsInOneCall(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let near = try stage.start(.app, doing: family.server("l", "udp", on: family.localhost, port))
        let wide = try stage.start(.app, doing: family.server("l", "udp", on: family.wildcard, port))
        let far = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        let client = try stage.start(.app, doing: family.socket("c", "udp"))
        for (server, destination, source) in [
            (near, family.localhost, family.localhost), (wide, family.vip, family.vip),
            (far, family.remote, family.vip),
        ] {
            #expect(try client.must("sendmmsg c 3 \(destination) \(port) text").count == 3)
            let received = try server.must("recvmmsg l 3").addresses
            #expect(received == Array(repeating: "\(source)", count: 3), "from \(destination)")
        }
        #expect(try client("sendmmsg c 3 \(family.benLO) \(port) text").errno == "ECONNREFUSED")
    }

    /// TCP_FASTOPEN_CONNECT: connect chooses the address; with the first connection's cookie, send connects.
    @Test("decides a TCP_FASTOPEN_CONNECT", arguments: Family.all, [true, false])
    func fastOpenByConnect(family: Family, onLocalhost: Bool) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let place = onLocalhost ? family.localhost : family.wildcard
        let server = try stage.start(
            .app,
            doing: family.socket("l", "tcp") + ["setsockopt l fastopen 8", "bind l \(place) \(port)", "listen l"])
        for _ in 0..<2 {
            let client = try stage.start(
                .app,
                doing: family.socket("c", "tcp") + [
                    "setsockopt c fastopen_connect 1", "connect c \(family.localhost) \(port)", "send c hello",
                ])
            expect(try server.must("accept l s").address, is: "\(family.localhost)", "accept")
            #expect(try server.must("recv s").data == "hello")
            expect(try client.must("getsockname c").address, is: "\(family.localhost)", "getsockname")
            expect(try client.must("getpeername c").endpoint, is: "\(family.localhost):\(port)", "getpeername")
            expect(
                try client.kernelView("c")?.remote, is: "\(onLocalhost ? family.lo : family.vip):\(port)", "on the wire"
            )
            try server.must("close s")
        }
    }

    // MARK: inherited sockets

    /// A child uses its parent's sockets, and the parent's peer is the same.
    @Test("decides for a child as for its parent", arguments: Family.all)
    func forked(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let server = try stage.start(
            .app,
            doing: family.server("l", "tcp", on: family.localhost, port) + family.socket("b", "udp")
                + family.socket("u", "udp") + ["fork"])
        let client = try stage.start(
            .app, doing: family.socket("c", "tcp") + ["fork", "connect c \(family.localhost) \(port)"])
        expect(try client.must("getpeername c").endpoint, is: "\(family.localhost):\(port)", "getpeername")
        expect(try server.must("accept l s").address, is: "\(family.localhost)", "accept")
        expect(try server.must("getsockname l").endpoint, is: "\(family.localhost):\(port)", "getsockname")
        try server.must("bind b \(family.wildcard) \(port)")
        expect(try server.kernelView("b")?.local, is: "\(family.vip):\(port)", "a bind of the child")
        try server.must("connect u \(family.localhost) \(port)")
        expect(try server.kernelView("u")?.remote, is: "\(family.vip):\(port)", "a connect of the child")
    }

    /// The program that makes the call decides, not the one that created the socket. Names are the session's for all
    /// programs.
    @Test("decides by the program that runs, after exec", arguments: Family.all)
    func executed(family: Family) throws {
        try stage.enforce(Self.vl)
        // The first start installs the program.
        for actor in [Actor.app, .tool] { _ = try stage.start(actor) }
        let bin = "\(stage.sandbox.directory)/bin"
        let port = stage.newPort()
        let server = try stage.start(
            .app,
            doing: family.server("l", "tcp", on: family.localhost, port) + family.socket("b", "tcp")
                + family.socket("d", "tcp") + ["exec \(bin)/tool"])
        expect(try server.must("pid").name, is: "tool", "the program")
        expect(try server.must("getsockname l").endpoint, is: "\(family.localhost):\(port)", "getsockname")
        let client = try stage.start(.app, doing: family.socket("c", "tcp") + ["connect c \(family.localhost) \(port)"])
        expect(try server.must("accept l s").address, is: "\(family.localhost)", "accept")
        let other = stage.newPort()
        for command in ["bind b \(family.localhost) \(other)", "listen b"] { try server.must(command) }
        expect(try server.kernelView("b")?.local, is: "\(family.localhost):\(other)", "a bind of tool")
        for command in ["exec \(bin)/app", "bind d \(family.localhost) \(other)", "listen d"] {
            try server.must(command)
        }
        expect(try server.kernelView("d")?.local, is: "\(family.lo):\(other)", "a bind of app")
        expect(try server.must("getpeername s").address, is: "\(family.localhost)", "getpeername")
        try client.must("send c hello")
        #expect(try server.must("recv s").data == "hello")
    }

    // MARK: sockets that another process made

    private func pass(_ socket: String, from owner: Probe, to taker: Probe, as name: String) throws {
        let path = "\(stage.sandbox.directory)/mailbox-\(stage.newPort())"
        try taker.must("mailbox \(path)")
        try owner.must("pass \(socket) \(path)")
        try taker.must("take \(name)")
    }

    /// Who creates the socket, and whether hooks run for it when a session uses it.
    struct Owner: Sendable, CustomTestStringConvertible {
        let actor: Actor
        let isHooked: Bool
        var testDescription: String { "\(actor)" }

        static let all = [
            Owner(actor: .app, isHooked: true), Owner(actor: .benApp, isHooked: true),
            Owner(actor: .nobody, isHooked: true),
            // A limit: hooks run for the cgroup in which a socket was created.
            Owner(actor: .unhooked, isHooked: false),
        ]
    }

    @Test("decides by the calling program for a passed socket", arguments: Owner.all, Family.all)
    func passedFresh(owner: Owner, family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let far = try stage.start(.remote, doing: family.server("l", "tcp", on: family.wildcard, port))
        let maker = try stage.start(
            owner.actor, doing: ["w", "h", "c"].flatMap { family.socket($0, "tcp") } + family.socket("u", "udp"))
        let taker = try stage.start(.app)
        // One mailbox for all, because a probe has only one.
        let path = "\(stage.sandbox.directory)/mailbox-\(port)"
        try taker.must("mailbox \(path)")
        for socket in ["w", "h", "c", "u"] {
            try maker.must("pass \(socket) \(path)")
            try taker.must("take \(socket)")
        }
        for command in ["bind w \(family.wildcard) \(port)", "listen w"] { try taker.must(command) }
        expect(
            try taker.kernelView("w")?.local, is: "\(owner.isHooked ? family.vip : family.wildcard):\(port)",
            "the wildcard")
        let other = stage.newPort()
        for command in ["bind h \(family.localhost) \(other)", "listen h"] { try taker.must(command) }
        expect(
            try taker.kernelView("h")?.local, is: "\(owner.isHooked ? family.lo : family.localhost):\(other)",
            "localhost")
        expect(try taker.must("getsockname h").endpoint, is: "\(family.localhost):\(other)", "getsockname")
        try taker.must("connect c \(family.remote) \(port)")
        let source = owner.isHooked ? family.vip : family.host
        expect(try far.must("accept l s").address, is: "\(source)", "the source of a connection")
        let datagrams = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        try taker.must("sendto u \(family.remote) \(port) far")
        expect(try datagrams.must("recvfrom l").address, is: "\(source)", "the source of a datagram")
        if owner.isHooked {
            #expect(try taker("sendto u \(family.benLO) \(port) x").errno == "ECONNREFUSED")
        }
    }

    /// A socket that another session has bound must not reach that session's addresses.
    @Test(arguments: Family.all, ["wildcard", "localhost"]) func passedBoundByAnotherSession(
        family: Family, place: String
    ) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let place = place == "wildcard" ? family.wildcard : family.localhost
        let maker = try stage.start(
            .benApp,
            doing: ["tcp", "udp"].flatMap { family.socket($0, $0) + ["bind \($0) \(place) \(port)"] })
        let taker = try stage.start(.app)
        let path = "\(stage.sandbox.directory)/mailbox-\(port)"
        try taker.must("mailbox \(path)")
        for socket in ["tcp", "udp"] {
            try maker.must("pass \(socket) \(path)")
            try taker.must("take \(socket)")
        }
        #expect(try taker("connect tcp \(family.remote) \(port)").errno == "EADDRNOTAVAIL")
        #expect(try taker("sendto udp \(family.remote) \(port) x").errno == "EADDRNOTAVAIL")
        #expect(try taker("connect udp \(family.remote) \(port)").errno == "EADDRNOTAVAIL")
        #expect(try taker("bind tcp \(family.wildcard) \(port)").errno == "EINVAL")
    }

    /// A listener of the host (socket activation) in a session serves clients of the host's address.
    @Test(arguments: [Actor.nobody, .unhooked], Family.all) func passedListening(owner: Actor, family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let maker = try stage.start(owner, doing: family.server("l", "tcp", on: family.wildcard, port))
        let taker = try stage.start(.app)
        try pass("l", from: maker, to: taker, as: "l")
        let far = try stage.start(.remote, doing: family.socket("c", "tcp") + ["connect c \(family.host) \(port)"])
        let accepted = try taker.must("accept l s")
        expect(accepted.address, is: "\(family.remote)", "accept")
        expect(try taker.must("getsockname s").endpoint, is: "\(family.host):\(port)", "getsockname")
        expect(try taker.must("getsockname l").endpoint, is: "\(family.wildcard):\(port)", "the listener's getsockname")
        try taker.must("send s hello")
        #expect(try far.must("recv c").data == "hello")
    }

    /// A bound socket of the host would send from the host's address: it is refused, if there is a hook.
    @Test(arguments: [vl, useHostAddress], [Actor.nobody, .unhooked])
    func passedBoundByNobody(policy: ContractPolicy, owner: Actor) throws {
        try stage.enforce(policy)
        for family in Family.all {
            for kind in ["tcp", "udp"] {
                let port = stage.newPort()
                let far = try stage.start(.remote, doing: family.server("l", kind, on: family.wildcard, port))
                let maker = try stage.start(owner, doing: family.socket("c", kind) + ["bind c \(family.wildcard) 0"])
                let taker = try stage.start(.app)
                try pass("c", from: maker, to: taker, as: "c")
                let answer = try taker("connect c \(family.remote) \(port)")
                if owner.party == .nobody, policy == Self.vl {
                    expect(answer.errno, is: "EADDRNOTAVAIL", "\(family.testDescription), \(kind)")
                    continue
                }
                try #require(answer.ok, "\(family.testDescription), \(kind): \(answer)")
                try taker.must("send c x")
                let peer = try far.must(kind == "tcp" ? "accept l s" : "recvfrom l")
                expect(peer.address, is: "\(family.host)", "the source of \(kind)")
            }
        }
    }

    /// A program outside that gets a socket of the session sees the real addresses.
    @Test("leaves a socket alone that was passed out of the session", arguments: [Actor.nobody, .unhooked], Family.all)
    func passedOut(taker: Actor, family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let maker = try stage.start(
            .app, doing: family.server("l", "tcp", on: family.localhost, port) + family.socket("u", "tcp"))
        let outsider = try stage.start(taker)
        let path = "\(stage.sandbox.directory)/mailbox-\(port)"
        try outsider.must("mailbox \(path)")
        for socket in ["l", "u"] {
            try maker.must("pass \(socket) \(path)")
            try outsider.must("take \(socket)")
        }
        expect(try outsider.must("getsockname l").endpoint, is: "\(family.lo):\(port)", "getsockname")
        let other = stage.newPort()
        for command in ["bind u \(family.localhost) \(other)", "listen u"] { try outsider.must(command) }
        expect(try outsider.kernelView("u")?.local, is: "\(family.localhost):\(other)", "bind")
    }

    // MARK: connecting in several ways

    @Test("decides a connect that does not block", arguments: Family.all)
    func withoutBlocking(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let server = try stage.start(.app, doing: family.server("l", "tcp", on: family.wildcard, port))
        let client = try stage.start(.app, doing: family.socket("c", "tcp") + ["setsockopt c nonblock 1"])
        #expect(try client("connect c \(family.localhost) \(port)").errno == "EINPROGRESS")
        try client.must("poll c out")
        expect(try client.kernelView("c")?.remote, is: "\(family.vip):\(port)", "on the wire")
        expect(try client.must("getpeername c").endpoint, is: "\(family.localhost):\(port)", "getpeername")
        expect(try client.must("getsockname c").address, is: "\(family.localhost)", "getsockname")
        expect(try server.must("accept l s").address, is: "\(family.localhost)", "accept")
        // The socket returns the second result, as outside.
        #expect(try client("connect c \(family.localhost) \(port)").errno == nil)
        #expect(try client("connect c \(family.localhost) \(port)").errno == "EISCONN")

        for command in family.socket("n", "tcp") + ["setsockopt n nonblock 1"] { try client.must(command) }
        #expect(try client("connect n \(family.localhost) \(stage.newPort())").errno == "EINPROGRESS")
        #expect(try client("poll n out").errno == "ECONNREFUSED")
        // The hook returns it, if it refuses.
        for command in family.socket("r", "tcp") + ["setsockopt r nonblock 1"] { try client.must(command) }
        #expect(try client("connect r \(family.benLO) \(port)").errno == "ECONNREFUSED")
    }

    /// As ContractCallTests.reconnectedDatagrams, with a peer of each family on an AF_INET6 socket.
    @Test(arguments: [Family.six, .mapped]) func reconnected(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let near = try stage.start(.app, doing: family.server("l", "udp", on: family.localhost, port))
        let far = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        let client = try stage.start(.app, doing: family.socket("c", "udp"))
        for _ in 0..<2 {
            for command in ["connect c \(family.localhost) \(port)", "send c near"] { try client.must(command) }
            expect(try near.must("recvfrom l").address, is: "\(family.localhost)", "the source, near")
            expect(try client.must("getpeername c").endpoint, is: "\(family.localhost):\(port)", "getpeername, near")
            try client.must("disconnect c")
            for command in ["connect c \(family.remote) \(port)", "send c far"] { try client.must(command) }
            expect(try far.must("recvfrom l").address, is: "\(family.vip)", "the source, far")
            expect(try client.must("getpeername c").endpoint, is: "\(family.remote):\(port)", "getpeername, far")
            try client.must("disconnect c")
            try client.must("sendto c \(family.localhost) \(port) near")
            expect(try near.must("recvfrom l").address, is: "\(family.localhost)", "the source of sendto, near")
            try client.must("sendto c \(family.remote) \(port) far")
            expect(try far.must("recvfrom l").address, is: "\(family.vip)", "the source of sendto, far")
        }
    }

    /// A stream whose connection was undone connects again.
    @Test("lets a stream connect again", arguments: Family.all)
    func reconnectedStreams(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let near = try stage.start(.app, doing: family.server("l", "tcp", on: family.localhost, port))
        let far = try stage.start(.remote, doing: family.server("l", "tcp", on: family.wildcard, port))
        let client = try stage.start(.app, doing: family.socket("c", "tcp"))
        for round in 0..<2 {
            try client.must("connect c \(family.localhost) \(port)")
            expect(try near.must("accept l s\(round)").address, is: "\(family.localhost)", "the source, near")
            try client.must("disconnect c")
            try client.must("connect c \(family.remote) \(port)")
            expect(try far.must("accept l s\(round)").address, is: "\(family.vip)", "the source, far")
            try client.must("disconnect c")
        }
    }

    /// A limit: one AF_INET6 socket with a mapped peer, then an IPv6 one, and back. In a session, connect gives it a
    /// source, and the kernel makes a socket with an IPv6 source IPV6_V6ONLY for good.
    @Test func limitReconnectedInTheOtherFamily() throws {
        try stage.enforce(Self.vl)
        func steps(_ actor: Actor) throws -> String {
            let port = stage.newPort()
            let far = try stage.start(.remote, doing: ["socket l udp 6", "bind l :: \(port)"])
            let client = try stage.start(actor, doing: ["socket c udp 6"])
            return try [Place.mapped(.remote), .remote6, .mapped(.remote), .remote6].map { place in
                let answer = try client("connect c \(place) \(port)")
                guard answer.ok else { return answer.errno ?? "?" }
                try client.must("send c x")
                try client.must("disconnect c")
                return try far.must("recvfrom l").address ?? "?"
            }
            .joined(separator: " ")
        }
        let outside = [Place.mapped(.host), .host6, .mapped(.host), .host6].map(\.address).joined(separator: " ")
        expect(try steps(.unhooked), is: outside, "outside")
        let inside = "\(Place.mapped(.annVIP)) \(Place.annVIP6) ENETUNREACH \(Place.annVIP6)"
        expect(try steps(.app), is: inside, "in a session")
    }

    // MARK: one port, several sockets

    /// What one session shares among its own sockets is not shared with other sessions.
    @Test(arguments: Family.all, ["tcp", "udp"])
    func reused(family: Family, kind: String) throws {
        for option in ["reuseport", "reuseaddr"] { try reused(family: family, kind: kind, option: option) }
    }

    private func reused(family: Family, kind: String, option: String) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        for place in [family.wildcard, family.localhost] {
            let commands = family.server("l", kind, on: place, port, options: [option])
            let first = try stage.start(.app, doing: commands)
            let second = try stage.start(.app, doing: Array(commands.prefix(while: { !$0.hasPrefix("bind") })))
            // Two listeners need SO_REUSEPORT.
            if kind == "udp" || option == "reuseport" {
                for command in commands.drop(while: { !$0.hasPrefix("bind") }) { try second.must(command) }
            } else {
                #expect(try second("bind l \(place) \(port)").errno == "EADDRINUSE")
            }
            let other = try stage.start(.benApp, doing: commands)
            // Enough datagrams to reach every socket that might get them.
            for round in 0..<8 {
                let client = try stage.start(.app, doing: family.socket("c", kind))
                try client.must("connect c \(family.localhost) \(port)")
                try client.must("send c \(round)")
            }
            if kind == "udp" {
                try other.expectNothing("l", "what came to the other session")
            } else {
                try other.must("setsockopt l nonblock 1")
                expect(try other("accept l s").errno, is: "EAGAIN", "what came to the other session")
            }
            for program in [first, second, other] { try program.must("close l") }
        }
    }

    /// Port 0: on the loopback, and where IP_BIND_ADDRESS_NO_PORT leaves the port to connect.
    @Test("gives the virtual IP with any port", arguments: Family.all, [true, false])
    func anyPort(family: Family, onLocalhost: Bool) throws {
        for portLater in [false, true] {
            try anyPort(family: family, onLocalhost: onLocalhost, portLater: portLater)
        }
    }

    private func anyPort(family: Family, onLocalhost: Bool, portLater: Bool) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let server = try stage.start(
            onLocalhost ? .app : .remote,
            doing: family.server("l", "tcp", on: onLocalhost ? family.localhost : family.wildcard, port))
        let client = try stage.start(
            .app,
            doing: family.socket("c", "tcp") + (portLater ? ["setsockopt c bind_no_port 1"] : [])
                + ["bind c \(onLocalhost ? family.localhost : family.wildcard) 0"])
        let name = try client.must("getsockname c")
        expect(name.address, is: "\(onLocalhost ? family.localhost : family.vip)", "getsockname")
        #expect((name.port == 0) == portLater)
        try client.must("connect c \(onLocalhost ? family.localhost : family.remote) \(port)")
        expect(try server.must("accept l s").address, is: "\(onLocalhost ? family.localhost : family.vip)", "accept")
        let source = try #require(try client.must("getsockname c").port)
        expect(
            try client.kernelView("c")?.local, is: "\(onLocalhost ? family.lo : family.vip):\(source)", "on the wire")
    }

    @Test("gives every socket a port of its own", arguments: Family.all, ["tcp", "udp"])
    func anyPortForEverySocket(family: Family, kind: String) throws {
        try stage.enforce(Self.vl)
        let program = try stage.start(.app)
        var ports: Set<Int> = []
        for (name, place, at) in [
            ("a", family.wildcard, family.vip), ("b", family.localhost, family.lo), ("c", family.host, family.vip),
        ] {
            for command in family.server(name, kind, on: place, 0) { try program.must(command) }
            let port = try #require(try program.must("getsockname \(name)").port)
            expect(try program.kernelView(name)?.local, is: "\(at):\(port)", "\(place)")
            ports.insert(port)
        }
        #expect(!ports.contains(0))
    }

    /// IP_FREEBIND lets a program bind an IPv4 address that this host does not have, which it cannot send from.
    @Test("decides a bind with IP_FREEBIND", arguments: Family.all, ["tcp", "udp"])
    func freebind(family: Family, kind: String) throws {
        try stage.enforce(Self.vl)
        let program = try stage.start(.app)
        let free = ["freebind"]
        for (place, at) in [(family.wildcard, family.vip), (family.localhost, family.lo), (family.host, family.vip)] {
            let port = stage.newPort()
            for command in family.server("a", kind, on: place, port, options: free) { try program.must(command) }
            expect(try program.kernelView("a")?.local, is: "\(at):\(port)", "\(place)")
            try program.must("close a")
        }
        for command in family.socket("a", kind) + ["setsockopt a freebind 1"] { try program.must(command) }
        #expect(try program("bind a \(family.benLO) 0").errno == "EADDRNOTAVAIL")
        try program.must("bind a \(family.benVIP) 0")
        #expect(try program.must("getsockname a").address == "\(family.vip)")
        try program.must("close a")
        let port = stage.newPort()
        let stranger =
            switch family.testDescription {
            case Family.four.testDescription: "203.0.113.5"
            case Family.six.testDescription: "2001:db8:ffff::5"
            default: "::ffff:203.0.113.5"
            }
        for command in family.socket("a", kind) + ["setsockopt a freebind 1"] { try program.must(command) }
        guard family.testDescription != Family.six.testDescription else {
            #expect(try program("bind a \(stranger) \(port)").errno == "EADDRNOTAVAIL")
            return
        }
        try program.must("bind a \(stranger) \(port)")
        if kind == "tcp" { try program.must("listen a") }
        expect(try program.kernelView("a")?.local, is: "\(stranger):\(port)", "an address of nobody here")
        expect(try program.must("getsockname a").endpoint, is: "\(stranger):\(port)", "getsockname")
    }

    // MARK: groups

    /// What a program sends to a group or broadcast address leaves from the virtual IP.
    @Test(
        "sends to groups from the virtual IP", arguments: [Family.four, .mapped, .six],
        ["239.1.2.3", "198.51.100.255", "255.255.255.255", "ff02::1:3", "ff05::1:3"])
    func toAGroup(family: Family, group: String) throws {
        let isSix = group.contains(":")
        guard isSix == family.isV6Only else { return }
        try stage.enforce(Self.vl)
        let address = family.testDescription == Family.mapped.testDescription ? "::ffff:\(group)" : group
        let port = stage.newPort()
        let far = try stage.start(
            .remote,
            doing: family.server("l", "udp", on: family.wildcard, port)
                + (group.hasSuffix("255") ? [] : ["join l \(group) eth0"]))
        let client = try stage.start(
            .app,
            doing: family.socket("u", "udp") + ["setsockopt u broadcast 1"] + family.socket("c", "udp")
                + ["setsockopt c broadcast 1"] + family.socket("b", "udp") + ["setsockopt b broadcast 1"])
        if group.hasPrefix("ff02") {
            let index = try stage.sandbox.sh("ip -o link show eth0")
            let interface = try #require(index.split(separator: ":").first)
            for socket in ["u", "c", "b"] { try client.must("setsockopt \(socket) multicast_if6 \(interface)") }
        }
        try client.must("sendto u \(address) \(port) x")
        expect(try far.must("recvfrom l").address, is: "\(family.vip)", "from an unbound socket")
        try client.must("bind b \(family.wildcard) 0")
        try client.must("sendto b \(address) \(port) x")
        expect(try far.must("recvfrom l").address, is: "\(family.vip)", "from a bound one")
        for command in ["connect c \(address) \(port)", "send c x"] { try client.must(command) }
        expect(try far.must("recvfrom l").address, is: "\(family.vip)", "from a connected one")
        expect(try client.must("getpeername c").endpoint, is: "\(address):\(port)", "getpeername")
    }

    /// Joining does not depend on addresses: a socket that is bound to the group receives from it, in each session.
    @Test("lets each session hear a group that it is bound to", arguments: [Family.four, .six])
    func fromAGroup(family: Family) throws {
        try stage.enforce(Self.vl)
        let group = family.isV6Only ? Place.multicast6 : .multicast
        let port = stage.newPort()
        let listeners = try [Actor.app, .benApp].map { actor in
            try stage.start(
                actor,
                doing: family.server("l", "udp", on: group, port, options: ["reuseaddr"]) + ["join l \(group) eth0"])
        }
        let far = try stage.start(.remote, doing: family.server("c", "udp", on: family.remote, port))
        try far.must("sendto c \(group) \(port) news")
        for listener in listeners {
            let received = try listener.must("recvfrom l")
            #expect(received.data == "news")
            expect(received.endpoint, is: "\(family.remote):\(port)", "the sender")
        }
        // The answer does not come from the group's address.
        try listeners[0].must("sendto l \(family.remote) \(port) back")
        expect(try far.must("recvfrom c").address, is: "\(family.vip)", "the answer's source")
    }

    /// On a port of virtualIP.excludedPorts the wildcard stays, in each session; what is sent leaves from the virtual
    /// IP.
    @Test(
        "lets each session hear groups on an excluded port",
        arguments: ["239.1.2.3", "198.51.100.255", "255.255.255.255", "ff05::1:3"])
    func groupsAtAnExcludedPort(group: String) throws {
        try stage.enforce(Self.shared)
        let family = group.contains(":") ? Family.six : .four
        let port: UInt16 = 5353
        let join = group.hasSuffix("255") ? [] : ["join l \(group) eth0"]
        let listeners = try [Actor.app, .benApp].map { actor in
            try stage.start(
                actor, doing: family.server("l", "udp", on: family.wildcard, port, options: ["reuseaddr"]) + join)
        }
        let far = try stage.start(
            .remote, doing: family.server("c", "udp", on: family.remote, port) + ["setsockopt c broadcast 1"])
        try far.must("sendto c \(group) \(port) news")
        for listener in listeners { #expect(try listener.must("recvfrom l").data == "news") }
        expect(try listeners[0].must("getsockname l").endpoint, is: "\(family.wildcard):\(port)", "getsockname")
        try listeners[0].must("sendto l \(family.remote) \(port) back")
        expect(try far.must("recvfrom c").endpoint, is: "\(family.vip):\(port)", "the answer's source")
    }

    /// A limit: the wildcard becomes the virtual IP, and packets to a group or broadcast address are not addressed to
    /// that.
    @Test(arguments: ["239.1.2.3", "198.51.100.255", "255.255.255.255", "ff05::1:3"])
    func limitGroupsAtTheWildcard(group: String) throws {
        try stage.enforce(Self.vl)
        let family = group.contains(":") ? Family.six : .four
        let port = stage.newPort()
        let join = group.hasSuffix("255") ? [] : ["join l \(group) eth0"]
        let reuse = ["reuseaddr"]
        let listener = try stage.start(
            .app, doing: family.server("l", "udp", on: family.wildcard, port, options: reuse) + join)
        let outside = try stage.start(
            .unhooked, doing: family.server("l", "udp", on: family.wildcard, port, options: reuse) + join)
        let far = try stage.start(.remote, doing: family.socket("c", "udp") + ["setsockopt c broadcast 1"])
        try far.must("sendto c \(group) \(port) news")
        #expect(try outside.must("recvfrom l").data == "news")
        try listener.expectNothing("l", "what came to the session")
    }

    // MARK: a source for one datagram

    /// As ContractCallTests.sourcesByPacketInfo, for AF_INET6.
    @Test(arguments: [Family.six, .mapped]) func sourcesByPacketInfo(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let far = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        let near = try stage.start(.app, doing: family.server("l", "udp", on: family.localhost, port))
        let client = try stage.start(
            .app, doing: family.socket("c", "udp") + family.socket("t", "udp") + ["connect t \(family.remote) \(port)"])
        for source in [family.host, family.vip, family.wildcard] {
            try client.must("sendmsg-pktinfo c \(family.remote) \(port) \(source) far")
            expect(try far.must("recvfrom l").address, is: "\(family.vip)", "the source \(source)")
            try client.must("sendmsg-pktinfo t - 0 \(source) far")
            expect(try far.must("recvfrom l").address, is: "\(family.vip)", "the source \(source), connected")
        }
        for source in [family.localhost, family.wildcard] {
            try client.must("sendmsg-pktinfo c \(family.localhost) \(port) \(source) near")
            expect(try near.must("recvfrom l").address, is: "\(family.localhost)", "the source \(source), near")
        }
        for source in [family.benVIP, family.benLO] {
            for destination in ["c \(family.remote) \(port)", "t - 0"] {
                let answer = try client("sendmsg-pktinfo \(destination) \(source) far")
                #expect(answer.errno == "EADDRNOTAVAIL", "\(source): \(answer)")
            }
        }
    }

    // MARK: where no hook is

    /// A limit: listen binds by itself, without a hook.
    @Test(arguments: Family.all, ["tcp", "mptcp"]) func limitListenWithoutBind(family: Family, kind: String) throws {
        try stage.enforce(Self.vl)
        let server = try stage.start(.app, doing: family.socket("l", kind) + ["listen l"])
        let port = try #require(try server.must("getsockname l").port)
        let wildcard = family.wildcard.isIPv6 ? Place.wildcard6 : .wildcard
        expect(try server.kernelView("l")?.local, is: "\(wildcard):\(port)", "where it is bound")
        // Its own clients still find it at the host's loopback, where it is the only listener: not at 127.0.0.1.
        let client = try stage.start(.app, doing: family.socket("c", kind))
        let answer = try client("connect c \(family.localhost) \(port)")
        #expect(answer.ok, "\(answer)")
    }

    // MARK: bad input

    /// Calls that must fail, or succeed, as they do without hooks.
    struct Crooked: Sendable, CustomTestStringConvertible {
        let testDescription: String
        let kind: String
        let family: Family
        let commands: [String]

        private static let unspecified = 0, inet = 2, inet6 = 10, unix = 1
        private static func all(_ name: String, _ kinds: [String], _ commands: (Family) -> [String]) -> [Crooked] {
            kinds.flatMap { kind in
                Family.all.map { family in
                    Crooked(
                        testDescription: "\(name), \(kind), \(family.testDescription)", kind: kind, family: family,
                        commands: family.socket("a", kind) + commands(family))
                }
            }
        }

        /// A call with families of other sockets than Internet sockets, with any address.
        private static func families(_ call: String, _ family: Family) -> [String] {
            [unix, 99, 65535].flatMap { wrong in
                [family.wildcard, family.remote, family.benLO, family.benVIP].map { place in
                    "crooked \(call) a \(place) PORT \(wrong) 28"
                }
            }
        }

        static let all: [Crooked] = [
            ["bind", "connect", "sendto"].flatMap { call in
                all("lengths of \(call)", ["tcp", "udp", "mptcp"]) { family in
                    [0, 1, 2, 8, 15, 16, 23, 24, 27, 28, 128, -1].map { length in
                        "crooked \(call) a \(call == "bind" ? family.localhost : family.remote) PORT \(family.wildcard.isIPv6 ? inet6 : inet) \(length)"
                    }
                }
            },
            all("families of bind", ["tcp", "udp", "mptcp"]) { family in
                families("bind", family) + ["connect a \(family.remote) PORT", "getpeername a"]
            },
            all("families of connect", ["tcp", "mptcp"]) { family in
                families("connect", family) + ["connect a \(family.remote) PORT", "getpeername a"]
            },
            // (a limit: a datagram socket on which that failed has a port but no address, and connect does not give it
            // one)
            all("families of connect", ["udp"]) { families("connect", $0) },
            all("families of sendto", ["tcp", "udp", "mptcp"]) { families("sendto", $0) },
            all("families of fastopen", ["tcp", "mptcp"]) { family in
                families("fastopen", family) + ["connect a \(family.remote) PORT", "getpeername a"]
            },
            all("the other family", ["tcp", "udp", "mptcp"]) { family in
                let other = family.wildcard.isIPv6 ? Place.localhost : .localhost6
                return ["bind a \(other) PORT", "connect a \(other) PORT", "sendto a \(other) PORT x"]
            },
            all("AF_UNSPEC", ["tcp", "udp"]) { family in
                [
                    "crooked bind a \(family.localhost) PORT \(unspecified) 28", "disconnect a", "disconnect a",
                    "crooked sendto a \(family.localhost) PORT \(unspecified) 28",
                    "crooked connect a \(family.localhost) PORT \(unspecified) 1",
                ]
            },
            all("closed", ["tcp", "udp"]) { family in
                [
                    "close-fd a", "bind a \(family.wildcard) PORT", "connect a \(family.localhost) PORT",
                    "sendto a \(family.localhost) PORT x", "getsockname a", "getpeername a", "listen a",
                ]
            },
            all("connected anew", ["udp"]) { family in
                [family.localhost, family.remote, family.remote, family.localhost, family.host].map {
                    "connect a \($0) PORT"
                } + ["bind a \(family.wildcard) PORT", "getpeername a"]
            },
            all("bound already", ["tcp", "udp", "mptcp"]) { family in
                [
                    "bind a \(family.wildcard) PORT", "bind a \(family.wildcard) PORT", "bind a \(family.localhost) 0",
                    "getpeername a",
                ]
            },
            all("connected already", ["tcp", "mptcp"]) { family in
                [
                    "connect a \(family.remote) PORT", "connect a \(family.remote) PORT",
                    "connect a \(family.localhost) PORT", "bind a \(family.wildcard) 0", "listen a",
                    "sendto a \(family.localhost) 9 x", "fastopen a \(family.localhost) 9 x",
                ]
            },
            all("listening", ["tcp", "mptcp"]) { family in
                [
                    "bind a \(family.wildcard) PORT", "listen a", "connect a \(family.localhost) PORT",
                    "bind a \(family.wildcard) 0", "getpeername a", "sendto a \(family.localhost) 9 x", "listen a",
                ]
            },
            all("not connected", ["tcp", "udp", "mptcp"]) { _ in ["send a x", "getpeername a", "getsockname a"] },
            all("port 0", ["tcp", "udp"]) { family in
                ["connect a \(family.localhost) 0", "connect a \(family.remote) 0", "sendto a \(family.remote) 0 x"]
            },
            all("short names", ["tcp", "udp"]) { family in
                ["bind a \(family.localhost) PORT"]
                    + [-1, 0, 1, 2, 4, 7, 8, 16, 24, 28].map { "short-name getsockname a \($0)" }
            },
            all("short names of a peer", ["tcp", "udp"]) { family in
                ["connect a \(family.remote) PORT"]
                    + [-1, 0, 1, 2, 4, 7, 8, 16, 24, 28].map { "short-name getpeername a \($0)" }
            },
            all("broadcast without leave to send", ["udp"]) { _ in ["sendto a 255.255.255.255 PORT x"] },
            all("broadcast without leave to connect", ["udp"]) { _ in ["connect a 255.255.255.255 PORT"] },
        ].flatMap(\.self)
    }

    @Test("answers wrong calls as outside of a session", arguments: Crooked.all)
    func asOutside(_ row: Crooked) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let far = try stage.start(
            .remote,
            doing: row.family.server("l", row.kind, on: row.family.wildcard, port))
        func answers(_ actor: Actor) throws -> [String] {
            let program = try stage.start(actor)
            // Closed at once, and not when the program ends.
            defer { _ = try? program("close a") }
            return try row.commands.map { command in
                let command = command.replacing("PORT", with: "\(port)")
                let answer = try program(command)
                // For a name, compare the bytes: the contract decides the name, and it is the same for these calls.
                let words = [answer.errno ?? "ok", answer.data, answer.count.map(String.init)]
                return "\(command): \(words.compactMap(\.self).joined(separator: " "))"
            }
        }
        let outside = try answers(.unhooked)
        let inside = try answers(.app)
        for (outside, inside) in zip(outside, inside) { #expect(inside == outside) }
        _ = far
    }
}
