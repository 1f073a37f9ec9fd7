// SPDX-License-Identifier: Apache-2.0

import Host
import SystemPackage

/// Where cgroup v2 is mounted: at /sys/fs/cgroup, or beside the v1 hierarchies on a hybrid host.
package enum CgroupFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: "cgroup v2") { () throws(Failure) in
            let mounts = try MountTable.current()
            let place = try Cgroup.wholeHierarchy(mounts)
            guard mounts.mounts.contains(where: { $0.fsType == "cgroup" }) else {
                return [.good("cgroup v2", "at \(place)")]
            }
            return [.good("cgroup v2", "at \(place), beside cgroup v1: the paths to attach are below \(place)")]
        }
    }
}
