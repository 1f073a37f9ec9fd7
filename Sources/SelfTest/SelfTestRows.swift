// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Checks
import Explain
import Glibc
import Host
import Network
import SystemPackage

/// The calls of the two programs of the self-test, with their expected results. Each gives a fact.
struct SelfTestRows {
    private typealias Fact = CheckedFact
    private let subject = SelfTestRun.subject

    let peers: (SelfTestPeer, SelfTestPeer)
    /// The expected results of each program's calls.
    let tables: ([CallTable.Row], [CallTable.Row])
    let sessions: (LiveSession, LiveSession)
    /// The second session's addresses.
    let foreign: [Foreign]
    private var taken: Set<UInt16> = []

    init(
        peers: (SelfTestPeer, SelfTestPeer), tables: ([CallTable.Row], [CallTable.Row]),
        sessions: (LiveSession, LiveSession), foreign: [Foreign]
    ) {
        self.peers = peers
        self.tables = tables
        self.sessions = sessions
        self.foreign = foreign
    }

    /// An address of the second session, and what the first session's program gets that binds it.
    struct Foreign {
        var address: IPAddress
        var bound: CallTable.Outcome
    }

    /// A server on one address, and the clients that connect to it.
    private struct Server {
        /// The family as in the program's `bind`.
        var family: String
        var address: String
        /// The family and the address of each client.
        var clients: [(String, String)]
        var transports = ["tcp", "udp"]

        var asked: IPAddress? { IPAddress(address) }
        var shown: String { family == "dual" ? ":: (dual-stack)" : address }
    }

    private static let servers = [
        Server(family: "4", address: "0.0.0.0", clients: [("4", "127.0.0.1")]),
        Server(family: "4", address: "127.0.0.1", clients: [("4", "127.0.0.1")]),
        Server(family: "6", address: "::", clients: [("6", "::1")]),
        Server(family: "6", address: "::1", clients: [("6", "::1")]),
        // For UDP, such a server cannot be reached by IPv6 from everywhere: docs/hooks.md.
        Server(family: "dual", address: "::", clients: [("4", "127.0.0.1"), ("6", "::1")], transports: ["tcp"]),
    ]

    mutating func run(_ signals: borrowing SignalReader) throws(Failure) -> [CheckedFact] {
        var facts: [CheckedFact] = []
        for server in Self.servers {
            guard server.family == "4" || FileStatus.exists("/proc/net/if_inet6") else { continue }
            for transport in server.transports {
                if let fact = try fact(server, transport, signals) { facts.append(fact) }
            }
        }
        return facts + (try isolation(signals))
    }

    // MARK: The same port in both sessions

    private func expected(_ server: Server, _ table: [CallTable.Row]) -> CallTable.Outcome? {
        table.first { row in
            // For ::1, one row stands for both kinds of socket.
            row.call == .bind && row.asked == server.asked
                && (row.isV6Only == (server.family == "6") || !row.asked.isUnspecified)
        }?.outcomes.first
    }

    /// Both programs bind the same address, and each client must reach its own server. `nil` if the policy does not
    /// apply.
    private mutating func fact(
        _ server: Server, _ transport: String, _ signals: borrowing SignalReader
    ) throws(Failure) -> CheckedFact? {
        guard let first = expected(server, tables.0), let second = expected(server, tables.1) else { return nil }
        let what = "\(transport.uppercased()) \(server.shown)"
        if let error = first.error {
            let got = try peers.0.ask("bind x \(server.family) \(transport) \(server.address) 0", signals)
            _ = try peers.0.ask("close", signals)
            guard got == ["error", error] else { return bad(what, "bind should fail with \(error)", got) }
            return .warning(
                subject,
                "\(what): refused (\(error)), because the session has no virtual IP and whenUnavailable is deny",
                fix: "give the policy a pool of addresses")
        }
        guard !first.isAsAsked, !second.isAsAsked, first.address != second.address else { return nil }
        // Another process may have the port: a server on the wildcard has it on every address.
        var port = UInt16(0)
        var answers: ([String], [String]) = ([], [])
        for _ in 0..<8 {
            port = newPort()
            let command = "bind s \(server.family) \(transport) \(server.address) \(port)"
            answers = (try peers.0.ask(command, signals), try peers.1.ask(command, signals))
            guard [answers.0, answers.1].contains(["error", "EADDRINUSE"]) else { break }
            for peer in [peers.0, peers.1] { _ = try peer.ask("close", signals) }
        }
        let result = try talk(server, transport, port, answers, (first, second), what, signals)
        for peer in [peers.0, peers.1] { _ = try peer.ask("close", signals) }
        return result
    }

    private func talk(
        _ server: Server, _ transport: String, _ port: UInt16, _ answers: ([String], [String]),
        _ expected: (CallTable.Outcome, CallTable.Outcome), _ what: String, _ signals: borrowing SignalReader
    ) throws(Failure) -> CheckedFact {
        for (answer, outcome) in [(answers.0, expected.0), (answers.1, expected.1)] {
            let name = outcome.name?.description ?? ""
            guard answer == ["ok", name] else {
                return bad("\(what) port \(port)", "getsockname should return \(name)", answer)
            }
        }
        for (family, address) in server.clients {
            for peer in [peers.0, peers.1] {
                let answer = try peer.ask("talk s \(family) \(transport) \(address) \(port)", signals)
                // A dual-stack server sees IPv4 addresses in mapped form.
                let seen = server.family == "dual" && family == "4" ? "::ffff:\(address)" : address
                guard answer == ["ok", address, seen] else {
                    return bad(
                        "\(what) port \(port)",
                        "a client of \(address) should reach its own server, and both should see \(seen)",
                        answer)
                }
            }
        }
        let places = [expected.0, expected.1].compactMap { $0.address?.description }.joined(separator: " and ")
        let clients = server.clients.map(\.1).joined(separator: " and ")
        return .good(
            subject,
            "\(what) port \(port) in both sessions, on \(places): a client of \(clients) reaches its session's own, and both ends see that address"
        )
    }

    private func bad(_ what: String, _ wanted: String, _ got: [String]) -> CheckedFact {
        .bad(
            subject, "\(what): \(wanted); result: \(got.joined(separator: " "))",
            fix: "see vip-bpfctl check and vip-bpfctl explain")
    }

    /// A port below the ephemeral range that the policy of neither session excludes.
    private mutating func newPort() -> UInt16 {
        while true {
            let port = UInt16.random(in: 20000...29999)
            guard ![sessions.0, sessions.1].contains(where: { $0.excludedPorts.contains(port) }),
                taken.insert(port).inserted
            else { continue }
            return port
        }
    }

    // MARK: From one session to the other

    private mutating func isolation(_ signals: borrowing SignalReader) throws(Failure) -> [CheckedFact] {
        guard sessions.0.flags & VIP_POLICY_ISOLATION.rawValue != 0 else {
            return [.warning(subject, "sessions are not isolated: the policy has isolation: false")]
        }
        var facts: [CheckedFact] = []
        for (address, bound) in foreign.map({ ($0.address, $0.bound) }) {
            let family = address.family == .v4 ? "4" : "6"
            let isLoopback = !sessions.1.virtualIPs.contains(address)
            let port = newPort()
            for transport in ["tcp", "udp"] {
                let what = "\(transport.uppercased()) \(address), the other session's"
                let answer = try peers.0.ask("bind x \(family) \(transport) \(address) \(port)", signals)
                _ = try peers.0.ask("close", signals)
                let name = bound.name?.description ?? ""
                guard answer == (bound.error.map { ["error", $0] } ?? ["ok", name]), bound.address != address else {
                    facts.append(
                        bad(
                            what, bound.error.map { "bind should fail with \($0)" } ?? "bind should give \(name)",
                            answer))
                    continue
                }
                let isBound = bound.error == nil ? "bind gives \(name) instead" : "cannot be bound"
                // A virtual IP of another session can be connected to, like any host.
                guard isLoopback, transport == "tcp" else {
                    facts.append(.good(subject, "\(what): \(isBound)"))
                    continue
                }
                let server = try peers.1.ask("bind y \(family) tcp \(address) \(port)", signals)
                let client = try peers.0.ask("connect \(family) \(address) \(port)", signals)
                _ = try peers.1.ask("close", signals)
                guard server.first == "ok", client == ["error", "ECONNREFUSED"] else {
                    facts.append(bad(what, "connect should fail with ECONNREFUSED", server + client))
                    continue
                }
                facts.append(.good(subject, "\(what): \(isBound); connect is refused"))
            }
        }
        return facts
    }

    // MARK: Names

    /// The host's own name must give the session's address, if the name service module is enabled.
    func names(_ signals: borrowing SignalReader, applies: Bool) throws(Failure) -> [CheckedFact] {
        guard NameFacts.isEnabled else {
            return [
                .warning(subject, "names were not tested: the module is not enabled", fix: "vip-bpfctl names enable")
            ]
        }
        guard applies, !sessions.0.virtualIPs.isEmpty else { return [] }
        var facts: [CheckedFact] = []
        for (peer, session) in [(peers.0, sessions.0), (peers.1, sessions.1)] {
            let answer = try peer.ask("names", signals)
            let wanted = Set(session.virtualIPs.map(\.description))
            let what = "the host's name in session \(session.id)"
            if answer.first == "ok", Set(answer.dropFirst()) == wanted {
                facts.append(.good(subject, "\(what) resolves to \(answer.dropFirst().joined(separator: ", "))"))
            } else {
                facts.append(bad(what, "it should resolve to \(wanted.sorted().joined(separator: ", "))", answer))
            }
        }
        return facts
    }
}
