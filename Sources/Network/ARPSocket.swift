// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import Host
import SystemPackage

/// An ARP packet (RFC 826), reduced to which host has which address.
struct ARPPacket: Hashable {
    /// The sender's hardware address, as the packet gives it.
    let hardwareAddress: HardwareAddress
    /// `0.0.0.0` in a probe.
    let sender: IPAddress
    let target: IPAddress
    let isRequest: Bool

    init(_ packet: vip_arp) {
        hardwareAddress = HardwareAddress(value: packet.hardware)
        sender = IPAddress(v4: packet.sender)
        target = IPAddress(v4: packet.target)
        isRequest = packet.operation == UInt16(VIP_ARP_REQUEST)
    }

    /// Reads a packet without its link-layer header; `nil` if it is not ARP for IPv4 on Ethernet.
    init?(bytes: [UInt8]) {
        var packet = vip_arp()
        guard vip_arp_parse(bytes, bytes.count, &packet) == 1 else { return nil }
        self.init(packet)
    }

    /// The address that the sender uses, or that it probes before it uses it (RFC 5227, section 2.1.1); `nil` for a
    /// reply without a sender address.
    var probed: IPAddress? {
        guard sender.isUnspecified else { return sender }
        return isRequest ? target : nil
    }
}

/// A packet(7) socket that receives ARP of one Ethernet interface, and sends ARP and neighbour advertisements there.
final class ARPSocket {
    let interface: String
    /// The interface's index.
    let index: CInt
    /// The interface's hardware address.
    let hardwareAddress: HardwareAddress
    private let socket: Descriptor

    var descriptor: CInt { socket.raw }

    /// - Throws: an Errno: EPERM without CAP_NET_RAW, ENODEV if the interface no longer exists.
    init(on interface: String, index: CInt, hardwareAddress: HardwareAddress) throws(Errno) {
        self.interface = interface
        self.index = index
        self.hardwareAddress = hardwareAddress
        socket = Descriptor(owning: try Self.checked(vip_arp_open(index)))
    }

    func isOn(_ interface: String, _ index: CInt, _ hardwareAddress: HardwareAddress) -> Bool {
        self.interface == interface && self.index == index && self.hardwareAddress == hardwareAddress
    }

    /// Sends an ARP probe for an IPv4 address, which has no sender address: RFC 5227, section 2.1.1.
    func probe(_ address: IPAddress) throws(Errno) {
        try request(sender: 0, target: address)
    }

    /// Announces that this host has an address: by an ARP announcement (RFC 5227, section 2.3) or an unsolicited
    /// neighbour advertisement (RFC 4861, section 7.2.6).
    func announce(_ address: IPAddress) throws(Errno) {
        if let number = address.v4 { return try request(sender: number, target: address) }
        _ = try Self.checked(vip_advertise(descriptor, index, hardwareAddress.value, address.bytes))
    }

    /// Reads the packets that have arrived, at most 1024, so that a flood does not keep the caller here. It skips
    /// packets for other hosts and malformed ones.
    ///
    /// - Throws: an Errno: ENETDOWN, once, if the interface was set down or removed.
    func drain() throws(Errno) -> [ARPPacket] {
        var packets: [ARPPacket] = []
        for _ in 0..<1024 {
            var packet = vip_arp()
            let result = vip_arp_read(descriptor, &packet)
            if result == -EAGAIN { break }
            if try Self.checked(result) == 1 { packets.append(ARPPacket(packet)) }
        }
        return packets
    }

    private func request(sender: UInt32, target: IPAddress) throws(Errno) {
        guard let number = target.v4 else { throw .addressFamilyNotSupported }
        _ = try Self.checked(vip_arp_request(descriptor, index, hardwareAddress.value, sender, number))
    }

    /// Returns the result of a function, or throws if it is a negative errno.
    private static func checked(_ result: CInt) throws(Errno) -> CInt {
        guard result >= 0 else { throw Errno(rawValue: -result) }
        return result
    }
}
