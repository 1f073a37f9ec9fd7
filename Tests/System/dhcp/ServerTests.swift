// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import SystemPackage
import TestSupport
import Testing

@testable import Leases

/// The view of the servers, with the two most common ones.
@Suite(.serialized, .needs("udhcpc", "dnsmasq", "kea-dhcp4", "nsenter"))
struct ServerTests {
    @Test("gets each holder an address of its own from dnsmasq")
    func eachHolderHasItsOwnAddressFromDnsmasq() async throws {
        try await Link.with { link in
            let server = try link.dnsmasq()
            let events = Events()
            let source = try link.source(events)
            let holders = [
                LeaseHolder(user: "ann"), LeaseHolder(user: "ann", slot: 1), LeaseHolder(user: "ben"),
                LeaseHolder(user: "$(reboot)\n'\"; x"),
            ]
            let leases = try holders.map { try source.acquire($0, timeout: hang) }
            #expect(Set(leases.map(\.address)).count == 4)
            #expect(leases.map(\.holder) == holders)
            #expect(leases.allSatisfy { $0.seconds == 120 && $0.server == IPAddress("198.18.0.1") })
            #expect(leases.allSatisfy { abs($0.expires.timeIntervalSinceNow - 120) < 20 })
            #expect(Set(source.held.map(\.address)) == Set(leases.map(\.address)))
            #expect(events.list.map(\.bound?.address) == leases.map(\.address))
            for lease in leases {
                let client = ClientIdentifier(host: Link.host, holder: lease.holder)
                let colons = client.bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
                #expect(
                    link.text("dnsmasq.leases").split(separator: "\n").contains {
                        $0.contains(" \(lease.address) ") && $0.hasSuffix(colons)
                    })
            }
            // One is still held, and the other gets its former address.
            #expect(try source.acquire(holders[0]).address == leases[0].address)
            source.release(holders[0])
            #expect(try events.await { $0.released }.0 == leases[0].address)
            try link.waitFor("the lease goes at the server") {
                !link.text("dnsmasq.leases").contains(" \(leases[0].address) ")
            }
            #expect(try link.clients().count == 3)
            #expect(try source.acquire(holders[0]).address == leases[0].address)
            for holder in holders { source.release(holder) }
            #expect(source.held.isEmpty)
            #expect(try link.clients().isEmpty)
            try link.waitFor("the leases go at the server") { link.text("dnsmasq.leases").isEmpty }
            #expect(try !link.sh("ip address show dev eth0").contains("198.18.1."))
            #expect(events.trouble.isEmpty)
            #expect(server.isRunning)
        }
    }

    /// Only the address of an answer is used.
    @Test("changes nothing else of the host")
    func nothingElseOfTheHostChanges() async throws {
        try await Link.with { link in
            let server = try link.dnsmasq(
                "--dhcp-option=3,198.18.0.1", "--dhcp-option=6,198.18.0.1", "--dhcp-option=26,1400")
            let before = try link.sh("ip -4 route show table all; ip link show; cat /etc/resolv.conf")
            let source = try link.source(Events(places: false))
            _ = try source.acquire(LeaseHolder(user: "ann"))
            #expect(try link.sh("ip -4 route show table all; ip link show; cat /etc/resolv.conf") == before)
            #expect(try !link.sh("ip address show dev eth0").contains("198.18.1."))
            #expect(server.isRunning)
        }
    }

    /// Kea, which grants leases of any time: 8 leases through two lease times, with and without their addresses on the
    /// interface. Without them, renewals cannot be sent by unicast.
    @Test("renews leases at Kea", arguments: [true, false])
    func leasesAreHeldAtKea(places: Bool) async throws {
        try await Link.with { link in
            let server = try link.kea(seconds: 20)
            let events = Events(places: places)
            let source = try link.source(events)
            let leases = try (0..<8).map { try source.acquire(LeaseHolder(user: "user\($0)")) }
            #expect(Set(leases.map(\.address)).count == 8)
            let addresses = Set(leases.map(\.address))
            try link.waitFor("three renewals of each") {
                #expect(Set(source.held.map(\.address)) == addresses)
                let renewals = Dictionary(grouping: events.list.compactMap(\.renewed), by: \.holder)
                return renewals.count == 8 && renewals.values.allSatisfy { $0.count >= 3 }
            }
            // If the machine is busy for some seconds, a lease of 20 s is in trouble, but not lost.
            #expect(events.count { $0.lost != nil || $0.changed != nil || $0.refused != nil } == 0)
            for lease in leases { source.release(lease.holder) }
            #expect(try link.clients().isEmpty)
            #expect(events.count { $0.released != nil } == 8)
            try link.waitFor("Kea hears of it") {
                link.text("kea.log").components(separatedBy: "DHCP4_RELEASE ").count == 9
            }
            #expect(server.isRunning)
        }
    }

    @Test("refuses a server that ignores client identifiers")
    func serverThatIgnoresIdentifiersIsFoundOut() async throws {
        try await Link.with { link in
            let server = try link.dnsmasq("--dhcp-ignore-clid")
            let events = Events()
            let source = try link.source(events)
            let ann = try source.acquire(LeaseHolder(user: "ann"))
            let failure = try #require(
                throws: Failure.self, performing: { _ = try source.acquire(LeaseHolder(user: "ben")) })
            #expect(
                failure.description.hasPrefix(
                    "lease an address for ben on eth0: the server gave \(ann.address): ann has it: "
                        + "the server does not tell clients apart by their identifiers; "))
            #expect(
                try events.await { $0.refused }.0 == (
                    "\(ann.address)", why: "ann has it: the server does not tell clients apart by their identifiers"
                ))
            // A release by the second one would have ended the first one's lease.
            #expect(source.held.map(\.address) == [ann.address])
            #expect(link.text("dnsmasq.leases").contains(" \(ann.address) "))
            #expect(!link.text("server.log").contains("DHCPRELEASE"))
            #expect(try link.clients().count == 1)
            #expect(server.isRunning)
        }
    }
}
