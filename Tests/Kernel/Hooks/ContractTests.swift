// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// docs/behaviour.md, the IPv4 half, through real sockets: given this policy, this call gets that.
@Suite(.serialized, .requiresRoot, .stage)
struct ContractTests: ContractSuite {
    let stage: Stage

    init() throws {
        stage = try #require(StageTrait.current)
    }

    // MARK: bind, getsockname

    static let bindRows: [BindRow] = [
        // 0.0.0.0
        BindRow.rows(off, .app, .wildcard, at: .wildcard),
        BindRow.rows(l, .app, .wildcard, at: .wildcard),
        BindRow.rows(v, .app, .wildcard, at: .annVIP),
        BindRow.rows(vl, .app, .wildcard, at: .annVIP),
        BindRow.rows(vl, .benApp, .wildcard, at: .benVIP),
        BindRow.rows(vlp, .app, .wildcard, at: .annLO, named: .localhost),
        BindRow.rows(vl, .tool, .wildcard, at: .wildcard),
        BindRow.rows(v.with { $0.mode = "perSession" }, .tool, .wildcard, at: .annVIP),
        BindRow.rows(v.with { $0.programs = ["*"] }, .tool, .wildcard, at: .annVIP),
        // 127.0.0.1
        BindRow.rows(off, .app, .localhost, at: .localhost),
        BindRow.rows(v, .app, .localhost, at: .localhost),
        BindRow.rows(l, .app, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(vl, .app, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(vl, .benApp, .localhost, at: .benLO, named: .localhost),
        BindRow.rows(vlp, .app, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(vl, .tool, .localhost, at: .localhost),
        BindRow.rows(l.with { $0.programs = ["*"] }, .tool, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(l.with { $0.excludedPorts = [631] }, .app, .localhost, at: .localhost, port: 631),
        BindRow.rows(l.with { $0.excludedPorts = [631] }, .app, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(excluded, .app, .localhost, at: .localhost, port: 631),
        BindRow.rows(excluded, .app, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(shared, .app, .wildcard, at: .wildcard, port: 5353),
        BindRow.rows(shared, .app, .wildcard, at: .annVIP),
        BindRow.rows(shared, .app, .localhost, at: .annLO, named: .localhost, port: 5353),
        BindRow.rows(shared, .app, .host, at: .annVIP, port: 5353),
        BindRow.rows(excluded, .app, .wildcard, at: .annVIP, port: 631),
        // a host address
        BindRow.rows(off, .app, .host, at: .host),
        BindRow.rows(l, .app, .host, at: .host),
        BindRow.rows(v, .app, .host, at: .annVIP),
        BindRow.rows(vl, .app, .host, at: .annVIP),
        BindRow.rows(vlp, .app, .host, at: .annLO, named: .localhost),
        BindRow.rows(vl, .tool, .host, at: .host),
        // its own
        BindRow.rows(vl, .app, .annVIP, at: .annVIP),
        BindRow.rows(vlp, .app, .annVIP, at: .annVIP),
        BindRow.rows(vl, .app, .annLO, at: .annLO, named: .localhost),
        BindRow.rows(off, .app, .annVIP, at: .annVIP),
        BindRow.rows(vl, .tool, .annVIP, at: .annVIP),
        BindRow.rows(off, .app, .annLO, at: .annLO, named: .localhost),
        BindRow.rows(vl, .tool, .annLO, at: .annLO, named: .localhost),
        // another session's
        BindRow.rows(vl, .app, .benVIP, at: .annVIP),
        BindRow.rows(vlp, .app, .benVIP, at: .annLO, named: .localhost),
        BindRow.rows(l, .app, .benVIP, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .poorApp, .benVIP, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .app, .benLO, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .tool, .benVIP, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .tool, .benLO, refused: "EADDRNOTAVAIL"),
        BindRow.rows(off, .app, .benVIP, refused: "EADDRNOTAVAIL"),
        BindRow.rows(off, .app, .benLO, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .benApp, .poorLO, refused: "EADDRNOTAVAIL"),
        BindRow.rows(l.with { $0.isolation = false }, .app, .benVIP, at: .benVIP),
        BindRow.rows(vl.with { $0.isolation = false }, .app, .benLO, at: .benLO),
        // anything else
        BindRow.rows(vl, .app, .stub, at: .stub),
        BindRow.rows(vlp, .app, .stub, at: .stub),
        BindRow.rows(vl, .app, .multicast, at: .multicast, [.datagram]),
        BindRow.rows(vlp, .app, .multicast, at: .multicast, [.datagram]),
        BindRow.rows(vl, .app, .remote, refused: "EADDRNOTAVAIL"),
        // wildcardName
        // (a limit: nothing can be kept of an MPTCP socket for getsockname to find, so its address alone decides)
        BindRow.rows(asRequested, .app, .wildcard, at: .annVIP, named: .wildcard),
        BindRow.rows(
            asRequested.with { $0.parts.insert(.preferred) }, .app, .wildcard, at: .annLO, named: .wildcard,
            [.tcp, .datagram]),
        BindRow.rows(
            asRequested.with { $0.parts.insert(.preferred) }, .app, .wildcard, at: .annLO, named: .localhost, [.mptcp]),
        BindRow.rows(asRequested, .app, .host, at: .annVIP, [.tcp, .datagram]),
        BindRow.rows(asRequested, .app, .host, at: .annVIP, named: .wildcard, [.mptcp]),
        BindRow.rows(asRequested, .app, .annVIP, at: .annVIP, [.tcp, .datagram]),
        BindRow.rows(asRequested, .app, .annVIP, at: .annVIP, named: .wildcard, [.mptcp]),
        BindRow.rows(asRequested, .app, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(asRequested, .tool, .wildcard, at: .wildcard),
        // no virtual IP
        BindRow.rows(v, .poorApp, .wildcard, refused: "EADDRNOTAVAIL"),
        BindRow.rows(shared, .poorApp, .wildcard, refused: "EADDRNOTAVAIL", port: 5353),
        BindRow.rows(v, .poorApp, .host, refused: "EADDRNOTAVAIL"),
        BindRow.rows(v, .poorApp, .localhost, at: .localhost),
        BindRow.rows(vl, .poorApp, .localhost, at: .poorLO, named: .localhost),
        BindRow.rows(vl, .poorTool, .wildcard, at: .wildcard),
        BindRow.rows(v.with { $0.whenUnavailable = "useHostAddress" }, .poorApp, .wildcard, at: .wildcard),
        BindRow.rows(v.with { $0.whenUnavailable = "useHostAddress" }, .poorApp, .host, at: .host),
        BindRow.rows(
            vl.with { $0.whenUnavailable = "useHostAddress" }, .poorApp, .localhost, at: .poorLO, named: .localhost),
        // at any depth, in any thread
        BindRow.rows(vl, deep, .wildcard, at: .annVIP),
        BindRow.rows(vl, deep, .localhost, at: .annLO, named: .localhost),
        BindRow.rows(vl, renamed, .wildcard, at: .annVIP),
        BindRow.rows(vl, worker, .wildcard, at: .annVIP),
        BindRow.rows(vl, worker, .localhost, at: .annLO, named: .localhost),
        // in no session
        BindRow.rows(vlp, .nobody, .wildcard, at: .wildcard),
        BindRow.rows(vlp, .nobody, .localhost, at: .localhost),
        BindRow.rows(vlp, .nobody, .annLO, at: .annLO),
        BindRow.rows(vlp, .unhooked, .wildcard, at: .wildcard),
        BindRow.rows(vlp, .unhooked, .localhost, at: .localhost),
        BindRow.rows(vlp, .unhooked, .host, at: .host),
        BindRow.rows(vlp, .unhooked, .annVIP, at: .annVIP),
    ].flatMap(\.self)

    @Test("binds as the contract says", arguments: bindRows)
    func bind(_ row: BindRow) throws { try stage.check(row) }

    // MARK: connect, sendto, accept, recvfrom, getpeername

    static let connectRows: [ConnectRow] = [
        // 127.0.0.1 with L: LO4, then VIP4
        ConnectRow.rows(vl, [(.app, .localhost)], .app, .localhost, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, .localhost, meets: .local(.annVIP, from: .annLO)),
        ConnectRow.rows(
            vl, [(.app, .host)], .app, .localhost, meets: .local(.annVIP, from: .annLO)),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.app, .localhost)], .app, .localhost,
            meets: .local(.annLO, from: .annLO, server: 1)),
        ConnectRow.rows(
            asRequested, [(.app, .wildcard)], .app, .localhost, meets: .local(.annVIP, from: .annLO)),
        ConnectRow.rows(l, [(.app, .localhost)], .app, .localhost, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(l, [(.app, .wildcard)], .app, .localhost, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(vlp, [(.app, .wildcard)], .app, .localhost, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(vl, [(deep, .localhost)], worker, .localhost, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(vl, [], .app, .localhost, refused: "ECONNREFUSED", Transport.streams),
        ConnectRow.rows(vl, unheard: [(.unhooked, .localhost)], .app, .localhost),
        ConnectRow.rows(vl, unheard: [(.tool, .localhost)], .app, .localhost),
        // fallback: host
        ConnectRow.rows(fallback, [(.unhooked, .localhost)], .app, .localhost, meets: .local(.localhost, from: nil)),
        ConnectRow.rows(fallback, [(.tool, .localhost)], .app, .localhost, meets: .local(.localhost, from: nil)),
        ConnectRow.rows(
            fallback, [(.unhooked, .localhost), (.app, .localhost)], .app, .localhost,
            meets: .local(.annLO, from: .annLO, server: 1)),
        ConnectRow.rows(
            fallback, [(.unhooked, .localhost), (.app, .wildcard)], .app, .localhost,
            meets: .local(.annVIP, from: .annLO, server: 1)),
        ConnectRow.rows(fallback, [], .app, .localhost, refused: "ECONNREFUSED", Transport.streams),
        // 127.0.0.1 with V alone
        ConnectRow.rows(
            v, [(.app, .wildcard)], .app, .localhost, meets: .local(.annVIP, from: .localhost)),
        ConnectRow.rows(v, [(.app, .localhost)], .app, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(v, [(.unhooked, .localhost)], .app, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(v, [(.unhooked, .wildcard)], .app, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(v, [], .app, .localhost, refused: "ECONNREFUSED", Transport.streams),
        // 0.0.0.0 is 127.0.0.1
        ConnectRow.rows(vl, [(.app, .localhost)], .app, .wildcard, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, .wildcard, meets: .local(.annVIP, from: .annLO)),
        ConnectRow.rows(
            v, [(.app, .wildcard)], .app, .wildcard, meets: .local(.annVIP, from: .localhost)),
        // 127.0.0.1 from a program to which neither applies; the source is left open, the server sees 127.0.0.1
        ConnectRow.rows(vl, [(.app, .localhost)], .tool, .localhost, meets: .local(.annLO, from: nil)),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .tool, .localhost, meets: .local(.annVIP, from: nil)),
        ConnectRow.rows(
            v, [(.app, .wildcard)], .tool, .localhost, meets: .local(.annVIP, from: nil)),
        ConnectRow.rows(
            vl, [(.app, .localhost), (.tool, .localhost)], .tool, .localhost,
            meets: .local(.localhost, from: .localhost, server: 1)),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.unhooked, .localhost)], .tool, .localhost,
            meets: .local(.localhost, from: .localhost, server: 1)),
        ConnectRow.rows(vl, [(.unhooked, .wildcard)], .tool, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(vl, [], .tool, .localhost, refused: "ECONNREFUSED", Transport.streams),
        ConnectRow.rows(vl, unheard: [(.benApp, .localhost)], .tool, .localhost),
        ConnectRow.rows(vl, unheard: [(.benApp, .wildcard)], .tool, .localhost),
        // another session's servers are not found by way of 127.0.0.1; each finds its own
        ConnectRow.rows(vl, unheard: [(.benApp, .localhost)], .app, .localhost),
        ConnectRow.rows(vl, unheard: [(.benApp, .wildcard)], .app, .localhost),
        ConnectRow.rows(
            vl, [(.app, .localhost), (.benApp, .localhost)], .app, .localhost,
            meets: .local(.annLO, from: .annLO, server: 0)),
        ConnectRow.rows(
            vl, [(.app, .localhost), (.benApp, .localhost)], .benApp, .localhost,
            meets: .local(.benLO, from: .benLO, server: 1)),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.benApp, .wildcard)], .benApp, .localhost,
            meets: .local(.benVIP, from: .benLO, server: 1)),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.benApp, .wildcard)], .app, .localhost,
            meets: .local(.annVIP, from: .annLO, server: 0)),
        // an excluded port
        ConnectRow.rows(
            excluded, [(.app, .localhost)], .app, .localhost, meets: .local(.localhost, from: nil), port: 631),
        ConnectRow.rows(
            excluded, [(.unhooked, .localhost)], .app, .localhost, meets: .local(.localhost, from: nil), port: 631),
        ConnectRow.rows(excluded, [(.app, .localhost)], .app, .localhost, meets: .local(.annLO, from: .annLO)),
        // the rest of 127/8: what listens at the very address, then the session's server on the wildcard
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, .stub, meets: .rest(.annVIP, from: .annLO), Transport.remembered),
        // (a limit: nothing can be kept of an MPTCP socket)
        ConnectRow.rows(vl, [(.app, .wildcard)], .app, .stub, meets: .local(.annVIP, from: .annLO), [.mptcp]),
        ConnectRow.rows(
            vlp, [(.app, .wildcard)], .app, .stub, meets: .rest(.annLO, from: .annLO), Transport.remembered),
        ConnectRow.rows(
            v, [(.app, .wildcard)], .app, .stub, meets: .rest(.annVIP, from: .localhost),
            Transport.plainStreams + [.connectedDatagram]),
        // (a limit: an answer from 127.0.0.1 itself has no other name)
        ConnectRow.rows(
            v, [(.app, .wildcard)], .app, .stub, meets: .local(.annVIP, from: .localhost), [.datagram]),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .tool, .stub, meets: .rest(.annVIP, from: nil), Transport.remembered),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .stub,
            meets: .rest(.annVIP, from: .annVIP), Transport.plainStreams),
        // (a limit, as of 127.0.0.1 below)
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .stub,
            meets: Meeting(
                source: .annVIP, destination: .annVIP, clientName: .localhost, clientPeer: .stub, serverPeer: .annVIP,
                serverName: .annVIP), [.connectedDatagram]),
        ConnectRow.rows(
            vl, [(.unhooked, .stub), (.app, .wildcard)], .app, .stub, meets: .plain(.stub, from: .localhost)),
        ConnectRow.rows(vl, [(.unhooked, .stub)], .app, .stub, meets: .plain(.stub, from: .localhost)),
        ConnectRow.rows(vl, [(.app, .stub), (.app, .wildcard)], .app, .stub, meets: .plain(.stub, from: .localhost)),
        // (the kernel's own answer to a datagram there leaves from 127.0.0.1, inside and outside)
        ConnectRow.rows(
            l, [(.app, .wildcard)], .app, .stub, meets: .plain(.stub, from: .localhost), Transport.streams),
        ConnectRow.rows(vl, unheard: [(.app, .localhost)], .app, .stub),
        ConnectRow.rows(vl, unheard: [(.benApp, .wildcard)], .app, .stub),
        ConnectRow.rows(excluded, unheard: [(.app, .wildcard)], .app, .stub, port: 631),
        ConnectRow.rows(vlp, [(.unhooked, .stub)], .nobody, .stub, meets: .plain(.stub, from: .localhost)),
        // its own addresses, by their numbers
        ConnectRow.rows(vl, [(.app, .localhost)], .app, .annLO, meets: .local(.annLO, from: .annLO)),
        ConnectRow.rows(vl, [(.app, .wildcard)], .app, .annVIP, meets: .plain(.annVIP, from: .annVIP)),
        // a host address
        ConnectRow.rows(vl, [(.app, .wildcard)], .app, .host, meets: .plain(.annVIP, from: .annVIP)),
        ConnectRow.rows(v, [(.app, .wildcard)], .app, .host, meets: .plain(.annVIP, from: .annVIP)),
        ConnectRow.rows(vl, [(.unhooked, .host)], .app, .host, meets: .plain(.host, from: .annVIP)),
        // (a datagram's answer is sent by the kernel from the address nearest to its destination, which is the VIP
        // itself)
        ConnectRow.rows(
            vl, [(.unhooked, .wildcard)], .app, .host, meets: .plain(.host, from: .annVIP), Transport.streams),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.unhooked, .host)], .app, .host, meets: .plain(.annVIP, from: .annVIP)),
        ConnectRow.rows(vl, [(.unhooked, .host)], .tool, .host, meets: .plain(.host, from: .host)),
        ConnectRow.rows(l, [(.unhooked, .host)], .app, .host, meets: .plain(.host, from: .host)),
        // elsewhere
        ConnectRow.rows(v, [(.remote, .wildcard)], .app, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(vl, [(.remote, .wildcard)], .app, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(vlp, [(.remote, .wildcard)], .app, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(vl, [(.remote, .wildcard)], worker, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(vl, [(.remote, .wildcard)], .benApp, .remote, meets: .plain(.remote, from: .benVIP)),
        ConnectRow.rows(
            v.with { $0.mode = "perSession" }, [(.remote, .wildcard)], .tool, .remote,
            meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(
            vl, [(.remote, .wildcard)], .app, bound: .wildcard, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(vl, [(.remote, .wildcard)], .app, bound: .host, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(
            vl, [(.remote, .wildcard)], .app, bound: .annVIP, .remote, meets: .plain(.remote, from: .annVIP)),
        ConnectRow.rows(l, [(.remote, .wildcard)], .app, .remote, meets: .plain(.remote, from: .host)),
        ConnectRow.rows(vl, [(.remote, .wildcard)], .tool, .remote, meets: .plain(.remote, from: .host)),
        ConnectRow.rows(vl, [(.app, .wildcard)], .remote, .annVIP, meets: .plain(.annVIP, from: .remote)),
        // a source that the program bound stays, and both ends see a local peer
        ConnectRow.rows(
            vl, [(.app, .localhost)], .app, bound: .wildcard, .localhost, meets: .local(.annLO, from: .annVIP),
            Transport.streams + [.connectedDatagram]),
        ConnectRow.rows(
            vl, [(.app, .localhost)], .app, bound: .wildcard, .localhost, meets: .local(.annLO, from: nil), [.datagram]),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .localhost, meets: .local(.annVIP, from: nil), [.datagram]),
        // both ends on VIP4: the client knows what it asked for, and the server asks the client's socket
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .localhost, meets: .local(.annVIP, from: .annVIP),
            Transport.plainStreams),
        ConnectRow.rows(
            v, [(.app, .wildcard)], .app, bound: .wildcard, .localhost, meets: .local(.annVIP, from: .annVIP),
            Transport.plainStreams),
        // (limits: an unconnected UDP server has no connection to ask about, and an MPTCP client's storage is out of
        // its reach)
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .localhost,
            meets: Meeting(
                source: .annVIP, destination: .annVIP, clientName: .localhost, clientPeer: .localhost,
                serverPeer: .annVIP,
                serverName: .annVIP), [.connectedDatagram]),
        // and by the number of its own address
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .annVIP, meets: .plain(.annVIP, from: .annVIP)),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .host, meets: .plain(.annVIP, from: .annVIP)),
        ConnectRow.rows(
            vl, [(.app, .wildcard)], .app, bound: .wildcard, .localhost,
            meets: Meeting(
                source: .annVIP, destination: .annVIP, clientName: .annVIP, clientPeer: .annVIP, serverPeer: .localhost,
                serverName: .localhost), [.mptcp]),
        ConnectRow.rows(
            vl, [(.app, .localhost)], .app, bound: .localhost, .localhost, meets: .local(.annLO, from: .annLO)),
        // another session
        ConnectRow.rows(vl, [(.benApp, .localhost)], .app, .benLO, refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, [(.benApp, .localhost)], .tool, .benLO, refused: "ECONNREFUSED", all),
        ConnectRow.rows(off, [(.benApp, .benLO)], .app, .benLO, refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, [], .app, .poorLO, refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, [(.benApp, .wildcard)], .app, .benVIP, meets: .plain(.benVIP, from: .annVIP)),
        // no virtual IP
        ConnectRow.rows(v, [(.remote, .wildcard)], .poorApp, .remote, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.unhooked, .host)], .poorApp, .host, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(
            v, [(.unhooked, .localhost)], .poorApp, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(vl, [(.poorApp, .localhost)], .poorApp, .localhost, meets: .local(.poorLO, from: .poorLO)),
        ConnectRow.rows(vl, [(.remote, .wildcard)], .poorTool, .remote, meets: .plain(.remote, from: .host)),
        ConnectRow.rows(
            v.with { $0.whenUnavailable = "useHostAddress" }, [(.remote, .wildcard)], .poorApp, .remote,
            meets: .plain(.remote, from: .host)),
        // off, and in no session
        ConnectRow.rows(off, [(.app, .wildcard)], .app, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(off, [(.remote, .wildcard)], .app, .remote, meets: .plain(.remote, from: .host)),
        ConnectRow.rows(vlp, [(.nobody, .localhost)], .nobody, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(
            vlp, [(.unhooked, .wildcard)], .nobody, .localhost, meets: .local(.localhost, from: .localhost)),
        ConnectRow.rows(vlp, [(.remote, .wildcard)], .nobody, .remote, meets: .plain(.remote, from: .host)),
        ConnectRow.rows(vlp, [(.remote, .wildcard)], .unhooked, .remote, meets: .plain(.remote, from: .host)),
    ].flatMap(\.self)

    @Test("connects and sends as the contract says", arguments: connectRows)
    func connect(_ row: ConnectRow) throws { try stage.check(row) }

    // MARK: what is no row

    /// One unconnected socket that speaks with many, as a resolver or a telephone does.
    @Test("gives each datagram of one socket the source for its peer")
    func oneSocketToManyPeers() throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let server = try stage.start(.app)
        for command in ["socket l udp", "bind l 127.0.0.1 \(port)"] { try server.must(command) }
        let remote = try stage.start(.remote)
        for command in ["socket l udp", "bind l 0.0.0.0 \(port)"] { try remote.must(command) }
        let client = try stage.start(.app)
        try client.must("socket c udp")
        for _ in 0..<2 {
            try client.must("sendto c 127.0.0.1 \(port) near")
            #expect(try server.must("recvfrom l").address == "127.0.0.1")
            #expect(try client.must("sendmmsg c 3 \(Place.remote.address) \(port) far").count == 3)
            for _ in 0..<3 { #expect(try remote.must("recvfrom l").address == Place.annVIP.address) }
        }
    }

    @Test("knows a script by its own name")
    func scriptsAreKnownByTheirName() throws {
        try stage.enforce(Self.vl.with { $0.programs = ["crm-script"] })
        let port = stage.newPort()
        let server = try stage.sandbox.script("crm-script", in: Party.ann.cgroup)
        let other = try stage.sandbox.script("other-script", in: Party.ann.cgroup)
        for command in ["socket l tcp", "bind l 127.0.0.1 \(port)", "listen l"] { try server.must(command) }
        #expect(try server.kernelView("l")?.local == "\(Place.annLO.address):\(port)")
        #expect(try server.must("getsockname l").endpoint == "127.0.0.1:\(port)")
        for command in ["socket l tcp", "bind l 127.0.0.1 \(port)", "listen l"] { try other.must(command) }
        #expect(try other.kernelView("l")?.local == "127.0.0.1:\(port)")
    }

    /// An absolute path is that file, not another of the same name.
    @Test("takes an absolute path for that file alone")
    func pathsTellProgramsOfOneNameApart() throws {
        let paths = ["one", "two"].map { "\(stage.sandbox.directory)/\($0)/crm" }
        // The file must be there when the policy is applied: it is known by device and inode.
        let probes = try paths.map { try stage.start(Actor(party: .ann, program: $0)) }
        try stage.enforce(Self.v.with { $0.programs = [paths[0]] })
        for (probe, place) in zip(probes, [Place.annVIP, .wildcard]) {
            let port = stage.newPort()
            for command in ["socket l tcp", "bind l 0.0.0.0 \(port)", "listen l"] { try probe.must(command) }
            #expect(try probe.kernelView("l")?.local == "\(place.address):\(port)", "\(probe.program.name)")
        }
    }
}

/// What takes a host of its own, for it breaks something.
@Suite(.serialized, .requiresRoot)
struct ContractUnderChangeTests {
    /// A virtual IP that somebody takes off the interface is never replaced by the host's address in silence.
    @Test(
        "refuses calls where the virtual IP was taken off the interface",
        arguments: [Transport.tcp, .mptcp, .fastOpen, .datagram, .connectedDatagram])
    func virtualIPTakenAway(transport: Transport) throws {
        try Sandbox.with { sandbox in
            let stage = try Stage(sandbox)
            try stage.enforce(ContractTests.v)
            let port = stage.newPort()
            let remote = try stage.start(.remote)
            try remote.must("socket l \(transport.socket)")
            try remote.must("bind l 0.0.0.0 \(port)")
            if transport.isStream { try remote.must("listen l") }
            try sandbox.sh("ip route del local \(Place.annVIP.address) dev eth0 table local")

            let program = try stage.start(.app)
            try program.must("socket b \(transport.socket)")
            #expect(try program("bind b 0.0.0.0 \(port)").errno == "EADDRNOTAVAIL")
            try program.must("socket c \(transport.socket)")
            let call =
                switch transport {
                case .tcp, .mptcp, .connectedDatagram: "connect c \(Place.remote.address) \(port)"
                case .fastOpen: "fastopen c \(Place.remote.address) \(port) hello"
                case .datagram: "sendto c \(Place.remote.address) \(port) hello"
                }
            let answer = try program(call)
            if transport == .datagram {
                // Here it is routing that finds out, and kernels differ in the word for it.
                #expect(["EADDRNOTAVAIL", "EINVAL", "ENETUNREACH"].contains(answer.errno), "\(answer)")
            } else {
                expect(answer.errno, is: "EADDRNOTAVAIL", call)
            }
            if !transport.isStream {
                try remote.must("setsockopt l nonblock 1")
                expect(try remote("recvfrom l").errno, is: "EAGAIN", "what came")
            }
        }
    }

    /// A session that is closed leaves its programs with the host's addresses, one that is detached as well.
    @Test(
        "leaves programs with the host's addresses after the session was closed",
        arguments: [["session", "close", "7"], ["detach", "--all"]])
    func afterTheEnd(command: [String]) throws {
        try Sandbox.with { sandbox in
            let stage = try Stage(sandbox)
            try stage.enforce(ContractTests.vl)
            let program = try stage.start(.app)
            let result = try sandbox.ctl(command)
            try #require(result.status == 0, "\(result)")
            let port = stage.newPort()
            for command in ["socket l tcp", "bind l 0.0.0.0 \(port)", "listen l"] { try program.must(command) }
            #expect(try program.kernelView("l")?.local == "0.0.0.0:\(port)")
            #expect(try !sandbox.virtualIPs().contains(Place.annVIP.address))
        }
    }
}
