// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc
public import Host
public import SystemPackage

/// A network namespace: network_namespaces(7).
public struct NetworkNamespace: Sendable, Hashable {
    /// The inode of its file (namespaces(7)), which is unique as long as the namespace exists.
    public let inode: UInt64

    /// The file of the calling process's namespace, for open(2).
    public static let ownFile = FilePath("/proc/self/ns/net")

    /// The calling process's network namespace.
    ///
    /// - Throws: ``Failure`` if /proc cannot be read.
    public static func current() throws(Failure) -> NetworkNamespace {
        var status = stat()
        guard ownFile.withPlatformString({ stat($0, &status) }) == 0 else {
            throw Failure("read \(ownFile)", errno: .current, hint: "mount -t proc proc /proc")
        }
        return NetworkNamespace(inode: UInt64(status.st_ino))
    }

    /// Whether a network namespace exists: a process is in it, or its file is mounted. What only an open descriptor
    /// keeps alive is not found.
    public static func exists(inode: UInt64) -> Bool {
        let processes = (try? Directory.entries(of: "/proc")) ?? []
        for process in processes where process.name.first?.isNumber == true {
            var status = stat()
            let file = FilePath("/proc/\(process.name)/ns/net")
            if file.withPlatformString({ stat($0, &status) }) == 0, UInt64(status.st_ino) == inode { return true }
        }
        let mounts = (try? String(contentsOf: FilePath("/proc/self/mountinfo"))) ?? ""
        return mounts.contains("net:[\(inode)]")
    }

    /// The cookie of the calling process's: what SO_NETNS_COOKIE of socket(7) and bpf_get_netns_cookie() return. No
    /// other namespace has it until the next boot.
    ///
    /// - Throws: ``Failure`` on kernels before 5.14.
    public static func currentCookie() throws(Failure) -> UInt64 {
        let what = "read the network namespace's cookie"
        // Any socket has it. The units may not open one of AF_INET (RestrictAddressFamilies=).
        let raw = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { throw Failure(what, errno: .current) }
        let descriptor = Descriptor(owning: raw)
        let netnsCookie: CInt = 71  // SO_NETNS_COOKIE, include/uapi/asm-generic/socket.h
        var cookie: UInt64 = 0
        var size = socklen_t(MemoryLayout<UInt64>.size)
        guard getsockopt(descriptor.raw, SOL_SOCKET, netnsCookie, &cookie, &size) == 0 else {
            throw Failure(what, errno: .current)
        }
        return cookie
    }
}
