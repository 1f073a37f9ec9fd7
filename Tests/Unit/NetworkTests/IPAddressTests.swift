// SPDX-License-Identifier: Apache-2.0

import Foundation
import Network
import Testing

@Suite struct IPAddressTests {
    @Test(
        arguments: [
            ("0.0.0.0", "0.0.0.0", [0, 0, 0, 0]),
            ("127.0.0.8", "127.0.0.8", [127, 0, 0, 8]),
            ("255.255.255.255", "255.255.255.255", [255, 255, 255, 255]),
            ("::", "::", [UInt8](repeating: 0, count: 16)),
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1", [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]),
        ] as [(String, String, [UInt8])])
    func readsAndWrites(text: String, canonical: String, bytes: [UInt8]) throws {
        let address = try #require(IPAddress(text))
        #expect(address.description == canonical)
        #expect(address.bytes == bytes)
        #expect(IPAddress(bytes: bytes) == address)
    }

    @Test(arguments: [
        "", " ", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4/32", "0x7f.1",
        ":", ":::", "1::2::3", "fe80::1%lo", "[::1]", "::g", "1:2:3:4:5:6:7:8:9", "1.2.3.4\u{0}", "localhost",
        "１.2.3.4",
    ])
    func refusesAllElse(text: String) {
        #expect(IPAddress(text) == nil)
    }

    @Test(arguments: [0, 1, 3, 5, 15, 17])
    func needsFourOrSixteenBytes(count: Int) {
        #expect(IPAddress(bytes: [UInt8](repeating: 1, count: count)) == nil)
    }

    @Test func keepsIPv4NumbersInHostOrder() throws {
        let address = IPAddress(v4: 0x7f00_0008)
        #expect(address.description == "127.0.0.8")
        #expect(address.v4 == 0x7f00_0008)
        #expect(try #require(IPAddress("::1")).v4 == nil)
    }

    @Test func mapsIPv4() throws {
        let mapped = try #require(IPAddress("::ffff:10.20.0.17"))
        #expect(try #require(IPAddress("10.20.0.17")).mappedBytes == mapped.bytes)
        #expect(mapped.mappedBytes == mapped.bytes)
    }

    @Test(arguments: [
        // address, loopback, unspecified, multicast
        ("126.255.255.255", false, false, false),
        ("127.0.0.0", true, false, false),
        ("127.255.255.255", true, false, false),
        ("128.0.0.0", false, false, false),
        ("0.0.0.0", false, true, false),
        ("0.0.0.1", false, false, false),
        ("223.255.255.255", false, false, false),
        ("224.0.0.0", false, false, true),
        ("239.255.255.255", false, false, true),
        ("240.0.0.0", false, false, false),
        ("::", false, true, false),
        ("::1", true, false, false),
        ("::2", false, false, false),
        ("::ffff:127.0.0.1", false, false, false),
        ("feff::1", false, false, false),
        ("ff00::", false, false, true),
        ("ff02::1", false, false, true),
    ])
    func knowsItsKind(text: String, loopback: Bool, unspecified: Bool, multicast: Bool) throws {
        let address = try #require(IPAddress(text))
        #expect(address.isLoopback == loopback)
        #expect(address.isUnspecified == unspecified)
        #expect(address.isMulticast == multicast)
    }

    @Test func sortsByFamilyThenNumber() throws {
        let sorted = try ["0.0.0.0", "9.0.0.0", "10.0.0.0", "255.0.0.0", "::", "::1", "ff00::"].map {
            try #require(IPAddress($0))
        }
        #expect(sorted.reversed().sorted() == sorted)
    }

    @Test func encodesAsText() throws {
        let addresses = try ["10.0.0.1", "2001:db8::1"].map { try #require(IPAddress($0)) }
        let json = try JSONEncoder().encode(addresses)
        #expect(String(decoding: json, as: UTF8.self) == #"["10.0.0.1","2001:db8::1"]"#)
        #expect(try JSONDecoder().decode([IPAddress].self, from: json) == addresses)
        #expect(throws: DecodingError.self) {
            try JSONDecoder().decode([IPAddress].self, from: Data(#"["10.0.0"]"#.utf8))
        }
    }
}
