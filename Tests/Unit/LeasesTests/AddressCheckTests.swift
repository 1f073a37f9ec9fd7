// SPDX-License-Identifier: Apache-2.0

import Network
import Testing

@testable import Leases

struct AddressCheckTests {
    private func number(_ text: String) -> UInt32 { IPAddress(text)!.v4! }

    private var placed: [InterfaceAddress] {
        [
            InterfaceAddress(interface: "lo", number: number("127.0.0.1"), length: 8),
            InterfaceAddress(interface: "eth0", number: number("10.1.0.5"), length: 16),
            InterfaceAddress(interface: "eth0", number: number("10.1.7.7"), length: 32),
            InterfaceAddress(interface: "eth1", number: number("10.1.9.1"), length: 24),
            InterfaceAddress(interface: "eth2", number: number("10.3.0.0"), length: 31),
            InterfaceAddress(interface: "eth3", number: number("10.4.0.1"), length: 32),
        ]
    }

    private func refusal(
        _ text: String, on interface: String = "eth0", held: String? = nil, before: String? = nil,
        _ check: AddressCheck = AddressCheck()
    ) -> String? {
        check.refusal(
            of: IPAddress(text)!, for: LeaseHolder(user: "ann"), interface: interface,
            held: held.flatMap { IPAddress($0) }, before: before.flatMap { IPAddress($0) }, placed: placed)
    }

    @Test func whatMayBeASessions() {
        #expect(refusal("10.1.0.6") == nil)
        #expect(refusal("10.1.255.254") == nil)
        // It is on the interface because this holder had it before.
        #expect(refusal("10.1.7.7", before: "10.1.7.7") == nil)
        // A prefix of 31 bits has neither a network nor a broadcast address (RFC 3021).
        #expect(refusal("10.3.0.1", on: "eth2") == nil)
    }

    @Test(arguments: [
        ("::1", "not an IPv4 address"), ("2001:db8::1", "not an IPv4 address"), ("0.0.0.0", "wildcard"),
        ("0.0.0.1", "0.0.0.0/8"), ("127.0.0.8", "loopback"), ("224.0.0.1", "multicast"), ("240.0.0.1", "reserved"),
        ("255.255.255.254", "reserved"), ("255.255.255.255", "broadcast address 255.255.255.255"),
        ("10.1.0.0", "network's own"), ("10.1.255.255", "broadcast"), ("10.1.9.255", "broadcast"),
        ("10.1.0.5", "own, on eth0"), ("10.1.9.1", "own, on eth1"), ("10.1.7.7", "eth0 has it already"),
        ("10.4.0.1", "eth3 has it already"), ("10.2.0.1", "in no network of eth0"), ("10.0.255.255", "in no network"),
    ])
    func whatMayNot(address: String, why: String) {
        #expect(refusal(address)?.contains(why) == true, "\(refusal(address) ?? "taken")")
    }

    /// An address of the host is refused, even if the holder had it before.
    @Test func hostsOwnStaysTheHosts() {
        #expect(refusal("10.1.0.5", before: "10.1.0.5")?.contains("own, on eth0") == true)
    }

    /// Without a prefix, the address cannot be checked, and is refused.
    @Test func interfaceWithoutAPrefix() throws {
        #expect(refusal("10.4.0.2", on: "eth3")?.contains("no IPv4 prefix") == true)
        let within = AddressCheck(networks: .within([try AddressRange("10.4.0.0/24")]))
        #expect(refusal("10.4.0.2", on: "eth3", within) == nil)
        #expect(refusal("10.5.0.2", on: "eth3", within)?.contains("outside the allowed networks") == true)
    }

    @Test func ownersAreAsked() {
        let check = AddressCheck(owner: { address, holder in
            address == IPAddress("10.1.0.6") && holder.user == "ann" ? "session 7" : nil
        })
        #expect(refusal("10.1.0.6", check) == "session 7 has it")
        #expect(refusal("10.1.0.6", before: "10.1.0.6", check) == "session 7 has it")
        #expect(refusal("10.1.0.6", held: "10.1.0.6", check) == nil)
        #expect(refusal("10.1.0.7", check) == nil)
    }

    /// RFC 2131, figure 1 and table 5.
    @Test func releaseMessage() {
        let client = ClientIdentifier(host: [1, 2, 3, 4, 5, 6, 7, 8], holder: LeaseHolder(user: "ann"))
        let bytes = DHCPRelease.message(
            IPAddress("10.1.0.6")!, server: IPAddress("10.1.0.1")!, client: client, hardware: [2, 0, 0, 0, 0, 9],
            transaction: 0x0102_0304)
        #expect(bytes.count == 300)
        #expect(bytes[0..<8] == [1, 1, 6, 0, 1, 2, 3, 4])
        #expect(bytes[12..<16] == [10, 1, 0, 6])
        #expect(bytes[16..<28].allSatisfy { $0 == 0 })
        #expect(bytes[28..<36] == [2, 0, 0, 0, 0, 9, 0, 0])
        #expect(bytes[236..<240] == [99, 130, 83, 99])
        #expect(bytes[240..<243] == [53, 1, 7])
        #expect(bytes[243..<249] == [54, 4, 10, 1, 0, 1])
        #expect(bytes[249..<251] == [61, 16])
        #expect(Array(bytes[251..<267]) == client.bytes)
        #expect(bytes[267] == 255)
    }
}
