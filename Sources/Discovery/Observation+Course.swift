// SPDX-License-Identifier: Apache-2.0

import Glibc
package import Host
package import Sessions
package import SystemPackage

extension Observation {
    /// The interval at which new addresses are looked for, in seconds.
    private static let addressInterval = 10.0

    /// The cgroups to observe: those named, or if there are none, those that are attached; without those below another
    /// of them.
    package static func cgroups(_ named: [FilePath], _ instance: Instance) throws(Failure) -> [Cgroup] {
        let mounts = try MountTable.current()
        var found: [Cgroup] = []
        if named.isEmpty {
            if FileStatus.exists(instance.state.registry) {
                for (path, id) in try instance.registry().attachments() where Cgroup.isThere(path, id: id) {
                    found.append(try Cgroup(path: path, mounts: mounts))
                }
            }
            guard !found.isEmpty else {
                throw Failure(
                    .failed, "observe the attached cgroups", "none is attached",
                    hint: "name one: vip-bpfctl discover --cgroup /sys/fs/cgroup/user.slice")
            }
        } else {
            for path in named { found.append(try Cgroup(path: path, mounts: mounts)) }
        }
        if let root = found.first(where: \.isRoot) {
            throw Failure(
                .failed, "observe cgroup \(root.path)",
                "it is the root, and observing would slow down every socket of the host",
                hint: "name cgroups below it: --cgroup \(root.path)/user.slice --cgroup \(root.path)/system.slice")
        }
        var topmost: [Cgroup] = []
        for candidate in found
        where !found.contains(where: { $0.contains(candidate) }) && !topmost.contains(candidate) {
            topmost.append(candidate)
        }
        return topmost
    }

    /// Waits until the time is over or a signal arrives.
    ///
    /// - Parameter seconds: `nil` to wait for a signal alone.
    package func wait(for seconds: Double?, _ signals: borrowing SignalReader) throws(Failure) {
        let end = seconds.map { ContinuousClock.now + .seconds($0) }
        var nextLook = ContinuousClock.now + .seconds(Self.addressInterval)
        while true {
            let now = ContinuousClock.now
            if let end, now >= end { return }
            if now >= nextLook {
                // Go on if this fails: the observation is worth more than the newest addresses.
                try? refreshAddresses()
                nextLook = now + .seconds(Self.addressInterval)
            }
            let left = min(nextLook, end ?? nextLook) - now
            var ready = [
                pollfd(fd: eventDescriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&ready, nfds_t(ready.count), left.pollTimeout) >= 0 || errno == EINTR else {
                throw Failure("wait for what is observed", errno: .current)
            }
            if signals.next() != nil { return }
            takeInNew()
        }
    }
}

extension Verdicts {
    /// The programs with their verdicts: first those that need something, by name.
    package func ranked(_ programs: [ObservedProgram]) -> [(program: ObservedProgram, verdict: Verdict)] {
        func text(_ path: [UInt8]?) -> String { path.map { String(decoding: $0, as: UTF8.self) } ?? "" }
        return programs.map { (program: $0, verdict: verdict(on: $0)) }.sorted { a, b in
            let ranks = (a.verdict.need == .neither ? 1 : 0, b.verdict.need == .neither ? 1 : 0)
            if ranks.0 != ranks.1 { return ranks.0 < ranks.1 }
            return (a.program.label, text(a.program.path)) < (b.program.label, text(b.program.path))
        }
    }
}
