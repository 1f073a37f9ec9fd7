// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Network
import SystemPackage

/// What the calling process can find out about its own session, without privilege.
public enum OwnSession {
    /// What the kernel gives this program for the wildcard address.
    public enum Answer: Sendable, Hashable {
        /// The session's virtual IP.
        case virtualIP(IPAddress)
        /// A loopback of a session, which the program sees as 127.0.0.1 or ::1. Which session's it is cannot be seen.
        case loopback
        /// An error: the program should have a virtual IP, and its session has none (`whenUnavailable: deny`).
        case refused
        /// The wildcard: the program is in no session, or no virtual IP applies to it.
        case unchanged

        /// Whether only programs in sessions get this.
        public var isOfSession: Bool { self != .unchanged }
    }

    /// Asks the kernel: bind(2) to the wildcard, then getsockname(2).
    ///
    /// With IP_BIND_ADDRESS_NO_PORT (ip(7)) the socket gets no port, and `wildcardName: asRequested` does not hide the
    /// address. An IPv6 socket is V6ONLY, because a dual-stack one has an IPv4 address.
    ///
    /// - Throws: ``Failure`` if no socket can be opened. On a kernel without the family, the result is
    ///   ``Answer/unchanged``.
    public static func ask(_ family: IPAddress.Family) throws(Failure) -> Answer {
        let what = "ask the kernel for the session's \(family.rawValue) address"
        let socket = Glibc.socket(
            family == .v4 ? AF_INET : AF_INET6, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else {
            if errno == EAFNOSUPPORT { return .unchanged }
            throw Failure(what, errno: Errno(rawValue: errno))
        }
        defer { close(socket) }
        var one: CInt = 1
        let size = socklen_t(MemoryLayout<CInt>.size)
        guard setsockopt(socket, CInt(IPPROTO_IP), IP_BIND_ADDRESS_NO_PORT, &one, size) == 0,
            family == .v4 || setsockopt(socket, CInt(IPPROTO_IPV6), IPV6_V6ONLY, &one, size) == 0
        else { throw Failure(what, errno: Errno(rawValue: errno)) }

        // The wildcard and port 0 are zeros in sockaddr_in and sockaddr_in6, ip(7) and ipv6(7).
        var name = sockaddr_storage()
        name.ss_family = sa_family_t(family == .v4 ? AF_INET : AF_INET6)
        var length = socklen_t(
            family == .v4 ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size)
        let error: CInt = withUnsafeMutablePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                guard Glibc.bind(socket, $0, length) == 0, getsockname(socket, $0, &length) == 0 else { return errno }
                return 0
            }
        }
        // The kernel itself never refuses the wildcard with this error, so a hook did.
        if error == EADDRNOTAVAIL { return .refused }
        guard error == 0 else { throw Failure(what, errno: Errno(rawValue: error)) }
        let place = family == .v4 ? 4..<8 : 8..<24
        let bytes = withUnsafeBytes(of: &name) { Array($0[place]) }
        guard let address = IPAddress(bytes: bytes), !address.isUnspecified else { return .unchanged }
        return address.isLoopback ? .loopback : .virtualIP(address)
    }

    /// The session's loopback of a family, if it applies to this program: a socket is bound to 127.0.0.1 or ::1, and
    /// the socket table has its true address. getsockname(2) would return the address that was asked for.
    ///
    /// - Returns: `nil` if this program has the host's loopback, or the kernel lacks the family.
    /// - Throws: ``Failure`` if no socket can be opened.
    public static func loopback(_ family: IPAddress.Family) throws(Failure) -> IPAddress? {
        let socket = Glibc.socket(
            family == .v4 ? AF_INET : AF_INET6, CInt(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else {
            if errno == EAFNOSUPPORT { return nil }
            throw Failure("ask the kernel for the session's \(family.rawValue) loopback", errno: .current)
        }
        defer { close(socket) }
        let localhost = family == .v4 ? IPAddress(v4: 0x7f00_0001) : IPAddress(.v6, value: 1)
        var status = stat()
        guard bind(socket, to: localhost) == 0, fstat(socket, &status) == 0,
            let bound = ProcNetTables.socket(inode: UInt64(status.st_ino), .udp, family)?.local.address
        else { return nil }
        return bound == localhost ? nil : bound
    }

    /// bind(2) to a port of the kernel's choice.
    private static func bind(_ socket: CInt, to address: IPAddress) -> CInt {
        if address.family == .v4 {
            var name = sockaddr_in()
            name.sin_family = sa_family_t(AF_INET)
            withUnsafeMutableBytes(of: &name.sin_addr) { $0.copyBytes(from: address.bytes) }
            return withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.bind(socket, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        }
        var name = sockaddr_in6()
        name.sin6_family = sa_family_t(AF_INET6)
        withUnsafeMutableBytes(of: &name.sin6_addr) { $0.copyBytes(from: address.bytes) }
        return withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.bind(socket, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
            }
        }
    }

    /// The session that the calling process is in, by a registry: that of its cgroup, or of one above.
    ///
    /// - Returns: `nil` if it is in none.
    /// - Throws: ``Failure`` if its cgroup is not known (in a cgroup namespace), or the registry cannot be read.
    public static func record(_ registry: Registry) throws(Failure) -> SessionRecord? {
        let mounts = try MountTable.current()
        let bootID = try BootID.current()
        var cgroup = try Cgroup(ofProcess: getpid(), mounts: mounts)
        while !cgroup.isRoot {
            if let record = try registry.session(cgroupID: cgroup.id, bootID: bootID) { return record }
            cgroup = try Cgroup(path: cgroup.path.removingLastComponent(), mounts: mounts)
        }
        return nil
    }
}
