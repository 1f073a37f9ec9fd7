// SPDX-License-Identifier: Apache-2.0

import BPFLoader
package import Glibc
package import Host
package import PolicyMaps
import SystemPackage

/// The place of a process in the cgroup hierarchy, and the attached cgroup above it.
package struct ProcessPlace {
    /// The process's cgroup and those above it, from the root down.
    package let ancestors: [Cgroup]
    /// The attached cgroup among them.
    package let attached: Cgroup?
    private let attachedElsewhere: [UInt64]

    package init(_ cgroup: Cgroup, _ mounts: MountTable, _ pins: PinDirectory) throws(Failure) {
        var ancestors = [cgroup]
        while let top = ancestors.last, !top.isRoot {
            ancestors.append(try Cgroup(path: top.path.removingLastComponent(), mounts: mounts))
        }
        self.ancestors = ancestors.reversed()
        let links = try pins.attachments().filter { $0.value.values.contains { $0.cgroupID != 0 } }
        attached = ancestors.first { links[$0.id] != nil }
        attachedElsewhere = links.keys.sorted()
    }

    /// Why a process there is in no session.
    package var whyNoSession: String {
        if let attached {
            return "it is below \(attached.path), which is attached, but neither its cgroup nor one above it is a "
                + "session's; open one: vip-bpfctl session open --cgroup PATH"
        }
        if attachedElsewhere.isEmpty { return "no cgroup is attached; vip-bpfctl attach cgroup PATH" }
        return "it is not below an attached cgroup; see vip-bpfctl status"
    }
}

/// Whether the process is in the network namespace of the sessions' addresses.
package enum NetworkPlace {
    /// What the reader must know if it is not.
    package static func note(of pid: pid_t) -> String? {
        var its = stat()
        var ours = stat()
        guard stat("/proc/\(pid)/ns/net", &its) == 0, stat("/proc/self/ns/net", &ours) == 0, its.st_ino != ours.st_ino
        else { return nil }
        return "the process is in another network namespace than this command: the addresses below may not exist there"
    }
}
