// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Network

/// How the bytes of an ARP packet are read.
struct ARPPacketTests {
    /// A reply: 192.0.2.7 is at 02:00:00:00:00:07, to 192.0.2.1 at 02:00:00:00:00:01.
    private let reply: [UInt8] = [
        0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 7, 192, 0, 2, 7, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1,
    ]

    private func changed(_ offset: Int, _ bytes: UInt8...) -> [UInt8] {
        var packet = reply
        packet.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        return packet
    }

    @Test func isRead() throws {
        // Ethernet pads frames to 46 bytes after the header.
        for packet in [reply, reply + [UInt8](repeating: 0xff, count: 18)] {
            let read = try #require(ARPPacket(bytes: packet))
            #expect(read.hardwareAddress.description == "02:00:00:00:00:07")
            #expect(read.sender == IPAddress("192.0.2.7") && read.target == IPAddress("192.0.2.1"))
            #expect(!read.isRequest && read.probed == read.sender)
        }
    }

    @Test func truncatedIsNone() {
        for count in 0..<reply.count { #expect(ARPPacket(bytes: Array(reply[..<count])) == nil, "\(count) bytes") }
    }

    /// Other hardware, protocols, lengths and operations (RARP is 3 and 4) are not read.
    @Test func othersAreNone() {
        for packet in [
            changed(0, 0, 32), changed(2, 0x86, 0xdd), changed(4, 8), changed(4, 0), changed(5, 16), changed(5, 0),
            changed(6, 0, 0), changed(6, 0, 3), changed(6, 0xff, 0xff),
        ] {
            #expect(ARPPacket(bytes: packet) == nil, "\(packet)")
        }
        // IEEE 802 networks, which Linux treats like Ethernet.
        #expect(ARPPacket(bytes: changed(0, 0, 6)) != nil)
    }

    @Test func whatIsProbed() {
        // A host that asks for another address with a sender address uses the sender address.
        #expect(ARPPacket(bytes: changed(6, 0, 1))?.probed == IPAddress("192.0.2.7"))
        let probe: [UInt8] = Array(changed(6, 0, 1)[..<14]) + [0, 0, 0, 0] + reply[18...]
        #expect(ARPPacket(bytes: probe)?.probed == IPAddress("192.0.2.1"))
        // A reply without a sender address claims nothing.
        #expect(ARPPacket(bytes: changed(14, 0, 0, 0, 0))?.probed == nil)
    }

    @Test func hardwareAddress() {
        #expect(HardwareAddress(bytes: [0, 1, 0x0a, 0xbc, 0xff, 0x10])?.description == "00:01:0a:bc:ff:10")
        #expect(HardwareAddress(bytes: [1, 2, 3, 4, 5]) == nil && HardwareAddress(bytes: [UInt8](0..<20)) == nil)
    }
}
