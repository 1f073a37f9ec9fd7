// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import SystemPackage

/// Finds the cgroups above a cgroup by IDs alone. It reads no path, so renamed or doubly mounted cgroups are no
/// problem.
public struct CgroupAncestry: ~Copyable {
    private let mount: Descriptor
    private let device: dev_t
    /// The kernel limits the depth only by the path (PATH_MAX); real hierarchies are never this deep.
    private static let depthLimit = 256

    /// - Throws: ``Failure`` without cgroup v2.
    public init() throws(Failure) {
        let path = try MountTable.current().cgroup2Mount().mountPoint
        let what = "read the cgroups below \(path)"
        let raw: CInt
        do throws(Errno) { raw = try openFile(path, O_RDONLY | O_DIRECTORY) } catch {
            throw Failure(what, errno: error)
        }
        var status = stat()
        guard fstat(raw, &status) == 0 else {
            let error = Errno(rawValue: errno)
            close(raw)
            throw Failure(what, errno: error)
        }
        mount = Descriptor(owning: raw)
        device = status.st_dev
    }

    /// The IDs of a cgroup and of those above it, nearest first: open_by_handle_at(2).
    ///
    /// Empty if the cgroup was removed, and without CAP_DAC_READ_SEARCH.
    public func ids(from id: UInt64) -> [UInt64] {
        var found: [UInt64] = []
        var directory = vip_cgroup_open(mount.raw, id)
        while directory >= 0 {
            let owned = Descriptor(owning: directory)
            var status = stat()
            // Above the hierarchy's root is another file system; above the mount's own root, the same directory again.
            guard fstat(owned.raw, &status) == 0, status.st_dev == device, found.last != UInt64(status.st_ino),
                found.count < Self.depthLimit
            else { break }
            found.append(UInt64(status.st_ino))
            directory = openat(owned.raw, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        }
        return found
    }
}
