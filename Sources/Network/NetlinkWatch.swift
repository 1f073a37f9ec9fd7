// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc
package import Host
import SystemPackage

/// Reports that interfaces, addresses or IPv4 routes have changed, by the multicast groups of rtnetlink(7). It does not report
/// which: messages may be lost in a flood, so the caller lists them again.
package struct NetlinkWatch: ~Copyable {
    private let socket: Descriptor

    package var descriptor: CInt { socket.raw }

    package init() throws(Failure) {
        let what = "watch the host's addresses"
        let kind = CInt(SOCK_RAW.rawValue) | CInt(SOCK_CLOEXEC.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
        let raw = Glibc.socket(AF_NETLINK, kind, NETLINK_ROUTE)
        guard raw >= 0 else { throw Failure(what, errno: .current) }
        let opened = Descriptor(owning: raw)
        var address = sockaddr_nl()
        address.nl_family = sa_family_t(AF_NETLINK)
        address.nl_groups = UInt32(
            RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE)
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(raw, $0, socklen_t(MemoryLayout<sockaddr_nl>.size))
            }
        }
        guard result == 0 else { throw Failure(what, errno: .current) }
        socket = opened
    }

    /// Reads the messages that have arrived. Returns whether there was any, or whether some were lost.
    package func drain() -> Bool {
        var buffer = [UInt8](repeating: 0, count: 32 << 10)
        var hasCome = false
        // As many as a receive buffer holds. If there are more, poll(2) returns at once.
        for _ in 0..<1024 {
            let count = recv(socket.raw, &buffer, buffer.count, 0)
            if count < 0, errno != ENOBUFS { break }
            hasCome = true
        }
        return hasCome
    }
}
