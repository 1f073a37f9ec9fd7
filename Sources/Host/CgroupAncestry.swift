// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import SystemPackage

/// Which cgroups a cgroup is in, by IDs alone: no path is read, so nothing can be mistaken that is renamed or mounted twice.
public struct CgroupAncestry: ~Copyable {
    private let mount: Descriptor
    private let device: dev_t
    /// The kernel's limit of the depth of cgroup directories is by their paths (PATH_MAX); real hierarchies are never this deep.
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

    /// The IDs of the cgroups above one, nearest first, the cgroup itself the first of all: open_by_handle_at(2).
    ///
    /// Empty for one that has been removed, and without CAP_DAC_READ_SEARCH.
    public func ids(from id: UInt64) -> [UInt64] {
        var found: [UInt64] = []
        var directory = vip_cgroup_open(mount.raw, id)
        while directory >= 0 {
            let owned = Descriptor(owning: directory)
            var status = stat()
            // Above the hierarchy's root there is another file system; at the mount's own root it goes no further.
            guard fstat(owned.raw, &status) == 0, status.st_dev == device, found.last != UInt64(status.st_ino),
                found.count < Self.depthLimit
            else { break }
            found.append(UInt64(status.st_ino))
            directory = openat(owned.raw, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        }
        return found
    }
}
