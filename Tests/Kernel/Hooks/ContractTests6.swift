// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// docs/behaviour.md, the IPv6 half and the IPv4 half on AF_INET6 sockets: given this policy, this call gets that.
@Suite(.serialized, .requiresRoot, .stage6)
struct ContractTests6: ContractSuite {
    let stage: Stage

    init() throws {
        stage = try #require(StageTrait.current)
    }

    // MARK: bind, getsockname

    /// A row that holds for V6ONLY sockets and for others: an IPv6 address is one on either.
    private static func both(
        _ policy: ContractPolicy, _ actor: Actor, _ asks: Place, at place: Place, named: Place? = nil,
        port: UInt16? = nil
    ) -> [BindRow] {
        BindRow.rows(policy, actor, asks, at: place, named: named, port: port)
            + BindRow.rows(policy, actor.only6, asks, at: place, named: named, port: port)
    }

    private static func both(_ policy: ContractPolicy, _ actor: Actor, _ asks: Place, refused errno: String)
        -> [BindRow]
    {
        BindRow.rows(policy, actor, asks, refused: errno) + BindRow.rows(policy, actor.only6, asks, refused: errno)
    }

    /// What IPv6 has beside the IPv4 rows: dual-stack sockets, sessions with one family, and limits.
    static let bindRows: [BindRow] = [
        // :: with IPV6_V6ONLY
        BindRow.rows(vl, .sixApp.only6, .wildcard6, at: .sixVIP6),
        // where the session has IPv4 alone, its loopback is what is left
        BindRow.rows(v, .fourApp.only6, .wildcard6, at: .fourLO6, named: .localhost6),
        BindRow.rows(vl, .fourApp.only6, .wildcard6, at: .fourLO6, named: .localhost6),
        BindRow.rows(vlp, .fourApp.only6, .wildcard6, at: .fourLO6, named: .localhost6),
        BindRow.rows(useHostAddress, .fourApp.only6, .wildcard6, at: .fourLO6, named: .localhost6),
        // :: for both families
        BindRow.rows(off, .app, .wildcard6, at: .wildcard6),
        BindRow.rows(l, .app, .wildcard6, at: .wildcard6),
        BindRow.rows(v, .app, .wildcard6, at: .mapped(.annVIP)),
        BindRow.rows(vl, .app, .wildcard6, at: .mapped(.annVIP)),
        BindRow.rows(vl, .benApp, .wildcard6, at: .mapped(.benVIP)),
        BindRow.rows(vlp, .app, .wildcard6, at: .mapped(.annLO), named: .mapped(.localhost)),
        BindRow.rows(vl, .tool, .wildcard6, at: .wildcard6),
        BindRow.rows(v.with { $0.mode = "perSession" }, .tool, .wildcard6, at: .mapped(.annVIP)),
        BindRow.rows(v.with { $0.programs = ["*"] }, .tool, .wildcard6, at: .mapped(.annVIP)),
        BindRow.rows(vl, .fourApp, .wildcard6, at: .mapped(.fourVIP)),
        BindRow.rows(vl, .sixApp, .wildcard6, at: .sixVIP6),
        BindRow.rows(v, .sixApp, .wildcard6, at: .sixVIP6),
        BindRow.rows(vlp, .fourApp, .wildcard6, at: .mapped(.fourLO), named: .mapped(.localhost)),
        BindRow.rows(
            vlp, .sixApp, .wildcard6, at: .mapped(.loopback(of: .six)), named: .mapped(.localhost)),
        BindRow.rows(vl, deep, .wildcard6, at: .mapped(.annVIP)),
        BindRow.rows(vl, worker, .wildcard6, at: .mapped(.annVIP)),
        BindRow.rows(shared, .app, .wildcard6, at: .wildcard6, port: 5353),
        // port 0: UDP stays where it can send both families
        BindRow.rows(vl, .app, .wildcard6, at: .mapped(.annVIP), port: 0, [.tcp, .mptcp]),
        BindRow.rows(v, .app, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        BindRow.rows(vl, .app, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        BindRow.rows(vlp, .app, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        BindRow.rows(vl, .fourApp, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        // a host address
        BindRow.rows(vl, .sixApp, .host6, at: .sixVIP6),
        both(vl, .fourApp, .host6, refused: "EADDRNOTAVAIL"),
        both(useHostAddress, .fourApp, .host6, at: .host6),
        // another session's
        BindRow.rows(vl, .app, .sixVIP6, at: .annVIP6),
        BindRow.rows(vl, .app, .fourLO6, refused: "EADDRNOTAVAIL"),
        // what no host of ours has
        both(l, .app, .remote6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(off, .app, .remote6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .tool, .remote6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .nobody, .remote6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .unhooked, .remote6, refused: "EADDRNOTAVAIL"),
        // a V6ONLY socket takes no mapped address
        BindRow.rows(off, .app.only6, .mapped(.wildcard), refused: "EINVAL"),
        BindRow.rows(vl, .app.only6, .mapped(.wildcard), refused: "EINVAL"),
        BindRow.rows(vl, .app.only6, .mapped(.localhost), refused: "EINVAL"),
        BindRow.rows(vl, .app.only6, .mapped(.host), refused: "EINVAL"),
        // wildcardName
        BindRow.rows(asRequested, .app, .wildcard6, at: .mapped(.annVIP), named: .wildcard6),
        BindRow.rows(asRequested, .sixApp, .wildcard6, at: .sixVIP6, named: .wildcard6),
        BindRow.rows(asRequested, .fourApp, .wildcard6, at: .mapped(.fourVIP), named: .wildcard6),
        BindRow.rows(asRequested, .fourApp.only6, .wildcard6, at: .fourLO6, named: .wildcard6, [.tcp, .datagram]),
        BindRow.rows(asRequested, .fourApp.only6, .wildcard6, at: .fourLO6, named: .localhost6, [.mptcp]),
        BindRow.rows(
            asRequested.with { $0.parts.insert(.preferred) }, .app, .wildcard6, at: .mapped(.annLO), named: .wildcard6,
            [.tcp, .datagram]),
        BindRow.rows(
            asRequested.with { $0.parts.insert(.preferred) }, .app, .wildcard6, at: .mapped(.annLO),
            named: .mapped(.localhost), [.mptcp]),
        BindRow.rows(asRequested, .tool, .wildcard6, at: .wildcard6),
        // no virtual IP at all
        BindRow.rows(v, .poorApp, .wildcard6, refused: "EADDRNOTAVAIL"),
        both(vl, .poorApp, .wildcard6, refused: "EADDRNOTAVAIL"),
        both(vlp, .poorApp, .wildcard6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(useHostAddress, .poorApp, .wildcard6, at: .wildcard6),
        BindRow.rows(vl, .poorTool, .wildcard6, at: .wildcard6),
        // of one family: the other is as without any
        BindRow.rows(vl, .sixApp, .wildcard, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .sixApp, .mapped(.wildcard), refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .sixApp, .host, refused: "EADDRNOTAVAIL"),
        BindRow.rows(useHostAddress, .sixApp, .wildcard, at: .wildcard),
        // in no session
        BindRow.rows(vlp, .nobody, .wildcard6, at: .wildcard6),
        BindRow.rows(vlp, .unhooked, .wildcard6, at: .wildcard6),
    ].flatMap(\.self)

    @Test("binds as the contract says", arguments: bindRows)
    func bind(_ row: BindRow) throws { try stage.check(row) }

    /// Every IPv4 row, by IPv6.
    @Test("binds as the IPv4 half says", arguments: ContractTests.bindRows.flatMap(\.inet6))
    func bindInet6(_ row: BindRow) throws { try stage.check(row) }

    /// Every IPv4 row, on AF_INET6 sockets.
    @Test("binds mapped addresses as the IPv4 ones", arguments: ContractTests.bindRows.map(\.mapped))
    func bindMapped(_ row: BindRow) throws {
        try stage.check(row)
    }

    // MARK: connect, sendto, accept, recvfrom, getpeername

    /// A dual-stack server and what reaches it. TCP by either family; MPTCP and UDP are bound to IPv4, and no program
    /// can lead IPv6 to them: those rows pin what is left.
    private static func dualStack(
        _ policy: ContractPolicy, _ server: Actor, ip: Place, loopback: Place, ip6: Place?, loopback6: Place
    ) -> [ConnectRow] {
        let servers = [(actor: server, binds: Place.wildcard6)]
        let client = Actor(party: server.party, program: "app")
        var rows = [
            // its own programs, by IPv6
            ConnectRow.rows(
                policy, servers, client, .localhost6, meets: .local6(loopback6, from: loopback6),
                Transport.plainStreams),
            ConnectRow.rows(
                policy, servers, client, .wildcard6, meets: .local6(loopback6, from: loopback6), Transport.plainStreams),
            ConnectRow.rows(
                policy, servers, client.only6, .localhost6, meets: .local6(loopback6, from: loopback6),
                Transport.plainStreams),
            ConnectRow.rows(
                policy, servers, client, loopback6, meets: .local6(loopback6, from: loopback6), Transport.plainStreams),
            ConnectRow.rows(
                policy, servers, client, .localhost6, meets: .byIPv4(ip, from: loopback), [.connectedDatagram]),
            ConnectRow.rows(policy, unheard: servers, client, .localhost6, [.datagram]),
            ConnectRow.rows(policy, unheard: servers, client.only6, .localhost6, [.mptcp] + Transport.datagrams),
            // (of an MPTCP client nothing is known but its addresses)
            ConnectRow.rows(
                policy, servers, client, .localhost6,
                meets: .local(ip, from: loopback).mapped(client: true, server: true), [.mptcp]),
            // by IPv4
            ConnectRow.rows(
                policy, servers, client, .localhost, meets: .local(ip, from: loopback).mapped(server: true)),
            ConnectRow.rows(
                policy, servers, client, .mapped(.localhost),
                meets: .local(ip, from: loopback).mapped(client: true, server: true)),
            ConnectRow.rows(policy, servers, client, ip, meets: .plain(ip, from: ip).mapped(server: true)),
            ConnectRow.rows(
                policy, servers, client, .mapped(ip), meets: .plain(ip, from: ip).mapped(client: true, server: true)),
            ConnectRow.rows(policy, servers, client, .host, meets: .plain(ip, from: ip).mapped(server: true)),
            // other hosts
            ConnectRow.rows(policy, servers, .remote, ip, meets: .plain(ip, from: .remote).mapped(server: true)),
            ConnectRow.rows(
                policy, servers, .remote, .mapped(ip),
                meets: .plain(ip, from: .remote).mapped(client: true, server: true), [.tcp, .datagram]),
        ]
        if let ip6 {
            rows += [
                ConnectRow.rows(
                    policy, servers, client, ip6, meets: .plain(ip6, from: ip6), Transport.plainStreams),
                ConnectRow.rows(
                    policy, servers, client, .host6, meets: .plain(ip6, from: ip6), Transport.plainStreams),
                ConnectRow.rows(policy, unheard: servers, client, ip6, [.mptcp] + Transport.datagrams),
                ConnectRow.rows(
                    policy, servers, .remote, ip6, meets: .plain(ip6, from: .remote6), Transport.plainStreams),
                ConnectRow.rows(policy, unheard: servers, .remote, ip6, [.mptcp] + Transport.datagrams),
            ]
        }
        return rows.flatMap(\.self)
    }

    static let dualStackRows: [ConnectRow] = [
        dualStack(vl, .app, ip: .annVIP, loopback: .annLO, ip6: .annVIP6, loopback6: .annLO6),
        dualStack(asRequested, .app, ip: .annVIP, loopback: .annLO, ip6: .annVIP6, loopback6: .annLO6),
        dualStack(vl, .benApp, ip: .benVIP, loopback: .benLO, ip6: .benVIP6, loopback6: .benLO6),
        dualStack(vl, .fourApp, ip: .fourVIP, loopback: .fourLO, ip6: nil, loopback6: .fourLO6),
        dualStack(fallback, deep, ip: .annVIP, loopback: .annLO, ip6: .annVIP6, loopback6: .annLO6),
        // V alone
        ConnectRow.rows(
            v, [(.app, .wildcard6)], .app, .localhost6, meets: .local6(.annVIP6, from: .localhost6),
            Transport.plainStreams),
        ConnectRow.rows(
            v, [(.app, .wildcard6)], .app, .localhost6, meets: .byIPv4(.annVIP, from: .localhost), [.connectedDatagram]),
        ConnectRow.rows(
            v, [(.app, .wildcard6)], .app, .localhost,
            meets: .local(.annVIP, from: .localhost).mapped(server: true)),
        ConnectRow.rows(
            v, [(.app, .wildcard6)], .remote, .annVIP6, meets: .plain(.annVIP6, from: .remote6), Transport.plainStreams),
        // P
        ConnectRow.rows(
            vlp, [(.app, .wildcard6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6), Transport.plainStreams
        ),
        ConnectRow.rows(
            vlp, [(.app, .wildcard6)], .app, .localhost6, meets: .byIPv4(.annLO, from: .annLO), [.connectedDatagram]),
        ConnectRow.rows(
            vlp, [(.app, .wildcard6)], .app, .localhost, meets: .local(.annLO, from: .annLO).mapped(server: true)),
        ConnectRow.rows(vlp, unheard: [(.app, .wildcard6)], .remote, .annVIP),
        ConnectRow.rows(vlp, unheard: [(.app, .wildcard6)], .remote, .annVIP6),
        // L alone: the server is on :: itself
        ConnectRow.rows(l, [(.app, .wildcard6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(
            l, [(.app, .wildcard6)], .app, .localhost, meets: .local(.annLO, from: .annLO).mapped(server: true)),
        // VIP6 alone: bound to it, so all of IPv6 reaches the server, and nothing of IPv4
        ConnectRow.rows(vl, [(.sixApp, .wildcard6)], .sixApp, .localhost6, meets: .local6(.sixVIP6, from: .sixLO6)),
        ConnectRow.rows(vl, [(.sixApp, .wildcard6)], .sixApp, .sixVIP6, meets: .plain(.sixVIP6, from: .sixVIP6)),
        ConnectRow.rows(vl, [(.sixApp, .wildcard6)], .remote, .sixVIP6, meets: .plain(.sixVIP6, from: .remote6)),
        ConnectRow.rows(vl, unheard: [(.sixApp, .wildcard6)], .sixApp, .localhost),
        // a program on no list
        ConnectRow.rows(
            vl, [(.app, .wildcard6)], .tool, .localhost6, meets: .local6(nil, from: nil), Transport.plainStreams),
        ConnectRow.rows(
            vl, [(.app, .wildcard6)], .tool, .localhost6, meets: .byIPv4(.annVIP, from: nil), [.connectedDatagram]),
        ConnectRow.rows(
            vl, [(.app, .wildcard6)], .tool, .localhost, meets: .local(.annVIP, from: nil).mapped(server: true)),
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.unhooked, .localhost6)], .tool, .localhost6,
            meets: .local6(.localhost6, from: .localhost6, server: 1)),
        ConnectRow.rows(vl, [(.tool, .wildcard6)], .tool, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(vl, [(.tool, .wildcard6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        // fallback: host, an excluded port
        ConnectRow.rows(
            fallback, [(.unhooked, .localhost6), (.app, .wildcard6)], .app, .localhost6,
            meets: .local6(.annLO6, from: .annLO6, server: 1), Transport.plainStreams),
        ConnectRow.rows(
            excluded, [(.unhooked, .localhost6), (.app, .wildcard6)], .app, .localhost6,
            meets: .local6(.localhost6, from: nil), port: 631),
        // another session: by VIP as any host, by no loopback
        ConnectRow.rows(
            vl, [(.app, .wildcard6)], .benApp, .annVIP6, meets: .plain(.annVIP6, from: .benVIP6),
            Transport.plainStreams),
        ConnectRow.rows(
            vl, [(.app, .wildcard6)], .benApp, .annVIP, meets: .plain(.annVIP, from: .benVIP).mapped(server: true)),
        ConnectRow.rows(vl, [(.app, .wildcard6)], .benApp, .annLO6, refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, [(.app, .wildcard6)], .benApp, .annLO, refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, [(.app, .wildcard6)], .benApp, .mapped(.annLO), refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, unheard: [(.app, .wildcard6)], .benApp, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .wildcard6)], .benApp, .localhost),
        ConnectRow.rows(vl, unheard: [(.app, .wildcard6)], .sixApp, .localhost6),
        // no session
        ConnectRow.rows(vl, unheard: [(.app, .wildcard6)], .nobody, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .wildcard6)], .unhooked, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .wildcard6)], .unhooked, .host6),
        ConnectRow.rows(
            vl, [(.app, .wildcard6)], .unhooked, .annVIP6,
            meets: Meeting(destination: .annVIP6, clientPeer: .annVIP6, serverName: .annVIP6), Transport.plainStreams),
        // one port, two sessions: each finds its own, and others find both
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.benApp, .wildcard6)], .app, .localhost6,
            meets: .local6(.annLO6, from: .annLO6, server: 0), Transport.plainStreams),
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.benApp, .wildcard6)], .benApp, .localhost6,
            meets: .local6(.benLO6, from: .benLO6, server: 1), Transport.plainStreams),
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.benApp, .wildcard6)], .benApp, .localhost6,
            meets: .byIPv4(.benVIP, from: .benLO, server: 1), [.connectedDatagram]),
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.benApp, .wildcard6)], .benApp, .localhost,
            meets: .local(.benVIP, from: .benLO, server: 1).mapped(server: true)),
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.benApp, .wildcard6)], .remote, .annVIP6,
            meets: .plain(.annVIP6, from: .remote6, server: 0), Transport.plainStreams),
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.benApp, .wildcard6)], .remote, .benVIP6,
            meets: .plain(.benVIP6, from: .remote6, server: 1), Transport.plainStreams),
        ConnectRow.rows(
            vl, [(.app, .wildcard6), (.benApp, .wildcard6)], .remote, .benVIP,
            meets: .plain(.benVIP, from: .remote, server: 1).mapped(server: true)),
        // one session, one port, a server for each family, as nginx has them
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.app.only6, .wildcard6)], .app, .localhost,
            meets: .local(.annVIP, from: .annLO, server: 0)),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.app.only6, .wildcard6)], .app, .localhost6,
            meets: .local6(.annVIP6, from: .annLO6, server: 1)),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.app.only6, .wildcard6)], .remote, .annVIP,
            meets: .plain(.annVIP, from: .remote, server: 0)),
        ConnectRow.rows(
            vl, [(.app, .wildcard), (.app.only6, .wildcard6)], .remote, .annVIP6,
            meets: .plain(.annVIP6, from: .remote6, server: 1)),
        // as outside, ::1 does not lead to who asked for IPv4
        ConnectRow.rows(vl, unheard: [(.app, .wildcard)], .app, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .localhost)], .app, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .mapped(.wildcard))], .app, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .mapped(.localhost))], .app, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .wildcard)], .tool, .localhost6),
        ConnectRow.rows(vlp, unheard: [(.app, .wildcard)], .app, .localhost6),
        ConnectRow.rows(vl, unheard: [(.app, .wildcard)], .remote, .annVIP6),
        ConnectRow.rows(vl, unheard: [(.app, .mapped(.wildcard))], .remote, .annVIP6),
        // nor IPv4 to who asked for IPv6
        ConnectRow.rows(vl, unheard: [(.app.only6, .wildcard6)], .app, .localhost),
        ConnectRow.rows(vl, unheard: [(.app.only6, .wildcard6)], .app, .mapped(.localhost)),
        ConnectRow.rows(vl, unheard: [(.app.only6, .wildcard6)], .app, .annVIP),
        ConnectRow.rows(vl, unheard: [(.app.only6, .wildcard6)], .remote, .annVIP),
        ConnectRow.rows(vl, unheard: [(.app, .localhost6)], .app, .localhost),
        ConnectRow.rows(vl, unheard: [(.app, .localhost6)], .remote, .annVIP6),
    ].flatMap(\.self)

    @Test("reaches dual-stack servers as the contract says", arguments: dualStackRows)
    func dualStack(_ row: ConnectRow) throws { try stage.check(row) }

    /// What IPv6 has beside the IPv4 rows.
    static let connectRows: [ConnectRow] = [
        // ::1 with L: LO6, then VIP6
        ConnectRow.rows(vl, [(.app, .localhost6)], .app.only6, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6)], .app.only6, .localhost6, meets: .local6(.annVIP6, from: .annLO6)),
        ConnectRow.rows(
            vl, [(.fourApp.only6, .wildcard6)], .fourApp, .localhost6, meets: .local6(.fourLO6, from: .fourLO6)),
        // elsewhere
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .app.only6, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .sixApp, .remote6, meets: .plain(.remote6, from: .sixVIP6)),
        // one that is bound to :: for both families, with port 0: UDP sends to either
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app, bound: .wildcard6, .remote6, meets: .plain(.remote6, from: .annVIP6),
            [.datagram]),
        ConnectRow.rows(
            vl, [(.remote, .wildcard)], .app, bound: .wildcard6, .mapped(.remote),
            meets: .plain(.remote, from: .annVIP).mapped(client: true), Transport.streams + [.datagram]),
        ConnectRow.rows(
            vl, [(.app, .localhost6)], .app, bound: .wildcard6, .localhost6, meets: .local6(.annLO6, from: nil),
            Transport.datagrams),
        ConnectRow.rows(
            vl, [(.app, .localhost)], .app, bound: .wildcard6, .mapped(.localhost),
            meets: .local(.annLO, from: nil).mapped(client: true)),
        // (limits: a stream is on ::ffff:VIP4, and the kernel connects that to no IPv6; a datagram socket that has a
        // port and no address cannot be given one by connect)
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app, bound: .wildcard6, .remote6, refused: "EAFNOSUPPORT", Transport.streams),
        ConnectRow.rows(
            vl, [(.app, .localhost6)], .app, bound: .wildcard6, .localhost6, refused: "EAFNOSUPPORT",
            Transport.streams),
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app, bound: .wildcard6, .remote6, refused: "EADDRNOTAVAIL",
            [.connectedDatagram]),
        ConnectRow.rows(
            vl, [(.remote, .wildcard)], .app, bound: .wildcard6, .mapped(.remote), refused: "EADDRNOTAVAIL",
            [.connectedDatagram]),
        // another session
        ConnectRow.rows(
            vl.with { $0.isolation = false }, [(.benApp, .localhost6)], .app, .benLO6,
            meets: Meeting(destination: .benLO6, clientPeer: .benLO6, serverName: .localhost6), Transport.streams),
        // no virtual IP, or none of this family
        ConnectRow.rows(v, [(.remote, .wildcard6)], .poorApp.only6, .remote6, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.remote, .wildcard)], .poorApp, .mapped(.remote), refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.remote, .wildcard6)], .fourApp, .remote6, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.unhooked, .host6)], .fourApp, .host6, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.app.only6, .wildcard6)], .fourApp, .annVIP6, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.remote, .wildcard)], .fourApp, .remote, meets: .plain(.remote, from: .fourVIP)),
        ConnectRow.rows(
            v, [(.remote, .wildcard)], .fourApp, .mapped(.remote),
            meets: .plain(.remote, from: .fourVIP).mapped(client: true)),
        ConnectRow.rows(v, [(.remote, .wildcard)], .sixApp, .remote, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.remote, .wildcard)], .sixApp, .mapped(.remote), refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(
            v, [(.unhooked, .localhost6)], .fourApp, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(vl, [(.fourApp, .localhost6)], .fourApp, .localhost6, meets: .local6(.fourLO6, from: .fourLO6)),
        ConnectRow.rows(
            useHostAddress, [(.remote, .wildcard6)], .fourApp, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(
            useHostAddress, [(.remote, .wildcard)], .sixApp, .remote, meets: .plain(.remote, from: .host)),
        ConnectRow.rows(
            useHostAddress, [(.remote, .wildcard6)], .sixApp, .remote6, meets: .plain(.remote6, from: .sixVIP6)),
        // off, and in no session: what the kernel does by itself
        ConnectRow.rows(off, [(.app, .wildcard6)], .app, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(
            vlp, [(.unhooked, .wildcard6)], .unhooked, .wildcard6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(
            vlp, [(.unhooked, .wildcard6)], .unhooked, .localhost,
            meets: .local(.localhost, from: .localhost).mapped(server: true)),
        ConnectRow.rows(
            vlp, [(.unhooked, .wildcard)], .unhooked, .mapped(.localhost),
            meets: .local(.localhost, from: .localhost).mapped(client: true)),
        ConnectRow.rows(
            vlp, [(.unhooked, .wildcard6)], .remote, .host, meets: .plain(.host, from: .remote).mapped(server: true)),
        ConnectRow.rows(vlp, [(.unhooked, .wildcard6)], .remote, .host6, meets: .plain(.host6, from: .remote6)),
        ConnectRow.rows(vlp, unheard: [(.unhooked.only6, .wildcard6)], .unhooked, .localhost),
        ConnectRow.rows(vlp, unheard: [(.unhooked, .mapped(.wildcard))], .unhooked, .localhost6),
    ].flatMap(\.self)

    @Test("connects and sends as the contract says", arguments: connectRows)
    func connect(_ row: ConnectRow) throws { try stage.check(row) }

    /// Every IPv4 row, by IPv6.
    @Test("connects and sends as the IPv4 half says", arguments: ContractTests.connectRows.compactMap(\.inet6))
    func connectInet6(_ row: ConnectRow) throws { try stage.check(row) }

    /// Every IPv4 row with AF_INET6 sockets on both sides, and most of them with one on either.
    @Test(
        "connects AF_INET6 sockets by IPv4 as the contract says",
        arguments: ContractTests.connectRows.map { $0.mapped(client: true, servers: true) })
    func connectMapped(_ row: ConnectRow) throws { try stage.check(row) }

    @Test(
        "connects an AF_INET6 socket and an AF_INET one as the contract says",
        arguments: ContractTests.connectRows.filter { $0.transport == .tcp || $0.transport == .datagram }
            .flatMap { [$0.mapped(client: true), $0.mapped(servers: true)] })
    func connectHalfMapped(_ row: ConnectRow) throws { try stage.check(row) }

    // MARK: what is no row

    /// As outside, a dual-stack server has the port for IPv4, too, whichever comes first.
    @Test(
        "keeps a dual-stack server's port for both families", arguments: Transport.binds,
        [[Place.wildcard6, .wildcard], [.wildcard, .wildcard6]])
    func dualStackHasThePortOfBothFamilies(transport: Transport, asks: [Place]) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let programs = try asks.map { _ in try stage.start(.app) }
        for (program, place) in zip(programs, asks) {
            for command in Actor.app.socket("a", transport, for: place) { try program.must(command) }
        }
        try programs[0].must("bind a \(asks[0].address) \(port)")
        #expect(try programs[1]("bind a \(asks[1].address) \(port)").errno == "EADDRINUSE")
    }

    /// A dual-stack TCP server, by every way to it. What the other side hears tells which server it was.
    private func expectReached(
        _ server: Probe, named word: String, at port: UInt16, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        for (actor, place) in Self.waysToAnn {
            let client = try stage.start(actor)
            for command in actor.socket("c", .tcp, for: place) { try client.must(command) }
            let answer = try client("connect c \(place.address) \(port)")
            try #require(answer.ok, "\(actor) to \(place): \(answer)", sourceLocation: sourceLocation)
            for command in ["accept l s", "send s \(word)", "close s"] { try server.must(command) }
            expect(try client.must("recv c").data, is: word, "\(actor) to \(place)", sourceLocation: sourceLocation)
        }
    }

    private func expectUnreachable(at port: UInt16, sourceLocation: SourceLocation = #_sourceLocation) throws {
        for (actor, place) in Self.waysToAnn {
            let client = try stage.start(actor)
            for command in actor.socket("c", .tcp, for: place) { try client.must(command) }
            let answer = try client("connect c \(place.address) \(port)")
            expect(answer.errno, is: "ECONNREFUSED", "\(actor) to \(place)", sourceLocation: sourceLocation)
        }
    }

    private static let waysToAnn: [(Actor, Place)] = [
        (.app, .localhost), (.app, .mapped(.localhost)), (.app, .localhost6), (.app.only6, .localhost6),
        (.app, .annVIP), (.app, .annVIP6), (.tool, .localhost), (.tool, .localhost6), (.remote, .annVIP),
        (.remote, .annVIP6),
    ]

    /// Where a dual-stack server closes, its port is free and leads nowhere; the next one is found at once.
    @Test("finds a dual-stack server from listen to close", arguments: ["close", "end"])
    func dualStackServersComeAndGo(how: String) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let commands = ["socket l tcp 6", "setsockopt l reuseaddr 1", "bind l :: \(port)"]
        try expectUnreachable(at: port)
        for word in ["first", "second", "third"] {
            let server = try stage.start(.app)
            for command in commands { try server.must(command) }
            // Bound is not listening.
            try expectUnreachable(at: port)
            try server.must("listen l")
            // Once more changes the backlog, nothing else.
            try server.must("listen l 32")
            try expectReached(server, named: word, at: port)
            if how == "close" {
                try server.must("close l")
            } else {
                server.program.signal(SIGKILL)
                try server.program.wait()
            }
            try expectUnreachable(at: port)
        }
    }

    /// The commands for a dual-stack server that lets others have its port, too.
    private static func sharingServer(at port: UInt16) -> [String] {
        Family.dual.server("l", "tcp", on: .wildcard6, port, options: ["reuseport"])
    }

    /// Two servers of one port, by SO_REUSEPORT: the one that stays is found by every way, whichever goes.
    @Test("finds the server that stays, of two that share a port", arguments: [0, 1])
    func dualStackServersThatShareAPort(goes: Int) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let servers = try (0..<2).map { _ in try stage.start(.app, doing: Self.sharingServer(at: port)) }
        // Somebody answers.
        for (actor, place) in Self.waysToAnn {
            let client = try stage.start(actor)
            for command in actor.socket("c", .tcp, for: place) { try client.must(command) }
            #expect(try client("connect c \(place.address) \(port)").ok, "\(actor) to \(place)")
        }
        try servers[goes].must("close l")
        let stays = servers[1 - goes]
        // What had come before is taken first.
        try stays.must("setsockopt l nonblock 1")
        try stays.must("close l")
        for command in Self.sharingServer(at: port) { try stays.must(command) }
        try expectReached(stays, named: "stayed", at: port)
    }

    /// The same without a new `listen`: the other's end must not take the way to the one that stays.
    @Test("finds the server that stays without a new listen", arguments: [0, 1])
    func dualStackServersAfterTheOthersEnd(goes: Int) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let servers = try (0..<2).map { _ in try stage.start(.app, doing: Self.sharingServer(at: port)) }
        try servers[goes].must("close l")
        try expectReached(servers[1 - goes], named: "stayed", at: port)
    }

    /// A server's port is its own, whichever of the session's addresses the kernel sees it on.
    @Test("refuses a second server on any of the session's addresses")
    func aServersPortIsTaken() throws {
        try stage.enforce(Self.vl)
        let (server, thief) = (try stage.start(.app), try stage.start(.app))
        for (first, second) in [(Place.wildcard6, Place.localhost6), (.localhost6, .wildcard6)] {
            let port = stage.newPort()
            for command in ["socket l tcp 6", "bind l \(first) \(port)", "listen l"] { try server.must(command) }
            try thief.must("socket l tcp 6")
            expect(try thief("bind l \(second) \(port)").errno, is: "EADDRINUSE", "\(second) after \(first)")
            // Without V6ONLY on one, and with it on the other, it is one port all the same.
            for command in ["close l", "socket l tcp 6", "setsockopt l v6only 1"] { try thief.must(command) }
            if first == .wildcard6 {
                expect(try thief("bind l :: \(port)").errno, is: "EADDRINUSE", ":: (V6ONLY) after ::")
            }
            // Shared by SO_REUSEPORT, it must be by both.
            for command in ["close l", "socket l tcp 6", "setsockopt l reuseport 1"] { try thief.must(command) }
            expect(try thief("bind l \(second) \(port)").errno, is: "EADDRINUSE", "by SO_REUSEPORT on one")
            for command in [
                "close l", "socket l tcp 6", "setsockopt l reuseport 1", "bind l \(first) \(port)", "listen l",
            ] { try server.must(command) }
            #expect(try thief("bind l \(second) \(port)").ok, "by SO_REUSEPORT on both")
            try server.must("close l")
            try thief.must("close l")
        }
    }

    /// Nobody sits where a session to come will have its loopback.
    @Test("refuses the loopbacks of sessions to come")
    func loopbacksToCome() throws {
        try stage.enforce(Self.vl)
        let program = try stage.start(.app)
        for kind in ["tcp", "udp"] {
            try program.must("socket b \(kind) 6")
            expect(try program("bind b fdd2:9088:43af::4000 0").errno, is: "EADDRNOTAVAIL", kind)
            try program.must("close b")
        }
        try program.must("socket c tcp 6")
        expect(try program("connect c fdd2:9088:43af::4000 9").errno, is: "ECONNREFUSED", "connect")
    }

    /// The kernel drops what comes in from the link for ::1; a local route of ours has no such protection but this.
    @Test("drops what comes from the link for a loopback")
    func theLoopbackIsClosedToTheLink() throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let server = try stage.start(.app)
        for command in [
            "socket l tcp 6", "bind l ::1 \(port)", "listen l", "socket m tcp 6", "bind m :: \(port + 1000)",
            "listen m",
            "socket u udp 6", "bind u ::1 \(port)", "setsockopt u nonblock 1",
        ] { try server.must(command) }
        try stage.sandbox.sh(
            "ip -6 route add \(Place.annLO6)/96 via \(Place.host6) || ip -6 route show", at: .outside)
        defer { _ = try? stage.sandbox.sh("ip -6 route del \(Place.annLO6)/96", at: .outside) }
        let stranger = try stage.start(.remote)
        for target in [port, port + 1000] {
            for command in ["socket c tcp 6", "setsockopt c timeout 200"] { try stranger.must(command) }
            #expect(try stranger("connect c \(Place.annLO6) \(target)").ok == false)
            try stranger.must("close c")
        }
        for command in ["socket d udp 6", "sendto d \(Place.annLO6) \(port) knock"] { try stranger.must(command) }
        // What was sent after it and is heard, says that the other would have been.
        let friend = try stage.start(.app)
        for command in ["socket d udp 6", "sendto d ::1 \(port) friend"] { try friend.must(command) }
        try server.must("poll u in")
        #expect(try server.must("recvfrom u").data == "friend")
        expect(try server("recvfrom u").errno, is: "EAGAIN", "and nothing else")
    }

    /// An MPTCP server for both families: TCP clients reach it by IPv4, and by ::1 in its session.
    @Test("reaches a dual-stack MPTCP server by IPv4 and ::1")
    func dualStackServersOfMPTCP() throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let server = try stage.start(.app)
        for command in ["socket l mptcp 6", "bind l :: \(port)", "listen l"] { try server.must(command) }
        for (actor, place, seen) in [
            (Actor.app, Place.localhost, "::ffff:127.0.0.1"), (.app, .localhost6, "::ffff:127.0.0.1"),
            (.tool, .localhost6, "::ffff:127.0.0.1"), (.remote, .annVIP, "::ffff:\(Place.remote)"),
        ] {
            let client = try stage.start(actor)
            for command in actor.socket("c", .tcp, for: place) { try client.must(command) }
            let answer = try client("connect c \(place.address) \(port)")
            try #require(answer.ok, "\(actor) to \(place): \(answer)")
            expect(try client.must("getpeername c").address, is: place.address, "the peer of \(actor) to \(place)")
            expect(try server.must("accept l s").address, is: seen, "\(actor) to \(place)")
            try server.must("close s")
        }
        // (a limit: no program leads IPv6 to an MPTCP socket)
        let remote = try stage.start(.remote)
        try remote.must("socket c tcp 6")
        #expect(try remote("connect c \(Place.annVIP6) \(port)").errno == "ECONNREFUSED")
    }

    /// Two dual-stack servers of one session on one port: one prefers the loopback, the other does not.
    @Test("leads to each of two dual-stack servers on a port", arguments: [true, false])
    func dualStackServersOnOnePort(isPreferredFirst: Bool) throws {
        let port = stage.newPort()
        var servers: [Bool: Probe] = [:]
        for isPreferred in [isPreferredFirst, !isPreferredFirst] {
            try stage.enforce(isPreferred ? Self.vlp : Self.vl)
            let server = try stage.start(.app)
            for command in ["socket l tcp 6", "bind l :: \(port)", "listen l", "setsockopt l nonblock 1"] {
                try server.must(command)
            }
            servers[isPreferred] = server
        }
        for (actor, place, isPreferred) in [
            (Actor.app, Place.localhost6, true), (.app, .localhost, true), (.remote, .annVIP6, false),
            (.remote, .annVIP, false),
        ] {
            let client = try stage.start(actor)
            for command in actor.socket("c", .tcp, for: place) { try client.must(command) }
            try client.must("connect c \(place.address) \(port)")
            #expect(try servers[isPreferred]?("accept l s").ok == true, "\(actor) to \(place)")
            #expect(try servers[!isPreferred]?("accept l s").errno == "EAGAIN")
            try servers[isPreferred]?.must("close s")
        }
    }

    /// A server that was made outside the session and passed into it is where it was bound.
    @Test("leaves a dual-stack server where it was bound outside")
    func dualStackServerMadeOutside() throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let maker = try stage.start(.nobody)
        let taker = try stage.start(.app)
        let path = "\(stage.sandbox.directory)/mailbox-dual"
        try taker.must("mailbox \(path)")
        for command in ["socket l tcp 6", "bind l :: \(port)", "listen l", "pass l \(path)"] { try maker.must(command) }
        try taker.must("take l")
        expect(try taker.kernelView("l")?.local, is: ":::\(port)", "where it is bound")
        let remote = try stage.start(.remote)
        for command in ["socket c tcp 6", "connect c \(Place.host6) \(port)"] { try remote.must(command) }
        try taker.must("accept l s")
    }

    /// A UDP socket on ::, as Java's DatagramSocket and dig have one: unbound, or bound with port 0, or with a port.
    @Test("gives each datagram of one socket the source for its peer", arguments: ["unbound", "port 0", "fixed port"])
    func oneSocketToManyPeers(kind: String) throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        var peers: [(asks: Place, server: Probe, seen: String)] = []
        for (actor, binds, asks, seen) in [
            (Actor.app, Place.localhost6, Place.localhost6, "::1"),
            (.app, .localhost, .mapped(.localhost), "127.0.0.1"),
            (.remote.only6, .wildcard6, .remote6, "\(Place.annVIP6)"),
            (.remote, .wildcard, .mapped(.remote), "\(Place.annVIP)"),
            (.unhooked, .host6, .host6, "\(Place.annVIP6)"),
            (.unhooked, .host, .mapped(.host), "\(Place.annVIP)"),
            (.benApp.only6, .wildcard6, .benVIP6, "\(Place.annVIP6)"),
            (.benApp, .wildcard, .mapped(.benVIP), "\(Place.annVIP)"),
        ] {
            let server = try stage.start(actor)
            for command in actor.socket("l", .datagram, for: binds) + ["bind l \(binds) \(port)"] {
                try server.must(command)
            }
            peers.append((asks, server, seen))
        }
        let client = try stage.start(.app)
        try client.must("socket c udp 6")
        if kind != "unbound" { try client.must("bind c :: \(kind == "port 0" ? 0 : stage.newPort())") }
        for _ in 0..<2 {
            for peer in peers {
                let answer = try client("sendto c \(peer.asks) \(port) hello")
                guard answer.ok else {
                    Issue.record("to \(peer.asks): \(answer)")
                    continue
                }
                let received = try peer.server.must("recvfrom l")
                expect(received.address, is: peer.seen, "the source, to \(peer.asks)")
                // (a limit: a socket that is bound for IPv4 hears no IPv6)
                if kind == "fixed port", !"\(peer.asks)".hasPrefix("::ffff:") { continue }
                try peer.server.must("sendto l \(received.address ?? "?") \(received.port ?? 0) back")
                expect(try client.must("recvfrom c").address, is: peer.asks.address, "who answers")
            }
        }
        // The same by sendmmsg.
        #expect(try client.must("sendmmsg c 3 \(Place.remote6) \(port) far").count == 3)
        let remote = try #require(peers.first { $0.asks == .remote6 })
        for _ in 0..<3 { #expect(try remote.server.must("recvfrom l").address == Place.annVIP6.address) }
    }

    /// A UDP socket on :: with port 0 is on every address of the host. (a limit: nothing sees a datagram between the
    /// interface and the socket, so what goes to another session's address at that port comes to this one)
    @Test(
        "delivers datagrams for others to a wildcard socket with port 0",
        arguments: [Place.benVIP, .benVIP6, .host, .host6])
    func datagramsForOthers(place: Place) throws {
        try stage.enforce(Self.vl)
        let program = try stage.start(.app)
        for command in ["socket c udp 6", "bind c :: 0"] { try program.must(command) }
        let port = try #require(try program.must("getsockname c").port)
        let remote = try stage.start(.remote)
        for command in Actor.remote.socket("c", .datagram, for: place) { try remote.must(command) }
        try remote.must("sendto c \(place) \(port) for-another")
        expect(try program.must("recvfrom c").data, is: "for-another", "what came")
        // (and the port is taken for other sessions while it is open)
        guard case .virtualIP = place else { return }
        let owner = try stage.start(.benApp)
        try owner.must("socket o udp")
        #expect(try owner("bind o 0.0.0.0 \(port)").errno == "EADDRINUSE")
    }

    /// One socket that is connected to one family and then to the other, as getaddrinfo's sorting does it.
    @Test("gives a socket that is connected to the other family its source there")
    func reconnectedToTheOtherFamily() throws {
        try stage.enforce(Self.vl)
        let port = stage.newPort()
        let remote = try stage.start(.remote)
        for command in ["socket l udp 6", "bind l :: \(port)"] { try remote.must(command) }
        let client = try stage.start(.app)
        for name in ["c", "d"] {
            for command in [
                "socket \(name) udp 6", "connect \(name) ::ffff:\(Place.remote) \(port)", "send \(name) far",
                "disconnect \(name)",
            ] { try client.must(command) }
            expect(try remote.must("recvfrom l").address, is: "::ffff:\(Place.annVIP)", "the source, by IPv4")
        }
        try client.must("sendto d \(Place.remote6) \(port) far")
        expect(try remote.must("recvfrom l").address, is: "\(Place.annVIP6)", "the source of sendto, by IPv6")
        for command in ["connect c \(Place.remote6) \(port)", "send c far"] { try client.must(command) }
        expect(try remote.must("recvfrom l").address, is: "\(Place.annVIP6)", "the source, by IPv6")
        try client.must("disconnect c")
        // (a limit: given an IPv6 source, a socket is V6ONLY; what the kernel says of one tells getaddrinfo to take
        // another)
        #expect(try client("connect c \(Place.remote) \(port)").errno == "EAFNOSUPPORT")
        #expect(try client("sendto c ::ffff:\(Place.remote) \(port) far").errno == "ENETUNREACH")
    }

    /// Whoever is in no session has the host's address for a source, however many sessions have one of IPv6 (RFC 6724
    /// would prefer the one that is most like the destination), and cannot bind what the host has not.
    @Test("leaves programs outside sessions with the host's source")
    func theHostIsAsBefore() throws {
        let program = try stage.start(.unhooked)
        for destination in [Place.remote6.address, "2001:db8:51::16", "2001:db8:51::19", "2001:db8:51::21"] {
            for command in ["socket c udp 6", "connect c \(destination) 9"] { try program.must(command) }
            expect(try program.must("getsockname c").address, is: "\(Place.host6)", "the source to \(destination)")
            try program.must("close c")
        }
    }
}

/// What takes a host of its own, for it breaks something.
@Suite(.serialized, .requiresRoot)
struct ContractUnderChangeTests6 {
    /// A virtual IP that somebody takes off the interface is never replaced by the host's address in silence.
    @Test("uses no host address where the virtual IP was taken off the interface", arguments: Transport.allCases)
    func virtualIPTakenAway(transport: Transport) throws {
        try Sandbox.with { sandbox in
            let stage = try Stage(sandbox, ipv6: true)
            try stage.enforce(ContractTests.v)
            let port = stage.newPort()
            let remote = try stage.start(.remote)
            for command in ["socket l \(transport.socket) 6", "bind l :: \(port)"] { try remote.must(command) }
            if transport.isStream { try remote.must("listen l") }
            try sandbox.sh("ip address del \(Place.annVIP6)/128 dev eth0")

            let program = try stage.start(.app)
            for command in ["socket c \(transport.socket) 6", "setsockopt c timeout 100"] { try program.must(command) }
            let call =
                switch transport {
                case .tcp, .mptcp, .connectedDatagram: "connect c \(Place.remote6) \(port)"
                case .fastOpen: "fastopen c \(Place.remote6) \(port) hello"
                case .datagram: "sendto c \(Place.remote6) \(port) hello"
                }
            let answer = try program(call)
            if answer.ok {
                // A source that is not on an interface, at worst; the host's never.
                #expect(try program.must("getsockname c").address != Place.host6.address, "\(answer)")
                if transport == .connectedDatagram { _ = try program("send c hello") }
            }
            if !transport.isStream {
                try remote.must("setsockopt l nonblock 1")
                let received = try remote("recvfrom l")
                #expect(received.address != Place.host6.address, "\(received)")
            }
            // (a limit: the kernel does not look whether the source of a datagram is there)
            #expect(answer.errno == (transport == .datagram ? nil : "EADDRNOTAVAIL"), "\(call)")
        }
    }

    /// A session that is closed, and hooks that are detached, leave nothing of IPv6 behind.
    @Test(
        "leaves nothing of IPv6 after the session was closed",
        arguments: [["session", "close", "7"], ["detach", "--all"]])
    func afterTheEnd(command: [String]) throws {
        try Sandbox.with { sandbox in
            // But for what the kernel adds in its own time: link-local addresses.
            let state =
                "{ ip -6 route show table all; ip -6 -oneline address; } | grep -v -e fe80: -e ff00:; "
                + "cat /proc/sys/net/ipv6/ip_nonlocal_bind"
            let before = try sandbox.sh(state)
            let stage = try Stage(sandbox, ipv6: true)
            try stage.enforce(ContractTests.vl)
            let program = try stage.start(.app)
            let old = stage.newPort()
            for command in ["socket o tcp 6", "bind o :: \(old)", "listen o"] { try program.must(command) }
            let result = try sandbox.ctl(command)
            try #require(result.status == 0, "\(result)")

            let port = stage.newPort()
            for command in ["socket l tcp 6", "bind l :: \(port)", "listen l"] { try program.must(command) }
            #expect(try program.kernelView("l")?.local == ":::\(port)")
            #expect(try program.must("getsockname l").endpoint == ":::\(port)")
            for command in ["socket m tcp 6", "bind m ::1 \(port + 1000)", "listen m"] { try program.must(command) }
            #expect(try program.kernelView("m")?.local == "::1:\(port + 1000)")
            // The listener of before is where it was bound; no way by IPv6 is left.
            let remote = try stage.start(.remote)
            try remote.must("socket c tcp 6")
            #expect(try remote("connect c \(Place.annVIP6) \(old)").ok == false)
            let addresses = try sandbox.sh("ip -6 -brief address show dev eth0")
            #expect(!addresses.contains(Place.annVIP6.address), "\(addresses)")
            if command[0] == "detach" { #expect(try sandbox.sh(state) == before) }
        }
    }

    /// A new session with another one's ID and port does not inherit its listeners.
    @Test("gives a new session no listener of an old one")
    func listenersOfAClosedSession() throws {
        try Sandbox.with { sandbox in
            let stage = try Stage(sandbox, ipv6: true)
            try stage.enforce(ContractTests.vl)
            let port = stage.newPort()
            let old = try stage.start(.app)
            for command in ["socket l tcp 6", "bind l :: \(port)", "listen l"] { try old.must(command) }
            try sandbox.mustCtl("session", "close", "7")
            _ = try sandbox.openSession(
                "attached/anew", id: 7, ips: ["198.51.100.27", Place.annVIP6.address])
            let remote = try stage.start(.remote)
            try remote.must("socket c tcp 6")
            #expect(try remote("connect c \(Place.annVIP6) \(port)").errno == "ECONNREFUSED")
        }
    }
}
