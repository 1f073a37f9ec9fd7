// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc
package import Host
import SystemPackage

/// Reports that interfaces, addresses or local IPv4 routes have changed, by the multicast groups of rtnetlink(7). It
/// does not report which: messages may be lost in a flood, so the caller lists them again.
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

    /// Reads the messages that have arrived. Returns whether one of them matters, or some were lost.
    package func drain() -> Bool {
        var buffer = [UInt8](repeating: 0, count: 32 << 10)
        var matters = false
        // As many as a receive buffer holds. If there are more, poll(2) returns at once.
        for _ in 0..<1024 {
            let count = recv(socket.raw, &buffer, buffer.count, 0)
            if count < 0, errno != ENOBUFS { break }
            matters = matters || count < 0 || buffer.prefix(count).withUnsafeBytes(Self.matters)
        }
        return matters
    }

    /// Whether messages are about more than routes to other hosts, which a router has very many of: NLMSG_OK() and
    /// NLMSG_NEXT() of netlink(3).
    static func matters(_ messages: UnsafeRawBufferPointer) -> Bool {
        var rest = messages[...]
        while rest.count >= MemoryLayout<nlmsghdr>.size {
            let message = UnsafeRawBufferPointer(rebasing: rest)
            let header = message.loadUnaligned(as: nlmsghdr.self)
            let length = Int(header.nlmsg_len)
            guard length >= MemoryLayout<nlmsghdr>.size, length <= message.count else { return true }
            let isRoute = [CInt(RTM_NEWROUTE), CInt(RTM_DELROUTE)].contains(CInt(header.nlmsg_type))
            guard isRoute, length >= MemoryLayout<nlmsghdr>.size + MemoryLayout<rtmsg>.size else { return true }
            let route = message.loadUnaligned(fromByteOffset: MemoryLayout<nlmsghdr>.size, as: rtmsg.self)
            if route.rtm_type == UInt8(RTN_LOCAL) { return true }
            let next = (length + Int(NLMSG_ALIGNTO) - 1) & ~(Int(NLMSG_ALIGNTO) - 1)
            rest = rest.dropFirst(next)
        }
        return false
    }
}
