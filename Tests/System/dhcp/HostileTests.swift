// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import SystemPackage
import TestSupport
import Testing

@testable import Leases

/// A hostile or silent server (`hostile.py`): the effect on the lease, and what is reported.
@Suite(.serialized, .needs("udhcpc", "python3", "nsenter"))
struct HostileTests {
    private static let ann = LeaseHolder(user: "ann")
    private static let ben = LeaseHolder(user: "ben")

    private func address(_ text: String) -> IPAddress { IPAddress(text)! }

    @Test("loses the address when a renewal is refused, and asks again")
    func refusedRenewalTakesTheAddress() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 15}"#)
            let events = Events()
            let source = try link.source(events)
            #expect(try source.acquire(Self.ann).address == address("198.18.7.1"))
            _ = try events.await { $0.renewed }
            try link.tell(server, #"{"renew": "nak", "offer": "198.18.7.2"}"#)
            #expect(try events.await { $0.lost }.0 == .refusedByServer)
            // The source goes on by itself, and does not request the refused address again.
            #expect(try events.await { $0.bound }.0.address == address("198.18.7.2"))
            #expect(source.held.map(\.address) == [address("198.18.7.2")])
            let shown = try link.sh("ip -4 address show dev eth0")
            #expect(!shown.contains("198.18.7.1") && shown.contains("198.18.7.2/32"))
            let heard = try link.tell(server, "{}")
            #expect(heard.contains { $0.hasPrefix("DISCOVER - ") } && !heard.contains { $0.hasPrefix("RELEASE") })
        }
    }

    /// The holder keeps the address for exactly the granted time, whatever the client does.
    @Test("keeps the address until the lease expires when the server is silent")
    func silentServerTakesItWhenItExpires() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 10}"#)
            let events = Events()
            let source = try link.source(events) { $0.renewalPoint = 0.2 }
            _ = try source.acquire(Self.ann)
            let granted = try events.await { $0.bound }.at
            try link.tell(server, #"{"silent": true}"#)
            #expect(try events.await { $0.troubled }.0 == "the DHCP server does not answer")
            #expect(source.held.count == 1)
            let (loss, lost) = try events.await { $0.lost }
            #expect(loss == .expired)
            #expect(lost - granted > 9.5 && lost - granted < 30, "after \(lost - granted) s")
            #expect(source.held.isEmpty)
            #expect(try !link.sh("ip -4 address show dev eth0").contains("198.18.7.1"))
            try link.tell(server, #"{"silent": false}"#)
            #expect(try events.await { $0.bound }.0.address == address("198.18.7.1"))
            // It has requested the same address.
            #expect(try link.tell(server, "{}").contains { $0.hasPrefix("DISCOVER 198.18.7.1 ") })
        }
    }

    /// A stopped client neither renews nor reports anything: another one replaces it while there is time.
    @Test func stoppedClientIsReplaced() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 20}"#)
            let events = Events()
            let source = try link.source(events)
            _ = try source.acquire(Self.ann)
            let client = try #require(try link.clients().first)
            kill(client, SIGSTOP)
            #expect(try events.await { $0.troubled }.0 == "its udhcpc has not renewed it")
            #expect(try events.await { $0.renewed }.0.address == address("198.18.7.1"))
            #expect(try !link.clients().contains(client))
            #expect(events.count { $0.lost != nil } == 0)
            #expect(server.isRunning)
        }
    }

    /// The link goes down and comes back in time: nothing is lost.
    @Test("keeps the lease while the link is down")
    func linkMayGoDownForAWhile() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 30}"#)
            let events = Events()
            let source = try link.source(events)
            _ = try source.acquire(Self.ann)
            try link.sh("ip link set eth0 down")
            usleep(15_000_000)  // past the first attempt to renew, which gets no answer
            #expect(source.held.count == 1 && events.count { $0.renewed != nil } == 0)
            try link.sh("ip link set eth0 up")
            #expect(try events.await { $0.renewed }.0.address == address("198.18.7.1"))
            #expect(events.count { $0.lost != nil } == 0)
            #expect(server.isRunning)
        }
    }

    @Test("changes the address when a renewal does")
    func renewalMayChangeTheAddress() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 15, "renew": "198.18.7.9"}"#)
            let events = Events()
            let source = try link.source(events)
            _ = try source.acquire(Self.ann)
            let (lease, from) = try events.await { $0.changed }.0
            #expect(lease.address == address("198.18.7.9") && from == address("198.18.7.1"))
            #expect(source.held.map(\.address) == [address("198.18.7.9")])
            #expect(try link.sh("ip -4 -o address show dev eth0").split(separator: "\n").count == 2)
            try link.tell(server, #"{"renew": "ack"}"#)
            #expect(try events.await { $0.renewed }.0.address == address("198.18.7.9"))
            #expect(events.trouble.isEmpty)
        }
    }

    /// A bad address at renewal does not end the lease early.
    @Test func renewalWithABadAddressIsRefused() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 20, "renew": "10.0.0.1"}"#)
            let events = Events()
            let source = try link.source(events)
            _ = try source.acquire(Self.ann)
            #expect(try events.await { $0.refused }.0.0 == "10.0.0.1")
            #expect(source.held.map(\.address) == [address("198.18.7.1")])
            try link.tell(server, #"{"renew": "ack"}"#)
            #expect(try events.await { $0.renewed }.0.address == address("198.18.7.1"))
            #expect(events.count { $0.lost != nil || $0.changed != nil } == 0)
        }
    }

    @Test("fails in bounded time when no server answers")
    func silentServerIsAnErrorInBoundedTime() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"silent": true}"#)
            let source = try link.source()
            let start = LeaseClock.now
            let silent = try #require(throws: Failure.self) { _ = try source.acquire(Self.ann) }
            #expect(
                silent.description
                    == "lease an address for ann on eth0: no DHCP server answered 2 times in 2 s; check that a DHCP server answers there, and try again"
            )
            #expect(LeaseClock.now - start < 40)
            // The caller's limit is lower, so it applies.
            let short = try #require(throws: Failure.self) {
                _ = try source.acquire(Self.ann, timeout: .milliseconds(500))
            }
            #expect(short.reason == "no DHCP server granted one within 0.5 s")
            #expect(source.held.isEmpty)
            #expect(try link.clients().isEmpty)
            #expect(try link.tell(server, #"{"silent": false, "offer": "198.18.7.1"}"#).count >= 2)
            #expect(try source.acquire(Self.ann).address == address("198.18.7.1"))
        }
    }

    @Test("refuses an address that another holder has")
    func oneAddressForEverybodyIsFoundOut() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1"}"#)
            let events = Events()
            let source = try link.source(events)
            _ = try source.acquire(Self.ann)
            let failure = try #require(throws: Failure.self) { _ = try source.acquire(Self.ben) }
            #expect(failure.reason.contains("ann has it") && failure.hint?.contains("option 61") == true)
            #expect(try events.await { $0.refused }.0.why.contains("ann has it"))
            #expect(source.held.map(\.holder) == [Self.ann])
            // A release would take the address from the first holder.
            #expect(try !link.tell(server, "{}").contains { $0.hasPrefix("RELEASE") })
            #expect(try link.clients().count == 1)
        }
    }

    private static let bad: [(String, String)] = [
        ("0.0.0.0", "0.0.0.0"), ("0.1.2.3", "0.0.0.0/8"), ("127.0.0.1", "loopback"), ("127.0.0.8", "loopback"),
        ("224.0.0.1", "multicast"), ("239.255.255.255", "multicast"), ("240.0.0.1", "240.0.0.0/4"),
        ("255.255.255.255", "broadcast"), ("198.18.255.255", "broadcast"), ("198.18.0.0", "network's own"),
        ("198.18.0.2", "host's own, on eth0"), ("192.0.2.7", "host's own, on lo"),
        ("192.0.2.8", "in no network of eth0"), ("10.0.0.1", "in no network of eth0"),
        ("198.20.0.1", "in no network of eth0"), ("198.18.9.9", "eth0 has it already"), ("198.18.9.8", "a test has it"),
    ]

    @Test func badAddressesAreRefused() async throws {
        try await Link.with { link in
            try link.sh(
                """
                ip address add 192.0.2.7/24 dev lo
                ip address add 198.18.9.9/32 dev eth0 noprefixroute
                """)
            let server = try link.hostile("{}")
            let events = Events()
            let taken = address("198.18.9.8")
            let source = try link.source(events) {
                $0.check.owner = { address, _ in address == taken ? "a test" : nil }
            }
            for (text, why) in Self.bad {
                try link.tell(server, "{\"offer\": \"\(text)\"}")
                let failure = try #require(throws: Failure.self, "\(text)") { _ = try source.acquire(Self.ann) }
                #expect(failure.reason.contains(why), "\(text): \(failure)")
                let refused = try events.await { $0.refused }.0
                #expect(refused.0 == text && refused.why.contains(why))
            }
            // Answers that lack a required part.
            for (part, why) in [
                (#""seconds": null"#, "lease time"), (#""seconds": 0"#, "lease time is 0 s"),
                (#""seconds": 60, "server": null"#, "server identifier"),
            ] {
                try link.tell(server, "{\"offer\": \"198.18.7.1\", \(part)}")
                let failure = try #require(throws: Failure.self) { _ = try source.acquire(Self.ann) }
                #expect(failure.reason.contains(why), "\(part): \(failure)")
            }
            #expect(source.held.isEmpty)
            #expect(events.count { $0.refused != nil } == Self.bad.count + 3)
            #expect(events.count { $0.refused == nil } == 0)
            // With a good answer it works, so it did not fail for another reason.
            try link.tell(server, #"{"server": "198.18.0.1", "seconds": 4294967295}"#)
            #expect(try source.acquire(Self.ann).address == address("198.18.7.1"))
        }
    }

    @Test("refuses addresses outside the allowed networks")
    func addressesMayBeHeldToNetworks() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1"}"#)
            let allowed = try AddressRange("10.1.0.0/16")
            let source = try link.source(Events(places: false)) { $0.check.networks = .within([allowed]) }
            let failure = try #require(throws: Failure.self) { _ = try source.acquire(Self.ann) }
            #expect(failure.reason.contains("outside the allowed networks"))
            try link.tell(server, #"{"offer": "10.1.2.3"}"#)
            #expect(try source.acquire(Self.ann).address == address("10.1.2.3"))
        }
    }

    /// Answers that are truncated, of another transaction, for another client, or malformed.
    @Test("ignores spoiled answers")
    func spoiledAnswersAreNotTaken() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "garbage": true}"#)
            let events = Events()
            let source = try link.source(events)
            let failure = try #require(throws: Failure.self) { _ = try source.acquire(Self.ann) }
            #expect(failure.reason.contains("no DHCP server answered"))
            #expect(events.list.isEmpty)
            // At renewal, none of them counts as an answer either.
            try link.tell(server, #"{"garbage": false, "seconds": 20}"#)
            _ = try source.acquire(Self.ann)
            let granted = try events.await { $0.bound }.at
            try link.tell(server, #"{"garbage": true}"#)
            let (loss, lost) = try events.await { $0.lost }
            #expect(loss == .expired && lost - granted > 19.5)
            #expect(events.count { $0.renewed != nil || $0.changed != nil || $0.refused != nil } == 0)
            #expect(server.isRunning)
        }
    }
}
