// SPDX-License-Identifier: Apache-2.0

import Foundation
import Host
import Network
import SystemPackage
import TestSupport
import Testing

@testable import Sessions

/// The registry's records of an address that is given and taken while its session stays open.
@Suite struct GivenAddressTests {
    private let directory: TemporaryDirectory
    private let registry: Registry
    private static let boot = HistoryTests.boot
    private static let address = IPAddress("10.9.0.1")!

    init() throws {
        directory = try TemporaryDirectory()
        registry = try Registry(directory.path.appending("registry.sqlite"), access: .readWrite)
        for id: UInt32 in [7, 8] {
            var record = HistoryTests.record(id, user: "ann")
            record.addresses = []
            try registry.open([record], at: HistoryTests.moment(0))
            try registry.markOpen([id])
        }
    }

    private static let leased = SessionRecord.Address(
        address, interface: "eth0", placed: true, fromPool: false, leaseSlot: 3)

    @Test("records a given address from when it was given until it was taken")
    func itIsTheSessionsFromThenOnUntilThen() throws {
        try registry.add(Self.leased, to: 7, at: HistoryTests.moment(10))
        #expect(try registry.session(id: 7)?.addresses == [Self.leased])
        #expect(try registry.session(address: Self.address)?.id == 7)
        #expect(try registry.unsettledAddresses().map(\.address) == [Self.address])
        try registry.settle(Self.address)
        #expect(try registry.unsettledAddresses().isEmpty)

        try registry.beginTaking(Self.address)
        try registry.beginTaking(Self.address)
        #expect(try registry.unsettledAddresses().count == 1)
        // The address of another session is not removed.
        try registry.remove(Self.address, from: 8, because: .leaseLost, at: HistoryTests.moment(15))
        #expect(try registry.session(id: 7)?.addresses == [Self.leased])
        try registry.remove(Self.address, from: 7, because: .leaseLost, at: HistoryTests.moment(20))
        #expect(try registry.session(id: 7)?.addresses == [] && registry.unsettledAddresses().isEmpty)
        #expect(try registry.formerAddress(Self.address)?.user == "ann")

        try registry.add(Self.leased, to: 7, at: HistoryTests.moment(30))
        try registry.settle(Self.address)
        try registry.remove([(7, .closed)], at: HistoryTests.moment(40))
        let rows = try registry.history(ofID: 7)[0].addresses.sorted { $0.period.start.date < $1.period.start.date }
        #expect(rows.map(\.ending) == [.leaseLost, .closed])
        #expect(rows.map(\.period.start.uptime) == [10, 30].map { HistoryTests.moment($0).uptime })
        #expect(rows.map(\.period.end?.uptime) == [20, 40].map { HistoryTests.moment($0).uptime })
    }

    @Test("refuses another session's address")
    func anothersIsRefused() throws {
        try registry.add(Self.leased, to: 7, at: HistoryTests.moment(10))
        let refused = try #require(throws: Failure.self) {
            try registry.add(Self.leased, to: 8, at: HistoryTests.moment(11))
        }
        #expect(refused.reason == "it belongs to session 7")
        #expect(try registry.session(id: 8)?.addresses == [])
        #expect(try registry.history(ofID: 8)[0].addresses.isEmpty)
    }

    /// An address that could not be given had no user: it does not rest, and is not in the history.
    @Test("remembers no user of an address that was not given")
    func whatWasNotGivenLeavesNoUser() throws {
        try registry.add(Self.leased, to: 7, at: HistoryTests.moment(10))
        try registry.remove(Self.address, from: 7, because: .notOpened, at: HistoryTests.moment(11))
        #expect(try registry.formerAddress(Self.address) == nil)
        #expect(try registry.history(ofID: 7)[0].addresses.isEmpty)
    }

    /// An unsettled address is removed with its session.
    @Test("ends a given address with its session")
    func theSessionsEndEndsIt() throws {
        try registry.add(Self.leased, to: 7, at: HistoryTests.moment(10))
        try registry.remove([(7, .closed)], at: HistoryTests.moment(11))
        #expect(try registry.unsettledAddresses().isEmpty && registry.usedAddresses().isEmpty)
    }
}
