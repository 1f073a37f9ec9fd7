// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network
import SystemPackage

/// The message that releases an address (RFC 2131, 4.4.6).
///
/// udhcpc sends this message only from the leased address, so only while that is on the interface and udhcpc runs. Here
/// it is sent from an address of the host: servers use `ciaddr` and the client identifier.
enum DHCPRelease {
    static func message(
        _ address: IPAddress, server: IPAddress, client: ClientIdentifier, hardware: [UInt8], transaction: UInt32
    ) -> [UInt8] {
        var bytes: [UInt8] = [1, 1, 6, 0]  // BOOTREQUEST, Ethernet, the length of its addresses, hops
        bytes += (0..<4).reversed().map { UInt8(truncatingIfNeeded: transaction >> UInt32($0 * 8)) }
        bytes += [0, 0, 0, 0]  // secs, flags
        bytes += address.bytes  // ciaddr
        bytes += [UInt8](repeating: 0, count: 12)  // yiaddr, siaddr, giaddr
        bytes += hardware.prefix(6) + [UInt8](repeating: 0, count: 16 - min(6, hardware.count))
        bytes += [UInt8](repeating: 0, count: 64 + 128)  // sname, file
        bytes += [99, 130, 83, 99]  // the magic cookie
        bytes += [53, 1, 7]  // DHCPRELEASE
        bytes += [54, 4] + server.bytes
        bytes += [61, UInt8(client.bytes.count)] + client.bytes
        bytes.append(255)
        // The minimum length of BOOTP, which some relays and servers require.
        return bytes + [UInt8](repeating: 0, count: max(0, 300 - bytes.count))
    }

    /// Sends the message once; there is no answer. If it is lost, the server keeps the address reserved until the lease
    /// expires.
    static func send(_ address: IPAddress, server: IPAddress, client: ClientIdentifier, interface: String)
        throws(Failure)
    {
        let what = "release \(address) to \(server)"
        let file = socket(AF_INET, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        guard file >= 0 else { throw Failure(what, errno: .current) }
        defer { close(file) }
        guard setsockopt(file, SOL_SOCKET, SO_BINDTODEVICE, interface, socklen_t(interface.utf8.count)) == 0 else {
            throw Failure(what, errno: .current)
        }
        let hardware = try Netlink().hardwareAddress(of: interface)
        let bytes = message(
            address, server: server, client: client, hardware: hardware, transaction: .random(in: .min ... .max))
        var to = sockaddr_in()
        to.sin_family = sa_family_t(AF_INET)
        to.sin_port = UInt16(67).bigEndian
        to.sin_addr.s_addr = (server.v4 ?? 0).bigEndian
        let sent = withUnsafePointer(to: &to) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(file, bytes, bytes.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard sent == bytes.count else { throw Failure(what, errno: .current) }
    }
}
