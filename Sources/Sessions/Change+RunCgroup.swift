// SPDX-License-Identifier: Apache-2.0

package import Host

extension Change {
    /// Makes a cgroup for the sessions of one process, in the first attached cgroup. Its name identifies the process.
    package func makeRunCgroup(of keeper: ProcessIdentity, _ what: String) throws(Failure) -> Cgroup {
        guard let parent = try attachedCgroups().first else {
            throw Failure(
                .failed, what, "no cgroup is attached", hint: "attach one first: vip-bpfctl attach cgroup PATH")
        }
        return try parent.makeChild(named: "run-\(keeper.pid)-\(keeper.startTime)")
    }
}
