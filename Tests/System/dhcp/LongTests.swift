// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import Leases

/// As many sessions as a host may have, for several lease times: `make test-dhcp`.
@Suite(
    .needs("udhcpc", "dnsmasq", "kea-dhcp4", "nsenter"),
    .enabled(if: getenv("VIP_TEST_DHCP") != nil, "takes ten minutes: make test-dhcp"))
struct LongTests {
    /// The number of leases, and of lease times.
    private static let count = getenv("VIP_TEST_DHCP").flatMap { Int(String(cString: $0)) } ?? 64
    private static let times = getenv("VIP_TEST_DHCP_TIMES").flatMap { Int(String(cString: $0)) } ?? 5

    enum Server: Sendable { case kea, dnsmasq }

    @Test(arguments: [(Server.kea, 60), (Server.dnsmasq, 120)])
    func leasesAreHeld(by server: Server, seconds: Int) async throws {
        try await Link.with { link in
            let running =
                switch server {
                case .kea: try link.kea(seconds: seconds, pool: "198.18.1.0 - 198.18.8.255")
                case .dnsmasq: try link.dnsmasq(from: "198.18.1.0", to: "198.18.8.255")
                }
            let events = Events()
            let source = try link.source(events) {
                $0.tries = 3
                $0.interval = 2
            }
            let start = LeaseClock.now
            let leases = try (0..<Self.count).map { try source.acquire(LeaseHolder(user: "user\($0)")) }
            let acquired = LeaseClock.now - start
            let addresses = Set(leases.map(\.address))
            #expect(addresses.count == Self.count)

            let used = clock()
            let end = LeaseClock.now + Double(Self.times * seconds)
            var least = Double(seconds)
            while LeaseClock.now < end {
                let held = source.held
                #expect(Set(held.map(\.address)) == addresses)
                least = min(least, held.map(\.expires.timeIntervalSinceNow).min() ?? 0)
                if Set(held.map(\.address)) != addresses { break }
                usleep(1_000_000)
            }
            let busy = Double(clock() - used) / Double(CLOCKS_PER_SEC)
            let renewals = events.count { $0.renewed != nil }
            let troubles = events.list.compactMap(\.troubled)
            let clients = try link.clients()
            let memory = clients.reduce(0) { sum, pid in
                let text = (try? String(contentsOfFile: "/proc/\(pid)/smaps_rollup", encoding: .utf8)) ?? ""
                let line = text.split(separator: "\n").first { $0.hasPrefix("Pss:") }
                return sum + (line?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0)
            }
            print(
                """
                \(server): \(Self.count) leases of \(seconds) s through \(Self.times) times: acquired in \
                \(Int(acquired * 1000)) ms, \(renewals) renewals, \(events.count { $0.lost != nil }) lost, \
                \(troubles.count) troubled, least time left \(Int(least)) s, \
                \(Int(busy * 1000)) ms of this process's time, \(memory / max(1, clients.count)) KiB for a client
                """)
            #expect(clients.count == Self.count)
            #expect(events.count { $0.lost != nil || $0.changed != nil || $0.refused != nil } == 0)
            #expect(renewals >= Self.count * Self.times * 2 - Self.count)
            #expect(troubles.isEmpty && events.trouble.isEmpty)
            #expect(least > Double(seconds) / 4, "renewed late")
            for lease in leases { source.release(lease.holder) }
            #expect(try link.clients().isEmpty)
            #expect(running.isRunning)
        }
    }
}
