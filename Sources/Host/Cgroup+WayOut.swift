// SPDX-License-Identifier: Apache-2.0

public import Glibc
public import SystemPackage

extension Cgroup {
    /// A cgroup through which others than root can move their processes out of one below it.
    public struct WayOut: Sendable, Hashable {
        /// Its `cgroup.procs`.
        public let file: FilePath
        /// The user who owns it; `nil` if its mode lets other users write to it.
        public let user: uid_t?
    }

    /// Through which of the cgroups above this one others than root can move processes out of it, nearest first.
    ///
    /// The kernel asks for the right to write to `cgroup.procs` of the nearest cgroup that is above the old and the new
    /// one (cgroup_procs_write_permission() of kernel/cgroup/cgroup.c). A user who may only make cgroups there cannot
    /// move processes.
    public func waysOut() -> [WayOut] {
        var found: [WayOut] = []
        var place = path
        for _ in 0..<level {
            place.removeLastComponent()
            let file = place.appending("cgroup.procs")
            var status = stat()
            guard file.withPlatformString({ lstat($0, &status) }) == 0 else { continue }
            if status.st_uid != 0 {
                found.append(WayOut(file: file, user: status.st_uid))
            } else if status.st_mode & 0o022 != 0 {
                found.append(WayOut(file: file, user: nil))
            }
        }
        return found
    }
}
