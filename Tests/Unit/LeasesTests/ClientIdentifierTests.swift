// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Leases

struct ClientIdentifierTests {
    private func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// The examples of FIPS 180-4, and one longer than a block.
    @Test func digestIsSHA256() {
        #expect(
            hex(SHA256.digest([])) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(
            hex(SHA256.digest(Array("abc".utf8))) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(
            hex(SHA256.digest(Array("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".utf8)))
                == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
        #expect(
            hex(SHA256.digest([UInt8](repeating: UInt8(ascii: "a"), count: 1000)))
                == "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3")
    }

    @Test func isHostSlotAndUser() {
        let client = ClientIdentifier(host: [1, 2, 3, 4, 5, 6, 7, 8], holder: LeaseHolder(user: "ann", slot: 258))
        #expect(client.description == "00" + "0102030405060708" + "00000102" + "616e6e")
    }

    @Test func noTwoHoldersShareOne() {
        let host: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
        let long = String(repeating: "x", count: 64)
        let names = [
            "", "a", "A", "a\u{0}", "\u{0}", "\u{0}a", "ü", long, long + "x", long + "y", "a b", "../x", "$(x)",
        ]
        let all = names.flatMap { name in
            [0, 1, .max].map { ClientIdentifier(host: host, holder: LeaseHolder(user: name, slot: $0)) }
        }
        #expect(Set(all).count == all.count)
        // An option has at most 255 bytes; so has a file's name, which is in hexadecimal with an ending.
        #expect(all.allSatisfy { $0.description.count + ".events.old".count <= 255 })
    }
}
