// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

// The rows of the contract's tables, and how each is checked.

// MARK: bind, getsockname

struct BindRow: Sendable, CustomTestStringConvertible {
    enum Outcome: Sendable {
        case at(Place, named: Place)
        case refused(String)
    }

    let policy: ContractPolicy
    var actor: Actor
    var asks: Place
    var outcome: Outcome
    var transport: Transport = .tcp
    /// The port; 0 for one that the kernel chooses.
    var port: UInt16?

    /// One row of the table for each transport.
    static func rows(
        _ policy: ContractPolicy, _ actor: Actor, _ asks: Place, at place: Place, named: Place? = nil,
        port: UInt16? = nil,
        _ transports: [Transport] = Transport.binds
    ) -> [BindRow] {
        transports.map {
            BindRow(
                policy: policy, actor: actor, asks: asks, outcome: .at(place, named: named ?? place), transport: $0,
                port: port)
        }
    }

    static func rows(
        _ policy: ContractPolicy, _ actor: Actor, _ asks: Place, refused errno: String, port: UInt16? = nil,
        _ transports: [Transport] = Transport.binds
    ) -> [BindRow] {
        transports.map {
            BindRow(policy: policy, actor: actor, asks: asks, outcome: .refused(errno), transport: $0, port: port)
        }
    }

    /// The IPv4 row on an AF_INET6 socket.
    var mapped: BindRow {
        var row = self
        row.asks = .mapped(asks)
        if case .at(let place, let named) = outcome {
            // (a limit: an MPTCP socket that asked for ::ffff:0.0.0.0 cannot be distinguished from one that asked for
            // ::)
            let isGuess = transport == .mptcp && named == .wildcard && place != .wildcard
            row.outcome = .at(.mapped(place), named: isGuess ? .wildcard6 : .mapped(named))
        }
        return row
    }

    /// The IPv4 row by IPv6: on a V6ONLY socket, and if it asks for one address, on another as well. Empty if IPv6 has
    /// no such address.
    var inet6: [BindRow] {
        var row = self
        guard let asks = asks.inet6 else { return [] }
        row.asks = asks
        if case .at(let place, let named) = outcome {
            guard let place = place.inet6, let named = named.inet6 else { return [] }
            row.outcome = .at(place, named: named)
        }
        var v6Only = row
        v6Only.actor = actor.only6
        return asks == .wildcard6 ? [v6Only] : [row, v6Only]
    }

    var testDescription: String { "[\(policy)] \(actor) binds \(asks.address) (\(transport)) → \(outcome)" }
}

extension Stage {
    func check(_ row: BindRow) throws {
        try enforce(row.policy)
        let program = try start(row.actor)
        var port = row.port ?? newPort()
        for command in row.actor.socket("a", row.transport, for: row.asks) { try program.must(command) }
        let answer = try program("bind a \(row.asks.address) \(port)")
        switch row.outcome {
        case .refused(let errno):
            expect("\(answer)", is: "\(answer.cmd) → \(errno)", "the answer")
        case .at(let place, let named):
            try #require(answer.ok, "\(answer)")
            if row.transport.isStream { try program.must("listen a") }
            let name = try program.must("getsockname a")
            if port == 0 { port = UInt16(name.port ?? 0) }
            expect(try program.kernelView("a")?.local, is: "\(place):\(port)", "where it is bound")
            expect(name.endpoint, is: "\(named):\(port)", "getsockname")
        }
    }
}

// MARK: connect, sendto, accept, recvfrom, getpeername

/// What a client and its server know about each other, and what the kernel knows. `nil` is not checked.
struct Meeting: Sendable, CustomStringConvertible {
    /// The index of the server that is reached.
    var server = 0
    /// The addresses on the wire.
    var source: Place?
    var destination: Place?
    /// getsockname and getpeername of the client. The latter is also the source of an answer to a datagram.
    var clientName: Place?
    var clientPeer: Place
    /// accept and getpeername of the server, or recvfrom.
    var serverPeer: Place?
    /// getsockname of the accepted socket.
    var serverName: Place

    var description: String {
        func text(_ place: Place?) -> String { place?.description ?? "any address" }
        return
            "server \(server) at \(text(destination)), named \(serverName), from \(text(source)), seen as \(text(serverPeer)); the client is \(text(clientName)), its peer \(clientPeer)"
    }

    /// Both sides see 127.0.0.1.
    static func local(_ destination: Place, from source: Place?, server: Int = 0)
        -> Meeting
    {
        Meeting(
            server: server, source: source, destination: destination, clientName: .localhost,
            clientPeer: .localhost,
            serverPeer: .localhost, serverName: .localhost)
    }

    /// The client sees the address of 127/8 that it asked for, and itself as 127.0.0.1; the server sees 127.0.0.1.
    static func rest(_ destination: Place, from source: Place?) -> Meeting {
        var meeting = local(destination, from: source)
        meeting.clientPeer = .stub
        return meeting
    }

    /// Both sides see ::1.
    static func local6(_ destination: Place?, from source: Place?, server: Int = 0) -> Meeting {
        Meeting(
            server: server, source: source, destination: destination, clientName: .localhost6, clientPeer: .localhost6,
            serverPeer: .localhost6, serverName: .localhost6)
    }

    /// The client sees ::1, but the connection uses IPv4: the server sees ::ffff:127.0.0.1.
    static func byIPv4(_ destination: Place, from source: Place?, server: Int = 0) -> Meeting {
        Meeting(
            server: server, source: source.map(Place.mapped), destination: .mapped(destination),
            clientName: .localhost6, clientPeer: .localhost6, serverPeer: .mapped(.localhost),
            serverName: .mapped(.localhost))
    }

    /// Both sides see the real addresses.
    static func plain(_ destination: Place, from source: Place, server: Int = 0) -> Meeting {
        Meeting(
            server: server, source: source, destination: destination, clientName: source, clientPeer: destination,
            serverPeer: source, serverName: destination)
    }

    /// The same by IPv6; `nil` if IPv6 has no such addresses.
    var inet6: Meeting? {
        guard let peer = clientPeer.inet6, let name = serverName.inet6 else { return nil }
        return Meeting(
            server: server, source: source?.inet6, destination: destination?.inet6, clientName: clientName?.inet6,
            clientPeer: peer, serverPeer: serverPeer?.inet6, serverName: name)
    }

    /// The same in mapped form, for the client, the server or both.
    func mapped(client: Bool = false, server: Bool = false) -> Meeting {
        var copy = self
        if client {
            copy.source = source.map(Place.mapped)
            copy.destination = destination.map(Place.mapped)
            copy.clientName = clientName.map(Place.mapped)
            copy.clientPeer = .mapped(clientPeer)
        }
        if server {
            copy.serverPeer = serverPeer.map(Place.mapped)
            copy.serverName = .mapped(serverName)
        }
        return copy
    }
}

struct ConnectRow: Sendable, CustomTestStringConvertible {
    enum Outcome: Sendable {
        case meets(Meeting)
        case refused(String)
        /// The datagram is sent, and no server gets it.
        case lost
    }
    typealias Server = (actor: Actor, binds: Place)

    let policy: ContractPolicy
    var servers: [Server]
    var client: Actor
    /// What the client binds first, with port 0.
    var clientBinds: Place?
    var asks: Place
    var outcome: Outcome
    var transport: Transport = .tcp
    var port: UInt16?

    static func rows(
        _ policy: ContractPolicy, _ servers: [Server], _ client: Actor, bound clientBinds: Place? = nil,
        _ asks: Place,
        meets meeting: Meeting, port: UInt16? = nil, _ transports: [Transport] = Transport.allCases
    ) -> [ConnectRow] {
        transports.map {
            ConnectRow(
                policy: policy, servers: servers, client: client, clientBinds: clientBinds, asks: asks,
                outcome: .meets(meeting),
                transport: $0, port: port)
        }
    }

    /// Only a hook can refuse a datagram: without a server, it is lost.
    static func rows(
        _ policy: ContractPolicy, _ servers: [Server], _ client: Actor, bound clientBinds: Place? = nil,
        _ asks: Place, refused errno: String, _ transports: [Transport]
    ) -> [ConnectRow] {
        transports.map {
            ConnectRow(
                policy: policy, servers: servers, client: client, clientBinds: clientBinds, asks: asks,
                outcome: .refused(errno),
                transport: $0)
        }
    }

    /// There is no server: streams are refused, datagrams are lost.
    static func rows(
        _ policy: ContractPolicy, unheard servers: [Server], _ client: Actor, _ asks: Place, port: UInt16? = nil,
        _ transports: [Transport] = Transport.allCases
    ) -> [ConnectRow] {
        transports.map {
            ConnectRow(
                policy: policy, servers: servers, client: client, asks: asks,
                outcome: $0.isStream ? .refused("ECONNREFUSED") : .lost, transport: $0, port: port)
        }
    }

    /// The IPv4 row on AF_INET6 sockets, of the client, the servers or both.
    func mapped(client: Bool = false, servers: Bool = false) -> ConnectRow {
        var row = self
        if client {
            row.asks = .mapped(asks)
            row.clientBinds = clientBinds.map(Place.mapped)
        }
        if servers { row.servers = self.servers.map { ($0.actor, .mapped($0.binds)) } }
        if case .meets(let meeting) = outcome {
            row.outcome = .meets(meeting.mapped(client: client, server: servers))
        }
        return row
    }

    /// The IPv4 row by IPv6; `nil` if IPv6 has no such addresses.
    var inet6: ConnectRow? {
        var row = self
        guard let asks = asks.inet6 else { return nil }
        row.asks = asks
        row.clientBinds = clientBinds?.inet6
        if let place = row.clientBinds { row.client = client.inet6(on: place) }
        row.servers = servers.compactMap { actor, place in place.inet6.map { (actor.inet6(on: $0), $0) } }
        if case .meets(let meeting) = outcome {
            guard let meeting = meeting.inet6 else { return nil }
            row.outcome = .meets(meeting)
        }
        return row
    }

    var testDescription: String {
        let there = servers.map { "\($0.actor) on \($0.binds.address)" }.joined(separator: ", ")
        let before = clientBinds.map { " bound to \($0.address)" } ?? ""
        return
            "[\(policy)] \(there.isEmpty ? "nobody" : there) ← \(client)\(before) asks for \(asks.address) (\(transport)) → \(outcome)"
    }
}

extension Stage {
    func check(_ row: ConnectRow) throws {
        try enforce(row.policy)
        let port = row.port ?? newPort()
        let servers = try row.servers.map { actor, place in
            let server = try start(actor)
            for command in actor.socket("l", row.transport, for: place) { try server.must(command) }
            // Only a port that the policy fixes is used twice.
            if row.port != nil { try server.must("setsockopt l reuseaddr 1") }
            if row.transport == .fastOpen { try server.must("setsockopt l fastopen 8") }
            try server.must("bind l \(place.address) \(port)")
            if row.transport.isStream { try server.must("listen l") }
            return server
        }
        let client = try start(row.client)
        for command in row.client.socket("c", row.transport, for: row.asks) { try client.must(command) }
        if let place = row.clientBinds { try client.must("bind c \(place.address) 0") }

        let destination = "\(row.asks.address) \(port)"
        let answer: Probe.Answer
        switch row.transport {
        case .tcp, .mptcp, .connectedDatagram: answer = try client("connect c \(destination)")
        case .fastOpen: answer = try client("fastopen c \(destination) hello")
        case .datagram: answer = try client("sendto c \(destination) hello")
        }
        switch row.outcome {
        case .refused(let errno):
            expect("\(answer)", is: "\(answer.cmd) → \(errno)", "the answer")
        case .lost:
            try #require(answer.ok, "\(answer)")
            if row.transport == .connectedDatagram { try client.must("send c hello") }
            for server in servers {
                try server.must("setsockopt l nonblock 1")
                expect(try server("recvfrom l").errno, is: "EAGAIN", "what came")
            }
        case .meets(let meeting):
            try #require(answer.ok, "\(answer)")
            if row.transport.isStream {
                try expectStream(meeting, client, servers[meeting.server], row.transport, port)
            } else {
                try expectDatagrams(meeting, client, servers[meeting.server], row.transport, port)
            }
        }
    }

    private func expectStream(
        _ meeting: Meeting, _ client: Probe, _ server: Probe, _ transport: Transport, _ port: UInt16
    ) throws {
        let accepted = try server.must("accept l s")
        let view = try #require(try client.kernelView("c"), "the kernel does not know the client's socket")
        if let place = meeting.destination {
            expect(view.remote, is: "\(place):\(port)", "the destination on the wire")
        }
        let source = try #require(view.local.split(separator: ":").last)
        if let place = meeting.source { expect(view.local, is: "\(place):\(source)", "the source on the wire") }
        if let place = meeting.serverPeer {
            expect(accepted.endpoint, is: "\(place):\(source)", "accept")
            expect(try server.must("getpeername s").endpoint, is: "\(place):\(source)", "the server's getpeername")
        }
        expect(
            try server.must("getsockname s").endpoint, is: "\(meeting.serverName):\(port)", "the server's getsockname")
        if let place = meeting.clientName {
            expect(try client.must("getsockname c").endpoint, is: "\(place):\(source)", "the client's getsockname")
        }
        expect(
            try client.must("getpeername c").endpoint, is: "\(meeting.clientPeer):\(port)", "the client's getpeername")
        if transport != .fastOpen { try client.must("send c hello") }
        #expect(try server.must("recv s").data == "hello")
        try server.must("send s back")
        #expect(try client.must("recv c").data == "back")
    }

    private func expectDatagrams(
        _ meeting: Meeting, _ client: Probe, _ server: Probe, _ transport: Transport, _ port: UInt16
    ) throws {
        if transport == .connectedDatagram { try client.must("send c hello") }
        let received = try server.must("recvfrom l")
        #expect(received.data == "hello")
        if let place = meeting.serverPeer { expect(received.address, is: "\(place)", "recvfrom at the server") }
        let source = try #require(received.port)
        let view = try #require(try client.kernelView("c"), "the kernel does not know the client's socket")
        #expect(view.local.hasSuffix(":\(source)"))
        if transport == .connectedDatagram {
            if let place = meeting.destination {
                expect(view.remote, is: "\(place):\(port)", "the destination on the wire")
            }
            if let place = meeting.source { expect(view.local, is: "\(place):\(source)", "the source on the wire") }
            if let place = meeting.clientName {
                expect(try client.must("getsockname c").address, is: "\(place)", "the client's getsockname")
            }
            expect(
                try client.must("getpeername c").endpoint, is: "\(meeting.clientPeer):\(port)",
                "the client's getpeername")
        }
        // The server answers the address that it saw, and the client must see the address that it used: resolvers check
        // that.
        try server.must("sendto l \(received.address ?? "?") \(source) back")
        let answer = try client.must("recvfrom c")
        #expect(answer.data == "back")
        expect(answer.endpoint, is: "\(meeting.clientPeer):\(port)", "recvfrom at the client")
    }
}
