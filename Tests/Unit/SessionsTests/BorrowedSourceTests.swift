// SPDX-License-Identifier: Apache-2.0

import Network
import Sessions
import Testing

@Suite struct BorrowedSourceTests {
    private func all(_ virtual: [String], _ placed: [PlacedAddress], by interfaces: Set<String> = ["eth0", "eth1"])
        -> [String]
    {
        BorrowedSource.all(virtual: Set(virtual.compactMap { IPAddress($0) }), placed: placed) { _ in interfaces }
            .map { "\($0.family.rawValue) \($0.interface)" }
    }

    private func place(_ address: String, _ interface: String = "eth0", flags: UInt32 = 0) throws -> PlacedAddress {
        let address = try #require(IPAddress(address))
        return PlacedAddress(address, interface: interface, prefixLength: address.family.bits, flags: flags)
    }

    private static let deprecated: UInt32 = 0x20

    @Test func ofIPv4EachInterfaceNeedsOne() throws {
        let virtual = try place("10.0.0.9")
        #expect(all(["10.0.0.9"], [virtual]) == ["IPv4 eth0"])
        #expect(all(["10.0.0.9"], [virtual, try place("10.0.0.1")]).isEmpty)
        #expect(all(["10.0.0.9"], [virtual, try place("10.1.0.1", "eth1")]) == ["IPv4 eth0"])
        #expect(all(["10.0.0.9"], [virtual, try place("169.254.3.3")]) == ["IPv4 eth0"])
        #expect(all(["10.0.0.9"], [virtual, try place("2001:db8::1")]) == ["IPv4 eth0"])
        #expect(all(["10.0.0.9"], [virtual], by: ["eth1"]).isEmpty, "nothing leaves by eth0")
        #expect(all(["10.0.0.9"], []).isEmpty, "it is on no interface")
    }

    @Test func ofIPv6AnyThatIsNotDeprecatedIsBetter() throws {
        let virtual = try place("2001:db8::9", flags: Self.deprecated)
        // It is taken for any interface.
        let both = ["IPv6 eth0", "IPv6 eth1"]
        #expect(all(["2001:db8::9"], [virtual, try place("fe80::1"), try place("::1", "lo")]) == both)
        #expect(all(["2001:db8::9"], [virtual, try place("2001:db8:1::1", "eth1")]).isEmpty)
        let old = try place("2001:db8::1", flags: Self.deprecated)
        #expect(all(["2001:db8::9"], [virtual, old]) == both)
        #expect(all(["2001:db8::9"], [virtual, try place("2001:db8::1", flags: 0x08)]) == both)
        let loopback = try place("fdd2::8", "lo", flags: Self.deprecated)
        #expect(all(["fdd2::8"], [loopback, try place("fe80::1")], by: ["eth0", "lo"]) == ["IPv6 eth0"])
        #expect(all(["fdd2::8"], [loopback, try place("2001:db8::1")]).isEmpty)
    }
}
