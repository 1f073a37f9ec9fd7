// SPDX-License-Identifier: Apache-2.0

import Foundation
import Host
import Network
import Policy
import SystemPackage
import TestSupport
import Testing

@testable import Sessions

/// A registry with logins and logouts over time.
private final class Host {
    let directory: TemporaryDirectory
    let registry: Registry
    let addresses: Policy.Addresses
    private(set) var now = HistoryTests.moment(0)
    private var id: UInt32 = 9
    private(set) var warnings: [String] = []

    init(_ pool: String..., rest: Int? = nil, reservations: [String: [String]] = [:]) throws {
        directory = try TemporaryDirectory()
        registry = try Registry(directory.path.appending("registry.sqlite"), access: .readWrite)
        addresses = Policy.Addresses(
            pool: try pool.map { try AddressRange($0) }, restSeconds: rest,
            reservations: reservations.map { user, addresses in
                Policy.Reservation(user: user, addresses: addresses.compactMap { IPAddress($0) })
            })
    }

    func wait(_ seconds: Int, clock: Int? = nil) {
        now = Moment(
            date: now.date.addingTimeInterval(Double(clock ?? seconds)), bootID: now.bootID,
            uptime: now.uptime.map { $0 + Int64(seconds) * 1000 })
    }

    func boot(_ seconds: Int, clock: Int) {
        now = Moment(
            date: now.date.addingTimeInterval(Double(clock)), bootID: now.bootID + "+", uptime: Int64(seconds) * 1000)
    }

    /// The addresses that sessions of these users get, in one change. The sessions are open afterwards.
    @discardableResult
    func login(_ users: String?..., family: IPAddress.Family = .v4, hosts: Set<String> = []) throws -> [String] {
        var picker = try PoolPicker(addresses, override: nil, now: now)
        var used = try registry.usedAddresses()
        var found: [String] = []
        for user in users {
            let before = used
            let pick = try picker.pick(family, for: user, registry, used: used) {
                before[$0] != nil || hosts.contains($0.description)
            }
            if let warning = pick.warning { warnings.append(warning) }
            id += 1
            used[pick.address] = id
            found.append(pick.address.description)
            try registry.open(
                [
                    SessionRecord(
                        id: id, cgroupPath: FilePath("/c\(id)"), cgroupID: UInt64(id), cgroupLevel: 1, user: user,
                        bootID: now.bootID, openedAt: now.date,
                        addresses: [.init(pick.address, interface: "lo", placed: true, fromPool: true)])
                ], at: now)
        }
        return found
    }

    func logout(_ addresses: String..., ending: SessionEnding = .closed) throws {
        for text in addresses {
            let address = try #require(IPAddress(text))
            let record = try #require(try registry.session(address: address))
            try registry.remove([(record.id, ending)], at: now)
        }
    }
}

@Suite struct PoolPickerTests {
    @Test("gives a user the same address again")
    func aUserGetsTheSameAddressAgain() throws {
        let host = try Host("10.0.0.1-10.0.0.9")
        #expect(try host.login("ann", "bob", nil) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
        try host.logout("10.0.0.1", "10.0.0.2", "10.0.0.3")
        // At the same time, in another order, with a new user among them.
        #expect(try host.login("eve", "bob", nil, "ann") == ["10.0.0.4", "10.0.0.2", "10.0.0.3", "10.0.0.1"])
        #expect(try host.login("ann") == ["10.0.0.5"], "a second session")
        try host.logout("10.0.0.1", "10.0.0.5")
        #expect(try host.login("ann", "ann") == ["10.0.0.5", "10.0.0.1"], "the latest first")
    }

    @Test("lets an address rest before another user gets it")
    func anAddressRestsBeforeAnotherUserGetsIt() throws {
        let host = try Host("10.0.0.1-10.0.0.2")
        try host.login("ann", "bob")
        try host.logout("10.0.0.2")
        host.wait(10)
        try host.logout("10.0.0.1")
        let error = try failure { try host.login("eve") }
        #expect(error.operation == "pick an IPv4 address")
        #expect(
            error.reason
                == "no IPv4 address of the pool is free: 0 of 2 in use, 2 resting after use, the first for 50 s more")
        host.wait(50)
        #expect(try host.login("eve") == ["10.0.0.2"], "the one that has been free longest")
        #expect(throws: Failure.self) { try host.login("eve") }
        host.wait(10)
        #expect(try host.login("eve") == ["10.0.0.1"])
        #expect(throws: Failure.self) { try host.login("ann") }
        try host.logout("10.0.0.1")
        #expect(throws: Failure.self) { try host.login("ann") }
        #expect(try host.login("eve") == ["10.0.0.1"], "it is hers now")
    }

    /// The wall clock does not matter.
    @Test("measures rest by the clock since boot")
    func theBootsClockCounts() throws {
        let host = try Host("10.0.0.1")
        try host.login("ann")
        try host.logout("10.0.0.1")
        host.wait(1, clock: 365 * 86400)
        #expect(throws: Failure.self) { try host.login("bob") }
        host.wait(59, clock: -10 * 365 * 86400)
        #expect(try host.login("bob") == ["10.0.0.1"])
    }

    @Test("continues a rest over a boot")
    func aRestGoesOnOverABoot() throws {
        let host = try Host("10.0.0.1", rest: 600)
        try host.login("ann")
        try host.logout("10.0.0.1")
        host.boot(20, clock: 100)
        let error = try failure { try host.login("bob") }
        #expect(error.reason.contains("the first for 500 s more"), "\(error)")
        host.wait(499)
        #expect(throws: Failure.self) { try host.login("bob") }
        host.wait(1)
        #expect(try host.login("bob") == ["10.0.0.1"])
        // After this boot the clock is years behind: what was before it is at least as old as the boot.
        try host.logout("10.0.0.1")
        host.boot(30, clock: -365 * 86400)
        #expect(throws: Failure.self) { try host.login("eve") }
        host.wait(570)
        #expect(try host.login("eve") == ["10.0.0.1"])
    }

    @Test("gives an address at once where there is no rest")
    func restMayBeNothing() throws {
        let host = try Host("10.0.0.1", rest: 0)
        try host.login("ann")
        try host.logout("10.0.0.1")
        #expect(try host.login("bob") == ["10.0.0.1"])
    }

    /// The address was not used.
    @Test("lets no address rest that was not used")
    func whatWasNotOpenedDoesNotRest() throws {
        let host = try Host("10.0.0.1")
        try host.login("ann")
        try host.logout("10.0.0.1", ending: .notOpened)
        #expect(try host.login("bob") == ["10.0.0.1"])
    }

    @Test("gives reserved addresses to their users alone")
    func reservations() throws {
        let host = try Host(
            "10.0.0.1-10.0.0.4", rest: 0, reservations: ["ann": ["10.0.0.1", "10.0.0.3"], "bob": ["10.0.0.4"]])
        #expect(try host.login("eve", "ann", "ann", "bob") == ["10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.4"])
        #expect(host.warnings.isEmpty)
        try host.logout("10.0.0.1", "10.0.0.3", "10.0.0.4")
        let error = try failure { try host.login("eve") }
        #expect(error.reason == "no IPv4 address of the pool is free: 1 of 4 in use, 3 reserved for other users")
        try host.login("ann", "ann")
        try host.logout("10.0.0.2")
        #expect(try host.login("ann") == ["10.0.0.2"])
        #expect(
            host.warnings == [
                "the addresses reserved for ann are in use (10.0.0.1, 10.0.0.3): another IPv4 address is picked"
            ])
        #expect(throws: Failure.self) { try host.login("ann") }
        #expect(try host.login("bob") == ["10.0.0.4"])
    }

    /// A new reservation for an address that another user had a moment ago.
    @Test("lets a reserved address rest as well")
    func aReservedAddressRestsToo() throws {
        let host = try Host("10.0.0.1-10.0.0.2", reservations: ["ann": ["10.0.0.1"]])
        let address = try #require(IPAddress("10.0.0.1"))
        try host.registry.open(
            [
                SessionRecord(
                    id: 5, cgroupPath: "/c", cgroupID: 5, cgroupLevel: 1, user: "bob", bootID: host.now.bootID,
                    openedAt: host.now.date,
                    addresses: [.init(address, interface: "lo", placed: true, fromPool: false)])
            ], at: host.now)
        try host.logout("10.0.0.1")
        #expect(try host.login("ann") == ["10.0.0.2"])
        #expect(host.warnings.count == 1)
        try host.logout("10.0.0.2")
        host.wait(60)
        #expect(try host.login("ann") == ["10.0.0.1"])
    }

    @Test("says how many addresses are in use, resting and reserved")
    func allInUse() throws {
        let one = try Host("10.0.0.1", "2001:db8::/64")
        try one.login("ann")
        #expect(try failure { try one.login("bob") }.reason == "the pool's only IPv4 one (1 of 1) is in use")
        let two = try Host("10.0.0.1-10.0.0.2", "2001:db8::/64")
        try two.login("ann", "bob")
        let error = try failure { try two.login("eve") }
        #expect(error.reason == "all 2 IPv4 addresses of the pool are in use (2 of 2)")
        #expect(error.hint == "close sessions, or add an IPv4 range to virtualIP.addresses.pool")
        #expect(try two.login("eve", family: .v6) == ["2001:db8::1"])

        var ofOverride = try PoolPicker(two.addresses, override: "cti", now: two.now)
        let named = try failure {
            _ = try ofOverride.pick(.v4, for: "x", two.registry, used: two.registry.usedAddresses()) { _ in true }
        }
        #expect(named.reason.contains("of the pool of override cti"))
    }

    @Test("leaves the host's own addresses out")
    func theHostsOwnAreLeftOut() throws {
        let host = try Host("10.0.0.1-10.0.0.3")
        #expect(try host.login("ann", hosts: ["10.0.0.1"]) == ["10.0.0.2"])
        try host.logout("10.0.0.2")
        #expect(try host.login("ann", hosts: ["10.0.0.1", "10.0.0.2"]) == ["10.0.0.3"])
    }

    /// A prefix of 2^64 addresses is as fast as a small one.
    @Test("picks from large prefixes")
    func largePrefixes() throws {
        let host = try Host("2001:db8::/64", "10.0.0.0/8")
        let users = (0..<300).map { "u\($0)" }
        for user in users { try host.login(user, family: .v6) }
        let taken = Set(try host.registry.usedAddresses().keys)
        #expect(taken.count == 300 && taken.allSatisfy { $0.value & 0xffff_ffff <= 300 })
        for address in taken { try host.logout(address.description) }
        for (number, user) in users.enumerated().reversed() {
            #expect(try host.login(user, family: .v6) == ["2001:db8::\(String(number + 1, radix: 16))"])
        }
    }

    /// The former addresses of users are removed with the history, but not before they have rested.
    @Test("forgets old users")
    func whatIsOldIsForgotten() throws {
        let host = try Host("10.0.0.1-10.0.0.9")
        try host.registry.set(Policy(history: Policy.History(retentionDays: 0)), at: host.now)
        try host.login("ann", "bob")
        try host.logout("10.0.0.1", "10.0.0.2")
        #expect(try host.login("bob", "ann") == ["10.0.0.2", "10.0.0.1"])
        try host.logout("10.0.0.1", "10.0.0.2")
        host.wait(86400)
        try host.login("eve")
        #expect(try host.registry.formerAddresses(.v4).isEmpty)
    }
}
