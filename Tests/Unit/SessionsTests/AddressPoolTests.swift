// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Sessions
import TestSupport
import Testing

@Suite struct AddressPoolTests {
    static func range(_ from: String, _ to: String) throws -> ClosedRange<IPAddress> {
        try #require(IPAddress(from))...#require(IPAddress(to))
    }

    @Test("gives the lowest free address of all ranges")
    func lowestFirstAcrossRanges() throws {
        var pool = try AddressPool([
            Self.range("10.0.1.1", "10.0.1.2"), Self.range("2001:db8::1", "2001:db8::1"),
            Self.range("10.0.0.254", "10.0.1.0"), Self.range("10.0.0.255", "10.0.0.255"),
        ])
        #expect(pool.count(.v4) == 5 && pool.count(.v6) == 1)
        let taken: Set = ["10.0.0.255", "10.0.1.1"]
        var found: [String] = []
        for _ in 0..<3 { found.append(try #require(pool.next(.v4) { taken.contains($0.description) }).description) }
        #expect(found == ["10.0.0.254", "10.0.1.0", "10.0.1.2"])
        #expect(pool.next(.v6) { _ in false }?.description == "2001:db8::1")
    }

    @Test("fails when every address is taken")
    func exhausted() throws {
        var pool = try AddressPool([Self.range("10.0.0.1", "10.0.0.241")])
        #expect(pool.next(.v4) { _ in true } == nil)
        #expect(pool.next(.v4) { _ in false } == nil, "it has been looked at")
        #expect(pool.next(.v6) { _ in false } == nil)
        #expect(pool.has(.v4) && !pool.has(.v6))
    }

    /// The last address of a family has no successor.
    @Test("gives the last address of the space")
    func ends() throws {
        var pool = try AddressPool([
            Self.range("255.255.255.255", "255.255.255.255"),
            Self.range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ])
        #expect(pool.next(.v4) { _ in false }?.description == "255.255.255.255")
        #expect(pool.next(.v4) { _ in false } == nil)
        #expect(pool.next(.v6) { $0.value < 9 }?.description == "::9")
        #expect(pool.count(.v6) == .max)
        var last = try AddressPool([
            Self.range("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
        ])
        #expect(last.next(.v6) { _ in false }?.value == .max)
        #expect(last.next(.v6) { _ in false } == nil)
    }

    @Test func twoFamiliesInOneRange() throws {
        #expect(try failure { _ = try AddressPool([Self.range("10.0.0.1", "2001:db8::1")]) }.code == .usage)
    }

    @Test("gives many addresses in one pass")
    func manyAreOnePass() throws {
        var pool = try AddressPool([Self.range("10.0.0.0", "10.255.255.255")])
        let taken = Set((0..<50_000).map { IPAddress(v4: 0x0a00_0000 + $0) })
        var asked = 0
        var found: Set<IPAddress> = []
        for _ in 0..<10_000 {
            let address = pool.next(.v4) {
                asked += 1
                return taken.contains($0)
            }
            found.insert(try #require(address))
        }
        #expect(found.count == 10_000 && found.isDisjoint(with: taken))
        #expect(asked == 60_000)
    }
}
