// SPDX-License-Identifier: Apache-2.0

import Foundation
import Host
import Network
import Testing

@Suite struct AddressRangeTests {
    struct Readable: Sendable, CustomTestStringConvertible {
        let text: String
        let first: String
        let last: String
        let count: UInt128
        var description: String?

        var testDescription: String { text }
    }

    @Test(arguments: [
        Readable(text: "10.0.0.7", first: "10.0.0.7", last: "10.0.0.7", count: 1),
        Readable(text: "10.0.0.7-10.0.0.7", first: "10.0.0.7", last: "10.0.0.7", count: 1),
        Readable(text: "10.20.0.10-10.20.0.250", first: "10.20.0.10", last: "10.20.0.250", count: 241),
        Readable(text: "10.0.0.255-10.0.1.0", first: "10.0.0.255", last: "10.0.1.0", count: 2),
        Readable(text: "0.0.0.0-255.255.255.255", first: "0.0.0.0", last: "255.255.255.255", count: 1 << 32),
        Readable(text: "10.0.0.0/8", first: "10.0.0.1", last: "10.255.255.254", count: (1 << 24) - 2),
        Readable(text: "10.0.0.0/30", first: "10.0.0.1", last: "10.0.0.2", count: 2),
        Readable(text: "10.0.0.0/31", first: "10.0.0.0", last: "10.0.0.1", count: 2),
        Readable(text: "10.0.0.3/32", first: "10.0.0.3", last: "10.0.0.3", count: 1),
        Readable(text: "0.0.0.0/0", first: "0.0.0.1", last: "255.255.255.254", count: (1 << 32) - 2),
        Readable(text: "255.255.255.252/30", first: "255.255.255.253", last: "255.255.255.254", count: 2),
        Readable(text: "2001:db8:20::/120", first: "2001:db8:20::1", last: "2001:db8:20::ff", count: 255),
        Readable(text: "2001:db8::/126", first: "2001:db8::1", last: "2001:db8::3", count: 3),
        Readable(text: "2001:db8::/127", first: "2001:db8::", last: "2001:db8::1", count: 2),
        Readable(text: "2001:db8::/128", first: "2001:db8::", last: "2001:db8::", count: 1),
        Readable(text: "::/0", first: "::1", last: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", count: .max),
        Readable(
            text: "2001:DB8:0::1-2001:db8::A", first: "2001:db8::1", last: "2001:db8::a", count: 10,
            description: "2001:db8::1-2001:db8::a"),
    ])
    func reads(_ row: Readable) throws {
        let range = try AddressRange(row.text)
        #expect(range.first.description == row.first)
        #expect(range.last.description == row.last)
        #expect(range.count == row.count)
        #expect(range[0] == range.first)
        #expect(range[range.count - 1] == range.last)
        #expect(range.description == row.description ?? row.text)
        #expect(try AddressRange(range.description) == range)
    }

    @Test(arguments: [
        ("", "'' is not an IP address"),
        ("10.0.0", "'10.0.0' is not an IP address"),
        ("10.0.0.1 - 10.0.0.2", "'10.0.0.1 ' is not an IP address"),
        ("10.0.0.1-", "'' is not an IP address"),
        ("-10.0.0.1", "'' is not an IP address"),
        ("10.0.0.1-10", "'10' is not an IP address"),
        ("10.0.0.1-10.0.0.2-10.0.0.3", "'10.0.0.2-10.0.0.3' is not an IP address"),
        ("10.0.0.0/24-10.0.1.0/24", "'10.0.0.0/24' is not an IP address"),
        ("10.0.0.9-10.0.0.1", "10.0.0.9 comes after 10.0.0.1"),
        ("10.0.0.1-::2", "10.0.0.1 is IPv4 and ::2 is IPv6"),
        ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "it holds all of IPv6"),
        ("10.0.0.1/24", "10.0.0.1 has bits set after the first 24"),
        ("10.0.0.1/31", "10.0.0.1 has bits set after the first 31"),
        ("0.0.0.1/0", "0.0.0.1 has bits set after the first 0"),
        ("2001:db8::1/64", "2001:db8::1 has bits set after the first 64"),
        ("10.0.0.0/33", "an IPv4 prefix has a length of 0 to 32 bits, not 33"),
        ("::/129", "an IPv6 prefix has a length of 0 to 128 bits, not 129"),
        ("10.0.0.0/", "'' is not a prefix length in bits"),
        ("10.0.0.0/+8", "'+8' is not a prefix length in bits"),
        ("10.0.0.0/08", "'08' is not a prefix length in bits"),
        ("10.0.0.0/8.0", "'8.0' is not a prefix length in bits"),
        ("10.0.0.0/٨", "'٨' is not a prefix length in bits"),
        ("10.0.0.0/255.0.0.0", "'255.0.0.0' is not a prefix length in bits"),
        ("10.0.0.0/99999999999999999999", "'99999999999999999999' is not a prefix length in bits"),
        ("/8", "'' is not an IP address"),
    ])
    func refuses(text: String, why: String) throws {
        let failure = try #require(throws: Failure.self) { try AddressRange(text) }
        #expect(failure.reason == why)
        #expect(failure.operation == "read address range '\(text)'")
        #expect(failure.code == .usage)
    }

    @Test func saysWhichPrefixWasMeant() throws {
        let failure = try #require(throws: Failure.self) { try AddressRange("10.1.2.3/16") }
        #expect(failure.hint == "write 10.1.0.0/16, or 10.1.2.3 for one address")
    }

    @Test(arguments: [
        ("10.0.0.1-10.0.0.5", "10.0.0.5-10.0.0.9", true),
        ("10.0.0.1-10.0.0.5", "10.0.0.6-10.0.0.9", false),
        ("10.0.0.1-10.0.0.9", "10.0.0.4", true),
        ("10.0.0.0/24", "10.0.0.0", false),  // the network's address is left out
        ("10.0.0.0/24", "10.0.0.255", false),
        ("10.0.0.0/24", "10.0.0.254", true),
        ("::10.0.0.1", "10.0.0.1", false),  // the same number in the other family
        ("2001:db8::/64", "2001:db8::/65", true),
        ("2001:db8::/64", "2001:db8::", false),
    ])
    func overlaps(a: String, b: String, expected: Bool) throws {
        let (a, b) = (try AddressRange(a), try AddressRange(b))
        #expect(a.overlaps(b) == expected)
        #expect(b.overlaps(a) == expected)
        #expect(a.overlaps(a))
    }

    @Test func containsWhatItCounts() throws {
        let range = try AddressRange("10.0.0.248/29")
        let listed = (0..<range.count).map { range[$0].description }
        #expect(listed == ["10.0.0.249", "10.0.0.250", "10.0.0.251", "10.0.0.252", "10.0.0.253", "10.0.0.254"])
        let members = (UInt32(0x0a00_00f7)...0x0a00_0100).filter { range.contains(IPAddress(v4: $0)) }
        #expect(members == Array(0x0a00_00f9...0x0a00_00fe))
        #expect(!range.contains(IPAddress(.v6, value: 0x0a00_00f9)))
    }

    @Test(
        arguments: [
            ("10.0.0.0/8", nil),
            ("0.0.0.1", nil),
            ("240.0.0.1-255.255.255.254", nil),
            ("2001:db8::/64", nil),
            ("::2-::ffff", nil),
            ("0.0.0.0", "the wildcard address 0.0.0.0"),
            ("::", "the wildcard address ::"),
            ("127.0.0.1", "loopback addresses (127.0.0.0/8)"),
            ("126.0.0.0-127.0.0.0", "loopback addresses (127.0.0.0/8)"),
            ("0.0.0.0/0", "loopback addresses (127.0.0.0/8)"),
            ("::1-::2", "the loopback address ::1"),
            ("239.255.255.255-240.0.0.1", "multicast addresses (224.0.0.0/4)"),
            ("fe80::1", "link-local addresses (fe80::/10)"),
            ("fe7f::-fe80::", "link-local addresses (fe80::/10)"),
            ("fe00::-fe7f:ffff::", nil),
            ("fec0::-ff00::", "multicast addresses (ff00::/8)"),
            ("240.0.0.0-255.255.255.255", "the broadcast address 255.255.255.255"),
            ("::ffff:10.0.0.1", "IPv4 addresses in IPv6 form (::ffff:0:0/96)"),
        ] as [(String, String?)])
    func knowsWhatNoSessionCanHave(text: String, why: String?) throws {
        #expect(try AddressRange(text).whyNotAssignable == why.map { "it holds \($0)" })
    }

    @Test(
        arguments: [
            ("10.0.0.0/24", ["10.0.0.0/24"]), ("10.0.0.7", ["10.0.0.7/32"]), ("2001:db8::/64", ["2001:db8::/64"]),
            ("10.0.0.0-10.0.0.255", ["10.0.0.0/24"]), ("10.0.0.255-10.0.1.0", ["10.0.0.255/32", "10.0.1.0/32"]),
            (
                "10.20.0.10-10.20.0.21",
                ["10.20.0.10/31", "10.20.0.12/30", "10.20.0.16/30", "10.20.0.20/31"]
            ),
            ("0.0.0.0-255.255.255.255", ["0.0.0.0/0"]), ("255.255.255.254-255.255.255.255", ["255.255.255.254/31"]),
            ("::1-::4", ["::1/128", "::2/127", "::4/128"]),
        ] as [(String, [String])])
    func prefixesHoldItsAddressesAndNoOther(text: String, prefixes: [String]) throws {
        #expect(try AddressRange(text).prefixes.map(\.description) == prefixes)
    }

    @Test func encodesAsText() throws {
        let ranges = try [AddressRange("10.0.0.1-10.0.0.9"), AddressRange("2001:db8::/64"), AddressRange("10.1.0.1")]
        let json = try JSONEncoder().encode(ranges.map(\.description))
        #expect(try JSONEncoder().encode(ranges) == json)
        #expect(try JSONDecoder().decode([AddressRange].self, from: json) == ranges)
        #expect(throws: DecodingError.self) {
            try JSONDecoder().decode([AddressRange].self, from: Data(#"["10.0.0.1/8"]"#.utf8))
        }
    }
}

@Suite struct AddressPrefixTests {
    @Test(arguments: ["0.0.0.0/0", "10.20.0.0/24", "10.20.0.7/32", "::/0", "2001:db8::/64", "2001:db8::7/128"])
    func readsWhatItWrites(text: String) throws {
        #expect(try #require(AddressPrefix(text)).description == text)
    }

    @Test(arguments: [
        "", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/24/8", "x/8", "2001:db8::1/64",
    ])
    func refuses(text: String) {
        #expect(AddressPrefix(text) == nil)
    }

    @Test(arguments: [
        ("10.0.0.0/8", "10.9.0.0/16", true, false), ("10.0.0.0/8", "10.0.0.0/8", true, true),
        ("10.0.0.0/8", "11.0.0.0/8", false, false), ("0.0.0.0/0", "10.0.0.0/8", true, false),
        ("::/0", "10.0.0.0/8", false, false), ("2001:db8::/32", "2001:db8:9::/48", true, false),
    ])
    func contains(one: String, other: String, contains: Bool, isContained: Bool) throws {
        let (one, other) = (try #require(AddressPrefix(one)), try #require(AddressPrefix(other)))
        #expect(one.contains(other) == contains && other.contains(one) == isContained)
        #expect(one.overlaps(other) == (contains || isContained) && other.overlaps(one) == (contains || isContained))
        #expect(one.contains(other.network) == contains)
    }

    @Test(arguments: [("10.0.0.0/24", "10.0.0.0/24"), ("10.0.0.7", "10.0.0.7/32"), ("2001:db8::7", "2001:db8::7/128")])
    func ofARange(range: String, prefix: String) throws {
        #expect(try AddressRange(range).prefix?.description == prefix)
        #expect(try AddressRange("10.0.0.0-10.0.0.255").prefix == nil)
    }
}
