// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// All cgroups of the host by their IDs, read once.
///
/// It needs no privilege, unlike ``CgroupAncestry``: the daemon has neither CAP_DAC_READ_SEARCH nor CAP_SYS_PTRACE.
struct CgroupTree {
    private struct Node {
        let path: FilePath
        let parent: UInt64?
    }
    private var nodes: [UInt64: Node] = [:]
    private let root: FilePath

    /// - Throws: ``Failure`` without cgroup v2.
    init() throws(Failure) {
        root = try MountTable.current().cgroup2Mount().mountPoint
        var open: [(path: FilePath, parent: UInt64?)] = [(root, nil)]
        while let (path, parent) = open.popLast() {
            var status = stat()
            guard path.withPlatformString({ lstat($0, &status) }) == 0 else { continue }  // removed meanwhile
            let id = UInt64(status.st_ino)
            nodes[id] = Node(path: path, parent: parent)
            for entry in (try? Directory.entries(of: path)) ?? [] where entry.isDirectory {
                open.append((path.appending(entry.component), id))
            }
        }
    }

    /// Whether a cgroup is one of several, or below one.
    func contains(_ id: UInt64, in cgroups: Set<UInt64>) -> Bool { nearest(to: id, in: cgroups) != nil }

    /// The one of several cgroups that a cgroup is, or that it is below; the lowest if there are several.
    func nearest(to id: UInt64, in cgroups: Set<UInt64>) -> UInt64? {
        var next: UInt64? = id
        while let one = next {
            if cgroups.contains(one) { return one }
            next = nodes[one]?.parent
        }
        return nil
    }

    /// From the root of the hierarchy, as in /proc/PID/cgroup: `/user.slice/…`.
    func name(of id: UInt64) -> String? {
        guard let path = nodes[id]?.path, path.starts(with: root) else { return nil }
        return "/" + path.components.dropFirst(root.components.count).map(\.string).joined(separator: "/")
    }
}
