// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The parts of docs/behaviour.md that need more than one call, and so are not in the tables: for sockets of each
/// family.
@Suite(.serialized, .requiresRoot, .stage6)
struct ContractCallTests: ContractSuite {
    let stage: Stage

    init() throws {
        stage = try #require(StageTrait.current)
    }

    // MARK: bind, getsockname

    @Test(
        "gives the session's address where the port is any, or left to connect", arguments: [Family.four, .six],
        [false, true])
    func bindToAnyPort(family: Family, portLater: Bool) throws {
        try stage.enforce(Self.v)
        let port = stage.newPort()
        let remote = try stage.start(.remote, doing: family.server("l", "tcp", on: family.wildcard, port))
        let program = try stage.start(.app, doing: family.socket("a", "tcp"))
        if portLater { try program.must("setsockopt a bind_no_port 1") }
        try program.must("bind a \(family.wildcard) 0")
        let name = try program.must("getsockname a")
        #expect(name.address == family.vip.address)
        #expect((name.port == 0) == portLater)
        try program.must("connect a \(family.remote) \(port)")
        #expect(try remote.must("accept l s").address == family.vip.address)
    }

    private static let places = [Family.four, .six, .dual].flatMap { family in
        [family.wildcard, family.localhost, family.host].map { (family: family, asks: $0) }
    }

    /// The main purpose of the project.
    @Test("gives each session the port that it asks for, and each of them once", arguments: Transport.binds, places)
    func onePortForEverySession(transport: Transport, at place: (family: Family, asks: Place)) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let commands = place.family.server("a", transport.socket, on: place.asks, port)
        let ann = try stage.start(.app, doing: commands)
        let ben = try stage.start(.benApp, doing: commands)
        let second = try stage.start(.app, doing: place.family.socket("a", transport.socket))
        #expect(try second("bind a \(place.asks) \(port)").errno == "EADDRINUSE")
        for program in [ann, ben] { try program.must("close a") }
    }

    /// With a bound address that is not used as a source, a socket would use the host's address.
    @Test(
        "refuses to connect a socket that is bound to what is no source",
        arguments: [
            (Family.four, "224.0.0.251", ["tcp", "udp"]), (.four, "255.255.255.255", ["tcp", "udp"]),
            (.four, "198.51.100.255", ["tcp", "udp"]), (.dual, Place.multicast6.address, ["udp"]),
        ])
    func boundToWhatIsNoSource(family: Family, address: String, kinds: [String]) throws {
        try stage.enforce(Self.vl)
        for kind in kinds {
            let client = try stage.start(.app, doing: family.socket("c", kind) + ["bind c \(address) 0"])
            #expect(try client("connect c \(family.remote) 9").errno == "EADDRNOTAVAIL", "\(kind)")
        }
    }

    /// Isolation applies, whatever the policy has for sessions without an address.
    @Test(
        "refuses the address of another session, in which a socket was bound", arguments: ["deny", "useHostAddress"],
        [
            (family: Family.four, own: Place.benVIP, peer: Place.remote), (.six, .benVIP6, .remote6),
            (.dual, .mapped(.benVIP), .mapped(.remote)),
        ])
    func boundInAnotherSession(whenUnavailable: String, socket: (family: Family, own: Place, peer: Place)) throws {
        try stage.enforce(Self.vl.with { $0.whenUnavailable = whenUnavailable })
        let path = "\(stage.sandbox.directory)/mailbox-\(whenUnavailable)-\(stage.newPort())"
        let taker = try stage.start(.app, doing: ["mailbox \(path)"])
        let owner = try stage.start(
            .benApp, doing: socket.family.socket("a", "tcp") + ["bind a \(socket.family.wildcard) 0"])
        #expect(try owner.must("getsockname a").address == socket.own.address)
        try owner.must("pass a \(path)")
        try taker.must("take c")
        #expect(try taker("connect c \(socket.peer) 9").errno == "EADDRNOTAVAIL")
    }

    // MARK: datagrams

    /// After connect(AF_UNSPEC), a socket is unconnected again; the source for the last peer must not remain.
    @Test(
        "gives a datagram socket that is connected again the source for its new peer", arguments: [Family.four, .dual])
    func reconnectedDatagrams(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let server = try stage.start(.app, doing: family.server("l", "udp", on: family.localhost, port))
        let remote = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        let client = try stage.start(.app, doing: family.socket("c", "udp"))
        for _ in 0..<2 {
            for command in ["connect c \(family.localhost) \(port)", "send c near"] { try client.must(command) }
            expect(try server.must("recvfrom l").address, is: family.localhost.address, "the source, near")
            try client.must("disconnect c")
            for command in ["connect c \(family.remote) \(port)", "send c far"] { try client.must(command) }
            expect(try remote.must("recvfrom l").address, is: family.vip.address, "the source, far")
            try client.must("disconnect c")
            try client.must("sendto c \(family.localhost) \(port) near")
            expect(try server.must("recvfrom l").address, is: family.localhost.address, "the source of sendto, near")
            try client.must("sendto c \(family.remote) \(port) far")
            expect(try remote.must("recvfrom l").address, is: family.vip.address, "the source of sendto, far")
        }
    }

    @Test(
        "grants or refuses a source that is given for one datagram as bind would",
        arguments: [
            (Family.four, [Place.host, .annVIP]), (.dual, [.wildcard6, .host6, .annVIP6]),
            (.mapped, [.mapped(.host), .mapped(.annVIP)]),
        ])
    func sourcesByPacketInfo(family: Family, granted: [Place]) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let remote = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        let client = try stage.start(.app, doing: family.socket("c", "udp"))
        for source in granted {
            try client.must("sendmsg-pktinfo c \(family.remote) \(port) \(source) far")
            expect(try remote.must("recvfrom l").address, is: family.vip.address, "the source \(source)")
        }
        for source in [family.benVIP, family.benLO] {
            let answer = try client("sendmsg-pktinfo c \(family.remote) \(port) \(source) far")
            #expect(answer.errno == "EADDRNOTAVAIL", "\(source): \(answer)")
        }
    }

    /// For control messages on a connected socket, the hook gets no destination.
    @Test(
        "keeps the session's source where a connected socket's datagram names another", arguments: [Family.four, .dual])
    func sourcesByPacketInfoWhereConnected(family: Family) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let remote = try stage.start(.remote, doing: family.server("l", "udp", on: family.wildcard, port))
        let client = try stage.start(
            .app, doing: family.socket("c", "udp") + ["connect c \(family.remote) \(port)"])
        for source in [family.wildcard, family.host, family.vip] {
            try client.must("sendmsg-pktinfo c - 0 \(source) far")
            expect(try remote.must("recvfrom l").address, is: family.vip.address, "the source \(source)")
        }
        #expect(try client("sendmsg-pktinfo c - 0 \(family.benVIP) far").errno == "EADDRNOTAVAIL")
    }

    // MARK: policies

    @Test(
        "applies a new policy to programs that run, with the next call that they make",
        arguments: [
            (Family.four, vip: Place.annVIP, lo: Place.annLO), (.dual, .mapped(.annVIP), .mapped(.annLO)),
        ])
    func policiesReachRunningPrograms(family: Family, vip: Place, lo: Place) throws {
        let program = try stage.start(.app)
        for (policy, place) in [
            (Self.off, family.wildcard), (Self.v, vip), (Self.vlp, lo), (Self.off, family.wildcard),
        ] {
            try stage.enforce(policy)
            let port = stage.newPort()
            for command in family.server("l", "udp", on: family.wildcard, port) { try program.must(command) }
            #expect(try program.kernelView("l")?.local == "\(place):\(port)", "\(policy)")
            try program.must("close l")
        }
    }
}
