// SPDX-License-Identifier: Apache-2.0

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
}
