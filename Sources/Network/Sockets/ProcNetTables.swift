// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// The socket tables of /proc/net, proc_pid_net(5). They have no IPV6_V6ONLY, no cgroups, and no owner of an MPTCP
/// socket.
package enum ProcNetTables {
    /// The sockets of the calling thread's network namespace; `nil` if there is no table of TCP sockets.
    package static func sockets(connections: Bool) -> [InternetSocket]? {
        var found: [InternetSocket] = []
        for (name, transport, family) in [
            ("tcp", InternetSocket.Transport.tcp, IPAddress.Family.v4), ("tcp6", .tcp, .v6), ("udp", .udp, .v4),
            ("udp6", .udp, .v6),
        ] {
            guard let bytes = try? readWholeFile(FilePath("/proc/thread-self/net/\(name)")) else {
                if name == "tcp" { return nil }
                continue  // without IPv6 there is no such table
            }
            for line in bytes.split(separator: UInt8(ascii: "\n")).dropFirst() {
                guard let socket = socket(String(decoding: line, as: UTF8.self), transport, family) else { continue }
                if connections || [.listening, .closed].contains(socket.state) { found.append(socket) }
            }
        }
        return found
    }

    /// A socket of the calling thread's network namespace by its inode (fstat(2)); `nil` if the table does not have it.
    package static func socket(
        inode: UInt64, _ transport: InternetSocket.Transport, _ family: IPAddress.Family
    ) -> InternetSocket? {
        let name = "/proc/thread-self/net/\(transport.rawValue)\(family == .v4 ? "" : "6")"
        guard let bytes = try? readWholeFile(FilePath(name)) else { return nil }
        for line in bytes.split(separator: UInt8(ascii: "\n")).dropFirst() {
            if let found = socket(String(decoding: line, as: UTF8.self), transport, family), found.inode == inode {
                return found
            }
        }
        return nil
    }

    /// Reads a line: `  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20911 …`
    package static func socket(
        _ line: String, _ transport: InternetSocket.Transport, _ family: IPAddress.Family
    ) -> InternetSocket? {
        let fields = line.split(separator: " ")
        guard fields.count > 9, let local = endpoint(fields[1]), let remote = endpoint(fields[2]),
            let state = UInt8(fields[3], radix: 16), let user = UInt32(fields[7]), let inode = UInt64(fields[9])
        else { return nil }
        return InternetSocket(
            transport, family, InternetSocket.State(rawValue: state), local: local, remote: remote, user: user,
            inode: inode)
    }

    /// Reads an address, which is one or four 32-bit numbers as they stand in memory, and a port in host order.
    private static func endpoint(_ text: Substring) -> InternetSocket.Endpoint? {
        let parts = text.split(separator: ":")
        guard parts.count == 2, let port = UInt16(parts[1], radix: 16), [8, 32].contains(parts[0].count) else {
            return nil
        }
        var value = UInt128(0)
        var rest = parts[0]
        while !rest.isEmpty {
            guard let word = UInt32(rest.prefix(8), radix: 16) else { return nil }
            value = value << 32 | UInt128(UInt32(bigEndian: word))
            rest = rest.dropFirst(8)
        }
        if parts[0].count == 8 { return .init(IPAddress(.v4, value: value), port) }
        let address = IPAddress(.v6, value: value)
        return .init(address.isMapped ? IPAddress(v4: UInt32(truncatingIfNeeded: value)) : address, port)
    }
}
