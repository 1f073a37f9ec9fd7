// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

/// docs/behaviour.md, the IPv6 half and the IPv4 half on AF_INET6 sockets: given this policy, this call gets that.
@Suite(.serialized, .requiresRoot, .stage6)
struct ContractTests6 {
    let stage: Stage

    init() throws {
        stage = try #require(StageTrait.current)
    }

    static let off = ContractTests.off
    static let v = ContractTests.v
    static let l = ContractTests.l
    static let vl = ContractTests.vl
    static let vlp = ContractTests.vlp
    static let asRequested = ContractTests.asRequested
    static let fallback = ContractTests.fallback
    static let excluded = ContractTests.excluded
    static let useHostAddress = vl.with { $0.whenUnavailable = "useHostAddress" }
    static let all = Transport.allCases
    static let worker = ContractTests.worker
    static let deep = ContractTests.deep

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

    static let bindRows: [BindRow] = [
        // ::1
        both(off, .app, .localhost6, at: .localhost6),
        both(v, .app, .localhost6, at: .localhost6),
        both(l, .app, .localhost6, at: .annLO6, named: .localhost6),
        both(vl, .app, .localhost6, at: .annLO6, named: .localhost6),
        both(vlp, .app, .localhost6, at: .annLO6, named: .localhost6),
        BindRow.rows(asRequested, .app, .localhost6, at: .annLO6, named: .localhost6),
        BindRow.rows(vl, .benApp, .localhost6, at: .benLO6, named: .localhost6),
        BindRow.rows(vl, .tool, .localhost6, at: .localhost6),
        BindRow.rows(l.with { $0.programs = ["*"] }, .tool, .localhost6, at: .annLO6, named: .localhost6),
        BindRow.rows(excluded, .app, .localhost6, at: .localhost6, port: 631),
        BindRow.rows(excluded, .app, .localhost6, at: .annLO6, named: .localhost6),
        // :: with IPV6_V6ONLY
        BindRow.rows(off, .app.only6, .wildcard6, at: .wildcard6),
        BindRow.rows(l, .app.only6, .wildcard6, at: .wildcard6),
        BindRow.rows(v, .app.only6, .wildcard6, at: .annVIP6),
        BindRow.rows(vl, .app.only6, .wildcard6, at: .annVIP6),
        BindRow.rows(vl, .app.only6, .wildcard6, at: .annVIP6, port: 0),
        BindRow.rows(vl, .benApp.only6, .wildcard6, at: .benVIP6),
        BindRow.rows(vlp, .app.only6, .wildcard6, at: .annLO6, named: .localhost6),
        BindRow.rows(vl, .tool.only6, .wildcard6, at: .wildcard6),
        BindRow.rows(v.with { $0.mode = "perSession" }, .tool.only6, .wildcard6, at: .annVIP6),
        BindRow.rows(v.with { $0.programs = ["*"] }, .tool.only6, .wildcard6, at: .annVIP6),
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
        // port 0: UDP stays where it can send both families
        BindRow.rows(vl, .app, .wildcard6, at: .mapped(.annVIP), port: 0, [.tcp, .mptcp]),
        BindRow.rows(v, .app, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        BindRow.rows(vl, .app, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        BindRow.rows(vlp, .app, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        BindRow.rows(vl, .fourApp, .wildcard6, at: .wildcard6, port: 0, [.datagram]),
        // a host address
        both(off, .app, .host6, at: .host6),
        both(l, .app, .host6, at: .host6),
        both(v, .app, .host6, at: .annVIP6),
        both(vl, .app, .host6, at: .annVIP6),
        both(vlp, .app, .host6, at: .annLO6, named: .localhost6),
        BindRow.rows(vl, .tool, .host6, at: .host6),
        BindRow.rows(vl, .sixApp, .host6, at: .sixVIP6),
        both(vl, .fourApp, .host6, refused: "EADDRNOTAVAIL"),
        both(useHostAddress, .fourApp, .host6, at: .host6),
        // its own
        both(vl, .app, .annVIP6, at: .annVIP6),
        BindRow.rows(vlp, .app, .annVIP6, at: .annVIP6),
        both(vl, .app, .annLO6, at: .annLO6, named: .localhost6),
        BindRow.rows(off, .app, .annVIP6, at: .annVIP6),
        BindRow.rows(off, .app, .annLO6, at: .annLO6, named: .localhost6),
        BindRow.rows(vl, .tool, .annVIP6, at: .annVIP6),
        BindRow.rows(vl, .tool, .annLO6, at: .annLO6, named: .localhost6),
        // another session's
        both(vl, .app, .benVIP6, refused: "EADDRNOTAVAIL"),
        both(vl, .app, .benLO6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .tool, .benVIP6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .tool, .benLO6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(off, .app, .benVIP6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(off, .app, .benLO6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .benApp, .poorLO6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .app, .sixVIP6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .app, .fourLO6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl.with { $0.isolation = false }, .app, .benVIP6, at: .benVIP6),
        BindRow.rows(vl.with { $0.isolation = false }, .app, .benLO6, at: .benLO6),
        // anything else
        BindRow.rows(vl, .app, .multicast6, at: .multicast6, [.datagram]),
        BindRow.rows(vlp, .app, .multicast6, at: .multicast6, [.datagram]),
        // an address that the host has not is no more to be had than before
        both(vl, .app, .remote6, refused: "EADDRNOTAVAIL"),
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
        BindRow.rows(asRequested, .app.only6, .wildcard6, at: .annVIP6, named: .wildcard6),
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
        BindRow.rows(
            asRequested.with { $0.parts.insert(.preferred) }, .app.only6, .wildcard6, at: .annLO6, named: .wildcard6,
            [.tcp, .datagram]),
        // (as in the IPv4 half: of an MPTCP socket its address alone is known)
        BindRow.rows(asRequested, .app, .host6, at: .annVIP6, [.tcp, .datagram]),
        BindRow.rows(asRequested, .app, .host6, at: .annVIP6, named: .wildcard6, [.mptcp]),
        BindRow.rows(asRequested, .app, .annVIP6, at: .annVIP6, [.tcp, .datagram]),
        BindRow.rows(asRequested, .app, .annVIP6, at: .annVIP6, named: .wildcard6, [.mptcp]),
        BindRow.rows(asRequested, .tool, .wildcard6, at: .wildcard6),
        // no virtual IP at all
        both(v, .poorApp, .wildcard6, refused: "EADDRNOTAVAIL"),
        both(vl, .poorApp, .wildcard6, refused: "EADDRNOTAVAIL"),
        both(vlp, .poorApp, .wildcard6, refused: "EADDRNOTAVAIL"),
        both(v, .poorApp, .host6, refused: "EADDRNOTAVAIL"),
        BindRow.rows(v, .poorApp, .localhost6, at: .localhost6),
        BindRow.rows(vl, .poorApp, .localhost6, at: .poorLO6, named: .localhost6),
        both(useHostAddress, .poorApp, .wildcard6, at: .wildcard6),
        both(useHostAddress, .poorApp, .host6, at: .host6),
        BindRow.rows(useHostAddress, .poorApp, .localhost6, at: .poorLO6, named: .localhost6),
        BindRow.rows(vl, .poorTool, .wildcard6, at: .wildcard6),
        // of one family: the other is as without any
        BindRow.rows(vl, .sixApp, .wildcard, refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .sixApp, .mapped(.wildcard), refused: "EADDRNOTAVAIL"),
        BindRow.rows(vl, .sixApp, .host, refused: "EADDRNOTAVAIL"),
        BindRow.rows(useHostAddress, .sixApp, .wildcard, at: .wildcard),
        // in no session
        both(vlp, .nobody, .wildcard6, at: .wildcard6),
        both(vlp, .nobody, .localhost6, at: .localhost6),
        BindRow.rows(vlp, .nobody, .annLO6, at: .annLO6),
        both(vlp, .unhooked, .wildcard6, at: .wildcard6),
        both(vlp, .unhooked, .localhost6, at: .localhost6),
        BindRow.rows(vlp, .unhooked, .annVIP6, at: .annVIP6),
        BindRow.rows(vlp, .unhooked, .host6, at: .host6),
    ].flatMap(\.self)

    @Test(arguments: bindRows) func bind(_ row: BindRow) throws { try stage.check(row) }

    /// Every IPv4 row, on AF_INET6 sockets.
    @Test(arguments: ContractTests.bindRows.map(\.mapped)) func bindMapped(_ row: BindRow) throws {
        try stage.check(row)
    }

    // MARK: connect, sendto, accept, recvfrom, getpeername

    /// A dual-stack server and what reaches it. TCP by either family; MPTCP and UDP are bound to IPv4, and no program can
    /// lead IPv6 to them: those rows pin what is left.
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

    @Test(arguments: dualStackRows) func dualStack(_ row: ConnectRow) throws { try stage.check(row) }

    static let connectRows: [ConnectRow] = [
        // ::1 with L: LO6, then VIP6
        ConnectRow.rows(vl, [(.app, .localhost6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(vl, [(.app, .localhost6)], .app.only6, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(vl, [(.app.only6, .wildcard6)], .app, .localhost6, meets: .local6(.annVIP6, from: .annLO6)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6)], .app.only6, .localhost6, meets: .local6(.annVIP6, from: .annLO6)),
        ConnectRow.rows(vl, [(.app, .host6)], .app, .localhost6, meets: .local6(.annVIP6, from: .annLO6)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6), (.app, .localhost6)], .app, .localhost6,
            meets: .local6(.annLO6, from: .annLO6, server: 1)),
        ConnectRow.rows(
            asRequested, [(.app.only6, .wildcard6)], .app, .localhost6, meets: .local6(.annVIP6, from: .annLO6)),
        ConnectRow.rows(l, [(.app, .localhost6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(l, [(.app.only6, .wildcard6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(vlp, [(.app.only6, .wildcard6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(
            vl, [(.fourApp.only6, .wildcard6)], .fourApp, .localhost6, meets: .local6(.fourLO6, from: .fourLO6)),
        ConnectRow.rows(vl, [(deep, .localhost6)], worker, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(vl, [], .app, .localhost6, refused: "ECONNREFUSED", Transport.streams),
        ConnectRow.rows(vl, unheard: [(.unhooked, .localhost6)], .app, .localhost6),
        ConnectRow.rows(vl, unheard: [(.tool, .localhost6)], .app, .localhost6),
        // fallback: host
        ConnectRow.rows(
            fallback, [(.unhooked, .localhost6)], .app, .localhost6, meets: .local6(.localhost6, from: nil)),
        ConnectRow.rows(fallback, [(.tool, .localhost6)], .app, .localhost6, meets: .local6(.localhost6, from: nil)),
        ConnectRow.rows(
            fallback, [(.unhooked, .localhost6), (.app, .localhost6)], .app, .localhost6,
            meets: .local6(.annLO6, from: .annLO6, server: 1)),
        ConnectRow.rows(
            fallback, [(.unhooked, .localhost6), (.app.only6, .wildcard6)], .app, .localhost6,
            meets: .local6(.annVIP6, from: .annLO6, server: 1)),
        ConnectRow.rows(fallback, [], .app, .localhost6, refused: "ECONNREFUSED", Transport.streams),
        // ::1 with V alone
        ConnectRow.rows(v, [(.app.only6, .wildcard6)], .app, .localhost6, meets: .local6(.annVIP6, from: .localhost6)),
        ConnectRow.rows(v, [(.app, .localhost6)], .app, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(
            v, [(.unhooked, .localhost6)], .app, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(v, [], .app, .localhost6, refused: "ECONNREFUSED", Transport.streams),
        // :: is ::1
        ConnectRow.rows(vl, [(.app, .localhost6)], .app, .wildcard6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(vl, [(.app.only6, .wildcard6)], .app, .wildcard6, meets: .local6(.annVIP6, from: .annLO6)),
        ConnectRow.rows(v, [(.app.only6, .wildcard6)], .app, .wildcard6, meets: .local6(.annVIP6, from: .localhost6)),
        // ::1 from a program to which neither applies
        ConnectRow.rows(vl, [(.app, .localhost6)], .tool, .localhost6, meets: .local6(.annLO6, from: nil)),
        ConnectRow.rows(vl, [(.app.only6, .wildcard6)], .tool, .localhost6, meets: .local6(.annVIP6, from: nil)),
        ConnectRow.rows(v, [(.app.only6, .wildcard6)], .tool, .localhost6, meets: .local6(.annVIP6, from: nil)),
        ConnectRow.rows(
            vl, [(.app, .localhost6), (.tool, .localhost6)], .tool, .localhost6,
            meets: .local6(.localhost6, from: .localhost6, server: 1)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6), (.unhooked, .localhost6)], .tool, .localhost6,
            meets: .local6(.localhost6, from: .localhost6, server: 1)),
        ConnectRow.rows(vl, [], .tool, .localhost6, refused: "ECONNREFUSED", Transport.streams),
        ConnectRow.rows(vl, unheard: [(.benApp, .localhost6)], .tool, .localhost6),
        ConnectRow.rows(vl, unheard: [(.benApp.only6, .wildcard6)], .tool, .localhost6),
        // another session's servers are not found by way of ::1; each finds its own
        ConnectRow.rows(vl, unheard: [(.benApp, .localhost6)], .app, .localhost6),
        ConnectRow.rows(vl, unheard: [(.benApp.only6, .wildcard6)], .app, .localhost6),
        ConnectRow.rows(
            vl, [(.app, .localhost6), (.benApp, .localhost6)], .app, .localhost6,
            meets: .local6(.annLO6, from: .annLO6, server: 0)),
        ConnectRow.rows(
            vl, [(.app, .localhost6), (.benApp, .localhost6)], .benApp, .localhost6,
            meets: .local6(.benLO6, from: .benLO6, server: 1)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6), (.benApp.only6, .wildcard6)], .benApp, .localhost6,
            meets: .local6(.benVIP6, from: .benLO6, server: 1)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6), (.benApp.only6, .wildcard6)], .app, .localhost6,
            meets: .local6(.annVIP6, from: .annLO6, server: 0)),
        // an excluded port
        ConnectRow.rows(
            excluded, [(.app, .localhost6)], .app, .localhost6, meets: .local6(.localhost6, from: nil), port: 631),
        ConnectRow.rows(
            excluded, [(.unhooked, .localhost6)], .app, .localhost6, meets: .local6(.localhost6, from: nil), port: 631),
        ConnectRow.rows(excluded, [(.app, .localhost6)], .app, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        // its own addresses, by their numbers
        ConnectRow.rows(vl, [(.app, .localhost6)], .app, .annLO6, meets: .local6(.annLO6, from: .annLO6)),
        ConnectRow.rows(vl, [(.app.only6, .wildcard6)], .app, .annVIP6, meets: .plain(.annVIP6, from: .annVIP6)),
        // a host address
        ConnectRow.rows(vl, [(.app.only6, .wildcard6)], .app, .host6, meets: .plain(.annVIP6, from: .annVIP6)),
        ConnectRow.rows(v, [(.app.only6, .wildcard6)], .app, .host6, meets: .plain(.annVIP6, from: .annVIP6)),
        ConnectRow.rows(vl, [(.unhooked, .host6)], .app, .host6, meets: .plain(.host6, from: .annVIP6)),
        // (as in the IPv4 half: a datagram's answer leaves from the address nearest to its destination)
        ConnectRow.rows(
            vl, [(.unhooked, .wildcard6)], .app, .host6, meets: .plain(.host6, from: .annVIP6), Transport.streams),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6), (.unhooked, .host6)], .app, .host6, meets: .plain(.annVIP6, from: .annVIP6)),
        ConnectRow.rows(vl, [(.unhooked, .host6)], .tool, .host6, meets: .plain(.host6, from: .host6)),
        ConnectRow.rows(l, [(.unhooked, .host6)], .app, .host6, meets: .plain(.host6, from: .host6)),
        // elsewhere
        ConnectRow.rows(v, [(.remote, .wildcard6)], .app, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .app, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .app.only6, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(vlp, [(.remote, .wildcard6)], .app, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .sixApp, .remote6, meets: .plain(.remote6, from: .sixVIP6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .benApp, .remote6, meets: .plain(.remote6, from: .benVIP6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], worker, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(
            v.with { $0.mode = "perSession" }, [(.remote, .wildcard6)], .tool, .remote6,
            meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app.only6, bound: .wildcard6, .remote6,
            meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app, bound: .host6, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app, bound: .annVIP6, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(l, [(.remote, .wildcard6)], .app, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .tool, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6)], .remote, .annVIP6, meets: .plain(.annVIP6, from: .remote6)),
        // both families through one kind of socket, from one that is bound to :: for both
        ConnectRow.rows(
            vl, [(.remote, .wildcard6)], .app, bound: .wildcard6, .remote6, meets: .plain(.remote6, from: .annVIP6)),
        ConnectRow.rows(
            vl, [(.remote, .wildcard)], .app, bound: .wildcard6, .mapped(.remote),
            meets: .plain(.remote, from: .annVIP).mapped(client: true)),
        ConnectRow.rows(
            vl, [(.app, .localhost6)], .app, bound: .wildcard6, .localhost6, meets: .local6(.annLO6, from: nil)),
        ConnectRow.rows(
            vl, [(.app, .localhost)], .app, bound: .wildcard6, .mapped(.localhost),
            meets: .local(.annLO, from: nil).mapped(client: true)),
        // a source that the program bound stays, and both ends see a local peer
        ConnectRow.rows(
            vl, [(.app, .localhost6)], .app.only6, bound: .wildcard6, .localhost6,
            meets: .local6(.annLO6, from: .annVIP6), Transport.streams + [.connectedDatagram]),
        ConnectRow.rows(
            vl, [(.app, .localhost6)], .app.only6, bound: .wildcard6, .localhost6, meets: .local6(.annLO6, from: nil),
            [.datagram]),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6)], .app.only6, bound: .wildcard6, .localhost6,
            meets: .local6(.annVIP6, from: nil), [.datagram]),
        // both ends on VIP6: as in the IPv4 half
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6)], .app.only6, bound: .wildcard6, .localhost6,
            meets: Meeting(
                source: .annVIP6, destination: .annVIP6, clientName: .annVIP6, clientPeer: .localhost6,
                serverPeer: .annVIP6, serverName: .annVIP6), [.tcp, .fastOpen, .connectedDatagram]),
        ConnectRow.rows(
            vl, [(.app.only6, .wildcard6)], .app.only6, bound: .wildcard6, .localhost6,
            meets: .plain(.annVIP6, from: .annVIP6), [.mptcp]),
        ConnectRow.rows(
            vl, [(.app, .localhost6)], .app, bound: .localhost6, .localhost6, meets: .local6(.annLO6, from: .annLO6)),
        // another session
        ConnectRow.rows(vl, [(.benApp, .localhost6)], .app, .benLO6, refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, [(.benApp, .localhost6)], .tool, .benLO6, refused: "ECONNREFUSED", all),
        ConnectRow.rows(off, [(.benApp, .benLO6)], .app, .benLO6, refused: "ECONNREFUSED", all),
        ConnectRow.rows(vl, [], .app, .poorLO6, refused: "ECONNREFUSED", all),
        ConnectRow.rows(
            vl, [(.benApp.only6, .wildcard6)], .app, .benVIP6, meets: .plain(.benVIP6, from: .annVIP6)),
        ConnectRow.rows(
            vl.with { $0.isolation = false }, [(.benApp, .localhost6)], .app, .benLO6,
            meets: Meeting(destination: .benLO6, clientPeer: .benLO6, serverName: .localhost6), Transport.streams),
        // no virtual IP, or none of this family
        ConnectRow.rows(v, [(.remote, .wildcard6)], .poorApp, .remote6, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.remote, .wildcard6)], .poorApp.only6, .remote6, refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.remote, .wildcard)], .poorApp, .mapped(.remote), refused: "EADDRNOTAVAIL", all),
        ConnectRow.rows(v, [(.unhooked, .host6)], .poorApp, .host6, refused: "EADDRNOTAVAIL", all),
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
            v, [(.unhooked, .localhost6)], .poorApp, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(
            v, [(.unhooked, .localhost6)], .fourApp, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(vl, [(.poorApp, .localhost6)], .poorApp, .localhost6, meets: .local6(.poorLO6, from: .poorLO6)),
        ConnectRow.rows(vl, [(.fourApp, .localhost6)], .fourApp, .localhost6, meets: .local6(.fourLO6, from: .fourLO6)),
        ConnectRow.rows(vl, [(.remote, .wildcard6)], .poorTool, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(
            useHostAddress, [(.remote, .wildcard6)], .poorApp, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(
            useHostAddress, [(.remote, .wildcard6)], .fourApp, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(
            useHostAddress, [(.remote, .wildcard)], .sixApp, .remote, meets: .plain(.remote, from: .host)),
        ConnectRow.rows(
            useHostAddress, [(.remote, .wildcard6)], .sixApp, .remote6, meets: .plain(.remote6, from: .sixVIP6)),
        // off, and in no session: what the kernel does by itself
        ConnectRow.rows(off, [(.app, .wildcard6)], .app, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(off, [(.remote, .wildcard6)], .app, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(
            vlp, [(.nobody, .localhost6)], .nobody, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(
            vlp, [(.unhooked, .wildcard6)], .nobody, .localhost6, meets: .local6(.localhost6, from: .localhost6)),
        ConnectRow.rows(vlp, [(.remote, .wildcard6)], .nobody, .remote6, meets: .plain(.remote6, from: .host6)),
        ConnectRow.rows(vlp, [(.remote, .wildcard6)], .unhooked, .remote6, meets: .plain(.remote6, from: .host6)),
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

    @Test(arguments: connectRows) func connect(_ row: ConnectRow) throws { try stage.check(row) }

    /// Every IPv4 row with AF_INET6 sockets on both sides, and most of them with one on either.
    @Test(arguments: ContractTests.connectRows.map { $0.mapped(client: true, servers: true) })
    func connectMapped(_ row: ConnectRow) throws { try stage.check(row) }

    @Test(
        arguments: ContractTests.connectRows.filter { $0.transport == .tcp || $0.transport == .datagram }
            .flatMap { [$0.mapped(client: true), $0.mapped(servers: true)] })
    func connectHalfMapped(_ row: ConnectRow) throws { try stage.check(row) }
}
