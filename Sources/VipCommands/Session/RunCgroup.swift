// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Sessions

extension ProcessIdentity {
    /// The identity of this process.
    static func own(_ what: String) throws(Failure) -> ProcessIdentity {
        guard let process = ProcessIdentity(pid: getpid()) else {
            throw Failure(.unavailable, what, "this process is not in /proc", hint: "mount -t proc proc /proc")
        }
        return process
    }
}

extension Change {
    /// Makes a cgroup for the sessions of one process, in the first attached cgroup. Its name identifies the process.
    func makeRunCgroup(of keeper: ProcessIdentity, _ what: String) throws(Failure) -> Cgroup {
        guard let parent = try attachedCgroups().first else {
            throw Failure(
                .failed, what, "no cgroup is attached", hint: "attach one first: vip-bpfctl attach cgroup PATH")
        }
        return try parent.makeChild(named: "run-\(keeper.pid)-\(keeper.startTime)")
    }
}
